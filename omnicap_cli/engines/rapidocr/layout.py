"""Recognised boxes to lines in reading order: an OCR engine finds boxes, and a person reads a page.

It knows nothing of pictures or of the engine that found the boxes, and can't see that a page is upside down.
All lengths are pixels, y grows downwards.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median, median_low
from typing import NamedTuple

from omnicap_cli.engines.rapidocr.boxes import (
    Interval,
    TextBox,
    TextLine,
    TextPiece,
    filled_intervals,
    text_width,
    upright_pieces,
)

_MAX_DEPTH = 6  # columns within columns; what is nested deeper is read row by row
_MIN_GUTTER = 0.4  # of the median box height: detectors widen boxes, so that gutters shrink


class _Band(NamedTuple):
    """A part of the page from edge to edge, and the gutters that run through all of it."""

    pieces: list[TextPiece]
    gutters: list[Interval]


def to_text(boxes: Iterable[TextBox]) -> str:
    """The text of a page in reading order: a line for a line of the picture, "" for no boxes."""
    return "\n".join(line.text for region in reading_order(boxes) for line in region)


def reading_order(boxes: Iterable[TextBox]) -> list[list[TextLine]]:
    """Regions in the order in which they are read, each a list of lines from top to bottom.

    Recursive cuts along white space (Nagy and Seth, "Hierarchical representation of optically scanned
    documents", 1984) over boxes; a gutter between labels and values is not a cut. Text that runs at right
    angles to most of the page comes last.
    """
    pieces = upright_pieces(boxes)
    if _num_characters(filter(_is_tall_piece, pieces)) * 2 > _num_characters(pieces):
        pieces = sorted(TextPiece(-p.right, p.top, -p.left, p.bottom, p.text) for p in pieces)  # right column first
    tall = [piece for piece in pieces if _is_tall_piece(piece)]
    flat = [piece for piece in pieces if not _is_tall_piece(piece)]
    regions = _split_into_regions(flat, median(p.height for p in flat), _MAX_DEPTH) if flat else []
    return regions + [[TextLine((piece,))] for piece in sorted(tall, key=lambda p: -p.right)]


def group_lines(pieces: Iterable[TextPiece]) -> list[TextLine]:
    """Pieces to lines by vertical overlap with the neighbours on the line; from top to bottom."""
    rows: list[list[TextPiece]] = []
    for piece in sorted(pieces, key=lambda p: (p.middle, p)):
        for row in rows[:-4:-1]:
            place = bisect([other.left for other in row], piece.left)
            if _stands_beside(piece, row[max(place - 1, 0) : place + 1]):
                row.insert(place, piece)
                break
        else:
            rows.append([piece])
    return sorted((TextLine(tuple(row)) for row in rows), key=lambda line: line.middle)


def _num_characters(pieces: Iterable[TextPiece]) -> int:
    return sum(len(piece.text) for piece in pieces)


def _is_tall_piece(piece: TextPiece) -> bool:
    return len(piece.text) > 1 and piece.height > 1.5 * (piece.right - piece.left)


def _stands_beside(piece: TextPiece, neighbours: Sequence[TextPiece]) -> bool:
    """Whether a piece stands beside its neighbours rather than above or below one of them."""
    for other in neighbours:
        shared_width = min(piece.right, other.right) - max(piece.left, other.left)
        if shared_width > 0.5 * min(piece.right - piece.left, other.right - other.left):
            return False
        shared_height = min(piece.bottom, other.bottom) - max(piece.top, other.top)
        if shared_height < 0.5 * min(piece.height, other.height):
            return False
    return True


def _split_into_regions(pieces: Sequence[TextPiece], height: float, depth: int) -> list[list[TextLine]]:
    """Cuts a part of the page into columns where it has them; `height` is the median height of its boxes."""
    regions: list[list[TextLine]] = []
    rows: list[TextPiece] = []
    for band in _split_into_bands(pieces, height) if depth else [_Band(list(pieces), [])]:
        columns = _band_columns(band, height)
        if len(columns) == 1:
            rows += band.pieces
            continue
        if rows:
            regions.append(group_lines(rows))
        rows = []
        for column in columns:
            regions += _split_into_regions(column, height, depth - 1)
    return [*regions, group_lines(rows)] if rows else regions


def _split_into_bands(pieces: Iterable[TextPiece], height: float) -> list[_Band]:
    """Bands from top to bottom: each goes as far down as one gutter does, and up over lines close to it."""
    bands: list[_Band] = []
    for row in _split_into_rows(pieces):
        blocks = filled_intervals(row)
        gutters = _clear_gutters(bands[-1].gutters, blocks, height) if bands else []
        if gutters:
            bands[-1] = _Band(bands[-1].pieces + row, gutters)
            continue
        inner = [Interval(a.end, b.start) for a, b in pairwise(blocks)]
        bands.append(_Band(row, [gap for gap in inner if gap.end - gap.start >= _MIN_GUTTER * height]))
    joined: list[_Band] = []
    for band in reversed(bands):
        gutters_below = joined[-1].gutters if joined and not band.gutters else []
        gutters = _clear_gutters(gutters_below, filled_intervals(band.pieces), height)
        if gutters and _vertical_gap(band.pieces, joined[-1].pieces) < height:
            joined[-1] = _Band(band.pieces + joined[-1].pieces, gutters)
        else:
            joined.append(band)
    return joined[::-1]


def _vertical_gap(above: Iterable[TextPiece], below: Iterable[TextPiece]) -> float:
    return min(piece.top for piece in below) - max(piece.bottom for piece in above)


def _split_into_rows(pieces: Iterable[TextPiece]) -> list[list[TextPiece]]:
    """Groups that a horizontal line can part. Only the middle half of each box counts, as boxes overlap."""
    rows: list[list[TextPiece]] = []
    end = -math.inf
    for piece in sorted(pieces, key=lambda p: (3 * p.top + p.bottom, p)):
        if (3 * piece.top + piece.bottom) / 4 > end:
            rows.append([])
        rows[-1].append(piece)
        end = max(end, (piece.top + 3 * piece.bottom) / 4)
    return rows


def _clear_gutters(gutters: Iterable[Interval], blocks: Sequence[Interval], height: float) -> list[Interval]:
    """What is left of gutters between blocks, where it is wide enough to be one."""
    edges = [-math.inf, *(edge for block in blocks for edge in block), math.inf]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))
    parts = (Interval(max(g.start, start), min(g.end, end)) for g in gutters for start, end in gaps)
    return [part for part in parts if part.end - part.start >= _MIN_GUTTER * height]


def _band_columns(band: _Band, height: float) -> list[list[TextPiece]]:
    """The columns of a band from left to right: one, where its gutters part labels from values."""
    starts = [gutter.start for gutter in band.gutters]
    cells: list[list[TextPiece]] = [[] for _ in range(len(starts) + 1)]
    for piece in band.pieces:
        cells[bisect(starts, (piece.left + piece.right) / 2)].append(piece)
    lines = [group_lines(cell) for cell in cells]
    columns = [cells[0]]
    for place in range(1, len(cells)):
        if _are_columns(lines[place - 1], lines[place], height):
            columns.append([])
        columns[-1] = columns[-1] + cells[place]
    return columns


def _are_columns(left: Sequence[TextLine], right: Sequence[TextLine], height: float) -> bool:
    """Whether two groups of lines are read one after the other: both are prose, or their lines don't pair up.

    Lines that stand far apart pair with nothing and show nothing: a heading in the middle over a receipt's rows.
    """
    few, many = sorted((left, right), key=len)
    if len(few) < 2:
        return False
    middles = [line.middle for line in many]
    nearest = [_nearest_distance(line.middle, middles) for line in few]
    paired = sum(distance < 0.3 * height for distance in nearest)
    facing = sum(distance < height for distance in nearest)
    is_dense = median(below.middle - above.middle for above, below in pairwise(few)) < 1.7 * height
    unpaired = is_dense and facing > 1 and paired < 0.6 * facing
    return unpaired or (_is_prose(left) and _is_prose(right))


def _nearest_distance(value: float, others: Sequence[float]) -> float:
    """The distance from a value to the nearest of others, which are sorted."""
    place = bisect(others, value)
    return min(abs(value - other) for other in others[max(place - 1, 0) : place + 1])


def _is_prose(lines: Sequence[TextLine]) -> bool:
    """Whether lines fill the width that they share, as wrapped text does and entries of a list don't."""
    start, end = min(line.left for line in lines), max(line.right for line in lines)
    full = [line for line in lines if line.right - line.left >= 0.7 * (end - start)]
    wide = len(full) >= 3 and median_low(text_width(line.text) for line in full) >= 14
    return wide and len(full) >= 0.5 * len(lines)
