"""What is no picture, or a damaged one, becomes an ItemError that says so."""

from __future__ import annotations

import contextlib
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from support.image_files import LIMIT, encoded_image, save_file, sixteen_bits
from support.media_samples import GREY, pdf, png, tiff

from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    EmptyFileError,
    ItemError,
    LinkLoopError,
    NotFoundError,
    UnsupportedError,
)
from omnicap_cli.media.images import decode_image, header_size

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("name", ["picture.eps", "picture.png", "picture.jpg"])
def test_eps_is_never_decoded(tmp_path, name, monkeypatch):
    def no_processes(*_arguments, **_options):
        raise AssertionError("nothing may be run")

    monkeypatch.setattr("subprocess.Popen", no_processes)
    path = save_file(tmp_path, name, EPS)
    with pytest.raises(UnsupportedError):
        decode_image(path, max_decode_pixels=LIMIT)
    with pytest.raises(UnsupportedError):
        header_size(path)


# --- what is no picture


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", EmptyFileError, "empty"),
        (b"Dear reader,\nthis is a letter.\n", UnsupportedError, "text"),
        ("日本語の手紙。".encode() * 100, UnsupportedError, "text"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedError, "text"),
        (b"\0" * 4096, DecodeError, "zero bytes"),
        (pdf((100, 100)), UnsupportedError, "PDF"),
        (bytes(range(128, 256)) * 9, UnsupportedError, "not an image"),
    ],
    ids=["empty", "letter", "letter in Japanese", "SVG", "zeros", "PDF", "noise"],
)
def test_what_is_no_picture_says_what_it_is(tmp_path, data, error, words):
    path = save_file(tmp_path, "picture.png", data)
    for read in (header_size, lambda path: decode_image(path, max_decode_pixels=LIMIT)):
        with pytest.raises(error, match=words):
            read(path)


@pytest.mark.parametrize("name", ["pictures.png", "report.docx"])
def test_a_zip_archive_or_an_office_document_is_called_that(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("word/document.xml", "<w:document/>")
    for read in (header_size, lambda path: decode_image(path, max_decode_pixels=LIMIT)):
        with pytest.raises(UnsupportedError, match=r"zip.*office document"):
            read(str(tmp_path / name))


def test_files_that_are_not_there(tmp_path):
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name, error in {
        "missing.png": NotFoundError,
        "dangling.png": NotFoundError,
        "loop.png": LinkLoopError,
        "": AccessError,
    }.items():
        with pytest.raises(error):
            decode_image(str(tmp_path / name), max_decode_pixels=LIMIT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_a_truncated_file_is_damaged(tmp_path, format):
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    data = encoded_image(noise, format)
    with pytest.raises(ItemError) as caught:
        decode_image(save_file(tmp_path, "picture", data[: len(data) // 2]), max_decode_pixels=LIMIT)
    assert caught.value.message
    assert caught.value.kind in ("DecodeError", "UnsupportedError")


# --- damage of every kind


def _small(format):
    picture = Image.effect_noise((24, 17), 80).convert("RGB")
    options = {"GIF": {"save_all": True, "append_images": [picture.rotate(180)]}}.get(format, {})
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded_image(picture, format, **options, **({} if format == "GIF" else {"exif": exif}))


WHOLE = {format: _small(format) for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF")}
WHOLE["TIFF by hand"] = tiff((4, 4), bytes(range(48)), bits=(8, 8, 8), photometric=2, orientation=8)
WHOLE["16 bits"] = png((4, 1), [sixteen_bits(0, 1, 2, 3)], color_type=GREY, bit_depth=16)
mutations = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6)


@contextlib.contextmanager
def explained():
    """An ItemError, if any, with a message; nothing else may be raised."""
    try:
        yield
    except ItemError as error:
        if not error.message:
            raise


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "picture"


@pytest.mark.parametrize("format", WHOLE)
@given(cut=st.none() | st.integers(0, 4000), changes=mutations, at_the_start=st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_gives_pixels_or_an_item_error(scratch, format, cut, changes, at_the_start):
    data = bytearray(WHOLE[format][: None if cut is None else cut % len(WHOLE[format])])
    for place, value in changes:
        if data:
            data[place % min(len(data), 64 if at_the_start else len(data))] = value
    scratch.write_bytes(data)
    size = None
    with explained():
        size = header_size(str(scratch))
    with explained():
        image = decode_image(str(scratch), max_decode_pixels=LIMIT)
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= LIMIT
        assert size == image.size


@pytest.mark.parametrize("format", WHOLE)
def test_the_undamaged_files_of_the_damage_test_are_read(scratch, format):
    scratch.write_bytes(WHOLE[format])
    image = decode_image(str(scratch), max_decode_pixels=LIMIT)
    assert header_size(str(scratch)) == image.size
    assert image.size == {"GIF": (24, 17), "TIFF by hand": (4, 4), "16 bits": (4, 1)}.get(format, (17, 24))
