"""How fast inputs become plans, and archives become pixels; and that memory doesn't grow with either.

Beside bare loops over the same files: a walk that reads each header with Pillow, and the same pictures in a folder.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import Side, compare, print_machine, print_row, seconds
from PIL import Image

from omnicap_cli.core.planning import RequestPlan
from omnicap_cli.core.prompts import Catalogue
from omnicap_cli.core.records import EngineIdentity, Settings
from omnicap_cli.dry_run import count_plan
from omnicap_cli.media.decode import decode
from omnicap_cli.media.sources import Sources

NUM_FILES = 100_000
NUM_FILES_IN_FOLDER = 1000
NUM_PICTURES = 1500
NUM_FILES_FEW = 1000


def main() -> None:
    print_machine("pillow", "orjson", "pyarrow")
    with tempfile.TemporaryDirectory() as folder:
        many = Path(folder) / "many"
        draw_many(many)
        planning(many)
        memory(many)
        archives(Path(folder))


def planning(many: Path) -> None:
    plan = RequestPlan(
        prompts=Catalogue.load().select("ocr", [], "en"),
        engine=EngineIdentity(engine="none", model="none", revision=None, fingerprint=""),
        settings=Settings(),
    )

    def ours() -> None:
        counts = count_plan(Sources(inputs=(str(many),)), plan, None, retry_failed=False)
        assert counts["to_do"] == NUM_FILES, counts

    def bare() -> None:
        assert sum(Image.open(path).width > 0 for path in walk(str(many))) == NUM_FILES

    result = compare(Side("bare walk", bare), Side("--dry-run", ours), turns=5)
    details = f"bare {seconds(result.first)}, ours {seconds(result.second)}"
    print_row(f"--dry-run of {NUM_FILES:,} files: speed over a bare walk", result.ratio, ">= 0.5", details=details)


def memory(many: Path) -> None:
    few, all_of_them = (peak_bytes(many, limit) for limit in (NUM_FILES_FEW, NUM_FILES))
    details = f"{few / 1e6:.0f} MB and {all_of_them / 1e6:.0f} MB"
    what = f"--dry-run: peak memory, {NUM_FILES:,} over {NUM_FILES_FEW:,} files"
    print_row(what, all_of_them / few, "<= 1.25", details=details)


def archives(folder: Path) -> None:
    pictures, tar = folder / "pictures", folder / "x.tar"
    draw_pictures(pictures)
    with tarfile.open(tar, "w") as archive:
        archive.add(pictures, "pictures")
    with tarfile.open(folder / "x.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(pictures, "pictures")

    def read(path: Path) -> None:
        num_pixels = [decode(item, Settings()).width for item in Sources(inputs=(str(path),))]
        assert len(num_pixels) == NUM_PICTURES

    for name in ("x.tar", "x.tar.gz"):
        result = compare(Side("folder", lambda: read(pictures)), Side(name, lambda name=name: read(folder / name)))
        rates = [NUM_PICTURES / sorted(side)[len(side) // 2] for side in (result.first, result.second)]
        details = f"folder {rates[0]:.0f}/s, archive {rates[1]:.0f}/s"
        wanted = ">= 0.9" if name == "x.tar" else "(for scale)"  # decompressing takes its time
        print_row(f"decoding from {name}: rate over a folder's", result.ratio, wanted, details=details)


def walk(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk(entry.path)
            else:
                yield entry.path


def peak_bytes(many: Path, limit: int) -> int:
    """The resident memory of a whole dry run, at its peak."""
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module('omnicap_cli', run_name='__main__', alter_sys=True)\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "omnicap",
            "caption",
            str(many),
            "--type",
            "ocr",
            "--dry-run",
            "--limit",
            str(limit),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stderr.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def draw_many(folder: Path) -> None:
    """Small files in folders, of two formats by turns: headers are read from all of them."""
    contents = {}
    for suffix, name in (("png", "PNG"), ("jpg", "JPEG")):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 48), (90, 120, 30)).save(buffer, name)
        contents[suffix] = buffer.getvalue()
    for number in range(NUM_FILES):
        part = folder / f"{number // NUM_FILES_IN_FOLDER:04}"
        if number % NUM_FILES_IN_FOLDER == 0:
            part.mkdir(parents=True)
        suffix = ("png", "jpg")[number % 2]
        (part / f"{number:06}.{suffix}").write_bytes(contents[suffix])


def draw_pictures(folder: Path) -> None:
    """Photograph-like noise, as JPEG of about 30 kB."""
    folder.mkdir()
    draw = random.Random(1)
    for number in range(NUM_PICTURES):
        size = (draw.randrange(200, 400), draw.randrange(200, 400))
        Image.effect_noise(size, 40).resize((size[0] * 2, size[1] * 2)).save(folder / f"{number:05}.jpg", quality=80)


if __name__ == "__main__":
    main()
