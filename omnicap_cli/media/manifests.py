"""Rows of a manifest, one after the other: JSON lines, JSON, CSV, TSV, parquet. It knows no picture.

A row is a dict of its columns, or the ManifestError that takes its place. Nothing is held but the row at hand (of
parquet a batch of rows).
"""

from __future__ import annotations

import base64
import codecs
import csv
import datetime
import functools
import gzip
import io
import itertools
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import orjson  # manifests may have hundreds of millions of rows

from omnicap_cli.core.files.words import one_line, printable, without_surrogates
from omnicap_cli.errors import ManifestError
from omnicap_cli.media.local_files import unreadable_error
from omnicap_cli.media.parquet_values import column_values, holds_pictures

_MAX_FIELD_BYTES: Final = 1 << 28  # of one CSV field; Python's default of 128 KiB is less than a long caption
_MAX_DEPTH: Final = 100
_HEAD_BYTES: Final = 1024
_BUFFER_BYTES: Final = 1 << 18  # of each column of parquet
_ROWS_PER_BATCH: Final = 1024
_PICTURES_PER_BATCH: Final = 16  # of parquet with the pictures inside

BufferedFile: TypeAlias = io.BufferedReader | gzip.GzipFile


class ManifestRow(NamedTuple):
    """`place` is how an id names it: `line=N` of JSON lines, else `row=N`, both from 1."""

    place: str
    columns: dict[str, Any] | ManifestError


def manifest_format(name: str) -> str | None:
    """The key of `name` in FORMATS by its suffix, `.gz` left aside; None where it isn't a manifest's."""
    bare = name.lower().removesuffix(".gz")
    return next((suffix for suffix in MANIFEST_READERS if bare.endswith(suffix)), None)


def read_rows(file: BufferedFile, name: str, image_key: str) -> Iterator[ManifestRow]:
    """The rows of an open manifest called `name`. Raises a ManifestError for what ends it or makes all of it useless.

    Where the format has a header, the column `image_key` must be in it.
    """
    read = MANIFEST_READERS[str(manifest_format(name))]
    try:
        yield from read(gzip.GzipFile(fileobj=file) if name.lower().endswith(".gz") else file, image_key)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestError(f"the compressed manifest breaks off: {error}; the rows before that were taken") from error
    except OSError as error:
        if error.errno is None:  # of a library, about the content
            raise ManifestError(f"it can't be read: {one_line(error)}") from error
        raise unreadable_error(error) from error


def _broken_manifest(number: int, error: Exception) -> ManifestError:
    if not number:
        return ManifestError(f"it can't be read: {one_line(error)}")
    return ManifestError(f"broken after row {number}: {one_line(error)}; the rows before that were taken")


def _read_json_lines(file: BufferedFile, _image_key: str) -> Iterator[ManifestRow]:
    for number, raw in enumerate(file, 1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if line.strip():
            yield ManifestRow(f"line={number}", parse_json_object(line))


def parse_json_object(line: bytes) -> dict[str, Any] | ManifestError:
    """The JSON object on one line."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            row = json.loads(line)  # it takes NaN too, which Python writes
            orjson.dumps(row)  # and lone surrogates, which no file can hold
        except (ValueError, TypeError, RecursionError):
            return ManifestError(f"not JSON: {error}")
    return row if isinstance(row, dict) else ManifestError("not a JSON object, so it has no columns")


def _read_json(file: BufferedFile, _image_key: str) -> Iterator[ManifestRow]:
    """An array of objects, or objects one after the other."""
    import ijson

    head = file.peek(_HEAD_BYTES)
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        return
    places = "item" if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[") else ""
    number = 0
    try:
        for number, row in enumerate(_json_values(file, places), 1):
            yield ManifestRow(f"row={number}", row if isinstance(row, dict) else ManifestError("not a JSON object"))
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        raise _broken_manifest(number, error) from error


def _json_values(file: BufferedFile, places: str) -> Iterator[Any]:
    """The values at `places`; from the first integer of more than 64 bits on by a parser that has such, but is slow."""
    import ijson

    number = 0
    try:  # ICRAR/ijson#153; without use_float there is no such limit, but more than 4,300 digits end the process
        for value in ijson.items(file, places, use_float=True, multiple_values=True):
            yield value
            number += 1
    except ijson.JSONError as error:
        if "integer overflow" not in str(error) or not _rewind(file):
            raise
        again = ijson.get_backend("python").items(file, places, use_float=True, multiple_values=True)
        yield from map(without_surrogates, itertools.islice(again, number, None))


def _rewind(file: BufferedFile) -> bool:
    """Whether it could be: a pipe can't, nor what comes from elsewhere."""
    try:
        file.seek(0)
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
    except io.UnsupportedOperation:
        return False
    return True


def _read_separated(file: BufferedFile, image_key: str, *, delimiter: str) -> Iterator[ManifestRow]:
    csv.field_size_limit(_MAX_FIELD_BYTES)
    # names that are not UTF-8 are kept as the system spells them
    if file.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ManifestError("it is in UTF-16; convert it: iconv -f utf-16 -t utf-8")
    text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
    lines = (line.replace("\0", "\ufffd") for line in text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    for number in itertools.count():
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise ManifestError(f"its header can't be read: {_quoting_problem(error)}") from error
            yield ManifestRow(f"row={number}", ManifestError(_quoting_problem(error)))
            continue
        if header is None:
            header = fields
            _check_columns(header, image_key)
        elif fields:
            yield ManifestRow(f"row={number}", _row_of_fields(header, fields, image_key))


def _quoting_problem(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return (
            'a quote that is opened here is never closed, so all that follows is lost; write "" for a quote in a field'
        )
    return f"{error}; a field with a quote in it stands in quotes, and the quote is doubled"


def _row_of_fields(header: list[str], fields: list[str], image_key: str) -> dict[str, Any] | ManifestError:
    if len(fields) != len(header):
        remedy = "; quote what has commas" if len(fields) > len(header) else ""
        return ManifestError(f"{len(fields)} fields where the header has {len(header)} columns{remedy}")
    row = dict(zip(header, fields, strict=True))
    texts = (value for name, value in row.items() if name != image_key)  # names of files may be any bytes
    if any(without_surrogates(text) != text for text in texts):
        return ManifestError("it isn't in UTF-8; convert the file, as with iconv -f latin1 -t utf-8")
    return row


def _read_parquet(file: BufferedFile, image_key: str) -> Iterator[ManifestRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # else all that was read is held until the end
        table = pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        names = table.schema_arrow.names
        _check_columns(names, image_key)
        kind = table.schema_arrow.field(image_key).type
        is_large = holds_pictures(kind) or pyarrow.types.is_nested(kind)  # a list of pictures is of no use, but large
        for batch in table.iter_batches(batch_size=_PICTURES_PER_BATCH if is_large else _ROWS_PER_BATCH):
            for values in zip(*map(column_values, batch.columns), strict=True):
                number += 1
                yield ManifestRow(f"row={number}", dict(zip(names, values, strict=True)))
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise _broken_manifest(number, error) from error


def _check_columns(names: list[str], image_key: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"it has the column {twice[0]!r} twice")
    if image_key in names:
        return
    if len(names) == 1 and image_key in (split := re.split("[;\t|,]", names[0])):
        separator = names[0][len(split[0])]
        raise ManifestError(f"its columns seem to be separated by {separator!r}; .csv has commas, .tsv tabs")
    there = ", ".join(map(printable, names[:20]))
    raise ManifestError(f"there is no column {image_key!r}, only {there}; name the right one with --image-key")


def json_value(value: Any, depth: int = 0) -> Any:
    """A value of a column as JSON can hold it: times in ISO 8601, bytes in base64, what is no number as null.

    Raises ManifestError for what is nested deeper than any reader of JSON is sure to take.
    """
    if depth > _MAX_DEPTH:
        raise ManifestError(f"a column is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {without_surrogates(str(name)): json_value(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner, depth + 1) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    if isinstance(value, str):
        return without_surrogates(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, datetime.date | datetime.time | datetime.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return without_surrogates(str(value))


MANIFEST_READERS: Final[dict[str, Callable[[BufferedFile, str], Iterator[ManifestRow]]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": functools.partial(_read_separated, delimiter=","),
    ".tsv": functools.partial(_read_separated, delimiter="\t"),
    ".parquet": _read_parquet,
}
