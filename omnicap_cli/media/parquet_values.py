"""What columns of parquet hold, as Python and JSON can have it. It knows pyarrow's types, and no file."""

from __future__ import annotations

from typing import Any


def holds_pictures(kind: Any) -> bool:
    """Whether a column of this pyarrow type can hold pictures: bytes, or a struct that has them in a field `bytes`."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return holds_pictures(kind.value_type)
    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and holds_pictures(kind.field(place).type)
    kinds_of_bytes = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_of_kind(kind) for is_of_kind in kinds_of_bytes)


def column_values(column: Any) -> list[Any]:
    """What a column holds, as `parquet_value` has it. Times in nanoseconds become text: Python has no such times."""
    import pyarrow

    kind = column.type
    try:
        if pyarrow.types.is_temporal(kind) and getattr(kind, "unit", None) == "ns":
            column = column.cast(pyarrow.int64() if pyarrow.types.is_duration(kind) else pyarrow.string())
        return list(column.to_pylist())
    except (pyarrow.ArrowException, ValueError, OverflowError):
        return [parquet_value(scalar) for scalar in column]


def parquet_value(scalar: Any) -> Any:
    """One value of a column of parquet. What Python can't hold becomes text, wherever in it, or else null.

    Such are times beyond the year 9999 or in nanoseconds or of an unknown time zone, and text that isn't UTF-8.
    """
    import pyarrow

    try:
        return scalar.as_py()
    except (pyarrow.ArrowException, ValueError, OverflowError):
        kind = scalar.type
    if pyarrow.types.is_dictionary(kind):
        return parquet_value(scalar.value)
    if pyarrow.types.is_struct(kind):  # fields that share a name come as pairs
        fields = [(kind.field(place).name, parquet_value(scalar[place])) for place in range(kind.num_fields)]
        return dict(fields) if len(dict(fields)) == len(fields) else fields
    if pyarrow.types.is_map(kind):
        return [(parquet_value(entry[0]), parquet_value(entry[1])) for entry in scalar.values]
    return [parquet_value(each) for each in scalar.values] if pyarrow.types.is_nested(kind) else _text_or_null(scalar)


def _text_or_null(scalar: Any) -> str | None:
    import pyarrow

    if isinstance(scalar, pyarrow.BinaryScalar):
        return bytes(scalar.as_buffer()).decode(errors="backslashreplace")
    try:
        if pyarrow.types.is_timestamp(scalar.type) and scalar.type.tz:  # which may be unknown; it is stored in UTC
            scalar = scalar.cast(pyarrow.timestamp(scalar.type.unit, "UTC"))
        return str(scalar.cast(pyarrow.string()).as_py())
    except (pyarrow.ArrowException, ValueError, OverflowError):
        return None
