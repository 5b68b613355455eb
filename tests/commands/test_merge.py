"""`omnicap merge` and `omnicap status` of shards as a user meets them: exit codes, what is said, what is left."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training_records import line, sample, write_split

from omnicap_cli.core.runs.run_note import RunMeta


@pytest.fixture
def call(tmp_path):
    """`call(command, *words)` runs it in tmp_path, where the fake runs write too."""

    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
        return subprocess.run(
            [sys.executable, "-m", "omnicap_cli", *words],
            cwd=tmp_path,
            env=environment | {"NO_COLOR": "1", "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            **more,
        )

    return run


@pytest.fixture
def make_shards(omnicap, make_pictures):
    """`make_shards(count, fail=...)` runs so many shards of ten pictures, and returns the names of the journals."""

    def make(count: int, **fake: Any) -> list[str]:
        make_pictures(10)
        for index in range(count):
            words = ("in", "--shard", f"{index}/{count}", "-o", "out-{shard}.jsonl")
            assert omnicap.run(*words, **fake).returncode in (0, 3)
        return [f"out-{index}.jsonl" for index in range(count)]

    return make


def statuses(omnicap, name: str) -> Counter[str]:
    """How many records of a journal have which status."""
    return Counter(record["status"] for record in omnicap.records(name))


def note(path: Path, **values: Any) -> None:
    """Change what is noted of the run that wrote `path`."""
    target = RunMeta.path_of(path)
    target.write_text(json.dumps(json.loads(target.read_text()) | values))


def on_terminal(folder: Path, *words: str) -> str:
    """What a command prints to a person."""
    reader, writer = os.openpty()
    process = subprocess.Popen([sys.executable, "-m", "omnicap_cli", *words], cwd=folder, stdout=writer)
    os.close(writer)
    said = b""
    try:
        while chunk := os.read(reader, 65536):
            said += chunk
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(reader)
    process.wait(timeout=120)
    return said.decode().replace("\r\n", "\n")


# --------------------------------------------------------------------------------------------------- merge


def test_shards_become_one_journal_that_a_run_goes_on_from(omnicap, call, make_shards):
    names = make_shards(3)
    result = call("merge", *names, "-o", "all.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["num_records"], report["num_ok"], report["num_failed"]) == (10, 10, 0)
    assert (report["num_journals"], report["num_shards"], report["missing_shards"]) == (3, 3, [])
    expected = [record for name in names for record in omnicap.records(name)]
    assert omnicap.records("all.jsonl") == expected
    status = json.loads(call("status", "all.jsonl", "--json").stdout)
    assert (status["state"], status["num_requests"], status["num_left"]) == ("finished", 10, 0)
    num_begun = len(omnicap.begun)
    again = omnicap.run("in", "-o", "all.jsonl")
    assert (again.returncode, len(omnicap.begun)) == (0, num_begun)
    assert "nothing to do" in again.stderr
    assert omnicap.records("all.jsonl") == expected


def test_failed_records_are_exit_3_and_tried_again_in_the_merged_journal(omnicap, call, make_shards):
    result = call("merge", *make_shards(2, fail=["0003", "0004"]), "-o", "all.jsonl", "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["errors"] == {"InferenceError": 2}
    assert omnicap.run("in", "-o", "all.jsonl", "--retry-failed").returncode == 0
    assert json.loads(call("status", "all.jsonl", "--json").stdout)["num_ok"] == 10


def test_a_missing_shard_is_exit_1_and_named(omnicap, call, make_shards):
    names = make_shards(4)
    before = sorted(os.listdir(omnicap.folder))
    result = call("merge", names[0], names[2], "-o", "all.jsonl")
    assert (result.returncode, result.stdout) == (1, "")
    assert "missing: shards 1 and 3 of 4" in result.stderr
    assert "--allow-missing" in result.stderr
    assert sorted(os.listdir(omnicap.folder)) == before
    result = call("merge", names[0], names[2], "-o", "all.jsonl", "--allow-missing")
    assert result.returncode == 0
    assert "warning: missing: shards 1 and 3 of 4" in result.stderr
    assert json.loads(result.stdout)["missing_shards"] == ["1/4", "3/4"]
    assert json.loads(call("status", "all.jsonl", "--json").stdout)["state"] == "interrupted"


def test_shards_of_different_inputs_are_told_of(omnicap, call, make_pictures):
    make_pictures(10)
    for index, name in enumerate(("in", "in/*.png")):
        assert omnicap.run(name, "--shard", f"{index}/2", "-o", "out-{shard}.jsonl").returncode == 0
    result = call("merge", "out-0.jsonl", "out-1.jsonl", "-o", "all.jsonl")
    assert result.returncode == 0
    assert (
        'warning: inputs is not the same everywhere: ["in"] in out-0.jsonl and ["in/*.png"] in out-1.jsonl'
        in " ".join(result.stderr.split())
    )


def test_a_shard_that_runs_and_one_that_was_killed(omnicap, call, make_pictures):
    make_pictures(100)
    assert omnicap.run("in", "-o", "out-0.jsonl", die_after=3).returncode == -9
    note(omnicap.folder / "out-0.jsonl", shard="0/2", num_requests=100)
    process = omnicap.start("in", "-o", "out-1.jsonl", seconds=0.1)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 6)
    result = call("merge", "out-0.jsonl", "out-1.jsonl", "-o", "all.jsonl")
    assert result.returncode == 1
    assert "shard 0 of 2 (out-0.jsonl) was killed" in result.stderr
    assert "out-1.jsonl is still running" in result.stderr
    assert not (omnicap.folder / "all.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out-0.jsonl"], "-o"),
        (["out-0.jsonl", "-o", "all.jsonl.gz"], ".jsonl"),
        (["out-0.jsonl", "-o", "out-0.jsonl", "--overwrite"], "one of the journals"),
        (["out-0.jsonl", "-o", "old.jsonl"], "--overwrite"),
        ([], "JOURNAL"),
    ],
)
def test_wrong_usage_is_exit_2_and_touches_nothing(omnicap, call, make_shards, words, said):
    make_shards(1)
    (omnicap.folder / "old.jsonl").write_bytes(b"old\n")
    before = {path.name: path.read_bytes() for path in omnicap.folder.iterdir() if path.is_file()}
    result = call("merge", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in omnicap.folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("option", ["--dry-run", "--stats-only"])
def test_checking_writes_nothing(omnicap, call, make_shards, option):
    names = make_shards(2)
    before = sorted(os.listdir(omnicap.folder))
    result = call("merge", *names, option)
    assert (result.returncode, json.loads(result.stdout)["num_records"]) == (0, 10)
    assert json.loads(result.stdout)["written"] is False
    assert sorted(os.listdir(omnicap.folder)) == before


def largest_file(num_bytes: int) -> Callable[[], None]:
    """To run in a new process: no file that it writes can grow past so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.mark.parametrize("num_bytes", [0, 100, 3_000])
def test_a_disk_without_room_leaves_the_old_output(omnicap, call, make_shards, num_bytes):
    names = make_shards(2)
    assert call("merge", *names, "-o", "all.jsonl").returncode == 0
    old = (omnicap.folder / "all.jsonl").read_bytes()
    assert len(old) > 3_000
    full = call("merge", *names[::-1], "-o", "all.jsonl", "--overwrite", preexec_fn=largest_file(num_bytes))
    assert full.returncode == 1
    assert "can't write all.jsonl" in full.stderr
    assert "hint:" in full.stderr
    assert "Traceback" not in full.stderr
    assert (omnicap.folder / "all.jsonl").read_bytes() == old
    assert not list(omnicap.folder.glob(".*.partial"))


def test_a_person_sees_a_table(omnicap, call, make_shards):
    names = make_shards(2, fail=["0003"])
    said = on_terminal(omnicap.folder, "merge", *names, "-o", "all.jsonl")
    rows = [line.split(None, 1) for line in said.splitlines()]
    for row in (["records", "10"], ["captioned", "9"], ["failed", "1"], ["InferenceError", "1"], ["shards", "2 of 2"]):
        assert row in rows
    assert ["output", "all.jsonl"] in rows
    assert "nothing written" in on_terminal(omnicap.folder, "merge", *names, "--dry-run")


def test_names_that_would_steer_the_terminal_are_escaped(omnicap, call, make_shards):
    [name] = make_shards(1)
    evil = "\x1b[31mred.jsonl"
    (omnicap.folder / name).rename(omnicap.folder / evil)
    result = call("merge", evil, "-o", "all.jsonl")
    assert result.returncode == 0
    assert "red.jsonl" in result.stderr  # it has lost its note, which is told
    assert "\x1b" not in result.stderr


# -------------------------------------------------------------------------------- merge of a data set's splits


@pytest.fixture
def make_splits(tmp_path):
    """`make_splits(count)` writes so many splits of three records, the first record of each in all of them."""

    def make(count: int) -> list[str]:
        (tmp_path / "out").mkdir()
        for number in range(1, count + 1):
            content = b"".join(line(sample(each)) for each in (0, number * 2, number * 2 + 1))
            write_split(tmp_path / "out", "data", number, count, content)
        return [f"out/data_split{number}.jsonl" for number in range(1, count + 1)]

    return make


def samples(*numbers: int) -> bytes:
    return b"".join(line(sample(number)) for number in numbers)


def test_splits_become_one_file(call, make_splits, tmp_path):
    names = make_splits(11)
    before = sorted(os.listdir(tmp_path))
    result = call("merge", *sorted(names), "-o", "train.jsonl")  # as a shell sorts them: 10 and 11 before 2
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "train.jsonl").read_bytes() == samples(0, *range(2, 24))
    report = json.loads(result.stdout)
    assert (report["num_records"], report["num_duplicates"], report["num_files"]) == (23, 10, 11)
    assert (report["num_text_tokens"], report["num_image_tokens"], report["num_sequence_tokens"]) == (230, 2300, 2645)
    assert report["lengths"] == {"min": 115, "mean": 115.0, "median": 115, "p90": 115, "p99": 115, "max": 115}
    assert report["histogram"] == [{"low": 65, "high": 128, "num_sequences": 23}]
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "train.jsonl"])
    folder = call("merge", "out", "-o", "out/train.jsonl.zst", "--sort-by-length", "--keep-duplicates")
    assert (folder.returncode, json.loads(folder.stdout)["num_records"]) == (0, 33)
    assert json.loads(call("merge", "out/train.jsonl.zst", "--stats-only").stdout)["num_duplicates"] == 10


def test_a_missing_split_is_exit_1_and_named(call, make_splits, tmp_path):
    names = make_splits(4)
    (tmp_path / names[2]).unlink()
    result = call("merge", "out", "-o", "train.jsonl")
    assert (result.returncode, result.stdout) == (1, "")
    assert "missing: split 3 of 4 of data in out" in result.stderr
    assert "--allow-missing" in result.stderr
    assert not (tmp_path / "train.jsonl").exists()
    result = call("merge", "out", "-o", "train.jsonl", "--allow-missing")
    assert result.returncode == 0
    assert "warning: missing: split 3 of 4 of data in out" in result.stderr
    assert (tmp_path / "train.jsonl").read_bytes() == samples(0, 2, 3, 4, 5, 8, 9)


def test_broken_lines_are_exit_3(call, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(samples(1) + b"{broken\n" + samples(2))
    result = call("merge", "train.jsonl", "-o", "all.jsonl", "--json")
    assert (result.returncode, json.loads(result.stdout)["broken_lines"]) == (3, {"not_json": 1})
    assert "train.jsonl:2 (not_json)" in result.stderr
    assert (tmp_path / "all.jsonl").read_bytes() == samples(1, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out"], "-o"),
        (["out", "-o", "train.csv"], ".jsonl"),
        (["out", "-o", "old.jsonl"], "--overwrite"),
        (["out", "-o", "out/data_split1.jsonl", "--overwrite"], "one of the files"),
        (["out", "journal.jsonl", "-o", "all.jsonl"], "journal.jsonl a journal of captions"),
        (["journal.jsonl", "-o", "all.jsonl", "--sort-by-length"], "--sort-by-length is for splits"),
        (["journal.jsonl", "-o", "all.jsonl", "--keep-duplicates"], "--keep-duplicates is for splits"),
    ],
)
def test_wrong_usage_with_splits_is_exit_2_and_touches_nothing(call, make_splits, tmp_path, words, said):
    make_splits(1)
    (tmp_path / "old.jsonl").write_bytes(b"old\n")
    (tmp_path / "journal.jsonl").write_text(json.dumps({"id": "a", "status": "ok", "key": "0" * 64}) + "\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = call("merge", *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("words", [["none/*_split*.jsonl"], ["empty"], ["pipe"]])
def test_nothing_to_merge_is_exit_1(call, tmp_path, words):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    result = call("merge", *words, "-o", "all.jsonl")
    assert (result.returncode, result.stdout) == (1, "")
    assert words[0] in result.stderr
    assert "hint:" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("more", [(), ("--sort-by-length",)])
@pytest.mark.parametrize("num_bytes", [0, 100, 3_000])
def test_no_room_for_splits_leaves_the_old_output(call, tmp_path, more, num_bytes):
    (tmp_path / "train.jsonl").write_bytes(samples(*range(50)))
    (tmp_path / "all.jsonl").write_bytes(b"old\n")
    words = ("merge", "train.jsonl", "-o", "all.jsonl", "--overwrite", *more)
    full = call(*words, preexec_fn=largest_file(num_bytes))
    assert full.returncode == 1
    assert "can't write all.jsonl" in full.stderr
    assert "Traceback" not in full.stderr
    assert (tmp_path / "all.jsonl").read_bytes() == b"old\n"
    assert sorted(os.listdir(tmp_path)) == ["all.jsonl", "train.jsonl"]


def test_a_person_sees_the_lengths(make_splits, tmp_path):
    make_splits(2)
    said = on_terminal(tmp_path, "merge", "out", "-o", "train.jsonl")
    rows = [line.split(None, 1) for line in said.splitlines()]
    for row in (["records", "5"], ["duplicates", "1, dropped"], ["tokens", "575"], ["output", "train.jsonl"]):
        assert row in rows
    assert said.splitlines()[-1] == f"65-128  {'█' * 40}  5  100.0%"


def test_a_journal_without_records_is_none_of_a_data_set(call, tmp_path):
    (tmp_path / "journal.jsonl").touch()
    result = call("merge", "journal.jsonl", "-o", "all.jsonl")
    assert (result.returncode, json.loads(result.stdout)["num_journals"]) == (0, 1)


# ------------------------------------------------------------------------------------------ status of several


def test_status_of_shards_is_a_line_each_and_a_total(omnicap, call, make_shards):
    names = make_shards(3, fail=["0003"])
    result = call("status", *names[:2])
    assert (result.returncode, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["journal", "state", "shard", "done", "failed", "left", "rate", "time", "left"]
    counts = [statuses(omnicap, name) for name in names[:2]]
    for row, name, index, count in zip(rows[1:], names, "01", counts, strict=False):
        assert row[:6] == [name, "finished", f"{index}/3", str(count["ok"]), str(count["error"]), "0"]
    total = counts[0] + counts[1]
    assert rows[3] == ["total", "2", "finished", str(total["ok"]), str(total["error"]), "0"]
    errors = [["InferenceError", "1"]] if total["error"] else []
    assert rows[4:] == [*errors, ["missing", "shard", "2", "of", "3"]]


def test_status_of_shards_as_json(omnicap, call, make_shards):
    names = make_shards(3, fail=["0003"])
    found = json.loads(call("status", *names[1:], "--json").stdout)
    assert [entry["shard"] for entry in found["journals"]] == ["1/3", "2/3"]
    alone = json.loads(call("status", names[1], "--json").stdout)
    assert found["journals"][0] == alone | {"shard": "1/3"}
    assert set(found) == {"journals", "total"}
    assert found["total"]["num_ok"] == sum(statuses(omnicap, name)["ok"] for name in names[1:])
    assert found["total"]["missing_shards"] == ["0/3"]


def test_a_journal_that_cannot_be_read_is_exit_1_and_the_others_are_shown(call, make_shards):
    names = make_shards(2)
    result = call("status", names[0], "missing.jsonl", names[1])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    assert lines[1].startswith("out-0.jsonl ")
    assert lines[2].startswith("missing.jsonl ")
    assert "No such file" in lines[2]
    assert lines[3].startswith("out-1.jsonl ")
    assert lines[4].split() == ["total", "2", "finished", "10", "0", "0"]
    as_json = call("status", names[0], "missing.jsonl", names[1], "--json")
    assert as_json.returncode == 1
    found = json.loads(as_json.stdout)
    assert "No such file" in found["journals"][1]["error"]
    assert (found["total"]["num_ok"], found["total"]["num_unreadable"]) == (10, 1)


def test_the_journal_beside_an_export_is_found(omnicap, call, make_shards):
    [name] = make_shards(1)
    (omnicap.folder / name).rename(omnicap.folder / "out.csv.journal.jsonl")
    (omnicap.folder / "out.csv").write_text("id,caption\n")
    result = call("status", "out.csv", "--json")
    assert (result.returncode, json.loads(result.stdout)["num_ok"]) == (0, 10)
