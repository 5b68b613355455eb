"""A TIFF with several pages is what scanners write: each page is an item, none is left out."""

from __future__ import annotations

from PIL import Image

from omnicap_cli.core.runs.records import Settings
from omnicap_cli.media.decode import decode, probe_visual
from omnicap_cli.media.sources import Sources

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def write_tiff(path, colours):
    pages = [Image.new("RGB", (20 + 10 * number, 30), colour) for number, colour in enumerate(colours)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def test_each_page_of_a_tiff_is_an_item(tmp_path):
    path = tmp_path / "scan.tif"
    write_tiff(path, COLOURS)
    items = list(Sources(inputs=(str(path),)))
    assert [item.id for item in items] == [f"{path}#page={page}" for page in (1, 2, 3)]
    for number, item in enumerate(items):
        pixels = decode(item, Settings())
        assert pixels.image.getpixel((5, 5)) == COLOURS[number]
        assert (pixels.width, pixels.height) == probe_visual(item.visuals[0], Settings()) == (20 + 10 * number, 30)


def test_a_tiff_of_one_page_is_one_picture(tmp_path):
    path = tmp_path / "scan.tiff"
    write_tiff(path, COLOURS[:1])
    [item] = Sources(inputs=(str(path),))
    assert (item.id, item.visuals[0].page) == (str(path), None)


def test_the_resolution_of_pdf_pages_has_no_say_in_tiff_pages(tmp_path):
    path = tmp_path / "scan.tif"
    write_tiff(path, COLOURS)
    for item in Sources(inputs=(str(path),)):
        assert Settings(dpi=300).of(item.visuals) == {}


def test_a_damaged_tiff_is_one_error(tmp_path):
    path = tmp_path / "scan.tif"
    path.write_bytes(b"II*\x00" + b"\xff" * 40)
    [item] = Sources(inputs=(str(path),))
    assert item.error is not None
    assert item.id == str(path)
