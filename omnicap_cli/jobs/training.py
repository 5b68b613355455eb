"""One run of `omnicap train` from its options to its exit code: with its messages, and in several processes.

It knows how a training is started and told of, and nothing of how one learns.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from omnicap_cli.core.files.atomic import writing
from omnicap_cli.errors import ITEMS_FAILED, OptionError
from omnicap_cli.terminal.console import Console
from omnicap_cli.terminal.interrupts import Interrupts, catching_signals
from omnicap_cli.terminal.progress import make_progress
from omnicap_cli.terminal.training_views import plan_lines, show_train_plan, show_train_report
from omnicap_cli.training.config.sections import TrainConfig
from omnicap_cli.training.slurm import GPUS_PER_NODE, batch_file

if TYPE_CHECKING:
    from omnicap_cli.training.run import TrainingRun, TrainPlan, TrainReport

_LAUNCHING: Final = {"--nproc": True, "--slurm": True, "--nodes": True, "--gpus-per-node": True, "--overwrite": False}
"""Options that say where to start a run, and whether a value comes after."""

_SHUTDOWN_SECONDS: Final = "600"  # that torchrun leaves its processes for a checkpoint; of itself, 30


def run_train(
    path: Path, overrides: Sequence[str], console: Console, *, force: bool, dry_run: bool, as_json: bool
) -> int:
    """Train, or only show what would happen; the exit code."""
    config = TrainConfig.read(path, overrides, console.warning)
    config.check_files()
    from omnicap_cli.training.run import TrainingRun

    run = TrainingRun(config, force=force)
    exit_code = _show_plan(run, console, as_json=as_json) if dry_run else _train(run, console, as_json=as_json)
    if run.num_processes > 1:
        _end_process(exit_code)
    return exit_code


def _show_plan(run: TrainingRun, console: Console, *, as_json: bool) -> int:
    if run.is_main:
        show_train_plan(console, run.describe(), as_json=as_json)
    run.close()
    return 0


def _train(run: TrainingRun, console: Console, *, as_json: bool) -> int:
    speaker = console if run.is_main else Console(level=0)
    if run.num_idle_gpus:
        speaker.warning(f"{run.num_idle_gpus} GPUs have nothing to do: --nproc {run.num_idle_gpus + 1} uses all")

    def say_stopping() -> None:
        speaker.info("stopping after this step, with a checkpoint; again to stop at once")

    with catching_signals(say_stopping) as interrupts:
        watcher = _TerminalWatcher(speaker, interrupts)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some of those that report_to names speak there
                report = run.train(watcher)
        finally:
            watcher.end()
    run.close()
    if run.is_main:
        show_train_report(console, report, as_json=as_json)
    _warn_of_left_out(speaker, report)
    if report.was_stopped:
        speaker.info("interrupted; run the same command again to go on")
        return interrupts.exit_code or 1
    # a launcher takes any code but 0 for a crash
    return ITEMS_FAILED if report.num_skipped and run.num_processes == 1 else 0


def _end_process(exit_code: int) -> NoReturn:
    """End one process of several. What connected it to the others has threads, which may abort an ordinary end."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _warn_of_left_out(console: Console, report: TrainReport) -> None:
    reasons = {
        "their media couldn't be read": report.num_skipped,
        "a cut at data.max_length would go through a picture": report.num_uncuttable,
    }
    for reason, num_samples in reasons.items():
        if num_samples:
            console.warning(f"left out, as {reason}: {num_samples:,} samples")


def start_processes(num_processes: int) -> int:
    """The same command in `num_processes` processes of this machine, started by torchrun; the exit code."""
    if num_processes < 1:
        raise OptionError("--nproc", num_processes, "is no number of processes")
    os.environ.pop("OMNICAP_NPROC", None)  # or each of them would start as many again
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN_SECONDS)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = ["--standalone", f"--nproc-per-node={num_processes}", "-m", "omnicap_cli", *_words_of_each_process()]
    logging.disable()  # each process says itself what is wrong
    try:
        run.run(run.parse_args(words))  # type: ignore[no-untyped-call]
    except SignalException as signalled:
        return 128 + int(signalled.sigval)
    except ChildFailedError as failed:
        return max(failed.get_first_failure()[1].exitcode, 1)
    return 0


def write_batch_file(
    target: Path,
    config: TrainConfig,
    console: Console,
    *,
    num_nodes: int | None,
    gpus_per_node: int | None,
    overwrite: bool,
) -> None:
    """Write a batch file for Slurm with the same command in it, and say how to submit it."""
    if target.exists() and not overwrite:
        raise OptionError("--slurm", str(target), "is there already", hint="--overwrite replaces it.")
    text = batch_file(
        _words_of_each_process(),
        python=sys.executable,
        name=config.logging.name or config.checkpoint.output.name,
        num_nodes=1 if num_nodes is None else num_nodes,
        gpus_per_node=GPUS_PER_NODE if gpus_per_node is None else gpus_per_node,
    )
    with writing(target) as file:
        file.write(text.encode())
    submit = shlex.join(["sbatch", "--time=24:00:00", str(target)])
    console.info(f"{target} written; submit it from this folder: {submit}")


def _words_of_each_process() -> list[str]:
    """The command line without what says where to start it."""
    kept, words = [], iter(sys.argv[1:])
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in _LAUNCHING:
            kept.append(word)
        elif _LAUNCHING[name] and not equals:
            next(words, None)
    return kept


class _TerminalWatcher:
    """Shows a run on a terminal, and stops it when the user wants that."""

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._console, self._interrupts = console, interrupts
        self._progress = make_progress(console, on_terminal=console.is_terminal)
        self._num_before: int | None = None

    def begin(self, plan: TrainPlan) -> None:
        for line in plan_lines(plan):
            self._console.info(line)
        self._progress.num_total = plan.num_steps

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        if self._num_before is None:
            self._num_before = step - 1
        if "eval_loss" in values:
            self._console.info(f"step {values['step']:,}: held-out loss {values['eval_loss']:.4f}")
        if "loss" in values:
            self._progress.details = (
                f"loss {values['loss']:.4f}, rate {values['learning_rate']:.2e}, "
                f"{values['tokens_per_second']:,.0f} tokens/s, "
                f"{values['supervised_tokens']:,.0f} supervised, fill {values['fill']:.0%}"
            )
        self._progress.update(num_finished=step - self._num_before, num_handled=step, num_failed=0)

    def stops(self) -> bool:
        return self._interrupts.stop.is_set()

    def end(self) -> None:
        """Nothing more will be shown."""
        self._progress.stop()
