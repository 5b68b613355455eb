"""`omnicap convert` as a user meets it: forms, targets, what it says, what is left when it is killed or lacks room."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image
from support.fake_omnicap import COMPACTION_DEATHS
from support.journal_records import line_of, make_record, write_journal

from omnicap_cli.exports.formats import FORMATS, choose_format

SUPPORT = Path(__file__).parents[1] / "support"
DYING = (
    "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
    "import os, fake_omnicap\n"
    "from omnicap_cli import app\n"
    "from omnicap_cli.core.files import atomic\n"
    "number = int(sys.argv.pop(1)); fake_omnicap.die = lambda: os.kill(os.getpid(), number)\n"
    "atomic.replacing = fake_omnicap.dying(sys.argv.pop(1))\n"
    "app.main()"
)
DYING_AMONG_FILES = (
    "import os, pathlib, signal, sys\n"
    "from omnicap_cli import app\n"
    "moment, write, replace, numbers = sys.argv.pop(1), pathlib.Path.write_bytes, os.replace, []\n"
    "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
    "def is_third(): numbers.append(None); return len(numbers) == 3\n"
    "def writing(path, content):\n"
    "    if is_third(): write(path, content[: len(content) // 2]); die()\n"
    "    return write(path, content)\n"
    "def naming(*paths): die() if is_third() else replace(*paths)\n"
    "if moment == 'writes': pathlib.Path.write_bytes = writing\n"
    "else: os.replace = naming\n"
    "app.main()"
)
FILES = ["out.jsonl", "out.csv", "out.tsv", "out.parquet", "out.json"]


class Convert:
    """`omnicap convert` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return self.run([sys.executable, "-m", "omnicap_cli", "convert", *words], **more)

    def dying(
        self, moment: str, *words: str, number: signal.Signals = signal.SIGKILL
    ) -> subprocess.CompletedProcess[bytes]:
        """The same, but it sends itself a signal at a moment of COMPACTION_DEATHS while it writes its output."""
        return self.run([sys.executable, "-c", DYING, str(SUPPORT), str(int(number)), moment, "convert", *words])

    def dying_among_files(self, moment: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        """The same, but it is killed at the third of many files: half of it "writes", or whole but not yet "named"."""
        return self.run([sys.executable, "-c", DYING_AMONG_FILES, moment, "convert", *words])

    def run(self, command: list[str], **more: Any) -> subprocess.CompletedProcess[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
        environment |= {"NO_COLOR": "1", "COLUMNS": "120"} | more.pop("env", {})
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        return subprocess.run(command, cwd=self.folder, env=environment, timeout=120, **streams)

    def journal(self, num_records: int = 5, name: str = "run.jsonl") -> bytes:
        """Write a journal, and return it."""
        records = [make_record(f"in/{number:04}.jpg", f"Picture {number}.") for number in range(num_records)]
        return write_journal(self.folder / name, records).read_bytes()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    return Convert(tmp_path)


def assert_ends(process: subprocess.CompletedProcess[bytes], code: int, *said: str) -> None:
    """It ended with `code` and said so, in words for users."""
    stderr = process.stderr.decode()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    for part in said:
        assert part in stderr


def ids_in(path: Path) -> list[str]:
    """The ids of an export, by readers of others."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)["id"].to_pylist()
    if path.suffix == ".json":
        return [record["id"] for record in json.loads(path.read_bytes())]
    if path.suffix == ".html":
        return re.findall(r'"id":"([^"]+)"', path.read_text())
    if path.suffix == ".jsonl":
        return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")]


# ---------------------------------------------------------------------------------------- forms and targets


def test_no_form_is_forgotten():
    """A new form goes into FILES, and how its ids are read into `ids_in`, if it is one file that needs no pictures."""
    tested = {choose_format(name, None) for name in FILES}
    assert tested | {"txt", "xmp", "webdataset", "html"} == set(FORMATS)  # these have tests of their own


@pytest.mark.parametrize("name", [*FILES, "deep/er/out.csv", "OUT.CSV", "out.ndjson"])
def test_the_suffix_tells_the_form(convert, name):
    convert.journal()
    assert_ends(convert("run.jsonl", "-o", name), 0, f"5 records → {name}")
    if name in FILES:
        assert ids_in(convert.folder / name) == [f"in/{number:04}.jpg" for number in range(5)]
    else:
        assert (convert.folder / name).stat().st_size > 0


@pytest.mark.parametrize("there", [False, True])
def test_a_slash_or_a_folder_means_text_files(convert, there):
    convert.journal()
    if there:
        (convert.folder / "captions").mkdir()
    assert_ends(convert("run.jsonl", "-o", "captions" if there else "captions/"), 0, "5 text files → captions")
    assert (convert.folder / "captions/in/0003.txt").read_text() == "Picture 3."


def test_format_wins_over_the_suffix(convert):
    convert.journal()
    assert_ends(convert("run.jsonl", "-o", "train.jsonl", "--format", "conversations"), 0)
    (first, *_) = (convert.folder / "train.jsonl").read_bytes().splitlines()
    assert json.loads(first)["conversations"][1] == {"from": "gpt", "value": "Picture 0."}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run.jsonl", "-o", "out.docx"], [".csv", ".parquet", "--format"]),
        (["run.jsonl", "-o", "out"], [".csv", ".parquet", "--format"]),
        (["run.jsonl", "--format", "docx"], ["'docx'", "parquet", "conversations"]),
        (["run.jsonl", "--format", "parquet"], ["-o"]),
        (["run.jsonl", "--format", "parquet", "-o", "-"], ["-o"]),
        (["run.jsonl", "--format", "txt", "-o", "-"], ["-o"]),
        (["run.jsonl", "--format", "txt", "-o", "run.jsonl"], ["not a folder"]),
        (["run.jsonl", "--format", "csv", "-o", "folder"], ["not a file"]),
        (["run.jsonl", "--format", "csv", "-o", "new/"], ["not a file"]),
        (["run.jsonl", "--format", "csv", "-o", "pipe"], ["not a file"]),
        (["run.jsonl", "--limit", "0"], ["--limit"]),
        (["run.jsonl", "-o", "run.jsonl"], ["journal of a run"]),
        (["run.jsonl", "-o", "link.jsonl"], ["journal of a run"]),
        (["bare.jsonl", "-o", "bare.jsonl", "--overwrite"], ["the journal itself"]),
        (["bare.jsonl", "-o", "folder/../bare.jsonl", "--overwrite"], ["the journal itself"]),
        (["run.jsonl", "-o", "run.jsonl.meta.json", "--overwrite"], ["the note beside it"]),
        (["run.jsonl", "-o", "bare.jsonl"], ["is there already", "--overwrite"]),
        (["run.jsonl", "-o", "other.jsonl", "--overwrite"], ["journal of a run"]),
        ([], ["JOURNAL"]),
    ],
)
def test_wrong_usage_changes_nothing(convert, words, said):
    content = convert.journal()
    convert.journal(2, "other.jsonl")
    convert.journal(2, "bare.jsonl")
    for name in ("run.jsonl.meta.json", "other.jsonl.meta.json"):
        (convert.folder / name).write_text("{}")
    (convert.folder / "folder").mkdir()
    (convert.folder / "link.jsonl").symlink_to("run.jsonl")
    os.mkfifo(convert.folder / "pipe")
    before = convert.names()
    process = convert(*words)
    assert_ends(process, 2, *said)
    assert process.stdout == b""
    assert convert.names() == before
    assert (convert.folder / "run.jsonl").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "said"), [("missing.jsonl", "No such file"), (".", "not a file"), ("diary.jsonl", "not a journal")]
)
def test_what_is_no_journal(convert, name, said):
    (convert.folder / "diary.jsonl").write_text("Dear diary,\n")
    for target in ("out.csv", "captions/", "out.parquet"):
        assert_ends(convert(name, "-o", target), 1, said)
    assert convert.names() == ["diary.jsonl"]


def test_an_export_stands_for_its_journal(convert):
    convert.journal(name="out.csv.journal.jsonl")
    assert_ends(convert("out.csv.journal.jsonl", "-o", "out.csv"), 0)
    assert_ends(convert("out.csv", "-o", "out.parquet"), 0, "5 records → out.parquet")
    assert len(ids_in(convert.folder / "out.parquet")) == 5


def test_an_earlier_export_is_replaced(convert):
    convert.journal()
    for name in FILES:
        (convert.folder / name).write_text("an earlier one")
        assert_ends(convert("run.jsonl", "-o", name, "--overwrite"), 0)
        assert len(ids_in(convert.folder / name)) == 5
    assert convert.names() == sorted(["run.jsonl", *FILES])


def test_through_a_link(convert):
    convert.journal()
    (convert.folder / "real").mkdir()
    (convert.folder / "out.csv").symlink_to("real/data.csv")
    assert_ends(convert("run.jsonl", "-o", "out.csv"), 0)
    assert (convert.folder / "out.csv").is_symlink()
    assert len(ids_in(convert.folder / "real/data.csv")) == 5


# --------------------------------------------------------------------------------------------------- stdout


@pytest.mark.parametrize("words", [[], ["-o", "-"], ["--format", "jsonl"]])
def test_stdout_gets_json_lines(convert, words):
    content = convert.journal()
    process = convert("run.jsonl", *words)
    assert_ends(process, 0, "5 records")
    assert process.stdout == content


@pytest.mark.parametrize("form", ["csv", "tsv", "conversations"])
def test_other_forms_to_stdout(convert, form):
    convert.journal(300)
    process = convert("run.jsonl", "--format", form, "-q")
    assert_ends(process, 0)
    assert process.stderr == b""
    if form == "conversations":
        assert len([json.loads(line) for line in process.stdout.splitlines()]) == 300
    else:
        rows = csv.DictReader(
            io.StringIO(process.stdout.decode(), newline=""), delimiter="\t" if form == "tsv" else ","
        )
        assert [row["caption"] for row in rows] == [f"Picture {number}." for number in range(300)]


def test_a_reader_that_has_had_enough(convert):
    convert.journal(20_000)
    command = [sys.executable, "-m", "omnicap_cli", "convert", "run.jsonl", "--format", "csv"]
    with subprocess.Popen(command, cwd=convert.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"id,image,page,")
        process.stdout.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_stdout_on_a_full_disk(convert):
    convert.journal()
    with open("/dev/full", "wb") as full:
        assert_ends(convert("run.jsonl", stdout=full), 1, "No space left on device")


# ------------------------------------------------------------------------------------------------- outcome


def test_what_it_says(convert):
    records = [*(make_record(f"e{number}.jpg", None) for number in range(10)), make_record("a.jpg", "")]
    write_journal(convert.folder / "run.jsonl", [*records, make_record("b.jpg")])
    said = "1 records → train.json; 11 left out (errors 10, empty 1)"
    assert_ends(convert("run.jsonl", "-o", "train.json"), 0, said)


def test_an_empty_journal(convert):
    (convert.folder / "run.jsonl").touch()
    for name in [*FILES, "captions/"]:
        assert_ends(convert("run.jsonl", "-o", name), 0, "warning:", "no records", "\n0 ")
        assert (convert.folder / name).exists()
    assert [ids_in(convert.folder / name) for name in FILES] == [[]] * len(FILES)


def test_the_column_of_pictures_can_be_named(convert):
    rows = [{"mask": b"not a picture", "pic": b"not one either"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), convert.folder / "two.parquet")
    write_journal(convert.folder / "run.jsonl", [make_record("two.parquet#row=1")])
    assert_ends(convert("run.jsonl", "-o", "out.tar"), 3, "--image-key", "two.parquet", "mask, pic")
    said = "holds no pictures in the column 'depth' any more; columns that hold some: mask, pic"
    assert_ends(convert("run.jsonl", "-o", "out.tar", "--overwrite", "--image-key", "depth"), 3, said)


def test_files_that_are_in_the_way(convert):
    convert.journal()
    (convert.folder / "captions/in").mkdir(parents=True)
    (convert.folder / "captions/in/0002.txt").write_text("my own words")
    assert_ends(convert("run.jsonl", "-o", "captions/"), 3, "captions/in/0002.txt", "--overwrite", "4 text files")
    assert (convert.folder / "captions/in/0002.txt").read_text() == "my own words"
    assert_ends(convert("run.jsonl", "-o", "captions/", "--overwrite"), 0, "1 text files", "4 were there already")
    assert (convert.folder / "captions/in/0002.txt").read_text() == "Picture 2."


def test_beside_the_pictures(convert):
    convert.journal(2)
    (convert.folder / "in").mkdir()
    (convert.folder / "in/0001.jpg").touch()
    assert_ends(convert("run.jsonl", "--format", "txt"), 3, "1 text files", "no picture 1")
    assert (convert.folder / "in/0001.txt").read_text() == "Picture 1."


@pytest.mark.parametrize("name", ["out.html", "out.tar", "out.json"])
def test_a_pipe_in_the_place_of_a_picture(convert, name):
    """It would keep a reader waiting for ever."""
    os.mkfifo(convert.folder / "a.png")
    write_journal(convert.folder / "run.jsonl", [make_record("a.png"), make_record("b.png", None)])
    assert_ends(convert("run.jsonl", "-o", name), 3 if name == "out.tar" else 0)
    assert (convert.folder / name).stat().st_size > 0


def test_sorted_and_limited(convert):
    names = ["f.pdf#page=10", "f.pdf#page=9", "a.jpg"]
    write_journal(convert.folder / "run.jsonl", map(make_record, names))
    process = convert("run.jsonl", "--sort", "--limit", "2")
    assert [json.loads(line)["id"] for line in process.stdout.splitlines()] == ["a.jpg", "f.pdf#page=9"]


def test_a_journal_that_is_being_written(convert):
    content = convert.journal()
    (convert.folder / "run.jsonl").write_bytes(content + line_of(make_record("torn.jpg"))[:-30])
    with contextlib.closing(open(convert.folder / "run.jsonl", "ab")):
        assert_ends(convert("run.jsonl", "-o", "out.csv"), 0, "5 records")


# ------------------------------------------------------------------------------------- killed, and no room


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        *(("out.csv", moment) for moment in COMPACTION_DEATHS),
        *((name, "compaction writes") for name in [*FILES, "out.html"]),
    ],
)
def test_killed_in_the_middle(convert, name, moment):
    content = convert.journal(600)
    target = convert.folder / name
    target.write_bytes(b"an earlier export")
    process = convert.dying(moment, "run.jsonl", "-o", name, "--overwrite")
    assert process.returncode == -signal.SIGKILL, process.stderr
    if moment == "compaction is done":
        assert len(ids_in(target)) == 600
    else:
        assert target.read_bytes() == b"an earlier export"
    assert (convert.folder / "run.jsonl").read_bytes() == content
    assert any(each.endswith(".partial") for each in convert.names()) == (moment.split()[-1] in ("writes", "ends"))
    assert_ends(convert("run.jsonl", "-o", name, "--overwrite"), 0)
    assert len(ids_in(target)) == 600
    assert convert.names() == sorted(["run.jsonl", name])  # and what the killed one left is gone


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("moment", ["writes", "named"])
@pytest.mark.parametrize(
    ("words", "num_files", "num_partials"),
    [
        (("--format", "txt", "-o", "out/"), 6, 1),  # and the mark of the folder
        (("--write-metadata", "xmp", "-o", "out/"), 5, 1),
        (("--format", "conversations", "-o", "out/train.jsonl"), 6, 2),  # pages of a document, and what names them
    ],
    ids=["txt", "xmp", "conversations"],
)
def test_killed_among_many_files(convert, words, num_files, num_partials, moment):
    draw, *others = (Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(5))
    if "conversations" in words:
        draw.save(convert.folder / "f.pdf", save_all=True, append_images=others)
        pages = [make_record(f"f.pdf#page={page}", f"Page {page}.", image="f.pdf", page=page) for page in range(1, 6)]
        write_journal(convert.folder / "run.jsonl", pages)
    else:
        convert.journal()
        (convert.folder / "in").mkdir()
        for number in range(5):
            draw.save(convert.folder / f"in/{number:04}.jpg")
    target = convert.folder / "out"
    assert_ends(convert("run.jsonl", *words), 0)
    whole = contents(target)
    assert len(whole) == num_files
    target.rename(convert.folder / "whole")
    process = convert.dying_among_files(moment, "run.jsonl", *words)
    assert process.returncode == -signal.SIGKILL, process.stderr
    left = contents(target)
    partials = [left.pop(name) for name in list(left) if name.endswith(".partial")]
    assert len(partials) == num_partials
    assert left.items() <= whole.items()  # no file is there that isn't whole
    assert len(left) == 2
    assert_ends(convert("run.jsonl", *words), 0)
    assert contents(target) == whole  # and what the killed one left is gone


def largest_file(num_bytes: int) -> Callable[[], None]:
    """To run in a new process: no file that it writes can grow past so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.mark.parametrize("name", FILES)
def test_no_room_for_the_file(convert, name):
    convert.journal(600)
    (convert.folder / name).write_bytes(b"an earlier export")
    process = convert("run.jsonl", "-o", name, "--overwrite", preexec_fn=largest_file(5_000))
    assert_ends(process, 1, f"can't write {name}", "File too large", "hint:")
    assert (convert.folder / name).read_bytes() == b"an earlier export"
    assert convert.names() == sorted(["run.jsonl", name])


def test_no_room_for_text_files(convert):
    write_journal(convert.folder / "run.jsonl", [make_record("a.jpg", "short"), make_record("b.jpg", "x" * 9_000)])
    process = convert("run.jsonl", "-o", "captions/", preexec_fn=largest_file(5_000))
    assert_ends(process, 1, "can't write captions/b.txt", "File too large")
    assert [path.name for path in (convert.folder / "captions").iterdir()] == ["a.txt"]
    assert_ends(convert("run.jsonl", "-o", "captions/"), 0, "1 text files", "1 were there already")


def test_no_partial_file_is_taken_from_a_process_that_lives(convert):
    convert.journal()
    mine = convert.folder / f".out.csv.{os.getpid()}.partial"
    for path in (mine, convert.folder / ".out.csv.x.partial", convert.folder / ".out.csv.partial"):
        path.touch()
    assert_ends(convert("run.jsonl", "-o", "out.csv"), 0)
    assert convert.names() == sorted(["run.jsonl", "out.csv", mine.name, ".out.csv.x.partial", ".out.csv.partial"])


@pytest.mark.parametrize("name", FILES)
def test_interrupted(convert, name):
    convert.journal(600)
    (convert.folder / name).write_bytes(b"an earlier export")
    process = convert.dying("compaction writes", "run.jsonl", "-o", name, "--overwrite", number=signal.SIGINT)
    assert_ends(process, 130)
    assert (convert.folder / name).read_bytes() == b"an earlier export"
    assert convert.names() == sorted([name, "run.jsonl"])
