"""The weights that a checkpoint comes to: its own, or those of the model it adapts with the adapter merged into them.

It writes nothing, and reads nothing of a training's state but the weights and the note of what they were made from.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from omnicap_cli.core.files.words import first_line, gigabytes, listed
from omnicap_cli.core.models.devices import Dtype, Placement
from omnicap_cli.core.models.loading import check_architecture, check_weights, load_model
from omnicap_cli.core.models.machine import missing_extra
from omnicap_cli.core.models.memory import free_bytes
from omnicap_cli.core.models.model_files import ModelFiles, find_processor
from omnicap_cli.core.models.model_json import read_object_if_there
from omnicap_cli.core.models.weights import Weights, read_weights
from omnicap_cli.errors import EngineError, OmnicapError
from omnicap_cli.training.checkpoints import NOTE, CheckpointError, read_note

ADAPTER: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_DTYPE_OF: Final[dict[str, Dtype]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # names of safetensors
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FSDP_PARTS: Final = "pytorch_model_fsdp_0"

_FoundModel = TypeVar("_FoundModel")


class BaseModel:
    """The model that training started from, by the note of a checkpoint; it is looked for when it is needed."""

    def __init__(self, checkpoint: Path, asked: str | None) -> None:
        """`asked` is where it is now. Raises CheckpointError where the note doesn't name a model."""
        note = read_note(checkpoint)
        try:
            model = note["config"]["model"]
            self.name, self._revision = str(asked or model["name"]), model["revision"]
            self._fingerprint = note.get("fingerprint")
        except (KeyError, TypeError) as error:
            what = f"{checkpoint / NOTE} doesn't say which model the checkpoint is of"
            hint = "A newer omnicap wrote it, or it was edited: pip install -U omnicap"
            raise CheckpointError(what, hint=hint) from error
        self._is_asked = asked is not None
        if self._is_asked:
            self._revision = None
        elif _COMMIT.fullmatch(str(self._fingerprint)):  # of the hub, where the name may stand for another state by now
            self._revision = self._fingerprint

    @functools.cached_property
    def folder(self) -> Path:
        """Where everything of it is but the weights."""
        return self._find_or_explain(find_processor)

    def files(self, warn: Callable[[str], None]) -> ModelFiles:
        """All of it; `warn` hears where it may be another than the one that was trained."""
        files = self._find_or_explain(lambda name, revision: ModelFiles.find(name, revision).fetch())
        if self._fingerprint not in (None, files.fingerprint):
            warn(f"{self.name} was changed or copied since it was trained on: the weights have to be the same")
        return files

    def _find_or_explain(self, find: Callable[[str, str | None], _FoundModel]) -> _FoundModel:
        try:
            return find(self.name, self._revision)
        except OmnicapError as error:
            if self._is_asked:
                raise
            what = f"the model that training started from can't be had: {error.message}"
            raise CheckpointError(what, hint="Say where it is now with --model.") from error


def load_trained(checkpoint: Path, base: BaseModel, dtype: str) -> Any:
    """The model whose own weights were trained."""
    files = _checkpoint_files(checkpoint)
    model = _load_as_stored(files, dtype).to(_torch_dtype(files, dtype))
    name = "generation_config.json"
    if not (checkpoint / name).exists() and (base.folder / name).exists():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(base.folder)
    return model


def _checkpoint_files(checkpoint: Path) -> ModelFiles:
    config = read_object_if_there(checkpoint / "config.json")
    if config is None:
        raise CheckpointError(f"{checkpoint} has no config.json", hint="Take another checkpoint.")
    try:
        weights = _consolidated_weights(checkpoint)
    except OSError as error:
        what = f"{checkpoint} can't be read: {error.filename}: {error.strerror}"
        raise CheckpointError(what, hint="Take another checkpoint.") from error
    return ModelFiles(
        name=str(checkpoint), revision=None, fingerprint="", folder=checkpoint, config=config, weights=weights
    )


def _consolidated_weights(checkpoint: Path) -> Weights:
    if not (checkpoint / _FSDP_PARTS).is_dir() or list(checkpoint.glob("model*.safetensors*")):
        return read_weights(checkpoint)
    how = f"Join them: accelerate merge-weights {checkpoint / _FSDP_PARTS} {checkpoint}"
    raise CheckpointError(f"{checkpoint} has its weights in the parts that FSDP left", hint=how)


def merge_adapter(checkpoint: Path, base: BaseModel, dtype: str, warn: Callable[[str], None]) -> Any:
    """The model with the adapter's matrices in its own.

    They are added in float32 to weights as they are stored, and rounded once: `safe_merge` of peft rounds twice.
    """
    files = base.files(warn)
    if "quantization_config" in files.config:
        what = f"{files.name} is quantised, and an adapter can't be merged into that"
        raise EngineError(what, hint="Give the model that it was quantised from with --model.")
    adapted = _with_adapter(_load_as_stored(files, dtype), checkpoint, base.name)
    return adapted.merge_and_unload(safe_merge=False).to(_torch_dtype(files, dtype))


def _with_adapter(model: Any, checkpoint: Path, base: str) -> Any:
    """The model with the adapter around it. Raises CheckpointError where that is of another model, or damaged."""
    try:
        from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise missing_extra("peft") from error
    from safetensors.torch import load_file

    other = f"the adapter in {checkpoint} is of another model than {base}"
    hint = "Give the model that was trained with --model."
    try:
        matrices = load_file(checkpoint / ADAPTER_WEIGHTS)
        settings = PeftConfig.from_pretrained(str(checkpoint))
        settings.base_model_name_or_path = None  # peft would complain of another name; what counts is checked below
        adapted = get_peft_model(model, settings)
    except ValueError as error:  # peft finds none of the layers
        raise CheckpointError(other, hint=hint) from error
    except Exception as error:  # of many kinds, which the two libraries have for missing and damaged files
        raise CheckpointError(f"the adapter in {checkpoint} can't be read: {error}") from error
    expected = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(adapted).items()}
    given = {name: tuple(value.shape) for name, value in matrices.items()}
    if differing := sorted(name for name in expected | given if expected.get(name) != given.get(name)):
        raise CheckpointError(f"{other}: {listed(differing, max_shown=3)} don't fit", hint=hint)
    set_peft_model_state_dict(adapted, matrices)
    return adapted


def _load_as_stored(files: ModelFiles, dtype: str) -> Any:
    """A model on the CPU, with its weights as they are stored. Raises EngineError."""
    check_architecture(files)
    assert files.weights is not None
    stored = _stored_dtype(files.weights)
    widest: Dtype = "float32" if "float32" in (stored, dtype) else stored
    needed, free = files.weights.loaded_bytes(Placement(device="cpu", dtype=widest, attn="sdpa")), free_bytes("cpu")
    if needed > free:
        what = f"{files.name} takes {gigabytes(needed)} of memory in {widest}; free: {gigabytes(free)}"
        raise EngineError(what, hint="Export it on a machine with more memory; it needs no GPU.")
    try:
        model, info = load_model(files.folder, Placement(device="cpu", dtype=stored, attn="sdpa"), ["cpu"])
    except Exception as error:  # of any kind, since transformers checks little by itself
        raise EngineError(f"{files.name} can't be loaded: {first_line(error)}", hint="--debug shows where.") from error
    check_weights(files, info)
    return model


def _torch_dtype(files: ModelFiles, dtype: str) -> Any:
    import torch

    assert files.weights is not None
    return getattr(torch, _stored_dtype(files.weights) if dtype == "auto" else dtype)


def _stored_dtype(weights: Weights) -> Dtype:
    """That of most tensors in the files."""
    from safetensors import safe_open

    names: Counter[str] = Counter()
    for path in weights.files:
        with safe_open(path, "pt") as file:
            names.update(file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118 - it is no mapping
    return next((_DTYPE_OF[name] for name, _ in names.most_common() if name in _DTYPE_OF), "float32")


def check_finite(model: Any, checkpoint: Path) -> None:
    """Raise CheckpointError if a weight is infinite or not a number."""
    broken = [name for name, weights in model.named_parameters() if not weights.isfinite().all()]
    if broken:
        what = f"{checkpoint} has weights that are no numbers: {listed(broken, max_shown=3)}"
        raise CheckpointError(what, hint="Take an earlier checkpoint.")
