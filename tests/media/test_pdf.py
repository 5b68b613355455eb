"""PDF pages: counted, measured and rendered over white; whatever can't be read says why. Sizes by arithmetic."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pypdfium2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.media_samples import encrypted_pdf, pdf, solid_png

from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    EncryptedError,
    ItemError,
    NotFoundError,
    TooLargeError,
    UnsupportedError,
)
from omnicap_cli.media import pdf as pdf_module
from omnicap_cli.media.decode import decode, probe_visual
from omnicap_cli.media.pdf import decode_page, num_pdf_pages, page_size

DATA = Path(__file__).parent / "data"
LIMIT = 20_000_000
A4 = (595, 842)  # points


def save(folder, data, name="a.pdf"):
    path = os.path.join(os.fsencode(folder), os.fsencode(name))
    with open(path, "wb") as file:
        file.write(data)
    return os.fsdecode(path)


def anew(path, data):
    """A new file: the time of one that is written over may be the same where clocks are coarse."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def render(path, page=1, dpi=72):
    image = decode_page(path, page, dpi=dpi, max_decode_pixels=LIMIT)
    assert image.mode == "RGB"
    assert image.size == page_size(path, page, dpi=dpi)
    return image


@pytest.mark.parametrize("count", [1, 2, 17])
def test_the_number_of_pages(tmp_path, count):
    assert num_pdf_pages(save(tmp_path, pdf(*[A4] * count))) == count


@pytest.mark.parametrize(
    ("box", "dpi", "size"),
    [
        (A4, 72, (595, 842)),
        (A4, 150, (1240, 1755)),  # 595 * 150 / 72 = 1239.58, 842 * 150 / 72 = 1754.17: a part of a pixel is a pixel
        (A4, 300, (2480, 3509)),  # 2479.17, 3508.33
        ((612, 792), 150, (1275, 1650)),  # letter: both exact
        ((612, 792), 72, (612, 792)),
        ((72, 36), 100, (100, 50)),
        ((100, 50), 36, (50, 25)),
        ((0.5, 0.5), 72, (1, 1)),
        ((100.25, 10), 72, (101, 10)),
    ],
)
def test_the_size_of_a_page_at_a_resolution(tmp_path, box, dpi, size):
    path = save(tmp_path, pdf(box))
    assert page_size(path, 1, dpi=dpi) == size
    assert render(path, dpi=dpi).size == size


@given(width=st.integers(1, 1500), height=st.integers(1, 1500), dpi=st.integers(10, 400))
@example(width=612, height=792, dpi=150)
@example(width=504, height=720, dpi=100)
@settings(max_examples=150)
def test_sizes_that_are_whole_are_not_rounded_up(tmp_path_factory, width, height, dpi):
    path = anew(tmp_path_factory.getbasetemp() / "size.pdf", pdf((width, height)))
    exact = tuple(math.ceil(Fraction(side * dpi, 72)) for side in (width, height))
    assert page_size(str(path), 1, dpi=dpi) == exact


@given(width=st.integers(1, 400), height=st.integers(1, 400), dpi=st.integers(10, 200))
@example(width=612, height=792, dpi=150)
@settings(max_examples=150)
def test_the_size_is_that_of_the_rendered_page(tmp_path_factory, width, height, dpi):
    path = anew(tmp_path_factory.getbasetemp() / "rendered.pdf", pdf((width, height)))
    image = decode_page(str(path), 1, dpi=dpi, max_decode_pixels=LIMIT)
    assert page_size(str(path), 1, dpi=dpi) == image.size


def test_each_page_has_its_own_size(tmp_path):
    path = save(tmp_path, pdf((100, 50), (30, 80)))
    assert [render(path, page).size for page in (1, 2)] == [(100, 50), (30, 80)]


def test_a_turned_page_is_measured_as_shown(tmp_path):
    data = pdf((100, 50)).replace(b"/Type /Page /", b"/Rotate 90 /Type /Page /")
    assert render(save(tmp_path, data)).size == (50, 100)


def test_an_empty_page_is_white(tmp_path):
    assert render(save(tmp_path, pdf((10, 10)))).getcolors() == [(100, (255, 255, 255))]


def test_colours_are_red_green_blue_in_this_order(tmp_path):
    # red in the left half, blue in the right; y counts from below in a PDF
    path = save(tmp_path, pdf((20, 10), content=b"1 0 0 rg 0 0 10 10 re f 0 0 1 rg 10 0 10 10 re f"))
    image = render(path)
    assert image.getpixel((2, 5)) == (255, 0, 0)
    assert image.getpixel((17, 5)) == (0, 0, 255)


def test_transparency_over_white(tmp_path):
    # black with opacity 0.4: 255 * 0.6 = 153
    resources = b"/ExtGState << /Half << /Type /ExtGState /ca 0.4 >> >>"
    image = render(save(tmp_path, pdf((10, 10), content=b"/Half gs 0 g 0 0 10 10 re f", resources=resources)))
    assert all(abs(value - 153) <= 1 for value in image.getpixel((5, 5)))


def test_what_a_soft_mask_leaves_open_is_white(tmp_path):
    # an image of one black pixel whose soft mask has opacity 51/255 = 0.2: 255 * 0.8 = 204
    form = b"/Type /XObject /Subtype /Image /Width 1 /Height 1 /BitsPerComponent 8 /ColorSpace"
    picture = b"<< %s /DeviceRGB /SMask 5 0 R /Length 3 >>\nstream\n\0\0\0\nendstream" % form
    mask = b"<< %s /DeviceGray /Length 1 >>\nstream\n\x33\nendstream" % form
    data = pdf((10, 10), content=b"10 0 0 10 0 0 cm /P Do", resources=b"/XObject << /P 4 0 R >>", extra=[picture, mask])
    assert all(abs(value - 204) <= 1 for value in render(save(tmp_path, data)).getpixel((5, 5)))


def test_what_is_filled_into_a_form_is_drawn(tmp_path):
    # the appearance of the text field, which lies at 20 to 80 by 10 to 40 points, is a black box of its size
    appearance = b"0 g 0 0 60 30 re f"
    form = b"<< /Type /XObject /Subtype /Form /BBox [0 0 60 30] /Resources << >> /Length %d >>\nstream\n%s\nendstream"
    field = (
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (Ada) /F 4 /Rect [20 10 80 40] /P 6 0 R"
        b" /DA (/Helv 12 Tf 0 g) /AP << /N 5 0 R >> >>"
    )
    data = pdf(
        (100, 50),
        extra=[field, form % (len(appearance), appearance)],
        catalog=b"/AcroForm << /Fields [4 0 R] >>",
        page=b"/Annots [4 0 R]",
    )
    image = render(save(tmp_path, data))
    assert [max(image.getpixel(place)) < 50 for place in ((30, 25), (50, 15), (70, 35))] == [True] * 3
    assert image.getpixel((5, 25)) == image.getpixel((95, 45)) == (255, 255, 255)


# --- what can't be read


def both(path, page=1):
    """The errors of measuring and of rendering."""
    caught = []
    for call in (
        lambda: page_size(path, page, dpi=72),
        lambda: decode_page(path, page, dpi=72, max_decode_pixels=LIMIT),
    ):
        with pytest.raises(ItemError) as error:
            call()
        caught.append(error.value)
    assert len({(type(error), error.message) for error in caught}) == 1
    return caught[0]


def test_the_encrypted_sample_is_what_media_samples_writes():
    written = encrypted_pdf(user_password=b"secret", owner_password=b"owner")
    assert (DATA / "encrypted.pdf").read_bytes() == written


def test_the_encrypted_sample_opens_with_its_password():
    with pypdfium2.PdfDocument(DATA / "encrypted.pdf", password="secret") as document:
        assert [page.get_size() for page in document] == [A4]


def test_an_encrypted_pdf_says_so():
    path = str(DATA / "encrypted.pdf")
    with pytest.raises(EncryptedError, match="password"):
        num_pdf_pages(path)
    assert "password" in both(path).message


def test_a_pdf_that_only_its_owner_has_locked_is_read(tmp_path):
    path = save(tmp_path, encrypted_pdf(user_password=b"", owner_password=b"owner"))
    assert num_pdf_pages(path) == 1
    assert render(path).size == A4


@pytest.mark.parametrize("opened_before", ["nothing", "an encrypted one"])
def test_no_pages(tmp_path, opened_before):
    if opened_before != "nothing":
        with pytest.raises(EncryptedError):
            num_pdf_pages(str(DATA / "encrypted.pdf"))
    path = save(tmp_path, pdf())
    with pytest.raises(DecodeError) as caught:
        num_pdf_pages(path)
    assert "Success" not in caught.value.message
    assert both(path).kind == "DecodeError"


@pytest.mark.parametrize("page", [0, 3, -1, 100])
def test_a_page_that_is_not_there(tmp_path, page):
    path = save(tmp_path, pdf((10, 10), (10, 10)))
    error = both(path, page)
    assert error.kind == "DecodeError"
    assert f"page {page}" in error.message


@pytest.mark.parametrize(
    "data",
    [b"%PDF-1.4\n", pdf(A4)[:60], b"%PDF-1.4\n" + b"\0" * 2000, b"%PDF-1.7\n%%EOF\n"],
    ids=["header", "cut", "zeros", "empty"],
)
def test_a_damaged_pdf(tmp_path, data):
    path = save(tmp_path, data)
    with pytest.raises(DecodeError, match="damaged"):
        num_pdf_pages(path)
    assert both(path).kind == "DecodeError"


@pytest.mark.parametrize("data", [b"Dear reader", solid_png(), b"PK\3\4" + b"\0" * 100, b"\0" * 2000])
def test_what_is_no_pdf(tmp_path, data):
    path = save(tmp_path, data)
    with pytest.raises(UnsupportedError, match="not a PDF"):
        num_pdf_pages(path)


@pytest.mark.parametrize("num_real", [1, 3])
def test_a_pdf_that_claims_a_million_pages_has_those_it_has(tmp_path, num_real):
    path = save(tmp_path, pdf(*[(10, 20)] * num_real, count=1_000_000))
    assert num_real <= num_pdf_pages(path) <= num_real + 3
    assert [render(path, page).size for page in range(1, num_real + 1)] == [(10, 20)] * num_real
    for page in range(num_real + 1, num_pdf_pages(path) + 1):
        assert both(path, page).kind == "DecodeError"


def test_a_pdf_after_other_bytes_is_read(tmp_path):
    assert num_pdf_pages(save(tmp_path, b"From: someone\r\n\r\n" + pdf(A4))) == 1


@given(cut=st.integers(0, 700), changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=8))
@settings(max_examples=200)
def test_damage_gives_a_page_or_an_item_error(tmp_path_factory, cut, changes):
    data = bytearray(pdf((20, 20), (10, 10), content=b"1 0 0 rg 0 0 10 10 re f"))[: cut or None]
    for place, value in changes:
        data[place % len(data)] = value
    path = anew(tmp_path_factory.getbasetemp() / "damaged.pdf", data)
    with contextlib.suppress(ItemError):
        for page in range(1, num_pdf_pages(str(path)) + 1):
            image = decode_page(str(path), page, dpi=72, max_decode_pixels=1_000_000)
            assert image.mode == "RGB"
            assert page_size(str(path), page, dpi=72) == image.size


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(NotFoundError):
        num_pdf_pages(str(tmp_path / "missing.pdf"))
    with pytest.raises(AccessError):
        num_pdf_pages(str(tmp_path))


@pytest.mark.parametrize("box", [(14_400, 14_400), (1_000_000, 1_000_000), (14_400, 1_400)])
def test_a_huge_page_is_refused_before_rendering(tmp_path, monkeypatch, box):
    def render(*_arguments, **_options):
        raise AssertionError("rendered before the size was checked")

    monkeypatch.setattr(pypdfium2.PdfPage, "render", render)
    path = save(tmp_path, pdf(box))
    with pytest.raises(TooLargeError, match="--max-decode-pixels"):
        decode_page(path, 1, dpi=72, max_decode_pixels=LIMIT)


def test_the_limit_counts_pixels_at_the_resolution(tmp_path):
    path = save(tmp_path, pdf((72, 72)))
    assert decode_page(path, 1, dpi=100, max_decode_pixels=10_000).size == (100, 100)
    with pytest.raises(TooLargeError, match="100x100"):
        decode_page(path, 1, dpi=100, max_decode_pixels=9_999)


def test_a_pdf_whose_name_is_not_utf8(tmp_path):
    path = save(tmp_path, pdf((10, 20)), b"caf\xe9 \xff.pdf")
    assert num_pdf_pages(path) == 1
    assert render(path).size == (10, 20)


@pytest.mark.parametrize("name", ["日本語.pdf", "a\nb.pdf", "a b%20.pdf"])
def test_pdfs_with_odd_names(tmp_path, name):
    assert render(save(tmp_path, pdf((10, 20)), name)).size == (10, 20)


def test_decode_and_probe_of_a_page(tmp_path):
    path = save(tmp_path, pdf((100, 100), (200, 100)))
    item = Item(id="a#page=2", image="a", visuals=(MediaRef(path=path, page=2, kind="pdf"),), fingerprint="")
    pixels = decode(item, Settings(dpi=144, max_pixels=20_000))
    assert (pixels.width, pixels.height) == (400, 200) == probe_visual(item.visuals[0], Settings(dpi=144))
    assert pixels.image.size == (200, 100)


def test_pages_are_rendered_from_several_threads(tmp_path):
    path = save(tmp_path, pdf(*[(50, 50)] * 8, content=b"1 0 0 rg 0 0 50 50 re f"))
    colors = []

    def work():
        for page in range(1, 9):
            colors.append(decode_page(path, page, dpi=72, max_decode_pixels=LIMIT).getpixel((25, 25)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert colors == [(255, 0, 0)] * 32


# --- the document that stays open


@pytest.fixture
def openings(monkeypatch):
    """A list that grows with each document that is opened; none is open at first."""
    found, document = [], pdf_module._parse_document

    def counting(file):
        found.append(file)
        return document(file)

    pdf_module._last_document.close()
    monkeypatch.setattr(pdf_module, "_parse_document", counting)
    return found


def test_the_pages_of_a_long_pdf_are_measured_and_rendered_without_opening_it_for_each(tmp_path, openings):
    path = save(tmp_path, pdf(*[(10 + number, 10) for number in range(200)]))
    assert [page_size(path, page, dpi=72).width for page in range(1, 201)] == list(range(10, 210))
    assert len(openings) == 4  # 200 pages, 64 of an opening, so that what PDFium holds doesn't grow with the pages
    openings.clear()
    assert [render(path, page).width for page in (200, 1, 100)] == [209, 10, 109]
    assert len(openings) == 0


def test_a_pdf_of_heavy_pages_is_opened_more_often(tmp_path, openings, monkeypatch):
    path = save(tmp_path, pdf(*[(10, 10)] * 10))
    monkeypatch.setattr(pdf_module, "_MAX_BYTES_HELD", os.path.getsize(path) * 4 // 10 + 1)
    for page in range(1, 11):
        page_size(path, page, dpi=72)
    assert len(openings) == 3  # 4, 4 and 2 pages of it
    monkeypatch.setattr(pdf_module, "_MAX_BYTES_HELD", 1)
    pdf_module._last_document.close()
    openings.clear()
    assert [page_size(path, page, dpi=72) for page in (1, 2, 3)] == [(10, 10)] * 3
    assert len(openings) == 3


def test_two_pdfs_by_turns(tmp_path):
    paths = [save(tmp_path, pdf((10, 10), (20, 10)), "a.pdf"), save(tmp_path, pdf((30, 10), (40, 10)), "b.pdf")]
    assert [render(path, page).width for page in (1, 2) for path in paths] == [10, 30, 20, 40]


@pytest.mark.parametrize("change", ["written over", "replaced", "shortened"])
def test_a_pdf_that_is_changed_in_between_is_read_anew(tmp_path, change):
    before, after = pdf((10, 10), (20, 10)), pdf((30, 10), (40, 10))
    assert len(before) == len(after)
    path = Path(save(tmp_path, before))
    os.utime(path, ns=(1, 1))
    assert render(str(path), 2).size == (20, 10)
    if change == "written over":  # as many bytes of the same file, at another time
        path.write_bytes(after)
        os.utime(path, ns=(1, 2))
    elif change == "replaced":  # as many bytes of the same time, in another file
        save(tmp_path, after, "b.pdf")
        os.utime(tmp_path / "b.pdf", ns=(1, 1))
        os.replace(tmp_path / "b.pdf", path)
    else:
        path.write_bytes(pdf((50, 10)))
        os.utime(path, ns=(1, 1))
    if change == "shortened":
        assert both(str(path), 2).kind == "DecodeError"
        assert render(str(path), 1).size == (50, 10)
    else:
        assert [render(str(path), page).size for page in (1, 2)] == [(30, 10), (40, 10)]


def num_open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc")
def test_at_most_one_file_stays_open(tmp_path):
    paths = [save(tmp_path, pdf(A4, A4), name) for name in ("a.pdf", "b.pdf")]
    damaged = save(tmp_path, b"%PDF-1.4\n", "damaged.pdf")
    pdf_module._last_document.close()
    before = num_open_files()
    for path in paths * 3:
        assert num_pdf_pages(path) == 2
        decode_page(path, 2, dpi=10, max_decode_pixels=LIMIT)
        assert num_open_files() == before + 1
    for fails in (lambda: num_pdf_pages(damaged), lambda: page_size(paths[0], 3, dpi=72)):
        num_pdf_pages(paths[0])
        with pytest.raises(DecodeError):
            fails()
        assert num_open_files() == before
    assert render(paths[0], 2).size == A4


ENDING = """
import sys, threading, pypdfium2
from omnicap_cli.media.pdf import decode_page
begun, render = threading.Event(), pypdfium2.PdfPage.render
def rendering(*arguments, **options):
    begun.set()
    return render(*arguments, **options)
pypdfium2.PdfPage.render = rendering
words = {"dpi": 150, "max_decode_pixels": 20_000_000}
threading.Thread(target=decode_page, args=(sys.argv[1], 1), kwargs=words, daemon=True).start()
assert begun.wait(60)
"""


def test_a_process_may_end_while_a_thread_renders(tmp_path):
    """PDFium ends the process with SIGABRT or SIGSEGV if its document is closed under it."""
    Image.effect_noise((1600, 1600), 90).convert("RGB").save(tmp_path / "a.pdf")  # it takes a while to decode
    for _ in range(3):
        words = [sys.executable, "-c", ENDING, str(tmp_path / "a.pdf")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_process_may_end_with_an_open_document(tmp_path):
    code = "import sys; from omnicap_cli.media.pdf import page_size; print(*page_size(sys.argv[1], 1, dpi=72))"
    words = [sys.executable, "-X", "dev", "-c", code, save(tmp_path, pdf((10, 20)))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "10 20\n",
        "",
    )  # nor is there a warning of a file left open
