"""The model of the example of shapes is whole, and so are the tiny ones of other tests.

Counts of tokens and of weights are worked out by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from support.shapes_example import caption_of, contents, load_script, read_records, run_readme
from support.tiny_models import FAMILIES, build_tiny
from transformers import AutoModelForImageTextToText, AutoProcessor

SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's first two lines were run: they wrote `shapes` and `shapes-model`."""
    folder = tmp_path_factory.mktemp("made")
    run_readme(folder, slice(2))
    return folder


@pytest.fixture(scope="module")
def processor(made):
    return AutoProcessor.from_pretrained(made / "shapes-model")


@pytest.fixture(scope="module")
def model(made):
    """Loaded strictly: every weight there, and none too many."""
    model, report = AutoModelForImageTextToText.from_pretrained(made / "shapes-model", output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def ask(processor, *images: Image.Image):
    chats = [
        [
            {"role": "system", "content": [{"type": "text", "text": "You see."}]},
            {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]},
        ]
        for image in images
    ]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    return processor.apply_chat_template(chats, **options, processor_kwargs={"return_tensors": "pt", "padding": True})


def test_folder_is_whole(made):
    assert {path.name for path in (made / "shapes-model").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("processor_config.json", "preprocessor_config.json"),
    }
    config = json.loads((made / "shapes-model/config.json").read_text())
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    assert config["text_config"]["vocab_size"] == 1000


def test_tokenizer_has_the_tokens_of_qwen(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer) == 1000
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == list(range(986, 1000))
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == ("<|im_end|>", "<|endoftext|>", "left")
    assert len(tokenizer("A large red circle is in the middle.").input_ids) == 9  # its words and the full stop


def test_tokens_are_the_text_again(made, processor):
    tokenizer = processor.tokenizer
    texts = {caption_of(record) for record in read_records(made / "shapes/held-out.jsonl")}
    for text in [*texts, "naïve – 汉字 🎉\n\n\ttab  \x00 end ", "it's 1,234.5", *SPECIAL_TOKENS]:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=False) == text


def test_ids_in_configurations_are_those_of_the_tokenizer(made, processor):
    names = ["<|endoftext|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    text_end, turn_end, start, end, image, video = processor.tokenizer.convert_tokens_to_ids(names)
    config = json.loads((made / "shapes-model/config.json").read_text())
    generation = json.loads((made / "shapes-model/generation_config.json").read_text())
    assert (config["image_token_id"], config["video_token_id"]) == (image, video)
    assert (config["vision_start_token_id"], config["vision_end_token_id"]) == (start, end)
    assert (generation["eos_token_id"], generation["pad_token_id"]) == ([turn_end, text_end], text_end)


def test_chat_template(processor):
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "video"}]
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "A star."}]},
    ]
    text = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|vision_start|><|video_pad|><|vision_end|>"
        "<|im_end|>\n<|im_start|>assistant\nA star.<|im_end|>\n"
    )
    assert processor.apply_chat_template(chat) == text
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == f"{text}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("width", "height", "num_tokens"),
    [
        (112, 112, 4 * 4),
        (300, 200, 11 * 7),
        (70, 112, 2 * 4),  # 2.5 is rounded to 2,
        (98, 112, 4 * 4),  # and 3.5 to 4
        (40, 20, 3 * 2),  # grown 1.98 times, and up to multiples of 28
        (1000, 700, 19 * 13),  # shrunk 1.87 times, and down
    ],
)
def test_num_image_tokens(processor, width, height, num_tokens):
    inputs = ask(processor, Image.new("RGB", (width, height)))
    image_pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert int((inputs["input_ids"] == image_pad).sum()) == num_tokens
    assert inputs["pixel_values"].shape == (num_tokens * 4, 3 * 2 * 14 * 14)


def test_weights_are_those_of_the_sizes(made):
    text_layer = 2 * 192 + 3 * (192 * 192 + 192) + 192 * 192 + 3 * 192 * 512
    language = 2 * 1000 * 192 + 3 * text_layer + 192
    block = 4 * 192 + (192 * 576 + 576) + (192 * 192 + 192) + (192 * 768 + 768) + (768 * 192 + 192)
    vision = 192 * 3 * 2 * 14 * 14 + 3 * block + 2 * 192 + (768 * 768 + 768) + (768 * 192 + 192)
    with safe_open(made / "shapes-model/model.safetensors", "pt") as file:
        weights = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - it is no dictionary
    assert sum(each.numel() for each in weights) == language + vision
    assert {each.dtype for each in weights} == {torch.float32}


def test_model_generates_until_it_is_told_to_stop(made, model, processor):
    pictures = [Image.open(made / f"shapes/train/{number:06}.png") for number in (1, 2)]
    inputs = ask(processor, *pictures)
    output = model.generate(**inputs, max_new_tokens=7, min_new_tokens=7, do_sample=False)
    assert output.shape == (2, inputs["input_ids"].shape[1] + 7)
    with torch.no_grad():
        first, second = model(**inputs).logits[:, -1]
    assert not torch.allclose(first, second)  # the picture reaches the text


def test_same_seed_same_model(tmp_path, made):
    build = load_script("build")
    random_state = torch.random.get_rng_state()
    for name, seed in (("again", 0), ("other", 1)):
        build.build_model(tmp_path / name, build.read_texts(made / "shapes/train.jsonl"), seed=seed)
    again, other = contents(tmp_path / "again"), contents(tmp_path / "other")
    assert again == contents(made / "shapes-model")
    assert {name for name, content in again.items() if other[name] != content} == {"model.safetensors"}
    assert torch.equal(random_state, torch.random.get_rng_state())


@pytest.mark.slow
def test_omnicap_captions_with_the_model(made):
    records = [json.loads(line) for line in run_readme(made, slice(2, 3)).splitlines()]
    assert [record["id"] for record in records] == [f"shapes/held-out/{number:06}.png" for number in range(1, 9)]
    assert all(record["status"] == "ok" and record["caption"] for record in records)
    assert {record["image_tokens"] for record in records} == {16}


# ------------------------------------------------------------------------------ the tiny models of other tests


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_models_are_whole_and_say_something_else_of_each_picture(tmp_path, family):
    folder = build_tiny(family, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(folder)
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert model.num_parameters() < 1_000_000
    pictures = [
        Image.linear_gradient("L").rotate(36 * index).resize((100 + 10 * index, 140)).convert("RGB")
        for index in range(6)
    ]
    inputs = ask(processor, *pictures)
    assert inputs["attention_mask"][:, -1].all()  # padded on the left
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)[:, length:]
    texts = processor.batch_decode(output, skip_special_tokens=True)
    assert len(set(texts)) == 6
    assert all(text and text.isprintable() and "\ufffd" not in text for text in texts)


def test_tiny_models_come_again_from_the_same_seed(tmp_path):
    random_state = torch.random.get_rng_state()
    first, second, other = (
        contents(build_tiny("qwen2_vl", tmp_path / name, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == second
    assert first["model.safetensors"] != other["model.safetensors"]
    assert first["tokenizer.json"] == other["tokenizer.json"]
    config = json.loads(contents(build_tiny("qwen2_vl", tmp_path / "d", num_hidden_layers=3))["config.json"])
    assert config["text_config"]["num_hidden_layers"] == 3
    assert torch.equal(random_state, torch.random.get_rng_state())
