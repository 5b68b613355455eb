"""Short files of JSON lines, read and written by jsonlines with orjson as its codec. It knows no record.

Where many lines count, as in journals and data sets, orjson is called at once: jsonlines asks a lot of each line.
"""

from __future__ import annotations

from functools import partial
from typing import IO

import jsonlines
import orjson


def json_lines_reader(file: IO[bytes]) -> jsonlines.Reader:
    """Reads the lines of a binary file."""
    return jsonlines.Reader(file, loads=orjson.loads)


def json_lines_writer(file: IO[bytes]) -> jsonlines.Writer:
    """Writes lines to a binary file."""
    return jsonlines.Writer(file, dumps=partial(orjson.dumps, option=orjson.OPT_SERIALIZE_NUMPY))
