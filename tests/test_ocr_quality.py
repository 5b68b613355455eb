"""Reading real and awkward pages with the real models: a scan, pages lying wrong, a page too tall for one look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein
from rapidocr import RapidOCR

from omnicap_cli.engines.layout import to_text
from omnicap_cli.engines.rapidocr import RecogniserConfig, builtin_models, find_models, num_cores
from omnicap_cli.engines.rapidocr_worker import Recogniser

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

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
    ours = error_rate(to_text(recogniser.boxes(page)), PAGE)
    assert ours <= error_rate("\n".join(alone.txts or ()), PAGE)
    assert ours <= 0.02


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
@pytest.mark.parametrize("name", ["two-columns.png", "sign-zh.png"])
def test_a_page_that_lies_wrong_is_turned(recogniser, name, quarter_turns):
    page = np.asarray(Image.open(EXAMPLES / name).convert("RGB"))
    true = (EXAMPLES / name).with_suffix(".txt").read_text("utf-8")
    assert error_rate(to_text(recogniser.boxes(np.rot90(page, quarter_turns))), true) <= 0.02


def test_a_page_of_many_screens_is_read_whole_and_each_line_once(recogniser):
    lines = [f"Entry {number} of a long list, value {number * 37}" for number in range(90)]
    page = Image.new("RGB", (800, 46 * len(lines) + 40), "white")
    drawing = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        drawing.text((40, 20 + 46 * number), line, font=ImageFont.load_default(28), fill="black")
    assert page.height > 5 * page.width
    assert to_text(recogniser.boxes(np.asarray(page))).splitlines() == lines
