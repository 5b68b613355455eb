"""One captioning run from its configuration to its outcome. It knows sources, engines and sinks, no option parser."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from omnicap_cli.console import Console, OutputClosedError
from omnicap_cli.core.journal import Contents, Journal, read_index
from omnicap_cli.core.pipeline import Pipeline, Policy, Sink, Tally
from omnicap_cli.core.planning import RequestPlan
from omnicap_cli.core.prompts import Catalogue
from omnicap_cli.core.records import Item, Prompt, Request, Result, Settings
from omnicap_cli.core.run_meta import RunMeta
from omnicap_cli.core.sinks import JournalSink, StreamSink
from omnicap_cli.engines.base import EngineOptions, choose_engine, create_engine
from omnicap_cli.errors import ItemError, OmnicapError, OptionError, UsageError
from omnicap_cli.interrupts import Interrupts, graceful
from omnicap_cli.media.names import printable
from omnicap_cli.media.sources import Fingerprint, Sources
from omnicap_cli.progress import Progress, showing_progress

ITEMS_FAILED: Final = 3  # the exit code of a run that is done, but for some items
_MAX_SHOWN_ERRORS: Final = 10
_NOTE_SECONDS: Final = 5.0
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
        if self.output and self.output.is_dir():
            raise OptionError("--output", str(self.output), "is a folder; give the name of a file in it")
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

    def __init__(self, config: CaptionConfig, console: Console, stdin: BinaryIO) -> None:
        self._config, self._console, self._stdin = config, console, stdin
        prompts = _prompts(config)
        own_prompt = config.prompt is not None or config.system is not None
        name = choose_engine(config.engine, prompts=prompts, own_prompt=own_prompt, model=config.engine_options.model)
        self._engine = create_engine(name, config.engine_options)
        self._plan = RequestPlan(prompts=prompts, engine=self._engine.identity, settings=config.settings)
        self._num_shown_errors = 0

    def dry_run(self) -> dict[str, Any]:
        """Count what a run would do, and run nothing."""
        contents = read_index(self._config.output) if self._config.output else None
        items = self._config.items(self._stdin, self._console.warning)
        counts = count_plan(items, self._plan, contents, retry_failed=self._config.policy.retry_failed)
        identity = self._engine.identity
        prompts = [f"{prompt.type}/{prompt.style}/{prompt.lang}" for prompt in self._plan.prompts]
        return {"engine": identity.engine, "model": identity.model, "prompts": prompts, **counts}

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
        try:
            tally = self._loop(sink, interrupts, RunMeta())
            sink.flush()
        except OutputClosedError:
            return 0
        return self._conclude(tally, interrupts)

    def _run_into_journal(self, path: Path, interrupts: Interrupts) -> int:
        with Journal(path, overwrite=self._config.overwrite) as journal:
            if journal.num_broken_lines:
                num_broken = journal.num_broken_lines
                self._console.warning(f"{path}: passed over {num_broken} lines that are no records")
            meta = RunMeta(settings=self._named_settings())
            meta.write(journal.path)
            try:
                tally = self._loop(JournalSink(journal), interrupts, meta)
            except BaseException:
                meta.end("failed", journal.path)
                raise
            meta.end("interrupted" if interrupts.exit_code else "failed" if tally.gave_up else "finished", journal.path)
        return self._conclude(tally, interrupts)

    def _loop(self, sink: Sink, interrupts: Interrupts, meta: RunMeta) -> Tally:
        """Run the pipeline, and tell the terminal and the note beside the journal how far it is."""
        results_are_seen = self._config.output is None and self._console.data_is_terminal
        with showing_progress(
            self._console, on_terminal=self._console.is_terminal and not results_are_seen
        ) as progress:

            def on_result(request: Request, result: Result, tally: Tally) -> None:
                if result.error:
                    self._show_error(request, result.error)
                else:
                    name = f"{printable(request.item.id)} ({request.prompt.style}/{request.prompt.lang})"
                    self._console.detail(f"{name}: {result.output_tokens} tokens in {result.seconds:.2f} s")
                meta.num_finished, meta.num_handled = tally.num_finished, tally.num_handled
                progress.update(
                    num_finished=tally.num_finished, num_handled=tally.num_handled, num_failed=tally.num_failed
                )
                self._note(meta, every=_NOTE_SECONDS)

            threading.Thread(target=self._count, args=(progress, meta), name="count", daemon=True).start()
            groups = self._plan.requests(self._config.items(self._stdin, self._console.warning))
            policy, stop = self._config.policy, interrupts.stop
            try:
                tally = Pipeline(groups, self._engine, sink, policy=policy, stop=stop, on_result=on_result).run()
            finally:
                stop.set()  # for the threads that plan and count
        meta.num_finished, meta.num_handled = tally.num_finished, tally.num_handled
        if interrupts.exit_code is None and not tally.gave_up:
            meta.num_requests = tally.num_planned
        return tally

    def _count(self, progress: Progress, meta: RunMeta) -> None:
        """How many requests there are in all, counted beside the run, which doesn't wait for it."""
        if "-" not in self._config.inputs:
            with contextlib.suppress(Exception):  # whatever is wrong with the inputs, the run itself says
                num_items = sum(1 for _ in self._config.items(None))
                meta.num_requests = progress.num_total = num_items * len(self._plan.prompts)

    def _note(self, meta: RunMeta, *, every: float) -> None:
        if self._config.output and time.time() - meta.updated > every:
            meta.refresh(self._config.output)

    def _conclude(self, tally: Tally, interrupts: Interrupts) -> int:
        self._console.info(_summary(tally, self._config.output))
        if tally.gave_up:
            raise OmnicapError(tally.gave_up, hint="What was finished is kept; --retry-failed tries the failed again.")
        if interrupts.exit_code is not None:
            if self._config.output:
                self._console.info("interrupted; run the same command again to go on")
            return interrupts.exit_code
        return ITEMS_FAILED if tally.num_failed or tally.num_failed_before else 0

    def _show_error(self, request: Request, error: ItemError) -> None:
        self._num_shown_errors += 1
        if self._num_shown_errors <= _MAX_SHOWN_ERRORS:
            self._console.warning(f"{printable(request.item.id)}: {error.message}")
        elif self._num_shown_errors == _MAX_SHOWN_ERRORS + 1:
            self._console.warning("more items fail; their records say why")

    def _say_stopping(self) -> None:
        self._console.info("stopping once what is being worked on is finished; again to stop at once")

    def _named_settings(self) -> dict[str, Any]:
        prompts = [f"{prompt.type}/{prompt.style}/{prompt.lang}" for prompt in self._plan.prompts]
        return asdict(self._engine.identity) | {"prompts": prompts} | asdict(self._config.settings)


def count_plan(
    items: Iterable[Item], plan: RequestPlan, contents: Contents | None, *, retry_failed: bool
) -> dict[str, float]:
    """What a run over `items` would find: counts by name, and the pixels in millions, read from headers alone."""
    from omnicap_cli.media.decode import probe

    names = ("items", "unreadable", "megapixels", "requests", "done", "failed_before", "to_do")
    counts: dict[str, float] = dict.fromkeys(names, 0)
    for item in items:
        counts["items"] += 1
        try:
            counts["megapixels"] += math.prod(probe(item, plan.settings)) / 1e6
        except ItemError:
            counts["unreadable"] += 1
        for request in plan.requests_of(item):
            known = contents.known(request.key) if contents else None
            counts["requests"] += 1
            counts["done"] += known is not None and known.status == "ok"
            counts["failed_before"] += known is not None and known.status == "error"
            counts["to_do"] += known is None or (retry_failed and known.status == "error")
    counts["megapixels"] = round(counts["megapixels"], 2)
    return counts


def _prompts(config: CaptionConfig) -> list[Prompt]:
    """The prompts asked of every item: from the catalogue, or the user's own."""
    chosen = Catalogue.load(config.prompts).select(config.type, config.styles, config.lang)
    own = {name: text for name, text in (("user", config.prompt), ("system", config.system)) if text is not None}
    if not own:
        return chosen
    if len(chosen) > 1 and config.prompt is not None:
        raise UsageError("--prompt takes the place of one question", hint="Choose one --style and one --lang with it.")
    return [replace(prompt, **own) for prompt in chosen]


def _summary(tally: Tally, output: Path | None) -> str:
    where = f" in {output}" if output else ""
    if not tally.num_planned:
        return "nothing to do: no pictures or pages among the inputs"
    if not tally.num_finished and tally.num_done_before + tally.num_failed_before == tally.num_planned:
        failed = f", {tally.num_failed_before:,} of them as errors (--retry-failed)" if tally.num_failed_before else ""
        return f"nothing to do: all {tally.num_planned:,} are already{where}{failed}"
    parts = [f"{tally.num_ok:,} captioned"]
    if tally.num_failed:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(tally.errors.items()))
        parts.append(f"{tally.num_failed:,} failed ({kinds})")
    if tally.num_done_before:
        parts.append(f"{tally.num_done_before:,} done before")
    if tally.num_failed_before:
        parts.append(f"{tally.num_failed_before:,} failed before (--retry-failed tries them again)")
    return ", ".join(parts) + (f" →{where[3:]}" if output else "")
