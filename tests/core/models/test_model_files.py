"""What is said of a whole model folder: its name, its fingerprint and the memory that it will take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.model_folders import change_json, safetensors, split_into_shards
from support.model_folders import folder as folder  # a fixture
from support.model_folders import tiny as tiny  # a fixture
from support.tiny_models import build_tiny

from omnicap_cli.core.models.devices import Placement
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.core.models.weights import read_weights
from omnicap_cli.errors import OptionError

CPU = Placement(device="cpu", dtype="float32", attn="sdpa")


def test_what_is_said_of_a_folder(tiny):
    files = ModelFiles.find(str(tiny))
    assert (files.name, files.revision, files.model_type, files.folder) == ("tiny", None, "qwen2_vl", tiny)
    assert files.config == json.loads((tiny / "config.json").read_text())
    assert len(files.fingerprint) == 64
    assert files.fetch() is files  # nothing is to be fetched


def test_no_library_is_loaded_for_it(tiny):
    code = "import sys; from omnicap_cli.core.models.loading import ModelFiles; ModelFiles.find(sys.argv[1])\n"
    code += "print({'torch', 'transformers', 'huggingface_hub', 'numpy', 'safetensors'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code, tiny], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "set()"


def test_a_folder_by_any_path_has_one_name(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    monkeypatch.setenv("HOME", str(tiny.parent))
    found = [ModelFiles.find(model) for model in (".", "../tiny", str(tiny), "~/tiny/")]
    assert {files.name for files in found} == {"tiny"}
    assert len({files.fingerprint for files in found}) == 1


def test_a_folder_comes_before_the_hub(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny, tmp_path / "owner/name")
    monkeypatch.chdir(tmp_path)
    assert ModelFiles.find("owner/name").folder == Path("owner/name")


def test_the_fingerprint_changes_with_what_a_caption_hangs_on(folder):
    seen = {ModelFiles.find(str(folder)).fingerprint}
    changes: list[Callable[[], Any]] = [
        lambda: change_json(folder / "config.json", image_token_id=1),
        lambda: change_json(folder / "preprocessor_config.json", patch_size=15),
        lambda: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda: os.utime(folder / "model.safetensors", ns=(0, 1_000_000_001)),
        lambda: os.utime(folder / "model.safetensors", ns=(0, 1_000_000_002)),
        lambda: split_into_shards(folder),
    ]
    for make in changes:
        make()
        seen.add(ModelFiles.find(str(folder)).fingerprint)
    assert len(seen) == len(changes) + 1
    (folder / "README.md").write_text("A model.")
    (folder / "optimizer.pt").write_bytes(b"...")
    os.utime(folder / "config.json", ns=(0, 0))
    assert ModelFiles.find(str(folder)).fingerprint in seen


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "llava"])
def test_the_memory_that_weights_will_take(family, tmp_path):
    """Compared with the tensors themselves."""
    from safetensors.torch import load_file

    weights = read_weights(build_tiny(family, tmp_path / family))
    num_values = sum(tensor.numel() for tensor in load_file(weights.files[0]).values())
    assert weights.loaded_bytes(CPU) == 4 * num_values
    assert weights.loaded_bytes(Placement(device="cuda", dtype="bfloat16", attn="sdpa")) == 2 * num_values


def test_the_memory_of_quantised_weights(folder):
    tensors = {
        "model.embed_tokens.weight": ("BF16", [10, 100], 2000),
        "model.layers.0.mlp.up_proj.weight": ("BF16", [100, 1000], 200_000),
        "model.layers.0.norm.weight": ("F32", [100], 400),
        "visual.patch_embed.proj.weight": ("F16", [10, 3, 2, 7, 7], 5880),
        "lm_head.weight": ("BF16", [10, 100], 2000),
        "packed.weight": ("U8", [64, 2], 128),  # quantised before
    }
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    weights = read_weights(folder)
    others = 1000 + 100 + 2940 + 1000
    plain = {"device": "cuda", "dtype": "bfloat16", "attn": "sdpa"}
    assert weights.loaded_bytes(Placement(**plain)) == 100_000 * 2 + others * 2 + 128
    assert weights.loaded_bytes(Placement(**plain, quantize="8bit")) == 100_000 + others * 2 + 128
    assert weights.loaded_bytes(Placement(**plain, quantize="4bit")) == 51_600 + others * 2 + 128


def test_weights_in_several_files(folder):
    whole = read_weights(folder)
    split_into_shards(folder)
    parts = read_weights(folder)
    assert [file.name for file in parts.files] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert parts.loaded_bytes(CPU) == whole.loaded_bytes(CPU)


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json", "processor_config.json"])
def test_chat_templates_of_older_versions(folder, name):
    (folder / "chat_template.jinja").unlink()
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    change_json(folder / name, chat_template="{{ messages }}")
    assert ModelFiles.find(str(folder)).name == "model"


def test_an_image_processor_in_one_file_with_the_rest(folder):
    (folder / "preprocessor_config.json").unlink()
    assert "image_processor" in json.loads((folder / "processor_config.json").read_text())
    assert ModelFiles.find(str(folder)).name == "model"


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("/no/such/folder", "is no folder here, and no hub id either"),
        ("name", "is no folder here, and no hub id either"),
        ("./owner/name", "is no folder here, and no hub id either"),
        ("https://huggingface.co/owner/name", "is no folder here, and no hub id either"),
        ("tiny/config.json", "is a file"),
    ],
)
def test_what_is_neither_a_folder_nor_an_id(tiny, monkeypatch, model, problem):
    monkeypatch.chdir(tiny.parent)
    with pytest.raises(OptionError) as caught:
        ModelFiles.find(model)
    assert caught.value.message == f"--model: {model!r} {problem}"
    assert "OWNER/NAME" in caught.value.hint


def test_a_revision_of_a_folder(tiny):
    with pytest.raises(OptionError, match=r"--revision: 'v2' says nothing about a folder"):
        ModelFiles.find(str(tiny), "v2")


def test_a_model_without_a_name():
    with pytest.raises(OptionError, match="--model"):
        ModelFiles.find("")
