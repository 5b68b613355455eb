"""transformers' Trainer with what a captioner's training adds: planned batches, rates by part, whole checkpoints.

It decides nothing about data or model, and saves and stops when its callbacks say so.
"""

from __future__ import annotations

import contextlib
import itertools
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

from omnicap_cli.core.files.words import first_line, listed
from omnicap_cli.errors import OmnicapError
from omnicap_cli.training.checkpoints import CheckpointError, Checkpoints
from omnicap_cli.training.collective import fail_in_all_processes, gather_from_all
from omnicap_cli.training.data.data_loader import FAILURE, STATS, RankBatches, as_tensors
from omnicap_cli.training.model import ModelPart, parameter_groups
from omnicap_cli.training.throughput import Meter


class NotFiniteError(OmnicapError):
    """The loss or the gradient is not a number any more."""


class CaptionTrainer(Trainer):
    """Trains on RankBatches, and is told when to save and stop by its callbacks alone."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        batches: RankBatches,
        eval_batches: RankBatches | None,
        learning_rates: Mapping[ModelPart, float],
        rate_at: Callable[[int, int], float],
        checkpoints: Checkpoints,
        **kwargs: Any,
    ) -> None:
        """`batches` are those of this process; `rate_at` is the share of the rates at a step (from 0) of so many."""
        super().__init__(model, args, **kwargs)
        # of all tokens of a step: Qwen2.5-VL and 3-VL take their number too, though transformers has it that they don't
        self.model_accepts_loss_kwargs = True
        self._batches, self._eval_batches = batches, eval_batches
        self._learning_rates, self._rate_at, self._checkpoints = learning_rates, rate_at, checkpoints
        self.meter = Meter()
        self._latest_ids: tuple[str, ...] = ()
        self._without_loss: tuple[str, ...] = ()  # samples whose loss is no number
        self._saved_in: Path | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether processes share the weights, so that none can run the model without the others."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def model_to_evaluate(self) -> Any:
        """The model as it runs outside of training: alone in each process, where it can."""
        return self.model_wrapped if self.is_sharded else self.model

    # ------------------------------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self._batches.loader(num_workers=self.args.dataloader_num_workers)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | int | None]:
        """The batches of a step, and its supervised tokens in all processes: at least 1, over which no loss is none.

        Where one process has no batch to go on with, all fail.
        """
        started = time.perf_counter()
        batches = [as_tensors(batch) for batch in itertools.islice(epoch_iterator, num_batches)]
        self.meter.wait_seconds += time.perf_counter() - started
        failure = next((batch[FAILURE] for batch in batches if FAILURE in batch), None)
        num_items = 0 if failure else sum(batch[STATS].num_supervised_tokens for batch in batches)
        counts = torch.tensor([[num_items, failure is not None]], device=device)
        num_items_in_batch, num_failures = self.accelerator.gather(counts).sum(0)
        if num_failures:
            fail_in_all_processes(failure)
        self._latest_ids = tuple(name for batch in batches for name in batch[STATS].sample_ids)
        return batches, num_items_in_batch.clamp(min=1)

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
        return float(rates.get(ModelPart.LLM.value, next(iter(rates.values()), 0.0)))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        stats = inputs.pop(STATS)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if not torch.isfinite(loss):
            self._without_loss += stats.sample_ids
            loss = loss * math.nan  # nor is any gradient then, in any process: all stop before their weights move
        self.meter.add(stats)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Of every step, before the weights move."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if self._without_loss or (norm is not None and not math.isfinite(float(norm))):
            raise self._not_finite()
        return norm

    def _not_finite(self) -> NotFiniteError:
        what = "the loss" if self._without_loss else "the gradient"
        sample_ids = self._without_loss or self._latest_ids
        names = listed(sample_ids, max_shown=20)
        message = f"{what} is not a number in step {self.state.global_step + 1:,}, with the samples {names}"
        hint = "Look at these samples; else lower the learning rate, or clip gradients with optimisation.max_grad_norm."
        return NotFiniteError(message, hint=hint)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.meter.drain(lambda counts: self.accelerator.gather(counts.to(self.args.device)).cpu())
            self.meter.check_skipped()
        super().log(logs, start_time)

    # ------------------------------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """The mean loss of a supervised token of the held-out samples; each process takes its part of them."""
        with self.meter.pause():
            loss, num_left_out = self._held_out_loss()
            metrics = {f"{metric_key_prefix}_loss": loss} if math.isfinite(loss) else {}
            self.log(metrics | ({"skipped_samples": num_left_out} if num_left_out else {}))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """After the checkpoint, if that is due too: whoever ends the run meanwhile loses nothing."""
        if self.control.should_save:
            self._save_checkpoint(self.model, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        return super()._evaluate(*args, **kwargs)

    def _held_out_loss(self) -> tuple[float, int]:
        """The loss, NaN where there is nothing that it could be of, and how many samples were left out."""
        assert self._eval_batches is not None
        loader = self._eval_batches.loader(num_workers=self.args.dataloader_num_workers)
        model, failure, totals = self.model_to_evaluate, None, [0.0, 0.0, 0.0]
        model.eval()
        for batch in map(as_tensors, loader):
            if failure := batch.get(FAILURE):
                break
            stats = batch.pop(STATS)
            with self.accelerator.autocast():
                loss = float(model(**self._prepare_inputs(batch)).loss)
            # the mean of a batch, as fused kernels know no other in evaluation
            totals[0] += loss * stats.num_supervised_tokens if stats.num_supervised_tokens else 0
            totals[1] += stats.num_supervised_tokens
            totals[2] += stats.num_skipped + stats.num_uncuttable
        model.train()
        fail_in_all_processes(failure)
        loss_sum, num_tokens, num_left_out = map(sum, zip(*gather_from_all(totals), strict=True))
        return loss_sum / num_tokens if num_tokens else math.nan, int(num_left_out)

    # ------------------------------------------------------------------------------------------ checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saved_in) if self._saved_in else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """All of it in a folder with another name, which it gets rid of when everything is on the disk."""
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        saving = self._checkpoints.saving(name, is_main=self.is_world_process_zero())
        with self.meter.pause(), saving as folder:
            self._saved_in = folder.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._saved_in = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Whole weights were loaded from there already: the Trainer looks for them by names that aren't in the file."""
        if isinstance(self.model, PeftModel) or self.is_fsdp_enabled:
            with _read_errors(resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """With the rates of the configuration, which --force may have changed, in place of the checkpoint's."""
        optimizer: Any = self.optimizer
        groups = [] if checkpoint is None or self.is_deepspeed_enabled else optimizer.param_groups
        asked = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        with _read_errors(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if asked:
            scheduler: Any = self.lr_scheduler
            scheduler.base_lrs = [values["initial_lr"] for values in asked]
            for group, values in zip(optimizer.param_groups, asked, strict=True):
                group |= values | {"lr": values["initial_lr"] * scheduler.lr_lambdas[0](scheduler.last_epoch)}


@contextlib.contextmanager
def _read_errors(checkpoint: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of many kinds: each format has its own for a broken file
        hint = "Delete that checkpoint, to go on from the one before, or set another checkpoint.output."
        raise CheckpointError(f"{checkpoint} can't be gone on from: {first_line(error)}", hint=hint) from error
