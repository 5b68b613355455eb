"""Processors of real families, and what they themselves make of a picture and a prompt, without a line of ours."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from PIL import Image
from support import tiny_models
from transformers import AutoProcessor

from omnicap_cli.core.runs.records import Prompt, Settings
from omnicap_cli.core.tokens.chat import TokenCounts
from omnicap_cli.core.tokens.visual_chat import VisualChat

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# "gemma3" puts line breaks around a picture, "gemma3_crops" other texts for other shapes
FAMILIES = (*QWEN, "idefics3", "llava", "gemma3", "gemma3_crops")
SIZES = [(1, 1), (28, 28), (90, 150), (64, 48), (333, 500), (700, 60), (60, 700), (1000, 750)]
DEFAULT = Settings()


@pytest.fixture(scope="module")
def processors(tiny_model) -> dict[str, Any]:
    loaded = {family: AutoProcessor.from_pretrained(tiny_model(family)) for family in tiny_models.FAMILIES}
    return loaded | {"gemma3": gemma3(), "gemma3_crops": gemma3(do_pan_and_scan=True, pan_and_scan_min_crop_size=20)}


@pytest.fixture(scope="module")
def chats(processors) -> dict[str, VisualChat]:
    return {family: VisualChat(processor) for family, processor in processors.items()}


def gemma3(**image_kwargs: Any) -> Any:
    tokenizer = tiny_models._tokenizer("<start_of_image>", "<end_of_image>", "<image_soft_token>")
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer._set_model_specific_special_tokens(names)
    images = transformers.Gemma3ImageProcessor(size={"height": 28, "width": 28})
    template = tiny_models.files.chat_template("<start_of_image>", "<video>")
    processor = transformers.Gemma3Processor(images, tokenizer, template, image_seq_length=4)
    if image_kwargs:
        processor.images_kwargs = processor.images_kwargs | image_kwargs
    return processor


def ask(user: str, system: str = "") -> Prompt:
    return Prompt(type="natural", style="detailed", lang="en", system=system, user=user)


def noise_image(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 50).convert("RGB")


def inputs_of_transformers(processor: Any, prompt: Prompt, image: Image.Image, **options: Any) -> Any:
    """What transformers itself makes of the whole, without a line of ours."""
    messages = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt.user}]}]
    if prompt.system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    return processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors=None, **options
    )


def prepared_image(chat: VisualChat, processor: Any, image: Image.Image, settings: Settings = DEFAULT) -> Any:
    return processor.image_processor(image, **chat.image_kwargs(settings))


def token_counts(
    chat: VisualChat, prompt: Prompt, width: int, height: int, settings: Settings = DEFAULT
) -> TokenCounts:
    return chat.counts(prompt, [(width, height)], settings)
