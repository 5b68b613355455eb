"""Model folders with something missing or damaged: each is named with its file and a remedy."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.model_folders import change_json, find_elsewhere, safetensors, split_into_shards
from support.model_folders import folder as folder  # a fixture
from support.model_folders import tiny as tiny  # a fixture
from support.permissions import drop_override

from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import EngineError

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4957560304\n"


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def holding(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def as_adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2-VL-7B-Instruct"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")


def as_training_folder(folder: Path) -> None:
    below = folder / "checkpoint-50"
    below.mkdir()
    for path in folder.glob("*.*"):
        path.rename(below / path.name)


def cut_off(name: str, num_bytes: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, num_bytes)


def one_shard_gone(folder: Path) -> None:
    split_into_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_gone(folder: Path) -> None:
    split_into_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    (folder / "training_args.bin").write_bytes(pickle.dumps({}))


def left_by_deepspeed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "zero_to_fp32.py").write_text("")


def only_trainer_state(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "optimizer.pt")
    (folder / "rng_state_0.pth").write_bytes(b"")


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../blobs/gone")


def pictureless(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    change_json(folder / "processor_config.json", image_processor=None)


def header_of(entry: dict[str, Any]) -> bytes:
    raw = json.dumps({"w": entry}).encode()
    return struct.pack("<Q", len(raw)) + raw


DAMAGE: list[tuple[Callable[[Path], None], list[str]]] = [
    # config.json
    (without("config.json"), ["model has no config.json", "OWNER/NAME"]),
    (as_adapter, ["adapter (LoRA) for Qwen/Qwen2-VL-7B-Instruct", "Merge it"]),
    (holding("adapter_config.json", b"{}"), ["adapter (LoRA) for another model", "Merge it"]),
    (as_training_folder, ["model has no config.json", "checkpoint-50"]),
    (holding("config.json", b'{"model_type": "qwen2'), ["config.json is not JSON, or was cut off", "again"]),
    (holding("config.json", b""), ["config.json is empty", "again"]),
    (holding("config.json", b"[1]"), ["config.json holds no JSON object"]),
    (holding("config.json", b"\xff\xfe{}"), ["config.json is not JSON"]),
    (holding("config.json", LFS_POINTER), ["config.json is only a Git LFS pointer", "git lfs pull"]),
    (
        lambda folder: change_json(folder / "config.json", model_type=None),
        ["config.json has no model_type", "base model"],
    ),
    (lambda folder: change_json(folder / "config.json", model_type=7), ["config.json has no model_type", "base model"]),
    # weights
    (without("model.safetensors"), ["no weights: neither model.safetensors nor model.safetensors.index.json"]),
    (dangling, ["no weights: neither model.safetensors nor model.safetensors.index.json"]),
    (only_trainer_state, ["no weights: neither model.safetensors nor model.safetensors.index.json"]),
    (pickled, ["its weights in pytorch_model.bin, which could run code", "save_pretrained"]),
    (left_by_deepspeed, ["DeepSpeed", "zero_to_fp32.py . . --safe_serialization"]),
    (index_gone, ["model.safetensors.index.json is missing", "model-00001-of-00002.safetensors"]),
    (one_shard_gone, ["1 of the 2 weight files", "missing: model-00002-of-00002.safetensors"]),
    (holding("model.safetensors", LFS_POINTER), ["model.safetensors is only a Git LFS pointer", "git lfs pull"]),
    (holding("model.safetensors", b""), ["model.safetensors is empty", "again"]),
    (holding("model.safetensors", b"1234567"), ["model.safetensors is not a safetensors file"]),
    (holding("model.safetensors", b"PK\x03\x04" * 100), ["model.safetensors is not a safetensors file"]),
    (holding("model.safetensors", struct.pack("<Q", 9) + b"not JSON!"), ["not a safetensors file", "again"]),
    (holding("model.safetensors", header_of({"dtype": "F32", "shape": [1]})), ["not a safetensors file"]),
    (holding("model.safetensors", header_of({"data_offsets": [0, "x"]})), ["not a safetensors file"]),
    (
        holding("model.safetensors", header_of({"dtype": "F32", "shape": [1], "data_offsets": [0]})),
        ["not a safetensors file"],
    ),
    (cut_off("model.safetensors", 100), ["model.safetensors has 100 bytes instead of at least ", "again"]),
    # what makes a prompt and pixels into a model's input
    (without("preprocessor_config.json", "processor_config.json"), ["no preprocessor_config.json", "base model"]),
    (pictureless, ["no preprocessor_config.json", "base model"]),
    (holding("preprocessor_config.json", b"{"), ["preprocessor_config.json is not JSON"]),
    (without("tokenizer.json"), ["no tokenizer.json", "base model"]),
    (cut_off("tokenizer.json", 5000), ["tokenizer.json is not JSON, or was cut off"]),
    (without("chat_template.jinja"), ["no chat_template.jinja", "base model"]),
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_a_damaged_folder(folder, number):
    damage, words = DAMAGE[number]
    damage(folder)
    with pytest.raises(EngineError) as caught:
        ModelFiles.find(str(folder))
    assert caught.value.hint
    said = f"{caught.value.message} {caught.value.hint}"
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize("difference", [-1000, -1, 1, 1000])
def test_weights_of_another_length_than_their_header_says(folder, difference):
    path = folder / "model.safetensors"
    length = path.stat().st_size
    os.truncate(path, length + difference)
    with pytest.raises(EngineError) as caught:
        ModelFiles.find(str(folder))
    assert caught.value.message == f"{path} has {length + difference:,} bytes instead of {length:,}"
    assert "again" in caught.value.hint


@pytest.mark.parametrize("weight_map", [None, {}, [], {"a": 1}])
def test_an_index_that_names_nothing(folder, weight_map):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(EngineError, match=r"index\.json names no weight files"):
        ModelFiles.find(str(folder))


def test_many_missing_files_are_counted(folder):
    (folder / "model.safetensors").unlink()
    places = {f"w{n}": f"model-{n}.safetensors" for n in range(9)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model-4.safetensors").write_bytes(safetensors({}))
    with pytest.raises(EngineError) as caught:
        ModelFiles.find(str(folder))
    assert "8 of the 9 weight files" in caught.value.message
    assert caught.value.message.endswith("model-0.safetensors, model-1.safetensors, model-2.safetensors and 5 more")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "."])
def test_a_folder_that_may_not_be_read(folder, name):
    (folder / name).chmod(0)
    try:
        said = find_elsewhere(str(folder), preexec=drop_override)
    finally:
        (folder / name).chmod(0o755)
    assert said["error"] == "EngineError"
    assert said["message"].startswith(f"can't read {folder}")
    assert name in said["message"]
    assert "Permission denied" in said["message"]


@pytest.mark.parametrize("content", [b"", b'{"eos_token_id": [1', b"[1, 2]"])
def test_damaged_generation_settings_are_named(tiny_model, tmp_path, content):
    """transformers passes over them, and then nothing ends a text."""
    folder = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"generation_config\.json"):
        ModelFiles.find(str(folder))
