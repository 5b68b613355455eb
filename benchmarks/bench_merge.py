"""`omnicap merge` of a data set, checked and without duplicates, beside `orjson.loads` of each line and `cat`; memory.

5 million records by default; `bench_merge.py 500000` is a quick look.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import orjson
from harness import Comparison, Side, compare, print_machine, print_row, seconds

from omnicap_cli.core.models.machine import num_cores
from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data
from omnicap_cli.datasets.splits import Split, SplitNote

NUM_RECORDS = 5_000_000
NUM_SPLITS = 8
NUM_TURNS = 3
MEMORY_CODE = (
    "import sys; from pathlib import Path;"
    "from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data;"
    "config = DataMergeConfig(inputs=(Path(sys.argv[1]),), output=Path(sys.argv[2]), overwrite=True,"
    " sort_by_length=sys.argv[3] == 'sorted'); merge_data(config);"
    # not ru_maxrss, which begins with what the process had that started this one; of children there is no better
    "import resource; print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0],"
    " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def main() -> None:
    """Merge splits in turns with the floor; then merge them once more, each time in a process of its own."""
    num_records = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_RECORDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_bytes = write_splits(folder, num_records)
        print_machine("orjson", "numpy")
        print(f"{num_records:,} records of {num_bytes / num_records:.0f} bytes in {NUM_SPLITS} splits")
        print_speed(folder, num_records)
        print_memory(folder)


def print_speed(folder: Path, num_records: int) -> None:
    """How many times as long as the floor a merge takes, and one that sorts."""
    floor = Side("floor", partial(read_and_cat, folder))
    plain = compare(Side("merge", partial(merge, folder, num_records)), floor, turns=NUM_TURNS, warm_up=False)
    print_row("merge / (orjson.loads of every line + cat)", plain.ratio, "<= 1.7", details=details_of(plain))
    sort = partial(merge, folder, num_records, sort_by_length=True)
    by_length = compare(Side("sorted", sort), floor, turns=1, warm_up=False)
    print_row("the same --sort-by-length", by_length.ratio, "(for scale)", details=details_of(by_length))


def print_memory(folder: Path) -> None:
    """Peak memory of a process that does nothing else, with the processes that it starts."""
    num_children = min(num_cores(), 4)
    for how in ("in order", "sorted"):
        words = [sys.executable, "-c", MEMORY_CODE, str(folder), str(folder / "all.jsonl"), how]
        output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        own, child = (int(peak) * 1024 / 1e6 for peak in output.split())
        details = f"{own:.0f} MB and {num_children} times {child:.0f} MB at most"
        print_row(f"peak memory in MB, {how}", own + num_children * child, "< 300", details=details)


def details_of(result: Comparison) -> str:
    """Both sides in seconds."""
    return f"{seconds(result.first)} / {seconds(result.second)}"


def merge(folder: Path, num_records: int, *, sort_by_length: bool = False) -> None:
    """What `omnicap merge` does."""
    output = folder / "all.jsonl"
    output.unlink(missing_ok=True)
    report = merge_data(DataMergeConfig(inputs=(folder,), output=output, sort_by_length=sort_by_length))
    assert (report.num_records, report.num_duplicates, report.problems) == (num_records, 0, []), report


def read_and_cat(folder: Path) -> None:
    """The least that checking and joining can take."""
    output = folder / "all.jsonl"
    output.unlink(missing_ok=True)
    paths = sorted(folder.glob("data_split*.jsonl"))
    for path in paths:
        with path.open("rb", buffering=1 << 20) as file:
            for line in file:
                orjson.loads(line)
    with output.open("wb") as target:
        subprocess.run(["cat", *map(str, paths)], check=True, stdout=target)


def write_splits(folder: Path, num_records: int) -> int:
    """Descriptions of pictures as `omnicap tokenize` leaves them, with notes; the bytes of all."""
    draw = random.Random(5)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randrange(2, 10))) for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=draw.randrange(40, 110))) for _ in range(20_000)]
    num_bytes, bounds = 0, [num_records * index // NUM_SPLITS for index in range(NUM_SPLITS + 1)]
    for index in range(NUM_SPLITS):
        split = Split(folder=folder, name="data", index=index, num_splits=NUM_SPLITS)
        with split.output.open("wb") as file:
            for number in range(bounds[index], bounds[index + 1]):
                file.write(orjson.dumps(record_of(number, draw, texts), option=orjson.OPT_APPEND_NEWLINE))
        write_note(split, bounds[index + 1] - bounds[index])
        num_bytes += split.output.stat().st_size
    os.sync()
    return num_bytes


def record_of(number: int, draw: random.Random, texts: list[str]) -> dict[str, object]:
    """A record; ids and pictures make it the only one of its kind."""
    text, num_image = draw.choice(texts), draw.randrange(64, 1400)
    num_text = len(text) // 4
    return {
        "id": f"photos/{number:08}",
        "image": f"photos/{number % 997:03}/{number:08}.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nDescribe this picture in detail."},
            {"from": "gpt", "value": f"{text} {number}"},
        ],
        "token_length": num_text,
        "image_token_num": num_image,
        "task_type": "detailed_natural",
        "sequence_length": num_text + num_image + 61,
    }


def write_note(split: Split, num_kept: int) -> None:
    """What says that the split is whole."""
    counts = dict.fromkeys(("num_lines", "num_in", "num_kept"), num_kept)
    tokens = dict.fromkeys(("num_rejected", "num_text_tokens", "num_image_tokens", "num_sequence_tokens"), 0)
    others = {"settings": {}, "rejected": {}, "lengths": [], "started": 0.0, "ended": 0.0}
    place = {name: value for name, value in asdict(split).items() if name != "folder"}
    note = SplitNote(**counts, **tokens, **others, **place, output_bytes=split.output.stat().st_size)
    note.write(split.note)


if __name__ == "__main__":
    main()
