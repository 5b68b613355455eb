"""An engine without a model: what it says follows from the request, what it does from the variable FAKE_ENGINE.

A caption names the item, the prompt, the settings and a hash of the file, so that a caption in the wrong place shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omnicap_cli.core.runs.engine import Engine
from omnicap_cli.core.runs.records import EngineIdentity, Idle, Request, Result
from omnicap_cli.engines.registry import EngineOptions
from omnicap_cli.errors import EngineError, InferenceError, ItemError
from omnicap_cli.media.open_media import open_media

VARIABLE = "FAKE_ENGINE"
LOG_LINE_BYTES = 65  # a key in hex and a line feed
OUTPUT_TOKENS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeConfig:
    """How the engine behaves. `fail` are parts of item ids; `log` gets the key of every request that was begun.

    `seconds` pass for each batch; `error_after` and `die_after` count results; `fingerprint` is that of the model.
    """

    fingerprint: str = "weights-1"
    seconds: float = 0.0
    batch_size: int = 1
    order: Literal["given", "reversed", "shuffled"] = "given"
    fail: list[str] = field(default_factory=list)
    log: str | None = None
    load_error: str | None = None
    error_after: int | None = None
    die_after: int | None = None

    @classmethod
    def from_environment(cls) -> FakeConfig:
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))


class FakeEngine(Engine):
    """See `Engine`. Everything happens in the thread that iterates over `run`."""

    def __init__(self, config: FakeConfig, model: str = "fake-model") -> None:
        self._config = config
        self._num_results = 0
        self._random = random.Random(model)
        self.identity = EngineIdentity(engine="fake", model=model, revision=None, fingerprint=config.fingerprint)

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        batch: list[Request] = []
        for request in requests:
            self._load()
            if isinstance(request, Request):
                batch.append(request)
            if len(batch) == self._config.batch_size or (isinstance(request, Idle) and batch):
                yield from self._answer(batch)
                batch = []
        if batch and not stop.is_set():
            yield from self._answer(batch)

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...

    def _load(self) -> None:
        if self._config.load_error:
            raise EngineError(self._config.load_error)

    def _answer(self, batch: list[Request]) -> Iterator[Result]:
        for request in batch:
            self._log(request)
        time.sleep(self._config.seconds)
        for result in self._arranged([self._result(request) for request in batch]):
            if self._num_results == self._config.error_after:
                raise EngineError("the fake device is gone")
            if self._num_results == self._config.die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            self._num_results += 1
            yield result

    def _arranged(self, results: list[Result]) -> list[Result]:
        if self._config.order == "shuffled":
            self._random.shuffle(results)
        return results[::-1] if self._config.order == "reversed" else results

    def _result(self, request: Request) -> Result:
        item = request.item
        if item.error:
            return Result.failed(request, item.error)
        if any(part in item.id for part in self._config.fail):
            return Result.failed(request, InferenceError("told to fail"))
        try:
            with open_media(item.visuals[0], request.settings.transfer) as file:
                content = file.read()
        except ItemError as error:
            return Result.failed(request, error)
        text = caption_of(item.id, request.prompt.sha, request.settings.of(item.visuals), content)
        return Result(key=request.key, text=text, finish_reason="stop", output_tokens=OUTPUT_TOKENS)

    def _log(self, request: Request) -> None:
        if self._config.log:
            with open(self._config.log, "ab", buffering=0) as log:
                log.write(request.key.encode() + b"\n")


def caption_of(item_id: str, prompt_sha: str, settings: Mapping[str, Any], content: bytes) -> str:
    """The one right caption of an item."""
    return f"{item_id} | {prompt_sha} | {json.dumps(settings)} | {hashlib.sha256(content).hexdigest()}"


def create(options: EngineOptions) -> Engine:
    """What `omnicap_cli.engines.registry` calls for `--engine fake`."""
    return FakeEngine(FakeConfig.from_environment(), options.model or "fake-model")
