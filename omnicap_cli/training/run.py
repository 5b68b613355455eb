"""A training run from its configuration to its last checkpoint. It knows no terminal."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from omnicap_cli.core.quiet import libraries_quiet
from omnicap_cli.core.training_input import TrainingFormat, TrainingInput
from omnicap_cli.errors import UsageError
from omnicap_cli.tokenizing.locks import locked
from omnicap_cli.training import settings
from omnicap_cli.training.captions import EvalCaptions
from omnicap_cli.training.checkpoints import Checkpoints, make_note, newest, read_note
from omnicap_cli.training.config import TrainConfig
from omnicap_cli.training.config_changes import differences
from omnicap_cli.training.corpus import Corpus, SetCounts
from omnicap_cli.training.examples import ExampleReader, VisionLayout
from omnicap_cli.training.loading import BatchMaker, RankBatches
from omnicap_cli.training.mixture import DataSet
from omnicap_cli.training.model import TrainedModel, check_isolation, load, state_bytes, trained_parameters
from omnicap_cli.training.plan import BatchPlan, PackingLimits, plan_batches
from omnicap_cli.training.steward import Metrics, StepWatcher, Steward
from omnicap_cli.training.trainer import CaptionTrainer

METRICS: Final = "metrics.jsonl"
_INDEX: Final = "index"
_LOCK: Final = "run.lock"
_MAX_LOOKED_AT: Final = 100_000  # batches, for a share


class Watcher(StepWatcher, Protocol):
    """Whoever follows a run from its beginning."""

    def begin(self, plan: TrainPlan) -> None:
        """Before the first step, in the first process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """What a run comes to. `num_steps` are of the optimiser, `fill` is the share of places that hold a token.

    `parameters` are, by part, how many there are and how many of them learn. `state_bytes` is what weights, gradients
    and AdamW's two averages take in each process; activations come on top.
    """

    output: str
    sets: Sequence[SetCounts]
    num_samples: int
    num_tokens: int
    num_batches: int
    num_rows: int
    fill: float
    num_steps: int
    num_processes: int
    parameters: Mapping[str, tuple[int, int]]
    state_bytes: int
    resumed_from: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """How a run ended: after which step, where its checkpoint is, and whether it was stopped before its end."""

    num_steps: int
    checkpoint: str
    was_stopped: bool
    loss: float | None
    eval_loss: float | None


class Run:
    """Everything that a configuration comes to, ready to be trained."""

    def __init__(self, config: TrainConfig, *, force: bool = False) -> None:
        """`force` goes on from a checkpoint of another configuration. Raises OmnicapError for what is in the way."""
        config.check_files()
        self.config = config
        self._resumed_from = _checkpoint_to_resume(config, force=force)
        self._arguments = settings.arguments(config)
        # sharded weights are put together again by the Trainer
        whole = None if config.distributed.strategy in ("fsdp", "deepspeed") else self._resumed_from
        set_seed(config.optimisation.seed)  # for what an adapter begins with
        with libraries_quiet():
            self.trained: TrainedModel = load(config.model, config.adapter, whole)
        self.is_main = self._arguments.process_index == 0
        input = TrainingInput(_format(config, self.trained), fast=False)
        layout = VisionLayout.of_config(self.trained.model.config)
        self.reader = ExampleReader(input, self.trained.processor, layout, image_root=config.data.image_root)
        self.corpus = self._corpus(config.data.train)
        self.plan = self._plan(self.corpus, max_steps=config.optimisation.max_steps)
        before = read_note(self._resumed_from) if self._resumed_from else {}
        self._note = make_note(
            config.as_dict(),
            num_processes=self._arguments.world_size,
            plan=self.plan.digest,
            fingerprint=before.get("fingerprint", self.trained.files.fingerprint),
        )
        if before and not force:
            _check_same_plan(str(self._resumed_from), before, self._note)
        if config.packing.enabled:
            check_isolation(self.trained.model, self.trained.attn)

    @property
    def num_steps(self) -> int:
        """Of the optimiser."""
        return math.ceil(self.plan.num_batches / self._per_step)

    @property
    def _per_step(self) -> int:
        """Batches of a step, in all processes."""
        num_processes: int = self._arguments.world_size
        return num_processes * self.config.optimisation.gradient_accumulation

    def describe(self) -> TrainPlan:
        """What is going to happen."""
        plan, lengths = self.plan, self.corpus.lengths
        num_rows = int(plan.batch_starts[-1])
        num_tokens = int(lengths[plan.samples[: plan.row_starts[num_rows]]].sum())
        places = [
            len(rows) * max(int(lengths[row].sum()) for row in rows)
            for rows in map(plan.rows, range(min(plan.num_batches, _MAX_LOOKED_AT)))
        ]
        of_these = int(plan.row_starts[plan.batch_starts[len(places)]])
        return TrainPlan(
            output=str(self.config.checkpoint.output),
            sets=self.corpus.counts,
            num_samples=int(plan.row_starts[num_rows]),
            num_tokens=num_tokens,
            num_batches=plan.num_batches,
            num_rows=num_rows,
            fill=float(lengths[plan.samples[:of_these]].sum()) / sum(places),
            num_steps=self.num_steps,
            num_processes=self._arguments.world_size,
            parameters={part.value: (num, learn) for part, num, learn in trained_parameters(self.trained.model)},
            state_bytes=state_bytes(self.trained.model) // self._num_shards,
            resumed_from=self._resumed_from.name if self._resumed_from else None,
        )

    @property
    def _num_shards(self) -> int:
        """Into how many parts the state of the training is cut."""
        is_cut = self.config.distributed.strategy in ("fsdp", "deepspeed")
        num_processes: int = self._arguments.world_size
        return num_processes if is_cut and self.config.distributed.zero_stage in (None, 3) else 1

    def train(self, watcher: Watcher) -> TrainReport:
        """Train to the end, or until `watcher` stops it; a checkpoint is there then.

        Raises JournalLockedError where another process trains there, and other OmnicapErrors.
        """
        config, output = self.config, self.config.checkpoint.output
        description = self.describe()
        if self.is_main:
            watcher.begin(description)
        eval_corpus, eval_batches = self._held_out()
        alone = locked(output / _LOCK, what=output) if self.is_main else contextlib.nullcontext()
        with alone, libraries_quiet():
            trainer = CaptionTrainer(
                self.trained.model,
                self._arguments,
                batches=functools.partial(self._batches, self.corpus, self.plan),
                eval_batches=eval_batches,
                learning_rates=settings.learning_rates(config.optimisation),
                rate_at=settings.schedule(config.optimisation),
                checkpoints=Checkpoints(folder=output, keep=config.checkpoint.keep, note=self._note),
                processing_class=self.trained.processor,
            )
            captions = self._captions(eval_corpus)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(Steward(config, trainer, watcher, captions, Metrics(output / METRICS), self._epoch))
            trainer.train(resume_from_checkpoint=str(self._resumed_from) if self._resumed_from else None)
        return self._report(trainer)

    def close(self) -> None:
        """Let go of the other processes, when all are done: threads still connected abort one that ends."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    def _epoch(self, step: int) -> float:
        """How many times the data has been seen after a step."""
        batch = min(step * self._per_step, self.plan.num_batches)
        return self.plan.epoch_of(batch)

    def _held_out(self) -> tuple[Corpus | None, Callable[[int, int], RankBatches] | None]:
        if not self.config.data.eval:
            return None, None
        corpus = self._corpus(self.config.data.eval)
        return corpus, functools.partial(self._batches, corpus, self._plan(corpus))

    def _report(self, trainer: CaptionTrainer) -> TrainReport:
        def latest(name: str) -> float | None:
            return next((each[name] for each in reversed(trainer.state.log_history) if name in each), None)

        step, checkpoint = trainer.state.global_step, newest(self.config.checkpoint.output)
        return TrainReport(
            num_steps=step,
            checkpoint=str(checkpoint),
            was_stopped=step < self.num_steps,
            loss=latest("loss"),
            eval_loss=latest("eval_loss"),
        )

    def _corpus(self, sets: Sequence[DataSet]) -> Corpus:
        data = self.config.data
        cache = self.config.checkpoint.output / _INDEX
        return Corpus.open(sets, cache, max_tokens=data.max_length, too_long=data.too_long, seed=data.seed)

    def _plan(self, corpus: Corpus, *, max_steps: int | None = None) -> BatchPlan:
        packing, optimisation = self.config.packing, self.config.optimisation
        limits = PackingLimits(max_tokens=packing.max_tokens, max_patches=packing.max_patches, window=packing.window)
        return plan_batches(
            corpus.lengths,
            corpus.num_visual_tokens * self.reader.layout.merge_size**2,
            packing=limits if packing.enabled else None,
            batch_size=optimisation.batch_size,
            num_epochs=optimisation.num_epochs if corpus is self.corpus else 1,
            num_processes=self._arguments.world_size,
            seed=optimisation.seed,
            max_batches=max_steps and max_steps * self._per_step,
        )

    def _batches(self, corpus: Corpus, plan: BatchPlan, process: int, num_processes: int) -> RankBatches:
        maker = BatchMaker(
            corpus=corpus,
            reader=self.reader,
            pad_token_id=self.trained.processor.tokenizer.pad_token_id,
            varlen=self.trained.attn == "flash_attention_2",
            all_logits=settings.uses_liger(self.config),
            skip_missing=self.config.data.missing_media == "skip",
        )
        return RankBatches(maker, plan, process=process, num_processes=num_processes)

    def _captions(self, corpus: Corpus | None) -> EvalCaptions | None:
        num_samples = self.config.logging.eval_captions
        if (
            corpus is None
            or not num_samples
            or not self.is_main
            or self.config.distributed.strategy in ("fsdp", "deepspeed")
        ):
            return None
        return EvalCaptions.of(corpus, self.reader, self.trained.processor, num_samples)


def _checkpoint_to_resume(config: TrainConfig, *, force: bool) -> Path | None:
    """The newest checkpoint of an earlier run, if any. Raises UsageError where its configuration was another."""
    checkpoint = newest(config.checkpoint.output)
    if checkpoint is None:
        return None
    changes = differences(read_note(checkpoint)["config"], config.as_dict())
    if changes and not force:
        what = f"{checkpoint} was made with another configuration:\n  " + "\n  ".join(changes)
        raise UsageError(what, hint="Set another checkpoint.output, or pass --force to go on from it all the same.")
    return checkpoint


def _check_same_plan(checkpoint: str, before: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """Raise UsageError where a checkpoint's place in the data means nothing any more."""
    if before.get("plan") == note["plan"] and before.get("num_processes") == note["num_processes"]:
        return
    what = f"{checkpoint} was made with other data, or in another number of processes"
    raise UsageError(
        what, hint="Set another checkpoint.output, or pass --force: some samples may be missed or repeated."
    )


def _format(config: TrainConfig, trained: TrainedModel) -> TrainingFormat:
    return TrainingFormat(
        folder=trained.files.folder,
        min_pixels=config.data.min_pixels,
        max_pixels=config.data.max_pixels,
        prompts=config.data.prompts,
    )
