"""How much memory a device has left, and what an error looks like when it has none. It plans nothing."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Of what is free, the part to plan for.
_SHARES: Final = {
    "cuda": 0.9,  # the allocator's fragments and the workspaces of cuBLAS take the rest; too much is a plain error
    "mps": 0.8,  # the memory is the system's too
    "cpu": 0.6,  # too much isn't an error but the end: Linux kills, or everything swaps
}
# Of cgroups v2 and v1, by the controllers that /proc/self/cgroup names: their folder, the limit, the usage, and which
# line of memory.stat says how much of that is cached files, which give way.
_CGROUP_FILES: Final = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_OUT_OF_MEMORY: Final = (
    "out of memory",  # CUDA, ROCm and MPS
    "can't allocate memory",  # torch's allocator of the CPU on Linux
    "not enough memory",  # and elsewhere
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Invalid buffer size",  # MPS, of one tensor that is larger than any buffer may be
)


def free_bytes(device: str) -> int:
    """What a new tensor could take on `device` (cpu, mps, cuda or cuda:N), without a margin."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return cpu_free_bytes()
    import torch

    if kind == "mps":
        return max(0, int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()))
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def budget_bytes(device: str) -> int:
    """What to plan for on `device` now: free memory with a margin."""
    return int(free_bytes(device) * _SHARES[device.partition(":")[0]])


def release_memory(device: str) -> None:
    """Give back what nobody uses. After an error, call it outside of the `except`: its traceback holds tensors."""
    gc.collect()
    kind = device.partition(":")[0]
    if kind != "cpu":
        import torch

        (torch.cuda if kind == "cuda" else torch.mps).empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or the machine, had too little memory."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # without torch no error can be torch's
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and mentions_memory(str(error))


def mentions_memory(text: str) -> bool:
    """Whether a library's message is one of too little memory."""
    return any(words in text for words in _OUT_OF_MEMORY)


def cpu_free_bytes(root: Path = Path("/")) -> int:
    """The machine's available memory, or what the limits of our cgroups leave of it. `root` is where /proc is."""
    available = _available_bytes(root / "proc/meminfo")
    return min([available, *_cgroup_rooms(root)])


def _available_bytes(meminfo: Path) -> int:
    with contextlib.suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # not Linux: macOS tells only what there is, not what is free of it
    num_pages = os.sysconf("SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES")
    return num_pages * os.sysconf("SC_PAGE_SIZE")


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """What each limit over this process leaves, in bytes."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in _CGROUP_FILES:
            continue
        folder, *files = _CGROUP_FILES[controllers]
        base = root / "sys/fs/cgroup" / folder
        group = base / path.lstrip("/")
        for place in (group, *group.parents):
            if not place.is_relative_to(base):
                break
            yield from _cgroup_room(place, *files)


def _cgroup_room(place: Path, limit_name: str, usage_name: str, droppable: str) -> Iterator[int]:
    try:
        limit, usage = int((place / limit_name).read_text()), int((place / usage_name).read_text())
        stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # not there, seen from a container; or "max": no limit
        return
    yield max(0, limit - usage + int(stat.get(droppable, 0)))
