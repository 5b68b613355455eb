"""A journal as rows: JSON lines as they are, CSV, TSV and parquet, with the user's own columns beside a record's.

It knows columns and types; where the bytes go, and which records there are, it is told. No value makes an export fail:
what doesn't fit the type of its column is written as JSON text, or is null where the column has numbers.
"""

from __future__ import annotations

import contextlib
import json
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from omnicap_cli import __version__
from omnicap_cli.core.runs.journal_reading import JournalEntry, Record
from omnicap_cli.errors import MissingExtraError
from omnicap_cli.exports.export_job import ExportJob

if TYPE_CHECKING:
    import pyarrow

ColumnKind = Literal["string", "int32", "int64", "double", "bool"]

MAX_META_COLUMNS: Final = 100
MAX_GROUP_ROWS: Final = 50_000  # of a row group of parquet
_MAX_GROUP_BYTES: Final = 64 << 20
_MAX_BATCH_ROWS: Final = 128  # records as Python objects: more of them leave the processor's cache
_MAX_BATCH_BYTES: Final = 4 << 20
_NUL, _NO_NUL = "\0", "\ufffd"
_TYPE_BITS: Final[dict[type, int]] = {type(None): 0, str: 1, int: 2, float: 4, bool: 8}
_INT_BIT: Final = _TYPE_BITS[int]
_OTHER_BIT: Final = 16
# of the bits of the types in a column; any other mixture is a string
_KINDS: Final[dict[int, ColumnKind]] = {2: "int64", 4: "double", 6: "double", 8: "bool"}
_SPECIAL: Final = {delimiter: re.compile(f'[{delimiter}"\r\n]') for delimiter in (",", "\t")}  # a field is quoted
_NUMBERS: Final[set[type]] = {int, float}
_TEXTS: Final[set[type]] = {str, type(None)}
_INT_BITS: Final = {"int32": 31, "int64": 63}


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
_REPEATED: Final = ["type", "style", "lang", "status", "error_kind", "finish_reason", "model", "revision", "engine"]
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
        if bit == _INT_BIT and not _is_in_range(value, "int64"):
            bit = _OTHER_BIT
        known = types.get(name)
        if known is None or known | bit != known:  # mostly a value is like those before it
            types[name] = (known or 0) | bit


def write_jsonl(job: ExportJob) -> None:
    """The lines of the newest records, byte for byte."""
    with job.open_output() as file:
        for entry in job.entries():
            file.write(entry.raw if entry.raw.endswith(b"\n") else entry.raw + b"\n")
            job.outcome.num_written += 1


def write_csv(job: ExportJob) -> None:
    """UTF-8, quoted and with line ends as RFC 4180 has them; null is empty, and NUL becomes U+FFFD.

    Values are exact otherwise: one that a spreadsheet would take for a formula is left as it is.
    """
    _write_separated(job, ",")


def write_tsv(job: ExportJob) -> None:
    """As CSV, with tabs."""
    _write_separated(job, "\t")


def write_parquet(job: ExportJob) -> None:
    """Typed columns, zstd, row groups of MAX_GROUP_ROWS, and a mark `omnicap` in the metadata of the file."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError("parquet needs the package pyarrow", hint="Install it: pip install pyarrow") from error
    columns = _all_columns(job)
    schema = _parquet_schema(columns, job.reader.path.name)
    assert job.config.target is not None, "only what goes into a stream can do without"
    with job.open_output_file(job.config.target) as file:
        writer = pyarrow.parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=_REPEATED)
        try:
            _write_groups(_row_groups(job, columns, schema), writer)
        except BaseException:
            with contextlib.suppress(pyarrow.ArrowException, OSError):  # of half a group; what was before is told
                writer.close()
            writer.is_open = False
            raise
        writer.close()


def _write_groups(groups: Iterable[pyarrow.Table], writer: pyarrow.parquet.ParquetWriter) -> None:
    """One is compressed, which needs no Python, while the next is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="parquet") as thread:
        thread.submit(int).result()  # one that an interrupt meets while it is started would not be waited for
        writing: Future[None] | None = None
        for group in groups:
            if writing:
                writing.result()
            writing = thread.submit(writer.write_table, group, row_group_size=len(group))
        if writing:
            writing.result()


def _row_groups(job: ExportJob, columns: list[Column], schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
    """Small batches become columns at once, since records as Python objects take much more memory than these."""
    import pyarrow

    waiting: list[pyarrow.RecordBatch] = []
    num_rows = num_bytes = 0
    for batch in _row_batches(job.entries()):
        job.outcome.num_written += len(batch)
        arrays = [_parquet_array(column, batch, field.type) for column, field in zip(columns, schema, strict=True)]
        waiting.append(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
        num_rows, num_bytes = num_rows + len(batch), num_bytes + batch.num_bytes
        if num_rows >= MAX_GROUP_ROWS or num_bytes >= _MAX_GROUP_BYTES:
            yield pyarrow.Table.from_batches(waiting)
            waiting, num_rows, num_bytes = [], 0, 0
    if waiting:
        yield pyarrow.Table.from_batches(waiting)


def _all_columns(job: ExportJob) -> list[Column]:
    found = TableColumns()
    job.reader.scan(found.observe)
    return found.all_columns()


def _row_batches(entries: Iterable[JournalEntry]) -> Iterator[RowBatch]:
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


# ------------------------------------------------------------------------------------------------ CSV, TSV


def _write_separated(job: ExportJob, delimiter: str) -> None:
    columns = _all_columns(job)
    with job.open_output() as file:
        file.write(_separated_rows([[column.name] for column in columns], delimiter))
        for batch in _row_batches(job.entries()):
            job.outcome.num_written += len(batch)
            file.write(_separated_rows([column.values(batch) for column in columns], delimiter))


def _separated_rows(columns: Iterable[Sequence[Any]], delimiter: str) -> bytes:
    """Rows from columns of equal length. Column by column, it takes a quarter of the time of Python's `csv`."""
    cells = [_quoted_fields(_column_texts(values), delimiter) for values in columns]
    return ("\r\n".join(map(delimiter.join, zip(*cells, strict=True))) + "\r\n").encode()


def _column_texts(values: Sequence[Any]) -> Sequence[str]:
    """The values of a column as text; mostly they are of one type."""
    types = set(map(type, values))
    if types == {str}:
        return values
    if types <= _NUMBERS:
        return orjson.dumps(values).decode()[1:-1].split(",")
    if types == {type(None)}:
        return [""] * len(values)
    return [value if type(value) is str else "" if value is None else json_text(value) for value in values]


def _quoted_fields(texts: Sequence[str], delimiter: str) -> Sequence[str]:
    """Texts as fields. Most columns need no quotes, and that is seen at one glance."""
    together = "".join(texts)
    if _NUL in together:
        texts = [text.replace(_NUL, _NO_NUL) for text in texts]
    if not any(each in together for each in (delimiter, '"', "\r", "\n")):
        return texts
    special = _SPECIAL[delimiter]
    return ['"' + text.replace('"', '""') + '"' if special.search(text) else text for text in texts]


# ------------------------------------------------------------------------------------------------ parquet


def _parquet_schema(columns: list[Column], journal: str) -> pyarrow.Schema:
    import pyarrow

    types = {
        "string": pyarrow.string(),
        "int32": pyarrow.int32(),
        "int64": pyarrow.int64(),
        "double": pyarrow.float64(),
        "bool": pyarrow.bool_(),
    }
    mark = {"omnicap": orjson.dumps({"generated": True, "omnicap": __version__, "journal": journal})}
    return pyarrow.schema([(column.name, types[column.kind]) for column in columns], metadata=mark)


def _parquet_array(column: Column, batch: RowBatch, of_type: pyarrow.DataType) -> pyarrow.Array:
    import pyarrow

    values = column.values(batch)
    if column.kind == "string":
        if not _TEXTS.issuperset(map(type, values)):
            values = [each if each is None or type(each) is str else json_text(each) for each in values]
        return pyarrow.array(values, of_type)
    try:
        return pyarrow.array(values, of_type)
    except (pyarrow.ArrowException, OverflowError):
        return pyarrow.array([_number_or_none(value, column.kind) for value in values], of_type)


def _number_or_none(value: Any, kind: ColumnKind) -> Any:
    """`value` if it is of the kind, else None."""
    if kind == "bool" or isinstance(value, bool):
        return value if kind == "bool" and isinstance(value, bool) else None
    if not isinstance(value, int | float):
        return None
    if kind == "double":
        return float(value)
    return int(value) if value == int(value) and _is_in_range(int(value), kind) else None


def _is_in_range(value: int, kind: ColumnKind) -> bool:
    limit = 1 << _INT_BITS[kind]
    return -limit <= value < limit


def json_text(value: Any) -> str:
    """Any value of a record as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested deeper than orjson writes, though it reads it
        with contextlib.suppress(RecursionError):
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return '"nested too deep"'
