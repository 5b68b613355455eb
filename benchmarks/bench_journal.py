"""A million journal records indexed for resume: in under 10 s and 500 MB, and beside plain parsing of the same file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
from harness import Side, compare, print_machine, print_row, seconds

NUM_RECORDS = 1_000_000


def main() -> None:
    """Write the journal, index it in a process of its own for the memory, then in turns with orjson alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.jsonl"
        write_journal(path)
        code = (
            "import resource, sys, time; from pathlib import Path; from omnicap_cli.core.runs.journal import Journal;"
            "started = time.perf_counter(); journal = Journal(Path(sys.argv[1]));"
            "print(time.perf_counter() - started, len(journal),"
            " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        output = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
        elapsed, num_keys, peak_kib = output.stdout.split()
        assert int(num_keys) == NUM_RECORDS, num_keys
        print_machine("orjson")
        megabytes = path.stat().st_size / 1e6
        print(f"{NUM_RECORDS:,} records, {megabytes:.0f} MB")
        print_row("seconds to index them", float(elapsed), "< 10 s")
        print_row("peak memory in MB", int(peak_kib) * 1024 / 1e6, "< 500 MB")
        result = compare(Side("index", lambda: index(path)), Side("orjson", lambda: parse(path)), turns=3)
        details = f"{seconds(result.first)} / {seconds(result.second)}"
        print_row("index / orjson.loads of every line", result.ratio, "(for scale)", details=details)


def write_journal(path: Path) -> None:
    """Records of the length that OCR of a short page has."""
    record = {
        **{"id": "", "image": "", "type": "ocr", "style": "text", "lang": "en", "caption": "words of a caption " * 12},
        **{"status": "ok", "finish_reason": "stop", "generated": True, "model": "PP-OCRv6", "revision": "3.10.0"},
        **{"engine": "rapidocr", "prompt_sha": "0123456789abcdef", "settings": {}, "width": 1240, "height": 1754},
        **{"prompt_tokens": 0, "image_tokens": 0, "output_tokens": 211, "seconds": 0.84, "attempts": 1, "key": ""},
        "meta": {},
    }
    with path.open("wb") as file:
        for number in range(NUM_RECORDS):
            record["id"] = record["image"] = f"scans/{number:07}.png"
            record["key"] = hashlib.sha256(str(number).encode()).hexdigest()
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def index(path: Path) -> None:
    """What a resumed run does first."""
    from omnicap_cli.core.runs.journal import read_index

    assert len(read_index(path).index) == NUM_RECORDS


def parse(path: Path) -> None:
    """The least that reading the file can take."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            orjson.loads(line)


if __name__ == "__main__":
    main()
