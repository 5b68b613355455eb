"""The engine says of many pictures at once what the model says of each alone, and survives what goes wrong.

Models are small and of random weights, one of each family; what is right is what transformers' own `generate` gives for
one picture and one prompt.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import random
import shutil
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from omnicap_cli.core.models.machine import Gpu, Machine
from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Idle, Prompt, Result, Settings
from omnicap_cli.core.workers.pool_child import Assignment
from omnicap_cli.engines.generation import Generation
from omnicap_cli.engines.huggingface import decoding, prefill, replicas
from omnicap_cli.engines.huggingface import engine as engine_module
from omnicap_cli.engines.registry import DeviceOptions, EngineOptions, create_engine
from omnicap_cli.errors import EngineError, OptionError
from omnicap_cli.media.sources import Sources

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "llava")
QWEN = FAMILIES[:3]
SHORT = Prompt(type="natural", style="short", lang="en", system="You are brief.", user="What is it?")
LONG = Prompt(
    type="natural",
    style="detailed",
    lang="en",
    system="You are a careful assistant who describes pictures completely. " * 3,
    user="Describe the image in detail: its subject, the colours, and how things are arranged.",
)
BARE = Prompt(type="natural", style="tag", lang="zh", system="", user="标签？")
PROMPTS = [SHORT, LONG, BARE]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are fastest so, and another number of threads adds up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(folder, sizes, seed=0):
    """Pictures of random smooth colours, in the order of `sizes`, each (width, height)."""
    folder.mkdir(exist_ok=True)
    dice = np.random.default_rng(seed)
    for number, (width, height) in enumerate(sizes):
        coarse = dice.integers(0, 255, (max(1, height // 9), max(1, width // 9), 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{number:04}.png")
    return folder


def mixed_sizes(count, low=20, high=260, seed=0):
    dice = random.Random(seed)
    return [(dice.randint(low, high), dice.randint(low, high)) for _ in range(count)]


def engine_of(model, *, batch_size=None, workers=None, **generation):
    options = EngineOptions(
        model=str(model),
        devices=DeviceOptions(device="cpu"),
        batch_size=batch_size,
        workers=workers,
        generation=Generation(**{"max_new_tokens": 8} | generation),
    )
    return create_engine("huggingface", options)


def requests_of(engine, folder, prompts=PROMPTS, settings=None):
    plan = RequestPlan(prompts=prompts, engine=engine.identity, settings=settings or Settings())
    for item in Sources(inputs=(str(folder),)):
        group = plan.requests_of(item)
        last = len(group) - 1
        yield from (replace(each, num_following=last - place) for place, each in enumerate(group))


def run(engine, folder, prompts=PROMPTS, settings=None, on_captioner=None):
    """(name of the picture, style) -> Result; each request exactly once."""
    requests = list(requests_of(engine, folder, prompts, settings))
    if on_captioner:
        engine.warm_up()
        on_captioner(engine._loading.result()[0])
    with contextlib.closing(engine):
        results = list(engine.run(iter(requests), threading.Event()))
    assert Counter(result.key for result in results) == Counter(request.key for request in requests)
    names = {request.key: (Path(request.item.id).name, request.prompt.style) for request in requests}
    return {names[result.key]: result for result in results}


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
    folder = draw(tmp_path / "in", mixed_sizes(10, seed=3))
    found, alone = run(engine_of(model, max_new_tokens=12), folder), Alone(model)
    assert len({result.text for result in found.values()}) > 20  # of 30: the pictures and the prompts matter
    for (name, style), result in found.items():
        prompt = next(each for each in PROMPTS if each.style == style)
        text, prompt_ids, num_tokens = alone.answer(folder / name, prompt, 12)
        assert (result.text, result.output_tokens) == (text, num_tokens)
        assert result.finish_reason == ("stop" if num_tokens < 12 else "length")
        assert result.prompt_tokens + result.image_tokens == len(prompt_ids)


def test_two_hundred_mixed_pictures_are_as_one_at_a_time(tiny_model, tmp_path):
    model = tiny_model("qwen2_vl")
    folder = draw(tmp_path / "in", mixed_sizes(200))
    found, alone = run(engine_of(model), folder, [SHORT]), Alone(model)
    expected = {name: alone.answer(folder / name, SHORT)[0] for name, _ in found}
    assert len(expected) == 200
    assert len(set(expected.values())) > 150
    assert {name: result.text for (name, _), result in found.items()} == expected


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_batch_size_changes_nothing(tiny_model, tmp_path, batch_size):
    folder = draw(tmp_path / "in", mixed_sizes(5))
    whole = run(engine_of(tiny_model("qwen2_5_vl")), folder)
    batches = []

    def watch(captioner):
        real = captioner.answer
        captioner.answer = lambda asked, take: (batches.append(len(asked)), real(asked, take))

    small = run(engine_of(tiny_model("qwen2_5_vl"), batch_size=batch_size), folder, on_captioner=watch)
    assert {name: result.text for name, result in small.items()} == {n: result.text for n, result in whole.items()}
    assert max(batches) <= batch_size
    assert sum(batches) == 15


@pytest.mark.parametrize("penalty", [1.3])
def test_a_repetition_penalty_is_that_of_transformers(tiny_model, tmp_path, penalty):
    """It sees the prompt's own tokens, and not what pads it to the longest of the batch."""
    folder = draw(tmp_path / "in", mixed_sizes(4, seed=5))
    found = run(engine_of(tiny_model("qwen2_vl"), repetition_penalty=penalty, max_new_tokens=16), folder)
    plain = run(engine_of(tiny_model("qwen2_vl"), max_new_tokens=16), folder)
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
    folder = draw(tmp_path / "in", mixed_sizes(3))
    ours, plain = run(engine_of(model), folder), run(engine_of(tiny_model("qwen2_vl")), folder)
    assert {name: result.text for name, result in ours.items()} == {name: each.text for name, each in plain.items()}


# --- each picture once


@pytest.mark.parametrize("family", QWEN)
def test_each_picture_is_encoded_once_for_all_its_prompts(tiny_model, tmp_path, family):
    sizes = [(140, 84), (200, 112), (64, 64)]
    folder = draw(tmp_path / "in", sizes)
    prompts = Catalogue.load().select("aigc", ["all"], "all")
    assert len(prompts) == 8
    num_patches, num_decoded = [], Counter()

    def watch(captioner):
        visual = captioner._model.base_model.visual
        visual.register_forward_pre_hook(lambda _, args: num_patches.append(len(args[0])))
        real = captioner.prepare
        captioner.prepare = lambda image, settings: (num_decoded.update([image.size]), real(image, settings))[1]

    run(engine_of(tiny_model(family)), folder, prompts, on_captioner=watch)
    processor = AutoProcessor.from_pretrained(tiny_model(family)).image_processor
    assert sum(num_patches) == sum(processor.get_number_of_image_patches(height, width, {}) for width, height in sizes)
    assert num_decoded == Counter(sizes)


# --- what goes wrong


def out_of_memory_beyond(num_rows, captioner):
    """What a device without room for more would do."""
    real, seen = captioner.answer, []

    def answer(asked, take):
        seen.append(len(asked))
        if len(asked) > num_rows:
            real(asked[: num_rows // 2], take)  # some were done before it happened
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        real(asked, take)

    captioner.answer, captioner.seen = answer, seen


def test_out_of_memory_halves_the_batch_and_loses_nothing(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", mixed_sizes(12))
    whole = run(engine_of(tiny_model("qwen2_vl")), folder)
    seen = []

    def watch(captioner):
        out_of_memory_beyond(5, captioner)
        seen.append(captioner.seen)

    small = run(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)
    assert {name: each.text for name, each in small.items()} == {name: each.text for name, each in whole.items()}
    assert max(seen[0]) > 5 >= min(seen[0])


def test_a_request_that_never_fits_fails_alone(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", [(100, 100), (250, 250), (90, 120)])

    def watch(captioner):
        real = captioner.answer

        def answer(asked, take):
            if any(each.visuals[0].width == 250 for each in asked):
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            real(asked, take)

        captioner.answer = answer

    found = run(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)
    for (name, _), result in found.items():
        if name == "0001.png":
            assert result.error.kind == "OutOfMemoryError"
            assert "81 tokens of the picture" in result.error.message  # 252 x 252 pixels in squares of 28
            assert "--max-pixels" in result.error.message
        else:
            assert result.error is None


def test_what_the_model_chokes_on_fails_alone(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", mixed_sizes(4))
    Image.new("RGB", (77, 77)).save(folder / "bad.png")

    def watch(captioner):
        real = captioner.answer

        def answer(asked, take):
            if any(each.visuals[0].width == 77 for each in asked):
                raise ValueError("no such shape")
            real(asked, take)

        captioner.answer = answer

    found = run(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)
    failed = {name for (name, _), result in found.items() if result.error}
    assert failed == {"bad.png"}
    assert found["bad.png", "short"].error.kind == "InferenceError"
    assert "no such shape" in found["bad.png", "short"].error.message


def test_a_lost_device_ends_the_run(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", mixed_sizes(3))

    def watch(captioner):
        def answer(*_):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        captioner.answer = answer

    with pytest.raises(EngineError, match="illegal memory access"):
        run(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)


def test_broken_and_too_long_pictures_become_errors(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", [(60, 60)])
    Image.new("RGB", (2010, 10)).save(folder / "long.png")
    Image.new("RGB", (2000, 10)).save(folder / "just.png")
    whole = (folder / "0000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    found = run(engine_of(tiny_model("qwen2_vl")), folder, [SHORT])
    kinds = {name: result.error.kind if result.error else None for (name, _), result in found.items()}
    assert kinds == {
        "0000.png": None,
        "just.png": None,
        "long.png": "AspectRatioError",
        "cut.png": "DecodeError",
        "text.png": "UnsupportedError",
    }


def test_a_model_that_does_not_load_is_an_engine_error(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    engine = engine_of(model)
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match="can't be loaded"):
        run(engine, draw(tmp_path / "in", [(50, 50)]))


@pytest.mark.parametrize("where", ["_encode", "_choose_types"])
def test_out_of_memory_before_the_first_word(tiny_model, tmp_path, where):
    folder = draw(tmp_path / "in", mixed_sizes(6))
    prompt = Catalogue.load().automatic([], "en")
    whole = run(engine_of(tiny_model("qwen2_vl")), folder, [prompt])

    def watch(captioner):
        real, calls = getattr(captioner, where), []

        def fail_once(asked):
            calls.append(len(asked))
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(asked)

        setattr(captioner, where, fail_once)

    small = run(engine_of(tiny_model("qwen2_vl")), folder, [prompt], on_captioner=watch)
    assert {name: each.text for name, each in small.items()} == {name: each.text for name, each in whole.items()}


def test_whoever_takes_no_more_results_ends_the_run(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"), batch_size=2, max_new_tokens=100_000)
    engine.warm_up()
    captioner = engine._loading.result()[0]
    with torch.no_grad():  # texts without an end
        captioner._model.lm_head.weight[list(captioner._end_token_ids)] = 0.0
    folder = draw(tmp_path / "in", mixed_sizes(20))
    Image.new("RGB", (2010, 10)).save(folder / "0.png")  # answered at once
    results = engine.run(requests_of(engine, folder, [SHORT]), threading.Event())
    assert next(results).error.kind == "AspectRatioError"
    results.close()
    assert not [each for each in threading.enumerate() if each.name == "_work"]


def test_what_the_source_raises_is_raised(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"))
    requests = list(requests_of(engine, draw(tmp_path / "in", mixed_sizes(2)), [SHORT]))

    def source():
        yield requests[0]
        raise ZeroDivisionError("from the source")

    with pytest.raises(ZeroDivisionError, match="from the source"):
        list(engine.run(source(), threading.Event()))


# --- how texts end


def test_the_model_that_repeats_itself_is_stopped(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", [(56, 56)])

    def stutter(captioner):
        with torch.no_grad():
            captioner._model.lm_head.weight.zero_()  # all logits are equal, and the first token wins for ever

    found = run(engine_of(tiny_model("qwen2_vl"), max_new_tokens=1000), folder, [SHORT], on_captioner=stutter)
    [result] = found.values()
    tokenizer = AutoProcessor.from_pretrained(tiny_model("qwen2_vl")).tokenizer
    assert result.finish_reason == "repetition"
    assert result.text == tokenizer.decode([0])
    assert result.output_tokens == 1


def test_a_loop_is_tried_again_by_chance(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", [(56, 56), (70, 70)])
    engine = engine_of(tiny_model("qwen2_vl"), max_new_tokens=1000, retry_loops=True)

    def stutter(captioner):
        with torch.no_grad():
            captioner._model.lm_head.weight.zero_()

    for result in run(engine, folder, [SHORT], on_captioner=stutter).values():
        assert result.finish_reason in ("stop", "length")  # drawn from all tokens alike, it doesn't loop
        assert len(set(result.text.split())) > 1 or result.output_tokens < 3


@pytest.mark.parametrize("memory_runs_out", [False, True])
def test_a_second_try_draws_anew_and_loses_nothing(tiny_model, tmp_path, memory_runs_out):
    folder = draw(tmp_path / "in", [(56, 56)])
    engine = engine_of(tiny_model("qwen2_vl"), max_new_tokens=600, retry_loops=True)

    def watch(captioner):
        with torch.no_grad():
            captioner._model.lm_head.weight.zero_()
        real, calls = captioner._generate, []

        def generate(*given):
            calls.append(given)
            if len(calls) == 2 and memory_runs_out:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(*given)

        captioner._generate = generate

    [result] = run(engine, folder, [SHORT], on_captioner=watch).values()
    assert (result.finish_reason == "repetition") == memory_runs_out
    generation = Generation(temperature=0.7)
    assert generation.dice("k").random() != generation.dice("k", attempt=2).random()


def test_draws_hang_on_the_seed_and_not_on_the_batch(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", mixed_sizes(6))

    def texts(**options):
        found = run(engine_of(tiny_model("qwen2_vl"), temperature=1.0, **options), folder)
        return {name: result.text for name, result in found.items()}

    first = texts(seed=1)
    assert texts(seed=1, batch_size=4) == first
    assert texts(seed=2) != first
    assert len(set(first.values())) > 12


def test_draws_have_the_probabilities_of_the_scores():
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.025, 0.0])
    seeds = torch.tensor([random.Random(number).getrandbits(63) for number in range(40_000)])
    drawn = (probabilities.log() + decoding._gumbel(seeds, 6)).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=6) / 40_000
    assert shares.tolist() == pytest.approx(probabilities.tolist(), abs=0.0125)  # five standard deviations
    assert shares[5] == 0


def test_top_k_of_one_is_greedy(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", mixed_sizes(4))
    greedy = run(engine_of(tiny_model("qwen2_vl")), folder)
    drawn = run(engine_of(tiny_model("qwen2_vl"), temperature=1.5, top_k=1), folder)
    assert {name: each.text for name, each in drawn.items()} == {name: each.text for name, each in greedy.items()}


# --- pixels


def test_pixel_limits_are_those_asked_for(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", [(280, 140)])
    limits = Settings(max_pixels=112 * 56)
    [result] = run(engine_of(tiny_model("qwen2_vl")), folder, [SHORT], limits).values()
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
    folder = draw(tmp_path / "in", [(280, 140)])
    [result] = run(engine_of(model), folder, [SHORT]).values()
    assert result.image_tokens == 3  # 3 x 1 squares: the most of this shape that isn't more than 6


# --- types chosen by the model


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "idefics3"])
def test_the_model_chooses_the_type_by_the_probability_of_its_name(tiny_model, tmp_path, monkeypatch, family):
    model = tiny_model(family)
    monkeypatch.setattr(prefill, "_MAX_TOKENS", 1500)
    folder = draw(tmp_path / "in", mixed_sizes(4, seed=8))
    prompt = Catalogue.load().automatic([], "en")
    found, alone = run(engine_of(model), folder, [prompt]), Alone(model)
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


# --- a slow source, and an early stop


def test_a_slow_source_gets_its_results_before_the_next_request(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"))
    requests = list(requests_of(engine, draw(tmp_path / "in", mixed_sizes(3)), [SHORT]))
    answered = threading.Semaphore(0)

    def source():
        for request in requests:
            yield request
            yield Idle.IDLE
            assert answered.acquire(timeout=60), "the result was held back"

    keys = []
    with contextlib.closing(engine):
        for result in engine.run(source(), threading.Event()):
            keys.append(result.key)
            answered.release()
    assert keys == [request.key for request in requests]


def test_on_stop_only_what_is_on_the_device_is_finished(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"), batch_size=2)
    requests = list(requests_of(engine, draw(tmp_path / "in", mixed_sizes(20)), [SHORT]))
    stop, results = threading.Event(), []
    with contextlib.closing(engine):
        for result in engine.run(iter(requests), stop):
            results.append(result)
            stop.set()
    assert 1 <= len(results) <= 4
    assert all(result.error is None for result in results)


# --- several processes


def test_several_processes_say_the_same(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", [*mixed_sizes(6), (2010, 10)])
    one = run(engine_of(tiny_model("qwen2_vl")), folder)
    two = run(engine_of(tiny_model("qwen2_vl"), workers=2), folder)
    what = partial(map, lambda pair: (pair[0], pair[1].text, pair[1].error and pair[1].error.kind))
    assert sorted(what(two.items()), key=str) == sorted(what(one.items()), key=str)


def test_a_process_that_dies_is_replaced(tiny_model, tmp_path):
    folder = draw(tmp_path / "in", mixed_sizes(8))
    engine = engine_of(tiny_model("qwen2_vl"), workers=2, batch_size=1)
    requests = list(requests_of(engine, folder))
    with contextlib.closing(engine):
        results = []
        for result in engine.run(iter(requests), threading.Event()):
            results.append(result)
            if len(results) == 2:
                busy = max(engine._replicas._pool._places, key=lambda place: len(place.in_hand))
                busy.child.kill()
    assert Counter(result.key for result in results) == Counter(request.key for request in requests)
    assert all(result.error is None for result in results)


def test_what_a_dead_process_left_is_numbered_anew(tiny_model, tmp_path):
    """One request of an item, the last, was answered; the rest must not run on into the next item."""
    engine = engine_of(tiny_model("qwen2_vl"))
    requests = list(requests_of(engine, draw(tmp_path / "in", mixed_sizes(3))))
    answered = Result(key=requests[2].key, text="")
    items = [replicas._unanswered(requests[0:3], answered), requests[3:6], requests[7:8]]
    assert items[0] == requests[0:2]
    asked = {}
    assignments = [Assignment(item, print, print) for item in items]
    numbered = [(each.key, each.num_following) for each in replicas._requests_in(assignments, asked)]
    left = [request.key for item in items for request in item]
    assert numbered == list(zip(left, [1, 0, 2, 1, 0, 0], strict=True))
    assert [asked[key].content for key in left] == [items[place] for place in (0, 0, 1, 1, 1, 2)]


def test_processes_share_the_memory_and_the_cores(tiny_model, monkeypatch):
    given = []
    monkeypatch.setattr(engine_module, "Replicas", lambda options, environments: given.append((options, environments)))
    monkeypatch.setattr(engine_module, "num_cores", lambda: 8)
    engine = engine_of(tiny_model("qwen2_vl"), workers=4)
    engine.warm_up()
    [(options, environments)] = given
    assert options.num_sharing == 4
    assert environments == [{"OMP_NUM_THREADS": "2"}] * 4
    one, four = engine_of(tiny_model("qwen2_vl")), create_engine("huggingface", options)
    config = AutoConfig.from_pretrained(tiny_model("qwen2_vl"))
    budgets = [each._planner(config, "sdpa", 1000).budget_bytes for each in (one, four)]
    assert budgets == [1000, 250]


GPUS = (Gpu("A", (8, 0), 80 * 10**9), Gpu("B", (8, 0), 40 * 10**9))


def test_each_gpu_gets_a_process(tiny_model, monkeypatch):
    machine = Machine(torch_version="2", built_for="CUDA", gpus=GPUS)
    monkeypatch.setattr(engine_module.ReplicatedEngine, "_read_machine", lambda _: machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    options = EngineOptions(model=str(tiny_model("qwen2_vl")), devices=DeviceOptions(gpus="all"))
    engine = create_engine("huggingface", options)
    found = engine._environments(engine._files)
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in found) == ["3", "5"]
    assert engine.identity.settings["dtype"] == "bfloat16"


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_workers_are_for_the_cpu(tiny_model, monkeypatch, device):
    machine = Machine(torch_version="2", built_for="CUDA", gpus=GPUS)
    monkeypatch.setattr(engine_module.ReplicatedEngine, "_read_machine", lambda _: machine)
    options = EngineOptions(model=str(tiny_model("qwen2_vl")), devices=DeviceOptions(device=device), workers=2)
    with pytest.raises(OptionError, match="--workers") as caught:
        create_engine("huggingface", options)
    assert "--gpus" in caught.value.hint


def test_an_error_of_an_option_crosses_processes():
    error = pickle.loads(pickle.dumps(OptionError("--max-pixels", 5, "can't be kept", hint="Leave it out.")))
    assert type(error) is OptionError
    assert (error.option, error.value, error.hint) == ("--max-pixels", 5, "Leave it out.")
    assert str(error) == "--max-pixels: 5 can't be kept"


def test_a_model_that_does_not_load_in_a_process_is_an_engine_error(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    engine = engine_of(model, workers=2)
    requests = list(requests_of(engine, draw(tmp_path / "in", [(50, 50)])))
    engine.warm_up()
    (model / "model.safetensors").write_bytes(b"")
    with contextlib.closing(engine), pytest.raises(EngineError, match=r"model\.safetensors"):
        list(engine.run(iter(requests), threading.Event()))
