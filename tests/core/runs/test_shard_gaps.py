"""What the notes beside journals say of shards: which are missing, doubled, unfinished or not alike."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omnicap_cli.core.runs.journal import Journal
from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.core.runs.shard_gaps import (
    common_folder,
    common_settings,
    describe_shards,
    find_differences,
    find_gaps,
    missing_shards,
    read_sources,
    shard_of,
)
from omnicap_cli.errors import JournalError


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(name, **note)` makes an empty journal with a note, or with none, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def make_journal(name: str, **note: Any) -> Path:
        path = Path(name)
        path.touch()
        if note:
            RunMeta(**({"state": "finished"} | note)).write(path)
        return path

    return make_journal


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def problems_of(*paths: Path) -> list[str]:
    return find_gaps(read_sources(paths)).problems


# ------------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize(("text", "shard"), [("0/1", Shard(0, 1)), ("7/8", Shard(7, 8)), ("2/1000", Shard(2, 1000))])
def test_what_a_shard_is(text, shard):
    assert shard_of(RunMeta(shard=text)) == shard
    assert str(shard) == text


@pytest.mark.parametrize(
    "text", [None, "", "8/8", "0/0", "1", "-1/8", "1/-8", "a/b", "1/2/3", "0/9999999", f"0/{'9' * 5000}"]
)
def test_what_no_shard_is(text):
    assert shard_of(RunMeta(shard=text)) is None


def test_no_note_is_no_shard():
    assert shard_of(None) is None


def test_the_missing_are_named():
    assert missing_shards([Shard(index, 8) for index in (0, 1, 2, 4, 6, 7)]) == [Shard(3, 8), Shard(5, 8)]
    assert missing_shards([Shard(1, 2), Shard(0, 3), Shard(2, 3)]) == [Shard(0, 2), Shard(1, 3)]
    assert missing_shards([Shard(0, 1)]) == missing_shards([]) == []


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([3], "shard 3 of 64"),
        ([3, 5], "shards 3 and 5 of 64"),
        ([0, 3, 5], "shards 0, 3 and 5 of 64"),
        (list(range(11)), "shards 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more of 64"),
    ],
)
def test_shards_as_a_person_names_them(indices, words):
    assert describe_shards(Shard(index, 64) for index in indices) == words


# ---------------------------------------------------------------------------------------------------- gaps


def test_a_whole_run_has_no_gaps(make):
    gaps = find_gaps(read_sources([make(f"{index}.jsonl", shard=f"{index}/3") for index in (2, 0, 1)]))
    assert (gaps.problems, gaps.missing, gaps.unfinished, gaps.num_left) == ([], [], [], 0)


def test_missing_shards(make):
    gaps = find_gaps(read_sources([make(f"{index}.jsonl", shard=f"{index}/8") for index in (0, 1, 2, 4, 6, 7)]))
    assert gaps.problems == ["missing: shards 3 and 5 of 8"]
    assert gaps.num_left is None


def test_shards_of_two_runs(make):
    problems = problems_of(make("a.jsonl", shard="0/1"), make("b.jsonl", shard="1/2"), make("c.jsonl", shard="0/2"))
    assert problems == ["not shards of one run: some are of 1 and 2"]


def test_a_shard_given_twice(make):
    problems = problems_of(make("a.jsonl", shard="0/2"), make("b.jsonl", shard="1/2"), make("c.jsonl", shard="0/2"))
    assert problems == ["shard 0 of 2 is given 2 times: a.jsonl and c.jsonl"]


def test_a_file_given_twice_under_two_names(make):
    path = make("a.jsonl", shard="0/1")
    Path("link.jsonl").symlink_to(path)
    assert problems_of(path, Path("link.jsonl")) == ["shard 0 of 1 (a.jsonl) is given 2 times"]
    assert problems_of(make("plain.jsonl"), Path("plain.jsonl")) == ["plain.jsonl is given 2 times"]


@pytest.mark.parametrize(
    ("state", "words"),
    [("interrupted", "was interrupted"), ("failed", "failed"), ("running", "was killed"), ("paused", "is paused")],
)
def test_shards_that_are_not_finished(make, state, words):
    counts = {"num_requests": 1500, "num_handled": 300}
    unfinished = make("a.jsonl", shard="0/2", state=state, pid=dead_pid(), **counts)
    gaps = find_gaps(read_sources([unfinished, make("b.jsonl", shard="1/2")]))
    assert gaps.problems == [f"shard 0 of 2 (a.jsonl) {words}, 1,200 left"]
    assert gaps.num_left == 1200


def test_a_run_that_has_not_counted_its_requests(make):
    gaps = find_gaps(read_sources([make("a.jsonl", state="interrupted")]))
    assert (gaps.problems, gaps.num_left) == (["a.jsonl was interrupted"], None)


def test_a_run_that_goes_on_says_where(make):
    path = make("a.jsonl", shard="0/1", state="running", host="node-17", num_requests=9, num_handled=2)
    assert problems_of(path) == ["shard 0 of 1 (a.jsonl) is still running on node-17, 7 left"]


@pytest.mark.parametrize("note", [{}, {"shard": "0/1", "num_requests": 5, "num_handled": 5}])
def test_a_journal_that_is_being_written_is_not_finished_whatever_the_note_says(make, note):
    path = make("a.jsonl", **note)
    journal = Journal(path)
    gaps = find_gaps(read_sources([path]))
    assert [problem.partition(" is ")[2] for problem in gaps.problems] == ["still running"]
    assert gaps.num_left is None
    journal.close()
    assert find_gaps(read_sources([path])).problems == []


def test_looking_for_a_writer_leaves_nothing_behind(make):
    path = make("a.jsonl", shard="0/1")
    before = sorted(os.listdir())
    read_sources([path])
    assert sorted(os.listdir()) == before
    with Journal(path):  # nor is the journal kept from the next run
        pass


# ------------------------------------------------------------------------------------------------- sources


def test_a_journal_without_a_note(make):
    [source] = read_sources([make("a.jsonl")])
    assert (source.name, source.shard, source.state) == ("a.jsonl", None, "unknown")


def test_the_journal_beside_an_export(make):
    make("out.parquet")
    make("out.parquet.journal.jsonl", shard="0/1")
    [source] = read_sources([Path("out.parquet")])
    assert (source.path, source.shard) == (Path("out.parquet.journal.jsonl"), Shard(0, 1))


def test_what_is_not_there_or_no_file(make, tmp_path):
    with pytest.raises(JournalError, match=r"can't read no\.jsonl: No such file"):
        read_sources([make("a.jsonl"), Path("no.jsonl")])
    with pytest.raises(JournalError, match="not a file"):
        read_sources([tmp_path])
    os.mkfifo("pipe")
    with pytest.raises(JournalError, match="not a file"):
        read_sources([Path("pipe")])


# --------------------------------------------------------------------------------------------- differences


def test_differences_are_named_with_their_values(make):
    paths = [
        make("a.jsonl", settings={"engine": "rapidocr", "dpi": 150}),
        make("b.jsonl", settings={"engine": "rapidocr", "dpi": 200}),
        make("c.jsonl", settings={"engine": "rapidocr", "dpi": 150, "prompts": ["ocr/text/en"]}),
    ]
    assert find_differences(read_sources(paths)) == [
        "dpi is not the same everywhere: 150 in a.jsonl and c.jsonl and 200 in b.jsonl",
        'prompts is not the same everywhere: null in a.jsonl and b.jsonl and ["ocr/text/en"] in c.jsonl',
    ]
    assert common_settings(read_sources(paths)) == {"engine": "rapidocr"}


def test_runs_in_different_folders(make, tmp_path):
    paths = [make("a.jsonl", folder="/data"), make("b.jsonl", folder=str(tmp_path))]
    [difference] = find_differences(read_sources(paths))
    assert difference.startswith('folder is not the same everywhere: "/data" in a.jsonl and ')
    assert common_folder(read_sources(paths)) is None


def test_shards_are_of_the_same_inputs(make):
    other, same = {"inputs": ["scans"]}, {"inputs": ["photos", "more.csv"]}
    runs = {"a.jsonl": same, "b.jsonl": same, "c.jsonl": other}
    shards = [make(name, settings=each, shard=f"{number}/3") for number, (name, each) in enumerate(runs.items())]
    assert find_differences(read_sources(shards)) == [
        'inputs is not the same everywhere: ["photos","more.csv"] in a.jsonl and b.jsonl and ["scans"] in c.jsonl'
    ]
    assert find_differences(read_sources(shards[:2])) == []
    assert common_settings(read_sources(shards[:2])) == same


def test_other_runs_may_be_of_any_inputs(make):
    paths = [make("a.jsonl", settings={"inputs": ["scans"]}), make("b.jsonl", settings={"inputs": ["photos"]})]
    assert find_differences(read_sources(paths)) == []


def test_runs_that_are_alike(make, tmp_path):
    paths = [make("a.jsonl", settings={"dpi": 150}), make("b.jsonl", settings={"dpi": 150}), make("c.jsonl")]
    sources = read_sources(paths)
    assert find_differences(sources) == []
    assert common_settings(sources) == {"dpi": 150}
    assert common_folder(sources[:2]) == str(tmp_path)
    assert common_folder(sources) is None  # of the third nobody knows
    assert common_settings(sources[2:]) == {}


def test_a_note_of_an_earlier_version(make):
    path = make("a.jsonl", host=socket.gethostname())
    note = RunMeta.path_of(path)
    values = json.loads(note.read_text())
    del values["folder"], values["shard"]
    note.write_text(json.dumps(values))
    [source] = read_sources([path])
    assert source.meta is not None
    assert (source.meta.folder, source.meta.shard, source.state) == (None, None, "finished")
