"""The trained captioner of `examples/shapes`: what it says of pictures that it has never seen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.shapes_example import ROOT, SHAPES, caption_of, read_records, run

CAPTIONER = SHAPES / "captioner"
NUM_PICTURES = 100


@pytest.mark.parametrize("seed", [0, 7])  # what was held out in its training, and others
def test_pictures_that_were_never_seen_are_described_exactly(tmp_path, seed) -> None:
    """Nine of ten captions, word for word. Two scenes alike don't occur: places vary by the sub-pixel."""
    words = (
        "--world",
        "small",
        "--size",
        "84x84",
        "--train",
        "0",
        "--held-out",
        str(NUM_PICTURES),
        "--seed",
        str(seed),
    )
    result = run("draw.py", "shapes", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    options = (
        "--type",
        "natural",
        "--style",
        "short",
        "--model",
        str(CAPTIONER),
        "--dtype",
        "float32",
        "-o",
        "out.jsonl",
    )
    command = [sys.executable, "-m", "omnicap_cli", "caption", "shapes/held-out", *options]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    wanted = {record["image"]: caption_of(record) for record in read_records(tmp_path / "shapes/held-out.jsonl")}
    said = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert {each["image"] for each in said} == wanted.keys()
    num_exact = sum(each["caption"] == wanted[each["image"]] for each in said)
    assert num_exact >= 0.9 * NUM_PICTURES, f"{num_exact} of {NUM_PICTURES}"


def test_the_captioner_is_small_and_safe() -> None:
    sizes = {path.name: path.stat().st_size for path in CAPTIONER.iterdir()}
    assert sum(sizes.values()) <= 12_000_000
    assert not [name for name in sizes if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    config = json.loads((CAPTIONER / "config.json").read_text())
    assert config["model_type"] == "qwen2_vl"
    assert config["dtype"] == "bfloat16"
    assert str(ROOT) not in "".join(path.read_text("utf-8") for path in CAPTIONER.glob("*.json*"))
