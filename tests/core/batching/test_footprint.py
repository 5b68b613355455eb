"""Predicted bytes: by hand for the published 7B, and against the live tensors of small real models."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.batching.footprint import MARGIN, Footprint, Load, ModelShape, total_load
from omnicap_cli.errors import EngineError

# As published: flat, and `hidden_size` of the vision encoder is that of the language model.
QWEN2_VL_7B: dict[str, Any] = {
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
}
QWEN2_5_VL_7B = QWEN2_VL_7B | {
    "model_type": "qwen2_5_vl",
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "temporal_patch_size": 2,
    },
}
QWEN3_VL_8B: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "text_config": {
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "vocab_size": 151936,
    },
    "vision_config": {
        "deepstack_visual_indexes": [8, 16, 24],
        "depth": 27,
        "hidden_size": 1152,
        "in_channels": 3,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "temporal_patch_size": 2,
    },
}
ONE_PAGE = Load(  # 1,000 image tokens and a hundred of text
    num_rows=1,
    length=1100,
    num_tokens=1100,
    num_visual_tokens=1000,
    num_row_visual_tokens=1000,
    num_patches=4000,
    largest_num_patches=4000,
)


def shape_of(config: dict[str, Any], *, element_bytes: int = 2, attention: Any = "sdpa") -> ModelShape:
    return ModelShape.from_config(config, element_bytes=element_bytes, attention=attention)


# ----------------------------------------------------------------------------------------------- the shape


def test_shapes_of_published_models():
    assert shape_of(QWEN2_VL_7B) == ModelShape(
        num_layers=28,
        num_query_heads=28,
        num_kv_heads=4,
        head_dim=128,
        hidden_size=3584,
        intermediate_size=18944,
        vocab_size=152064,
        vision_num_heads=16,
        vision_hidden_size=1280,
        vision_intermediate_size=5120,
        patch_values=1176,  # 3 colours, 2 frames, 14 x 14
    )
    qwen2_5, qwen3 = shape_of(QWEN2_5_VL_7B), shape_of(QWEN3_VL_8B)
    assert (qwen2_5.vision_hidden_size, qwen2_5.vision_intermediate_size) == (1280, 3420)
    assert (qwen3.num_layers, qwen3.num_kv_heads, qwen3.head_dim, qwen3.hidden_size) == (36, 8, 128, 4096)
    assert (qwen3.vision_hidden_size, qwen3.patch_values, qwen3.num_deepstack) == (1152, 1536, 3)


def test_what_stands_in_both_places_is_the_language_model():
    config = QWEN3_VL_8B | {"hidden_size": 1, "num_hidden_layers": 1, "vocab_size": 1}
    assert shape_of(config) == shape_of(QWEN3_VL_8B)


def test_what_a_config_leaves_out():
    text = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": None, "num_hidden_layers": 2}
    shape = shape_of({"text_config": text, "vocab_size": 100, "vision_config": {"patch_size": [8, 10]}})
    assert (shape.num_kv_heads, shape.head_dim, shape.intermediate_size) == (4, 16, 256)
    assert (shape.vision_hidden_size, shape.vision_intermediate_size, shape.vision_num_heads) == (64, 256, 4)
    assert shape.patch_values == 3 * 2 * 10 * 10


def test_experts_are_as_wide_as_what_a_token_passes():
    text = QWEN3_VL_8B["text_config"] | {"num_experts_per_tok": 8, "moe_intermediate_size": 768, "hidden_size": 2048}
    assert shape_of({"text_config": text}).intermediate_size == 8 * (768 + 2048)


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [None, 0, "many", float("inf"), []])
def test_a_config_that_does_not_say_it(name, value):
    with pytest.raises(EngineError, match=name) as caught:
        shape_of(QWEN2_VL_7B | {name: value})
    assert caught.value.hint


# ------------------------------------------------------------------------------------------------- by hand


def test_cache_of_a_token():
    assert Footprint(shape_of(QWEN2_VL_7B)).kv_bytes_per_token == 28 * 4 * 128 * 2 * 2 == 57_344
    assert Footprint(shape_of(QWEN3_VL_8B)).kv_bytes_per_token == 36 * 8 * 128 * 2 * 2 == 147_456
    assert Footprint(shape_of(QWEN2_VL_7B, element_bytes=4)).kv_bytes_per_token == 114_688


def test_phases_of_one_page():
    footprint = Footprint(shape_of(QWEN2_VL_7B))
    pixels = 1176 * (4 + 2)
    positions = (1280 + 80 + 80) * 4
    attention = (2 + 3) * 1280 * 2 + 6 * 1280 * 4  # 43,520; the MLP takes (3 * 1280 + 3 * 5120) * 2 = 38,400
    assert footprint.vision_bytes(ONE_PAGE) == 4000 * (pixels + positions + attention) == 225_344_000
    mlp = (4 * 3584 + 3 * 18944 + 2 * 128) * 2
    assert footprint.prefill_bytes(ONE_PAGE) == 1100 * (57_344 + mlp) + 1000 * 3584 * 2 == 227_379_200
    layer = 2 * 4 * 128 * 2
    cached = 1100 + 2048 + 196  # with room for a sixteenth more
    decode = cached * (57_344 + 2 * layer) + 152_064 * 36
    assert footprint.decode_bytes(ONE_PAGE, 2048) == decode == 210_929_664
    assert footprint.peak_bytes(ONE_PAGE, 2048) == int((1000 * 3584 * 2 + 227_379_200) * 1.05)
    assert footprint.peak_bytes(ONE_PAGE, 8192) > 9292 * 57_344  # here the answers are the most


def test_padding_is_paid_and_needs_a_mask():
    two = ONE_PAGE.plus(ONE_PAGE._replace(length=600, num_tokens=600, num_visual_tokens=500, num_row_visual_tokens=500))
    assert (two.num_padded_tokens, two.num_tokens) == (2200, 1700)
    mlp = (4 * 3584 + 3 * 18944 + 2 * 128) * 2
    images = 1500 * 3584 * 2
    without = 2200 * (57_344 + mlp) + images
    assert Footprint(shape_of(QWEN2_VL_7B)).prefill_bytes(two) == without + 2 * 1100 * 1100
    assert Footprint(shape_of(QWEN2_VL_7B, attention="flash_attention_2")).prefill_bytes(two) == without


def test_masks_of_very_long_prompts_outgrow_the_mlp():
    two = Load(num_rows=2, length=40_000, num_tokens=60_000)
    attention = (3 * 3584 + 5 * 3584 + 3 * 512 + 2 * 128) * 2  # for a token
    mask = 1 + 2 + 2  # for two tokens: booleans for all layers, and for one layer numbers, twice
    expected = 80_000 * (57_344 + attention + 40_000 * mask)
    assert Footprint(shape_of(QWEN2_VL_7B)).prefill_bytes(two) == expected


def test_deepstack_has_more_embeddings():
    shape = shape_of(QWEN3_VL_8B)
    without = shape_of(QWEN3_VL_8B | {"vision_config": QWEN3_VL_8B["vision_config"] | {"deepstack_visual_indexes": []}})
    more = Footprint(shape).prefill_bytes(ONE_PAGE) - Footprint(without).prefill_bytes(ONE_PAGE)
    assert more == 3 * 1000 * 4096 * 2


def test_eager_attention_writes_all_scores():
    sdpa, eager = (Footprint(shape_of(QWEN2_VL_7B, attention=name)) for name in ("sdpa", "eager"))
    assert eager.vision_bytes(ONE_PAGE) - sdpa.vision_bytes(ONE_PAGE) == 16 * 4000 * 4000 * 12
    assert eager.prefill_bytes(ONE_PAGE) > 28 * 1100 * 1100 * 8 + 1100 * 57_344
    apart = ONE_PAGE.plus(ONE_PAGE)
    assert eager.vision_bytes(apart) - sdpa.vision_bytes(apart) == 16 * 4000 * 4000 * 12  # one picture at a time


# --------------------------------------------------------------------------------------------- properties

COUNTS = st.integers(1, 10_000)


@st.composite
def pages(draw):
    image, text, rows = draw(COUNTS), draw(COUNTS), draw(st.integers(1, 20))
    return Load(
        num_rows=rows,
        length=image + text,
        num_tokens=rows * (image + text),
        num_visual_tokens=image,
        num_row_visual_tokens=rows * image,
        num_patches=4 * image,
        largest_num_patches=4 * image,
    )


@given(
    st.lists(pages(), min_size=1, max_size=6), pages(), COUNTS, st.sampled_from(["sdpa", "eager", "flash_attention_2"])
)
def test_more_never_takes_less(loads, more, num_new_tokens, attention):
    footprint = Footprint(shape_of(QWEN2_VL_7B, attention=attention))
    load = total_load(loads)
    num_bytes = footprint.peak_bytes(load, num_new_tokens)
    assert num_bytes <= footprint.peak_bytes(load.plus(more), num_new_tokens)
    assert num_bytes <= footprint.peak_bytes(load, num_new_tokens + 1)
    assert num_bytes >= 57_344 * load.num_rows * (load.length + num_new_tokens)  # the cache at the end, by itself


@given(st.lists(pages(), max_size=6))
def test_totals(loads):
    load = total_load(loads)
    assert load.num_rows == sum(each.num_rows for each in loads)
    assert load.num_tokens == sum(each.num_tokens for each in loads)
    assert load.num_patches == sum(each.num_patches for each in loads)
    assert load.length == max((each.length for each in loads), default=0)
    assert load.largest_num_patches == max((each.num_patches for each in loads), default=0)


# --------------------------------------------------------------------------------------------- real models

TEXT: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION: dict[str, Any] = {"depth": 3, "num_heads": 4}
MARKS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
GRID = (1, 16, 20)  # patches of each picture
TEXT_TOKENS = (30, 110, 70)  # of each row
NUM_NEW_TOKENS = 12


def build(family: str, attention: str) -> Any:
    import transformers

    name, vision = {
        "qwen2_vl": ("Qwen2VL", {"embed_dim": 160, "hidden_size": 256}),
        "qwen2_5_vl": ("Qwen2_5_VL", {"hidden_size": 160, "out_hidden_size": 256, "intermediate_size": 428}),
        "qwen3_vl": ("Qwen3VL", {"hidden_size": 160, "out_hidden_size": 256, "intermediate_size": 640}),
    }[family]
    rope = {"rope_type": "default", "type": "mrope", "mrope_section": [8, 12, 12], "rope_theta": 1e6}
    if family == "qwen3_vl":
        rope["mrope_interleaved"] = True
        vision |= {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 256}
    config = getattr(transformers, f"{name}Config")(
        text_config=TEXT | {"rope_parameters": rope}, vision_config=VISION | vision, **MARKS
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")._from_config(config, attn_implementation=attention)


def live_bytes() -> Any:
    """A mode that counts the bytes of all tensors made under it: `live` now, and `peak` since it was last set."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class LiveBytes(TorchDispatchMode):
        live = peak = 0

        def __init__(self) -> None:
            super().__init__()
            self.known: dict[int, int] = {}

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            results = function(*args, **(kwargs or {}))
            for result in tree_leaves(results):
                if isinstance(result, torch.Tensor):
                    self.count(result.untyped_storage())
            return results

        def count(self, storage) -> None:
            if storage._cdata not in self.known:
                self.known[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.drop, storage._cdata)

        def drop(self, address: int) -> None:
            self.live -= self.known.pop(address)

    return LiveBytes()


def measured_peaks(model: Any) -> list[int]:
    """The most bytes alive while pictures are encoded, prompts are read, and answers grow; weights not counted."""
    import torch

    num_rows, num_patches = len(TEXT_TOKENS), GRID[1] * GRID[2]
    vision = model.config.vision_config
    num_values = 3 * vision.temporal_patch_size * vision.patch_size**2
    length = num_patches // 4 + max(TEXT_TOKENS)
    ids = torch.zeros(num_rows, length, dtype=torch.long)
    for row, num_text in enumerate(TEXT_TOKENS):
        tokens = [9] * (num_text - 3) + [7] + [5] * (num_patches // 4) + [8, 9]
        ids[row, length - len(tokens) :] = torch.tensor(tokens)
    mask, grid = (ids > 0).long(), torch.tensor([GRID] * num_rows)
    counter = live_bytes()
    with torch.inference_mode(), counter:
        pixels = torch.randn(num_rows * num_patches, num_values)
        encoded = model.get_image_features(pixels, grid, return_dict=True)
        peaks = [counter.peak]
        kept = {"pooler_output": encoded.pooler_output}
        if (features := getattr(encoded, "deepstack_features", None)) is not None:
            kept["deepstack_features"] = features
        encoded = type(encoded)(**kept)
        del pixels, kept, features
        counter.peak = counter.live
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            image_grid_thw=grid,
            mm_token_type_ids=(ids == 5).int(),
            mm_encoder_outputs={"image": encoded},
            logits_to_keep=1,
        )
        peaks.append(counter.peak)
        counter.peak = counter.live
        for step in range(NUM_NEW_TOKENS):
            mask = torch.cat([mask, mask.new_ones(num_rows, 1)], dim=-1)
            position = torch.full((3, num_rows, 1), length + step)
            outputs = model(
                input_ids=outputs.logits[:, -1].float().argmax(-1, keepdim=True),
                attention_mask=mask,
                position_ids=position,
                past_key_values=outputs.past_key_values,
                logits_to_keep=1,
            )
        peaks.append(counter.peak)
    return peaks


@pytest.mark.parametrize(
    ("family", "type_name", "attention"),
    [
        ("qwen2_vl", "float32", "sdpa"),
        ("qwen2_vl", "bfloat16", "sdpa"),
        ("qwen2_vl", "float32", "eager"),
        ("qwen2_5_vl", "bfloat16", "sdpa"),
        ("qwen3_vl", "bfloat16", "sdpa"),
    ],
)
def test_live_tensors_of_a_real_model(family, type_name, attention):
    import torch

    model = build(family, attention).to(getattr(torch, type_name)).eval()
    element_bytes = model.dtype.itemsize
    footprint = Footprint(shape_of(model.config.to_dict(), element_bytes=element_bytes, attention=attention))
    num_rows, num_patches = len(TEXT_TOKENS), GRID[1] * GRID[2]
    num_visual_tokens = num_rows * num_patches // 4
    load = Load(
        num_rows=num_rows,
        length=num_patches // 4 + max(TEXT_TOKENS),
        num_tokens=num_visual_tokens + sum(TEXT_TOKENS),
        num_visual_tokens=num_visual_tokens,
        num_row_visual_tokens=num_visual_tokens,
        num_patches=num_rows * num_patches,
        largest_num_patches=num_patches,
    )
    kept = num_visual_tokens * 256 * element_bytes * (3 if family == "qwen3_vl" else 1)
    predicted = (
        kept + footprint.vision_bytes(load),
        kept + footprint.prefill_bytes(load),
        kept + footprint.decode_bytes(load, NUM_NEW_TOKENS),
    )
    measured = measured_peaks(model)
    for most, is_there in zip(predicted, measured, strict=True):
        assert most * 0.6 <= is_there <= most * (1 + MARGIN)
    assert footprint.peak_bytes(load, NUM_NEW_TOKENS) >= max(measured)
