"""Tables in recognised text: which lines are rows of one, and its Markdown.

It sees cells and their edges, not ruled lines. What isn't surely a table is none. All lengths are pixels.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from omnicap_cli.engines.rapidocr.boxes import (
    Interval,
    TextLine,
    TextPiece,
    filled_intervals,
    join_pieces,
    join_wrapped,
    merge_intervals,
)


def split_tables(lines: Sequence[TextLine]) -> Iterator[tuple[bool, Sequence[TextLine]]]:
    """Lines in order, in groups: each a table or not."""
    plain: list[TextLine] = []
    place = 0
    while place < len(lines):
        num_rows = _num_table_rows(lines[place:])
        if not num_rows:
            plain.append(lines[place])
        else:
            if plain:
                yield False, plain
            plain = []
            yield True, lines[place : place + num_rows]
        place += max(num_rows, 1)
    if plain:
        yield False, plain


def table_markdown(lines: Sequence[TextLine]) -> str:
    """A table with its first line as the header; a cell alone on a line goes on with the cell above."""
    columns = _table_columns(lines)
    rows: list[list[str]] = []
    for line in lines:
        cells = cells_of(line)
        places = [_column_index(cell, columns) for cell in cells]
        if len(cells) > 1 or not places[0]:
            rows.append([""] * len(columns))
        for place, cell in zip(places, cells, strict=True):
            above, text = rows[-1][place], cell.text.replace("|", "\\|")
            rows[-1][place] = join_wrapped(above, text) if above else text
    rows.insert(1, ["---"] * len(columns))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cells_of(line: TextLine) -> list[TextPiece]:
    """The pieces of a line, those that are close to each other made one."""
    groups: list[list[TextPiece]] = []
    for piece in line.pieces:
        if groups and piece.left - groups[-1][-1].right < 0.6 * line.height:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [_merge_pieces(group) for group in groups]


def _merge_pieces(pieces: Sequence[TextPiece]) -> TextPiece:
    top, bottom = min(piece.top for piece in pieces), max(piece.bottom for piece in pieces)
    return TextPiece(top, pieces[0].left, bottom, max(piece.right for piece in pieces), join_pieces(pieces))


def _num_table_rows(lines: Sequence[TextLine]) -> int:
    """How many lines from the first on are rows of one table: 0 if it isn't surely one."""
    columns: list[Interval] = []
    num_rows = num_full = 0
    for place, line in enumerate(lines):
        cells = cells_of(line)
        merged = merge_intervals([*columns, *(Interval(cell.left, cell.right) for cell in cells)])
        far = place > 0 and line.middle - lines[place - 1].middle > 4 * line.height
        fits = len(merged) == len(columns) if len(cells) == 1 else len(merged) >= max(len(columns), len(cells))
        if far or not fits:
            break
        columns = merged
        num_full += len(cells) > 1
        num_rows = place + 1 if len(cells) > 1 else num_rows
    sure = num_full >= 2 and _is_aligned(lines[:num_rows])
    return num_rows if sure else 0


def _is_aligned(lines: Sequence[TextLine]) -> bool:
    """Whether most cells are filled, and in each column most share their left edge, right edge or centre."""
    columns = _table_columns(lines)
    tolerance = median(line.height for line in lines)
    cells: list[list[TextPiece]] = [[] for _ in columns]
    for cell in (cell for line in lines for cell in cells_of(line)):
        cells[_column_index(cell, columns)].append(cell)
    is_filled = sum(map(len, cells)) >= 0.6 * len(lines) * len(columns)
    return is_filled and all(
        any(
            _is_shared(edges, tolerance)
            for edges in (
                [c.left for c in column],
                [c.right for c in column],
                [(c.left + c.right) / 2 for c in column],
            )
        )
        for column in cells
    )


def _is_shared(edges: Sequence[float], tolerance: float) -> bool:
    middle = median(edges)
    return sum(abs(edge - middle) <= tolerance for edge in edges) >= 0.7 * len(edges)


def _table_columns(lines: Iterable[TextLine]) -> list[Interval]:
    return filled_intervals(cell for line in lines for cell in cells_of(line))


def _column_index(cell: TextPiece, columns: Sequence[Interval]) -> int:
    return bisect([column.start for column in columns], cell.left) - 1
