"""Which columns a journal's records make as a table, and the records a batch at a time by these columns.

It knows the fields of records and what kinds of values they hold. It writes nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from omnicap_cli.core.runs.journal_reading import JournalEntry, Record

ColumnKind = Literal["string", "int32", "int64", "double", "bool"]

MAX_META_COLUMNS: Final = 100
_MAX_BATCH_ROWS: Final = 128  # records as Python objects: more of them leave the processor's cache
_MAX_BATCH_BYTES: Final = 4 << 20
_TYPE_BITS: Final[dict[type, int]] = {type(None): 0, str: 1, int: 2, float: 4, bool: 8}
_INT_BIT: Final = _TYPE_BITS[int]
_OTHER_BIT: Final = 16
INT_RANGES: Final = {"int32": range(-(1 << 31), 1 << 31), "int64": range(-(1 << 63), 1 << 63)}
# of the bits of the types in a column; any other mixture is a string
_KINDS: Final[dict[int, ColumnKind]] = {2: "int64", 4: "double", 6: "double", 8: "bool"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and the names that lead to its value in a record."""

    name: str
    path: tuple[str, ...]
    kind: ColumnKind = "string"

    def values(self, batch: RowBatch) -> Sequence[Any]:
        """What the records have there, as it is; None where there is nothing."""
        values = batch.of(self.path[0])
        for name in self.path[1:]:
            try:
                values = [value[name] for value in values]
            except (KeyError, TypeError):  # some lack it, or have no object there
                values = [value.get(name) if isinstance(value, dict) else None for value in values]
        return values


class RowBatch:
    """A few records, seen by their fields. What all records have is taken out of them at once, which is quicker.

    `num_bytes` is the length of their lines.
    """

    def __init__(self, records: Sequence[Record], num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._records = records
        try:
            self._fields = dict(zip(_ALWAYS, zip(*map(_take_always, records), strict=True), strict=True))
        except KeyError:  # one that omnicap didn't write
            self._fields = {}

    def __len__(self) -> int:
        return len(self._records)

    def of(self, name: str) -> Sequence[Any]:
        """The values of a field, None where a record hasn't got it."""
        return self._fields.get(name) or [record.get(name) for record in self._records]


def _columns_of_kind(names: str, kind: ColumnKind = "string") -> list[Column]:
    return [Column(name, (name,), kind) for name in names.split()]


RECORD_COLUMNS: Final = (
    *_columns_of_kind("id image"),
    *_columns_of_kind("page", "int32"),
    *_columns_of_kind("type style lang caption status"),
    Column("error_kind", ("error", "kind")),
    Column("error_message", ("error", "message")),
    *_columns_of_kind("finish_reason"),
    *_columns_of_kind("generated", "bool"),
    *_columns_of_kind("model revision engine prompt_sha settings"),
    *_columns_of_kind("width height", "int32"),
    *_columns_of_kind("prompt_tokens image_tokens output_tokens", "int64"),
    *_columns_of_kind("seconds", "double"),
    *_columns_of_kind("attempts", "int32"),
    *_columns_of_kind("key"),
)
REPEATED_COLUMNS: Final = [
    *("type", "style", "lang", "status", "error_kind", "finish_reason", "model", "revision", "engine"),
]
_ALWAYS: Final = [
    *dict.fromkeys(each.path[0] for each in RECORD_COLUMNS if each.path[0] not in ("page", "error")),
    "meta",
]
_take_always: Final = operator.itemgetter(*_ALWAYS)
_KNOWN_NAMES: Final = {column.path[0] for column in RECORD_COLUMNS} | {"meta"}


class TableColumns:
    """Finds out in a first pass which columns a table needs beyond RECORD_COLUMNS, and of which kinds."""

    def __init__(self) -> None:
        self._known_names: tuple[str, ...] = ()
        self._others: dict[str, int] = {}  # bits of the types that were seen
        self._meta: dict[str, int] | None = {}  # None: not to be spread over columns

    def observe(self, entry: JournalEntry) -> None:
        """Take in what a record has."""
        record = entry.record
        names = tuple(record)
        if names != self._known_names:  # mostly they are those of the record before
            if record.keys() <= _KNOWN_NAMES:
                self._known_names = names
            else:
                _add_types(self._others, ((name, record[name]) for name in names if name not in _KNOWN_NAMES))
        meta = record.get("meta")
        if meta and self._meta is not None:
            if isinstance(meta, dict):
                _add_types(self._meta, meta.items())
            if not isinstance(meta, dict) or len(self._meta) > MAX_META_COLUMNS:
                self._meta = None

    def all_columns(self) -> list[Column]:
        """Those of every record, those that some records have, and `meta.NAME` of the user's own.

        More than MAX_META_COLUMNS of the latter are one column `meta`, of JSON.
        """
        others = [Column(name, (name,), _KINDS.get(bits, "string")) for name, bits in self._others.items()]
        if self._meta is None:
            return [*RECORD_COLUMNS, *others, Column("meta", ("meta",))]
        meta = [Column(f"meta.{name}", ("meta", name), _KINDS.get(bits, "string")) for name, bits in self._meta.items()]
        return [*RECORD_COLUMNS, *others, *meta]


def _add_types(types: dict[str, int], values: Iterable[tuple[str, Any]]) -> None:
    for name, value in values:
        bit = _TYPE_BITS.get(type(value), _OTHER_BIT)
        if bit == _INT_BIT and value not in INT_RANGES["int64"]:
            bit = _OTHER_BIT
        known = types.get(name)
        if known is None or known | bit != known:  # mostly a value is like those before it
            types[name] = (known or 0) | bit


def row_batches(entries: Iterable[JournalEntry]) -> Iterator[RowBatch]:
    """The records of `entries`, a few at a time."""
    records: list[Record] = []
    num_bytes = 0
    for entry in entries:
        records.append(entry.record)
        num_bytes += len(entry.raw)
        if len(records) >= _MAX_BATCH_ROWS or num_bytes >= _MAX_BATCH_BYTES:
            yield RowBatch(records, num_bytes)
            records, num_bytes = [], 0
    if records:
        yield RowBatch(records, num_bytes)
