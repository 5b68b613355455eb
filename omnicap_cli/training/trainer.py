"""transformers' Trainer with what a captioner's training adds: planned batches, rates by part, whole checkpoints.

It decides nothing about data or model, and saves and stops when its callbacks say so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from omnicap_cli.errors import OmnicapError
from omnicap_cli.training.checkpoints import Checkpoints
from omnicap_cli.training.loading import FAILURE, STATS, RankBatches
from omnicap_cli.training.meter import Meter
from omnicap_cli.training.model import Part, parameter_groups


class NotFiniteError(OmnicapError):
    """The loss or the gradient is not a number any more."""


class CaptionTrainer(Trainer):
    """Trains on RankBatches, and is told when to save and stop by its callbacks alone."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        batches: Callable[[int, int], RankBatches],
        eval_batches: Callable[[int, int], RankBatches] | None,
        learning_rates: Mapping[Part, float],
        rate_at: Callable[[int, int], float],
        checkpoints: Checkpoints,
        **kwargs: Any,
    ) -> None:
        """`batches` and `eval_batches` give those of a process, by its number and how many there are.

        `rate_at` is the share of the learning rates at a step, counted from 0, of so many.
        """
        super().__init__(model, args, **kwargs)
        self._batches, self._eval_batches = batches, eval_batches
        self._learning_rates, self._rate_at, self._checkpoints = learning_rates, rate_at, checkpoints
        self.meter = Meter()
        self._latest_ids: tuple[str, ...] = ()
        self._saved_in: Path | None = None

    # ------------------------------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._batches(self.args.process_index, self.args.world_size).loader(
            num_workers=self.args.dataloader_num_workers
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | int | None]:
        started = time.perf_counter()
        batches, num_items = super().get_batch_samples(map(_usable, epoch_iterator), num_batches, device)
        self.meter.wait_seconds += time.perf_counter() - started
        self._latest_ids = tuple(name for batch in batches for name in batch[STATS].sample_ids)
        return batches, num_items

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | int | None:
        """Supervised tokens of a step, in all processes; 1 where there are none, whose loss is nothing over it."""
        num_items = super()._get_num_items_in_batch(batch_samples, device)
        return num_items.clamp(min=1) if isinstance(num_items, torch.Tensor) else num_items

    # ------------------------------------------------------------------------------------------ steps

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained: Any = self.model if model is None else model
            groups = parameter_groups(trained, self._learning_rates, self.args.weight_decay)
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            scheduled: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                scheduled, lambda step: self._rate_at(step, num_training_steps)
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _get_learning_rate(self) -> float:
        """For the log: the language model's, where it learns."""
        groups = self.optimizer.param_groups if self.optimizer else []
        rates = {group["name"].partition(",")[0]: group["lr"] for group in groups}
        return float(rates.get(Part.LLM.value, next(iter(rates.values()), 0.0)))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        stats = inputs.pop(STATS)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._not_finite("the loss", stats.sample_ids)
        if model.training:
            self.meter.add(stats)
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if norm is not None and not math.isfinite(float(norm)):
            raise self._not_finite("the gradient", self._latest_ids)
        return norm

    def _not_finite(self, what: str, sample_ids: tuple[str, ...]) -> NotFiniteError:
        names = ", ".join(sample_ids[:20]) + (f" and {len(sample_ids) - 20:,} more" if len(sample_ids) > 20 else "")
        message = f"{what} is not a number in step {self.state.global_step + 1:,}, with the samples {names}"
        hint = "Look at these samples; else lower the learning rate, or clip gradients with optimisation.max_grad_norm."
        return NotFiniteError(message, hint=hint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.meter.drain(lambda counts: self.accelerator.gather(counts.to(self.args.device)).cpu())
        super().log(logs, start_time)

    # ------------------------------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """The mean loss of a supervised token of the held-out samples; each process takes its part of them."""
        with self.meter.paused():
            metrics = {f"{metric_key_prefix}_loss": self._held_out_loss()}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _held_out_loss(self) -> float:
        assert self._eval_batches is not None
        loader = self._eval_batches(self.args.process_index, self.args.world_size).loader(
            num_workers=self.args.dataloader_num_workers
        )
        model = self.model_wrapped.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in map(_usable, loader):
            stats = batch.pop(STATS)
            with self.accelerator.autocast():
                loss = model(**self._prepare_inputs(batch), num_items_in_batch=1).loss
            sums += torch.tensor([float(loss), stats.num_supervised_tokens], device=sums.device)
        model.train()
        loss, num_tokens = self.accelerator.gather(sums[None]).sum(0).tolist()
        return float(loss / max(num_tokens, 1))

    # ------------------------------------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saved_in) if self._saved_in else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """All of it in a folder with another name, which it gets rid of when everything is on the disk."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        saving = self._checkpoints.saving(name, is_main=self.is_world_process_zero(), wait=self._wait)
        with self.meter.paused(), saving as folder:
            self._saved_in = folder.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saved_in = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Whole weights were loaded from there already: the Trainer looks for them by names that aren't in the file."""
        if isinstance(self.model, PeftModel) or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _wait(self) -> None:
        self.accelerator.wait_for_everyone()


def _usable(batch: dict[str, Any]) -> dict[str, Any]:
    if FAILURE in batch:
        raise batch[FAILURE]
    return batch
