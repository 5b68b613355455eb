"""The example inputs have their truth beside them, and real OCR through the command line reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pypdfium2
import pytest
from rapidfuzz.distance import Levenshtein

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURES = sorted(path for path in EXAMPLES.iterdir() if path.suffix in {".jpg", ".png"})
LETTER = EXAMPLES / "letter.pdf"
TRUTHS = {str(path): path.with_suffix(".txt") for path in PICTURES} | {
    f"{LETTER}#page={number}": EXAMPLES / f"letter.page-{number}.txt" for number in (1, 2)
}
SHORT_IDS = [Path(record_id).name for record_id in TRUTHS]
MAX_FOLDER_BYTES = 600_000
MAX_TOTAL_ERROR_RATE = 0.02
MAX_FILE_ERROR_RATE = 0.05


class Errors(NamedTuple):
    """Character errors of one text against its truth."""

    distance: int
    num_true_characters: int

    @property
    def rate(self) -> float:
        return self.distance / self.num_true_characters


def fold(text: str) -> str:
    """The text with each run of white space as one space."""
    return " ".join(text.split())


def read_truth(record_id: str) -> str:
    return fold(TRUTHS[record_id].read_text(encoding="utf-8"))


def count_errors(text: str, truth: str) -> Errors:
    return Errors(Levenshtein.distance(fold(text), truth), len(truth))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What `omnicap caption` says about the folder, by record id."""
    output = tmp_path_factory.mktemp("examples") / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "omnicap_cli",
        "caption",
        str(EXAMPLES),
        "--type",
        "ocr",
        "-o",
        str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = output.read_text(encoding="utf-8").splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def test_there_is_a_picture_of_each_kind():
    assert [path.name for path in PICTURES] == [
        "poster.png",
        "receipt.jpg",
        "screen.png",
        "sign-zh.png",
        "table.png",
        "two-columns.png",
    ]


@pytest.mark.parametrize("record_id", TRUTHS, ids=SHORT_IDS)
def test_truth_is_tidy_text(record_id):
    lines = TRUTHS[record_id].read_text(encoding="utf-8").splitlines()
    assert lines
    assert all(line and line == fold(line) for line in lines)


def test_every_truth_has_its_picture():
    assert set(EXAMPLES.glob("*.txt")) == set(TRUTHS.values())


def test_folder_is_small():
    files = (path for path in EXAMPLES.iterdir() if path.is_file())
    assert sum(path.stat().st_size for path in files) < MAX_FOLDER_BYTES


def test_letter_has_two_pages_whose_text_layer_is_the_truth():
    with pypdfium2.PdfDocument(LETTER) as document:
        layers = [fold(page.get_textpage().get_text_bounded()) for page in document]
    assert layers == [read_truth(f"{LETTER}#page={number}") for number in (1, 2)]


def test_every_example_is_captioned(records):
    assert {record_id: record["status"] for record_id, record in records.items()} == dict.fromkeys(TRUTHS, "ok")


@pytest.mark.parametrize("record_id", TRUTHS, ids=SHORT_IDS)
def test_ocr_reads_each_example(records, record_id):
    errors = count_errors(records[record_id]["caption"], read_truth(record_id))
    assert errors.rate <= MAX_FILE_ERROR_RATE, records[record_id]["caption"]


def test_ocr_reads_the_examples_together(records):
    errors = [count_errors(records[record_id]["caption"], read_truth(record_id)) for record_id in TRUTHS]
    total = Errors(*(sum(column) for column in zip(*errors, strict=True)))
    assert total.rate <= MAX_TOTAL_ERROR_RATE
