"""Models through transformers: what `--model` names, on GPUs or the CPU, in one process or several.

This side knows which model it is and loads it once there is work; `scheduler` brings the work through it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from omnicap_cli.core.files.words import gigabytes
from omnicap_cli.core.models.devices import Placement, plan_replicas
from omnicap_cli.core.models.loading import check_architecture
from omnicap_cli.core.models.machine import Machine, num_cores, read_machine
from omnicap_cli.core.models.memory import budget_bytes
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.core.runs.engine import Engine, Forecast
from omnicap_cli.core.runs.records import EngineIdentity, Idle, Request, Result
from omnicap_cli.core.workers.child import Child, ChildDiedError
from omnicap_cli.engines.huggingface.replicas import Replicas
from omnicap_cli.engines.registry import DEFAULT_MODEL, EngineOptions
from omnicap_cli.errors import EngineError, OptionError

if TYPE_CHECKING:
    from omnicap_cli.core.batching.planner import Planner
    from omnicap_cli.engines.huggingface.captioner import Captioner
    from omnicap_cli.engines.huggingface.forecast import Requests

    Loaded = tuple[Captioner, Callable[[], Planner[Requests]]]

_POLL_SECONDS: Final = 0.2
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
CPU_ROWS: Final = 128  # of a batch on the CPU, unless told otherwise: with more it does no more in a second


class HuggingFaceEngine(Engine):
    """See `Engine`. One model in this process, on one device or spread over several GPUs where one is too small."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        name = DEFAULT_MODEL if options.model is None else options.model
        self._files = ModelFiles.find(name, options.revision, takes_text=options.takes_text)
        self._machine = self._read_machine()
        given = options.devices
        if given.gpus is not None and not self._machine.gpus:
            hint = "Leave it out, or see `omnicap doctor`."
            raise OptionError("--gpus", given.gpus, "needs GPUs, and torch finds none", hint=hint)
        self._placement = Placement.choose(
            device="cuda" if given.gpus is not None else given.device,
            dtype=given.dtype,
            attn=given.attn,
            quantize=given.quantize,
            machine=self._machine,
        )
        self._sees = check_architecture(self._files)
        self._loading: Future[Loaded] | None = None
        self.identity = EngineIdentity(
            engine="huggingface",
            model=self._files.name,
            revision=self._files.revision,
            fingerprint=self._files.fingerprint,
            settings=self._placement.as_settings() | options.generation.as_settings(),
        )

    def run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        requests = iter(requests)
        first = next((each for each in requests if isinstance(each, Request)), None)
        if first is not None:
            yield from self._run(chain([first], requests), stop)

    def warm_up(self) -> None:
        if self._loading is None:
            self._loading = Future()
            threading.Thread(target=self._load, args=(self._loading,), name="load", daemon=True).start()

    def close(self) -> None:
        self._loading = None

    def kill(self) -> None:
        """Nothing is outside of this process, which is about to end."""

    def _read_machine(self) -> Machine:
        return read_machine()

    def _run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        from omnicap_cli.engines.huggingface.scheduler import BatchRun

        self.warm_up()
        assert self._loading is not None
        while not self._loading.done():
            if stop.wait(_POLL_SECONDS):
                return
        captioner, make_planner = self._loading.result()
        num_threads = max(1, num_cores() // self._options.num_sharing)
        yield from BatchRun(captioner, make_planner(), requests, stop, num_threads=num_threads).results()

    def _load(self, loading: Future[Loaded]) -> None:
        try:
            from omnicap_cli.core.models.loading import load_for_generation
            from omnicap_cli.engines.huggingface.captioner import Captioner

            files = self._fetch_files()
            loaded = load_for_generation(files, self._placement, gpus=self._gpus(files))
            if loaded.unused_weights:
                num, first = len(loaded.unused_weights), loaded.unused_weights[0]
                self.say(f"{files.name} has {num} weights that its config.json has no place for, as {first}")
            budget = min(map(budget_bytes, loaded.devices))  # a layer's own needs are all on one device
            make_planner = partial(self._planner, loaded.model.config, loaded.attn, budget)
            loading.set_result((Captioner(loaded, self._options.generation), make_planner))
        except BaseException as error:  # noqa: BLE001  raised where the model is wanted
            loading.set_exception(error)

    def _fetch_files(self) -> ModelFiles:
        """The model's files, all of them here."""
        return self._files.fetch(lambda size: self.say(f"fetching {self._files.name}: {gigabytes(size)}, once"))

    def _gpus(self, files: ModelFiles) -> tuple[int, ...] | None:
        """The GPUs that it takes, where the choice was left to us."""
        if self._placement.device != "cuda":
            return None
        assert files.weights is not None
        free_bytes = [gpu.free_bytes for gpu in self._machine.gpus]
        return plan_replicas(files.weights.loaded_bytes(self._placement), free_bytes, None)[0]

    def forecast(self) -> Forecast | None:
        """As the memory is now. None for a model that is still on the hub."""
        if self._files.weights is None:
            return None

        from transformers import AutoConfig

        from omnicap_cli.core.models.loading import load_processor
        from omnicap_cli.core.tokens.visual_chat import chat_of
        from omnicap_cli.engines.huggingface.forecast import BatchForecast

        devices = [f"cuda:{index}" for index in self._gpus(self._files) or ()] or [self._placement.device]
        weights_bytes = self._files.weights.loaded_bytes(self._placement)
        config = AutoConfig.from_pretrained(self._files.folder, local_files_only=True)
        budget = min(map(budget_bytes, devices)) - weights_bytes // len(devices)
        planner = self._planner(config, self._placement.attn, budget)
        return BatchForecast(chat_of(load_processor(self._files.folder, sees=self._sees)), planner)

    def _planner(self, config: Any, attention: str, budget_bytes: int) -> Planner[Requests]:
        from omnicap_cli.core.batching.footprint import ModelShape
        from omnicap_cli.core.batching.planner import Planner

        element_bytes = 4 if self._placement.dtype == "float32" else 2
        return Planner(
            ModelShape.from_config(config.to_dict(), element_bytes=element_bytes, attention=attention),
            budget_bytes=budget_bytes // self._options.num_sharing,
            max_new_tokens=self._options.generation.max_new_tokens,
            max_rows=self._options.batch_size or (CPU_ROWS if self._placement.kind == "cpu" else None),
        )


class ReplicatedEngine(HuggingFaceEngine):
    """See `Engine`. The same model in several processes: one for each GPU, or for each part of the cores."""

    _replicas: Replicas | None = None

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        if options.devices.gpus is None and self._placement.kind != "cpu":
            problem = f"is for the CPU, and the model runs on {self._placement.device}"
            raise OptionError(
                "--workers", options.workers, problem, hint="Leave it out; --gpus N shares the work of GPUs."
            )

    def warm_up(self) -> None:
        if self._replicas is None:
            files = self._fetch_files()  # once, not by every process
            one = replace(self._options.devices, gpus=None, dtype=self._placement.dtype)  # whatever each GPU could do
            environments = self._environments(files)
            options = replace(
                self._options,
                model=str(files.folder),
                revision=None,
                devices=one,
                workers=None,
                num_sharing=len(environments) if self._placement.kind == "cpu" else 1,
            )
            self._replicas = Replicas(options, environments)

    def close(self) -> None:
        if self._replicas:
            self._replicas.close()

    def kill(self) -> None:
        if self._replicas:
            self._replicas.kill()

    def _run(self, requests: Iterable[Request | Idle], stop: threading.Event) -> Iterator[Result]:
        self.warm_up()
        assert self._replicas is not None
        yield from self._replicas.run(requests, stop)

    def _read_machine(self) -> Machine:
        """By way of a process of its own: whoever looks at a GPU keeps some of its memory."""
        child = Child("omnicap_cli.core.models.machine:send_machine")
        try:
            machine: Machine | EngineError = child.receive()
        except ChildDiedError as death:
            raise EngineError(f"the process that looks for GPUs died ({death})") from death
        if isinstance(machine, EngineError):
            raise machine
        return machine

    def _environments(self, files: ModelFiles) -> list[dict[str, str]]:
        """The variables that show each process its share of the machine."""
        if self._placement.kind == "cuda":
            assert files.weights is not None
            needed, gpus = files.weights.loaded_bytes(self._placement), self._machine.gpus
            groups = plan_replicas(needed, [gpu.free_bytes for gpu in gpus], self._options.devices.gpus)
            return [{_VISIBLE: ",".join(map(_name_to_cuda, group))} for group in groups]
        num_processes = self._options.workers or 1
        return [{"OMP_NUM_THREADS": str(max(1, num_cores() // num_processes))}] * num_processes


def create(options: EngineOptions) -> Engine:
    """The engine, not loaded. Raises EngineError for a model that can't be used, OptionError for a device."""
    is_one = options.devices.gpus is None and options.workers in (None, 1)
    return HuggingFaceEngine(options) if is_one else ReplicatedEngine(options)


def _name_to_cuda(index: int) -> str:
    """What CUDA calls the GPU that torch has at `index`, of those that this process may see."""
    visible = os.environ.get(_VISIBLE)
    return visible.split(",")[index].strip() if visible else str(index)
