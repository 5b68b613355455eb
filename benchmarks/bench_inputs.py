"""How fast inputs become plans, and archives become pixels; and how memory grows with the number of inputs.

Beside bare loops over the same files: a walk that reads each header with Pillow, and the same pictures in a folder.
Memory is that of whole commands, the runs with the engine of the tests, which reads each file and needs no model.
"""

from __future__ import annotations

import io
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import Side, compare, print_machine, print_row, seconds
from PIL import Image

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import EngineIdentity, Settings
from omnicap_cli.core.workers.prefetch import in_order
from omnicap_cli.jobs.dry_run import count_plan
from omnicap_cli.media.decode import decode
from omnicap_cli.media.sources import Sources

NUM_FILES = 100_000
NUM_FILES_IN_FOLDER = 1000
NUM_PICTURES = 1500
NUM_FILES_FEW = 1000
FAKE_OMNICAP = Path(__file__).parent.parent / "tests" / "support" / "fake_omnicap.py"
MEMORY_CODE = (
    "import runpy, sys; from pathlib import Path; del sys.argv[0]\n"
    "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    # not ru_maxrss, which begins with what the process had that started this one
    "finally: print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0], file=sys.stderr)"
)


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
    """Peak memory of planning and of running, of the same files in a folder, and in a manifest that names them."""
    manifest, journal = many.with_suffix(".csv"), str(many.with_suffix(".jsonl"))
    with manifest.open("w") as file:
        file.write("image,id,title\n")
        file.writelines(f"{path},row {number},Number {number}\n" for number, path in enumerate(walk(str(many))))
    for name, source in (("folder", many), ("CSV with ids", manifest)):
        for way, words in (("--dry-run", ["--dry-run"]), ("run", ["--engine", "fake", "-o", journal, "--overwrite"])):
            few, all_of_them = (peak_bytes(source, limit, words) for limit in (NUM_FILES_FEW, NUM_FILES))
            grown = (all_of_them - few) / (NUM_FILES - NUM_FILES_FEW)
            details = f"{few / 1e6:.0f} MB and {all_of_them / 1e6:.0f} MB: {grown:.0f} bytes for each further one"
            what = f"{way}, {name}: memory, {NUM_FILES:,} over {NUM_FILES_FEW:,}"
            print_row(what, all_of_them / few, "<= 1.25", details=details)


def archives(folder: Path) -> None:
    pictures, tar, compressed = folder / "pictures", folder / "x.tar", folder / "x.tar.gz"
    draw_pictures(pictures)
    with tarfile.open(tar, "w") as archive:
        archive.add(pictures, "pictures")
    with tarfile.open(compressed, "w:gz", compresslevel=1) as archive:
        archive.add(pictures, "pictures")

    def read(path: Path) -> None:
        """As engines do it: one thread reads the source, others decode (only one of them here, on two cores)."""
        results = in_order(Sources(inputs=(str(path),)), lambda item: decode(item, Settings()).width, num_threads=1)
        assert len(list(results)) == NUM_PICTURES

    folder_side = Side("folder", lambda: read(pictures))
    for path in (tar, compressed):
        result = compare(folder_side, Side("archive", lambda path=path: read(path)), turns=7)
        rates = [NUM_PICTURES / statistics.median(side) for side in (result.first, result.second)]
        details = f"folder {rates[0]:.0f}/s, archive {rates[1]:.0f}/s"
        print_row(f"{path.name}: decoding, rate over a folder's", result.ratio, ">= 0.9", details=details)


def walk(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from walk(entry.path)
            else:
                yield entry.path


def peak_bytes(source: Path, limit: int, words: list[str]) -> int:
    """The resident memory of a whole command, at its peak."""
    command = ["caption", str(source), "--type", "ocr", "--limit", str(limit), *words]
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_CODE, str(FAKE_OMNICAP), *command],
        env={**os.environ, "PYTHONPATH": str(FAKE_OMNICAP.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(run.stderr.split()[-1]) * 1024


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
