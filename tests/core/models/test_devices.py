"""Where a model would run, on machines that are only described; and what this one, and simulated GPUs, have free."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.core.files.words import gigabytes
from omnicap_cli.core.models.devices import WORKSPACE_BYTES, Placement, plan_replicas
from omnicap_cli.core.models.machine import Gpu, Machine, read_machine
from omnicap_cli.core.models.memory import (
    budget_bytes,
    cpu_free_bytes,
    free_bytes,
    is_out_of_memory,
    release_memory,
)
from omnicap_cli.errors import EngineError, MissingExtraError, OptionError

GB = 1_000_000_000
A100 = Gpu("NVIDIA A100", (8, 0), 80 * GB)
H100 = Gpu("NVIDIA H100", (9, 0), 80 * GB)
T4 = Gpu("Tesla T4", (7, 5), 15 * GB)
CPU_ONLY = Machine(torch_version="2.9.0+cpu")
MAC = Machine(torch_version="2.9.0", has_mps=True, mps_has_bfloat16=True)
OLD_MAC = Machine(torch_version="2.9.0", has_mps=True)


def with_gpus(*gpus: Gpu, **more: object) -> Machine:
    return Machine(torch_version="2.9.0+cu128", built_for="CUDA 12.8", gpus=gpus, **more)


# ---------------------------------------------------------------------------------------------- one placement


@pytest.mark.parametrize(
    ("machine", "options", "expected"),
    [
        (CPU_ONLY, {}, ("cpu", "float32", "sdpa")),
        (CPU_ONLY, {"dtype": "bfloat16"}, ("cpu", "bfloat16", "sdpa")),
        (CPU_ONLY, {"attn": "eager"}, ("cpu", "float32", "eager")),
        (MAC, {}, ("mps", "bfloat16", "sdpa")),
        (OLD_MAC, {}, ("mps", "float16", "sdpa")),
        (MAC, {"device": "cpu"}, ("cpu", "float32", "sdpa")),
        (with_gpus(A100), {}, ("cuda", "bfloat16", "sdpa")),
        (with_gpus(A100, has_flash_attn=True), {}, ("cuda", "bfloat16", "flash_attention_2")),
        (with_gpus(H100, has_flash_attn=True), {"dtype": "float16"}, ("cuda", "float16", "flash_attention_2")),
        (with_gpus(A100, has_flash_attn=True), {"dtype": "float32"}, ("cuda", "float32", "sdpa")),
        (with_gpus(A100, has_flash_attn=True), {"attn": "sdpa"}, ("cuda", "bfloat16", "sdpa")),
        (with_gpus(A100, has_flash_attn=True), {"device": "cpu"}, ("cpu", "float32", "sdpa")),
        (with_gpus(T4, has_flash_attn=True), {}, ("cuda", "float16", "sdpa")),
        # any of the GPUs may be taken, so what all of them have decides, unless one is named
        (with_gpus(A100, T4, has_flash_attn=True), {}, ("cuda", "float16", "sdpa")),
        (with_gpus(A100, T4), {"device": "cuda:0"}, ("cuda:0", "bfloat16", "sdpa")),
        (with_gpus(A100, T4), {"device": "cuda:01"}, ("cuda:1", "float16", "sdpa")),
    ],
)
def test_what_is_chosen(machine, options, expected):
    placement = Placement.choose(machine=machine, **options)
    assert (placement.device, placement.dtype, placement.attn) == expected
    assert placement.attn_is_asked == ("attn" in options)
    assert placement.kind == expected[0].split(":")[0]


@pytest.mark.parametrize(
    ("machine", "options", "option", "words"),
    [
        (CPU_ONLY, {"device": "tpu"}, "--device", ["'tpu'", "auto, cpu, cuda, cuda:N", "mps"]),
        (CPU_ONLY, {"device": "cuda:"}, "--device", ["'cuda:'"]),
        (CPU_ONLY, {"device": "cuda:-1"}, "--device", ["'cuda:-1'"]),
        (CPU_ONLY, {"device": "1"}, "--device", ["'1'"]),
        (CPU_ONLY, {"dtype": "fp8"}, "--dtype", ["'fp8'", "auto, float32, bfloat16, float16"]),
        (CPU_ONLY, {"attn": "flash"}, "--attn", ["'flash'", "auto, sdpa, flash_attention_2, eager"]),
        (CPU_ONLY, {"quantize": "2bit"}, "--quantize", ["'2bit'", "4bit, 8bit"]),
        (CPU_ONLY, {"device": "cuda"}, "--device", ["'cuda'", "2.9.0+cpu", "the CPU only", "pytorch.org"]),
        (with_gpus(), {"device": "cuda:0"}, "--device", ["'cuda:0'", "CUDA 12.8", "finds no GPU", "nvidia-smi"]),
        (with_gpus(gpu_problem="driver too old"), {"device": "cuda"}, "--device", ["(driver too old)"]),
        (
            with_gpus(A100, T4),
            {"device": "cuda:2"},
            "--device",
            ["'cuda:2'", "cuda:0 (NVIDIA A100), cuda:1 (Tesla T4)"],
        ),
        (with_gpus(A100), {"device": "mps"}, "--device", ["'mps'", "Apple"]),
        (with_gpus(T4), {"dtype": "bfloat16"}, "--dtype", ["'bfloat16'", "8.0", "Tesla T4 has 7.5", "float16"]),
        (OLD_MAC, {"dtype": "bfloat16"}, "--dtype", ["macOS 14", "float16"]),
        (CPU_ONLY, {"attn": "flash_attention_2"}, "--attn", ["CUDA GPU", "sdpa"]),
        (with_gpus(T4, has_flash_attn=True), {"attn": "flash_attention_2"}, "--attn", ["Tesla T4 has 7.5"]),
        (
            with_gpus(A100, has_flash_attn=True),
            {"attn": "flash_attention_2", "dtype": "float32"},
            "--attn",
            ["float32", "--dtype bfloat16"],
        ),
        (with_gpus(A100), {"attn": "flash_attention_2"}, "--attn", ["flash-attn", "pip install 'omnicap[flash]'"]),
        (CPU_ONLY, {"quantize": "4bit"}, "--quantize", ["'4bit'", "CUDA GPU", "run on cpu"]),
        (MAC, {"quantize": "8bit"}, "--quantize", ["run on mps"]),
        (
            with_gpus(A100, has_bitsandbytes=True),
            {"quantize": "4bit", "device": "cpu"},
            "--quantize",
            ["run on cpu"],
        ),
        (with_gpus(A100), {"quantize": "4bit"}, "--quantize", ["bitsandbytes", "pip install bitsandbytes"]),
    ],
)
def test_what_is_refused(machine, options, option, words):
    with pytest.raises(OptionError) as caught:
        Placement.choose(machine=machine, **options)
    assert caught.value.option == option
    said = f"{caught.value.message} {caught.value.hint}"
    assert [word for word in words if word not in said] == []


def test_quantising():
    placement = Placement.choose(quantize="4bit", machine=with_gpus(A100, has_bitsandbytes=True))
    assert placement.quantize == "4bit"
    assert placement.as_settings() == {"dtype": "bfloat16", "quantize": "4bit"}


def test_what_goes_into_a_key():
    assert Placement.choose(machine=CPU_ONLY).as_settings() == {"dtype": "float32"}


# ---------------------------------------------------------------------------------------------- copies of a model


@pytest.mark.parametrize(
    ("weights", "free", "asked", "expected"),
    [
        (17, [80], None, [(0,)]),
        (17, [20, 80, 80], None, [(1,)]),  # the one with the most room, and of two the first
        (17, [80, 80], 1, [(0,)]),
        (17, [80, 24, 80], 2, [(0,), (2,)]),
        (17, [80, 80, 80], "all", [(0,), (1,), (2,)]),
        (17, [80, 10, 80], "all", [(0,), (2,)]),  # nothing fits on the rest
        (6, [7.5], None, [(0,)]),  # 1.5 GB to work in
        (30, [24, 24, 24], None, [(0, 1)]),
        (30, [24, 24, 24, 24], "all", [(0, 1), (2, 3)]),
        (30, [24, 24, 24, 24], 2, [(0, 1)]),
        (30, [80, 24, 24], "all", [(0,), (1, 2)]),
        (90, [80, 80, 25, 25], "all", [(0, 2), (1, 3)]),  # large ones each with a small one
        (140, [80, 80], None, [(0, 1)]),  # 140 * 1.1 = 154 of 157
        (60, [24, 24, 24, 24], None, [(0, 1, 2)]),
    ],
)
def test_which_gpus_each_copy_gets(weights, free, asked, expected):
    assert plan_replicas(weights * GB, [int(each * GB) for each in free], asked) == expected


def test_more_gpus_than_there_are():
    with pytest.raises(OptionError, match=r"--gpus: 3 is more than there are: torch sees 2"):
        plan_replicas(GB, [80 * GB, 80 * GB], 3)


@pytest.mark.parametrize(
    ("weights", "free", "asked", "words"),
    [
        (6.1, [7.5], None, ["takes 6.1 GB", "1.5 GB", "free on the GPU: 7.5 GB", "--quantize 4bit", "--device cpu"]),
        (145, [80, 80], "all", ["takes 145.0 GB", "free on the 2 GPUs: 80.0 GB, 80.0 GB"]),
        (30, [24, 24], 1, ["free on the GPU: 24.0 GB", "--gpus all"]),
        (1, [0, 0], None, ["0.0 MB, 0.0 MB"]),
    ],
)
def test_a_model_that_fits_nowhere(weights, free, asked, words):
    with pytest.raises(EngineError) as caught:
        plan_replicas(int(weights * GB), [int(each * GB) for each in free], asked)
    said = f"{caught.value.message} {caught.value.hint}"
    assert [word for word in words if word not in said] == []


@given(
    st.integers(1, 300), st.lists(st.integers(0, 141), min_size=1, max_size=8), st.sampled_from([None, "all", 1, 2, 3])
)
def test_copies_fit_and_share_nothing(weights, free, asked):
    if isinstance(asked, int):
        asked = min(asked, len(free))
    try:
        replicas = plan_replicas(weights * GB, [each * GB for each in free], asked)
    except EngineError:
        assert max(free) * GB < weights * GB + WORKSPACE_BYTES  # nowhere would it have fitted alone
        return
    used = [index for group in replicas for index in group]
    assert len(used) == len(set(used))
    assert len(used) <= (asked if isinstance(asked, int) else len(free))
    assert asked is not None or len(replicas) == 1
    for group in replicas:
        assert sum(free[index] * GB - WORKSPACE_BYTES for index in group) >= weights * GB
        smaller = sorted((free[index] * GB - WORKSPACE_BYTES for index in group), reverse=True)[:-1]
        assert sum(smaller) < weights * GB * 1.1  # one less wouldn't do


# ---------------------------------------------------------------------------------------------- reading a machine


class SimulatedCuda:
    """Stands in for torch's functions on a machine with two GPUs, the second one full."""

    names = ("NVIDIA A100", "Tesla T4")
    capabilities = ((8, 0), (7, 5))

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", self.names.__getitem__)
        monkeypatch.setattr(torch.cuda, "get_device_capability", self.capabilities.__getitem__)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self.mem_get_info)

    @staticmethod
    def mem_get_info(index):
        if index == 1:
            raise torch.OutOfMemoryError("CUDA error: out of memory")
        return 70 * GB, 80 * GB


def test_a_machine_with_gpus_is_read(monkeypatch):
    SimulatedCuda(monkeypatch)
    machine = read_machine()
    assert machine.gpus == (Gpu("NVIDIA A100", (8, 0), 70 * GB), Gpu("Tesla T4", (7, 5), 0))
    assert machine.gpu_problem is None


def test_what_torch_complains_of_is_kept(monkeypatch, recwarn):
    def complain():
        warnings.warn("CUDA initialization: the driver is too old\n(found 11040)", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", complain)
    machine = read_machine()
    assert (machine.gpus, machine.gpu_problem) == ((), "CUDA initialization: the driver is too old")
    assert len(recwarn) == 0  # and not shown besides


def test_this_machine_is_read_and_chosen_for():
    machine = read_machine()
    assert machine.torch_version == torch.__version__
    placement = Placement.choose(device="cpu")
    assert (placement.device, placement.dtype) == ("cpu", "float32")


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="torch") as caught:
        read_machine()
    assert "pip install 'omnicap[torch]'" in caught.value.hint


# ---------------------------------------------------------------------------------------------- memory


def machine_files(
    root: Path, *, available_kib: int | None = None, cgroup: str = "", files: dict[str, str] | None = None
) -> Path:
    """A /proc and a /sys as the kernel shows them."""
    contents = {"proc/self/cgroup": cgroup, **(files or {})}
    if available_kib is not None:
        contents["proc/meminfo"] = f"MemTotal:  99999 kB\nMemFree:  5 kB\nMemAvailable:  {available_kib} kB\n"
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_memory_without_limits(tmp_path):
    root = machine_files(tmp_path, available_kib=1000, cgroup="0::/\n")
    assert cpu_free_bytes(root) == 1_024_000


def test_memory_under_a_limit(tmp_path):
    """Of a job inside a slice that is limited too; the caches of files would give way."""
    files = {
        "sys/fs/cgroup/slice/memory.max": "600000\n",
        "sys/fs/cgroup/slice/memory.current": "500000\n",
        "sys/fs/cgroup/slice/memory.stat": "anon 1\ninactive_file 20000\n",
        "sys/fs/cgroup/slice/job/memory.max": "max\n",
        "sys/fs/cgroup/slice/job/memory.current": "400000\n",
        "sys/fs/cgroup/slice/job/memory.stat": "inactive_file 5\n",
    }
    root = machine_files(tmp_path, available_kib=1000, cgroup="0::/slice/job\n", files=files)
    assert cpu_free_bytes(root) == 600_000 - 500_000 + 20_000


def test_memory_of_a_container_that_sees_its_own_group_as_the_root(tmp_path):
    files = {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "300000\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "290000\n",
        "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
    }
    cgroup = "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/docker/ab\n"
    root = machine_files(tmp_path, available_kib=1000, cgroup=cgroup, files=files)
    assert cpu_free_bytes(root) == 11_000


def test_memory_that_is_used_up(tmp_path):
    files = {
        "sys/fs/cgroup/memory.max": "100\n",
        "sys/fs/cgroup/memory.current": "105\n",
        "sys/fs/cgroup/memory.stat": "",
    }
    assert cpu_free_bytes(machine_files(tmp_path, available_kib=9, cgroup="0::/\n", files=files)) == 0


def test_memory_elsewhere_than_on_linux(tmp_path):
    free = cpu_free_bytes(tmp_path)
    assert 0 < free < 1 << 50


def test_memory_of_this_machine():
    free = free_bytes("cpu")
    assert 0 < free < 1 << 50
    assert 0 < budget_bytes("cpu") < free_bytes("cpu")


def test_memory_of_a_gpu_counts_what_torch_holds_without_using_it(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (10 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GB)
    assert free_bytes("cuda:3") == 13 * GB
    assert asked == ["cuda:3"]
    assert budget_bytes("cuda:3") == 11_700_000_000


def test_memory_of_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 20 * GB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 6 * GB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 5 * GB)
    assert free_bytes("mps") == 15 * GB
    assert budget_bytes("mps") == 12 * GB


def test_memory_is_given_back(monkeypatch):
    called = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: called.append("mps"))
    for device in ("cpu", "cuda:1", "mps"):
        release_memory(device)
    assert called == ["cuda", "mps"]


def test_a_real_lack_of_memory_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.94 GB)"), True),
        (RuntimeError("Invalid buffer size: 12.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_are_a_lack_of_memory(error, expected):
    assert is_out_of_memory(error) == expected


def test_sizes_are_said_as_people_say_them():
    assert [gigabytes(n) for n in (16_582_000_000, 1_000_000_000, 999_000_000, 12_345)] == [
        *("16.6 GB", "1.0 GB", "999.0 MB", "0.0 MB")
    ]
