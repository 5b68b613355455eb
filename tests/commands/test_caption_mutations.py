"""Damaged files by the thousand through the whole of omnicap: each ends as one record, and no process dies of any.

The real engine, the real decoders; the damage is drawn from a seed, so that a failure comes again.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, features

SEED = 20250407
EXAMPLES = Path(__file__).parents[2] / "examples"
FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "TGA", "PCX", "SGI", "QOI"]
SUFFIXES = {"JPEG2000": "jp2", "TIFF": "tif", "JPEG": "jpg"}


def samples():
    """(suffix, content) of a small picture in every format that Pillow writes here, in several modes."""
    found = []
    for mode, size in (("RGB", (60, 40)), ("L", (33, 21)), ("P", (48, 48)), ("RGBA", (40, 30)), ("I;16", (20, 20))):
        picture = Image.new("RGB", size, "white")
        ImageDraw.Draw(picture).text((3, 3), "Ag7", fill="black")
        picture = picture.convert("L").convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
        for name in FORMATS + (["AVIF"] if features.check("avif") else []):
            buffer = io.BytesIO()
            try:
                picture.save(buffer, name)
            except (OSError, KeyError, ValueError):
                continue
            found.append((SUFFIXES.get(name, name.lower()), buffer.getvalue()))
    assert len(found) > 30
    return found


def mutated(content, draw):
    """`content` with a few faults of one kind that disks, networks and attackers make."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        place, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 16, 100))
        kind = draw.randrange(7)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            data[place : place + length] = bytes(length)
        elif kind == 3:
            data[place : place + length] = b"\xff" * length
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = data[:length]
        else:
            del data[max(place, 1) :]
        if not data:
            return b"\0"
    return bytes(data)


def write_mutations(folder, sources, count):
    draw = random.Random(SEED)
    names = []
    for number in range(count):
        suffix, content = sources[number % len(sources)]
        names.append(f"{number:05}.{suffix}")
        (folder / names[-1]).write_bytes(mutated(content, draw))
    return names


def caption_all(folder, *options):
    """The records of a run over `folder`, which must end as if nothing had happened."""
    output = folder.parent / "out.jsonl"
    words = ["caption", str(folder), "--type", "ocr", "-o", str(output), "--max-decode-pixels", "4000000", *options]
    run = subprocess.run(
        [sys.executable, "-m", "omnicap_cli", *words], capture_output=True, text=True, timeout=3000, env=os.environ
    )
    assert "Traceback" not in run.stderr, run.stderr
    assert run.returncode == 3, run.stderr[-2000:]
    assert json.loads((folder.parent / "out.jsonl.meta.json").read_text())["state"] == "finished"
    return [json.loads(line) for line in output.read_bytes().splitlines()]


def check(records, folder, names):
    found = {}
    for record in records:
        found.setdefault(Path(record["image"]).name, []).append(record)
    assert sorted(found) == sorted(names)
    kinds = [record["error"]["kind"] for record in records if record["status"] == "error"]
    assert not {"WorkerCrashedError", "InferenceError", "OutOfMemoryError"} & set(kinds), [
        record
        for record in records
        if record["status"] == "error" and record["error"]["kind"].startswith(("W", "I", "O"))
    ]
    assert all(record["error"]["message"] for record in records if record["status"] == "error")
    # both ends of the road were travelled
    assert len(names) // 10 < len(kinds) < len(records) - len(names) // 10


@pytest.mark.parametrize("count", [300, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_pictures(tmp_path, count):
    folder = tmp_path / "in"
    folder.mkdir()
    names = write_mutations(folder, samples(), count)
    records = caption_all(folder)
    check(records, folder, names)


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_mutated_documents(tmp_path, count):
    folder = tmp_path / "in"
    folder.mkdir()
    buffer = io.BytesIO()
    first, second = (Image.new("RGB", size, "white") for size in ((200, 100), (100, 200)))
    ImageDraw.Draw(first).text((10, 10), "Page", fill="black")
    first.save(buffer, "PDF", save_all=True, append_images=[second])
    sources = [("pdf", (EXAMPLES / "letter.pdf").read_bytes()), ("pdf", buffer.getvalue())]
    names = write_mutations(folder, sources, count)
    check(caption_all(folder, "--dpi", "30"), folder, names)
