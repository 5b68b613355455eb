"""The example of shapes: captions are true of the pixels, in which each shape is found by its colour alone."""

from __future__ import annotations

import colorsys
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from support.shapes_example import caption_of, contents, load_script, read_records, run, run_readme

HUES = {  # in degrees
    "red": (-15, 15),
    "orange": (15, 42),
    "yellow": (42, 70),
    "green": (90, 165),
    "blue": (205, 250),
    "purple": (260, 300),
    "pink": (315, 345),
}
PLACES = {  # (across, down) in thirds
    "in the top left corner": (0, 0),
    "at the top": (1, 0),
    "in the top right corner": (2, 0),
    "on the left": (0, 1),
    "in the middle": (1, 1),
    "on the right": (2, 1),
    "in the bottom left corner": (0, 2),
    "at the bottom": (1, 2),
    "in the bottom right corner": (2, 2),
}
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SHAPE = r"a (\w+ \w+ \w+)"
CAPTION = re.compile(rf"{SHAPE} is (.+?)(?: {SHAPE}(?:, and {SHAPE} is (.+?) the (\w+ \w+))?)?\.", re.IGNORECASE)


class Seen(NamedTuple):
    """A shape as found in the pixels. The box is left, top, right, bottom, of which the last two are outside."""

    name: str
    box: tuple[int, int, int, int]
    centre: tuple[float, float]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's first line was run: it wrote `shapes`."""
    folder = tmp_path_factory.mktemp("made")
    run_readme(folder, slice(1))
    return folder


# ---------------------------------------------------------------------------------------------- the pictures


def parts_of(colour: int) -> tuple[int, int, int]:
    """Red, green, blue."""
    return int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255


def colour_name(colour: int) -> str:
    hue, _, value = colorsys.rgb_to_hsv(*(part / 255 for part in parts_of(colour)))
    if value < 0.2:
        return "black"
    degrees = hue * 360
    degrees -= 360 if degrees > 345 else 0
    (name,) = [name for name, (low, high) in HUES.items() if low <= degrees < high]
    return name


def kind_name(filled: np.ndarray) -> str:
    """From which part of its box a shape fills: a circle pi/4, a star 0.34, a triangle and a diamond a half each."""
    share = filled.mean()
    lower = filled[filled.shape[0] // 2 :].sum() / filled.sum()
    if share > 0.95:
        return "square"
    if share > 0.7:
        return "circle"
    if share < 0.42:
        return "star"
    return "triangle" if lower > 0.65 else "diamond"  # in whose lower half are 3/4, and 1/2


def size_name(box: tuple[int, int, int, int], shorter_side: int) -> str:
    share = max(box[2] - box[0], box[3] - box[1]) / shorter_side
    return "small" if share < 0.205 else "medium" if share < 0.31 else "large"


def find_shapes(image: Image.Image) -> list[Seen]:
    """Every colour but the commonest that fills 1/800 of the picture, and a square of 3 by 3 pixels somewhere.

    Colours that are mixed are at edges only.
    """
    red, green, blue = np.moveaxis(np.asarray(image).astype(int), -1, 0)
    pixels = (red << 16) + (green << 8) + blue
    colours, counts = np.unique(pixels, return_counts=True)
    background = colours[counts.argmax()]
    assert min(parts_of(background)) > 230
    found = colours[(counts * 800 > pixels.size) & (colours != background)]
    return [find_shape(pixels, colour) for colour in found if has_core(pixels == colour)]


def has_core(mask: np.ndarray) -> bool:
    lines = mask[:-2] & mask[1:-1] & mask[2:]
    return bool((lines[:, :-2] & lines[:, 1:-1] & lines[:, 2:]).any())


def find_shape(pixels: np.ndarray, colour: int) -> Seen:
    """What is unlike the ground around the pixels of `colour`: with the edges, and with what is inside."""
    rows, columns = np.nonzero(pixels == colour)
    top, left = max(rows.min() - 3, 0), max(columns.min() - 3, 0)
    window = pixels[top : rows.max() + 4, left : columns.max() + 4]
    rows, columns = np.nonzero(window != window[0, 0])
    filled = (window != window[0, 0])[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    box = (left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1)
    name = f"{size_name(box, min(pixels.shape))} {colour_name(colour)} {kind_name(filled)}"
    return Seen(name, tuple(map(int, box)), (float(left + columns.mean()), float(top + rows.mean())))


def is_true(relation: str, one: Seen, other: Seen) -> bool:
    if relation in ("right of", "below"):
        return is_true(OPPOSITES[relation], other, one)
    across, down = other.centre[0] - one.centre[0], other.centre[1] - one.centre[1]
    if relation == "left of":
        return one.box[2] < other.box[0] and across > 1.4 * abs(down)
    if relation == "above":
        return one.box[3] < other.box[1] and down > 1.4 * abs(across)
    assert relation == "inside"
    return is_within(one.box, other.box)


def is_within(inner: tuple[int, ...], outer: tuple[int, ...]) -> bool:
    return inner[0] > outer[0] and inner[1] > outer[1] and inner[2] < outer[2] and inner[3] < outer[3]


def is_surrounded(image: Image.Image, inner: Seen, outer: Seen) -> bool:
    """Whether the frame three pixels around the box of `inner` is all of the colour of `outer`."""
    left, top, right, bottom = inner.box
    pixels = np.asarray(image)[top - 3 : bottom + 3, left - 3 : right + 3]
    (colour, *others) = {tuple(map(int, each)) for each in (*pixels[0], *pixels[-1], *pixels[:, 0], *pixels[:, -1])}
    return not others and colour_name((colour[0] << 16) + (colour[1] << 8) + colour[2]) == outer.name.split()[1]


def are_apart(one: Seen, other: Seen) -> bool:
    return (
        one.box[2] < other.box[0] or other.box[2] < one.box[0] or one.box[3] < other.box[1] or other.box[3] < one.box[1]
    )


def check_caption(image: Image.Image, caption: str) -> str:
    """Fail where the caption isn't true of the picture, or leaves a shape out. Returns what it says of the first."""
    seen = {shape.name: shape for shape in find_shapes(image)}
    found = CAPTION.fullmatch(caption)
    assert found, caption
    first, where, second, third, third_where, again = found.groups()
    assert sorted(filter(None, (first, second, third))) == sorted(seen), caption
    assert len({name.split()[1] for name in seen}) == len(seen)
    if second is None:
        across, down = seen[first].centre
        assert (int(across / image.width * 3), int(down / image.height * 3)) == PLACES[where], caption
        return where
    assert is_true(where, seen[first], seen[second]), caption
    if third:
        assert second.endswith(f" {again}")
        assert is_true(third_where, seen[third], seen[second]), caption
    if where == "inside":
        assert is_surrounded(image, seen[first], seen[second]), caption
    else:
        assert all(are_apart(*pair) for pair in itertools.combinations(seen.values(), 2)), caption
    return where


@pytest.mark.parametrize("size", ["448x448", "640x420", "300x500"])
def test_captions_are_true_of_the_pixels(tmp_path, size):
    result = run("draw.py", "drawn", "--train", "150", "--held-out", "10", "--size", size, "--seed", "5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    records = read_records(tmp_path / "drawn/train.jsonl") + read_records(tmp_path / "drawn/held-out.jsonl")
    assert len(records) == 160
    said = Counter()
    for record in records:
        with Image.open(tmp_path / record["image"]) as image:
            assert f"{image.width}x{image.height}" == size
            said[check_caption(image, caption_of(record))] += 1
    assert set(said) >= {"left of", "right of", "above", "below", "inside"}
    assert len(set(said) & set(PLACES)) >= 6


def test_a_small_world_has_one_caption_for_each_picture(tmp_path):
    """One or two shapes of three kinds and two sizes; a pair in the order of colours, which is none of places."""
    words = ("--train", "0", "--held-out", "150", "--size", "84x84", "--world", "small")
    result = run("draw.py", "drawn", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    order, said, words_of_shapes = [*HUES, "black"], Counter(), set()
    for record in read_records(tmp_path / "drawn/held-out.jsonl"):
        names = re.findall(SHAPE, caption_of(record), re.IGNORECASE)
        colours = [name.split()[1] for name in names]
        assert len(names) in (1, 2)
        assert colours == sorted(colours, key=order.index), caption_of(record)
        words_of_shapes |= {word for name in names for word in (name.split()[0], name.split()[2])}
        said[CAPTION.fullmatch(caption_of(record))[2]] += 1
    assert words_of_shapes == {"medium", "large", "circle", "square", "triangle"}
    assert set(said) == {*OPPOSITES, *PLACES}


def test_small_pictures_show_the_colours_that_are_said(made):
    for record in read_records(made / "shapes/held-out.jsonl"):
        with Image.open(made / record["image"]) as image:
            assert image.size == (112, 112)
            assert {shape.name.split()[1] for shape in find_shapes(image)} == {
                name.split()[1] for name in re.findall(SHAPE, caption_of(record), re.IGNORECASE)
            }


def test_every_word_is_used(made):
    words = Counter(word for record in read_records(made / "shapes/train.jsonl") for word in caption_of(record).split())
    for word in (*HUES, "black", "small", "medium", "large", "left", "right", "above", "below", "inside"):
        assert words[word] >= 100, word
    for kind in ("circle", "square", "triangle", "diamond", "star"):
        assert sum(words[kind + end] for end in ("", ".", ",")) >= 300, kind


def test_edges_are_smooth(made):
    with Image.open(made / "shapes/train/000001.png") as image:
        assert len(image.getcolors()) > 4


# ----------------------------------------------------------------------------------------------- the records


def test_records_are_in_the_form_of_fine_tuning(made):
    for name, count in (("train", 2000), ("held-out", 200)):
        records = read_records(made / f"shapes/{name}.jsonl")
        assert len(records) == count == len(list((made / "shapes" / name).iterdir()))
        assert len({record["id"] for record in records}) == count
        assert {record["task_type"] for record in records} == {"short_natural"}
        assert {record["image"] for record in records} == {
            f"shapes/{name}/{number:06}.png" for number in range(1, count + 1)
        }
        for record in records:
            question, answer = record["conversations"]
            assert set(record) == {"id", "image", "conversations", "task_type"}
            assert (question["from"], answer["from"]) == ("human", "gpt")
            assert question["value"] == "<image>\nDescribe this photograph in one sentence."
            assert len(answer["value"].split()) <= 25  # as the system text of this task type asks


def test_no_picture_is_in_both_splits(made):
    pictures = [path.read_bytes() for path in (made / "shapes").rglob("*.png")]
    assert len(set(pictures)) == len(pictures) == 2200


def test_what_was_drawn_before_is_not_drawn_again(monkeypatch, tmp_path):
    """However it is said, on whatever ground, and in whichever split."""
    draw = load_script("draw")
    red = draw.Shape(colour="red", kind="circle", size="small", side=70, x=60, y=200)
    blue = draw.Shape(colour="blue", kind="circle", size="small", side=70, x=300, y=200)
    white, grey = (255, 255, 255), (240, 240, 240)
    scenes = [
        draw.Scene(background=white, shapes=(red, blue), caption="one"),
        draw.Scene(background=white, shapes=(blue, red), caption="the other way round"),
        None,
        draw.Scene(background=grey, shapes=(red, blue), caption="one, greyer"),
        draw.Scene(background=white, shapes=(red,), caption="two"),
        draw.Scene(background=white, shapes=(red, blue), caption="one again"),
        draw.Scene(background=white, shapes=(blue,), caption="three"),
    ]
    following = iter(scenes)
    for name in ("_one", "_pair", "_three", "_inside"):
        monkeypatch.setattr(draw.Artist, name, lambda self: next(following))
    draw.write_splits(tmp_path, draw.Artist(0, 112, 112), num_train=1, num_held_out=2)
    assert [caption_of(record) for record in read_records(tmp_path / "held-out.jsonl")] == ["one", "two"]
    assert [caption_of(record) for record in read_records(tmp_path / "train.jsonl")] == ["three"]


def test_same_seed_same_pictures(tmp_path):
    for name, words in {"a": (), "b": (), "more": ("--train", "30"), "other": ("--seed", "1")}.items():
        (tmp_path / name).mkdir()
        run("draw.py", "drawn", "--train", "20", "--held-out", "10", *words, cwd=tmp_path / name)
    first, second, more, other = (contents(tmp_path / name / "drawn") for name in ("a", "b", "more", "other"))
    assert len(first) == 32
    assert first == second
    assert all(more[path] == content for path, content in first.items() if path != "train.jsonl")
    assert not set(first.values()) & set(other.values())


@pytest.mark.parametrize("script", ["draw.py", "build.py"])
def test_nothing_is_written_into_a_full_folder(tmp_path, script):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "records.jsonl").write_text("")
    words = ("--records", "records.jsonl") if script == "build.py" else ()
    result = run(script, "full", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert "'full' is there already" in result.stderr
    assert contents(tmp_path / "full") == {"mine.txt": b"mine"}
