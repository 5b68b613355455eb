"""Lines in reading order to Markdown: headings, paragraphs, lists and tables as far as geometry shows them.

It knows nothing of fonts: a heading is a line that is clearly higher than the body text. Lengths are pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from statistics import median_low

from omnicap_cli.engines.rapidocr.boxes import (
    Interval,
    TextBox,
    TextLine,
    is_cjk,
    join_wrapped,
    text_width,
    weighted_median,
)
from omnicap_cli.engines.rapidocr.layout import reading_order
from omnicap_cli.engines.rapidocr.table_rows import cells_of, split_tables, table_markdown

_HEADING_RATIO = 1.3  # of the body height: boxes of lines of one font differ by about a tenth
_TIER_RATIO = 0.85  # of the highest heading of a tier
_LONG = 0.8  # of the column's width: what a ragged line of wrapped text reaches, and a line of an address doesn't
_BULLET = re.compile(r"(?:[•·○◦▪■●‣∙]\s*|[-*–]\s+)(?=\S)")
_NUMBER = re.compile(r"\(?(\d{1,3})(?:[.)](?!\d)|、)\s*(?=\S)")
_SENTENCE_END = (".", "!", "?", ":", ";", "。", "！", "？", "：", "；", '"', "”", "」")


@dataclass(frozen=True, slots=True)
class _Paragraph:
    """A paragraph, a list item or a line on its own, with the lines where it begins and ends."""

    text: str
    is_item: bool
    first: TextLine
    last: TextLine


def to_markdown(boxes: Iterable[TextBox]) -> str:
    """The text of a page as Markdown (GitHub's, for tables), "" for no boxes."""
    regions = reading_order(boxes)
    tiers = _heading_tiers([line for region in regions for line in region])
    blocks: list[str] = []
    for region in regions:
        new = list(_markdown_blocks(region, tiers))
        if blocks and new and _continues_in_next_column(blocks[-1], new[0]):
            new[0] = join_wrapped(blocks.pop(), new[0])
        blocks += new
    return "\n\n".join(blocks)


def _heading_tiers(lines: Sequence[TextLine]) -> list[float]:
    """From which height on a line is a heading of each level, the highest first."""
    if not lines:
        return []
    body = weighted_median((line.height, len(line.text)) for line in lines)
    heights = sorted((line.height for line in lines if _can_be_heading(line)), reverse=True)
    tiers: list[float] = []
    for height in heights:
        if height >= _HEADING_RATIO * body and (not tiers or height < tiers[-1]):
            tiers.append(max(height * _TIER_RATIO, _HEADING_RATIO * body))
    return tiers[:6]


def _heading_level(line: TextLine, tiers: Sequence[float]) -> int:
    """1 to 6, or 0 for body text."""
    if not _can_be_heading(line):
        return 0
    return next((level for level, height in enumerate(tiers, 1) if line.height >= height), 0)


def _can_be_heading(line: TextLine) -> bool:
    return text_width(line.text) <= 120 and sum(map(str.isalpha, line.text)) >= 2


def _markdown_blocks(lines: Sequence[TextLine], tiers: Sequence[float]) -> Iterator[str]:
    """A region's blocks from top to bottom; blank lines go between them."""
    for is_table, group in split_tables(lines):
        if is_table:
            yield table_markdown(group)
            continue
        for part in _split_spaced(group, tiers):
            level = _heading_level(part[0], tiers)
            if level:
                yield "#" * level + " " + reduce(join_wrapped, (line.text for line in part))
            else:
                yield _body_text(part, _text_column(part, lines))


def _split_spaced(lines: Sequence[TextLine], tiers: Sequence[float]) -> list[list[TextLine]]:
    """Parts with one heading level each, and no gap within that is clearly wider than the usual one."""
    pitches = [below.middle - above.middle for above, below in pairwise(lines)]
    usual = median_low(pitches) if pitches else 0.0
    parts = [[lines[0]]]
    for above, line in pairwise(lines):
        if _heading_level(above, tiers) != _heading_level(line, tiers) or _is_apart(above, line, usual):
            parts.append([])
        parts[-1].append(line)
    return parts


def _is_apart(above: TextLine, below: TextLine, usual_pitch: float) -> bool:
    height = max(above.height, below.height)
    pitch = below.middle - above.middle
    return pitch > 2.2 * height or pitch > max(1.4 * usual_pitch, height)


def _text_column(part: Sequence[TextLine], region: Iterable[TextLine]) -> Interval:
    """From where to where text runs that begins where a part does; rows of cells don't count."""
    left, height = min(line.left for line in part), part[0].height
    near = (line for line in region if abs(line.left - left) < 2 * height and len(cells_of(line)) == 1)
    return Interval(left, max(line.right for line in (*part, *near)))


def _body_text(lines: Sequence[TextLine], column: Interval) -> str:
    """Paragraphs, list items, and lines that end where they were meant to end."""
    paragraphs: list[_Paragraph] = []
    right = max(line.right for line in lines)
    wrapped = [_is_full(*pair, right) or _runs_on(*pair, column) for pair in pairwise(lines)]
    votes = [wraps for wraps, line in zip(wrapped, lines[1:], strict=True) if not _list_item(line.text)]
    is_prose = 2 * sum(votes) > len(votes) and not _is_verse(lines)
    for line, wraps in zip(lines, (False, *wrapped), strict=True):
        item = _list_item(line.text)
        if wraps and not item and _belongs_to(paragraphs[-1], line, is_prose):
            last = paragraphs.pop()
            paragraphs.append(_Paragraph(join_wrapped(last.text, line.text), last.is_item, last.first, line))
        else:
            paragraphs.append(_Paragraph(item or line.text, bool(item), line, line))
    text = paragraphs[0].text
    for above, below in pairwise(paragraphs):
        text += _separator(above, below, is_prose) + below.text
    return text


def _list_item(text: str) -> str:
    """The Markdown of a list item, "" for other text."""
    if match := _BULLET.match(text):
        return f"- {text[match.end() :]}"
    if match := _NUMBER.match(text):
        return f"{match[1]}. {text[match.end() :]}"
    return ""


def _belongs_to(paragraph: _Paragraph, line: TextLine, is_prose: bool) -> bool:
    """Whether a line goes on with what is above: it is indented in an item, and not indented in a paragraph."""
    above = paragraph.last
    if paragraph.is_item:
        belongs = line.left - paragraph.first.left > 0.5 * line.height
    else:
        belongs = is_prose and line.left - above.left < 0.8 * line.height and text_width(above.text) >= 20
    return belongs and len(cells_of(above)) == len(cells_of(line)) == 1


def _is_verse(lines: Sequence[TextLine]) -> bool:
    """Whether each of several lines begins with a capital, as lines of verse do and wrapped ones hardly ever."""
    return (
        len(lines) >= 4
        and all(line.text[0].isupper() for line in lines)
        and not all(line.text.isupper() for line in lines)
    )


def _is_full(above: TextLine, below: TextLine, right: float) -> bool:
    """Whether the first word of the line below had no room before `right` on the line above."""
    word = below.text[:2] if is_cjk(below.text[0]) else below.text.split()[0]
    width = (below.right - below.left) * text_width(word) / text_width(below.text)
    return right - above.right <= width + 0.6 * above.height


def _runs_on(above: TextLine, below: TextLine, column: Interval) -> bool:
    """Whether a sentence goes on below a long line, however ragged the right edge is."""
    is_long = above.right - column.start >= _LONG * (column.end - column.start)
    return is_long and not above.text.endswith(_SENTENCE_END) and below.text[0].islower()


def _separator(above: _Paragraph, below: _Paragraph, is_prose: bool) -> str:
    if above.is_item != below.is_item:
        return "\n\n"
    indented = below.first.left - above.first.left > 0.8 * below.first.height
    ends = above.first is not above.last and above.text.endswith(_SENTENCE_END)
    return "\n\n" if is_prose and not above.is_item and (indented or ends) else "\n"


def _continues_in_next_column(above: str, below: str) -> bool:
    """Whether a paragraph goes on in the next column."""
    is_prose = len(above) >= 40 and above[0] not in "#|" and not above.endswith(_SENTENCE_END)
    return is_prose and below[0].islower()
