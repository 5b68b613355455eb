"""What a user decides about an export, checked before anything is read. It knows no journal and no picture."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.errors import OptionError
from omnicap_cli.exports.formats import FORMATS, STDOUT, ExportFormat, choose_format, names_folder

REPLACE_HINT: Final = "Choose another name with -o, or pass --overwrite to replace it."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Everything that a user decides about an export. Raises OptionError for what can't be used.

    `output` is a path, as it was typed (a slash at its end makes it a folder); "-" is stdout, and so is None, but for
    the form `txt`, which then puts its files beside the pictures. `format` and `output` as `choose_format` takes them.
    `limit` counts records. A target that is there is only replaced with `overwrite`. `image_root` is where relative
    paths of pictures begin, `image_key` the column of parquet that was captioned, if not as the journal's note has it;
    `transfer` is how pictures elsewhere are fetched.
    """

    journal: Path
    output: Path | str | None = None
    format: str | None = None
    sort: bool = False
    limit: int | None = None
    overwrite: bool = False
    shard_bytes: int = 1_000_000_000
    image_root: str | None = None
    image_key: str | None = None
    transfer: Transfer = field(default_factory=Transfer)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError("--limit", self.limit, "is not a number of records; give 1 or more")
        if self.image_root is not None and not os.path.isdir(self.image_root):
            raise OptionError("--image-root", self.image_root, "is not a folder")
        if self.shard_bytes < 1:
            raise OptionError("--shard-bytes", self.shard_bytes, "is too small; give 1 or more")
        spec = FORMATS[self.form]
        if self.target is not None:
            _check_target(str(self.output), self.target, spec, overwrite=self.overwrite)
        elif spec.target == "file" or (self.output is not None and spec.target == "folder"):
            raise OptionError("--format", self.form, "can't go to the standard output", hint="Name a target with -o.")

    @property
    def form(self) -> str:
        """The key of FORMATS."""
        return choose_format(self.output, self.format)

    @property
    def target(self) -> Path | None:
        """The file or folder, if there is one."""
        return None if self.output is None or str(self.output) == STDOUT else Path(self.output)


def _check_target(output: str, target: Path, spec: ExportFormat, *, overwrite: bool) -> None:
    try:
        is_there, is_folder, is_file = target.exists(), target.is_dir(), target.is_file()
        is_journal = RunMeta.path_of(target).exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13
        raise OptionError("--output", output, f"can't be used: {error}") from error
    if spec.target == "folder":
        if is_there and not is_folder:
            raise OptionError("--output", output, "is there and is not a folder")
    elif (is_there and not is_file) or names_folder(output):
        raise OptionError("--output", output, "is not a file", hint="For the standard output leave -o out.")
    elif is_journal:
        raise OptionError("--output", output, "is the journal of a run", hint="Choose another name with -o.")
    elif is_there and not overwrite:
        raise OptionError("--output", output, "is there already", hint=REPLACE_HINT)
