"""Where a model runs, in which numbers and with which attention: decided, and refused, before anything is loaded.

Everything is decided from a description of the machine, and of a model only its size is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from omnicap_cli.core.files.words import gigabytes
from omnicap_cli.core.models.machine import Gpu, Machine, read_machine
from omnicap_cli.errors import EngineError, OptionError

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "flash_attention_2", "eager"]
Quantization = Literal["4bit", "8bit"]

# What a GPU needs beside the weights: a prompt of 6,400 image tokens to a model of 7B parameters takes about 0.5 GB of
# cache, and 0.9 GB while it is read.
WORKSPACE_BYTES: Final = 1_500_000_000
_MODERN: Final = (8, 0)  # the compute capability from which GPUs have bfloat16, and flash-attn supports them
_UNEVEN: Final = 1.1  # a model is cut between its layers, so that the parts aren't equally large
_LEAVE_OUT_ATTN: Final = "Pass --attn sdpa, or leave it out."
_LEAVE_OUT_DTYPE: Final = "Pass --dtype float16, or leave it out."


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The decision. `device` is cpu, mps, cuda:N, or cuda: any of the GPUs, as `plan_replicas` deals them out.

    Where nobody asked for `attn`, a model that doesn't have it may use what it has.
    """

    device: str
    dtype: Dtype
    attn: Attention
    attn_is_asked: bool = False
    quantize: Quantization | None = None

    @classmethod
    def choose(
        cls,
        *,
        device: str = "auto",
        dtype: str = "auto",
        attn: str = "auto",
        quantize: str | None = None,
        machine: Machine | None = None,
    ) -> Placement:
        """What the options of these names come to on `machine`, by default this one.

        Raises OptionError, which names the option, for what doesn't exist or isn't there; MissingExtraError without
        torch.
        """
        _check_choice("--dtype", dtype, ("auto", *get_args(Dtype)))
        _check_choice("--attn", attn, ("auto", *get_args(Attention)))
        _check_choice("--quantize", quantize, (None, *get_args(Quantization)))
        _check_device_name(device)
        machine = machine or read_machine()
        chosen = _choose_device(device, machine)
        gpus = _gpus_of(chosen, machine)
        chosen_dtype = _choose_dtype(dtype, chosen, gpus, machine)
        if quantize is not None:
            _check_quantize(quantize, chosen, machine)
        return cls(
            device=chosen,
            dtype=chosen_dtype,
            attn=_choose_attention(attn, gpus, chosen_dtype, machine),
            attn_is_asked=attn != "auto",
            quantize=cast(Quantization | None, quantize),
        )

    @property
    def kind(self) -> str:
        """The device without its number: cpu, cuda or mps."""
        return self.device.partition(":")[0]

    def as_settings(self) -> dict[str, Any]:
        """What changes a caption, by name: it goes into keys and records."""
        return {"dtype": self.dtype} | ({"quantize": self.quantize} if self.quantize else {})


def plan_replicas(
    weights_bytes: int, gpus_free_bytes: Sequence[int], num_asked: int | Literal["all"] | None
) -> list[tuple[int, ...]]:
    """The GPUs of each copy of a model that takes `weights_bytes`: as many copies as fit on the GPUs asked for.

    A copy gets one GPU where the model and a workspace fit, else the fewest that hold it together. `num_asked` GPUs
    are used, those with the most free memory; None asks for a single copy. Raises OptionError if there aren't so many,
    EngineError if the model doesn't fit on them.
    """
    num_gpus = len(gpus_free_bytes)
    if isinstance(num_asked, int) and num_asked > num_gpus:
        raise OptionError("--gpus", num_asked, f"is more than there are: torch sees {num_gpus}")
    by_room = sorted(range(num_gpus), key=lambda index: -gpus_free_bytes[index])
    left = by_room[: num_asked if isinstance(num_asked, int) else num_gpus]
    room = {index: gpus_free_bytes[index] - WORKSPACE_BYTES for index in left}
    replicas: list[tuple[int, ...]] = []
    while group := _fewest_gpus(weights_bytes, left, room):
        replicas.append(tuple(sorted(group)))
        left = [index for index in left if index not in group]
        if num_asked is None:
            break
    if not replicas:
        raise _gpus_too_small_error(weights_bytes, [gpus_free_bytes[index] for index in room])
    return replicas


def _check_choice(option: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise OptionError(option, value, f"is not a choice; there are {', '.join(filter(None, choices))}")


def _check_device_name(device: str) -> None:
    index = device.removeprefix("cuda:")
    if device not in ("auto", "cpu", "cuda", "mps") and (index == device or not (index.isascii() and index.isdigit())):
        raise OptionError("--device", device, "is not a choice; there are auto, cpu, cuda, cuda:N (N from 0), mps")


def _choose_device(asked: str, machine: Machine) -> str:
    if asked == "auto":
        return "cuda" if machine.gpus else "mps" if machine.has_mps else "cpu"
    if asked == "mps" and not machine.has_mps:
        raise OptionError("--device", asked, "needs a Mac with an Apple GPU; torch finds none", hint="Leave it out.")
    if not asked.startswith("cuda"):
        return asked
    if not machine.gpus:
        raise _no_gpu_error(asked, machine)
    if asked == "cuda":
        return asked
    index = int(asked.removeprefix("cuda:"))
    if index >= len(machine.gpus):
        seen = ", ".join(f"cuda:{number} ({gpu.name})" for number, gpu in enumerate(machine.gpus))
        raise OptionError("--device", asked, f"is not there; torch sees {seen}")
    return f"cuda:{index}"


def _no_gpu_error(asked: str, machine: Machine) -> OptionError:
    torch = f"torch {machine.torch_version} is built for"
    if machine.built_for is None:
        hint = "Install a torch for your GPU (https://pytorch.org/get-started), or leave it out."
        return OptionError("--device", asked, f"can't be used: {torch} the CPU only", hint=hint)
    reason = f" ({machine.gpu_problem})" if machine.gpu_problem else ""
    hint = "See whether nvidia-smi lists one and whether CUDA_VISIBLE_DEVICES hides it, or leave it out."
    return OptionError(
        "--device", asked, f"is not there: {torch} {machine.built_for}, but finds no GPU{reason}", hint=hint
    )


def _gpus_of(device: str, machine: Machine) -> tuple[Gpu, ...]:
    """The GPUs that `device` may come to mean."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return ()
    return (machine.gpus[int(index)],) if index else machine.gpus


def _choose_dtype(asked: str, device: str, gpus: tuple[Gpu, ...], machine: Machine) -> Dtype:
    """On the CPU float32, where half precision is seldom faster, and captions don't depend on the batch.

    Elsewhere half precision, bfloat16 if the device has it: the models are trained in that, and float16 ends at 65,504,
    which activations of Qwen2-VL can exceed.
    """
    obstacle = _age_obstacle(gpus)
    if device == "mps" and not machine.mps_has_bfloat16:
        obstacle = "needs macOS 14 or newer on an Apple GPU"
    if asked == "bfloat16" and obstacle:
        raise OptionError("--dtype", asked, obstacle, hint=_LEAVE_OUT_DTYPE)
    if asked != "auto":
        return cast(Dtype, asked)
    if device == "cpu":
        return "float32"
    return "float16" if obstacle else "bfloat16"


def _choose_attention(asked: str, gpus: tuple[Gpu, ...], dtype: Dtype, machine: Machine) -> Attention:
    if asked not in ("auto", "flash_attention_2"):
        return cast(Attention, asked)
    obstacle, hint = None, _LEAVE_OUT_ATTN
    if not gpus:
        obstacle = "needs a CUDA GPU"
    elif _age_obstacle(gpus):
        obstacle = _age_obstacle(gpus)
    elif dtype == "float32":
        obstacle, hint = "needs half precision, not float32", f"Pass --dtype bfloat16. {_LEAVE_OUT_ATTN}"
    elif not machine.has_flash_attn:
        obstacle = "needs the package flash-attn, which can't be imported"
        hint = f"Install it: pip install 'omnicap[flash]'. {_LEAVE_OUT_ATTN}"
    if obstacle and asked != "auto":
        raise OptionError("--attn", asked, obstacle, hint=hint)
    return "sdpa" if obstacle else "flash_attention_2"


def _age_obstacle(gpus: tuple[Gpu, ...]) -> str | None:
    """What is said where one of the GPUs that may be used lacks what newer ones have."""
    old = (f"{gpu.name} has {gpu.capability[0]}.{gpu.capability[1]}" for gpu in gpus if gpu.capability < _MODERN)
    return next((f"needs GPUs of compute capability 8.0 or newer; {each}" for each in old), None)


def _check_quantize(asked: str, device: str, machine: Machine) -> None:
    if not device.startswith("cuda"):
        problem = f"needs a CUDA GPU; the model would run on {device}"
        raise OptionError("--quantize", asked, problem, hint="Leave it out, or take a smaller model.")
    if not machine.has_bitsandbytes:
        problem = "needs the package bitsandbytes, which is not installed"
        raise OptionError("--quantize", asked, problem, hint="Install it: pip install bitsandbytes")


def _fewest_gpus(weights_bytes: int, left: list[int], room: dict[int, int]) -> list[int]:
    """The fewest of the GPUs `left` (most room first) that hold the model; empty if all together don't.

    Where it takes several, the last is the smallest that will do: the larger ones remain for the next copy.
    """
    if left and room[left[0]] >= weights_bytes:
        return left[:1]
    for num_first in range(1, len(left)):
        first, others = left[:num_first], left[num_first:]
        gap = int(weights_bytes * _UNEVEN) - sum(room[index] for index in first)
        closing = [index for index in others if room[index] >= gap]
        if closing:
            return [*first, min(closing, key=lambda index: room[index])]
    return []


def _gpus_too_small_error(weights_bytes: int, gpus_free_bytes: list[int]) -> EngineError:
    needed = f"the model takes {gigabytes(weights_bytes)}, and each GPU {gigabytes(WORKSPACE_BYTES)} to work in"
    where = "the GPU" if len(gpus_free_bytes) == 1 else f"the {len(gpus_free_bytes)} GPUs"
    return EngineError(
        f"{needed}; free on {where}: {', '.join(map(gigabytes, gpus_free_bytes))}",
        hint="Pass --quantize 4bit (a third of the memory) or --gpus all, end what else uses the GPU, take a smaller "
        "model, or pass --device cpu.",
    )
