"""All splits of a data set, in several processes, or one of them in this one. It knows no terminal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.files.words import without_surrogates
from omnicap_cli.core.models.model_files import find_processor
from omnicap_cli.core.tokens.training_input import TrainingFormat, TrainingInput
from omnicap_cli.core.workers.pool import DeathPolicy, Pool
from omnicap_cli.core.workers.pool_child import Assignment, Work
from omnicap_cli.datasets.lengths import LengthCounts
from omnicap_cli.datasets.splits import MAX_SPLITS, Split, SplitNote
from omnicap_cli.datasets.tokenizing.data_file import open_data
from omnicap_cli.datasets.tokenizing.split_run import Job, SplitRunner, Step
from omnicap_cli.datasets.tokenizing.split_state import (
    check_data,
    check_others,
    own_split_state,
    remove_split,
    splits_in,
)
from omnicap_cli.errors import OmnicapError, OptionError

_HOW_TO_GO_ON: Final = "Run it again: what was done is kept."
_BAD_IN_NAMES: Final = ("/", "\0", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeConfig:
    """Everything that a user decides. Raises OptionError for what can't be used.

    `split_index` is None for all `num_splits` splits.
    """

    data: str
    output: Path
    name: str
    model: str
    num_splits: int = 1
    split_index: int | None = None
    num_workers: int = 1
    task_type: str | None = None
    prompts: Path | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    image_root: str | None = None
    max_length: int | None = None
    verify_images: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for option, value in (
            ("--splits" if self.split_index is None else "--split-num", self.num_splits),
            ("--workers", self.num_workers),
            ("--max-length", self.max_length),
        ):
            if value is not None and value < 1:
                raise OptionError(option, value, "is less than 1")
        if self.num_splits > MAX_SPLITS:
            raise OptionError("--splits", self.num_splits, f"is more than {MAX_SPLITS:,}")
        if self.split_index is not None and not 0 <= self.split_index < self.num_splits:
            problem = f"is no split of {self.num_splits:,}; they are 0 to {self.num_splits - 1:,}"
            raise OptionError("--split-index", self.split_index, problem)
        if not self.name or any(character in self.name for character in _BAD_IN_NAMES):
            raise OptionError("--name", self.name, "can't be part of a file name")
        if self.name != without_surrogates(self.name):
            raise OptionError("--name", self.name, "is not UTF-8, as all that is written is")
        if os.path.exists(self.output) and not os.path.isdir(self.output):
            raise OptionError("--output", str(self.output), "is a file; give a folder")
        if self.image_root is not None and not os.path.isdir(self.image_root):
            raise OptionError("--image-root", self.image_root, "is no folder here")

    @property
    def splits(self) -> list[Split]:
        """Those to make."""
        indices = range(self.num_splits) if self.split_index is None else [self.split_index]
        return [Split(folder=self.output, name=self.name, index=index, num_splits=self.num_splits) for index in indices]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeReport:
    """What became of the data, all splits together. `num_in` records are `num_kept` and `num_rejected`."""

    output: str
    name: str
    num_splits: int
    num_lines: int
    num_in: int
    num_kept: int
    num_rejected: int
    rejected: dict[str, int]
    num_text_tokens: int
    num_image_tokens: int
    num_sequence_tokens: int
    lengths: LengthCounts = field(repr=False)

    @classmethod
    def of_notes(cls, config: TokenizeConfig, notes: Sequence[SplitNote]) -> TokenizeReport:
        """The sum of all."""
        lengths, rejected = LengthCounts(), Counter[str]()
        for note in notes:
            lengths.update(LengthCounts.of_pairs(note.lengths))
            rejected.update(note.rejected)
        sums = {
            name: sum(getattr(note, name) for note in notes)
            for name in (
                *("num_lines", "num_in", "num_kept", "num_rejected"),
                *("num_text_tokens", "num_image_tokens", "num_sequence_tokens"),
            )
        }
        return cls(
            output=str(config.output),
            name=config.name,
            num_splits=len(notes),
            rejected=dict(rejected.most_common()),
            lengths=lengths,
            **sums,
        )


def plan(config: TokenizeConfig, stdin: BinaryIO) -> dict[str, Any]:
    """What there is to do. Nothing is written but the index of the data, and a copy where it is no file of lines."""
    with _prepared(config, _training_format(config), stdin, fast=False) as (job, input):
        settings = job.settings(input, config.num_splits)
        states = [] if config.overwrite else [own_split_state(split, settings) for split in config.splits]
        return {
            "lines": _num_lines(config, job),
            "splits": len(config.splits),
            "splits_done": sum(state.stage == "done" for state in states),
            "processes": _num_processes(config),
        }


def tokenize_splits(
    config: TokenizeConfig,
    stdin: BinaryIO,
    *,
    begin: Callable[[int], None],
    tell: Callable[[Step], None],
    warn: Callable[[str], None],
) -> TokenizeReport:
    """Make the splits that `config` names, in as many processes as it says.

    `begin` hears how many lines there are, `tell` of what was done; it may raise StoppedError, which is passed on
    when all is still. Raises OmnicapError for whatever is in the way; what was done is kept.
    """
    format = _training_format(config)
    with _started_pool(config, format) as pool, _prepared(config, format, stdin, fast=not pool) as (job, input):
        settings = job.settings(input, config.num_splits)
        if not config.overwrite:
            for split in config.splits:  # all of them, before anything is made that doesn't fit the others
                own_split_state(split, settings)
        if not config.overwrite or config.split_index is not None:
            check_others(config.splits, settings)
        if config.overwrite:
            _remove_all(config)
        begin(_num_lines(config, job))
        if pool:
            notes = list(_run_in_processes(pool, config, job, tell, warn))
        else:
            runner = SplitRunner(job, input, tell=tell, warn=warn)
            notes = [runner.run(split) for split in config.splits]
    return TokenizeReport.of_notes(config, notes)


def load_split_runner(format: TrainingFormat) -> Work:
    """The target of a pool: makes splits, once it is told of the job."""
    input = TrainingInput(format)

    def work(assignments: Iterator[Assignment], _stop: threading.Event) -> None:
        def say(message: Any) -> None:
            assignment.say(message)

        assignment, runner = next(assignments), None
        job = assignment.content
        for assignment in assignments:
            runner = runner or SplitRunner(job, input, tell=say, warn=say)
            assignment.answer(runner.run(assignment.content))

    return work


def _num_processes(config: TokenizeConfig) -> int:
    return min(config.num_workers, len(config.splits))


def _num_lines(config: TokenizeConfig, job: Job) -> int:
    return sum(len(split.lines_of(job.data.num_lines)) for split in config.splits)


def _training_format(config: TokenizeConfig) -> TrainingFormat:
    return TrainingFormat(
        folder=find_processor(config.model).resolve(),
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        prompts=config.prompts,
        task_type=config.task_type,
    )


@contextlib.contextmanager
def _started_pool(config: TokenizeConfig, format: TrainingFormat) -> Iterator[Pool | None]:
    """The processes to count in, which load the tokenizer while the data is looked at; None for this one alone."""
    if (num_processes := _num_processes(config)) == 1:
        yield None
        return
    target = f"{__name__}:{load_split_runner.__name__}"
    policy = DeathPolicy(error=lambda death: OmnicapError(f"a process that counted died: {death}", hint=_HOW_TO_GO_ON))
    pool = Pool(target, format, environments=[{}] * num_processes, on_death=policy)
    with contextlib.closing(pool):
        pool.start()
        yield pool


@contextlib.contextmanager
def _prepared(
    config: TokenizeConfig, format: TrainingFormat, stdin: BinaryIO, *, fast: bool
) -> Iterator[tuple[Job, TrainingInput]]:
    """Find everything that can be wrong with what was asked, before anything is made. `fast` if it is to count."""
    input = TrainingInput(format, fast=fast)
    check_data(config.data, config.splits[0])
    with open_data(config.data, config.output / "meta", config.name, stdin) as data:
        job = Job(
            data=data,
            format=format,
            image_root=config.image_root,
            max_length=config.max_length,
            verify_images=config.verify_images,
        )
        yield job, input


def _remove_all(config: TokenizeConfig) -> None:
    """Remove what is to be overwritten, or nothing if any of it is being made."""
    splits = config.splits if config.split_index is not None else list(splits_in(config.output, config.name))
    for split in splits:
        with hold_lock(split.lock, what=split.output):
            pass
    for split in splits:
        with hold_lock(split.lock, what=split.output):
            remove_split(split)


def _run_in_processes(
    pool: Pool, config: TokenizeConfig, job: Job, tell: Callable[[Step], None], warn: Callable[[str], None]
) -> Iterator[SplitNote]:
    """The notes of all splits, as they are done."""
    pool.tell(job)
    warnings = set()
    for _, message in pool.run(config.splits, on_wait=lambda: tell(Step(0, 0))):
        if isinstance(message, SplitNote):
            yield message
        elif isinstance(message, Step):
            tell(message)
        elif message not in warnings:
            warnings.add(message)
            warn(message)
