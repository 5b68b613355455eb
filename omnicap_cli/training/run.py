"""A training run from its configuration to its last checkpoint. It knows no terminal."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from transformers import AutoConfig, set_seed
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback

from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.core.models.library_logs import libraries_quiet
from omnicap_cli.core.models.loading import load_processor
from omnicap_cli.core.tokens.training_input import TrainingFormat, TrainingInput
from omnicap_cli.errors import OptionError, UsageError
from omnicap_cli.training import trainer_arguments
from omnicap_cli.training.attention import takes_lengths
from omnicap_cli.training.callbacks import MetricsLog, StepCallback, StepWatcher
from omnicap_cli.training.checkpoints import CheckpointError, Checkpoints, make_note, newest_checkpoint, read_note
from omnicap_cli.training.collective import failing_in_all_processes, gather_from_all
from omnicap_cli.training.config.changes import FIXED, differences
from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.config.sections import TrainConfig
from omnicap_cli.training.data.batch_plan import BatchPlan, plan_batches
from omnicap_cli.training.data.corpus import Corpus, SetCounts
from omnicap_cli.training.data.data_loader import BatchMaker, RankBatches, ending_workers
from omnicap_cli.training.data.examples import ExampleReader, VisionLayout
from omnicap_cli.training.eval_captions import EvalCaptions
from omnicap_cli.training.model import find_model_files, load_for_training, state_bytes, trained_parameters
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """How a run ended: after which step, where its checkpoint is, and whether it was stopped before its end.

    `num_skipped` samples were left out since it was started, as their media couldn't be read, `num_uncuttable` as they
    are too long and a cut would go through a picture.
    """

    num_steps: int
    checkpoint: str
    was_stopped: bool
    loss: float | None
    eval_loss: float | None
    num_skipped: int
    num_uncuttable: int


class TrainingRun:
    """Everything that a configuration comes to, ready to be trained."""

    def __init__(self, config: TrainConfig, *, force: bool = False) -> None:
        """`force` goes on from a checkpoint of another configuration. Raises OmnicapError for what is in the way."""
        config.check_files()
        self.config = config
        self._arguments = trainer_arguments.arguments(config)
        self._is_sharded = trainer_arguments.shares_weights(config)
        self.is_main = self._arguments.process_index == 0
        with failing_in_all_processes():
            self._open(force=force)
        if len(set(gather_from_all((self._resumed_from and self._resumed_from.name, self._digest)))) > 1:
            problem = "processes see other checkpoints, or other data, than each other"
            raise UsageError(problem, hint="checkpoint.output and all data have to be on a disk that they share.")

    def _open(self, *, force: bool) -> None:
        """Everything but the weights: what is wrong with data or checkpoints shows before they are loaded."""
        config = self.config
        self._resumed_from = _checkpoint_to_resume(config, is_sharded=self._is_sharded, force=force)
        # sharded weights are put together again by the Trainer
        self._files = find_model_files(config.model, config.adapter, None if self._is_sharded else self._resumed_from)
        with libraries_quiet():
            self.processor = load_processor(self._files.folder)
            model_config = AutoConfig.from_pretrained(self._files.folder, local_files_only=True)
        data = config.data
        format = TrainingFormat(
            folder=self._files.folder, min_pixels=data.min_pixels, max_pixels=data.max_pixels, prompts=data.prompts
        )
        input, layout = TrainingInput(format, fast=False), VisionLayout.of_config(model_config)
        self.reader = ExampleReader(input, self.processor, layout, image_root=data.image_root)
        self.corpus = self._corpus(data.train)
        self._eval_corpus = self._corpus(data.eval) if data.eval else None
        self.plan = self._plan(self.corpus, max_steps=config.optimisation.max_steps)
        before = read_note(self._resumed_from) if self._resumed_from else {}
        is_own = config.adapter.kind == "none" and before  # the weights are the checkpoint's
        fingerprint = before.get("fingerprint", "") if is_own else self._files.fingerprint
        self._note = make_note(
            config.as_dict(),
            num_processes=self.num_processes,
            data=self._digest,
            fingerprint=fingerprint,
        )
        if before and not force:
            _check_same(str(self._resumed_from), before, self._note)

    @functools.cached_property
    def _digest(self) -> str:
        """Tells what is learned, and in which order, from everything else."""
        return hashlib.sha256(f"{self.corpus.digest} {self.plan.digest}".encode()).hexdigest()

    @property
    def num_processes(self) -> int:
        """That share the run."""
        num_processes: int = self._arguments.world_size
        return num_processes

    @property
    def num_idle_gpus(self) -> int:
        """That the only process of a run leaves alone; a launcher knows what it does."""
        return max(torch.cuda.device_count() - 1, 0) if self.num_processes == 1 else 0

    @property
    def num_steps(self) -> int:
        """Of the optimiser."""
        return math.ceil(self.plan.num_batches / self._per_step)

    @property
    def _per_step(self) -> int:
        """Batches of a step, in all processes."""
        return self.num_processes * self.config.optimisation.gradient_accumulation

    def describe(self) -> TrainPlan:
        """What is going to happen; no weights are loaded for it."""
        return self._plan_with(self._model(sizes_only=True))

    def _model(self, *, sizes_only: bool = False) -> Any:
        precision = "bfloat16" if self._arguments.bf16 else "float32"
        set_seed(self.config.optimisation.seed)  # for what an adapter begins with
        return load_for_training(
            self._files,
            self.config.model,
            self.config.adapter,
            precision=precision,
            packs=self.config.packing.enabled,
            sizes_only=sizes_only,
        )

    def _plan_with(self, model: Any) -> TrainPlan:
        plan, lengths = self.plan, self.corpus.lengths
        num_rows = int(plan.batch_starts[-1])
        num_tokens = int(lengths[plan.samples[: plan.row_starts[num_rows]]].sum())
        joined = takes_lengths(model.config)  # then the rows of a batch become one, and none is filled up
        places = []
        for rows in map(plan.rows, range(min(plan.num_batches, _MAX_LOOKED_AT))):
            row_lengths = [int(lengths[row].sum()) for row in rows]
            places.append(sum(row_lengths) if joined else len(rows) * max(row_lengths))
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
            num_processes=self.num_processes,
            parameters=trained_parameters(model),
            state_bytes=state_bytes(model) // self._num_shards,
            resumed_from=self._resumed_from.name if self._resumed_from else None,
        )

    @property
    def _num_shards(self) -> int:
        """Into how many parts the state of the training is cut."""
        return self.num_processes if self._is_sharded and self.config.distributed.zero_stage in (None, 3) else 1

    def train(self, watcher: Watcher) -> TrainReport:
        """Train to the end, or until `watcher` stops it; a checkpoint is there then.

        Raises JournalLockedError where another process trains there, and other OmnicapErrors.
        """
        output = self.config.checkpoint.output
        with contextlib.ExitStack() as alone:
            with failing_in_all_processes():
                if self.is_main:
                    alone.enter_context(hold_lock(output / _LOCK, what=output))
                model, captions = self._model(), self._captions()
            if self.is_main:
                watcher.begin(self._plan_with(model))
            alone.enter_context(libraries_quiet())
            alone.enter_context(ending_workers())
            trainer = self._trainer(model)
            metrics = MetricsLog(output / METRICS)
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(StepCallback(self.config, trainer, watcher, captions, metrics, self._epoch))
            trainer.train(resume_from_checkpoint=str(self._resumed_from) if self._resumed_from else None)
        return self._report(trainer, metrics)

    def _trainer(self, model: Any) -> CaptionTrainer:
        """Raises OptionError where its processes don't share the weights as the configuration says."""
        config = self.config
        varlen = takes_lengths(model.config)
        held_out = self._eval_corpus
        trainer = CaptionTrainer(
            model,
            self._arguments,
            batches=self._batches(varlen, self.corpus, self.plan),
            eval_batches=self._batches(varlen, held_out, self._plan(held_out)) if held_out else None,
            learning_rates=trainer_arguments.learning_rates(config.optimisation),
            rate_at=trainer_arguments.schedule(config.optimisation),
            checkpoints=Checkpoints(folder=config.checkpoint.output, keep=config.checkpoint.keep, note=self._note),
            processing_class=self.processor,
        )
        if trainer.is_sharded != self._is_sharded:
            raise OptionError("distributed.strategy", config.distributed.strategy, "is not what accelerate makes of it")
        return trainer

    def close(self) -> None:
        """Let go of the other processes, when all are done: threads still connected abort one that ends."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()

    def _epoch(self, step: int) -> float:
        """How many times the data has been seen after a step."""
        return self.plan.epoch_of(min(step * self._per_step, self.plan.num_batches))

    def _report(self, trainer: CaptionTrainer, metrics: MetricsLog) -> TrainReport:
        step, checkpoint = trainer.state.global_step, newest_checkpoint(self.config.checkpoint.output)
        return TrainReport(
            num_steps=step,
            checkpoint=str(checkpoint),
            was_stopped=step < self.num_steps,
            loss=metrics.latest("loss"),
            eval_loss=metrics.latest("eval_loss"),
            num_skipped=trainer.meter.totals["num_skipped"],
            num_uncuttable=trainer.meter.totals["num_uncuttable"],
        )

    def _corpus(self, sets: Sequence[DataSet]) -> Corpus:
        data = self.config.data
        cache = self.config.checkpoint.output / _INDEX
        return Corpus.open(sets, cache, max_tokens=data.max_length, too_long=data.too_long, seed=data.seed)

    def _plan(self, corpus: Corpus, *, max_steps: int | None = None) -> BatchPlan:
        packing, optimisation = self.config.packing, self.config.optimisation
        patches = corpus.num_visual_tokens * self.reader.layout.merge_size**2
        if packing.enabled and packing.max_patches:
            corpus.check_patches(patches, packing.max_patches)
        return plan_batches(
            corpus.lengths,
            patches,
            packing=packing if packing.enabled else None,
            batch_size=optimisation.batch_size,
            num_epochs=optimisation.num_epochs if corpus is self.corpus else 1,
            num_processes=self.num_processes,
            seed=optimisation.seed,
            max_batches=max_steps and max_steps * self._per_step,
        )

    def _batches(self, varlen: bool, corpus: Corpus, plan: BatchPlan) -> RankBatches:
        maker = BatchMaker(
            corpus=corpus,
            reader=self.reader,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            varlen=varlen,
            all_logits=trainer_arguments.uses_liger(self.config),
            skip_missing=self.config.data.missing_media == "skip",
        )
        return RankBatches(maker, plan, process=self._arguments.process_index, num_processes=self.num_processes)

    def _captions(self) -> EvalCaptions | None:
        """Questions for one process that has the whole model."""
        num_samples = self.config.logging.eval_captions
        if self._eval_corpus is None or not num_samples or not self.is_main or self._is_sharded:
            return None
        return EvalCaptions.of(self._eval_corpus, self.reader, self.processor, num_samples)


def _checkpoint_to_resume(config: TrainConfig, *, is_sharded: bool, force: bool) -> Path | None:
    """The newest checkpoint of an earlier run, if any. Raises UsageError where its configuration was another.

    Raises CheckpointError where it lacks what the Trainer would go on without, and say nothing.
    """
    checkpoint = newest_checkpoint(config.checkpoint.output)
    if checkpoint is None:
        return None
    changes = differences(read_note(checkpoint)["config"], config.as_dict())
    fixed = [line for line in changes if line.partition(":")[0] in FIXED]
    if fixed:
        what = f"{checkpoint} has the state of other weights:\n  " + "\n  ".join(fixed)
        raise UsageError(what, hint="Set another checkpoint.output; model.name may be an export of that checkpoint.")
    if changes and not force:
        what = f"{checkpoint} was made with another configuration:\n  " + "\n  ".join(changes)
        raise UsageError(what, hint="Set another checkpoint.output, or pass --force to go on from it all the same.")
    missing = [name for name in (OPTIMIZER_NAME, SCHEDULER_NAME) if not (checkpoint / name).exists()]
    if missing and not is_sharded:
        hint = "Delete it, to go on from the one before, or set another checkpoint.output."
        raise CheckpointError(f"{checkpoint} is not whole: it has no {missing[0]}", hint=hint)
    return checkpoint


def _check_same(checkpoint: str, before: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    """Raise UsageError where a checkpoint's place in the data, or its adapter, means nothing any more."""
    if before.get("fingerprint") != note["fingerprint"]:
        problem = f"{checkpoint} is an adapter of another model: the files of {note['config']['model']['name']} changed"
        raise UsageError(problem, hint="Bring the old ones back, or pass --force to go on all the same.")
    if before.get("data") == note["data"] and before.get("num_processes") == note["num_processes"]:
        return
    what = f"{checkpoint} was made with other data, or in another number of processes"
    raise UsageError(
        what, hint="Set another checkpoint.output, or pass --force: some samples may be missed or repeated."
    )
