"""What the folder of a chat model holds besides weights: a tokenizer, a chat template, a processor; and saving it all.

It knows the tokens of Qwen and how its pictures are cut, but no architecture: a model comes from elsewhere, whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # transformers takes seconds to load: only what needs it waits
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|im_end|>"
# The real ones of Qwen, in their order; as there, they follow the words.
SPECIAL_TOKENS = (
    *(END_OF_TEXT, "<|im_start|>", END_OF_TURN),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def chat_template(image: str = QWEN_IMAGE, video: str = QWEN_VIDEO) -> str:
    """Jinja for turns in `<|im_start|>role ... <|im_end|>`, with `image` and `video` where a picture or clip stands."""
    return f"""\
{{%- for message in messages -%}}
    {{{{- "<|im_start|>" + message.role + "\\n" -}}}}
    {{%- if message.content is string -%}}
        {{{{- message.content -}}}}
    {{%- else -%}}
        {{%- for part in message.content -%}}
            {{%- if part.type == "image" -%}}
                {{{{- "{image}" -}}}}
            {{%- elif part.type == "video" -%}}
                {{{{- "{video}" -}}}}
            {{%- else -%}}
                {{{{- part.text -}}}}
            {{%- endif -%}}
        {{%- endfor -%}}
    {{%- endif -%}}
    {{{{- "{END_OF_TURN}\\n" -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
    {{{{- "<|im_start|>assistant\\n" -}}}}
{{%- endif -%}}
"""


def train_tokenizer(
    texts: Iterable[str], *, num_tokens: int = 1000, more_special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """A byte-level BPE that splits text as Qwen does; it has every byte, so any text (in NFC) comes back as it was.

    It has at most `num_tokens`, special ones included (fewer where `texts` has no more pairs to join), and pads on
    the left, for generation. Same texts, same tokenizer.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import Qwen2Tokenizer

    special_tokens = [*SPECIAL_TOKENS, *more_special_tokens]
    pipeline = Qwen2Tokenizer().backend_tokenizer  # it splits text, and has learnt no word yet
    trainer = BpeTrainer(
        vocab_size=num_tokens - len(special_tokens),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    pipeline.train_from_iterator(texts, trainer)
    learnt = json.loads(pipeline.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Qwen2Tokenizer(learnt["vocab"], merges, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": special_tokens})
    tokenizer.eos_token = END_OF_TURN  # only now: a token named to the constructor would come before the others
    return tokenizer


def qwen2_vl_processor(tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin:
    """That of Qwen2-VL, for pictures of 4 to 256 tokens of 28 by 28 pixels each."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    limits = pixel_limits(28)
    return Qwen2VLProcessor(
        Qwen2VLImageProcessor(**limits), tokenizer, Qwen2VLVideoProcessor(**limits), chat_template()
    )


def pixel_limits(token_side_pixels: int) -> dict[str, dict[str, int]]:
    """The `size` of a processor of the Qwen kind: areas of 4 to 256 visual tokens."""
    area = token_side_pixels**2
    return {"size": {"shortest_edge": 4 * area, "longest_edge": 256 * area}}


def text_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """What the configuration of a language model says of its tokenizer: it knows no token that this one doesn't."""
    end_of_text, end_of_turn = tokenizer.convert_tokens_to_ids([END_OF_TEXT, END_OF_TURN])
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_turn,
        "pad_token_id": end_of_text,
    }


def qwen_vision_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """What the configuration of a Qwen-VL says of the tokens around and in place of pictures."""
    return {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }


def save_model(folder: Path, model: PreTrainedModel, processor: ProcessorMixin | PreTrainedTokenizerBase) -> None:
    """Write all that `from_pretrained` and vLLM load into `folder`, which is made. A turn's or text's end stops it.

    The processor of a language model is its tokenizer.
    """
    from transformers import GenerationConfig

    ids = text_ids(getattr(processor, "tokenizer", processor))
    model.generation_config = GenerationConfig(
        bos_token_id=ids["bos_token_id"],
        pad_token_id=ids["pad_token_id"],
        eos_token_id=[ids["eos_token_id"], ids["bos_token_id"]],
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if hasattr(processor, "image_processor"):
        processor.image_processor.save_pretrained(folder)  # a file of its own, for programs that read only that
