"""The forms that an export can have, each a function of an ExportJob in a module of its own, and the choice of one.

It knows names and suffixes. How a form is written its module knows, which is imported when it is needed. To add one,
write such a function and name it in FORMATS.
"""

from __future__ import annotations

import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from omnicap_cli.errors import OptionError

STDOUT: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """How a form is found: `writer`, a module of this package and a function in it, takes an ExportJob.

    `target`: a stream goes into a file or to stdout, a file can't go to stdout, a folder gets many files.
    """

    writer: str
    suffixes: tuple[str, ...] = ()
    target: Literal["stream", "file", "folder"]

    def write(self, job: Any) -> None:
        """Write an ExportJob in this form, whose module is imported only now."""
        pkgutil.resolve_name(f"{__package__}.{self.writer}")(job)


FORMATS: Final[dict[str, ExportFormat]] = {
    "jsonl": ExportFormat(writer="tables:write_jsonl", suffixes=(".jsonl", ".ndjson"), target="stream"),
    "csv": ExportFormat(writer="tables:write_separated", suffixes=(".csv",), target="stream"),
    "tsv": ExportFormat(writer="tables:write_separated", suffixes=(".tsv",), target="stream"),
    "parquet": ExportFormat(writer="tables:write_parquet", suffixes=(".parquet",), target="file"),
    "txt": ExportFormat(writer="text_files:write_text_files", target="folder"),
    "conversations": ExportFormat(writer="conversations:write_conversations", suffixes=(".json",), target="stream"),
    "webdataset": ExportFormat(writer="webdataset:write_webdataset", suffixes=(".tar",), target="file"),
    "html": ExportFormat(writer="gallery.gallery:write_gallery", suffixes=(".html", ".htm"), target="file"),
    "xmp": ExportFormat(writer="metadata.copies:write_copies", target="folder"),
}


def choose_format(output: Path | str | None, format: str | None) -> str:
    """The key of FORMATS: `format`, or what the name of `output` tells; jsonl for stdout. Raises OptionError."""
    if format is not None:
        if format not in FORMATS:
            raise OptionError("--format", format, f"is not a form; choose from {', '.join(FORMATS)}")
        return format
    if output is None or str(output) == STDOUT:
        return "jsonl"
    path = Path(output)
    if names_folder(output) or os.path.isdir(path):
        return "txt"
    by_suffix = {suffix: name for name, spec in FORMATS.items() for suffix in spec.suffixes}
    if path.suffix.lower() not in by_suffix:
        problem = f"names no form by its end; there are {', '.join(by_suffix)}, and a slash for a folder of .txt files"
        raise OptionError("--output", str(output), problem, hint=f"Or name it: --format {'|'.join(FORMATS)}")
    return by_suffix[path.suffix.lower()]


def names_folder(output: Path | str) -> bool:
    """Whether a path, as it was typed, can only be a folder."""
    return str(output).endswith(("/", os.sep))
