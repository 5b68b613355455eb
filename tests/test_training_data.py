"""The commands in docs/training-data.md, as they stand, on the shapes; and its tables against the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.shapes_example import PATIENCE_SECONDS, ROOT

DOCUMENT = (ROOT / "docs" / "training-data.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
NUM_RECORDS = 2000  # that draw.py draws where it isn't told another number


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the block on the shapes was run, and then the loop of the published scripts."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "examples").symlink_to(ROOT / "examples")
    for block in BLOCKS[1:]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", block],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert result.returncode == 0, result.stderr
    return folder


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_both_ways_give_every_record_with_its_counts(folder) -> None:
    merged, joined = records(folder / "train.jsonl"), records(folder / "published.jsonl")
    given = records(folder / "shapes" / "train.jsonl")
    added = {"token_length", "image_token_num", "sequence_length"}
    assert len(given) == NUM_RECORDS
    assert [{name: value for name, value in record.items() if name not in added} for record in merged] == given
    assert sorted(record["id"] for record in joined) == sorted(record["id"] for record in merged)
    assert {record["id"]: record for record in joined} == {record["id"]: record for record in merged}
    assert {record["image_token_num"] for record in merged} == {112 * 112 // 28**2}


def test_every_reason_and_every_field_of_a_note_is_in_the_document(folder) -> None:
    documented = set(re.findall(r"`([a-z_]+)`", DOCUMENT))
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "omnicap_cli").rglob("*.py"))
    reasons = set(re.findall(r'(?:SampleError\(|, number,)\s*"([a-z_]+)"', code))
    assert {"not_json", "no_answer", "marks_do_not_match", "too_long", "aspect_ratio"} <= reasons
    assert reasons <= documented
    note = json.loads((folder / "counted" / "meta" / "train_split1.json").read_text("utf-8"))
    plain = {"name", "index", "num_splits", "output_bytes", "started", "ended", "omnicap"}
    assert note.keys() - plain <= documented
