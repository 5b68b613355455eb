"""Copies of pictures with captions inside: the same pixels, every caption, and no picture of a user's ever replaced."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import export_journal


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(name, format=None, **options):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((40, 30), 60).convert("RGB").save(name, format, **options)
    return name


def record(number, image, caption="a caption", **fields):
    status = "ok" if caption is not None else "error"
    known = {"id": image, "image": image, "type": "natural", "style": "short", "lang": "en", "caption": caption}
    return known | {"status": status, "model": "m-1", "engine": "fake", "key": f"{number:032x}" + 32 * "0"} | fields


def convert(*records, output="copies", **options):
    Path("run.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return export_journal(
        ExportConfig(journal=Path("run.jsonl"), output=output, format="xmp", **options), show=lambda _: None
    )


def tree(folder="copies"):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def xmp(path):
    with Image.open(path) as image:
        return json.dumps(image.getxmp(), ensure_ascii=False)


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()


@pytest.mark.parametrize("name", ["d/a.jpg", "d/a.png", "d/a.webp"])
def test_a_copy_has_the_same_pixels_and_the_caption(name):
    make(name)
    before = Path(name).read_bytes()
    outcome = convert(record(1, name, "a <b>noisy</b> square"))
    assert (outcome.num_written, tree()) == (1, [name])
    assert Path(name).read_bytes() == before
    assert pixels(f"copies/{name}") == pixels(name)
    said = xmp(f"copies/{name}")
    assert "a <b>noisy</b> square" in said
    assert "machine-made caption" in said
    assert "m-1" in said


@pytest.mark.parametrize(
    ("name", "num_frames"), [("a.bmp", 1), ("a.gif", 1), ("a.gif", 3), ("a.tif", 1), ("a.tiff", 1), ("a.TIF", 1)]
)
def test_a_format_that_takes_no_metadata_is_copied_with_a_file_beside_it(name, num_frames):
    others = [Image.new("RGB", (40, 30), (number, 0, 0)) for number in range(1, num_frames)]
    make(name, **({"save_all": True, "append_images": others} if others else {}))
    with Image.open(name) as image:
        assert getattr(image, "n_frames", 1) == num_frames
    assert convert(record(1, name, "grau")).num_written == 1
    assert tree() == [name, f"{name}.xmp"]
    assert Path(f"copies/{name}").read_bytes() == Path(name).read_bytes()
    assert "grau" in Path(f"copies/{name}.xmp").read_text()


def test_a_description_inside_a_tiff_stays_there_and_the_caption_stands_beside_it():
    make("a.tif", tiffinfo={700: b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>by hand</x:xmpmeta>"})
    convert(record(1, "a.tif", "grau"))
    assert b"by hand" in Path("copies/a.tif").read_bytes()
    assert "by hand" not in Path("copies/a.tif.xmp").read_text()
    assert "grau" in Path("copies/a.tif.xmp").read_text()


def test_pages_of_a_tiff_are_left_out_as_pages_of_a_document_are():
    make("scan.tif", save_all=True, append_images=[Image.new("RGB", (40, 30))])
    pages = [record(page, "scan.tif", id=f"scan.tif#page={page}", page=page) for page in (1, 2)]
    outcome = convert(*pages)
    assert (outcome.num_written, dict(outcome.left_out)) == (0, {"pages of documents": 2})


def test_all_captions_of_a_picture_are_in_its_copy():
    make("a.png")
    make("b.png")
    outcome = convert(
        record(1, "a.png", "the first"),
        record(2, "b.png", "the other"),
        record(3, "a.png", "the second", style="tag"),
        record(4, "a.png", "第三", lang="zh"),
    )
    assert outcome.num_written == 2
    said = xmp("copies/a.png")
    assert "the first" in said
    assert "the second" in said
    assert "第三" in said
    assert "the other" not in said


def test_pages_errors_and_lost_pictures_are_left_out_and_counted():
    make("a.png")
    outcome = convert(
        record(1, "a.png"),
        record(2, "b.png", None),
        record(3, "gone.png"),
        record(4, "p.pdf", id="p.pdf#page=1", page=1),
    )
    assert outcome.num_written == 1
    assert dict(outcome.left_out) == {"errors": 1, "no picture": 1, "pages of documents": 1}


def test_a_second_export_replaces_nothing_unless_told():
    make("a.png")
    convert(record(1, "a.png", "first"))
    assert convert(record(1, "a.png", "first")).num_same == 1
    outcome = convert(record(1, "a.png", "second"))
    assert (outcome.num_conflicts, outcome.exit_code) == (1, 3)
    assert "--overwrite" in outcome.warnings[0]
    assert "first" in xmp("copies/a.png")
    assert convert(record(1, "a.png", "second"), overwrite=True).num_written == 1
    assert "second" in xmp("copies/a.png")
    assert "first" not in xmp("copies/a.png")


@pytest.mark.parametrize("output", [".", "./"])
def test_the_picture_itself_is_never_replaced(output):
    make("d/a.png")
    before = Path("d/a.png").read_bytes()
    outcome = convert(record(1, "d/a.png"), output=output, overwrite=True)
    assert outcome.num_written == 0
    assert outcome.left_out == {"the copy would take the place of the picture": 1}
    assert Path("d/a.png").read_bytes() == before


def test_a_broken_picture_that_was_captioned_once_is_copied_as_it_is():
    Path("a.png").write_bytes(b"\x89PNG\r\n\x1a\n nonsense")
    assert convert(record(1, "a.png")).num_written == 1
    assert tree() == ["a.png", "a.png.xmp"]


def test_pictures_whose_safe_names_meet_are_all_copied(here):
    (here / "in").mkdir()
    os.chdir("in")
    names = ["../x.png", "x.png", "a:b.png", "a_b.png"]
    for number, name in enumerate(names):
        make(name)
        Image.new("RGB", (number + 1, 1)).save(name)
    outcome = convert(*(record(number, name) for number, name in enumerate(names)), output="../out", overwrite=True)
    assert outcome.num_written == 4
    sizes = sorted(Image.open(path).size for path in (here / "out").rglob("*.png*"))
    assert sizes == [(1, 1), (2, 1), (3, 1), (4, 1)]


def test_paths_stay_in_the_folder(here):
    (here / "in").mkdir()
    os.chdir("in")
    make("../up.png")
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, "PNG")
    convert(record(1, "../up.png"), record(2, str(here / "up.png")))
    assert sorted(os.listdir(here)) == ["in", "up.png"]
    assert len(tree()) == 2
