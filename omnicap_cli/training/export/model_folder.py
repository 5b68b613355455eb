"""A checkpoint made into a model: a folder with all that transformers and vLLM load beside the weights.

Where the weights come from, `adapter` knows; here is what is written, and what is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omnicap_cli.core.files.folders import leftover_folders, replacing_folder
from omnicap_cli.core.models.library_logs import libraries_quiet
from omnicap_cli.core.models.loading import load_processor
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import OmnicapError, OptionError
from omnicap_cli.training.checkpoints import NOTE, CheckpointError, newest_checkpoint
from omnicap_cli.training.export.adapter import ADAPTER, BaseModel, check_finite, load_trained, merge_adapter

_DTYPES: Final = ("auto", "bfloat16", "float32")
_SIZE: Final = re.compile(r"[1-9]\d*[KMGT]B")
_NUM_TRIES: Final = 5
_HOW_LOADED: Final = ("is_local", "local_files_only")  # a tokenizer saves them among its settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportConfig:
    """What a user decides. `checkpoint` may be the folder of a run, whose newest checkpoint is taken.

    `model` is where the model that training started from is now, if it isn't where it was. Raises OptionError.
    """

    checkpoint: Path
    output: Path
    model: str | None = None
    dtype: str = "auto"
    max_shard_size: str = "5GB"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise OptionError("--dtype", self.dtype, f"is not a choice; there are {', '.join(_DTYPES)}")
        if not _SIZE.fullmatch(self.max_shard_size):
            raise OptionError("--max-shard-size", self.max_shard_size, "is no size; give one such as 5GB or 500MB")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelExportReport:
    """The folder `output` as it was written. `base` is the model that an adapter was merged into."""

    output: str
    checkpoint: str
    base: str | None
    dtype: str
    num_parameters: int
    num_weight_files: int
    num_bytes: int


def export_checkpoint(config: ModelExportConfig, warn: Callable[[str], None]) -> ModelExportReport:
    """Write the model that a checkpoint comes to. `output` is whole then, or as it was. Raises OmnicapError.

    Where a run at work replaces its newest checkpoint meanwhile, the next one is taken.
    """
    for _ in range(_NUM_TRIES):
        checkpoint = _find_checkpoint(config.checkpoint)
        try:
            return _export_one(config, checkpoint, warn)
        except Exception:  # of many kinds, depending on what was read just then
            if checkpoint.exists():
                raise
    hint = "Wait until it is over, or let it keep more (checkpoint.keep)."
    raise CheckpointError(f"the run in {config.checkpoint} replaces its checkpoints too soon to be read", hint=hint)


def _export_one(config: ModelExportConfig, checkpoint: Path, warn: Callable[[str], None]) -> ModelExportReport:
    base = BaseModel(checkpoint, config.model)
    is_adapter = (checkpoint / ADAPTER).exists()
    _check_export_folder(config, [checkpoint, Path(base.name)])
    if config.model and not is_adapter:
        warn(f"{checkpoint} has all weights of its own: of --model only what it lacks beside them is taken")
    for left in leftover_folders(config.output):
        warn(f"{left} is of an export that was killed, or of one at work: delete it if there is none")
    with libraries_quiet():
        model = (
            merge_adapter(checkpoint, base, config.dtype, warn)
            if is_adapter
            else load_trained(checkpoint, base, config.dtype)
        )
        check_finite(model, checkpoint)
        processor = _processor(checkpoint, base)
        try:
            with replacing_folder(config.output) as folder:
                _save_model(folder, model, processor, config.max_shard_size)
                weights = ModelFiles.find(str(folder)).weights
        except OmnicapError:
            raise
        except Exception as error:  # of many kinds: safetensors has its own for a full disk
            there = "It is as it was before." if config.output.exists() else "Nothing is left of it."
            raise CheckpointError(f"{config.output} can't be written: {error}", hint=there) from error
    assert weights is not None
    return ModelExportReport(
        output=str(config.output),
        checkpoint=str(checkpoint),
        base=base.name if is_adapter else None,
        dtype=str(model.dtype).removeprefix("torch."),
        num_parameters=model.num_parameters(),
        num_weight_files=len(weights.files),
        num_bytes=sum(path.stat().st_size for path in config.output.iterdir()),
    )


def _find_checkpoint(path: Path) -> Path:
    """`path`, or the newest checkpoint in it. Raises CheckpointError where there is none."""
    if (path / NOTE).exists():
        return path
    if found := newest_checkpoint(path):
        return found
    if not path.exists():
        raise CheckpointError(f"{path} is not there", hint="Give a folder checkpoint-N, or the folder of a run.")
    if (path / "config.json").exists():
        what = f"{path} is a model already, or a checkpoint of another program: it has no {NOTE}"
        raise CheckpointError(what, hint=f"Use it as it is: omnicap caption --model {path}")
    raise CheckpointError(f"{path} holds no checkpoint", hint="Give a folder that `omnicap train` wrote.")


def _check_export_folder(config: ModelExportConfig, needed: list[Path]) -> None:
    """Raise OptionError unless the output may be written; `needed` are folders that must not be lost with it."""
    target = config.output.resolve()
    for path in needed:
        if path.exists() and path.resolve().is_relative_to(target):
            raise OptionError("--output", str(config.output), f"can't take the place of {path}, which is needed")
    if target.exists() and not target.is_dir():
        raise OptionError("--output", str(config.output), "is a file", hint="Give a folder.")
    if not target.exists() or not any(target.iterdir()):
        return
    if not config.overwrite:
        raise OptionError("--output", str(config.output), "has something in it", hint="--overwrite replaces a model.")
    if (target / NOTE).exists() or not (target / "config.json").exists():
        problem = "holds something else than a model, so it isn't replaced"
        raise OptionError("--output", str(config.output), problem, hint="Give another folder.")


def _processor(checkpoint: Path, base: BaseModel) -> Any:
    """That of the checkpoint, and what it lacks from the model that was trained."""
    processor = load_processor(checkpoint if (checkpoint / "processor_config.json").exists() else base.folder)
    if processor.chat_template is None:
        processor.chat_template = load_processor(base.folder).chat_template
    for name in _HOW_LOADED:
        processor.tokenizer.init_kwargs.pop(name, None)
    return processor


def _save_model(folder: Path, model: Any, processor: Any, max_shard_size: str) -> None:
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    for part in (processor.image_processor, getattr(processor, "video_processor", None)):
        if part is not None:
            part.save_pretrained(folder)  # files of their own, for programs that read only those
    mode = (folder / "config.json").stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)  # safetensors makes files that nobody else can read
