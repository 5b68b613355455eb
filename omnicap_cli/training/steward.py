"""What goes with every step of a run: when to save, evaluate and stop, and what is written down. It trains nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnicap_cli.core.atomic import replacing
from omnicap_cli.core.journal import write_error
from omnicap_cli.training.captions import EvalCaptions
from omnicap_cli.training.config import TrainConfig
from omnicap_cli.training.trainer import CaptionTrainer


class StepWatcher(Protocol):
    """Whoever follows a run, and may end it."""

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """After a step; `values` are those of the log where it had a line."""

    def stops(self) -> bool:
        """Whether the run is to end after this step."""


class Metrics:
    """The log as lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, step: int) -> None:
        """Keep what was logged up to `step`: a run that goes on from there logs the rest again."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True) if step and self._path.exists() else []
            kept = [line for line in lines if _step_of(line) <= step]
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path) as file:
                file.writelines(kept)
        except OSError as error:
            raise write_error(self._path, error) from error

    def add(self, values: Mapping[str, Any]) -> None:
        """One line."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, ensure_ascii=False) + "\n")
        except OSError as error:
            raise write_error(self._path, error) from error


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Steward(TrainerCallback):
    """Says when to save, to evaluate and to stop, the same in all processes, and writes down what happens."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: CaptionTrainer,
        watcher: StepWatcher,
        captions: EvalCaptions | None,
        metrics: Metrics,
        epoch_of: Callable[[int], float],
    ) -> None:
        """`epoch_of` says how many epochs are over after a step."""
        self._config, self._trainer, self._watcher = config, trainer, watcher
        self._captions, self._metrics, self._epoch_of = captions, metrics, epoch_of
        self._saved = time.monotonic()
        self._values: Mapping[str, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer.meter.drain(lambda counts: counts)
        if state.is_world_process_zero:
            self._metrics.begin(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        checkpoint, step = self._config.checkpoint, state.global_step
        minutes = (time.monotonic() - self._saved) / 60
        is_late = checkpoint.every_minutes is not None and minutes >= checkpoint.every_minutes
        stops, is_late = self._agreed(self._watcher.stops(), is_late)
        is_last = step >= state.max_steps
        is_due = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0
        control.should_save = stops or is_late or is_last or is_due
        control.should_training_stop = stops or is_last
        every = self._config.logging.eval_every_steps
        has_eval = bool(self._config.data.eval) and not stops
        control.should_evaluate = has_eval and (is_last or (every is not None and step % every == 0))
        control.should_log = control.should_log or control.should_training_stop
        if state.is_world_process_zero:
            self._watcher.step(step, self._values)
            self._values = {}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and not any(name.startswith("train_") for name in logs):
            logs = {**logs, "epoch": self._epoch_of(state.global_step)}
            self._metrics.add({"step": state.global_step, **logs})
            self._values = {**self._values, **logs}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._captions:
            self._metrics.add({"step": state.global_step, "captions": self._captions.make(self._trainer.model)})

    def _agreed(self, *flags: bool) -> list[bool]:
        """What any of the processes wants, all do: one that stops alone would leave the others waiting."""
        votes = torch.tensor([flags], dtype=torch.int32, device=self._trainer.args.device)
        return [bool(each) for each in self._trainer.accelerator.gather(votes).amax(0).tolist()]
