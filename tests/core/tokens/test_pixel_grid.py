"""The grid against transformers' own image processors, and against numbers worked out by hand."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessor

from omnicap_cli.core.tokens.pixel_grid import PixelGrid
from omnicap_cli.errors import AspectRatioError, EngineError

QWEN2 = PixelGrid()
QWEN3 = PixelGrid(patch_size=16, min_pixels=256 * 256, max_pixels=4096 * 4096)
LIMITS = [  # those of transformers, of the published captioner, of Qwen3-VL, and some that leave hardly a choice
    (56 * 56, 28 * 28 * 1280),
    (2 * 28 * 28, 6400 * 28 * 28),
    (256 * 256, 4096 * 4096),
    (1, 1),
    (50_000, 50_000),
    (1, 10**9),
]


def real(grid: PixelGrid) -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(
        patch_size=grid.patch_size,
        merge_size=grid.merge_size,
        size={"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels},
    )


def num_patches_or_none(count, height: int, width: int) -> int | None:
    """None where the picture is refused."""
    try:
        return count(height, width)
    except (AspectRatioError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize(
    ("grid", "size", "resized", "num_patches", "num_tokens"),
    [
        (QWEN2, (224, 224), (224, 224), 256, 64),
        (QWEN2, (70, 98), (56, 112), 32, 8),  # 2.5 and 3.5 tokens: half goes to the even number
        (QWEN2, (3508, 2480), (1176, 840), 5040, 1260),  # A4 at 300 dpi: 42.55 and 30.08 tokens, rounded down
        (QWEN2, (10, 20), (56, 84), 24, 6),  # 1.41 and 2.83 tokens, rounded up
        (QWEN2, (1, 1), (56, 56), 16, 4),
        (QWEN2, (1, 200), (28, 812), 116, 29),  # no token in height, 7 in width: 0.14 and 28.28, rounded up
        (QWEN2, (40_000, 200), (14_140, 56), 4040, 1010),  # 505.97 and 2.53 tokens, rounded down
        (QWEN3, (100, 100), (256, 256), 256, 64),
        (QWEN3, (3508, 2480), (3520, 2496), 34_320, 8580),
    ],
)
def test_by_hand(grid, size, resized, num_patches, num_tokens):
    assert grid.resized_size(*size) == resized
    assert grid.num_patches(*size) == num_patches
    assert grid.num_tokens(*size) == num_tokens


@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("limits", LIMITS)
def test_as_many_patches_as_the_real_one_says(patch_size, limits):
    grid = PixelGrid(patch_size=patch_size, min_pixels=limits[0], max_pixels=limits[1])
    count = real(grid).get_number_of_image_patches
    source = random.Random(repr((patch_size, limits)))
    num_refused = 0
    for _ in range(2000):
        height, width = round(2 ** source.uniform(0, 14.3)), round(2 ** source.uniform(0, 14.3))  # up to 20,000
        expected = num_patches_or_none(count, height, width)
        assert num_patches_or_none(grid.num_patches, height, width) == expected, (height, width)
        num_refused += expected is None
    assert 50 < num_refused < 1000


SIDES = st.integers(1, 20_000)


@given(
    height=SIDES,
    width=SIDES,
    patch_size=st.integers(1, 40),
    merge_size=st.integers(1, 4),
    min_pixels=st.integers(1, 10**7),
    max_pixels=st.integers(1, 10**8),
)
@example(height=200, width=1, patch_size=14, merge_size=2, min_pixels=3136, max_pixels=1_003_520)
@example(height=1, width=201, patch_size=14, merge_size=2, min_pixels=3136, max_pixels=1_003_520)
@example(height=20_000, width=100, patch_size=16, merge_size=2, min_pixels=65_536, max_pixels=16_777_216)
def test_as_the_real_one_whatever_the_numbers(height, width, patch_size, merge_size, min_pixels, max_pixels):
    grid = PixelGrid(patch_size=patch_size, merge_size=merge_size, min_pixels=min_pixels, max_pixels=max_pixels)
    expected = num_patches_or_none(real(grid).get_number_of_image_patches, height, width)
    assert num_patches_or_none(grid.num_patches, height, width) == expected
    if expected is not None:
        assert grid.num_tokens(height, width) * merge_size**2 == expected


@pytest.mark.parametrize("grid", [QWEN2, QWEN3])
def test_as_many_patches_as_a_picture_really_becomes(grid):
    processor = real(grid)
    source = random.Random(3)
    for _ in range(50):
        width, height = source.randint(1, 600), source.randint(3, 600)
        limits = grid.with_limits(source.choice([None, 5_000, 80_000]), source.choice([None, 90_000]))
        size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
        output = processor(Image.new("RGB", (width, height)), size=size, return_tensors="pt")
        rows, columns = (side // grid.patch_size for side in limits.resized_size(height, width))
        assert output["image_grid_thw"].tolist() == [[1, rows, columns]], (height, width, limits)
        assert output["pixel_values"].shape == (
            limits.num_patches(height, width),
            3 * grid.temporal_patch_size * grid.patch_size**2,
        )


def test_a_side_of_more_than_two_hundred_times_the_other():
    assert QWEN2.num_tokens(10, 2000) == 29  # 28.28 tokens of width, and 0.14 of height
    with pytest.raises(AspectRatioError, match=r"^2001 x 10 pixels: .* more than 200 times"):
        QWEN2.num_tokens(10, 2001)
    with pytest.raises(AspectRatioError, match=r"^10 x 2001 pixels"):
        QWEN2.num_patches(2001, 10)
    with pytest.raises(AspectRatioError) as caught:
        QWEN2.resized_size(1, 201)
    assert caught.value.kind == "AspectRatioError"


# -------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("asked", "limits"),
    [
        ((None, None), (3136, 1_003_520)),
        ((5000, None), (5000, 1_003_520)),
        ((None, 5000), (3136, 5000)),
        ((10_000, 20_000), (10_000, 20_000)),
        ((None, 1000), (1000, 1000)),  # the model's own lower limit gives way,
        ((2_000_000, None), (2_000_000, 2_000_000)),  # and its upper one
    ],
)
def test_limits_of_a_user(asked, limits):
    grid = PixelGrid(patch_size=16, temporal_patch_size=3).with_limits(*asked)
    assert (grid.min_pixels, grid.max_pixels) == limits
    assert (grid.patch_size, grid.temporal_patch_size) == (16, 3)


@given(SIDES, SIDES, st.integers(1, 10**7))
def test_no_picture_is_larger_than_asked(height, width, max_pixels):
    grid = PixelGrid(min_pixels=1).with_limits(None, max_pixels)
    if max(height, width) <= 200 * min(height, width):
        new_height, new_width = grid.resized_size(height, width)
        # but for what is down to one token on one side, which can't be halved
        assert new_height * new_width <= max_pixels or min(new_height, new_width) == 28


# ------------------------------------------------------------------------------------------- model folders


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"min_pixels": 3136, "max_pixels": 12_845_056},  # as the models were published
        {"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}, "patch_size": 16},
        {"size": {"min_pixels": 200, "max_pixels": 900_000}, "min_pixels": 300, "max_pixels": 800_000},
        {"size": {"shortest_edge": 200, "longest_edge": 900_000}, "max_pixels": 800_000},
        {"size": {"shortest_edge": 200, "longest_edge": 900_000}, "min_pixels": None, "max_pixels": None},
        {"patch_size": 8, "merge_size": 3, "temporal_patch_size": 1, "do_resize": True},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_folders_are_read_as_transformers_reads_them(tmp_path, config, nested):
    config = {"image_processor_type": "Qwen2VLImageProcessor"} | config
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (tmp_path / name).write_text(json.dumps({"image_processor": config} if nested else config))
    processor = Qwen2VLImageProcessor.from_pretrained(tmp_path)
    expected = PixelGrid(
        patch_size=processor.patch_size,
        merge_size=processor.merge_size,
        temporal_patch_size=processor.temporal_patch_size,
        min_pixels=processor.size["shortest_edge"],
        max_pixels=processor.size["longest_edge"],
    )
    assert PixelGrid.of_folder(tmp_path) == expected
    assert PixelGrid.of_config(processor.to_dict()) == expected


def test_limits_under_their_old_names_in_size_alone():
    size = {"min_pixels": 4000, "max_pixels": 5000}
    grid = PixelGrid.of_config({"image_processor_type": "Qwen2VLImageProcessorFast", "size": size})
    assert grid == PixelGrid(min_pixels=4000, max_pixels=5000)


def test_the_processor_has_the_last_word_in_a_folder(tmp_path):
    """Where both files say something, transformers takes what is nested in the processor's."""
    config = {"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 500_000}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config | {"max_pixels": 600_000}}))
    assert PixelGrid.of_folder(tmp_path) == PixelGrid(max_pixels=600_000)
    assert Qwen2VLImageProcessor.from_pretrained(tmp_path).size["longest_edge"] == 600_000
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Qwen2VLProcessor"}')
    assert PixelGrid.of_folder(tmp_path) == PixelGrid(max_pixels=500_000)


@pytest.mark.parametrize(
    "config",
    [
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": "Glm4vImageProcessor", "patch_size": 14, "merge_size": 2},  # counts frames too
        {"patch_size": 14, "merge_size": 2},
        {"image_processor_type": "Qwen2VLImageProcessor", "do_resize": False},
    ],
)
def test_what_is_cut_in_another_way_has_no_grid(config):
    assert PixelGrid.of_config(config) is None


def test_a_folder_that_does_not_say(tmp_path):
    with pytest.raises(EngineError, match="doesn't say how the model cuts pictures") as caught:
        PixelGrid.of_folder(tmp_path)
    assert "preprocessor_config.json" in (caught.value.hint or "")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"version https://git-lfs"])
@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_damaged_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(EngineError, match=rf"{name} (is empty|is not JSON|holds no JSON object|is only a Git LFS)"):
        PixelGrid.of_folder(tmp_path)


@pytest.mark.parametrize("number", [0, -14, "14", 14.5, [14], True])
@pytest.mark.parametrize("name", ["patch_size", "merge_size", "max_pixels"])
def test_impossible_numbers_are_named(name, number):
    with pytest.raises(EngineError) as caught:
        PixelGrid.of_config({"image_processor_type": "Qwen2VLImageProcessor", name: number})
    assert caught.value.message == f"the model's image processor has the {name} {number!r}"
