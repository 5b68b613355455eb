"""Pictures of records found again: the right column, the right archive, and no archive read over and over."""

from __future__ import annotations

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.media_samples import solid_png

from omnicap_cli.errors import DecodeError, NotFoundError
from omnicap_cli.media import archives, container_pictures
from omnicap_cli.media.record_pictures import RecordPictures
from omnicap_cli.media.sources import Sources

SMALL, LARGE = solid_png(size=(2, 2)), solid_png(size=(64, 64))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tar(path, names, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(SMALL)
            archive.addfile(member, io.BytesIO(SMALL))


def test_the_column_that_was_captioned_is_the_one_that_is_found():
    pq.write_table(pa.table({"thumbnail": [SMALL], "image": [LARGE], "other": [SMALL + b"x"]}), "p.parquet")
    record = {"image": "p.parquet#row=1"}
    assert RecordPictures().file_of(record).content == LARGE
    assert RecordPictures(image_key="thumbnail").file_of(record).content == SMALL
    assert RecordPictures(image_key="other").file_of(record).content == SMALL + b"x"


def test_another_column_than_the_one_that_was_captioned_is_never_taken():
    """A mask that is exported as the picture is found out by nobody."""
    pq.write_table(pa.table({"mask": [SMALL], "pic": [LARGE], "n": [1]}), "p.parquet")
    record = {"image": "p.parquet#row=1"}
    assert RecordPictures(image_key="pic").file_of(record).content == LARGE
    for image_key in (None, "image", "n", "gone"):
        with pytest.raises(NotFoundError, match=r"^p\.parquet .*: mask, pic$"):
            RecordPictures(image_key=image_key).file_of(record)


def test_the_only_column_of_pictures_needs_no_name():
    digest = pa.array([b"0123456789abcdef"], pa.binary(16))
    pq.write_table(pa.table({"sha": digest, "pic": [LARGE], "box": [{"x": 1}]}), "p.parquet")
    assert RecordPictures().file_of({"image": "p.parquet#row=1"}).content == LARGE
    for others in (pa.table({"n": [1]}), pa.Table.from_arrays([pa.array([SMALL]), pa.array([LARGE])], ["pic", "pic"])):
        pq.write_table(others, "p.parquet")
        for image_key in (None, "pic"):
            with pytest.raises(NotFoundError, match=r"none$"):
                RecordPictures(image_key=image_key).file_of({"image": "p.parquet#row=1"})


def test_a_column_called_like_a_field_of_another_is_not_taken_for_it():
    pq.write_table(pa.table({"image": [{"bytes": LARGE}], "image.bytes": [SMALL]}), "p.parquet")
    assert RecordPictures(image_key="image").file_of({"image": "p.parquet#row=1"}).content == LARGE
    assert RecordPictures(image_key="image.bytes").file_of({"image": "p.parquet#row=1"}).content == SMALL


STRUCT = pa.struct({"bytes": pa.large_binary(), "taken": pa.timestamp("us")})
KINDS = {
    "binary": pa.array([LARGE]),
    "large": pa.array([LARGE], pa.large_binary()),
    "view": pa.array([LARGE], pa.binary_view()),
    "fixed": pa.array([LARGE], pa.binary(len(LARGE))),
    "dictionary": pa.array([LARGE]).dictionary_encode(),
    "fixed-dictionary": pa.array([LARGE], pa.binary(len(LARGE))).dictionary_encode(),
    "struct": pa.StructArray.from_arrays(
        [pa.array([LARGE], STRUCT[0].type), pa.array([2**62], STRUCT[1].type)], ["bytes", "taken"]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_captioned_is_found_whatever_type_its_column_has(kind):
    pq.write_table(pa.table({"image": KINDS[kind]}), "p.parquet")
    (item,) = Sources(inputs=("p.parquet",))
    assert item.visuals[0].content == LARGE
    assert RecordPictures().file_of({"image": item.image}).content == LARGE


def test_a_damaged_parquet_is_an_error_of_its_pictures():
    pq.write_table(pa.table({"image": [LARGE * 50] * 4}), "p.parquet", compression="none", use_dictionary=False)
    with open("p.parquet", "r+b") as file:
        file.seek(4)
        file.write(b"\xff" * 60)
    with pytest.raises(DecodeError, match=r"p\.parquet"):
        RecordPictures().file_of({"image": "p.parquet#row=1"})


def test_members_that_are_gone_cost_one_pass(monkeypatch):
    tar("x.tar.gz", [f"{number}.png" for number in range(5)])
    passes, members = [], archives.read_members
    monkeypatch.setattr(
        container_pictures.archives, "read_members", lambda *a, **k: passes.append(1) or members(*a, **k)
    )
    found = RecordPictures()
    for _ in range(3):
        with pytest.raises(NotFoundError, match="gone"):
            found.file_of({"image": "x.tar.gz#member=gone.png"})
    assert len(passes) == 1
    assert found.file_of({"image": "x.tar.gz#member=3.png"}).content == SMALL


def test_archives_by_turns_are_each_read_once(monkeypatch):
    tar("x.tar.gz", [f"{number}.png" for number in range(6)])
    tar("y.tar.gz", [f"{number}.png" for number in range(6)])
    passes, members = [], archives.read_members
    monkeypatch.setattr(
        container_pictures.archives, "read_members", lambda *a, **k: passes.append(1) or members(*a, **k)
    )
    found = RecordPictures()
    for number in (1, 0, 3, 2, 5, 4):  # a little out of order, as several workers finish
        for name in ("x", "y"):
            assert found.file_of({"image": f"{name}.tar.gz#member={number}.png"}).content == SMALL
    assert len(passes) == 2


@pytest.mark.parametrize("in_place", [True, False])
def test_a_member_of_less_than_nothing_ends_the_archive(in_place):
    """A size in base 256, as GNU tar writes it, with its sign bit set: -512, which leads back to the same header."""
    header = bytearray(tarfile.TarInfo("a.png").tobuf())
    header[124:136] = (256**12 - 512).to_bytes(12, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    with open("x.tar" if in_place else "x.tar.gz", "wb") as file:
        file.write(bytes(header) + bytes(1024))
    (item,) = Sources(inputs=("x.tar" if in_place else "x.tar.gz",))
    assert item.error.kind == "DecodeError"
