"""What this machine has to run a model on, as torch finds it. It decides nothing, and loads torch only when asked."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omnicap_cli.core.workers.child import private_pipes
from omnicap_cli.errors import EngineError, MissingExtraError


class Gpu(NamedTuple):
    """A CUDA or ROCm device. `capability` is its compute capability."""

    name: str
    capability: tuple[int, int]
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to run on.

    `built_for` says what this torch was built for ("CUDA 12.8", or None: the CPU only), `gpu_problem` why it can't use
    a GPU, in its own words, if it said so. `has_flash_attn` and `has_bitsandbytes` tell whether the packages are there.
    """

    torch_version: str
    built_for: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_problem: str | None = None
    has_mps: bool = False
    mps_has_bfloat16: bool = False
    has_flash_attn: bool = False
    has_bitsandbytes: bool = False


def read_machine() -> Machine:
    """What torch finds here. Raises MissingExtraError without torch.

    Asking a GPU for its memory takes some of it (a CUDA context, a few hundred MB) until the process ends, and what is
    forked after that can't use GPUs: processes that shall use one have to be started afresh.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_extra("torch") from error
    except OSError as error:  # a library that it was built for is not there
        raise EngineError(f"torch can't be loaded: {error}", hint="Install it again: pip install -U torch") from error
    gpus, problem = _read_gpus(torch)
    has_mps = torch.backends.mps.is_available()
    return Machine(
        torch_version=torch.__version__,
        built_for=_built_for(torch),
        gpus=gpus,
        gpu_problem=problem,
        has_mps=has_mps,
        mps_has_bfloat16=has_mps and bool(torch.backends.mps.is_macos_or_newer(14, 0)),
        has_flash_attn=bool(gpus) and _can_import("flash_attn"),
        has_bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
    )


def num_cores() -> int:
    """The cores that this process may use, by its affinity and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max": no quota
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
        cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def send_machine() -> None:
    """In a process of its own: tell the one that started it what `read_machine` says."""
    _, send = private_pipes()
    try:
        send(read_machine())
    except EngineError as error:
        send(error)


def missing_extra(package: str) -> MissingExtraError:
    """What the user is told where `package`, one of those that run local models, is not installed."""
    return MissingExtraError(
        f"running a model here needs the package {package}", hint="Install it: pip install 'omnicap[torch]'"
    )


def _read_gpus(torch: Any) -> tuple[tuple[Gpu, ...], str | None]:
    """The GPUs, and what torch complains of while it looks for them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(_read_gpu(torch, index) for index in range(num_gpus))
    complaints = [str(warning.message).strip().split("\n")[0] for warning in caught]
    return gpus, complaints[0] if complaints else None


def _read_gpu(torch: Any, index: int) -> Gpu:
    free_bytes = 0
    with contextlib.suppress(RuntimeError):  # full to the last byte, or reserved for another process
        free_bytes = torch.cuda.mem_get_info(index)[0]
    major, minor = torch.cuda.get_device_capability(index)
    return Gpu(torch.cuda.get_device_name(index), (major, minor), free_bytes)


def _built_for(torch: Any) -> str | None:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {torch.version.hip}" if torch.version.hip else None


def _can_import(package: str) -> bool:
    """Whether a compiled package really loads: one that was built for another torch is there, and fails then."""
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        importlib.import_module(package)
        return True
    return False
