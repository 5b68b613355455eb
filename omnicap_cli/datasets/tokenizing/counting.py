"""A line of a data set as a line of its output: the record with its counts, or with the reason why it has none.

Lines come as bytes and leave as bytes, so that what is not understood stays as it was.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import orjson

from omnicap_cli.core.tokens.samples import Sample, SampleError
from omnicap_cli.core.tokens.text_tokens import TokenizersDisagreeError
from omnicap_cli.core.tokens.training_input import SampleCounts, TrainingInput
from omnicap_cli.datasets.tokenizing.media_sizes import MediaSizes

MAX_LINE_BYTES: Final = 4 << 20  # more tokens than any model takes; counting needs 15 to 40 times the memory
_ADDED: Final = ("token_length", "image_token_num", "task_type", "sequence_length")
_MAX_SHOWN_BYTES: Final = 10_000  # of a line that is no record
_NUM_CHECKED_FIRST: Final = 32  # records counted a second time, by the model's tokenizer itself,
_CHECKED_EVERY: Final = 1024  # and one in so many after them,
_MAX_CHECKED_BYTES: Final = 1 << 16  # but for very long ones, for which that takes seconds and gigabytes


class Counted(NamedTuple):
    """A line for the output, or where `reason` is set for the rejects."""

    line: bytes
    counts: SampleCounts | None
    reason: str | None


class RecordCounter:
    """Counts record after record. `max_length` is the longest sequence that is kept."""

    def __init__(self, input: TrainingInput, sizes: MediaSizes, *, max_length: int | None) -> None:
        self._input, self._sizes, self._max_length = input, sizes, max_length
        self._num_counted = 0

    def count(self, line: bytes, number: int) -> Counted:
        """`line` without white space at its ends, the `number`th (from 1) of its file.

        Raises TokenizersDisagreeError where the fast way of counting proves wrong.
        """
        try:
            record = orjson.loads(line)  # at once, and not by jsonlines: every line of a data set comes by here
        except ValueError as error:
            return _rejected(None, line, number, "not_json", f"not JSON: {error}")
        if not isinstance(record, dict):
            return _rejected(None, line, number, "not_a_record", "not a JSON object")
        try:
            return self._kept(line, record)
        except SampleError as error:
            return _rejected(record, line, number, error.reason, error.message)

    def _kept(self, line: bytes, record: dict[str, Any]) -> Counted:
        sample = Sample.of_record(record)
        task_type = self._input.task_type(sample)
        num_images = len(sample.images)
        sizes = map(self._sizes.image, sample.images)
        images = [self._input.image(size.height, size.width, num_images=num_images) for size in sizes]
        clips = [self._input.clip(self._sizes.clip(name)) for name in sample.videos]
        counts = self._input.counts(sample, task_type, images, clips)
        if self._input.text.is_fast and len(line) <= _MAX_CHECKED_BYTES:
            self._num_counted += 1
            if self._num_counted <= _NUM_CHECKED_FIRST or self._num_counted % _CHECKED_EVERY == 0:
                exact = self._input.exact_counts(sample, task_type, images, clips)
                if exact != counts:
                    raise TokenizersDisagreeError(f"{counts} instead of {exact}")
        if self._max_length is not None and counts.sequence_length > self._max_length:
            raise SampleError("too_long", f"{counts.sequence_length:,} tokens are more than {self._max_length:,}")
        return Counted(_with_counts(line, record, counts, task_type), counts, None)


def too_long_line(number: int) -> Counted:
    """What becomes of a line that is not even read."""
    message = f"more than {MAX_LINE_BYTES >> 20} MiB"
    return _rejected(None, b"", number, "line_too_long", message)


def _with_counts(line: bytes, record: dict[str, Any], counts: SampleCounts, task_type: str) -> bytes:
    """The record as it was written, with the counts behind what it has; written anew where it has some already."""
    known = [name for name in _ADDED if name in record]
    if known and (known != ["task_type"] or record["task_type"] != task_type):
        try:
            return orjson.dumps(record | counts._asdict() | {"task_type": task_type}, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError as error:
            raise SampleError("not_a_record", "it is nested too deeply to be written anew with other counts") from error
    task = b"" if known else b',"task_type":' + orjson.dumps(task_type)
    return b'%b,"token_length":%d,"image_token_num":%d%b,"sequence_length":%d}\n' % (
        line[:-1],
        counts.token_length,
        counts.image_token_num,
        task,
        counts.sequence_length,
    )


def _rejected(record: dict[str, Any] | None, line: bytes, number: int, reason: str, message: str) -> Counted:
    """The record as it was written, with the reason behind what it has; where it is none, its beginning as text."""
    why = {"reason": reason, "message": message, "line": number}
    if record and why.keys().isdisjoint(record):
        return Counted(b"%b,%b\n" % (line[:-1], orjson.dumps(why)[1:]), None, reason)
    text = {"text": _line_as_text(line)} if line else {}
    try:
        content = orjson.dumps((text if record is None else record) | why, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # nested deeper than it writes
        content = orjson.dumps(text | why, option=orjson.OPT_APPEND_NEWLINE)
    return Counted(content, None, reason)


def _line_as_text(line: bytes) -> str:
    text = line[:_MAX_SHOWN_BYTES].decode(errors="replace")
    return text if len(line) <= _MAX_SHOWN_BYTES else f"{text}… ({len(line):,} bytes)"
