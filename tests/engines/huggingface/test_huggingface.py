"""The engine says of many pictures at once what the model says of each alone.

Models are small and of random weights, one of each family; what is right is what transformers' own `generate` gives for
one picture and one prompt.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
import torch
from PIL import Image
from support.huggingface_runs import PROMPTS, SHORT, draw_pictures, engine_of, mixed_sizes, run_engine
from support.huggingface_runs import one_thread as one_thread  # a fixture
from transformers import AutoModelForImageTextToText, AutoProcessor

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Settings
from omnicap_cli.engines.huggingface import prefill

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "llava")
QWEN = FAMILIES[:3]


class Alone:
    """transformers' own `generate`, for one picture and one prompt."""

    def __init__(self, folder):
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def inputs(self, path, prompt, **kwargs):
        content = [{"type": "image", "image": Image.open(path).convert("RGB")}, {"type": "text", "text": prompt.user}]
        system = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []
        return self.processor.apply_chat_template(
            [*system, {"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            **kwargs,
        )

    @torch.inference_mode()
    def answer(self, path, prompt, max_new_tokens=8, **kwargs):
        """The text, the tokens of the prompt, and how many tokens were made before an end mark."""
        inputs = self.inputs(path, prompt)
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **kwargs)
        new = ids[0, inputs["input_ids"].shape[1] :].tolist()
        ends = self.model.generation_config.eos_token_id
        num_tokens = next((n for n, token in enumerate(new) if token in ends), len(new))
        return self.processor.tokenizer.decode(new, skip_special_tokens=True), inputs["input_ids"][0], num_tokens


# --- the same as one at a time


@pytest.mark.parametrize("max_tokens", [8192, 700, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_many_at_once_is_as_one_at_a_time(tiny_model, tmp_path, monkeypatch, family, max_tokens):
    """However many passes their prompts are read in."""
    monkeypatch.setattr(prefill, "_MAX_TOKENS", max_tokens)
    model = tiny_model(family)
    folder = draw_pictures(tmp_path / "in", mixed_sizes(10, seed=3))
    found, alone = run_engine(engine_of(model, max_new_tokens=12), folder), Alone(model)
    assert len({result.text for result in found.values()}) > 20  # of 30: the pictures and the prompts matter
    for (name, style), result in found.items():
        prompt = next(each for each in PROMPTS if each.style == style)
        text, prompt_ids, num_tokens = alone.answer(folder / name, prompt, 12)
        assert (result.text, result.output_tokens) == (text, num_tokens)
        assert result.finish_reason == ("stop" if num_tokens < 12 else "length")
        assert result.prompt_tokens + result.image_tokens == len(prompt_ids)


def test_two_hundred_mixed_pictures_are_as_one_at_a_time(tiny_model, tmp_path):
    model = tiny_model("qwen2_vl")
    folder = draw_pictures(tmp_path / "in", mixed_sizes(200))
    found, alone = run_engine(engine_of(model), folder, [SHORT]), Alone(model)
    expected = {name: alone.answer(folder / name, SHORT)[0] for name, _ in found}
    assert len(expected) == 200
    assert len(set(expected.values())) > 150
    assert {name: result.text for (name, _), result in found.items()} == expected


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_batch_size_changes_nothing(tiny_model, tmp_path, batch_size):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(5))
    whole = run_engine(engine_of(tiny_model("qwen2_5_vl")), folder)
    batches = []

    def watch(captioner):
        real = captioner.answer
        captioner.answer = lambda asked, take: (batches.append(len(asked)), real(asked, take))

    small = run_engine(engine_of(tiny_model("qwen2_5_vl"), batch_size=batch_size), folder, on_captioner=watch)
    assert {name: result.text for name, result in small.items()} == {n: result.text for n, result in whole.items()}
    assert max(batches) <= batch_size
    assert sum(batches) == 15


@pytest.mark.parametrize("penalty", [1.3])
def test_a_repetition_penalty_is_that_of_transformers(tiny_model, tmp_path, penalty):
    """It sees the prompt's own tokens, and not what pads it to the longest of the batch."""
    folder = draw_pictures(tmp_path / "in", mixed_sizes(4, seed=5))
    found = run_engine(engine_of(tiny_model("qwen2_vl"), repetition_penalty=penalty, max_new_tokens=16), folder)
    plain = run_engine(engine_of(tiny_model("qwen2_vl"), max_new_tokens=16), folder)
    alone = Alone(tiny_model("qwen2_vl"))
    for (name, style), result in found.items():
        prompt = next(each for each in PROMPTS if each.style == style)
        assert result.text == alone.answer(folder / name, prompt, 16, repetition_penalty=penalty)[0]
    assert any(found[name].text != plain[name].text for name in found)


def test_sampling_settings_of_the_model_stay_out(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    path = model / "generation_config.json"
    settings = {"do_sample": True, "temperature": 1.5, "top_p": 0.3, "repetition_penalty": 1.8}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    folder = draw_pictures(tmp_path / "in", mixed_sizes(3))
    ours, plain = run_engine(engine_of(model), folder), run_engine(engine_of(tiny_model("qwen2_vl")), folder)
    assert {name: result.text for name, result in ours.items()} == {name: each.text for name, each in plain.items()}


# --- each picture once


@pytest.mark.parametrize("family", QWEN)
def test_each_picture_is_encoded_once_for_all_its_prompts(tiny_model, tmp_path, family):
    sizes = [(140, 84), (200, 112), (64, 64)]
    folder = draw_pictures(tmp_path / "in", sizes)
    prompts = Catalogue.load().select("aigc", ["all"], "all")
    assert len(prompts) == 8
    num_patches, num_decoded = [], Counter()

    def watch(captioner):
        visual = captioner._model.base_model.visual
        visual.register_forward_pre_hook(lambda _, args: num_patches.append(len(args[0])))
        real = captioner.prepare
        captioner.prepare = lambda image, settings: (num_decoded.update([image.size]), real(image, settings))[1]

    run_engine(engine_of(tiny_model(family)), folder, prompts, on_captioner=watch)
    processor = AutoProcessor.from_pretrained(tiny_model(family)).image_processor
    assert sum(num_patches) == sum(processor.get_number_of_image_patches(height, width, {}) for width, height in sizes)
    assert num_decoded == Counter(sizes)


# --- pixels


def test_pixel_limits_are_those_asked_for(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", [(280, 140)])
    limits = Settings(max_pixels=112 * 56)
    [result] = run_engine(engine_of(tiny_model("qwen2_vl")), folder, [SHORT], limits).values()
    assert result.image_tokens == 4 * 2  # 112 x 56 pixels in squares of 28
    assert (result.width, result.height) == (280, 140)


def test_the_pixel_limits_of_the_model_count(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    for path in (model / "processor_config.json", model / "preprocessor_config.json"):
        if path.exists():
            config = json.loads(path.read_text())
            part = config.get("image_processor", config)
            part["size"] = {"shortest_edge": 28 * 28, "longest_edge": 6 * 28 * 28}
            path.write_text(json.dumps(config))
    folder = draw_pictures(tmp_path / "in", [(280, 140)])
    [result] = run_engine(engine_of(model), folder, [SHORT]).values()
    assert result.image_tokens == 3  # 3 x 1 squares: the most of this shape that isn't more than 6


# --- types chosen by the model


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "idefics3"])
def test_the_model_chooses_the_type_by_the_probability_of_its_name(tiny_model, tmp_path, monkeypatch, family):
    model = tiny_model(family)
    monkeypatch.setattr(prefill, "_MAX_TOKENS", 1500)
    folder = draw_pictures(tmp_path / "in", mixed_sizes(4, seed=8))
    prompt = Catalogue.load().automatic([], "en")
    found, alone = run_engine(engine_of(model), folder, [prompt]), Alone(model)
    for (name, _), result in found.items():
        inputs = alone.inputs(folder / name, prompt)
        scores = [log_probability(alone, inputs, choice.type) for choice in prompt.choices]
        shares = torch.tensor(scores).softmax(dim=0)
        best = int(shares.argmax())
        assert result.prompt == prompt.choices[best]
        assert result.type_score == pytest.approx(float(shares[best]), abs=1e-4)
        assert result.text == alone.answer(folder / name, prompt.choices[best])[0]
    assert len({result.prompt.type for result in found.values()}) >= 1


@torch.inference_mode()
def log_probability(alone, inputs, name):
    """Of the name's tokens after the prompt, in one pass over both."""
    tokens = alone.processor.tokenizer(name, add_special_tokens=False)["input_ids"]
    length = inputs["input_ids"].shape[1]
    more = {"input_ids": torch.cat([inputs["input_ids"], torch.tensor([tokens])], dim=1)}
    for key in ("attention_mask", "mm_token_type_ids"):
        if key in inputs:
            more[key] = torch.nn.functional.pad(inputs[key], (0, len(tokens)), value=int(key == "attention_mask"))
    logits = alone.model(**{**inputs, **more}).logits[0].log_softmax(dim=-1)
    return sum(float(logits[length - 1 + place, token]) for place, token in enumerate(tokens))
