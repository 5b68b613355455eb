"""Everything that a user decides about a training run, checked before anything heavy is loaded.

It knows no model, no data and no device: what doesn't fit those shows later.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from omnicap_cli.errors import OptionError, UsageError
from omnicap_cli.training.config import mixture
from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.config.read_config import read_file, read_sections, with_overrides
from omnicap_cli.training.config.typed_values import (
    Count,
    CountOrZero,
    Positive,
    PositiveOrZero,
    Section,
    Seed,
    Share,
    ShareBelowOne,
    Text,
)

_REQUIRED: Final = (("model.name",), ("data.train", "data.mixture"), ("checkpoint.output",))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Section):
    """The model that training starts from, a folder or a name of the hub, and which of its parts learn.

    `dtype` is that of the weights that are trained; `gradient_checkpointing` trades time for memory.
    """

    name: Text
    revision: Text | None = None
    attn: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    train_vision: bool = True
    train_merger: bool = True
    train_llm: bool = True
    gradient_checkpointing: bool = False
    liger: Literal["auto", "on", "off"] = "auto"

    @property
    def trains_a_part(self) -> bool:
        """Whether any of the weights themselves learn."""
        return self.train_vision or self.train_merger or self.train_llm


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Section):
    """What is learned from, and what happens to samples that don't fit or whose pictures are gone.

    `mixture` stands for `train` until `TrainConfig.read` has put the sets of that file there. `prompts` is a catalogue
    of system texts. `max_length` is in tokens of the sequence; `seed` decides which part of a set is taken.
    """

    train: tuple[DataSet, ...] = ()
    mixture: Path | None = None
    eval: tuple[DataSet, ...] = ()
    image_root: Text | None = None
    min_pixels: Count | None = None
    max_pixels: Count | None = None
    prompts: Path | None = None
    max_length: Count = 7000
    too_long: Literal["refuse", "drop", "truncate"] = "refuse"
    missing_media: Literal["fail", "skip"] = "fail"
    num_workers: CountOrZero = 2
    seed: Seed = 0

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise OptionError("data.min_pixels", self.min_pixels, f"is more than data.max_pixels {self.max_pixels}")
        if not self.train and not self.mixture:
            raise OptionError("data.train", [], "names no set of records")
        if self.train and self.mixture:
            hint = "Keep one; `--set data.train=` takes the list away."
            raise OptionError("data.mixture", str(self.mixture), "can't go with data.train", hint=hint)
        _check_labels("data.train", self.train)
        _check_labels("data.eval", self.eval)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingConfig(Section):
    """Several samples in one sequence, a pack. The limits are of a pack: tokens, and patches of its pictures.

    `window` is how many samples are packed together; None leaves it to the packer.
    """

    enabled: bool = True
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 20, description="is out of range; give 1 to 1,048,576")] = 8192
    max_patches: Count | None = None
    window: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationConfig(Section):
    """How the weights move: AdamW, with learning rates of their own for the merger and the vision tower.

    `learning_rate` is the language model's, and the merger's where that has none. `batch_size` counts packs, or samples
    without packing, on one device at a time. `precision` is that of autocast. With `max_steps` a run ends after so many
    steps, however many epochs those are; `max_grad_norm` 0 clips nothing.
    """

    learning_rate: Positive = 1e-5
    merger_learning_rate: Positive | None = None
    vision_learning_rate: Positive = 2e-6
    weight_decay: PositiveOrZero = 0.0
    warmup_ratio: Share = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_learning_rate_ratio: Share = 0.0
    num_epochs: Count = 1
    max_steps: Annotated[int, Meta(ge=1, le=10**8, description="is out of range; give 1 to 100,000,000")] | None = None
    batch_size: Count = 1
    gradient_accumulation: Count = 1
    max_grad_norm: PositiveOrZero = 1.0
    adam_beta1: ShareBelowOne = 0.9
    adam_beta2: ShareBelowOne = 0.999
    adam_epsilon: Positive = 1e-8
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    tf32: bool = True
    seed: Seed = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig(Section):
    """Small matrices that learn beside the weights; with `qlora` the weights are in 4 bits meanwhile.

    `vision` puts them into the vision tower too.
    """

    kind: Literal["none", "lora", "qlora"] = "none"
    rank: Count = 64
    alpha: Count = 16
    dropout: ShareBelowOne = 0.05
    vision: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedConfig(Section):
    """How several devices share the work. A file of DeepSpeed's own says all of it itself."""

    strategy: Literal["auto", "ddp", "fsdp", "deepspeed"] = "auto"
    deepspeed_config: Path | None = None
    zero_stage: Annotated[int, Meta(ge=0, le=3, description="is no stage of ZeRO; choose from 0, 1, 2, 3")] | None = (
        None
    )
    offload: bool = False

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        for name, value in (("deepspeed_config", self.deepspeed_config), ("zero_stage", self.zero_stage)):
            if value is not None and self.strategy != "deepspeed":
                shown = str(value) if isinstance(value, Path) else value
                raise OptionError(f"distributed.{name}", shown, "needs strategy: deepspeed")
        if self.zero_stage is not None and self.deepspeed_config:
            problem = "can't go with deepspeed_config, which says the stage"
            raise OptionError("distributed.zero_stage", self.zero_stage, problem)
        if self.offload and (self.strategy == "ddp" or self.deepspeed_config):
            with_what = "deepspeed_config, which says it" if self.deepspeed_config else "strategy: ddp"
            raise OptionError("distributed.offload", self.offload, f"can't go with {with_what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig(Section):
    """Where the result goes, and how often a checkpoint is kept there; the `keep` newest stay.

    With neither `every_steps` nor `every_minutes` there is one, at the end.
    """

    output: Path
    every_steps: Count | None = 500
    every_minutes: Positive | None = None
    keep: Count = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig(Section):
    """What is written about a run, how often, and to whom; `name` is what those call the run.

    `eval_captions` is how many held-out pictures are captioned for the log.
    """

    every_steps: Count = 10
    eval_every_steps: Count | None = None
    eval_captions: CountOrZero = 4
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    name: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training run. Raises OptionError, with the dotted key, for what can't be used."""

    model: ModelConfig
    data: DataConfig
    checkpoint: CheckpointConfig
    packing: PackingConfig = field(default_factory=PackingConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        if self.adapter.kind == "none" and not self.model.trains_a_part:
            hint = "Set one of model.train_llm, model.train_merger and model.train_vision, or adapter.kind: lora."
            raise UsageError("nothing is trained: all parts are frozen, and there is no adapter", hint=hint)
        if (
            self.adapter.kind == "none"
            and self.model.dtype == "bfloat16"
            and self.distributed.strategy in ("auto", "ddp")
        ):
            problem = "is too coarse for weights that learn in small steps: most of these would be rounded away"
            hint = (
                "Leave it out: with optimisation.precision bfloat16 they stay float32, and are computed with in that."
            )
            raise OptionError("model.dtype", "bfloat16", problem, hint=hint)
        if self.packing.enabled and self.packing.max_tokens < self.data.max_length:
            problem = f"is less than data.max_length {self.data.max_length}: such a sample fits no pack"
            raise OptionError("packing.max_tokens", self.packing.max_tokens, problem)
        if self.logging.eval_every_steps and not self.data.eval:
            raise OptionError("logging.eval_every_steps", self.logging.eval_every_steps, "needs data.eval")

    @classmethod
    def read(
        cls, path: Path, overrides: Sequence[str] = (), warn: Callable[[str], None] = lambda _: None
    ) -> TrainConfig:
        """What a YAML file says, and `section.key=value` overrides say after it; a mixture becomes its sets.

        `warn` gets what is passed over in a mixture. Raises UsageError and its OptionError.
        """
        config = read_sections(cls, with_overrides(read_file(path, "--config"), overrides), _REQUIRED)
        if config.data.mixture is None:
            return config
        sets = mixture.read_mixture(config.data.mixture, warn)
        return replace(config, data=replace(config.data, train=sets, mixture=None))

    def check_files(self) -> None:
        """Raise OptionError for the first of the named files and folders that isn't there, or can't be made."""
        for key, path in self._inputs():
            if not os.path.exists(path):
                raise OptionError(key, str(path), "is not there")
        output = self.checkpoint.output
        try:
            output.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # a ValueError where its name can be none
            reason = getattr(error, "strerror", error)
            raise OptionError("checkpoint.output", str(output), f"can't be made: {reason}") from error

    def _inputs(self) -> Iterator[tuple[str, str | Path]]:
        for key, sets in (("data.train", self.data.train), ("data.eval", self.data.eval)):
            yield from ((key, each.path) for each in sets)
        named = {
            "data.image_root": self.data.image_root,
            "data.prompts": self.data.prompts,
            "distributed.deepspeed_config": self.distributed.deepspeed_config,
        }
        yield from ((key, path) for key, path in named.items() if path is not None)

    def as_dict(self) -> dict[str, Any]:
        """Sections of keys, as they come back from JSON: lists for tuples, texts for paths."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def _check_labels(key: str, sets: Sequence[DataSet]) -> None:
    """Which part of a set is taken hangs on its label, and so do the counts."""
    labels = [each.label for each in sets]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise OptionError(key, twice, "is there twice", hint="Add up the ratios, or give each a name of its own.")
