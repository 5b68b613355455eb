"""Models of a hub, which is a server on loopback: what is fetched of them, and what is said if that fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Answer, HttpServer, serving
from support.model_folders import find_elsewhere
from support.model_folders import folder as folder  # a fixture
from support.model_folders import tiny as tiny  # a fixture
from support.permissions import drop_override

from omnicap_cli.core.models.model_files import ModelFiles, find_processor
from omnicap_cli.errors import OmnicapError, OptionError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
