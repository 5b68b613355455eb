"""One captioning run from its configuration to its outcome. It knows sources, engines and sinks, no option parser."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from omnicap_cli.core.prompts.catalogue import AUTO, Catalogue
from omnicap_cli.core.runs.journal import Journal, read_index
from omnicap_cli.core.runs.pipeline import Pipeline, Policy, RunTally, Sink
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Item, Prompt, Settings
from omnicap_cli.core.runs.run_note import RunMeta, journal_beside
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.core.runs.sinks import JournalSink, StreamSink
from omnicap_cli.engines.registry import EngineOptions, choose_engine, create_engine
from omnicap_cli.errors import ITEMS_FAILED, OmnicapError, OptionError, UsageError
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.formats import FORMATS, choose_format
from omnicap_cli.jobs.exporting import run_export
from omnicap_cli.jobs.reporting import RunReport, outcome_line
from omnicap_cli.media.names import is_archive, is_url, without_credentials
from omnicap_cli.media.sources import Fingerprint, Sources
from omnicap_cli.terminal.console import Console, OutputClosedError
from omnicap_cli.terminal.interrupts import Interrupts, catching_signals

SHARD_MARK: Final = "{shard}"  # in the name of an output
_JOURNAL_OF_TEXTS: Final = Path("captions.journal.jsonl")  # where text files beside the pictures are the output


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    """Everything that a user decides about a captioning run. Raises OptionError for values that can't be used."""

    inputs: tuple[str, ...]
    type: str
    styles: tuple[str, ...] = ()
    lang: str = "en"
    prompt: str | None = None
    system: str | None = None
    prompts: Path | None = None
    engine: str = "auto"
    engine_options: EngineOptions = field(default_factory=EngineOptions)
    settings: Settings = field(default_factory=Settings)
    policy: Policy = field(default_factory=Policy)
    output: str | None = None
    format: str | None = None
    overwrite: bool = False
    unordered: bool = False
    fingerprint: Fingerprint = "stat"
    image_key: str = "image"
    image_root: str | None = None
    null: bool = False
    limit: int | None = None
    shard: Shard | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError("--limit", self.limit, "is not a number of items; give 1 or more")
        if self.prompt is not None and not self.prompt.strip():
            raise OptionError("--prompt", self.prompt, "asks nothing", hint="Leave it out to ask the style's question.")
        if self.journal:
            _check_journal_path(self.journal)
        export = self.export
        if export and export.form != "txt" and export.target is None:
            raise OptionError("--format", self.format, "needs a file", hint="Name it with -o.")
        if self.inputs.count("-") > 1:
            raise UsageError("the standard input can only be read once: give '-' once")

    @property
    def journal(self) -> Path | None:
        """Where results are made durable: the output, or a file beside it; None for the standard output."""
        if not self.is_export:
            return None if self.output is None else Path(self.output)
        return _JOURNAL_OF_TEXTS if self.output is None else journal_beside(Path(self.output))

    @property
    def is_export(self) -> bool:
        """Whether the output is another form than the journal."""
        return choose_format(self.output, self.format) != "jsonl"

    @property
    def export(self) -> ExportConfig | None:
        """How the journal is brought into the form that was asked for. Raises OptionError where that can't be."""
        if not self.is_export or self.journal is None:
            return None
        is_file = FORMATS[choose_format(self.output, self.format)].target != "folder"
        return ExportConfig(
            journal=self.journal,
            output=self.output,
            format=self.format,
            overwrite=self.overwrite or (is_file and self.journal.exists()),  # then the file is an export of it
            image_root=self.image_root,
            transfer=self.settings.transfer,
        )

    @property
    def own_prompt(self) -> bool:
        """Whether the question or the system text comes from the command line."""
        return self.prompt is not None or self.system is not None

    def items(self, stdin: BinaryIO | None, warn: Callable[[str], None] = lambda _: None) -> Iterator[Item]:
        """The items, `limit` of them at most."""
        sources = Sources(
            inputs=self.inputs,
            stdin=stdin,
            null=self.null,
            image_key=self.image_key,
            image_root=self.image_root,
            fingerprint=self.fingerprint,
            shard=self.shard,
            transfer=self.settings.transfer,
            warn=warn,
        )
        return itertools.islice(sources, self.limit)


class CaptionRun:
    """A configured run: the prompts are chosen and the engine is known, nothing is loaded or written yet."""

    def __init__(self, config: CaptionConfig, console: Console, stdin: BinaryIO | None) -> None:
        self._config, self._console, self._stdin = config, console, stdin
        prompts = _choose_prompts(config)
        options = config.engine_options
        name = choose_engine(config.engine, prompts=prompts, own_prompt=config.own_prompt, options=options)
        self._engine = create_engine(name, options)
        self._engine.say = console.info
        self._started = time.monotonic()
        self._plan = RequestPlan(
            prompts=prompts,
            engine=self._engine.identity,
            settings=config.settings,
            fill_columns=config.own_prompt,
        )

    def dry_run(self) -> dict[str, Any]:
        """Count what a run would do, and run nothing."""
        from omnicap_cli.jobs.dry_run import count_plan  # it brings the decoders, which a run leaves to other processes

        journal = None if self._config.overwrite else self._config.journal
        contents = read_index(journal) if journal else None
        items = self._config.items(self._stdin, self._console.warning)
        retry_failed = self._config.policy.retry_failed
        forecast = self._engine.forecast()
        counts = count_plan(items, self._plan, contents, retry_failed=retry_failed, forecast=forecast)
        identity = self._engine.identity
        return {"engine": identity.engine, "model": identity.model, "prompts": self._plan.prompt_names, **counts}

    def run(self, show: Callable[[bytes], None]) -> int:
        """Caption everything that is not done yet, to the journal or to `show`; the exit code."""
        self._console.detail(f"engine {self._engine.identity.engine}, model {self._engine.identity.model}")
        with contextlib.closing(self._engine), catching_signals(self._say_stopping, self._engine.kill) as interrupts:
            if self._config.journal:
                return self._run_into_journal(self._config.journal, interrupts)
            return self._run_into_stream(show, interrupts)

    def _run_into_stream(self, show: Callable[[bytes], None], interrupts: Interrupts) -> int:
        sink = StreamSink(show, ordered=not self._config.unordered)
        self._engine.warm_up()
        # no bar where the results, or those of the next command in the pipe, go to the same terminal
        on_terminal = self._console.is_terminal and self._console.data_is_file
        try:
            tally = self._loop(sink, interrupts, RunReport(self._console, on_terminal=on_terminal))
        except OutputClosedError:
            return 0
        except BaseException:
            sink.flush()  # a stream can't be resumed: what waits for its turn would be lost
            raise
        sink.flush()
        return self._conclude(tally, interrupts)

    def _run_into_journal(self, path: Path, interrupts: Interrupts) -> int:
        with Journal(path, overwrite=self._config.overwrite) as journal:
            if journal.num_broken_lines:
                self._console.warning(f"{path}: passed over {journal.num_broken_lines} lines that are no records")
            self._check_shard(path)
            note = self._note()
            note.write(path)
            if "-" in self._config.inputs:
                self._engine.warm_up()  # a pipe that is slow waits for its first result, not for the model
            report = RunReport(self._console, on_terminal=self._console.is_terminal, meta=note, journal=path)
            try:
                tally = self._loop(JournalSink(journal), interrupts, report)
            except BaseException:
                note.end("failed", path)
                raise
            note.end("interrupted" if interrupts.exit_code else "failed" if tally.gave_up else "finished", path)
            journal.close(compact=interrupts.exit_code is None)
        exit_code = self._conclude(tally, interrupts)
        return self._export(exit_code) if interrupts.exit_code is None else exit_code

    def _note(self) -> RunMeta:
        """What stands beside the journal: the command, and what decides its results."""
        config = self._config
        settings = asdict(self._engine.identity) | asdict(config.settings)
        settings |= {"prompts": self._plan.prompt_names, "image_key": config.image_key}
        settings["inputs"] = list(map(without_credentials, config.inputs))
        command = ["omnicap", *map(without_credentials, sys.argv[1:])]
        return RunMeta(command=command, settings=settings, shard=str(config.shard) if config.shard else None)

    def _check_shard(self, journal: Path) -> None:
        """Raise UsageError where another shard's journal would be taken for this one's."""
        earlier, shard = RunMeta.read(journal), self._config.shard
        if shard and earlier and earlier.shard not in (None, str(shard)) and not self._config.overwrite:
            hint = f"Give each an output of its own, as in -o '{journal.stem}-{SHARD_MARK}{journal.suffix}'."
            raise UsageError(f"{journal} is that of shard {earlier.shard}, not of {shard}", hint=hint)

    def _export(self, exit_code: int) -> int:
        """Bring the journal into the form that was asked for; whatever is worse, its exit code or that of the run."""
        export = self._config.export
        return exit_code if export is None else max(exit_code, run_export(export, self._console))

    def _loop(self, sink: Sink, interrupts: Interrupts, report: RunReport) -> RunTally:
        groups = self._plan.requests(self._config.items(self._stdin, self._console.warning))
        pipeline = Pipeline(
            groups,
            self._engine,
            sink,
            policy=self._config.policy,
            stop=interrupts.stop,
            on_result=report.take,
        )
        with report:
            counting = (report, interrupts.stop)
            threading.Thread(target=self._count, args=counting, name="count", daemon=True).start()
            try:
                tally = pipeline.run()
            finally:
                interrupts.stop.set()  # for the threads that plan and count
            report.end(tally, whole=interrupts.exit_code is None and tally.gave_up is None)
        return tally

    def _count(self, report: RunReport, stop: threading.Event) -> None:
        """Count all requests beside the run, which doesn't wait for it. What would be read twice isn't counted."""
        if any(given == "-" or is_url(given) or is_archive(given) for given in self._config.inputs):
            return
        with contextlib.suppress(Exception):  # whatever is wrong with the inputs, the run itself says
            num_items = 0
            for _ in replace(self._config, fingerprint="none").items(None):
                num_items += 1
                if stop.is_set():
                    return
            report.set_total(num_items * len(self._plan.prompts))

    def _conclude(self, tally: RunTally, interrupts: Interrupts) -> int:
        if interrupts.exit_code is None and not tally.num_planned:
            self._console.warning("no pictures or pages among the inputs: nothing to do")
        else:
            self._console.info(outcome_line(tally, self._config.journal, seconds=time.monotonic() - self._started))
        if tally.gave_up:
            raise OmnicapError(tally.gave_up, hint="What was finished is kept; --retry-failed tries the failed again.")
        if interrupts.exit_code is not None:
            if self._config.journal:
                how = "again without --overwrite" if self._config.overwrite else "the same command again"
                self._console.info(f"interrupted; run {how} to go on")
            return interrupts.exit_code
        return ITEMS_FAILED if tally.num_failed or tally.num_failed_before else 0

    def _say_stopping(self) -> None:
        self._console.info("stopping once what is being worked on is finished; again to stop at once")


def _check_journal_path(path: Path) -> None:
    try:
        is_other = path.exists() and not path.is_file()
    except OSError as error:
        raise OptionError("--output", str(path), f"can't be used: {error.strerror}") from error
    if is_other:
        raise OptionError("--output", str(path), "is there and is not a file")


def _choose_prompts(config: CaptionConfig) -> list[Prompt]:
    """The prompts asked of every item: from the catalogue, or the user's own."""
    if config.type == AUTO:
        return [_automatic_prompt(config)]
    chosen = Catalogue.load(config.prompts).select(config.type, config.styles, config.lang)
    if len(chosen) > 1 and config.prompt is not None:
        raise UsageError("--prompt takes the place of one question", hint="Choose one --style and one --lang with it.")
    return _mark_own(
        replace(
            prompt,
            user=prompt.user if config.prompt is None else config.prompt,
            system=prompt.system if config.system is None else config.system,
        )
        for prompt in chosen
    )


def _mark_own(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts, those marked that are not of the built-in catalogue."""
    built_in = set(Catalogue.load().prompts)
    return [each if each in built_in else replace(each, own=True) for each in prompts]


def _automatic_prompt(config: CaptionConfig) -> Prompt:
    """The prompt under which the model chooses the type of each item."""
    if config.own_prompt:
        hint = "Leave out --type auto: the type of a picture changes nothing about a question of your own."
        raise UsageError("--prompt and --system don't go with --type auto", hint=hint)
    prompt = Catalogue.load(config.prompts).automatic(config.styles, config.lang)
    return replace(prompt, choices=tuple(_mark_own(prompt.choices)))
