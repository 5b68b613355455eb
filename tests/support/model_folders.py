"""Folders of a tiny model for tests to look at and to damage, and a process of its own that finds them."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_models import build_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model; not to be changed."""
    return build_tiny("qwen2_vl", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def safetensors(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """A file by hand: of each tensor its type, its shape and its size in bytes."""
    header, end = {}, 0
    for name, (dtype, shape, num_bytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(end)


def split_into_shards(folder: Path) -> None:
    """Split the weights into two files and an index."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        places |= dict.fromkeys(part, f"model-0000{number}-of-00002.safetensors")
        save_file({name: weights[name] for name in part}, folder / places[part[0]], metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()


CODE = """
import json, sys
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import OmnicapError

announced = []
try:
    files = ModelFiles.find(*sys.argv[1:])
    before = files.weights
    whole = files.fetch(announced.append)
    said = {"name": files.name, "revision": files.revision, "fingerprint": files.fingerprint,
            "model_type": files.model_type, "before": before, "folder": str(whole.folder),
            "files": [file.name for file in whole.weights.files]}
except OmnicapError as error:
    said = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps({**said, "announced": announced}))
"""


def find_elsewhere(*words: str, preexec: Callable[[], None] | None = None, **environment: str) -> dict[str, Any]:
    """Find and fetch in a process of its own, since the hub's library reads its settings once; it may print nothing."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    command = [sys.executable, "-c", CODE, *words]
    process = subprocess.run(command, env=env | environment, capture_output=True, text=True, preexec_fn=preexec)
    assert process.stderr == ""
    return dict(json.loads(process.stdout))
