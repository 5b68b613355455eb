"""The engines that there are, which of them answers what, and what a user may decide about one."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final, Literal

from omnicap_cli.core.runs.engine import Engine
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.engines.generation import Generation
from omnicap_cli.errors import EngineError, MissingExtraError, OptionError, UsageError

_SECONDS_FOR_GPUS: Final = 20
DEFAULT_MODEL: Final = "U4R/OmniCaptioner"
_WHAT_READS: Final = "Without a vision-language model there is --type ocr (--style text or markdown)."
_WHAT_IS_NEEDED: Final = (
    f"Name one: --model FOLDER, or a hub id such as --model {DEFAULT_MODEL} (16 GB, made for a GPU). {_WHAT_READS}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """What a user may decide about where a model runs, and how; see `core.models.devices`, which checks it."""

    device: str = "auto"
    dtype: str = "auto"
    attn: str = "auto"
    quantize: str | None = None
    gpus: int | Literal["all"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.gpus, int) and self.gpus < 1:
            raise OptionError("--gpus", self.gpus, "is not a number of GPUs; give 1 or more, or all")
        if self.gpus is not None and self.device not in ("auto", "cuda"):
            problem = f"can't be used with --device {self.device}, which is one device"
            raise OptionError("--gpus", self.gpus, problem, hint="Leave out one of the two.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a user may decide about an engine.

    `workers` is a number of processes, `batch_size` of captions made together at most; None leaves them to the engine.
    `num_sharing` processes, this one included, share the memory and the cores. With `takes_text` the model may be a
    language model, for questions without a picture.
    """

    model: str | None = None
    revision: str | None = None
    devices: DeviceOptions = field(default_factory=DeviceOptions)
    batch_size: int | None = None
    workers: int | None = None
    generation: Generation = field(default_factory=Generation)
    num_sharing: int = 1
    takes_text: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise OptionError("--workers", self.workers, "is not a number of processes; give 1 or more")
        if self.batch_size is not None and self.batch_size < 1:
            raise OptionError("--batch-size", self.batch_size, "is not a number of captions; give 1 or more")

    @property
    def for_models(self) -> list[str]:
        """The options given that only vision-language models heed."""
        changed = [name for name in ("revision", "batch_size") if getattr(self, name) is not None]
        for given in (self.devices, self.generation):
            default = type(given)()
            changed += [each.name for each in fields(given) if getattr(given, each.name) != getattr(default, each.name)]
        return [f"--{name.replace('_', '-')}" for name in changed]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """How an engine is found: `module` has `create(options) -> Engine`; `extra` is the pip extra of its `packages`.

    `reads` names the (type, style) pairs that it does without a prompt; None: whatever the prompt asks.
    """

    module: str
    extra: str | None
    packages: tuple[str, ...] = ()
    reads: frozenset[tuple[str, str]] | None = None

    @property
    def here(self) -> bool:
        """Whether this version of omnicap has the engine."""
        return importlib.util.find_spec(self.module) is not None

    @property
    def missing(self) -> list[str]:
        """The packages that it needs and that aren't installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]

    def unread(self, asked: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the (type, style) pairs that it can't do."""
        return set() if self.reads is None else asked - self.reads


ENGINES: Final[dict[str, EngineSpec]] = {
    "rapidocr": EngineSpec(
        module="omnicap_cli.engines.rapidocr.engine",
        extra=None,
        reads=frozenset([("ocr", "text"), ("ocr", "markdown")]),
    ),
    "huggingface": EngineSpec(
        module="omnicap_cli.engines.huggingface.engine",
        extra="torch",
        packages=("torch", "torchvision", "transformers"),
    ),
    "vllm": EngineSpec(module="omnicap_cli.engines.vllm", extra="vllm"),
    "openai": EngineSpec(module="omnicap_cli.engines.openai", extra=None),
}


def choose_engine(name: str, *, prompts: list[Prompt], own_prompt: bool, options: EngineOptions) -> str:
    """The name of the engine that answers `prompts`; `name` may be "auto".

    Raises UsageError where the named engine can't do them, EngineError where none here can.
    """
    if name != "auto" and name not in ENGINES:
        raise OptionError("--engine", name, f"is not an engine; there are auto, {', '.join(ENGINES)}")
    asked = {(prompt.type, prompt.style) for prompt in prompts}
    if name == "auto":
        name = _best_engine(asked, own_prompt=own_prompt, model=options.model)
    if not ENGINES[name].here:
        here = ", ".join(each for each, spec in ENGINES.items() if spec.here)
        raise EngineError(f"--engine {name} is not in this version of omnicap", hint=f"There are auto, {here}.")
    if own_prompt and ENGINES[name].reads is not None:
        raise UsageError(f"--prompt and --system need a model that follows prompts, which {name} doesn't")
    if unread := ENGINES[name].unread(asked):
        can = _list_types(ENGINES[name].reads or set())
        what = f"{name} can't do {_list_types(unread)}"
        raise UsageError(what, hint=f"Leave out --engine, or choose what it can: {can}.")
    if ENGINES[name].reads is not None and options.for_models:
        what = f"{', '.join(options.for_models)}: {name} has no use for that"
        raise UsageError(what, hint="Leave it out, or name a vision-language model with --model.")
    return name


def create_engine(name: str, options: EngineOptions) -> Engine:
    """The engine called `name`, its model not loaded yet. Raises MissingExtraError, EngineError or OptionError."""
    spec = ENGINES[name]
    if missing := spec.missing:
        wanted = f"omnicap[{spec.extra}]" if spec.extra else "omnicap"
        what = f"--engine {name} needs {', '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed"
        raise MissingExtraError(what, hint=f"Install it: pip install '{wanted}'")
    engine: Engine = importlib.import_module(spec.module).create(options)
    return engine


def _best_engine(asked: set[tuple[str, str]], *, own_prompt: bool, model: str | None) -> str:
    """What "auto" means: a model that is named decides, else the machine."""
    reads = not own_prompt and not ENGINES["rapidocr"].unread(asked)
    if _is_language_model(model) or (model is not None and not reads):
        return "huggingface"
    if model is None and _has_gpu() and not ENGINES["huggingface"].missing:
        return "huggingface"
    if reads:
        return "rapidocr"
    what = "--prompt" if own_prompt else _list_types(asked)
    install = " To run models: pip install 'omnicap[torch]'" if ENGINES["huggingface"].missing else ""
    hint = _WHAT_IS_NEEDED + install
    raise EngineError(f"nothing here can do {what}: that takes a vision-language model", hint=hint)


def _has_gpu() -> bool:
    """Whether there is an NVIDIA GPU that torch can use, without loading torch."""
    program, torch = shutil.which("nvidia-smi"), importlib.util.find_spec("torch")
    if program is None or torch is None or torch.origin is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_SECONDS_FOR_GPUS)
        version = (Path(torch.origin).parent / "version.py").read_text("utf-8")
    except (OSError, subprocess.SubprocessError):
        return False
    return "GPU 0" in listed.stdout and re.search(r"^cuda\b.*=\s*['\"]", version, re.MULTILINE) is not None


def _is_language_model(model: str | None) -> bool:
    """Whether --model names a vision-language model: a folder with a configuration, or a hub id as OWNER/NAME."""
    if model is None or Path(model).is_dir():
        return model is not None and (Path(model) / "config.json").exists()
    return model.count("/") == 1 and not model.startswith((".", "~")) and not Path(model).parent.is_dir()


def _list_types(pairs: AbstractSet[tuple[str, str]]) -> str:
    return ", ".join(f"--type {kind} --style {style}" for kind, style in sorted(pairs))
