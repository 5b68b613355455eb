"""What a page of recognised text consists of: boxes, upright pieces, lines, and how their texts are joined.

It knows rectangles and scripts, but not in which order a page is read. All lengths are pixels, y grows
downwards, angles are radians.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

Point = tuple[float, float]

# Han with its punctuation, kana, compatibility and full-width forms
_CJK = (
    (0x2E80, 0x303F),
    (0x3041, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF00, 0xFFEF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class TextBox:
    """One recognised piece of text; `quad` is its top left, top right, bottom right, bottom left corner."""

    text: str
    quad: tuple[Point, Point, Point, Point]
    score: float


class TextPiece(NamedTuple):
    """Text in an upright rectangle, the page's skew removed."""

    top: float
    left: float
    bottom: float
    right: float
    text: str

    @property
    def middle(self) -> float:
        """The y coordinate of the centre."""
        return (self.top + self.bottom) / 2

    @property
    def height(self) -> float:
        """From the top to the bottom edge."""
        return self.bottom - self.top


class Interval(NamedTuple):
    """From `start` to `end` along one axis."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class TextLine:
    """Pieces side by side, from left to right."""

    pieces: tuple[TextPiece, ...]

    @property
    def text(self) -> str:
        """The text of the pieces, joined."""
        return join_pieces(self.pieces)

    @property
    def left(self) -> float:
        """The x coordinate at which the line begins."""
        return self.pieces[0].left

    @property
    def right(self) -> float:
        """The x coordinate at which the line ends."""
        return max(piece.right for piece in self.pieces)

    @property
    def middle(self) -> float:
        """The mean y coordinate of the centres of the pieces."""
        return sum(piece.middle for piece in self.pieces) / len(self.pieces)

    @property
    def height(self) -> float:
        """The median height of the pieces."""
        return median(piece.height for piece in self.pieces)


def upright_pieces(boxes: Iterable[TextBox]) -> list[TextPiece]:
    """Boxes as rectangles on the straightened page, sorted; boxes without text are left out."""
    boxes = [box for box in boxes if box.text.strip()]
    angle = skew_radians(boxes)
    return sorted(_upright_piece(box, math.cos(angle), math.sin(angle)) for box in boxes)


def skew_radians(boxes: Iterable[TextBox]) -> float:
    """By how much lines run downhill: the median angle of wide boxes weighted by width, within 45 degrees."""
    angles = []
    for box in boxes:
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = box.quad
        along, across = (bx + cx - ax - dx, by + cy - ay - dy), (cx + dx - ax - bx, cy + dy - ay - by)
        if along[0] > abs(along[1]) and math.hypot(*along) >= 2 * math.hypot(*across):
            angles.append((math.atan2(along[1], along[0]), along[0]))
    return weighted_median(angles) if angles else 0.0


def weighted_median(pairs: Iterable[tuple[float, float]]) -> float:
    """The value at which half of the weight is reached, of (value, weight) pairs; at least one pair."""
    ordered = sorted(pairs)
    half = math.fsum(weight for _, weight in ordered) / 2
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= half:
            return value
    return ordered[-1][0]


def merge_intervals(intervals: Iterable[Interval]) -> list[Interval]:
    """Intervals that touch or overlap become one; sorted."""
    merged: list[Interval] = []
    for interval in sorted(intervals):
        if merged and interval.start <= merged[-1].end:
            merged[-1] = Interval(merged[-1].start, max(merged[-1].end, interval.end))
        else:
            merged.append(interval)
    return merged


def filled_intervals(pieces: Iterable[TextPiece]) -> list[Interval]:
    """From where to where there is text somewhere, from left to right."""
    return merge_intervals(Interval(piece.left, piece.right) for piece in pieces)


def join_pieces(pieces: Sequence[TextPiece]) -> str:
    """The text of pieces side by side: a space between them, unless CJK text just goes on."""
    text = pieces[0].text
    for before, piece in pairwise(pieces):
        goes_on = piece.left - before.right < min(before.height, piece.height)
        text += piece.text if goes_on and is_cjk(text[-1]) and is_cjk(piece.text[0]) else f" {piece.text}"
    return text


def join_wrapped(above: str, below: str) -> str:
    """Text across a line end: hyphens of Latin words go, CJK text needs no space."""
    if above[-1] in "-\u00ad\u2010" and above[-2:-1].isalpha() and below[0].islower():
        return above[:-1] + below
    return above + ("" if is_cjk(above[-1]) and is_cjk(below[0]) else " ") + below


def is_cjk(character: str) -> bool:
    """Whether a character belongs to a script that is written without spaces (Han, kana; not Hangul)."""
    return any(first <= ord(character) <= last for first, last in _CJK)


def text_width(text: str) -> int:
    """The width of a text in Latin characters: a CJK character counts twice."""
    return len(text) + sum(map(is_cjk, text))


def _upright_piece(box: TextBox, cos: float, sin: float) -> TextPiece:
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = [(x * cos + y * sin, y * cos - x * sin) for x, y in box.quad]
    left, right = sorted(((ax + dx) / 2, (bx + cx) / 2))
    top, bottom = sorted(((ay + by) / 2, (cy + dy) / 2))
    return TextPiece(top, left, bottom, right, " ".join(box.text.split()))
