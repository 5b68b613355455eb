"""One export from its configuration to its outcome, for `convert` and `caption -o`, and the forms that there are.

It knows targets, and what all forms have in common; how each is written its own module knows, which is imported when
it is needed. A further form is a function of an ExportJob, named in FORMATS.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Literal, Protocol

from omnicap_cli.core.files.atomic import remove_leftovers, replacing, write_error
from omnicap_cli.core.runs.journal_reading import Entry, JournalReader, Record, text_of
from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.core.runs.run_note import RunMeta, find_journal
from omnicap_cli.errors import ITEMS_FAILED, ItemError, OptionError
from omnicap_cli.media.record_pictures import PictureFile, Pictures

STDOUT: Final = "-"
REPLACE_HINT: Final = "Choose another name with -o, or pass --overwrite to replace it."
NO_PICTURE: Final = "no picture"  # a reason to leave a record out: it isn't found any more
_LOSS_HINT: Final = "; --image-root tells where their paths begin, --image-key which column of parquet holds them"
_CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """How a form is found: `function` of `module`, in this package, takes an ExportJob.

    `target`: a stream goes into a file or to stdout, a file can't go to stdout, a folder gets many files.
    """

    module: str
    function: str
    suffixes: tuple[str, ...] = ()
    target: Literal["stream", "file", "folder"]

    def write(self, job: ExportJob) -> None:
        """Do it."""
        getattr(importlib.import_module(f"{__package__}.{self.module}"), self.function)(job)


FORMATS: Final[dict[str, ExportSpec]] = {
    "jsonl": ExportSpec(module="tables", function="write_jsonl", suffixes=(".jsonl", ".ndjson"), target="stream"),
    "csv": ExportSpec(module="tables", function="write_csv", suffixes=(".csv",), target="stream"),
    "tsv": ExportSpec(module="tables", function="write_tsv", suffixes=(".tsv",), target="stream"),
    "parquet": ExportSpec(module="tables", function="write_parquet", suffixes=(".parquet",), target="file"),
    "txt": ExportSpec(module="text_files", function="write_text_files", target="folder"),
    "conversations": ExportSpec(
        module="conversations", function="write_conversations", suffixes=(".json",), target="stream"
    ),
    "webdataset": ExportSpec(module="webdataset", function="write_webdataset", suffixes=(".tar",), target="file"),
    "html": ExportSpec(module="gallery.gallery", function="write_gallery", suffixes=(".html", ".htm"), target="file"),
    "xmp": ExportSpec(module="metadata.copies", function="write_copies", target="folder"),
}


class Stream(Protocol):
    """Where the bytes of an export go."""

    def write(self, content: bytes, /) -> object:
        """Take all of it, or raise."""


def choose_format(output: Path | str | None, format: str | None) -> str:
    """The key of FORMATS: `format`, or what the name of `output` tells; jsonl for stdout. Raises OptionError."""
    if format is not None:
        if format not in FORMATS:
            raise OptionError("--format", format, f"is not a form; choose from {', '.join(FORMATS)}")
        return format
    if output is None or str(output) == STDOUT:
        return "jsonl"
    path = Path(output)
    if _names_folder(output) or os.path.isdir(path):
        return "txt"
    by_suffix = {suffix: name for name, spec in FORMATS.items() for suffix in spec.suffixes}
    if path.suffix.lower() not in by_suffix:
        problem = f"names no form by its end; there are {', '.join(by_suffix)}, and a slash for a folder of .txt files"
        raise OptionError("--output", str(output), problem, hint=f"Or name it: --format {'|'.join(FORMATS)}")
    return by_suffix[path.suffix.lower()]


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


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of an export: counts of what was written (`unit` says what), and of records left out, by reason.

    Of files, `num_same` were there already, and `num_conflicts` with another content, so that they were left alone.
    `first_loss` says why the first picture that can't be had isn't.
    """

    unit: str = "records"
    num_written: int = 0
    num_same: int = 0
    num_conflicts: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first_loss: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 3 where something is not as the journal has it."""
        return ITEMS_FAILED if self.num_conflicts or self.left_out[NO_PICTURE] else 0

    def summary(self, target: Path | None) -> str:
        """All in one line."""
        parts = [f"{self.num_written:,} {self.unit}" + (f" → {target}" if target else "")]
        if self.num_same:
            parts.append(f"{self.num_same:,} were there already")
        if self.left_out:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.left_out.most_common())
            parts.append(f"{self.left_out.total():,} left out ({reasons})")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJob:
    """What a form gets to work with. `show` writes to stdout; `pictures` finds those of the records."""

    config: ExportConfig
    reader: JournalReader
    show: Callable[[bytes], object]
    pictures: Pictures
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def folders(self) -> tuple[str, ...]:
        """Where relative paths of pictures may begin."""
        return self.pictures.folders

    def picture_of(self, record: Record) -> PictureFile | None:
        """The picture of a record as a file; None where it can't be had."""
        try:
            return self.pictures.file_of(record)
        except ItemError as error:
            self.outcome.first_loss = self.outcome.first_loss or error.message
            return None

    def entries(self, *, grouped: bool = False) -> Iterator[Entry]:
        """The entries of the journal that are wanted, in the order that is."""
        return itertools.islice(self.reader.entries(sort=self.config.sort, grouped=grouped), self.config.limit)

    def records(self, *, grouped: bool = False) -> Iterator[Record]:
        """As `entries`, the records alone."""
        return (entry.record for entry in self.entries(grouped=grouped))

    def captions_by_picture(self) -> Iterator[list[Record]]:
        """The records of each picture that have a caption, the newest for each prompt; errors alone are counted."""
        for _, group in itertools.groupby(self.records(grouped=True), lambda record: text_of(record, "id")):
            newest: dict[tuple[str, ...], Record] = {}
            for each in group:
                asked = tuple(text_of(each, name) for name in ("type", "style", "lang", "prompt"))
                if each["status"] == "ok" or newest.get(asked, each)["status"] != "ok":
                    newest[asked] = each
            captioned = [
                each for each in newest.values() if each["status"] == "ok" and isinstance(each.get("caption"), str)
            ]
            if len(captioned) < len(newest):
                self.outcome.left_out["errors"] += len(newest) - len(captioned)
            if captioned:
                yield captioned

    @contextlib.contextmanager
    def opened(self) -> Iterator[Stream]:
        """Where the bytes go: stdout, or a file that takes the place of the old one once all of it is on the disk.

        Raises JournalWriteError where the disk doesn't take it; then the old file is what it was.
        """
        if self.config.target is None:
            chunks = _Chunks(self.show)
            yield chunks
            chunks.flush()
        else:
            with self.opened_file(self.config.target) as file:
                yield file

    @contextlib.contextmanager
    def opened_file(self, target: Path) -> Iterator[IO[bytes]]:
        """As `opened`, for a form that needs a real file."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target.resolve())
            with replacing(target) as file:
                yield file
        except OSError as error:
            raise write_error(target, error) from error


def export(config: ExportConfig, *, show: Callable[[bytes], object]) -> Outcome:
    """Write a journal in another form. `show` gets what goes to stdout.

    Raises JournalError where the journal can't be read, JournalWriteError where the target can't be written.
    """
    journal = find_journal(config.journal)
    _check_is_no_source(config, journal)
    with JournalReader(journal) as reader:
        meta = RunMeta.read(journal)
        pictures = Pictures(
            folders=_folders(config, meta),
            image_key=config.image_key or (meta.settings.get("image_key") if meta else None),
            transfer=config.transfer,
        )
        job = ExportJob(config=config, reader=reader, show=show, pictures=pictures)
        FORMATS[config.form].write(job)
        if reader.num_broken_lines:
            job.outcome.warnings.append(f"{reader.num_broken_lines:,} broken lines of {journal} were passed over")
        if not reader.num_records:
            job.outcome.warnings.append(f"{journal} holds no records")
        job.outcome.warnings += _unfinished(journal, meta)
        if lost := job.outcome.left_out[NO_PICTURE]:
            job.outcome.warnings.append(f"{lost:,} pictures were not found{_LOSS_HINT}")
            if job.outcome.first_loss:
                job.outcome.warnings.append(f"the first of them: {job.outcome.first_loss}")
        return job.outcome


def _folders(config: ExportConfig, meta: RunMeta | None) -> tuple[str, ...]:
    """Where relative paths of pictures may begin: as the user says, else where the run was, else here."""
    if config.image_root is not None:
        return (config.image_root,)
    return (meta.folder, "") if meta and meta.folder else ("",)


def _unfinished(journal: Path, meta: RunMeta | None) -> Iterator[str]:
    if meta and meta.state_now != "finished":
        left = f", {meta.num_left:,} requests are left" if meta.num_left else ""
        yield f"the run of {journal} is not finished ({meta.state_now}{left}); this is what there is"


class _Chunks:
    """Gathers small writes into larger ones."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._waiting = bytearray()

    def write(self, content: bytes, /) -> None:
        self._waiting += content
        if len(self._waiting) >= _CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._write(bytes(self._waiting))
            self._waiting.clear()


def _names_folder(output: Path | str) -> bool:
    return str(output).endswith(("/", os.sep))


def _check_target(output: str, target: Path, spec: ExportSpec, *, overwrite: bool) -> None:
    try:
        is_there, is_folder, is_file = target.exists(), target.is_dir(), target.is_file()
        is_journal = RunMeta.path_of(target).exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself, before Python 3.13
        raise OptionError("--output", output, f"can't be used: {error}") from error
    if spec.target == "folder":
        if is_there and not is_folder:
            raise OptionError("--output", output, "is there and is not a folder")
    elif (is_there and not is_file) or _names_folder(output):
        raise OptionError("--output", output, "is not a file", hint="For the standard output leave -o out.")
    elif is_journal:
        raise OptionError("--output", output, "is the journal of a run", hint="Choose another name with -o.")
    elif is_there and not overwrite:
        raise OptionError("--output", output, "is there already", hint=REPLACE_HINT)


def _check_is_no_source(config: ExportConfig, journal: Path) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # one of them isn't there, or is a link in a circle
        for source in (journal, RunMeta.path_of(journal)):
            if config.target is not None and os.path.samefile(source, config.target):
                problem = "is the journal itself, or the note beside it"
                raise OptionError("--output", config.output, problem, hint="Choose another name with -o.")
