"""`caption -o` into other forms than its journal: the journal beside it, resumed and exported again; nothing half done.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal

import pyarrow.parquet as pq
import pytest


def rows(omnicap, name="out.csv"):
    return list(csv.DictReader(io.StringIO((omnicap.folder / name).read_text("utf-8"))))


def test_a_run_into_csv_keeps_its_journal_and_goes_on(omnicap, make_pictures):
    ids = make_pictures(6)
    first = omnicap.run("in", "-o", "out.csv", "--limit", "2")
    assert first.returncode == 0, first.stderr
    assert [row["id"] for row in rows(omnicap)] == ids[:2]
    second = omnicap.run("in", "-o", "out.csv")
    assert "2 done before" in second.stderr
    assert "out.csv" in second.stderr
    assert [row["id"] for row in rows(omnicap)] == ids
    assert [record["id"] for record in omnicap.records("out.csv.journal.jsonl")] == ids
    assert len(omnicap.begun) == 6
    captions = [record["caption"] for record in omnicap.records("out.csv.journal.jsonl")]
    assert [row["caption"] for row in rows(omnicap)] == captions


def test_nothing_to_do_is_exported_all_the_same(omnicap, make_pictures):
    make_pictures(3)
    assert omnicap.run("in", "-o", "out.csv").returncode == 0
    os.unlink(omnicap.folder / "out.csv")
    assert omnicap.run("in", "-o", "out.csv").returncode == 0
    assert len(rows(omnicap)) == 3
    assert len(omnicap.begun) == 3


@pytest.mark.parametrize(
    ("words", "output", "journal"),
    [
        (("-o", "out.parquet"), "out.parquet", "out.parquet.journal.jsonl"),
        (("-o", "out.tsv"), "out.tsv", "out.tsv.journal.jsonl"),
        (("-o", "out.tar"), "out.tar", "out.tar.journal.jsonl"),
        (("-o", "out.html"), "out.html", "out.html.journal.jsonl"),
        (("-o", "texts/"), "texts/in/0000.txt", "texts.journal.jsonl"),
        (("-o", "texts", "--format", "txt"), "texts/in/0000.txt", "texts.journal.jsonl"),
        (("--format", "txt"), "in/0000.txt", "captions.journal.jsonl"),
        (("-o", "train.jsonl", "--format", "conversations"), "train.jsonl", "train.jsonl.journal.jsonl"),
        (("-o", "data.bin", "--format", "csv"), "data.bin", "data.bin.journal.jsonl"),
        (("-o", "out.jsonl", "--format", "jsonl"), "out.jsonl", "out.jsonl"),
    ],
)
def test_every_form_has_its_journal_beside_it(omnicap, make_pictures, words, output, journal):
    make_pictures(2)
    run = omnicap.run("in", *words)
    assert run.returncode == 0, run.stderr
    assert (omnicap.folder / output).stat().st_size
    assert len(omnicap.records(journal)) == 2
    target = words[1] if words[0] == "-o" else journal
    status = omnicap.run(target, "--json", command="status")
    assert json.loads(status.stdout)["num_ok"] == 2


def test_errors_are_in_the_output_and_in_the_exit_code(omnicap, make_pictures):
    make_pictures(2)
    (omnicap.folder / "in" / "empty.png").touch()
    assert omnicap.run("in", "-o", "out.parquet").returncode == 3
    table = pq.read_table(omnicap.folder / "out.parquet").to_pylist()
    assert [row["error_kind"] for row in table] == [None, None, "EmptyFileError"]


def test_an_interrupted_run_leaves_the_old_output(omnicap, make_pictures):
    make_pictures(3)
    assert omnicap.run("in", "-o", "out.csv").returncode == 0
    before = (omnicap.folder / "out.csv").read_bytes()
    make_pictures(40)
    process = omnicap.start("in", "-o", "out.csv", seconds=0.1)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 8)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert (omnicap.folder / "out.csv").read_bytes() == before
    assert omnicap.run("in", "-o", "out.csv").returncode == 0
    assert len({row["id"] for row in rows(omnicap)}) == 40  # the first three twice: they were drawn again


def test_shards_have_outputs_of_their_own(omnicap, make_pictures):
    make_pictures(4)
    for index in range(2):
        assert omnicap.run("in", "--shard", f"{index}/2", "-o", "out-{shard}.csv").returncode == 0
    assert [len(rows(omnicap, f"out-{index}.csv")) for index in range(2)] == [2, 2]


@pytest.mark.parametrize("name", ["list.csv", "x.tar", "page.html", "data.parquet"])
def test_what_was_there_before_a_run_is_not_replaced(omnicap, make_pictures, name):
    """An input, say, that is named as the output too."""
    make_pictures(1)
    (omnicap.folder / name).write_text("image\nin/0000.png\n")
    for words in ((name, "-o", name), ("in", "-o", name)):
        run = omnicap.run(*words)
        assert run.returncode == 2, run.stderr
        assert "is there already" in run.stderr
    assert (omnicap.folder / name).read_text() == "image\nin/0000.png\n"
    assert not omnicap.begun
    assert omnicap.run("in", "-o", name, "--overwrite").returncode == 0
    assert (omnicap.folder / name).read_bytes() != b"image\nin/0000.png\n"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("-o", "out.docx"), ".parquet"),
        (("-o", "out"), ".csv"),
        (("--format", "nonsense", "-o", "out.csv"), "conversations"),
        (("--format", "csv"), "-o"),
        (("--format", "parquet"), "-o"),
        (("-o", "in/0000.png/"), "folder"),
        (("-o", "in", "--format", "csv"), "not a file"),
    ],
)
def test_what_cant_be_written_is_wrong_usage_before_anything_runs(omnicap, make_pictures, words, part):
    make_pictures(1)
    run = omnicap.run("in", *words)
    assert run.returncode == 2, run.stderr
    assert part in run.stderr
    assert not omnicap.begun
    assert sorted(os.listdir(omnicap.folder)) == ["in"]


def test_a_full_disk_at_the_end_keeps_the_journal(omnicap, make_pictures):
    import resource

    make_pictures(30)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    size = (omnicap.folder / "out.jsonl").stat().st_size
    (omnicap.folder / "out.csv").write_text("old")  # of an earlier export of this journal
    os.rename(omnicap.folder / "out.jsonl", omnicap.folder / "out.csv.journal.jsonl")
    limit = size // 4  # less than the CSV of it needs

    def starve():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = omnicap.run("in", "-o", "out.csv", preexec=starve)
    assert run.returncode == 1, run.stderr
    assert "out.csv" in run.stderr
    assert (omnicap.folder / "out.csv").read_text() == "old"
    assert len(omnicap.records("out.csv.journal.jsonl")) == 30
    assert not [name for name in os.listdir(omnicap.folder) if name.endswith("partial")]
