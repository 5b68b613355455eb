"""The captioner that lies in examples/shapes, on pictures that it was not trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from support.shapes_example import PATIENCE_SECONDS, SHAPES, caption_of, read_records, run

from omnicap_cli.training.config.sections import TrainConfig

CAPTIONER = SHAPES / "captioner"
NUM_PICTURES = 100
MAX_BYTES = 12 * 2**20


def omnicap(*words: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "omnicap_cli", *words]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("seed", [0, 7])
def test_nine_captions_of_ten_are_exact(tmp_path, seed) -> None:
    """With seed 0 the pictures are those held out of the training, with 7 those of another world of the same kind."""
    run(
        "draw.py",
        *("pictures", "--world", "small", "--size", "84x84", "--seed", str(seed)),
        *("--train", "0", "--held-out", str(NUM_PICTURES)),
        cwd=tmp_path,
    )
    omnicap(
        *("caption", "pictures/held-out", "--type", "natural", "--style", "short"),
        *("--model", str(CAPTIONER), "-o", "captions.jsonl"),
        cwd=tmp_path,
    )
    wanted = {record["image"]: caption_of(record) for record in read_records(tmp_path / "pictures/held-out.jsonl")}
    captions = {record["id"]: record["caption"] for record in read_records(tmp_path / "captions.jsonl")}
    assert captions.keys() == wanted.keys()
    num_exact = sum(captions[name] == caption for name, caption in wanted.items())
    assert num_exact >= 0.9 * NUM_PICTURES


def test_the_recipe_is_one() -> None:
    """Its files are those that the commands in the README make."""
    config = TrainConfig.read(SHAPES / "recipe.yaml")
    readme = (SHAPES / "README.md").read_text("utf-8")
    for name in (config.model.name, config.data.train[0].path, config.data.eval[0].path, config.checkpoint.output):
        assert f" {name}" in readme
    assert "--config examples/shapes/recipe.yaml" in readme


def test_it_is_small_and_safe_to_load() -> None:
    files = list(CAPTIONER.iterdir())
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".json", ".jinja", ".safetensors"}
    with safe_open(CAPTIONER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
    assert json.loads((CAPTIONER / "config.json").read_text("utf-8"))["model_type"] == "qwen2_vl"
