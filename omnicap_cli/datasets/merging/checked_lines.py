"""Lines that training can read, told from broken ones, with their counts. It reads no file and opens no picture.

Every line of a data set comes by here, so the common case takes one look, and what is wrong with a line is only asked
when something is.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

import orjson

from omnicap_cli.datasets.streams import TOO_LONG

KEY_BYTES: Final = 16
_MAX_COUNT: Final = 1 << 48  # more is a mistake, and sums of them have to fit into 63 bits
_FIELDS: Final = itemgetter("conversations", "token_length", "image_token_num")
_NUM_MARK_BYTES: Final = len(codecs.BOM_UTF8)


class CheckedLines(NamedTuple):
    """Of each line that is a record: a key, its counts of tokens, and whether it `lacks` a `sequence_length`.

    Records that are the same have the same key; others may have it too. A length that is lacking is worked out as text
    and pictures together. `dropped` are the places of all other lines, with how many bytes of them: those of a byte
    order mark before a record, or all.
    """

    keys: list[int]
    text_tokens: list[int]
    image_tokens: list[int]
    lengths: list[int]
    lacks: list[bool]
    dropped: list[tuple[int, int]]


def check_lines(lines: Iterable[bytes], on_broken: Callable[[int, str], None]) -> CheckedLines:
    """Tell records from all else. `on_broken` gets the place of a line among `lines`, from 0, and a reason.

    Blank lines are dropped without a word. This is one loop without calls of our own, since most of the time of a merge
    is spent here.
    """
    checked = CheckedLines([], [], [], [], [], [])
    keys, text_tokens, image_tokens, lengths, lacks, dropped = checked
    # orjson at once, and not jsonlines, which would take longer than all the rest
    loads, fields, max_count = orjson.loads, _FIELDS, _MAX_COUNT
    for place, line in enumerate(lines):
        try:
            record = loads(line)
            turns, num_text, num_image = fields(record)
            get = record.get
            length = get("sequence_length")
            is_lacking = False
            if not (type(num_text) is type(num_image) is type(length) is int):
                num_image, length, is_lacking = _odd_counts(num_text, num_image, length)
            if not (0 <= num_text < max_count and 0 <= num_image < max_count and 0 <= length < max_count):
                raise ValueError
            name, media = get("id"), get("image")
            if type(name) is not str or type(media) is not str:
                name, media = repr(name), repr((media, get("video")))
            subject: list[Any] = [name, media]
            for turn in turns:
                text = turn["value"]
                if type(text) is not str or type(turn["from"]) is not str:
                    raise ValueError
                subject.append(text)
            if not turns:
                raise ValueError
            key = hash(tuple(subject))
        except (ValueError, KeyError, TypeError, RecursionError):  # the last for an id nested beyond reason
            if line.startswith(codecs.BOM_UTF8):  # which `cat` leaves in the middle of a file
                unmarked = line
                while unmarked.startswith(codecs.BOM_UTF8):
                    unmarked = unmarked[_NUM_MARK_BYTES:]
                rest = check_lines([unmarked], partial(_at, on_broken, place))
                for column, more in zip(checked[:-1], rest[:-1], strict=True):
                    column += more  # type: ignore[operator]
                dropped.append((place, len(line) - (0 if rest.dropped else len(unmarked))))
                continue
            if not line.isspace():
                on_broken(place, _why_broken(line))
            dropped.append((place, len(line)))
            continue
        keys.append(key)
        text_tokens.append(num_text)
        image_tokens.append(num_image)
        lengths.append(length)
        lacks.append(is_lacking)
    return checked


def digest_of(line: bytes) -> bytes:
    """KEY_BYTES that tell this record's id, pictures or video, and conversation from those of all others."""
    record = orjson.loads(line)
    subject = [record.get(name) for name in ("id", "image", "video", "conversations")]
    try:
        content = orjson.dumps(subject, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested deeper than it writes
        content = line
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def _at(on_broken: Callable[[int, str], None], place: int, _place: int, reason: str) -> None:
    on_broken(place, reason)


def _odd_counts(num_text: Any, num_image: Any, length: Any) -> tuple[int, int, bool]:
    """Pictures and length, and whether that is lacking. The published script counts picture by picture, and no length.

    Raises ValueError.
    """
    counts = num_image if type(num_image) is list else [num_image]
    is_lacking = length is None
    for count in (num_text, *counts, *(() if is_lacking else (length,))):
        if type(count) is not int or not 0 <= count < _MAX_COUNT:
            raise ValueError
    num_image = sum(counts)
    return num_image, num_text + num_image if is_lacking else length, is_lacking


def _why_broken(line: bytes) -> str:
    """Why a line is no record."""
    if line == TOO_LONG:
        return "line_too_long"
    try:
        record = orjson.loads(line)
    except ValueError:
        return "not_json"
    if not isinstance(record, dict):
        return "not_a_record"
    return "counts_malformed" if _is_conversation(record.get("conversations")) else "conversations_malformed"


def _is_conversation(turns: Any) -> bool:
    if not isinstance(turns, list) or not turns:
        return False
    return all(
        isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)
        for turn in turns
    )
