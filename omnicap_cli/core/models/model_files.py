"""A model in a folder or on the hub: which one it is, and whether everything is there. It loads nothing of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from omnicap_cli.core.files.atomic import read_errors
from omnicap_cli.core.files.words import listed
from omnicap_cli.core.models.hub import fetch_config, fetch_model, fetch_processor
from omnicap_cli.core.models.model_json import FROM_BASE, missing_file_error, read_object, read_object_if_there
from omnicap_cli.core.models.weights import Weights, read_weights
from omnicap_cli.errors import EngineError, OptionError

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "spiece.model", "vocab.txt")
# What a caption hangs on, beside the weights.
_SMALL_FILES: Final = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", *_TOKENIZERS),
    *("chat_template.jinja", "chat_template.json"),
)
_WHAT_TO_GIVE: Final = "Give a folder with config.json and *.safetensors, or OWNER/NAME of the hub."
_read_errors: Final = partial(read_errors, kind=EngineError, hint="See who may read it, and its folders.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """One state of one model.

    `name` goes into records: the hub id, or the folder's own name. `fingerprint` tells this state from every other;
    `config` is config.json. `weights` is None until a hub model has been fetched. With `takes_text` the model need not
    see pictures.
    """

    name: str
    revision: str | None
    fingerprint: str
    folder: Path
    config: dict[str, Any]
    weights: Weights | None
    takes_text: bool = False

    @classmethod
    def find(cls, model: str, revision: str | None = None, *, takes_text: bool = False) -> ModelFiles:
        """A folder, which is checked, or OWNER/NAME on the hub, of which config.json alone is fetched.

        With `takes_text` it need not see pictures. Raises OptionError if there is no such model, EngineError if
        something of it is missing or damaged.
        """
        folder = _local_folder(model, revision)
        if folder:
            with _read_errors(folder):
                return _check_folder(folder, takes_text=takes_text)
        path = fetch_config(model, revision)
        commit = path.parent.name
        return cls(
            name=model,
            revision=commit,
            fingerprint=commit,
            folder=path.parent,
            config=_read_config(path.parent),
            weights=None,
            takes_text=takes_text,
        )

    @property
    def model_type(self) -> str:
        """How transformers calls the architecture."""
        return str(self.config["model_type"])

    def fetch(self, announce: Callable[[int], None] | None = None) -> ModelFiles:
        """The same with everything on disk and checked; `announce` hears how many bytes are going to be fetched.

        Raises EngineError where that can't be, or something is missing or damaged.
        """
        if self.weights is not None:
            return self
        assert self.revision is not None
        folder = fetch_model(self.name, self.revision, announce)
        with _read_errors(folder):
            _check_processor(folder, takes_text=self.takes_text)
            return replace(self, folder=folder, weights=read_weights(folder))


def find_processor(model: str, revision: str | None = None) -> Path:
    """The folder of a model, for whoever needs its processor only: weights are neither fetched nor looked for.

    Raises OptionError if there is no such model, EngineError if it can't be had.
    """
    folder = _local_folder(model, revision)
    return folder or fetch_processor(model, fetch_config(model, revision).parent.name)


def _local_folder(model: str, revision: str | None) -> Path | None:
    """The folder that `model` names, or None for an id of the hub. Raises OptionError for what is neither."""
    if not model.strip():
        raise OptionError("--model", model, "names no model", hint=_WHAT_TO_GIVE)
    folder = Path(model).expanduser()
    with _read_errors(folder):
        if folder.is_dir():
            if revision is not None:
                raise OptionError("--revision", revision, f"says nothing about a folder, and --model {model} is one")
            return folder
        if folder.exists():
            raise OptionError("--model", model, "is a file", hint=_WHAT_TO_GIVE)
    if not _HUB_ID.fullmatch(model):
        raise OptionError("--model", model, "is no folder here, and no hub id either", hint=_WHAT_TO_GIVE)
    return None


def _check_folder(folder: Path, *, takes_text: bool) -> ModelFiles:
    config = _read_config(folder)
    weights = read_weights(folder)
    _check_processor(folder, takes_text=takes_text)
    return ModelFiles(
        name=folder.resolve().name or str(folder),
        revision=None,
        fingerprint=_folder_fingerprint(folder, weights.files),
        folder=folder,
        config=config,
        weights=weights,
        takes_text=takes_text,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """Raises EngineError where there is none, or it isn't that of a whole model."""
    path, adapter = folder / "config.json", folder / "adapter_config.json"
    if (of_adapter := read_object_if_there(adapter)) is not None:
        base = of_adapter.get("base_model_name_or_path")
        what = f"{folder} holds an adapter (LoRA) for {base or 'another model'}, not a whole model"
        hint = "Merge it first: omnicap export CHECKPOINT -o DIR"
        raise EngineError(what, hint=hint)
    if not path.exists():
        inside = sorted(below.parent.name for below in folder.glob("*/config.json"))
        where = f"There is one in {listed(inside, max_shown=3)}: name that folder." if inside else _WHAT_TO_GIVE
        raise EngineError(f"{folder} has no config.json, so it holds no model", hint=where)
    config = read_object(path)
    if not isinstance(config.get("model_type"), str):
        raise EngineError(f"{path} has no model_type, which says what kind of model it is", hint=FROM_BASE)
    return config


def _check_processor(folder: Path, *, takes_text: bool) -> None:
    """Raise EngineError unless everything is there, and whole, that makes a prompt and pixels into a model's input."""
    objects = {
        name: read_object_if_there(folder / name) or {}
        for name in (
            *("preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"),
            "generation_config.json",  # transformers passes over a damaged one, and with it the marks that end a text
        )
    }
    if not takes_text and not (
        objects["preprocessor_config.json"] or "image_processor" in objects["processor_config.json"]
    ):
        raise missing_file_error(folder, "preprocessor_config.json", "how pictures are to be prepared")
    if not any((folder / name).exists() for name in _TOKENIZERS):
        raise missing_file_error(folder, "tokenizer.json", "how text becomes tokens")
    has_file = (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists()
    if not has_file and not any("chat_template" in each for each in objects.values()):
        raise missing_file_error(folder, "chat_template.jinja", "how a question is to be put")


def _folder_fingerprint(folder: Path, weight_files: Iterable[Path]) -> str:
    """Of the small files' content; of the weights, which take minutes to read, name, size and modification time."""
    digest = hashlib.sha256()
    for name in _SMALL_FILES:
        if (folder / name).exists():
            digest.update(f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\0".encode())
    for file in weight_files:
        state = file.stat()
        digest.update(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()
