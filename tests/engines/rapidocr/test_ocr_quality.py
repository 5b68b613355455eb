"""Reading real and awkward pages with the real models: a scan, pages lying wrong, a page too tall for one look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein
from rapidocr import RapidOCR

from omnicap_cli.engines.rapidocr.engine import RecogniserConfig, builtin_models, find_models, num_cores
from omnicap_cli.engines.rapidocr.layout import to_text
from omnicap_cli.engines.rapidocr.markdown import to_markdown
from omnicap_cli.engines.rapidocr.recogniser import Recogniser
from omnicap_cli.media.pdf import decode_page

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"

# typed by hand from the picture
PAGE = """\
Region-based segmentation
Let us first determine markers of the coins and the
background. These markers are pixels that we can label
unambiguously as either object or background. Here,
the markers are found at the two extreme parts of the
histogram of grey values:
>>> markers = np.zeros_like(coins)
"""


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    models = {part: str(path) for part, path in find_models(builtin_models()).items()}
    return Recogniser(RecogniserConfig(models=models, num_threads=num_cores()))


def error_rate(read: str, true: str) -> float:
    """Characters to change, of the true ones, white space folded."""
    read, true = " ".join(read.split()), " ".join(true.split())
    return Levenshtein.distance(read, true) / len(true)


def test_a_scanned_page_is_read_no_worse_than_by_the_library_alone(recogniser):
    page = np.stack([skimage.data.page()] * 3, axis=-1)
    alone = RapidOCR(params={"Global.log_level": "critical"})(page)
    ours = error_rate(to_text(recogniser.find_boxes(page)), PAGE)
    assert ours <= error_rate("\n".join(alone.txts or ()), PAGE)
    assert ours <= 0.02


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("name", ["two-columns.png", "sign-zh.png"])
def test_a_page_that_lies_wrong_is_turned(recogniser, name, quarter_turns):
    page = np.asarray(Image.open(EXAMPLES / name).convert("RGB"))
    true = (EXAMPLES / name).with_suffix(".txt").read_text("utf-8")
    assert error_rate(to_text(recogniser.find_boxes(np.rot90(page, quarter_turns))), true) <= 0.02


def test_a_page_of_many_screens_is_read_whole_and_each_line_once(recogniser):
    lines = [f"Entry {number} of a long list, value {number * 37}" for number in range(90)]
    page = Image.new("RGB", (800, 46 * len(lines) + 40), "white")
    drawing = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        drawing.text((40, 20 + 46 * number), line, font=ImageFont.load_default(28), fill="black")
    assert page.height > 5 * page.width
    assert to_text(recogniser.find_boxes(np.asarray(page))).splitlines() == lines


def test_paragraphs_of_a_letter_are_joined_and_its_addresses_are_not(recogniser):
    letter = ""
    for page in (1, 2):
        picture = decode_page(str(EXAMPLES / "letter.pdf"), page, dpi=200, max_decode_pixels=10**8)
        letter += to_markdown(recogniser.find_boxes(np.asarray(picture))) + "\n\n"
    # as typed in letter.py, where blank lines part paragraphs
    blocks = letter.strip().split("\n\n")
    assert [block for block in blocks if "\n" in block] == [
        "Eleanor Whitcombe\nKeeper's Cottage\nSaltmarsh Point\n9 April 2025",
        "Mr Daniel Okafor\nHarbour Museum\nQuay Street\nAlderbrook",
        "Monday 12 May: your van collects the lamp, any time after 10 am\n"
        "Saturday 24 May: the exhibition opens\n"
        "Sunday 14 September: last day\n"
        "Friday 19 September: the lamp comes home",
    ]
    assert [(block[:9], block[-9:]) for block in blocks if len(block) > 120] == [
        ("Thank you", "e summer."),
        ("You asked", "his life."),
        ("The lamp ", " to 1951."),
        ("It must n", " drawing."),
        ("The log m", " morning."),
        ("Monday 12", "omes home"),
        ("Please co", "to offer."),
    ]


@pytest.mark.parametrize("photograph", ["astronaut", "chelsea", "coffee", "logo", "rocket"])
def test_a_picture_without_text_has_no_boxes(recogniser, photograph):
    picture = getattr(skimage.data, photograph)()[:, :, :3]
    assert recogniser.find_boxes(picture) == []


@pytest.mark.parametrize("character", ["7", "K"])
def test_one_large_character_is_text(recogniser, character):
    sign = drawn(character, size=160, margin=60)
    assert to_text(recogniser.find_boxes(sign)) == character


@pytest.mark.parametrize(
    ("text", "size", "margin"),
    [
        ("looked", 20, 0),
        ("himself in this", 40, 0),
        ("they point write got one\nbecause we mother", 12, 1),
        ("year turned find in\nhimself was up", 40, 6),
        ("a line that is more than eight times as wide as it is high", 30, 2),
    ],
)
def test_text_that_is_cut_out_closely_is_read(recogniser, text, size, margin):
    assert to_text(recogniser.find_boxes(drawn(text, size=size, margin=margin))) == text


def drawn(text: str, *, size: int, margin: int) -> np.ndarray:
    """Black on white, cut out with a margin in pixels."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    picture = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), "white")
    ImageDraw.Draw(picture).multiline_text((margin - left, margin - top), text, font=font, fill="black")
    return np.asarray(picture)


def test_a_banner_is_read_whole(recogniser):
    words = [f"word{number} of a banner" for number in range(24)]
    lines = [" ".join(words), " ".join(reversed(words))]
    page = Image.new("RGB", (9000, 160), "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(page).text((40, 30 + 60 * number), line, font=ImageFont.load_default(32), fill="black")
    assert error_rate(to_text(recogniser.find_boxes(np.asarray(page))), "\n".join(lines)) <= 0.02
