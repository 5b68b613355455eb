"""Files and folders behind every protocol but HTTP: in memory, on disk and in archives."""

from __future__ import annotations

import gc
import io
import os
import sys
import zipfile
import zlib
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from support.http_server import serving
from support.remote_files import BODY, SECRET, TRANSFER, error_of, read
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    DownloadError,
    ItemError,
    NotFoundError,
    OmnicapError,
    TooLargeError,
    UnsupportedError,
)
from omnicap_cli.media.remote import urls


@pytest.fixture
def memory():
    """An empty memory:// file system, which is one for the whole process."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def zip_of(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/").replace("_", "."), (2020, 1, 2, 3, 4, 6)), content)
    return file.getvalue()


def test_files_in_memory(memory):
    memory.pipe("/folder/a.png", BODY)
    found = urls.describe("memory://folder/a.png", TRANSFER)
    assert (found.kind, found.num_bytes) == ("file", len(BODY))
    assert found.fingerprint.startswith("url:")
    assert found.fingerprint.endswith(":300000")
    assert urls.describe("memory://folder/a.png", TRANSFER) == found
    assert urls.fetch("memory://folder/a.png", TRANSFER) == BODY
    assert read("memory://folder/a.png") == BODY
    memory.pipe("/folder/a.png", BODY[::-1])
    assert urls.describe("memory://folder/a.png", TRANSFER).fingerprint != found.fingerprint


@pytest.mark.parametrize("url", ["memory://folder", "memory://folder/", "memory:///folder"])
def test_folders_in_memory(memory, url):
    memory.pipe("/folder/b.png", BODY)
    memory.pipe("/folder/a.png", b"a")
    memory.pipe("/folder/é ?#[x].png", b"odd")
    memory.pipe("/folder/sub/c.png", BODY)
    assert urls.describe(url, TRANSFER) == ("folder", "url", None)
    plain = url.rstrip("/")
    found = list(urls.list_folder(url))
    assert found == [
        (f"{plain}/a.png", False),
        (f"{plain}/b.png", False),
        (f"{plain}/sub", True),
        (f"{plain}/é ?#[x].png", False),
    ]
    assert [urls.fetch(child, TRANSFER) for child, is_folder in found if not is_folder] == [b"a", BODY, b"odd"]
    assert list(urls.list_folder(f"{plain}/sub")) == [(f"{plain}/sub/c.png", False)]


def test_the_root_of_a_file_system_is_a_folder(memory):
    memory.pipe("/a.png", BODY)
    memory.pipe("/folder/b.png", BODY)
    assert list(urls.list_folder("memory://")) == [("memory://a.png", False), ("memory://folder", True)]
    assert urls.fetch("memory://a.png", TRANSFER) == BODY


def test_a_folder_that_is_kept_as_an_empty_object_is_not_in_itself(memory, monkeypatch):
    class Bucket(MemoryFileSystem):
        cachable = False

        def ls(self, path, detail=True, **kwargs):
            marker = {"name": f"{path}/", "size": 0, "type": "file"}
            return [marker, *super().ls(path, detail=detail, **kwargs)]

    monkeypatch.setitem(_registry, "memory", Bucket)
    memory.pipe("/folder/a.png", BODY)
    assert list(urls.list_folder("memory://folder")) == [("memory://folder/a.png", False)]


def test_a_listing_is_kept_while_it_is_used(memory, monkeypatch):
    """Buckets answer from it what each file is; of a million files it takes a gigabyte."""

    class Bucket(MemoryFileSystem):
        def ls(self, path, detail=True, **kwargs):
            self.dircache[path] = super().ls(path, detail=True, **kwargs)
            return self.dircache[path]

    monkeypatch.setitem(_registry, "memory", Bucket)
    memory.pipe("/folder/a.png", BODY)
    memory.pipe("/folder/sub/b.png", BODY)
    kept = fsspec.filesystem("memory").dircache
    outer = urls.list_folder("memory://folder/")
    assert next(outer) == ("memory://folder/a.png", False)
    inner = urls.list_folder("memory://folder/sub")
    assert next(inner) == ("memory://folder/sub/b.png", False)
    assert set(kept) == {"/folder", "/folder/sub"}
    assert list(inner) == []
    assert set(kept) == {"/folder"}
    outer.close()
    assert set(kept) == set()


def test_patterns_in_memory(memory):
    for name in ("b.png", "a.png", "c.jpg", "sub/d.png"):
        memory.pipe(f"/folder/{name}", name.encode())
    found = list(urls.glob("memory://folder/*.png"))
    assert found == ["memory://folder/a.png", "memory://folder/b.png"]
    assert [urls.fetch(url, TRANSFER) for url in found] == [b"a.png", b"b.png"]
    assert list(urls.glob("memory://fold*/**/*.png")) == [*found, "memory://folder/sub/d.png"]
    assert list(urls.glob("memory://folder/*.gif")) == []


@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_what_is_not_in_memory(memory, get):
    assert error_of(get, "memory://missing.png", TRANSFER).message == "no such file"
    assert type(error_of(get, "memory://missing.png", TRANSFER)) is NotFoundError


def test_folders_that_are_not_there(memory):
    assert type(error_of(list, urls.list_folder("memory://missing"))) is NotFoundError


def test_the_limit_holds_for_every_file_system(memory, tmp_path):
    memory.pipe("/a.png", BODY)
    (tmp_path / "a.png").write_bytes(BODY)
    (tmp_path / "a.zip").write_bytes(zip_of(a_png=BODY))
    for url in ("memory://a.png", f"file://{tmp_path}/a.png", f"zip://a.png::file://{tmp_path}/a.zip"):
        assert urls.fetch(url, Transfer(max_bytes=len(BODY))) == BODY
        error = error_of(urls.fetch, url, Transfer(max_bytes=len(BODY) - 1))
        assert type(error) is TooLargeError
        assert "300,000 bytes are more than the limit of 299,999" in error.message  # before any of it was read
        assert "--max-file-bytes" in error.message
        assert read(url, Transfer(max_bytes=1)) == BODY


def test_local_files(tmp_path):
    folder = tmp_path / "a b%é"
    (folder / "sub").mkdir(parents=True)
    (folder / "x y.png").write_bytes(BODY)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"latin")
    url = f"file://{tmp_path}/a%20b%25%C3%A9"
    assert urls.describe(url, TRANSFER).kind == "folder"
    children = list(urls.list_folder(url))
    assert children == [(f"{url}/caf%E9.png", False), (f"{url}/sub", True), (f"{url}/x%20y.png", False)]
    assert list(urls.glob(f"{url}/*.png")) == [f"{url}/caf%E9.png", f"{url}/x%20y.png"]
    assert urls.fetch(f"{url}/caf%E9.png", TRANSFER) == b"latin"
    os.utime(folder / "x y.png", (1000, 2000))
    found = urls.describe(f"{url}/x%20y.png", TRANSFER)
    assert found == ("file", "url:2000.0:300000", len(BODY))
    os.utime(folder / "x y.png", (1000, 2001))
    assert urls.describe(f"{url}/x%20y.png", TRANSFER).fingerprint != found.fingerprint


def test_a_local_root_is_a_folder():
    assert ("file:///etc", True) in list(urls.list_folder("file:///"))


def test_a_fifo_behind_a_url(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for get in (urls.describe, urls.fetch, urls.open_stream):
        assert type(error_of(get, f"file://{tmp_path}/pipe", TRANSFER)) is AccessError


def test_a_folder_is_no_file(tmp_path):
    assert type(error_of(urls.fetch, f"file://{tmp_path}", TRANSFER)) is AccessError


@pytest.mark.parametrize("url", ["file://elsewhere/a.png", "file://a.png", "local://a.png"])
@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_a_file_url_names_the_whole_path(tmp_path, monkeypatch, get, url):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(BODY)
    assert type(error_of(get, url, TRANSFER)) is UnsupportedError


@pytest.mark.parametrize("where", ["memory", "file"])
def test_inside_an_archive(memory, tmp_path, where):
    content = zip_of(b_png=BODY, sub__a_png=b"in a folder")
    memory.pipe("/x.zip", content)
    (tmp_path / "x.zip").write_bytes(content)
    archive = "memory://x.zip" if where == "memory" else f"file://{tmp_path}/x.zip"
    found = urls.describe(f"zip://b.png::{archive}", TRANSFER)
    assert found == ("file", f"url:{zlib.crc32(BODY)}:300000", len(BODY))
    assert urls.fetch(f"zip://b.png::{archive}", TRANSFER) == BODY
    assert urls.describe(f"zip://sub::{archive}", TRANSFER).kind == "folder"
    root = [(f"zip://b.png::{archive}", False), (f"zip://sub::{archive}", True)]
    assert list(urls.list_folder(f"zip://::{archive}")) == root
    assert list(urls.list_folder(f"zip://sub::{archive}")) == [(f"zip://sub/a.png::{archive}", False)]
    assert list(urls.glob(f"zip://**/*.png::{archive}")) == [
        f"zip://b.png::{archive}",
        f"zip://sub/a.png::{archive}",
    ]
    stream = urls.open_stream(f"zip://b.png::{archive}", TRANSFER)
    gc.collect()  # the file system closes its archive when nobody needs it any more
    assert stream.read() == BODY
    stream.close()


def test_archives_that_are_broken(memory):
    memory.pipe("/no.zip", b"PK no zip")
    content = bytearray(zip_of(a_png=BODY))
    content[1000] ^= 1
    memory.pipe("/damaged.zip", bytes(content))
    assert type(error_of(urls.describe, "zip://a.png::memory://no.zip", TRANSFER)) is DecodeError
    assert type(error_of(urls.fetch, "zip://a.png::memory://damaged.zip", TRANSFER)) is DecodeError
    assert type(error_of(read, "zip://a.png::memory://damaged.zip")) is DecodeError
    assert type(error_of(urls.fetch, "zip://b.png::memory://damaged.zip", TRANSFER)) is NotFoundError
    assert type(error_of(urls.fetch, "zip://a.png::memory://missing.zip", TRANSFER)) is NotFoundError
    assert type(error_of(list, urls.list_folder("zip://::memory://no.zip"))) is DecodeError


@pytest.mark.parametrize("url", ["nothing://x/a.png", "zip://a.png::nothing://x"])
def test_a_protocol_that_nobody_knows(url):
    for get in (urls.describe, urls.fetch, urls.open_stream):
        error = error_of(get, url, TRANSFER)
        assert type(error) is UnsupportedError
        assert "nothing://" in error.message
    assert type(error_of(list, urls.list_folder(url))) is UnsupportedError
    assert type(error_of(list, urls.glob(url))) is UnsupportedError


@pytest.mark.parametrize(
    ("url", "package"),
    [("s3://bucket/a.png", "s3fs"), ("zip://a::gs://bucket/b.zip", "gcsfs"), ("hf://datasets/a/b", "huggingface-hub")],
)
def test_a_package_that_is_missing_ends_the_run(monkeypatch, url, package):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    for get in (urls.describe, urls.fetch, urls.open_stream):
        with pytest.raises(OmnicapError) as caught:
            get(url, TRANSFER)
        assert not isinstance(caught.value, ItemError)
        assert package in caught.value.message
        assert f"pip install {package}" in caught.value.hint


@pytest.mark.parametrize("url", ["http://example.org/folder/", "https://example.org/*.png"])
def test_a_web_server_lists_nothing(url):
    assert type(error_of(list, urls.list_folder(url))) is UnsupportedError
    assert type(error_of(list, urls.glob(url))) is UnsupportedError


def test_a_server_of_another_kind_that_is_gone():
    with serving() as gone:
        port = gone.port
    url = f"ftp://me:{SECRET}@127.0.0.1:{port}/a.png"
    for get in (urls.describe, urls.fetch, urls.open_stream):
        assert "Connection refused" in error_of(get, url, TRANSFER).message
    assert type(error_of(list, urls.list_folder(url))) is DownloadError


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (PermissionError("no"), AccessError),
        (FileNotFoundError("x"), NotFoundError),
        (TimeoutError(), DownloadError),
        (RuntimeError(f"GET https://me:{SECRET}@host/a?signature={SECRET}\nfailed"), DownloadError),
        (KeyError("x"), DownloadError),
        (Exception(), DownloadError),
    ],
)
def test_whatever_a_file_system_raises(memory, monkeypatch, raised, kind):
    class Moody(MemoryFileSystem):
        cachable = False

        def info(self, *args, **kwargs):
            raise raised

        def _open(self, *args, **kwargs):
            return _MoodyFile(raised)

        ls = glob = info

    monkeypatch.setitem(_registry, "memory", Moody)
    url = f"memory://me:{SECRET}@a.png"
    assert type(error_of(urls.describe, url, TRANSFER)) is kind
    assert type(error_of(urls.fetch, url, TRANSFER)) is kind
    assert type(error_of(read, url)) is kind
    assert type(error_of(list, urls.list_folder(url))) is kind
    assert type(error_of(list, urls.glob(url))) is kind


class _MoodyFile(io.BytesIO):
    def __init__(self, error):
        super().__init__(b"x")
        self._error = error

    def read(self, *args):
        raise self._error
