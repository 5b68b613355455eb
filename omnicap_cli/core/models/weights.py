"""The weight files of a model folder, checked and counted by their headers alone. It loads no weight and no library.

A safetensors file is 8 bytes with the length of a JSON header, the header, and the tensors it names, up to the end
(https://huggingface.co/docs/safetensors). Pickled weights are refused: loading them can run code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from omnicap_cli.core.files.words import listed
from omnicap_cli.core.models.devices import Placement
from omnicap_cli.core.models.model_json import COPY_AGAIN, LFS_POINTER, lfs_pointer_error, read_object
from omnicap_cli.errors import EngineError

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # as in the library itself
_PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NO_WEIGHTS: Final = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")  # what a trainer leaves beside
_FLOATS: Final = ("F64", "F32", "F16", "BF16")  # the types that loading converts; others stay as they are
_DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTIZED_BYTES: Final = {
    "4bit": 0.516,  # nf4: half a byte, a byte of scale for 64 values, and a scale of 4 bytes for 256 of those
    "8bit": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What the weight files hold: numbers, by what becomes of them when they are loaded.

    Those in matrices of linear layers can be quantised; those elsewhere (embeddings, norms) only get another dtype;
    `fixed_bytes` are of tensors that stay as they are: integers, and what was quantised before.
    """

    files: tuple[Path, ...]
    num_in_matrices: int
    num_elsewhere: int
    fixed_bytes: int

    def loaded_bytes(self, placement: Placement) -> int:
        """What they take on the device."""
        dtype_bytes = _DTYPE_BYTES[placement.dtype]
        matrix_bytes = _QUANTIZED_BYTES[placement.quantize] if placement.quantize else dtype_bytes
        return math.ceil(self.num_in_matrices * matrix_bytes) + self.num_elsewhere * dtype_bytes + self.fixed_bytes


class _Tensor(NamedTuple):
    name: str
    dtype: str
    shape: list[int]
    begin: int
    end: int

    @property
    def is_matrix(self) -> bool:
        """Whether bitsandbytes would quantise it: the weight of a linear layer, but not of the one for logits."""
        return len(self.shape) == 2 and "embed" not in self.name and not self.name.endswith("lm_head.weight")


def read_weights(folder: Path) -> Weights:
    """Check the weight files of a model folder, and count what is in them.

    Raises EngineError where they are missing, incomplete, damaged or not safetensors; OSError where they can't be read.
    """
    files = _weight_files(folder)
    in_matrices = elsewhere = fixed_bytes = 0
    for tensor in (tensor for file in files for tensor in _read_tensors(file)):
        if tensor.dtype not in _FLOATS:
            fixed_bytes += tensor.end - tensor.begin
        elif tensor.is_matrix:
            in_matrices += math.prod(tensor.shape)
        else:
            elsewhere += math.prod(tensor.shape)
    return Weights(files=tuple(files), num_in_matrices=in_matrices, num_elsewhere=elsewhere, fixed_bytes=fixed_bytes)


def _weight_files(folder: Path) -> list[Path]:
    """In the order in which transformers looks for them."""
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.exists():
        raise _no_weights_error(folder)
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise EngineError(f"{index} names no weight files", hint=COPY_AGAIN)
    names = sorted(set(places.values()))
    if missing := [name for name in names if not (folder / name).exists()]:
        what = f"{len(missing)} of the {len(names)} weight files that {index} names are missing"
        raise EngineError(f"{what}: {listed(missing, max_shown=3)}", hint="Copy or download them too.")
    return [folder / name for name in names]


def _no_weights_error(folder: Path) -> EngineError:
    """What is there instead."""
    if shards := sorted(path.name for path in folder.glob("model-*-of-*.safetensors")):
        what = (
            f"{folder / INDEX} is missing; the weights in {listed(shards, max_shown=3)} can't be told apart without it"
        )
        return EngineError(what, hint=COPY_AGAIN)
    if (folder / "zero_to_fp32.py").exists():
        what = f"{folder} has no {WEIGHTS}: its weights are in the parts that DeepSpeed left"
        return EngineError(what, hint=f"Join them: cd {folder} && python zero_to_fp32.py . . --safe_serialization")
    found = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled := [name for name in found if not name.startswith(_NO_WEIGHTS)]:
        files = listed(pickled, max_shown=3)
        what = f"{folder} has its weights in {files}, which could run code: only safetensors are loaded"
        code = "import sys, transformers; transformers.AutoModelForImageTextToText.from_pretrained("
        code += "sys.argv[1], dtype='auto').save_pretrained(sys.argv[1])"
        return EngineError(what, hint=f'If you trust them, convert them: python -c "{code}" {folder}')
    return EngineError(
        f"{folder} has no weights: neither {WEIGHTS} nor {INDEX}", hint="Copy or download all files of the model."
    )


def _read_tensors(file: Path) -> Iterator[_Tensor]:
    """The tensors of a safetensors file. Raises EngineError if it is damaged."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise lfs_pointer_error(file)
        opened.seek(0)
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        if not size:
            raise EngineError(f"{file} is empty", hint=COPY_AGAIN)
        if size <= _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
            raise EngineError(f"{file} is not a safetensors file", hint=COPY_AGAIN)
        raw = opened.read(length)
    expected = _LENGTH_BYTES + length
    try:
        if size >= expected:
            tensors = [
                _Tensor(name, entry["dtype"], entry["shape"], *entry["data_offsets"])
                for name, entry in orjson.loads(raw).items()
                if name != "__metadata__"
            ]
            expected += max((tensor.end for tensor in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"{file} is not a safetensors file, or its header is damaged", hint=COPY_AGAIN) from error
    if size != expected:
        least = "at least " if size < _LENGTH_BYTES + length else ""
        raise EngineError(f"{file} has {size:,} bytes instead of {least}{expected:,}", hint=COPY_AGAIN)
    yield from tensors
