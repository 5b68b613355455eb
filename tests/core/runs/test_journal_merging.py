"""What a merge keeps of journals, in which order, what it refuses, and that a failure leaves the output as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnicap_cli.core.runs.journal import Journal, KnownOutcome, read_index
from omnicap_cli.core.runs.journal_merging import MergeConfig, MergeReport, merge_journals
from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.core.runs.status import read_status
from omnicap_cli.errors import JournalError, JournalLockedError, JournalWriteError, OptionError, UsageError


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def line_of(number: int, status: str = "ok", *, caption: str = "", kind: str = "DecodeError") -> bytes:
    record: dict[str, Any] = {"id": f"{number}.png", "caption": caption, "status": status, "key": key_of(number)}
    if status == "error":
        record["error"] = {"kind": kind, "message": "…"}
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """`make(name, *lines, **note)` makes a journal, with a note if there is something to note; returns its path."""
    monkeypatch.chdir(tmp_path)

    def make_journal(name: str, *lines: bytes, **note: Any) -> Path:
        path = Path(name)
        path.write_bytes(b"".join(lines))
        if note:
            RunMeta(**({"state": "finished"} | note)).write(path)
        return path

    return make_journal


def merge(*inputs: Path, warn: Callable[[str], None] = lambda _: None, **more: Any) -> MergeReport:
    return merge_journals(MergeConfig(**({"inputs": inputs, "output": Path("all.jsonl")} | more)), warn)


def merged() -> bytes:
    return Path("all.jsonl").read_bytes()


# ---------------------------------------------------------------------------------------- what is kept

LINES = st.tuples(st.integers(0, 5), st.sampled_from(["ok", "error", "broken", "empty"]))


@given(st.lists(st.lists(LINES, max_size=8), min_size=1, max_size=4), st.permutations(range(4)))
@settings(max_examples=150)
def test_one_record_for_each_key_whatever_the_journals_hold(journals, order):
    contents: list[list[bytes]] = []
    records: dict[int, list[tuple[str, bytes]]] = {}
    for place, events in enumerate(journals):
        lines = []
        for number, event in [(100 + place, "ok"), *events]:  # the first, of its own, makes it a journal
            if event in ("ok", "error"):
                lines.append(line_of(number, event, caption=f"the only one: {place}, {len(lines)}"))
                records.setdefault(number, []).append((event, lines[-1]))
            else:
                lines.append(b"{broken\n" if event == "broken" else b"\n")
        contents.append(lines)
    kept = {([line for status, line in of if status == "ok"] or [of[-1][1]])[-1] for of in records.values()}
    indices = [index for index in order if index < len(contents)]  # the shard that each journal is
    in_order = [contents[indices.index(index)] for index in sorted(indices)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.jsonl" for index in indices]
        for path, index, lines in zip(paths, indices, contents, strict=True):
            path.write_bytes(b"".join(lines))
            RunMeta(state="finished", shard=f"{index}/{len(contents)}").write(path)
        output = Path(folder) / "all.jsonl"
        report = merge_journals(MergeConfig(inputs=tuple(paths), output=output))
        result = output.read_bytes()
    assert result == b"".join(line for lines in in_order for line in lines if line in kept)
    all_lines = [line for lines in contents for line in lines]
    num_failed = sum(all(status == "error" for status, _ in of) for of in records.values())
    assert (report.num_records, report.num_ok, report.num_failed) == (len(kept), len(kept) - num_failed, num_failed)
    assert report.num_duplicates == sum(map(len, records.values())) - len(records)
    assert report.num_broken_lines == all_lines.count(b"{broken\n")


def test_shards_come_in_their_order_and_plain_runs_after_them_as_given(make):
    paths = [
        make("plain-b.jsonl", line_of(1), state="finished"),
        make("10.jsonl", line_of(2), line_of(22), shard="10/11"),
        make("2.jsonl", line_of(4), line_of(3), shard="2/11"),
        make("plain-a.jsonl", line_of(5)),
    ]
    merge(*paths, allow_missing=True)
    assert merged() == b"".join(line_of(number) for number in (4, 3, 2, 22, 1, 5))


def test_plain_runs_come_as_given(make):
    merge(make("b.jsonl", line_of(2)), make("a.jsonl", line_of(1)))
    assert merged() == line_of(2) + line_of(1)


def test_a_caption_wins_over_an_error_wherever_it_stands(make):
    failed, done = line_of(1, "error"), line_of(1, caption="a tram")
    merge(make("a.jsonl", failed), make("b.jsonl", done))
    assert merged() == done
    merge(make("a.jsonl", done), make("b.jsonl", failed), overwrite=True)
    assert merged() == done


@pytest.mark.parametrize("status", ["ok", "error"])
def test_of_two_alike_the_later_given_wins_even_with_a_smaller_number(make, status):
    later = line_of(7, status, caption="later")
    report = merge(
        make("1.jsonl", line_of(7, status, caption="earlier"), line_of(1), shard="1/2"),
        make("0.jsonl", later, line_of(2), shard="0/2"),
    )
    assert merged() == later + line_of(2) + line_of(1)
    assert report.num_duplicates == 1


def test_records_of_one_picture_with_different_keys_are_different_requests(make):
    other = json.loads(line_of(1)) | {"key": key_of(2)}
    lines = line_of(1) + json.dumps(other).encode() + b"\n"
    report = merge(make("a.jsonl", lines))
    assert merged() == lines
    assert (report.num_records, report.num_duplicates) == (2, 0)


def test_lines_stay_as_they_are_byte_by_byte(make):
    odd = b'  {"key": "' + key_of(1).encode() + b'",  "status":"ok", "mine": 1.50}\r\n'
    merge(make("a.jsonl", odd, "图".encode().join(line_of(2).split(b"2.png"))))
    assert merged() == odd + "图".encode().join(line_of(2).split(b"2.png"))


def test_what_is_no_record_is_left_out_and_counted(make):
    said: list[str] = []
    torn = line_of(4)[:-9]
    paths = [
        make("a.jsonl", line_of(1), b"{broken\n", b"\n", b'{"status": "ok"}\n', line_of(2), torn),
        make("b.jsonl", b"\0" * 300 + b"\n", line_of(3)[:-1]),  # a crash that took only the newline
    ]
    report = merge(*paths, make("c.jsonl", line_of(5)), warn=said.append)
    assert merged() == line_of(1) + line_of(2) + line_of(3) + line_of(5)
    assert (report.num_records, report.num_broken_lines) == (4, 3 + 1)
    assert "a.jsonl: left out 3 lines that are no records" in said
    assert "b.jsonl: left out 1 lines that are no records" in said


@pytest.mark.parametrize("content", [b"Dear diary,\n", b'{"a": 1}\n', b"\x89PNG\r\n\x1a\n\0\0", b"no newline"])
def test_a_file_that_is_no_journal_ends_the_merge(make, content):
    paths = make("a.jsonl", line_of(1)), make("b.jsonl", content)
    with pytest.raises(JournalError, match=r"b\.jsonl is not a journal"):
        merge(*paths)
    assert not Path("all.jsonl").exists()
    assert not RunMeta.path_of(Path("all.jsonl")).exists()


def test_a_shard_without_items_and_one_killed_at_its_first_line(make):
    report = merge(make("a.jsonl"), make("b.jsonl", line_of(2)[:20]), make("c.jsonl", line_of(1)))
    assert merged() == line_of(1)
    assert (report.num_journals, report.num_records, report.num_broken_lines) == (3, 1, 1)


def test_many_journals_with_more_records_than_an_index_keeps_in_a_dict(make):
    numbers = range(70_000)
    paths = [make(f"{part}.jsonl", *map(line_of, numbers[part::3]), shard=f"{part}/3") for part in range(3)]
    paths.append(make("again.jsonl", *(line_of(number, "error") for number in numbers[::7])))
    report = merge(*paths)
    assert (report.num_records, report.num_failed, report.num_duplicates) == (70_000, 0, 10_000)
    assert merged() == b"".join(line_of(number) for part in range(3) for number in numbers[part::3])


def test_counts_by_kind_the_most_frequent_first(make):
    failed = [line_of(number, "error", kind=kind) for number, kind in enumerate(["A", "B", "B", "C", "C", "C"])]
    report = merge(make("a.jsonl", *failed), make("b.jsonl", line_of(5), line_of(6)))
    assert list(report.errors.items()) == [("B", 2), ("C", 2), ("A", 1)]
    assert (report.num_ok, report.num_failed) == (2, 5)


def test_more_kinds_than_a_byte_holds(make):
    failed = [line_of(number, "error", kind=f"kind {number}") for number in range(300)]
    report = merge(make("a.jsonl", *failed, line_of(300)))
    assert (report.num_ok, report.num_failed, sum(report.errors.values())) == (1, 300, 300)
    assert report.errors["kind 0"] == 1
    assert read_status(Path("all.jsonl")).errors == report.errors


# ------------------------------------------------------------------------------------- whole runs, and others


def test_a_run_that_is_not_whole_is_refused_before_anything_is_written(make):
    paths = [
        make("0.jsonl", line_of(1), shard="0/4"),
        make("1.jsonl", line_of(2), shard="1/4", state="interrupted", num_requests=9, num_handled=1),
    ]
    before = sorted(os.listdir())
    with pytest.raises(JournalError) as refusal:
        merge(*paths)
    assert "missing: shards 2 and 3 of 4" in refusal.value.message
    assert "shard 1 of 4 (1.jsonl) was interrupted, 8 left" in refusal.value.message
    assert "--allow-missing" in (refusal.value.hint or "")
    assert sorted(os.listdir()) == before


def test_what_is_wrong_with_hundreds_of_shards_fits_on_a_screen(make):
    paths = [make(f"{index}.jsonl", shard=f"{index}/300", state="failed") for index in range(200)]
    with pytest.raises(JournalError) as refusal:
        merge(*paths)
    lines = refusal.value.message.splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "and 191 more"


def test_with_allow_missing_the_gaps_are_told_and_noted(make):
    said: list[str] = []
    paths = [
        make("0.jsonl", line_of(1), shard="0/2"),
        make("1.jsonl", line_of(2), shard="1/2", state="interrupted", num_requests=9, num_handled=1),
    ]
    report = merge(*paths, allow_missing=True, warn=said.append)
    assert said == report.problems == ["shard 1 of 2 (1.jsonl) was interrupted, 8 left"]
    status = read_status(Path("all.jsonl"))
    assert (status.state, status.num_requests, status.num_handled, status.num_left) == ("interrupted", 10, 2, 8)
    merge(paths[0], allow_missing=True, overwrite=True)
    status = read_status(Path("all.jsonl"))
    assert (status.state, status.num_requests, status.num_handled) == ("interrupted", None, 1)


def test_a_file_given_twice_is_read_once(make):
    path = make("a.jsonl", line_of(1))
    with pytest.raises(JournalError, match="given 2 times"):
        merge(path, path)
    report = merge(path, path, allow_missing=True)
    assert (report.num_journals, report.num_duplicates) == (1, 0)
    assert json.loads(RunMeta.path_of(Path("all.jsonl")).read_text())["state"] == "finished"  # nothing is missing


def test_plain_runs_are_joined_with_a_warning(make):
    said: list[str] = []
    report = merge(make("a.jsonl", line_of(1)), make("b.jsonl", line_of(2), state="finished"), warn=said.append)
    [warning] = said
    assert "a.jsonl and b.jsonl" in warning
    assert report.num_shards is None
    assert read_status(Path("all.jsonl")).state == "finished"


def test_a_whole_run_is_merged_without_a_word(make):
    said: list[str] = []
    counts = {"num_requests": 2, "num_handled": 2, "num_finished": 2}
    report = merge(
        make("0.jsonl", line_of(1), line_of(2, "error"), shard="0/2", settings={"dpi": 150}, num_failed=1, **counts),
        make("1.jsonl", line_of(3), line_of(4), shard="1/2", settings={"dpi": 150}, **counts),
        warn=said.append,
        command=("omnicap", "merge"),
    )
    assert (said, report.num_shards, report.missing_shards, report.written) == ([], 2, [], True)
    note = RunMeta.read(Path("all.jsonl"))
    assert note is not None
    assert (note.command, note.settings, note.shard) == (["omnicap", "merge"], {"dpi": 150}, None)
    assert note.folder == os.getcwd()
    assert note.started <= (note.ended or 0.0)
    status = read_status(Path("all.jsonl"))
    assert (status.state, status.num_requests, status.num_handled, status.num_left) == ("finished", 4, 4, 0)
    assert (status.num_ok, status.num_failed, status.num_run_failed) == (3, 1, 1)
    assert status.seconds is not None


def test_different_settings_are_told(make):
    said: list[str] = []
    paths = [make(f"{index}.jsonl", shard=f"{index}/2", settings={"dpi": 100 + index}) for index in range(2)]
    merge(*paths, warn=said.append)
    assert said == ["dpi is not the same everywhere: 100 in 0.jsonl and 101 in 1.jsonl"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_records_that_were_lost_since_the_run_make_it_incomplete(make, dry_run):
    """As by a copy that broke off: the note came whole, the journal didn't."""
    path = make("a.jsonl", line_of(1), shard="0/1", num_requests=1200, num_handled=1200)
    with pytest.raises(JournalError, match=r"not one whole run:\n  a\.jsonl: 1 records, but its note tells of 1,200$"):
        merge(path, dry_run=dry_run)
    assert not Path("all.jsonl").exists()


def test_records_that_were_lost_since_the_run_are_told_and_noted(make):
    said: list[str] = []
    path = make("a.jsonl", line_of(1), shard="0/1", num_requests=1200, num_handled=1200)
    report = merge(path, warn=said.append, allow_missing=True)
    assert report.problems == said == ["a.jsonl: 1 records, but its note tells of 1,200"]
    status = read_status(Path("all.jsonl"))
    assert (status.state, status.num_requests, status.num_left) == ("interrupted", 1200, 1199)


def test_the_result_is_a_journal_to_go_on_from(make):
    merge(make("0.jsonl", line_of(1), shard="0/2"), make("1.jsonl", line_of(2, "error"), shard="1/2"))
    with Journal(Path("all.jsonl")) as journal:
        assert (len(journal), journal.num_superseded, journal.num_broken_lines) == (2, 0, 0)
        assert journal.known(key_of(1)) == KnownOutcome("ok", 1)
        assert journal.known(key_of(2)) == KnownOutcome("error", 1)
        journal.append(key_of(3), "ok", 1, line_of(3))
    assert merged() == line_of(1) + line_of(2, "error") + line_of(3)


def test_a_dry_run_counts_and_writes_nothing(make):
    paths = make("0.jsonl", line_of(1), line_of(1), shard="0/2"), make("1.jsonl", line_of(2), shard="1/2")
    before = sorted(os.listdir())
    for output in (Path("all.jsonl"), None):
        report = merge(*paths, output=output, dry_run=True)
        assert (report.num_records, report.num_duplicates, report.written) == (2, 1, False)
    assert sorted(os.listdir()) == before


# ---------------------------------------------------------------------------------------------- the output


def test_without_an_output_there_is_nothing_to_do():
    with pytest.raises(UsageError, match="no output"):
        MergeConfig(inputs=(Path("a.jsonl"),))


@pytest.mark.parametrize("name", ["all.jsonl.gz", "all.json", "all", "-", "all.csv"])
def test_what_no_journal_can_be_called(name):
    with pytest.raises(OptionError, match=r"\.jsonl or \.ndjson"):
        MergeConfig(inputs=(Path("a.jsonl"),), output=Path(name))


def test_an_output_that_is_there_stays_unless_told_otherwise(make):
    path = make("a.jsonl", line_of(1))
    make("all.jsonl", line_of(9))
    before = sorted(os.listdir())
    with pytest.raises(OptionError, match="is there already") as refusal:
        merge(path)
    assert "--overwrite" in (refusal.value.hint or "")
    assert (merged(), sorted(os.listdir())) == (line_of(9), before)
    merge(path, overwrite=True)
    assert merged() == line_of(1)


@pytest.mark.parametrize("name", ["a.jsonl", "symbolic.jsonl", "hard.jsonl", "./deep/../a.jsonl"])
def test_an_input_is_never_the_output(make, name):
    path = make("a.jsonl", line_of(1), b"{broken\n")
    Path("deep").mkdir()
    Path("symbolic.jsonl").symlink_to(path)
    Path("hard.jsonl").hardlink_to(path)
    for dry_run in (False, True):
        with pytest.raises(OptionError, match="one of the journals"):
            merge(path, output=Path(name), overwrite=True, dry_run=dry_run)
    assert path.read_bytes() == line_of(1) + b"{broken\n"


def test_a_folder_or_a_link_to_itself_is_no_output(make):
    path = make("a.jsonl", line_of(1))
    Path("all.jsonl").mkdir()
    with pytest.raises(OptionError, match="not a file"):
        merge(path, overwrite=True)
    Path("loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises((OptionError, JournalWriteError), match=r"loop\.jsonl"):
        merge(path, output=Path("loop.jsonl"))


def test_an_output_in_a_new_folder(make):
    merge(make("a.jsonl", line_of(1)), output=Path("new/folder/all.jsonl"))
    assert Path("new/folder/all.jsonl").read_bytes() == line_of(1)


def test_an_output_behind_a_link_keeps_the_link(make):
    Path("elsewhere").mkdir()
    make("elsewhere/real.jsonl", line_of(9))
    Path("all.jsonl").symlink_to("elsewhere/real.jsonl")
    Path("elsewhere/.real.jsonl.999999999.partial").touch()  # of a merge that was killed
    merge(make("a.jsonl", line_of(1)), overwrite=True)
    assert Path("elsewhere/real.jsonl").read_bytes() == line_of(1)
    assert Path("all.jsonl").is_symlink()
    assert not list(Path("elsewhere").glob(".*.partial"))
    assert read_status(Path("all.jsonl")).state == "finished"


def test_an_output_that_another_process_writes(make):
    path = make("a.jsonl", line_of(1))
    with Journal(Path("all.jsonl")) as journal:
        with pytest.raises(JournalLockedError, match="another omnicap process"):
            merge(path, overwrite=True)
        journal.append(key_of(9), "ok", 1, line_of(9))
    assert merged() == line_of(9)


def test_while_it_merges_no_run_can_write_the_output(make):
    tried: list[str] = []

    def start_a_run(_warning: str) -> None:
        with pytest.raises(JournalLockedError):
            Journal(Path("all.jsonl"))
        tried.append(_warning)

    merge(make("a.jsonl", line_of(1), b"{broken\n", shard="0/1"), warn=start_a_run)
    assert len(tried) == 1
    Journal(Path("all.jsonl")).close()


def test_a_full_disk_leaves_the_output_as_it_was(make, monkeypatch):
    path = make("a.jsonl", line_of(1))
    make("all.jsonl", line_of(9), state="finished", num_requests=77)
    sync = os.fsync

    def full(descriptor: int) -> None:
        if any(os.path.samestat(os.fstat(descriptor), each.stat()) for each in Path().glob(".all.jsonl.[0-9]*")):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JournalWriteError, match="No space left on device"):
        merge(path, overwrite=True)
    monkeypatch.setattr(os, "fsync", sync)
    assert merged() == line_of(9)
    assert read_status(Path("all.jsonl")).num_requests == 77
    assert not list(Path().glob(".*.partial"))
    merge(path, overwrite=True)  # the lock was let go
    assert merged() == line_of(1)


# -------------------------------------------------------------------------- inputs that change meanwhile


def when_read(name: str, act: Callable[[], None]) -> Callable[[str], None]:
    """A `warn` that acts between the two readings, when it is told of the broken line in `name`."""
    return lambda message: act() if message.startswith(f"{name}: left out") else None


def test_an_input_that_is_replaced_meanwhile(make):
    path = make("a.jsonl", line_of(1), b"{broken\n", line_of(2))
    make("new.jsonl", line_of(2), line_of(1), line_of(3))
    with pytest.raises(JournalError, match=r"a\.jsonl changed"):
        merge(path, warn=when_read("a.jsonl", lambda: os.replace("new.jsonl", "a.jsonl")))
    assert not Path("all.jsonl").exists()


def test_an_input_that_is_cut_off_meanwhile(make):
    path = make("a.jsonl", line_of(1), b"{broken\n", line_of(2))
    with pytest.raises(JournalError, match=r"a\.jsonl changed"):
        merge(path, warn=when_read("a.jsonl", lambda: os.truncate(path, len(line_of(1)))))
    assert not Path("all.jsonl").exists()


def test_an_input_that_grows_meanwhile_is_taken_as_it_was(make):
    path = make("a.jsonl", line_of(1), b"{broken\n", line_of(2))

    def grow() -> None:
        with path.open("ab") as file:
            file.write(line_of(1, "error") + line_of(3))

    report = merge(path, warn=when_read("a.jsonl", grow))
    assert merged() == line_of(1) + line_of(2)
    assert report.num_records == 2
    assert len(read_index(path).index) == 3


def test_an_input_that_vanishes_meanwhile(make):
    path = make("a.jsonl", line_of(1), b"{broken\n")
    make("all.jsonl", line_of(9))
    with pytest.raises(JournalError, match=r"can't read a\.jsonl"):
        merge(path, overwrite=True, warn=when_read("a.jsonl", path.unlink))
    assert merged() == line_of(9)
