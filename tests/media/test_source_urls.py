"""URLs of other protocols, and chains of them into archives, become items that any process can decode."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.media_samples import pdf, solid_png
from support.source_items import PNG, ids_of, items_of, kinds_of, make_files, warnings_of
from support.source_items import here as here  # a fixture

from omnicap_cli.core.runs.records import Settings
from omnicap_cli.media.decode import decode
from omnicap_cli.media.names import split_chain, suffix_of, without_query

# --- URLs of other protocols


@pytest.fixture
def memory(here):
    """The file system memory://, emptied afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_files_and_folders_in_memory_are_items_that_any_process_can_decode(memory):
    two_pages, picture = pdf((10, 10), (20, 10)), solid_png((250, 0, 0))
    for name, data in (("p/a.png", picture), ("p/deep/two.pdf", two_pages), ("p/notes.txt", b""), ("p/.hid.png", PNG)):
        memory.pipe(f"/{name}", data)
    memory.pipe("/list.csv", b"image,t\np/a.png,beside\n")
    expected = ["memory://p/a.png", "memory://p/deep/two.pdf#page=1", "memory://p/deep/two.pdf#page=2"]
    assert ids_of("memory://p") == expected
    assert ids_of("memory://p/*.png") == ["memory://p/a.png"]
    found = items_of("memory://list.csv")
    assert [(item.id, dict(item.meta)) for item in found] == [("memory://p/a.png", {"t": "beside"})]
    assert decode(pickle.loads(pickle.dumps(found[0])), Settings()).image.getpixel((0, 0)) == (250, 0, 0)
    assert found[0].visuals[0].content == picture  # it goes along: another process has another memory
    assert kinds_of("memory://gone.png") == {"memory://gone.png": "NotFoundError"}


def test_a_changed_file_in_memory_is_known_as_changed(memory):
    memory.pipe("/a.png", solid_png((1, 1, 1)))
    before = items_of("memory://a.png")[0].fingerprint
    assert items_of("memory://a.png")[0].fingerprint == before
    memory.pipe("/a.png", solid_png((2, 2, 2), (9, 9)))
    assert items_of("memory://a.png")[0].fingerprint != before


# --- chains of protocols

RED, BLUE = (250, 10, 10), (10, 10, 250)


@pytest.mark.parametrize(
    ("url", "before", "link", "after"),
    [
        ("s3://b/a.png", "", "s3://b/a.png", ""),
        ("zip://a.png::s3://b/x.zip", "", "zip://a.png", "::s3://b/x.zip"),
        ("zip://::y.zip", "", "zip://", "::y.zip"),
        ("zip://a.png::simplecache::s3://b/x.zip", "", "zip://a.png", "::simplecache::s3://b/x.zip"),
        ("simplecache::s3://b/a.png", "simplecache::", "s3://b/a.png", ""),
        ("filecache://::zip://a.tif::s3://b/x.zip", "filecache://::", "zip://a.tif", "::s3://b/x.zip"),
        ("https://h/a::b.png?x=1::2", "", "https://h/a::b.png?x=1::2", ""),
        ("file:///a::b.png", "", "file:///a::b.png", ""),
    ],
)
def test_the_links_of_a_url(url, before, link, after):
    assert split_chain(url) == (before, link, after)


@given(
    st.text(alphabet=":/za1.#?\n") | st.lists(st.sampled_from(["zip://a", "simplecache", "::", "s3://b"])).map("".join)
)
def test_the_links_make_up_the_url(url):
    assert "".join(split_chain(url)) == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("zip://d/a.TIF::s3://b/x.zip", ".tif"),
        ("zip://a.pdf::https://h/x.zip?sig=1.tar#2", ".pdf"),
        ("https://h/a::b.png?x=1.tar", ".png"),
        ("simplecache::https://h/a.jpg?x=1.tar", ".jpg"),
        ("tar://::x.tar", ""),
    ],
)
def test_the_suffix_is_that_of_the_link_that_names_the_file(url, expected):
    assert suffix_of(url) == expected
    assert without_query(url).lower().endswith(expected)


def archives_here():
    """y.zip and y.tar with the same in each, and in.zip with an archive inside."""
    pages = io.BytesIO()
    frames = [Image.new("RGB", (4, 4)) for _ in range(3)]
    frames[0].save(pages, "TIFF", save_all=True, append_images=frames[1:])
    files = {"blue.png": solid_png(BLUE), "d/red.png": solid_png(RED), "d/.hid.png": PNG, "m.tif": pages.getvalue()}
    files |= {"p.pdf": pdf((10, 10), (20, 10)), "d/rows.csv": b"image\nred.png\n", "notes.txt": b""}
    with zipfile.ZipFile("y.zip", "w") as zipped, tarfile.open("y.tar", "w") as tarred:
        for name, content in files.items():
            zipped.writestr(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile("in.zip", "w") as zipped:
        zipped.write("y.tar")


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("", ["blue.png", "d/red.png", *("m.tif",) * 3, *("p.pdf",) * 2]),
        ("d", ["d/red.png"]),
        ("d/", ["d/red.png"]),
        ("*.png", ["blue.png"]),
        ("**/*.png", ["blue.png", "d/red.png"]),
        ("blue.png", ["blue.png"]),
        ("m.tif", ["m.tif"] * 3),
        ("p.pdf", ["p.pdf"] * 2),
        ("d/rows.csv", ["d/red.png"]),
    ],
)
@pytest.mark.parametrize("chain", ["zip://{}::y.zip", "tar://{}::y.tar", "zip://{}::simplecache::file://{}/y.zip"])
def test_what_is_in_an_archive_that_a_chain_leads_into(here, chain, inside, expected):
    archives_here()
    form = chain.replace("file://{}", f"file://{here}")
    found = items_of(form.format(inside))
    assert [item.image for item in found] == [form.format(name) for name in expected]
    num_pages = len(expected) if expected[0] in ("m.tif", "p.pdf") else 0
    assert [item.visuals[0].page for item in found if num_pages] == list(range(1, num_pages + 1))
    assert all(decode(item, Settings()).image.getpixel((0, 0)) == RED for item in found if "red" in item.image)


def test_a_folder_behind_a_url_says_how_to_name_what_it_holds(memory, here):
    memory.pipe("/p/s-0.tar", b"")
    memory.pipe("/p/.h.csv", b"")
    (said,) = warnings_of("memory://p")
    assert said == "no pictures or PDFs in memory://p; it holds .tar files: name them, as 'memory://p/*.tar'"
    with zipfile.ZipFile("y.zip", "w") as archive:
        archive.writestr("rows.csv", "image\n")
    (said,) = warnings_of("zip://::y.zip")
    assert said.endswith("as 'zip://*.csv::y.zip'")


def test_an_archive_in_an_archive(here):
    archives_here()
    assert "zip://y.tar::in.zip#member=d/red.png" in kinds_of("zip://y.tar::in.zip")
    assert set(kinds_of("zip://y.tar::in.zip").values()) == {"ok"}


@pytest.mark.parametrize("inside", ["x/red.png", "x", "x/", "x/*.png", "x/rows.csv"])
def test_a_cache_before_a_url_changes_nothing_but_the_name(here, inside):
    make_files("x/red.png", data=solid_png(RED))
    make_files("x/rows.csv", data=b"image\nred.png\n")
    (item,) = items_of(f"simplecache::file://{here}/{inside}")
    assert item.id == f"simplecache::file://{here}/x/red.png"
    assert decode(item, Settings()).image.getpixel((0, 0)) == RED


def test_a_manifest_from_elsewhere_leads_here_through_no_chain(memory, here):
    """Whatever a chain looks like, no link of it is a file of this machine: fsspec takes one without a protocol so."""
    archives_here()
    memory.pipe("/m/y.zip", Path("y.zip").read_bytes())
    Path("Word").write_bytes(Path("y.zip").read_bytes())
    good = [f"zip://blue.png::{cache}memory://m/y.zip" for cache in ("", "simplecache::")]
    bad = [
        f"zip://blue.png::{here}/y.zip",
        *("zip://blue.png::y.zip", "zip://blue.png::Word", "zip://blue.png::file", "zip://blue.png::"),
        f"zip://blue.png::{here}/y.zip::memory://m/y.zip",
        f"zip://blue.png::FILE://{here}/y.zip",
        f"zip://blue.png::simplecache::local://{here}/y.zip",
        *(f"simplecache::file://{here}/x.png", f"simplecache://::{here}/x.png", "git:///repo:main@a.png"),
    ]
    for folder in ("", "zip://rows.jsonl::"):
        rows = "".join(json.dumps({"image": url}) + "\n" for url in [*good, *bad]).encode()
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("rows.jsonl", rows)
        memory.pipe("/m/rows.jsonl", rows)
        memory.pipe("/m/rows.zip", zipped.getvalue())
        manifest = f"{folder}memory://m/rows.{'zip' if folder else 'jsonl'}"
        refused = {f"{manifest}#line={number}": "ManifestError" for number in range(3, 3 + len(bad))}
        assert kinds_of(manifest) == dict.fromkeys(good, "ok") | refused


def test_a_manifest_in_an_archive_names_files_beside_it_there(memory, here):
    """Also where the archive is elsewhere, and what it names looks like a chain."""
    archives_here()
    with zipfile.ZipFile("y.zip", "a") as archive:
        archive.writestr("d/more.csv", f"image\nred.png\nblue.png::{here}/y.zip\n/blue.png\n")
    memory.pipe("/y.zip", Path("y.zip").read_bytes())
    manifest = "zip://d/more.csv::memory://y.zip"
    assert kinds_of(manifest) == {
        "zip://d/red.png::memory://y.zip": "ok",
        f"{manifest}#row=2": "ManifestError",
        f"{manifest}#row=3": "ManifestError",
    }
