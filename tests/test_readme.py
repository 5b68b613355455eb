"""The tables of inputs and outputs in the README: every line is run as it stands, and does what it stands for."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.http_server import Answer, serving

ROOT = Path(__file__).parent.parent
SERVER = "https://example.org"
LINES = re.findall(
    r"^\| .*\| `(omnicap .*|.*\\\| omnicap .*)` \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
)
PLACE = "滨江公园"  # the sign begins with it
LEFT_BEHIND = {
    "scans.csv": lambda path: next(csv.DictReader(io.StringIO(path.read_text("utf-8"))))["caption"],
    "scans.tsv": lambda path: next(csv.DictReader(io.StringIO(path.read_text("utf-8")), delimiter="\t"))["caption"],
    "scans.parquet": lambda path: pq.read_table(path).to_pylist()[0]["caption"],
    "direct.parquet": lambda path: pq.read_table(path).to_pylist()[0]["caption"],
    "scans/deep/sign.txt": lambda path: path.read_text("utf-8"),
    "texts/scans/deep/sign.txt": lambda path: path.read_text("utf-8"),
    "scans.tar": lambda path: path.read_bytes().decode("utf-8", "replace"),
    "scans-train.jsonl": lambda path: json.loads(path.read_text("utf-8").splitlines()[0])["conversations"][1]["value"],
    "copies/scans/deep/sign.png": lambda path: json.dumps(Image.open(path).getxmp(), ensure_ascii=False),
    "gallery.html": lambda path: path.read_text("utf-8"),
    "sorted.jsonl": lambda path: json.loads(path.read_text("utf-8").splitlines()[0])["caption"],
    "all.jsonl": lambda path: path.read_text("utf-8"),
    "csv.jsonl": lambda path: path.read_text("utf-8"),
    "list-out.jsonl": lambda path: path.read_text("utf-8"),
    "train.jsonl": lambda path: path.read_text("utf-8"),
    "shards.jsonl": lambda path: path.read_text("utf-8"),
}


@pytest.fixture
def folder(tmp_path):
    """What the lines name: each picture is the sign, in small."""
    sign = tmp_path / "sign.png"
    Image.open(ROOT / "examples" / "sign-zh.png").crop((0, 0, 960, 160)).resize((480, 80)).save(sign)
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    for name in ("scans/deep/sign.png", "scans/two.png"):
        shutil.copy(sign, tmp_path / name)
    Image.open(sign).save(tmp_path / "receipt.jpg")
    shutil.copy(ROOT / "examples" / "letter.pdf", tmp_path / "paper.pdf")
    (tmp_path / "list.csv").write_text("file,title\nsign.png,A sign\n")
    (tmp_path / "list.jsonl").write_text('{"image": "sign.png", "id": "first", "title": "A sign"}\n')
    (tmp_path / "list.json").write_text('[{"image": "sign.png", "id": "second"}]')
    pq.write_table(pa.table({"image": [sign.read_bytes()], "title": ["A sign"]}), tmp_path / "train.parquet")
    for name, mode in (("shard-0.tar", "w"), ("shard-1.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as archive:
            archive.add(sign, "000.png")
    return tmp_path


def test_every_line_of_the_tables_runs(folder):
    assert len(LINES) >= 28, "the README has lost lines of its tables"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with serving() as server:
        server.serve("/sign.png", Answer(body=(folder / "sign.png").read_bytes()))
        for line in LINES:
            command = line.replace("\\|", "|").replace(SERVER, server.url(""))
            result = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=folder,
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert result.returncode == 0, (line, result.stderr)
            if "caption" in line and "-o" not in line.split():
                records = [json.loads(each) for each in result.stdout.splitlines()]
                assert records, line
                assert all(record["status"] == "ok" and record["caption"] for record in records), line
    for name, caption_of in LEFT_BEHIND.items():
        assert PLACE in caption_of(folder / name), name
