"""Whole models of random weights, small enough to be built in a test: vision-language models, and of text alone.

Their captions make no sense, but hang on the picture and on every weight: a change anywhere shows in the text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

sys.path.append(str(Path(__file__).parents[2] / "examples/shapes"))

import model_files as files

if TYPE_CHECKING:  # which takes seconds to load, and most tests need no model
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

SENTENCES = (
    "A photograph of a small harbour at sunrise, with three fishing boats tied to a wooden pier.",
    "The water is calm and reflects a pale orange sky; thin clouds stretch over distant blue hills.",
    "In the foreground a woman in a red raincoat is walking her brown dog along wet cobblestones.",
    "To the left of the lighthouse stands a white cottage with green shutters and a tiled roof.",
    "Describe this image in detail: its subject, background, lighting, colours, textures and arrangement.",
    "You are a careful assistant who describes pictures accurately, completely and in plain English.",
    "What is the main object, where is it, and what surrounds it above, below, left and right?",
    "The chart shows monthly sales between January and December, with a peak of 84 in August.",
    "Write all readable text of the page as Markdown, keeping headings, lists and tables in order.",
    "A bar chart compares apples, pears, plums and cherries; the tallest bar belongs to cherries.",
    "Two children are playing football on a sunny meadow while an old man reads a newspaper.",
    "An illustration in watercolour style: a sleepy fox under a huge mushroom, soft shadows, warm light.",
    "The table has four columns and six rows; numbers are aligned right and the header is bold.",
    "A screenshot of a settings window with tabs, switches, text fields and a blue button saying Save.",
    "Keywords: mountain, lake, forest, canoe, mist, morning, silence, reflection, pine, snow.",
    "The triangle has a right angle at its lower corner, and its longest side measures five units.",
    "A yellow circle lies inside a large grey square, just above a narrow purple rectangle.",
    "Give one short sentence, then a longer paragraph, and finally a list of tags separated by commas.",
    "The street is crowded with bicycles, market stalls, lanterns and people carrying umbrellas.",
    "Nothing in the picture is blurred except the train, which rushes past the empty platform.",
)
SPREAD = 1.5  # of random weights, around what would keep a signal's size: enough that no two logits are near a tie
_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32768,
}
_MROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
_INTERLEAVED = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [12, 10, 10], "rope_theta": 5e6}
_HALF = [0.5, 0.5, 0.5]


class TinyModel(Protocol):
    """What the fixture `tiny_model` gives: see `build_tiny`. The folder is shared, so copy it before changing it."""

    def __call__(self, family: str, *, seed: int = 0, **text_config: Any) -> Path: ...


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    built: dict[str, Path] = {}

    def model(family: str, *, seed: int = 0, **text_config: Any) -> Path:
        name = repr((family, seed, sorted(text_config.items())))
        if name not in built:
            built[name] = build_tiny(family, tmp_path_factory.mktemp(family), seed=seed, **text_config)
        return built[name]

    return model


def build_tiny(family: str, folder: Path, *, seed: int = 0, **text_config: Any) -> Path:
    """Write a model of less than a million parameters into `folder`, which is made, and return it.

    `family` is one of FAMILIES, or of TEXT_FAMILIES for text alone; `text_config` replaces values of the language
    model's configuration.
    Same arguments, same bytes.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # transformers draws weights too
        model, processor = (FAMILIES | TEXT_FAMILIES)[family](_TEXT | text_config)
    _randomise(model, getattr(processor, "tokenizer", processor), seed)
    files.save_model(folder, model, processor)
    return folder


def _qwen2_vl(text: dict[str, Any]) -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    processor = files.qwen2_vl_processor(_tokenizer())
    vision = {"depth": 2, "embed_dim": 64, "num_heads": 2, "mlp_ratio": 2, "hidden_size": text["hidden_size"]}
    config = Qwen2VLConfig(**_qwen_config(processor, text, _MROPE), vision_config=vision)
    return Qwen2VLForConditionalGeneration(config), processor


def _qwen2_5_vl(text: dict[str, Any]) -> tuple[PreTrainedModel, ProcessorMixin]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    parts = files.qwen2_vl_processor(_tokenizer())
    processor = Qwen2_5_VLProcessor(parts.image_processor, parts.tokenizer, parts.video_processor, parts.chat_template)
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "fullatt_block_indexes": [1]}
    vision |= {"out_hidden_size": text["hidden_size"]}
    config = Qwen2_5_VLConfig(**_qwen_config(processor, text, _MROPE), vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl(text: dict[str, Any]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Patches of 16 pixels, so tokens of 32."""
    import transformers as hf

    cut = {"patch_size": 16, "image_mean": _HALF, "image_std": _HALF} | files.pixel_limits(32)
    images, videos = hf.Qwen2VLImageProcessor(**cut), hf.Qwen3VLVideoProcessor(**cut)
    processor = hf.Qwen3VLProcessor(images, _tokenizer(), videos, files.chat_template())
    vision = {"depth": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128, "num_position_embeddings": 256}
    vision |= {"out_hidden_size": text["hidden_size"], "deepstack_visual_indexes": [0]}
    config = hf.Qwen3VLConfig(**_qwen_config(processor, {"head_dim": 64} | text, _INTERLEAVED), vision_config=vision)
    return hf.Qwen3VLForConditionalGeneration(config), processor


def _idefics3(text: dict[str, Any]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Pictures cut into tiles of 64 pixels, at most 2 by 2, and seen whole besides: 4 tokens each, and marks."""
    import transformers as hf

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]
    images = hf.Idefics3ImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64})
    template = files.chat_template("<image>", "<video>")
    processor = hf.Idefics3Processor(images, _tokenizer(*marks), image_seq_len=4, chat_template=template)
    vision = {"image_size": 64, "patch_size": 16, "hidden_size": 64, "intermediate_size": 128}
    config = hf.Idefics3Config(
        text_config=_llama(processor, text),
        vision_config=vision | {"num_hidden_layers": 2, "num_attention_heads": 2},
        scale_factor=2,
        image_token_id=processor.image_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    return hf.Idefics3ForConditionalGeneration(config), processor


def _llava(text: dict[str, Any]) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Every picture cropped to 56 by 56 pixels: 16 tokens."""
    import transformers as hf

    processor = hf.LlavaProcessor(
        hf.LlavaImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        _tokenizer("<image>"),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=files.chat_template("<image>", "<video>"),
    )
    vision = {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "hidden_size": 64}
    vision |= {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 64}
    config = hf.LlavaConfig(
        text_config=_llama(processor, text),
        vision_config=vision,
        image_token_index=processor.image_token_id,
        image_seq_length=16,
    )
    return hf.LlavaForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[dict[str, Any]], tuple[PreTrainedModel, ProcessorMixin]]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "idefics3": _idefics3,
    "llava": _llava,
}


def _text_llama(text: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _chat_tokenizer()
    return LlamaForCausalLM(LlamaConfig(**files.text_ids(tokenizer) | text)), tokenizer


def _text_qwen2(text: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _chat_tokenizer()
    return Qwen2ForCausalLM(Qwen2Config(**files.text_ids(tokenizer) | text)), tokenizer


TEXT_FAMILIES: dict[str, Callable[[dict[str, Any]], tuple[PreTrainedModel, PreTrainedTokenizerBase]]] = {
    "llama": _text_llama,
    "qwen2": _text_qwen2,
}


def _chat_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = _tokenizer()
    tokenizer.chat_template = files.chat_template()
    return tokenizer


def _tokenizer(*more_special_tokens: str) -> PreTrainedTokenizerBase:
    return files.train_tokenizer(SENTENCES, more_special_tokens=more_special_tokens)


def _qwen_config(processor: ProcessorMixin, text: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    text_config = {"rope_parameters": dict(rope)} | files.text_ids(tokenizer) | text
    return {"text_config": text_config} | files.qwen_vision_ids(tokenizer)


def _llama(processor: ProcessorMixin, text: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "llama"} | files.text_ids(processor.tokenizer) | text


def _randomise(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """Draw every weight matrix anew; biases and norms stay. What is no text can't be said, but for what ends one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    embeddings = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                fan_in = 1 if weights in embeddings else weights[0].numel()
                weights.normal_(0.0, SPREAD * fan_in**-0.5, generator=generator)
        model.lm_head.weight[_unsayable(tokenizer)] = 0.0


def _unsayable(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of bytes that are no character by themselves, and of special tokens but for the two ends."""
    ends = tokenizer.convert_tokens_to_ids([files.END_OF_TEXT, files.END_OF_TURN])
    texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer))], skip_special_tokens=True)
    return [
        number
        for number, text in enumerate(texts)
        if number not in ends and (not text or "\ufffd" in text or not text.isprintable())
    ]
