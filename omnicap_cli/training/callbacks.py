"""What goes with every step of a run: when to save, evaluate and stop, and what is written down. It trains nothing."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnicap_cli.core.files.atomic import write_errors, writing
from omnicap_cli.core.files.json_lines import json_lines_reader, json_lines_writer
from omnicap_cli.training.collective import failing_in_all_processes
from omnicap_cli.training.config.sections import TrainConfig
from omnicap_cli.training.eval_captions import EvalCaptions
from omnicap_cli.training.model import check_isolation
from omnicap_cli.training.trainer import CaptionTrainer


class StepWatcher(Protocol):
    """Whoever follows a run, and may end it."""

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """After a step; `values` are what was logged since the one before, and after which step."""

    def stops(self) -> bool:
        """Whether the run is to end after this step."""


class MetricsLog:
    """The log as lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, step: int) -> None:
        """Keep what was logged up to `step`: a run that goes on from there logs the rest again."""
        with write_errors(self._path):
            logged = self._read() if step and self._path.exists() else []
        with writing(self._path) as file:
            json_lines_writer(file).write_all(each for each in logged if each.get("step", math.inf) <= step)

    def add(self, values: Mapping[str, Any]) -> None:
        """One line."""
        with write_errors(self._path), self._path.open("ab") as file:
            json_lines_writer(file).write(values)

    def latest(self, name: str, step: int | None = None) -> float | None:
        """The newest number of that name, where there is one; with `step` one after that step alone."""
        with contextlib.suppress(OSError):
            for values in reversed(self._read()):
                if name in values and step in (None, values.get("step")):
                    return float(values[name])
        return None

    def _read(self) -> list[dict[str, Any]]:
        """Every line that isn't broken. Raises OSError."""
        with self._path.open("rb") as file:
            return list(json_lines_reader(file).iter(type=dict, skip_invalid=True))


class StepCallback(TrainerCallback):
    """Says when to save, to evaluate and to stop, the same in all processes, and writes down what happens."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: CaptionTrainer,
        watcher: StepWatcher,
        captions: EvalCaptions | None,
        metrics: MetricsLog,
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
        state.logging_steps = int(args.logging_steps)  # the checkpoint's, until now
        if self._config.packing.enabled:
            model: Any = self._trainer.model
            with failing_in_all_processes(), self._trainer.accelerator.autocast():
                check_isolation(self._trainer.model_to_evaluate, model.config)
        with failing_in_all_processes():
            if state.is_world_process_zero:
                self._metrics.begin(state.global_step)
        (is_done,) = self._any_process_says(self._has_eval(state))
        if state.global_step < state.max_steps and self._is_eval_due(state) and not is_done:
            self._trainer.evaluate()  # the run ended after that checkpoint
        self._trainer.meter.drain(lambda counts: counts)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        checkpoint, step = self._config.checkpoint, state.global_step
        minutes = (time.monotonic() - self._saved) / 60
        is_late = checkpoint.every_minutes is not None and minutes >= checkpoint.every_minutes
        stops, is_late = self._any_process_says(self._watcher.stops(), is_late)
        is_last = step >= state.max_steps
        is_due = checkpoint.every_steps is not None and step % checkpoint.every_steps == 0
        control.should_save = stops or is_late or is_last or is_due
        control.should_training_stop = stops or is_last
        control.should_evaluate = self._is_eval_due(state) and not control.should_training_stop
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
        if not logs or any(name.startswith("train_") for name in logs):
            return
        with failing_in_all_processes():
            if state.is_world_process_zero:
                values = {"step": state.global_step, **logs, "epoch": self._epoch_of(state.global_step)}
                self._metrics.add(values)
                self._values = {**self._values, **values}

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        with failing_in_all_processes():
            if self._captions:
                self._metrics.add({"step": state.global_step, "captions": self._captions.make(self._trainer.model)})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After the last checkpoint, so that whoever ends the run in it loses nothing; if so, it is made up for."""
        (is_done,) = self._any_process_says(self._has_eval(state))
        if self._config.data.eval and state.global_step >= state.max_steps and not is_done:
            self._trainer.evaluate()
        if state.is_world_process_zero:
            self._watcher.step(state.global_step, self._values)  # with what the last step came to

    def _is_eval_due(self, state: TrainerState) -> bool:
        every = self._config.logging.eval_every_steps
        return bool(self._config.data.eval and every and state.global_step and state.global_step % every == 0)

    def _has_eval(self, state: TrainerState) -> bool:
        """Whether the log has an evaluation after the present step; only the process that writes it knows."""
        return state.is_world_process_zero and self._metrics.latest("eval_loss", state.global_step) is not None

    def _any_process_says(self, *flags: bool) -> list[bool]:
        """What any of the processes wants, all do: one that stops alone would leave the others waiting."""
        votes = torch.tensor([flags], dtype=torch.int32, device=self._trainer.args.device)
        return [bool(each) for each in self._trainer.accelerator.gather(votes).amax(0).tolist()]
