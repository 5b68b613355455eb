"""A journal to CSV and parquet: at least 50,000 records a second, beside plain parsing of the same file; and memory."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import orjson
from harness import Side, compare, print_machine, print_row, seconds

from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import export_journal

NUM_RECORDS = 300_000
WANTED = {"csv": ">= 50", "parquet": ">= 50", "conversations": "(for scale)"}  # thousand records a second
MEMORY_CODE = (
    "import sys; from pathlib import Path; from omnicap_cli.exports.export_config import ExportConfig;"
    "from omnicap_cli.exports.export_job import export_journal;"
    "config = ExportConfig(journal=Path(sys.argv[1]), output=sys.argv[2], format=sys.argv[3],"
    " overwrite=True, sort=sys.argv[4] == 'True'); export_journal(config, show=print);"
    # not ru_maxrss, which begins with what the process had that started this one
    "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
)


def main() -> None:
    """Export one journal in turns with orjson alone; then journals of two sizes, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {number: folder / f"{number}.jsonl" for number in (NUM_RECORDS // 10, NUM_RECORDS)}
        for number, path in paths.items():
            write_journal(path, number)
        journal = paths[NUM_RECORDS]
        print_machine("orjson", "pyarrow", "numpy")
        print(f"{NUM_RECORDS:,} records of {journal.stat().st_size / NUM_RECORDS:.0f} bytes")
        for form in WANTED:
            print_speed(journal, form)
        for form in WANTED:
            print_memory(paths, form, sort=False)
        print_memory(paths, "csv", sort=True)


def print_speed(journal: Path, form: str) -> None:
    """Records per second, end to end, and how many times as long as orjson alone that takes."""
    ours = Side(form, partial(convert, journal, form))
    result = compare(ours, Side("orjson", partial(parse, journal)), turns=3)
    rate = NUM_RECORDS / sorted(result.first)[len(result.first) // 2]
    print_row(f"{form}: thousand records a second", rate / 1000, WANTED[form], details=seconds(result.first))
    print_row(f"{form} / orjson.loads of every line", result.ratio, "(floor)", details=seconds(result.second))


def print_memory(paths: dict[int, Path], form: str, *, sort: bool) -> None:
    """Peak memory of a process that does nothing else, for both sizes; numpy, which only the larger needs, included."""
    peaks = []
    for path in paths.values():
        words = [sys.executable, "-c", MEMORY_CODE, str(path), str(path.with_suffix(f".{form}")), form, str(sort)]
        output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        peaks.append(int(output) * 1024 / 1e6)
    details = ", ".join(f"{number:,}: {peak:.0f} MB" for number, peak in zip(paths, peaks, strict=True))
    grown = (peaks[1] - peaks[0]) * 1e6 / (NUM_RECORDS - NUM_RECORDS // 10)
    what = f"{form}{' sorted' if sort else ''}: bytes of memory for each further record"
    print_row(what, grown, "< 300", details=details)


def write_journal(path: Path, num_records: int) -> None:
    """Records of short captions with a few columns of a manifest."""
    record = {
        **{"id": "", "image": "", "type": "natural", "style": "short", "lang": "en", "caption": ""},
        **{"status": "ok", "finish_reason": "stop", "generated": True, "model": "U4R/OmniCaptioner", "revision": None},
        **{"engine": "vllm", "prompt_sha": "0123456789abcdef", "settings": {"max_pixels": 1048576}, "width": 1240},
        **{"height": 1754, "prompt_tokens": 84, "image_tokens": 1024, "output_tokens": 41, "seconds": 0.84},
        **{"attempts": 1, "key": "", "meta": {"source": "", "score": 0.5, "label": 0, "checked": False}},
    }
    with path.open("wb") as file:
        for number in range(num_records):
            key = hashlib.sha256(str(number).encode()).hexdigest()
            # in an order that is not that of the ids, so that sorting has work to do
            record["id"] = record["image"] = f"photos/{key[:2]}/{number:07}.jpg"
            record["caption"] = f'A street in "{key[:8]}", with people, bicycles and café tables under trees. ' * 2
            record["key"] = key
            record["meta"] = {"source": f"set-{number % 7}", "score": number / 7, "label": number % 10, "checked": True}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def convert(journal: Path, form: str) -> None:
    """What `omnicap convert` does."""
    target = journal.with_suffix(f".{form}")
    outcome = export_journal(ExportConfig(journal=journal, output=str(target), format=form, overwrite=True), show=print)
    assert outcome.num_written == NUM_RECORDS, outcome


def parse(path: Path) -> None:
    """The least that reading the file can take."""
    with path.open("rb", buffering=1 << 20) as file:
        for line in file:
            orjson.loads(line)


if __name__ == "__main__":
    main()
