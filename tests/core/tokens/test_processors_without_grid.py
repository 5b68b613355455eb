"""Processors whose tokens are not counted by arithmetic, and those that make no prompt at all."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import transformers
from PIL import Image
from support.chat_processors import (
    FAMILIES,
    QWEN,
    SIZES,
    ask,
    inputs_of_transformers,
    noise_image,
    prepared_image,
    token_counts,
)
from support.chat_processors import chats as chats  # a fixture
from support.chat_processors import processors as processors  # a fixture

from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.core.tokens.visual_chat import VisualChat
from omnicap_cli.errors import EngineError

# --------------------------------------------------------------------------- processors that have no PixelGrid


@pytest.mark.parametrize("family", FAMILIES)
def test_who_has_a_grid(family, chats):
    assert (chats[family].grid is not None) == (family in QWEN)


@pytest.mark.parametrize("family", ["idefics3", "llava", "gemma3", "gemma3_crops"])
def test_counts_of_random_sizes_without_a_grid(family, processors, chats):
    source = random.Random(family)
    for _ in range(25):
        width, height = source.randint(20, 900), source.randint(20, 900)
        image = Image.new("RGB", (width, height))
        real = inputs_of_transformers(processors[family], ask("Hi"), image)
        counts = token_counts(chats[family], ask("Hi"), width, height)
        assert counts.prompt_tokens + counts.visual_tokens == len(real["input_ids"][0]), (width, height)
        num_values = max(real[name].numel() if hasattr(real[name], "numel") else 0 for name in real)
        assert sum(counts.num_patches) * 588 >= num_values  # 3 colours of 14 x 14 pixels


def test_arithmetic_of_a_processor_that_proves_wrong_is_not_used(processors, chats):
    """That of Gemma 3 knows no crops, so pictures of these sizes have to go through it."""
    assert chats["gemma3"]._foresight is not None
    assert chats["gemma3_crops"]._foresight is None
    wide = inputs_of_transformers(processors["gemma3_crops"], ask("Hi"), Image.new("RGB", (400, 100)))["input_ids"][0]
    plain = inputs_of_transformers(processors["gemma3"], ask("Hi"), Image.new("RGB", (400, 100)))["input_ids"][0]
    assert len(wide) > len(plain)


def as_qwen(processors, replacement: Callable[[str, int, int], str]) -> Any:
    """One that puts `replacement`, of the image token and of rows and columns of tokens, in a picture's place."""

    class Other(transformers.Qwen2VLProcessor):
        def replace_image_token(self, image_inputs, image_idx, **kwargs):
            _, num_rows, num_columns = image_inputs["image_grid_thw"][image_idx].tolist()
            return replacement(self.image_token, num_rows // 2, num_columns // 2)

    plain = processors["qwen2_vl"]
    return Other(plain.image_processor, plain.tokenizer, plain.video_processor, plain.chat_template)


def check_sizes(processor: Any, prompt: Prompt) -> None:
    chat = VisualChat(processor)
    assert chat.grid is None
    for width, height in SIZES:
        image = Image.new("RGB", (width, height))
        real = inputs_of_transformers(processor, prompt, image)["input_ids"][0]
        assert chat.input_ids(prompt, [prepared_image(chat, processor, image)]) == real
        assert sum(token_counts(chat, prompt, width, height)[:2]) == len(real)


def test_marks_between_the_tokens(processors):
    def marked(image_token: str, num_rows: int, num_columns: int) -> str:
        return "<|box_start|>" + "<|quad_end|>".join([image_token * num_columns] * num_rows) + "<|box_end|>"

    check_sizes(as_qwen(processors, marked), ask("Hi"))


def test_a_picture_that_runs_into_the_text(processors):
    """After a large picture comes the start of a word, and the prompt goes on with its end: " left" is one token."""

    def running(image_token: str, num_rows: int, num_columns: int) -> str:
        return image_token * (num_rows * num_columns) + (" l" if num_rows * num_columns > 30 else "")

    processor = as_qwen(processors, running)
    processor.chat_template = processor.chat_template.replace("<|vision_end|>", "")
    assert len(processor.tokenizer.tokenize(" left")) < 1 + len(processor.tokenizer.tokenize("eft"))
    chat, image = VisualChat(processor), Image.new("RGB", (300, 300))
    ids = chat.input_ids(ask("eft"), [prepared_image(chat, processor, image)])
    assert ids == inputs_of_transformers(processor, ask("eft"), image)["input_ids"][0]


def test_a_template_that_writes_what_stands_for_a_picture(processors):
    processor = as_qwen(processors, lambda image_token, *shape: "<|box_start|>" * (1 + (shape > (5, 5))))
    processor.chat_template = "<|box_start|>" + processor.chat_template
    check_sizes(processor, ask("Hi"))


def test_only_tokens_that_are_cut_out_first_stand_apart(processors, chats):
    inputs = prepared_image(chats["gemma3"], processors["gemma3"], noise_image(50, 50))
    image_ids = chats["gemma3"]._image_ids(inputs)
    assert processors["gemma3"].tokenizer.decode(image_ids[:1]) == "\n"
    assert not chats["gemma3"]._is_apart(image_ids)


# ----------------------------------------------------------------------------------------- what makes no prompt


def test_a_processor_without_a_template(processors):
    processor = copy.copy(processors["qwen2_vl"])
    processor.chat_template = None
    with pytest.raises(
        EngineError, match=r"Qwen2VLProcessor makes no prompt with a picture: .*chat template"
    ) as caught:
        VisualChat(processor)
    assert "chat_template.jinja" in (caught.value.hint or "")


def test_a_template_without_pictures(processors):
    processor = copy.copy(processors["qwen2_vl"])
    processor.chat_template = "{% for message in messages %}{{ message.content[-1].text }}{% endfor %}"
    with pytest.raises(EngineError, match="makes no prompt with a picture"):
        VisualChat(processor)


def test_a_processor_of_another_kind(processors):
    tokenizer = processors["qwen2_vl"].tokenizer
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(), tokenizer)
    processor.chat_template = processors["qwen2_vl"].chat_template
    with pytest.raises(EngineError, match="CLIPProcessor makes no prompt with a picture"):
        VisualChat(processor)


def test_a_template_that_takes_no_system_text(processors):
    processor = copy.copy(processors["qwen2_vl"])
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    processor.chat_template = refusal + processor.chat_template
    chat = VisualChat(processor)
    assert token_counts(chat, ask("Hi"), 90, 90).visual_tokens == 9
    with pytest.raises(EngineError, match="the model's chat template doesn't take the prompt: no system here"):
        token_counts(chat, ask("Hi", "Be brief."), 90, 90)


def test_prompts_that_hang_on_the_pixels_are_refused(processors):
    """Ids that come from anything but the size and the image processor's answer can't be made again."""

    class Moody(transformers.Qwen2VLProcessor):
        calls = 0

        def apply_chat_template(self, *args, **kwargs):
            output = super().apply_chat_template(*args, **kwargs)
            Moody.calls += 1
            output["input_ids"][0].append(Moody.calls)
            return output

    plain = processors["qwen2_vl"]
    with pytest.raises(EngineError, match="in a way that isn't known here"):
        VisualChat(Moody(plain.image_processor, plain.tokenizer, plain.video_processor, plain.chat_template))
