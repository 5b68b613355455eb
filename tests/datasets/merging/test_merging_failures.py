"""Full disks, kills, changing inputs and dying processes leave the output of a merge as it was, or whole."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.data_merges import file_names, merge, merged_bytes, record_lines, write_file
from support.data_merges import here as here  # a fixture

from omnicap_cli.core.workers.child import Child
from omnicap_cli.datasets import streams
from omnicap_cli.datasets.merging import duplicates, merge_splits, rewriting, split_reader
from omnicap_cli.errors import JournalError, JournalWriteError, OmnicapError

# ----------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("more", [{}, {"sort_by_length": True}, {"output": Path("all.jsonl.gz")}])
def test_a_disk_that_is_full_at_any_moment_leaves_the_output_as_it_was(more):
    output = more.get("output", Path("all.jsonl"))
    write_file(str(output), b"old")
    path = write_file("a.jsonl", record_lines(1, 2, 1))
    num_writes = 0
    while output.read_bytes() == b"old":
        left = [num_writes]

        def or_full(act: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
            def act_or_fail(*words: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return act(*words)

            return act_or_fail

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(duplicates, "_MAX_WAITING_ROWS", 1)
            patch.setattr(duplicates, "_NUM_PARTITIONS", 2)
            for module, name in ((streams, "append"), (rewriting, "write_at"), (duplicates, "append"), (os, "fsync")):
                patch.setattr(module, name, or_full(getattr(module, name)))
            try:
                merge(path, overwrite=True, **more)
            except JournalWriteError as error:
                assert "No space left on device" in error.message  # noqa: PT017  the last time there is none
        assert file_names() == sorted(["a.jsonl", output.name])
        num_writes += 1
    assert num_writes > 5


KILLED = """
import os, signal
from pathlib import Path
from omnicap_cli.datasets.merging import merge_splits
def die(*words):
    copy(*words)
    os.kill(os.getpid(), signal.SIGKILL)
copy, merge_splits.copy_runs = merge_splits.copy_runs, die
config = merge_splits.DataMergeConfig(inputs=(Path("a.jsonl"),), output=Path("all.jsonl"),
                                      overwrite=True, sort_by_length={})
merge_splits.merge_data(config)
"""


@pytest.mark.parametrize("sort", [False, True])
def test_killed_in_the_middle(sort):
    path = write_file("a.jsonl", record_lines(1, 2))
    write_file("all.jsonl", b"old")
    assert subprocess.run([sys.executable, "-c", KILLED.format(sort)]).returncode == -signal.SIGKILL
    assert merged_bytes() == b"old"
    left = [name for name in file_names() if name not in ("a.jsonl", "all.jsonl", "all.jsonl.lock")]
    assert len(left) == 1
    assert left[0].startswith(".all.jsonl.")
    merge(path, overwrite=True)
    assert (merged_bytes(), file_names()) == (record_lines(1, 2), ["a.jsonl", "all.jsonl"])


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(record_lines(7))


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (grow, "changed while"),
        (lambda path: os.truncate(path, 50), "changed while"),
        (lambda path: put_another(path), "changed while"),
        (Path.unlink, r"can't read b\.jsonl: No such file"),
    ],
)
def test_inputs_that_change_before_they_are_read(act, said, dry_run):
    paths = write_file("a.jsonl", record_lines(1)), write_file("b.jsonl", record_lines(2))
    write_file("all.jsonl", b"old")
    with pytest.raises(JournalError, match=said):
        merge(*paths, overwrite=True, dry_run=dry_run, warn=lambda _: act(paths[1]))
    assert merged_bytes() == b"old"
    assert not [name for name in file_names() if name.endswith((".partial", ".lock"))]


def put_another(path: Path) -> None:
    os.replace(write_file("new", path.read_bytes()), path)


@pytest.mark.parametrize(
    ("act", "piece_bytes"),
    [(grow, 1000), (lambda path: os.truncate(path, 50), 1000), (put_another, 1000), (grow, 1_000_000)],
)
def test_inputs_that_change_while_they_are_read(monkeypatch, act, piece_bytes):
    path = write_file("a.jsonl", record_lines(*range(50)))
    monkeypatch.setattr(split_reader, "_PIECE_BYTES", piece_bytes)
    copy, todo = merge_splits.copy_runs, [act]

    def copy_and_act(*words: Any) -> bool:
        found = copy(*words)
        if todo:
            todo.pop()(path)
        return found

    monkeypatch.setattr(merge_splits, "copy_runs", copy_and_act)
    with pytest.raises(JournalError, match=r"a\.jsonl changed while it was merged"):
        merge(path)
    assert file_names() == ["a.jsonl"]


# ----------------------------------------------------------------------------------------- several processes


@pytest.fixture
def in_processes(monkeypatch):
    monkeypatch.setattr(split_reader, "num_cores", lambda: 2)
    monkeypatch.setattr(split_reader, "_MIN_PROCESS_BYTES", 1)
    monkeypatch.setattr(split_reader, "_PIECE_BYTES", 2000)


def test_processes_find_what_one_finds(in_processes):
    contents = [record_lines(*range(first, first + 60)) + b"x\n" for first in (0, 30, 45)]
    paths = [write_file(f"{place}.jsonl", content) for place, content in enumerate(contents)]
    report = merge(*paths)
    assert merged_bytes() == record_lines(*range(105))
    assert (report.num_records, report.num_duplicates, report.num_broken_lines) == (105, 75, 3)
    assert report.lengths.pairs() == [(115, 105)]


def test_compressed_and_plain_files_together_are_compared_too(in_processes):
    report = merge(
        write_file("a.jsonl", record_lines(*range(50))),
        write_file("b.jsonl.gz", gzip.compress(record_lines(*range(60)))),
    )
    assert (merged_bytes(), report.num_duplicates) == (record_lines(*range(60)), 50)


def test_what_a_process_says_against_a_file(in_processes):
    paths = write_file("a.jsonl", record_lines(1)), write_file("b.jsonl", record_lines(*range(50)))
    with pytest.raises(JournalError, match=r"b\.jsonl"):
        merge(*paths, warn=lambda _: paths[1].unlink())


def test_a_process_that_dies(in_processes, monkeypatch):
    sent: list[Any] = []

    def send_and_kill(self, piece):
        sent.append(self)
        self.kill()

    monkeypatch.setattr(Child, "send", send_and_kill)
    write_file("all.jsonl", b"old")
    with pytest.raises(OmnicapError, match="a process that checked lines died"):
        merge(write_file("a.jsonl", record_lines(*range(50))), overwrite=True)
    assert merged_bytes() == b"old"
    assert not any(child._process.poll() is None for child in sent)
