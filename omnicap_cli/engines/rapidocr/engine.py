"""PP-OCR through RapidOCR: text of pictures on any CPU, its models inside the package. It follows no prompt.

This side says which model the processes use, without importing the library; `recogniser` is what runs in them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omnicap_cli.core.models.machine import num_cores
from omnicap_cli.core.runs.engine import Engine
from omnicap_cli.core.runs.records import EngineIdentity
from omnicap_cli.engines.rapidocr.item_engine import ItemEngine
from omnicap_cli.engines.registry import EngineOptions
from omnicap_cli.errors import MissingExtraError, OptionError

_CORES_PER_PROCESS: Final = 4  # more threads make the recognition of a page hardly any faster
PARTS: Final = ("det", "rec")  # detection, recognition


@dataclass(frozen=True, slots=True, kw_only=True)
class RecogniserConfig:
    """Which model files a process loads, by part, and how many threads it may use."""

    models: dict[str, str]
    num_threads: int


class RapidOcrEngine(ItemEngine):
    """See `Engine`. `--workers` processes share the cores; unless told otherwise, one for every four cores."""

    def __init__(self, options: EngineOptions) -> None:
        folder = Path(options.model) if options.model else builtin_models()
        models = find_models(folder)
        num_workers = options.workers or max(1, num_cores() // _CORES_PER_PROCESS)
        self.identity = EngineIdentity(
            engine="rapidocr",
            model=models["rec"].stem.split("_rec")[0],
            revision=None if options.model else importlib.metadata.version("rapidocr"),
            fingerprint=_models_fingerprint(models.values(), with_times=options.model is not None),
        )
        config = RecogniserConfig(
            models={part: str(path) for part, path in models.items()},
            num_threads=max(1, num_cores() // num_workers),
        )
        super().__init__("omnicap_cli.engines.rapidocr.recogniser:Recogniser", config, num_workers=num_workers)


def create(options: EngineOptions) -> Engine:
    """The engine, not loaded. Raises OptionError for a model folder without models."""
    return RapidOcrEngine(options)


def find_models(folder: Path) -> dict[str, Path]:
    """The one model file of each part in `folder`, told apart by `det` and `rec` in their names.

    Raises OptionError where a part is missing or there are several.
    """
    if not folder.is_dir():
        raise OptionError("--model", str(folder), "is not a folder", hint="rapidocr takes a folder of PP-OCR models.")
    found: dict[str, Path] = {}
    for part in PARTS:
        files = sorted(folder.glob(f"*_{part}_*.onnx")) + sorted(folder.glob(f"{part}.onnx"))
        if len(files) != 1:
            problem = f"has {len(files)} files *_{part}_*.onnx or {part}.onnx where one is needed"
            raise OptionError("--model", str(folder), problem, hint="rapidocr takes a folder of PP-OCR models as ONNX.")
        found[part] = files[0]
    return found


def builtin_models() -> Path:
    """The folder of models inside the rapidocr package. Raises MissingExtraError where that isn't installed."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None or importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtraError(
            "the engine rapidocr needs the packages rapidocr and onnxruntime",
            hint="Install them: pip install rapidocr onnxruntime",
        )
    return Path(spec.origin).parent / "models"


def _models_fingerprint(files: Iterable[Path], *, with_times: bool) -> str:
    """Of the files' names and sizes; with modification times where a user may put others in their place."""
    digest = hashlib.sha256()
    for file in sorted(files):
        state = file.stat()
        digest.update(f"{file.name}\0{state.st_size}\0{state.st_mtime_ns if with_times else 0}\0".encode())
    return digest.hexdigest()
