"""What every engine is: requests in, results out. It knows no command, no journal and no terminal."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omnicap_cli.core.records import EngineIdentity, Idle, Prompt, Request, Result
from omnicap_cli.errors import EngineError, MissingExtraError, OptionError, UsageError

_WHAT_IS_HERE: Final = "To read the text of a picture, pass --type ocr (--style text or markdown): that works now."
_WHAT_IS_NEEDED: Final = """
For anything else a model is to be passed (--model U4R/OmniCaptioner, or a folder) to an engine that
runs it (pip install 'omnicap[torch]'). No such engine is in this version yet: wait with installing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a user may decide about an engine. `workers` is a number of processes, or None for the engine's choice."""

    model: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise OptionError("--workers", self.workers, "is not a number of processes; give 1 or more")


class Engine(ABC):
    """Turns requests into results. Making one is cheap and tells its identity; the model loads at the first request.

    Whatever is wrong with an item is a Result with an error; an EngineError is for what is wrong with the engine.
    """

    identity: EngineIdentity

    @abstractmethod
    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        """One Result per Request, in any order, pulling requests with bounded look-ahead.

        When `stop` is set, what is on the device is finished and yielded, and the iterator ends.
        """

    @abstractmethod
    def warm_up(self) -> None:
        """Start loading the model now: work is certain to come."""

    @abstractmethod
    def close(self) -> None:
        """Give back processes, memory and devices."""

    @abstractmethod
    def kill(self) -> None:
        """As `close`, at once, whatever is running. Safe in a signal handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """How an engine is found: `module` has `create(options) -> Engine`; `extra` is the pip extra it needs.

    `reads` names the (type, style) pairs that it does without a prompt; None: whatever the prompt asks.
    """

    module: str
    extra: str | None
    reads: frozenset[tuple[str, str]] | None

    @property
    def here(self) -> bool:
        """Whether this version of omnicap has the engine."""
        return importlib.util.find_spec(self.module) is not None


ENGINES: Final[dict[str, EngineSpec]] = {
    "rapidocr": EngineSpec(
        module="omnicap_cli.engines.rapidocr", extra=None, reads=frozenset([("ocr", "text"), ("ocr", "markdown")])
    ),
    "huggingface": EngineSpec(module="omnicap_cli.engines.huggingface", extra="torch", reads=None),
    "vllm": EngineSpec(module="omnicap_cli.engines.vllm", extra="vllm", reads=None),
    "openai": EngineSpec(module="omnicap_cli.engines.openai", extra=None, reads=None),
}


def choose_engine(name: str, *, prompts: list[Prompt], own_prompt: bool, model: str | None) -> str:
    """The name of the engine that answers `prompts`; `name` may be "auto".

    Raises UsageError where the named engine can't do them, EngineError where none here can.
    """
    if name != "auto" and name not in ENGINES:
        raise OptionError("--engine", name, f"is not an engine; there are auto, {', '.join(ENGINES)}")
    asked = {(prompt.type, prompt.style) for prompt in prompts}
    if name == "auto":
        if not own_prompt and _reads(ENGINES["rapidocr"], asked) and not _is_language_model(model):
            return "rapidocr"
        raise _no_model_here(asked, own_prompt=own_prompt, model=model)
    if not ENGINES[name].here:
        raise EngineError(f"--engine {name} is not in this version of omnicap", hint=_WHAT_IS_HERE)
    if own_prompt and ENGINES[name].reads is not None:
        raise UsageError(f"--prompt and --system need a model that follows prompts; {name} only reads text")
    if not _reads(ENGINES[name], asked):
        raise UsageError(f"{name} can't do {_listed(asked - (ENGINES[name].reads or set()))}", hint=_WHAT_IS_HERE)
    return name


def create_engine(name: str, options: EngineOptions) -> Engine:
    """The engine called `name`, its model not loaded yet. Raises MissingExtraError, EngineError or OptionError."""
    try:
        module = importlib.import_module(ENGINES[name].module)
    except ModuleNotFoundError as error:
        extra = ENGINES[name].extra
        wanted = f"omnicap[{extra}]" if extra else "omnicap"
        raise MissingExtraError(
            f"--engine {name} needs the package {error.name}", hint=f"Install it: pip install '{wanted}'"
        ) from error
    engine: Engine = module.create(options)
    return engine


def _reads(spec: EngineSpec, asked: set[tuple[str, str]]) -> bool:
    return spec.reads is None or asked <= spec.reads


def _is_language_model(model: str | None) -> bool:
    """Whether --model names a vision-language model: a folder with a configuration, or a hub id as OWNER/NAME."""
    if model is None or Path(model).is_dir():
        return model is not None and (Path(model) / "config.json").exists()
    return model.count("/") == 1 and not model.startswith((".", "~")) and not Path(model).parent.is_dir()


def _no_model_here(asked: set[tuple[str, str]], *, own_prompt: bool, model: str | None) -> EngineError:
    what = f"--model {model}" if model else "--prompt" if own_prompt else _listed(asked)
    return EngineError(
        f"nothing here can do {what}: that takes a vision-language model", hint=_WHAT_IS_HERE + _WHAT_IS_NEEDED
    )


def _listed(pairs: set[tuple[str, str]]) -> str:
    return ", ".join(f"--type {kind} --style {style}" for kind, style in sorted(pairs))
