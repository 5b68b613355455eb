"""How much of a device's memory a batch takes, from a model's config alone. It knows numbers, not tensors or pixels.

The formulas count what is alive at once where a forward pass of Qwen2-VL, Qwen2.5-VL or Qwen3-VL is at its largest;
other models are built alike. Below, h is the hidden size, i the intermediate size, q and k the widths of all query
and of all key heads of a layer; every value takes `element_bytes` unless it says otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from omnicap_cli.errors import EngineError

MARGIN: Final = 0.05  # of every prediction: an allocator rounds up, and can't always use what lies between two blocks
_FLOAT32_BYTES: Final = 4
_LOGIT_BYTES: Final = 36  # as the model gives it (up to 4), in fp32 (4), and top-k and top-p at work on it (28)
_SCORE_BYTES: Final = 12  # of two tokens in one head: the product, with its mask, and softmax in fp32


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides the memory that a batch takes.

    `num_query_heads` are those of the language model; `vision_intermediate_size` is the width inside a vision MLP;
    `patch_values` are the values of one patch of `pixel_values`; `num_deepstack` is how many more embeddings an image
    token has than one (Qwen3-VL). `element_bytes` is 4 in fp32, else 2. `attention` is `eager` too where a device's
    own attention writes all scores to memory.
    """

    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    vision_num_heads: int
    vision_hidden_size: int
    vision_intermediate_size: int
    patch_values: int
    num_deepstack: int = 0
    element_bytes: int = 2
    attention: str = "sdpa"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, element_bytes: int, attention: str) -> ModelShape:
        """The shape of the model that `config` describes: `config.to_dict()` of transformers, or a whole `config.json`.

        Numbers of the language model may stand in `text_config` or at the top. Raises EngineError where one is
        missing, which `to_dict()` never causes; numbers of the vision encoder are then taken as the language model's,
        which is larger.
        """
        text = (_section_of(config, "text_config"), config)
        hidden_size = _count_of(text, "hidden_size", "n_embd", "d_model")
        num_query_heads = _count_of(text, "num_attention_heads", "n_head")
        vision = (_section_of(config, "vision_config"),)
        vision_hidden_size = _count_of(vision, "embed_dim", "hidden_size", "width", default=hidden_size)
        mlp_ratio = _count_of(vision, "mlp_ratio", default=4)
        return cls(
            num_layers=_count_of(text, "num_hidden_layers", "n_layer"),
            num_query_heads=num_query_heads,
            num_kv_heads=_count_of(text, "num_key_value_heads", default=num_query_heads),
            head_dim=_count_of(text, "head_dim", default=hidden_size // num_query_heads),
            hidden_size=hidden_size,
            intermediate_size=max(_count_of(text, "intermediate_size", default=4 * hidden_size), _expert_width(text)),
            vocab_size=_count_of(text, "vocab_size"),
            vision_num_heads=_count_of(vision, "num_heads", "num_attention_heads", default=num_query_heads),
            vision_hidden_size=vision_hidden_size,
            vision_intermediate_size=_count_of(vision, "intermediate_size", default=mlp_ratio * vision_hidden_size),
            patch_values=_patch_values(vision),
            num_deepstack=len(vision[0].get("deepstack_visual_indexes") or ()),
            element_bytes=element_bytes,
            attention=attention,
        )


class Load(NamedTuple):
    """What a batch puts on the device, in counts.

    `length` is the prompt of the longest row, to which all are padded; `num_tokens` the prompts without padding;
    `num_visual_tokens` counts each visual once, `num_row_visual_tokens` once for each of its rows. `num_patches` go
    through the vision encoder at once; the visual with most of them has `largest_num_patches`.
    """

    num_rows: int = 0
    length: int = 0
    num_tokens: int = 0
    num_visual_tokens: int = 0
    num_row_visual_tokens: int = 0
    num_patches: int = 0
    largest_num_patches: int = 0

    def plus(self, other: Load) -> Load:
        """Both in one batch."""
        return Load(
            self.num_rows + other.num_rows,
            max(self.length, other.length),
            self.num_tokens + other.num_tokens,
            self.num_visual_tokens + other.num_visual_tokens,
            self.num_row_visual_tokens + other.num_row_visual_tokens,
            self.num_patches + other.num_patches,
            max(self.largest_num_patches, other.largest_num_patches),
        )

    @property
    def num_padded_tokens(self) -> int:
        """The prompts, padding included."""
        return self.num_rows * self.length


def total_load(loads: Iterable[Load]) -> Load:
    """All in one batch."""
    return functools.reduce(Load.plus, loads, Load())


class Footprint:
    """Bytes for each thing that a batch has many of, and from them the most that a batch takes at once."""

    def __init__(self, shape: ModelShape) -> None:
        self._patch_bytes = _patch_bytes(shape)
        self._patch_pair_bytes = _SCORE_BYTES * shape.vision_num_heads if shape.attention == "eager" else 0
        self._visual_token_bytes = shape.element_bytes * shape.hidden_size * (1 + shape.num_deepstack)
        layer_bytes = 2 * shape.element_bytes * shape.num_kv_heads * shape.head_dim
        self.kv_bytes_per_token = shape.num_layers * layer_bytes
        self._mlp_bytes, self._attention_bytes = _token_bytes(shape)
        self._mask_bytes, self._pair_bytes = _pair_bytes(shape)
        # A cache grows by copying: one layer's keys and values are there twice, and attention may copy them too, in
        # eager mode once for each of the queries' heads.
        num_copies = shape.num_query_heads // shape.num_kv_heads if shape.attention == "eager" else 1
        self._cached_token_bytes = self.kv_bytes_per_token + (1 + num_copies) * layer_bytes
        self._row_bytes = _LOGIT_BYTES * shape.vocab_size

    def peak_bytes(self, load: Load, num_new_tokens: int) -> int:
        """The most that a batch takes at once beside the weights, MARGIN included, if rows grow by `num_new_tokens`.

        The embeddings of the visuals are kept throughout; beside them the vision encoder, the prompts and the
        growing answers each have their own largest moment, one after the other.
        """
        kept = load.num_visual_tokens * self._visual_token_bytes
        largest = max(self.vision_bytes(load), self.prefill_bytes(load), self.decode_bytes(load, num_new_tokens))
        return int((kept + largest) * (1 + MARGIN))

    def vision_bytes(self, load: Load) -> int:
        """The most that encoding all visuals at once takes; their scores are written one visual at a time."""
        return load.num_patches * self._patch_bytes + load.largest_num_patches**2 * self._patch_pair_bytes

    def prefill_bytes(self, load: Load) -> int:
        """The most that the prompts take in their only pass: at the end of the last layer, when the cache is full.

        Each row has its copy of its visuals' embeddings. A row alone has no padding, hence no mask.
        """
        tokens = load.num_padded_tokens
        pairs = tokens * load.length
        mask = pairs * self._mask_bytes if load.num_rows > 1 else 0
        layer = max(tokens * self._mlp_bytes, tokens * self._attention_bytes + pairs * self._pair_bytes)
        return tokens * self.kv_bytes_per_token + mask + layer + load.num_row_visual_tokens * self._visual_token_bytes

    def decode_bytes(self, load: Load, num_new_tokens: int) -> int:
        """The most that the answers take: when the last of `num_new_tokens` is sampled."""
        length = load.length + num_new_tokens
        tokens = load.num_rows * (length + room_tokens(length))
        return tokens * self._cached_token_bytes + load.num_rows * self._row_bytes


def room_tokens(num_tokens: int) -> int:
    """For how many more tokens a cache of `num_tokens` keeps room, so that it isn't copied for each."""
    return max(32, num_tokens // 16)


def _patch_bytes(shape: ModelShape) -> int:
    """Bytes for each patch at the largest moment of a vision block: in attention or in the MLP.

    Throughout: pixels, in fp32 and in the model's type, and positions in fp32 (sine, cosine, learned). In attention the
    block's input, its norm and q, k, v, while q and k are rotated in fp32 (six times the width, or four where they are
    fp32 already). In the MLP input, sum and norm, and three times the inside of the MLP.
    """
    width, element = shape.vision_hidden_size, shape.element_bytes
    is_cast = element != _FLOAT32_BYTES
    pixels = shape.patch_values * (_FLOAT32_BYTES + (element if is_cast else 0))
    positions = _FLOAT32_BYTES * (width + 2 * width // shape.vision_num_heads)
    attention = element * 5 * width + _FLOAT32_BYTES * (6 if is_cast else 4) * width
    mlp = element * 3 * (width + shape.vision_intermediate_size)
    return pixels + positions + max(attention, mlp)


def _token_bytes(shape: ModelShape) -> tuple[int, int]:
    """Bytes for each token of the prompt in an MLP and in attention of the language model.

    MLP: 4h + 3i (embeddings, input, sum, norm; gate, up and their product). Attention: 3h + 5q + 3k (embeddings, input,
    norm; queries, keys and values spread to the heads of the queries, output, output in order; keys and values as
    they came). Both: the rotary sine and cosine of the width of a head.
    """
    queries, keys = (shape.head_dim * heads for heads in (shape.num_query_heads, shape.num_kv_heads))
    rotary = 2 * shape.head_dim
    mlp = rotary + 4 * shape.hidden_size + 3 * shape.intermediate_size
    attention = rotary + 3 * shape.hidden_size + 5 * queries + 3 * keys
    return shape.element_bytes * mlp, shape.element_bytes * attention


def _pair_bytes(shape: ModelShape) -> tuple[int, int]:
    """Bytes for two tokens of one row: of the mask that all layers share, and of what one layer's attention adds.

    flash_attention_2 leaves padding out and has neither. sdpa has a mask of booleans, which it turns into numbers,
    and may copy so that its rows are aligned. eager has a mask of numbers, and scores for each head.
    """
    if shape.attention == "flash_attention_2":
        return 0, 0
    if shape.attention == "sdpa":
        return 1, 2 * shape.element_bytes
    return shape.element_bytes, _SCORE_BYTES * shape.num_query_heads


def _patch_values(vision: Sequence[Mapping[str, Any]]) -> int:
    patch_size = _count_of(vision, "patch_size", default=16)
    num_channels = _count_of(vision, "in_channels", "in_chans", "num_channels", default=3)
    return num_channels * patch_size**2 * _count_of(vision, "temporal_patch_size", default=2)


def _expert_width(text: Sequence[Mapping[str, Any]]) -> int:
    """As `intermediate_size`, of a mixture of experts: a token is copied to each of its experts, and comes back."""
    num_experts = _count_of(text, "num_experts_per_tok", default=0)
    return num_experts * (_count_of(text, "moe_intermediate_size", default=0) + _count_of(text, "hidden_size"))


def _section_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def _count_of(sources: Sequence[Mapping[str, Any]], *names: str, default: int | None = None) -> int:
    """The first count found under one of `names`, rounded up; of a list (a patch of unequal sides) the largest."""
    for source in sources:
        for name in names:
            value = source.get(name)
            counts: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
            if counts and all(isinstance(count, int | float) and 1 <= count < math.inf for count in counts):
                largest: float = max(counts)
                return math.ceil(largest)
    if default is None:
        raise EngineError(
            f"the model's config.json doesn't say {' or '.join(names)}",
            hint="Take the config.json of the model's own repository, or choose another --model.",
        )
    return default
