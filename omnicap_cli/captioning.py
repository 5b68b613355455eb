"""One captioning run from its configuration to its outcome. It knows sources, engines and sinks, no option parser."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from omnicap_cli.console import Console, OutputClosedError
from omnicap_cli.core.journal import Journal, read_index
from omnicap_cli.core.pipeline import Pipeline, Policy, Sink, Tally
from omnicap_cli.core.planning import RequestPlan
from omnicap_cli.core.prompts import Catalogue
from omnicap_cli.core.records import Item, Prompt, Settings
from omnicap_cli.core.run_meta import RunMeta
from omnicap_cli.core.sinks import JournalSink, StreamSink
from omnicap_cli.engines.base import EngineOptions, choose_engine, create_engine
from omnicap_cli.errors import OmnicapError, OptionError, UsageError
from omnicap_cli.interrupts import Interrupts, graceful
from omnicap_cli.media.sources import Fingerprint, Sources
from omnicap_cli.reporting import RunReport, summary

ITEMS_FAILED: Final = 3  # the exit code of a run that is done, but for some items
_JOURNAL_SUFFIXES: Final = (".jsonl", ".ndjson")


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
    output: Path | None = None
    overwrite: bool = False
    unordered: bool = False
    fingerprint: Fingerprint = "stat"
    image_key: str = "image"
    null: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError("--limit", self.limit, "is not a number of items; give 1 or more")
        if self.output and self.output.suffix.lower() not in _JOURNAL_SUFFIXES:
            problem = f"is not a form that this version writes; end the name in {' or '.join(_JOURNAL_SUFFIXES)}"
            raise OptionError("--output", str(self.output), problem)
        if self.output:
            _check_output(self.output)
        if self.inputs.count("-") > 1:
            raise UsageError("the standard input can only be read once: give '-' once")

    def items(self, stdin: BinaryIO | None, warn: Callable[[str], None] = lambda _: None) -> Iterator[Item]:
        """The items, `limit` of them at most."""
        sources = Sources(
            inputs=self.inputs,
            stdin=stdin,
            null=self.null,
            image_key=self.image_key,
            fingerprint=self.fingerprint,
            warn=warn,
        )
        return itertools.islice(sources, self.limit)


class CaptionRun:
    """A configured run: the prompts are chosen and the engine is known, nothing is loaded or written yet."""

    def __init__(self, config: CaptionConfig, console: Console, stdin: BinaryIO | None) -> None:
        self._config, self._console, self._stdin = config, console, stdin
        prompts = _prompts(config)
        own_prompt = config.prompt is not None or config.system is not None
        name = choose_engine(config.engine, prompts=prompts, own_prompt=own_prompt, model=config.engine_options.model)
        self._engine = create_engine(name, config.engine_options)
        self._started = time.monotonic()
        self._plan = RequestPlan(prompts=prompts, engine=self._engine.identity, settings=config.settings)

    def dry_run(self) -> dict[str, Any]:
        """Count what a run would do, and run nothing."""
        from omnicap_cli.dry_run import count_plan  # it brings the decoders, which a run leaves to other processes

        output = None if self._config.overwrite else self._config.output
        contents = read_index(output) if output else None
        items = self._config.items(self._stdin, self._console.warning)
        counts = count_plan(items, self._plan, contents, retry_failed=self._config.policy.retry_failed)
        identity = self._engine.identity
        return {"engine": identity.engine, "model": identity.model, "prompts": self._plan.prompt_names, **counts}

    def run(self, show: Callable[[bytes], None]) -> int:
        """Caption everything that is not done yet, to the journal or to `show`; the exit code."""
        self._console.detail(f"engine {self._engine.identity.engine}, model {self._engine.identity.model}")
        with contextlib.closing(self._engine), graceful(self._say_stopping, self._engine.kill) as interrupts:
            if self._config.output:
                return self._run_into_journal(self._config.output, interrupts)
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
                num_broken = journal.num_broken_lines
                self._console.warning(f"{path}: passed over {num_broken} lines that are no records")
            settings = asdict(self._engine.identity) | asdict(self._config.settings)
            command = ["omnicap", *sys.argv[1:]]
            meta = RunMeta(command=command, settings=settings | {"prompts": self._plan.prompt_names})
            meta.write(path)
            if "-" in self._config.inputs:
                self._engine.warm_up()  # a pipe that is slow waits for its first result, not for the model
            report = RunReport(self._console, on_terminal=self._console.is_terminal, meta=meta, journal=path)
            try:
                tally = self._loop(JournalSink(journal), interrupts, report)
            except BaseException:
                meta.end("failed", path)
                raise
            meta.end("interrupted" if interrupts.exit_code else "failed" if tally.gave_up else "finished", path)
            journal.close(compact=interrupts.exit_code is None)
        return self._conclude(tally, interrupts)

    def _loop(self, sink: Sink, interrupts: Interrupts, report: RunReport) -> Tally:
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
        """Count all requests beside the run, which doesn't wait for it."""
        if "-" in self._config.inputs:
            return
        with contextlib.suppress(Exception):  # whatever is wrong with the inputs, the run itself says
            num_items = 0
            for _ in replace(self._config, fingerprint="stat").items(None):
                num_items += 1
                if stop.is_set():
                    return
            report.set_total(num_items * len(self._plan.prompts))

    def _conclude(self, tally: Tally, interrupts: Interrupts) -> int:
        if interrupts.exit_code is None and not tally.num_planned:
            self._console.warning("no pictures or pages among the inputs: nothing to do")
        else:
            self._console.info(summary(tally, self._config.output, seconds=time.monotonic() - self._started))
        if tally.gave_up:
            raise OmnicapError(tally.gave_up, hint="What was finished is kept; --retry-failed tries the failed again.")
        if interrupts.exit_code is not None:
            if self._config.output:
                how = "again without --overwrite" if self._config.overwrite else "the same command again"
                self._console.info(f"interrupted; run {how} to go on")
            return interrupts.exit_code
        return ITEMS_FAILED if tally.num_failed or tally.num_failed_before else 0

    def _say_stopping(self) -> None:
        self._console.info("stopping once what is being worked on is finished; again to stop at once")


def _check_output(path: Path) -> None:
    try:
        is_other = path.exists() and not path.is_file()
    except OSError as error:
        raise OptionError("--output", str(path), f"can't be used: {error.strerror}") from error
    if is_other:
        raise OptionError("--output", str(path), "is there and is not a file")


def _prompts(config: CaptionConfig) -> list[Prompt]:
    """The prompts asked of every item: from the catalogue, or the user's own."""
    chosen = Catalogue.load(config.prompts).select(config.type, config.styles, config.lang)
    own = {name: text for name, text in (("user", config.prompt), ("system", config.system)) if text is not None}
    if not own:
        return chosen
    if len(chosen) > 1 and config.prompt is not None:
        raise UsageError("--prompt takes the place of one question", hint="Choose one --style and one --lang with it.")
    return [replace(prompt, **own) for prompt in chosen]
