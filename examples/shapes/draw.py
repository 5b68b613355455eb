"""Draws pictures of coloured shapes, each with a caption that is true of it, to train and to test a small model on.

It knows no model, and of fine-tuning only the form of a record. Same options and same Pillow, same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from omnicap_cli.core.prompts.catalogue import Catalogue

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (216, 36, 40),
    "orange": (246, 134, 28),
    "yellow": (244, 212, 40),
    "green": (40, 152, 68),
    "blue": (40, 88, 216),
    "purple": (132, 56, 176),
    "pink": (248, 132, 188),
    "black": (28, 28, 30),
}


def _star() -> tuple[Point, ...]:
    """Five points and the corners between them, stretched to touch all four sides of a box of side 1."""
    turns = [(index * math.pi / 5, 0.4 if index % 2 else 1.0) for index in range(10)]
    corners = [(math.sin(angle) * radius, -math.cos(angle) * radius) for angle, radius in turns]
    (left, right), (top, bottom) = ((min(values), max(values)) for values in zip(*corners, strict=True))
    return tuple(((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in corners)


# Corners in a box of side 1; the circle has none.
KINDS: dict[str, tuple[Point, ...]] = {
    "circle": (),
    "square": ((0, 0), (1, 0), (1, 1), (0, 1)),
    "triangle": ((0.5, 0), (1, 1), (0, 1)),
    "diamond": ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
    "star": _star(),
}
SIZES = {"small": (0.14, 0.18), "medium": (0.23, 0.28), "large": (0.34, 0.40)}  # of the picture's shorter side
PLACES = (
    ("in the top left corner", "at the top", "in the top right corner"),
    ("on the left", "in the middle", "on the right"),
    ("in the bottom left corner", "at the bottom", "in the bottom right corner"),
)
ROOM = {"circle": 0.5**0.5, "square": 1.0}  # the side of the square that fits into a figure of side 1
GAP = 0.02  # between shapes, and to the edge, of the picture's shorter side
CLEAR_OF_THIRDS = 0.1  # of the picture: nearer than this to a third's border, a place has no name
NUM_TRIES = 100
SMOOTHNESS = 4  # sub-pixels along a pixel's side
MIN_SIDE_PIXELS = 56
STYLE = "natural/short/en"  # whose question is asked
TASK_TYPE = "short_natural"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What there is to draw: `scenes`, each as often as it is named, of shapes of `kinds` and `sizes`.

    Where it is `ordered`, shapes that are apart are named in the order of COLOURS: no other caption fits the picture.
    """

    scenes: tuple[str, ...] = ("one", "pair", "pair", "inside", "three")
    kinds: tuple[str, ...] = tuple(KINDS)
    sizes: tuple[str, ...] = tuple(SIZES)
    ordered: bool = False


WORLDS = {
    "whole": World(),
    "small": World(
        scenes=("one", "pair"), kinds=("circle", "square", "triangle"), sizes=("medium", "large"), ordered=True
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One figure. Its box has sides of `side` and the centre (x, y), all in sub-pixels."""

    colour: str
    kind: str
    size: str
    side: int
    x: int = 0
    y: int = 0

    @property
    def name(self) -> str:
        return f"{self.size} {self.colour} {self.kind}"

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half

    def at(self, x: int, y: int) -> Shape:
        """The same elsewhere."""
        return Shape(colour=self.colour, kind=self.kind, size=self.size, side=self.side, x=x, y=y)

    def draw(self, pen: ImageDraw.ImageDraw) -> None:
        """Onto a picture of sub-pixels."""
        left, top, right, bottom = self.box
        if not KINDS[self.kind]:
            pen.ellipse((left, top, right - 1, bottom - 1), COLOURS[self.colour])
            return
        corners = [(left + x * (self.side - 1), top + y * (self.side - 1)) for x, y in KINDS[self.kind]]
        pen.polygon(corners, COLOURS[self.colour])


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is drawn, the hindmost first, and the caption."""

    background: Colour
    shapes: tuple[Shape, ...]
    caption: str


class Artist:
    """Invents scenes of `width` by `height` pixels, and draws them."""

    def __init__(self, seed: int, width: int, height: int, world: World = WORLDS["whole"]) -> None:
        self._random = random.Random(seed)
        self._width, self._height = width * SMOOTHNESS, height * SMOOTHNESS
        self._shorter = min(self._width, self._height)
        self._gap = math.ceil(GAP * self._shorter)
        self._world = world

    def scenes(self) -> Iterator[Scene]:
        """Without end, and none with the shapes of an earlier one, on whatever ground."""
        seen = set()
        inventions = {"one": self._one, "pair": self._pair, "inside": self._inside, "three": self._three}
        while True:
            scene = inventions[self._random.choice(self._world.scenes)]()
            if scene and (drawn := frozenset(scene.shapes)) not in seen:
                seen.add(drawn)
                yield scene

    def draw(self, scene: Scene) -> Image.Image:
        """Each pixel the mean of its sub-pixels, so that edges are smooth."""
        large = Image.new("RGB", (self._width, self._height), scene.background)
        pen = ImageDraw.Draw(large)
        for shape in scene.shapes:
            shape.draw(pen)
        return large.reduce(SMOOTHNESS)

    def _one(self) -> Scene | None:
        """A shape, and in which ninth of the picture it is."""
        (shape,) = self._shapes(1)
        column, row = self._random.randrange(3), self._random.randrange(3)
        x, y = self._within(column, self._width, shape.side), self._within(row, self._height, shape.side)
        return self._scene((shape.at(x, y),), f"A {shape.name} is {PLACES[row][column]}.")

    def _pair(self) -> Scene | None:
        """Two shapes, and where the first is, seen from the second."""
        for _ in range(NUM_TRIES):
            first, second = shapes = self._scattered(2)
            if relation := self._relation(first, second):
                return self._scene(shapes, f"A {first.name} is {relation} a {second.name}.")
        return None

    def _three(self) -> Scene | None:
        """Three shapes, and where the first and the last are, seen from the second."""
        for _ in range(NUM_TRIES):
            first, second, third = shapes = self._scattered(3)
            before, after = self._relation(first, second), self._relation(third, second)
            if before and after and self._are_apart(first, third):
                caption = f"A {first.name} is {before} a {second.name}, and a {third.name} is {after} "
                return self._scene(shapes, f"{caption}the {second.colour} {second.kind}.")
        return None

    def _inside(self) -> Scene | None:
        """A small shape with all of a large one around it."""
        outer, inner = self._shapes(2, sizes=("large", "small"), kinds=tuple(ROOM))
        outer = outer.at(*self._anywhere(outer))
        spare = math.floor((ROOM[outer.kind] * outer.side - inner.side) / 2 - self._gap)
        if spare < 0:
            return None
        x, y = (centre + self._random.randint(-spare, spare) for centre in (outer.x, outer.y))
        return self._scene((outer, inner.at(x, y)), f"A {inner.name} is inside a {outer.name}.")

    def _shapes(self, count: int, *, sizes: tuple[str, ...] = (), kinds: tuple[str, ...] = ()) -> list[Shape]:
        """Shapes of different colours, so that each can be told by its colour. The first is of one of `kinds`."""
        colours = self._random.sample(list(COLOURS), count)
        shapes = []
        for index, colour in enumerate(colours):
            size = sizes[index] if sizes else self._random.choice(self._world.sizes)
            kind = self._random.choice(kinds if kinds and index == 0 else self._world.kinds)
            low, high = SIZES[size]
            side = self._random.randint(math.ceil(low * self._shorter), math.floor(high * self._shorter))
            shapes.append(Shape(colour=colour, kind=kind, size=size, side=side))
        return shapes

    def _scattered(self, count: int) -> tuple[Shape, ...]:
        shapes = [shape.at(*self._anywhere(shape)) for shape in self._shapes(count)]
        return tuple(
            sorted(shapes, key=lambda shape: list(COLOURS).index(shape.colour)) if self._world.ordered else shapes
        )

    def _anywhere(self, shape: Shape) -> tuple[int, int]:
        reach = math.ceil(shape.side / 2) + self._gap
        x = self._random.randint(reach, self._width - reach)
        return x, self._random.randint(reach, self._height - reach)

    def _within(self, third: int, length: int, side: int) -> int:
        """A place well within a third (0, 1, 2) of `length` for something of `side`, all of it in the picture."""
        reach = math.ceil(side / 2) + self._gap
        low = max(reach, math.ceil((third / 3 + (CLEAR_OF_THIRDS if third else 0)) * length))
        high = min(length - reach, math.floor(((third + 1) / 3 - (CLEAR_OF_THIRDS if third < 2 else 0)) * length))
        return self._random.randint(low, high)

    def _relation(self, one: Shape, other: Shape) -> str | None:
        """Where `one` is, seen from `other`: None where it is more or less in between, or too near."""
        if not self._are_apart(one, other):
            return None
        across, down = other.x - one.x, other.y - one.y
        if abs(across) >= 2 * abs(down):
            return "left of" if across > 0 else "right of"
        if abs(down) >= 2 * abs(across):
            return "above" if down > 0 else "below"
        return None

    def _are_apart(self, one: Shape, other: Shape) -> bool:
        return max(abs(one.x - other.x), abs(one.y - other.y)) >= (one.side + other.side) / 2 + self._gap

    def _scene(self, shapes: tuple[Shape, ...], caption: str) -> Scene:
        light = self._random.randint(236, 255), self._random.randint(236, 255), self._random.randint(236, 255)
        return Scene(background=light, shapes=shapes, caption=caption)


def question() -> str:
    """What `omnicap caption` asks with the type and style of STYLE, so that a model is trained on what it is asked."""
    type, style, lang = STYLE.split("/")
    return Catalogue.load().select(type, [style], lang)[0].user


def write_split(folder: Path, name: str, artist: Artist, scenes: Iterator[Scene]) -> None:
    """Draw `scenes` to `folder/name/`, and write their records for fine-tuning to `folder/name.jsonl`."""
    (folder / name).mkdir(parents=True)
    asked = f"<image>\n{question()}"
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for number, scene in enumerate(scenes, 1):
            path = folder / name / f"{number:06}.png"
            artist.draw(scene).save(path)
            turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": scene.caption}]
            record = {"id": f"{name}/{number:06}", "image": str(path), "conversations": turns, "task_type": TASK_TYPE}
            file.write(json.dumps(record) + "\n")


def write_splits(folder: Path, artist: Artist, *, num_train: int, num_held_out: int) -> None:
    """Draw both splits, from one row of scenes, so that they share none."""
    scenes = artist.scenes()
    # in this order what is held out stays the same, however many there are to train on
    write_split(folder, "held-out", artist, islice(scenes, num_held_out))
    write_split(folder, "train", artist, islice(scenes, num_train))


def size_of(text: str) -> tuple[int, int]:
    """Width and height in pixels, of "112x112" and the like."""
    width, height = map(int, text.split("x"))
    if min(width, height) < MIN_SIDE_PIXELS:
        raise argparse.ArgumentTypeError(f"{text!r} is too small for shapes that can be told apart: 56x56 is the least")
    return width, height


def main() -> None:
    """Read the options, draw."""
    parser = argparse.ArgumentParser(
        description="Draw pictures of shapes with true captions: FOLDER/train.jsonl and FOLDER/held-out.jsonl, "
        "with a folder of pictures each. No picture is in both."
    )
    parser.add_argument("folder", type=Path, help="folder to write; it must be empty, or not there yet")
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="pictures to train on (2000)")
    parser.add_argument("--held-out", type=int, default=200, metavar="N", help="pictures to test on (200)")
    parser.add_argument("--size", type=size_of, default=(112, 112), metavar="WxH", help="in pixels (112x112)")
    parser.add_argument(
        "--world", choices=WORLDS, default="whole", help="small: one or two shapes, each picture with one caption only"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures (0)")
    options = parser.parse_args()
    if min(options.train, options.held_out) < 0:
        parser.error("--train and --held-out: a number of pictures is 0 or more")
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        parser.error(f"{str(options.folder)!r} is there already, and not an empty folder: name another")
    artist = Artist(options.seed, *options.size, WORLDS[options.world])
    write_splits(options.folder, artist, num_train=options.train, num_held_out=options.held_out)


if __name__ == "__main__":
    main()
