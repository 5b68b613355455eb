"""WebDataset archives of a journal: whole samples, the pictures' own bytes, shards by size, no old file lost."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.journal_records import HOSTILE_CAPTIONS
from support.media_samples import pdf, solid_png

from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.errors import JournalWriteError, OptionError
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import export_journal
from omnicap_cli.media.sources import Sources

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(image, caption="a caption", *, id=None, style="short", lang="en", **fields):
    status = "ok" if caption is not None else "error"
    return {
        "id": id or image,
        "image": image,
        "type": "natural",
        "style": style,
        "lang": lang,
        "caption": caption,
        "status": status,
        **({} if caption is not None else {"error": {"kind": "DecodeError", "message": "damaged"}}),
        "key": f"{next(NUMBERS):032x}" + 32 * "0",
        "meta": {},
    } | fields


def journal(*records, path="run.jsonl"):
    Path(path).write_text("".join(json.dumps(each) + "\n" for each in records))
    return Path(path)


def make(name, data=None):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(solid_png() if data is None else data)
    return name


def convert(output="out.tar", **options):
    return export_journal(ExportConfig(journal=Path("run.jsonl"), output=output, **options), show=lambda _: None)


def content(path="out.tar"):
    with tarfile.open(path) as archive:
        assert all(member.isreg() for member in archive)
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_a_sample_is_the_picture_with_its_record_and_its_caption():
    jpeg = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(jpeg, "JPEG")
    make("d/a.JPG", jpeg.getvalue())
    first, second = record("d/a.JPG", "eins\n<b>zwei</b>"), record(make("b.png"), "")
    journal(first, second)
    outcome = convert()
    assert (outcome.num_written, dict(outcome.left_out)) == (2, {})
    found = content()
    assert list(found) == [
        *("000000000.jpg", "000000000.json", "000000000.txt"),
        *("000000001.png", "000000001.json", "000000001.txt"),
    ]
    assert found["000000000.jpg"] == jpeg.getvalue()
    assert json.loads(found["000000000.json"]) == first
    assert found["000000000.txt"].decode() == "eins\n<b>zwei</b>"
    assert found["000000001.txt"] == b""


def test_captions_of_one_picture_are_one_sample():
    make("a.png")
    make("b.png")
    records = [
        record("a.png", "short"),
        record("b.png", "other"),
        record("a.png", "kurz", style="tag"),
        record("a.png", "短", lang="zh"),
    ]
    journal(*records)
    assert convert().num_written == 2
    found = content()
    assert found["000000000.txt"] == b"short"
    assert found["000000000.tag.en.txt"] == b"kurz"
    assert found["000000000.short.zh.txt"].decode() == "短"
    assert json.loads(found["000000000.json"])["captions"] == [records[0], records[2], records[3]]
    assert found["000000001.txt"] == b"other"


def test_of_several_states_of_a_picture_the_newest_counts():
    journal(record(make("a.png"), "old"), record("a.png", "new"))
    assert convert().num_written == 1
    assert content()["000000000.txt"] == b"new"


def test_errors_and_lost_pictures_are_left_out_and_counted():
    journal(record(make("a.png")), record("b.png", None), record("gone.png"))
    outcome = convert()
    assert (outcome.num_written, dict(outcome.left_out)) == (1, {"errors": 1, "no picture": 1})


def test_pages_members_and_rows_become_pictures(here):
    make("two.pdf", pdf((20, 10), (10, 30)))
    red, green = solid_png((250, 0, 0)), solid_png((0, 250, 0))
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        with tarfile.open(name, mode) as archive:
            for number, each in enumerate((red, green)):
                member = tarfile.TarInfo(f"d/{number} #.png")
                member.size = len(each)
                archive.addfile(member, io.BytesIO(each))
    pq.write_table(pa.table({"image": [red, green]}), "p.parquet")
    items = list(Sources(inputs=("two.pdf", "x.tar", "x.tar.gz", "p.parquet")))
    records = [
        record(
            item.image,
            item.id,
            id=item.id,
            settings={"dpi": 72},
            **({"page": item.visuals[0].page} if item.visuals[0].page else {}),
        )
        for item in items
    ]
    # out of order, as several workers finish
    journal(*(records[place] for place in (1, 0, 3, 2, 5, 4, 7, 6)))
    assert convert().num_written == 8
    found = content()
    pictures = {found[name.replace(".png", ".txt")].decode(): found[name] for name in found if name.endswith(".png")}
    assert Image.open(io.BytesIO(pictures["two.pdf#page=1"])).size == (20, 10)
    assert Image.open(io.BytesIO(pictures["two.pdf#page=2"])).size == (10, 30)
    for name in ("x.tar#member=d/{}%20%23.png", "x.tar.gz#member=d/{}%20%23.png"):
        assert pictures[name.format(0)] == red
        assert pictures[name.format(1)] == green
    assert pictures["p.parquet#row=1"] == red
    assert pictures["p.parquet#row=2"] == green


def test_of_several_columns_the_one_that_was_captioned_is_written():
    """As the note says, or the user; where nobody does, nothing is."""
    mask, picture = solid_png((0, 0, 0)), solid_png((250, 0, 0))
    pq.write_table(pa.table({"mask": [mask] * 2, "pic": [picture] * 2}), "two.parquet")
    journal(record("two.parquet#row=1"), record("two.parquet#row=2"), record("gone.png"))
    outcome = convert("none.tar")
    assert (outcome.num_written, dict(outcome.left_out), outcome.exit_code) == (0, {"no picture": 3}, 3)
    said, first = outcome.warnings
    assert "3 pictures" in said
    assert "--image-key" in said
    assert "two.parquet" in first
    assert "mask, pic" in first

    assert convert("mask.tar", image_key="mask").num_written == 2
    assert content("mask.tar")["000000000.png"] == mask
    RunMeta(state="finished", settings={"image_key": "pic"}).write(Path("run.jsonl"))
    assert convert().num_written == 2
    assert [content()[f"00000000{number}.png"] for number in range(2)] == [picture, picture]
    assert convert("other.tar", image_key="mask").num_written == 2
    assert content("other.tar")["000000001.png"] == mask


def test_what_is_written_is_read_again():
    records = [record(make("a.png"), "one", meta={"n": 1}), record(make("b.png"), "two")]
    journal(*records)
    convert()
    items = list(Sources(inputs=("out.tar",)))
    assert [item.id for item in items] == ["out.tar#member=000000000.png", "out.tar#member=000000001.png"]
    assert [item.meta["txt"] for item in items] == ["one", "two"]
    assert items[0].meta["meta"] == {"n": 1}


def test_captions_that_break_careless_writers_are_read_again():
    """Markup, control characters, NULs, line ends of all kinds: by tarfile and json, and as an input."""
    journal(*(record(make(f"{number}.png"), caption) for number, caption in enumerate(HOSTILE_CAPTIONS)))
    assert convert().num_written == len(HOSTILE_CAPTIONS)
    found = content()
    for number, caption in enumerate(HOSTILE_CAPTIONS):
        assert found[f"{number:09}.txt"] == caption.encode()
        assert json.loads(found[f"{number:09}.json"])["caption"] == caption
    # a byte order mark at the start of a file is no part of its text
    expected = [caption.removeprefix("\ufeff") for caption in HOSTILE_CAPTIONS]
    assert [item.meta["txt"] for item in Sources(inputs=("out.tar",))] == expected


def test_archives_are_cut_by_size():
    journal(*(record(make(f"{number}.png", solid_png() + bytes(5000)), str(number)) for number in range(10)))
    outcome = convert(shard_bytes=15_000)
    assert outcome.num_written == 10
    assert not Path("out.tar").exists()
    names = sorted(Path().glob("out*.tar"))
    # each sample takes 512+5632, 512+512 and 512+512 bytes: two are 16,384, more than 15,000
    assert [name.name for name in names] == [f"out-{number:06}.tar" for number in range(5)]
    keys = [[name.split(".")[0] for name in content(path) if name.endswith("txt")] for path in names]
    assert keys == [[f"{2 * number:09}", f"{2 * number + 1:09}"] for number in range(5)]


def test_a_pattern_says_where_the_number_goes():
    journal(record(make("a.png")))
    convert("s/out-%03d-x.tar")
    assert os.listdir("s") == ["out-000-x.tar"]


def test_archives_of_an_earlier_export_make_way():
    make("out-special.tar", b"of somebody else")
    journal(*(record(make(f"{number}.png", solid_png() + bytes(5000)), str(number)) for number in range(6)))
    convert(shard_bytes=1)
    assert len(list(Path().glob("out-0*.tar"))) == 6
    with pytest.raises(OptionError, match="is there already"):
        convert(shard_bytes=15_000)
    outcome = convert(shard_bytes=15_000, overwrite=True)
    assert sorted(path.name for path in Path().glob("out*.tar")) == [
        "out-000000.tar",
        "out-000001.tar",
        "out-000002.tar",
        "out-special.tar",
    ]
    assert "3" in outcome.warnings[0]
    convert(overwrite=True)
    assert sorted(path.name for path in Path().glob("out*.tar")) == ["out-special.tar", "out.tar"]


def test_archives_of_somebody_else_are_never_touched():
    """As when a data set is captioned from its shards, and exported under its own name."""
    sources = [f"out-{number:06}.tar" for number in range(3)]
    for number, name in enumerate(sources):
        with tarfile.open(name, "w") as archive:
            archive.add(make(f"{number}.png"), f"{number}.png")
    before = {name: Path(name).read_bytes() for name in sources}
    journal(*(record(f"{name}#member={number}.png", str(number)) for number, name in enumerate(sources)))
    for options in ({}, {"overwrite": True, "shard_bytes": 1}):
        with pytest.raises(OptionError, match=r"out-00000\d\.tar"):
            convert(**options)
        assert {name: Path(name).read_bytes() for name in sources} == before
    assert convert(overwrite=True).num_written == 3  # in one archive, which takes the place of none
    assert {name: Path(name).read_bytes() for name in sources} == before
    os.unlink("out.tar")
    journal(record("0.png", "of another run"))
    with pytest.raises(OptionError, match="is there already"):
        convert()
    convert(overwrite=True)  # one archive, out.tar: the numbered ones are not of an export
    assert {name: Path(name).read_bytes() for name in sources} == before
    assert content("out.tar")["000000000.txt"] == b"of another run"


def test_a_caption_is_not_lost_to_a_later_error():
    journal(record(make("a.png"), "good"), record("a.png", None), record("b.png", None))
    outcome = convert()
    assert content()["000000000.txt"] == b"good"
    assert dict(outcome.left_out) == {"errors": 1}


def test_a_journal_without_captions_is_an_archive_of_nothing():
    journal(record("gone.png", None))
    assert convert().num_written == 0
    assert content() == {}


def test_hostile_styles_make_no_other_member_names():
    make("a.png")
    journal(record("a.png", "1"), record("a.png", "2", style="../../x.json\0"))
    convert()
    assert set(content()) == {"000000000.png", "000000000.json", "000000000.txt", "000000000.______x_json_.txt"}


def test_a_full_disk_leaves_the_old_archive(monkeypatch):
    journal(record(make("a.png"), "old"))
    convert()
    before = Path("out.tar").read_bytes()
    journal(record("a.png", "new"))
    full = Path("/dev/full")
    monkeypatch.setattr(tarfile, "open", lambda *_args, **_more: tarfile.TarFile(full, "w"))
    with pytest.raises(JournalWriteError, match=r"out\.tar"):
        convert(overwrite=True)
    assert Path("out.tar").read_bytes() == before
    assert not list(Path().glob(".*partial"))


KILLED = """
import os, signal, sys
from omnicap_cli.exports import webdataset
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import export_journal
from pathlib import Path
add, count = webdataset._ShardFiles.add, 0
def dying(self, key, files):
    global count
    count += 1
    add(self, key, files)
    if count == 3:
        self._archive.fileobj.flush()
        os.kill(os.getpid(), signal.SIGKILL)
webdataset._ShardFiles.add = dying
export_journal(ExportConfig(journal=Path("run.jsonl"), output="out.tar", shard_bytes=1, overwrite=True), show=print)
"""


def test_a_kill_in_the_middle_leaves_the_old_archives():
    journal(*(record(make(f"{number}.png"), "old") for number in range(5)))
    convert(shard_bytes=1)
    before = {path.name: path.read_bytes() for path in Path().glob("out-*.tar")}
    journal(*(record(f"{number}.png", "new") for number in range(5)))
    os.rename("out-000004.tar", "old.tar")
    del before["out-000004.tar"]
    assert subprocess.run([sys.executable, "-c", KILLED]).returncode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in Path().glob("out-*.tar")} == before
    assert list(Path().glob(".out-*partial"))
    convert(shard_bytes=1, overwrite=True)
    assert content("out-000002.tar")["000000002.txt"] == b"new"
    assert not list(Path().glob(".out-*partial"))
