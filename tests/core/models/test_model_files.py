"""Model folders with something missing or damaged, and models of a hub, which is a server on loopback."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Answer, HttpServer, serving
from support.permissions import drop_override
from support.tiny_models import build_tiny

from omnicap_cli.core.models.devices import Placement
from omnicap_cli.core.models.model_files import ModelFiles, find_processor
from omnicap_cli.core.models.weights import read_weights
from omnicap_cli.errors import EngineError, OmnicapError, OptionError

CPU = Placement(device="cpu", dtype="float32", attn="sdpa")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4957560304\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model; not to be changed."""
    return build_tiny("qwen2_vl", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
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


def in_shards(folder: Path) -> None:
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


# ---------------------------------------------------------------------------------------------- whole folders


def test_what_is_said_of_a_folder(tiny):
    files = ModelFiles.find(str(tiny))
    assert (files.name, files.revision, files.model_type, files.folder) == ("tiny", None, "qwen2_vl", tiny)
    assert files.config == json.loads((tiny / "config.json").read_text())
    assert len(files.fingerprint) == 64
    assert files.fetched() is files  # nothing is to be fetched


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
        lambda: change(folder / "config.json", image_token_id=1),
        lambda: change(folder / "preprocessor_config.json", patch_size=15),
        lambda: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda: os.utime(folder / "model.safetensors", ns=(0, 1_000_000_001)),
        lambda: os.utime(folder / "model.safetensors", ns=(0, 1_000_000_002)),
        lambda: in_shards(folder),
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
    in_shards(folder)
    parts = read_weights(folder)
    assert [file.name for file in parts.files] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert parts.loaded_bytes(CPU) == whole.loaded_bytes(CPU)


@pytest.mark.parametrize("name", ["chat_template.json", "tokenizer_config.json", "processor_config.json"])
def test_chat_templates_of_older_versions(folder, name):
    (folder / "chat_template.jinja").unlink()
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    change(folder / name, chat_template="{{ messages }}")
    assert ModelFiles.find(str(folder)).name == "model"


def test_an_image_processor_in_one_file_with_the_rest(folder):
    (folder / "preprocessor_config.json").unlink()
    assert "image_processor" in json.loads((folder / "processor_config.json").read_text())
    assert ModelFiles.find(str(folder)).name == "model"


# ---------------------------------------------------------------------------------------------- damaged folders


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
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_gone(folder: Path) -> None:
    in_shards(folder)
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
    change(folder / "processor_config.json", image_processor=None)


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
    (lambda folder: change(folder / "config.json", model_type=None), ["config.json has no model_type", "base model"]),
    (lambda folder: change(folder / "config.json", model_type=7), ["config.json has no model_type", "base model"]),
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


# ---------------------------------------------------------------------------------------------- the hub

CODE = """
import json, sys
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import OmnicapError

announced = []
try:
    files = ModelFiles.find(*sys.argv[1:])
    before = files.weights
    whole = files.fetched(announced.append)
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


class Hub:
    """The few addresses of the real hub that fetching a model asks, of a repository with one commit."""

    def __init__(self, server: HttpServer, home: Path) -> None:
        self.server = server
        self.environment = {"HF_ENDPOINT": server.url(""), "HF_HOME": str(home)}

    def find(self, *words: str, **environment: str) -> dict[str, Any]:
        return find_elsewhere(*words, **(self.environment | environment))

    def refuse(self, status: int, code: str = "", path: str = "/owner/name/resolve/main/config.json") -> None:
        self.server.serve(path, Answer(status=status, headers={"X-Error-Code": code} if code else {}))

    def publish(self, folder: Path, revision: str = "main") -> None:
        tree = []
        for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            tree.append({"type": "file", "path": name, "size": len(content), "oid": f"{number:040x}"})
            answer = Answer(body=content, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{number:040x}"'})
            for place in (revision, COMMIT):
                self.server.serve(f"/owner/name/resolve/{place}/{name}", answer)
        listing = Answer(body=json.dumps(tree).encode(), headers={"Content-Type": "application/json"})
        self.server.serve(f"/api/models/owner/name/tree/{COMMIT}?recursive=true&expand=false", listing)

    @property
    def fetched(self) -> set[str]:
        """The files that were asked for, not only their headers."""
        asked = {seen.path for seen in self.server.requests() if seen.method == "GET" and "/resolve/" in seen.path}
        return {path.split("/", 5)[5] for path in asked}


@pytest.fixture
def hub(tmp_path: Path):
    with serving() as server:
        yield Hub(server, tmp_path / "home")


def test_a_model_of_the_hub(hub, folder):
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "README.md", "modeling.py", "onnx/config.json", "consolidated.safetensors"):
        (folder / name).write_bytes(b"not needed")
    hub.publish(folder)
    first = hub.find("owner/name")
    assert first["name"] == "owner/name"
    assert (first["revision"], first["fingerprint"], first["model_type"]) == (COMMIT, COMMIT, "qwen2_vl")
    assert (first["before"], first["files"]) == (None, ["model.safetensors"])
    whole = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja")}
    assert hub.fetched == whole - {"consolidated.safetensors"}
    config_bytes = (folder / "config.json").stat().st_size
    assert first["announced"] == [sum((folder / name).stat().st_size for name in hub.fetched) - config_bytes]
    hub.server.seen.clear()
    assert hub.find("owner/name") == first | {"announced": []}
    assert hub.fetched == set()
    assert hub.find("owner/name", HF_HUB_OFFLINE="1") == first | {"announced": []}
    gone = hub.find("owner/name", HF_ENDPOINT="http://127.0.0.1:9")  # where nobody listens
    assert gone == first | {"announced": []}


def test_a_processor_of_the_hub_comes_without_weights(hub, folder):
    (folder / "modeling.py").write_bytes(b"not needed")
    hub.publish(folder)
    code = (
        "import sys; from omnicap_cli.core.models.model_files import find_processor; print(find_processor(sys.argv[1]))"
    )
    env = os.environ | hub.environment
    found = subprocess.run(
        [sys.executable, "-c", code, "owner/name"], env=env, capture_output=True, text=True, check=True
    )
    assert hub.fetched == {path.name for path in folder.iterdir() if path.suffix in (".json", ".jinja")}
    there = Path(found.stdout.strip())
    assert (there / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert not (there / "model.safetensors").exists()


def test_a_processor_may_stand_alone(folder):
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    assert find_processor(str(folder)) == folder
    with pytest.raises(OptionError, match="no hub id"):
        find_processor("/no/such/folder")


def test_a_revision_of_the_hub(hub, tiny):
    hub.publish(tiny, revision="v2")
    said = hub.find("owner/name", "v2")
    assert (said["revision"], said["files"]) == (COMMIT, ["model.safetensors"])


def test_a_cache_that_was_copied_here(tiny, tmp_path):
    """As the library lays it out: content by its hash, links by the name of the file, a branch by its commit."""
    cache = tmp_path / "hub/models--owner--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(COMMIT)
    (cache / "blobs").mkdir()
    (cache / "snapshots" / COMMIT).mkdir(parents=True)
    for number, path in enumerate(tiny.iterdir()):
        shutil.copy(path, cache / f"blobs/{number}")
        (cache / "snapshots" / COMMIT / path.name).symlink_to(f"../../blobs/{number}")
    said = find_elsewhere("owner/name", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert (said["revision"], said["files"]) == (COMMIT, ["model.safetensors"])
    (cache / "snapshots" / COMMIT / "model.safetensors").unlink()
    said = find_elsewhere("owner/name", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "has no weights" in said["message"]


def test_offline_and_not_in_the_cache(tmp_path):
    said = find_elsewhere("owner/name", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert said["error"] == "EngineError"
    assert "not in the cache" in said["message"]
    assert str(tmp_path) in said["message"]
    assert "HF_HUB_OFFLINE is set" in said["message"]
    assert "hf download owner/name --local-dir FOLDER" in said["hint"]


@pytest.mark.slow  # the library asks again for half a minute
def test_a_hub_that_fails(hub):
    hub.refuse(500)
    said = hub.find("owner/name")
    assert (said["error"], said["message"]) == ("EngineError", "owner/name can't be fetched: the hub answered 500")


@pytest.mark.slow
def test_a_hub_that_is_out_of_reach(hub):
    said = hub.find("owner/name", "v2", HF_ENDPOINT="http://127.0.0.1:9")
    assert said["error"] == "EngineError"
    assert "not in the cache" in said["message"]
    assert "http://127.0.0.1:9 can't be reached" in said["message"]
    assert "hf download owner/name --revision v2 --local-dir FOLDER" in said["hint"]


@pytest.mark.parametrize(
    ("status", "code", "error", "words"),
    [
        (404, "RepoNotFound", "OptionError", ["--model: 'owner/name'", "no such model", "spelling", "HF_TOKEN"]),
        (401, "RepoNotFound", "OptionError", ["--model: 'owner/name'", "no such model", "spelling", "HF_TOKEN"]),
        (401, "", "EngineError", ["owner/name", "the hub answered 401", "HF_TOKEN"]),
        (403, "", "EngineError", ["owner/name", "the hub answered 403", "HF_TOKEN"]),
        (403, "GatedRepo", "EngineError", ["gated", "https://huggingface.co/owner/name", "HF_TOKEN"]),
        (404, "EntryNotFound", "EngineError", ["owner/name has no config.json", "Adapters"]),
    ],
)
def test_a_model_that_the_hub_does_not_give(hub, status, code, error, words):
    hub.refuse(status, code)
    said = hub.find("owner/name")
    assert said["error"] == error
    assert [word for word in words if word not in f"{said['message']} {said['hint']}"] == []


def test_a_revision_that_the_hub_does_not_have(hub):
    hub.refuse(404, "RevisionNotFound", path="/owner/name/resolve/v9/config.json")
    said = hub.find("owner/name", "v9")
    assert said["message"] == "--revision: 'v9' is no branch, tag or commit of owner/name"
    hub.refuse(404, "RevisionNotFound")
    assert hub.find("owner/name")["message"] == "--revision: 'main' is no branch, tag or commit of owner/name"


def test_an_id_that_the_hub_could_not_have(hub):
    said = hub.find("owner/na--me")
    assert said["error"] == "OptionError"
    assert "no hub id" in said["message"]
    assert hub.server.requests() == []


def test_a_model_of_the_hub_that_is_incomplete(hub, folder):
    (folder / "tokenizer.json").unlink()
    hub.publish(folder)
    said = hub.find("owner/name")
    assert "has no tokenizer.json" in said["message"]


def test_the_token_goes_to_the_hub_and_nowhere_else(hub):
    hub.refuse(403, "GatedRepo")
    said = hub.find("owner/name", HF_TOKEN="hf_secret")
    asked = [seen for seen in hub.server.requests() if "/resolve/" in seen.path]
    assert {seen.headers["authorization"] for seen in asked} == {"Bearer hf_secret"}
    assert "hf_secret" not in json.dumps(said)


def test_a_cache_that_may_not_be_written(hub, tiny, tmp_path):
    hub.publish(tiny)
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o500)
    said = find_elsewhere("owner/name", preexec=drop_override, **hub.environment)
    assert said["error"] == "EngineError"
    assert "owner/name can't be fetched" in said["message"]
    assert "HF_HOME" in said["hint"]


def test_without_the_library_of_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OmnicapError) as caught:
        ModelFiles.find("owner/name")
    assert "huggingface_hub" in caught.value.message
    assert "pip install 'omnicap[torch]'" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b'{"eos_token_id": [1', b"[1, 2]"])
def test_damaged_generation_settings_are_named(tiny_model, tmp_path, content):
    """transformers passes over them, and then nothing ends a text."""
    folder = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    (folder / "generation_config.json").write_bytes(content)
    with pytest.raises(EngineError, match=r"generation_config\.json"):
        ModelFiles.find(str(folder))


def test_a_model_without_a_name():
    with pytest.raises(OptionError, match="--model"):
        ModelFiles.find("")
