"""Runs that are killed, interrupted, starved of disk or given bad journals: one right record per request in the end.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from support.fake_engine import LOG_LINE_BYTES, caption_of
from support.fake_omnicap import COMPACTION_DEATHS
from support.permissions import drop_override

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.terminal.interrupts import ECHO_SECONDS

PATIENCE_SECONDS = 60.0  # only ever reached by a test that fails
EVERYTHING = ("--type", "aigc", "--style", "all", "--lang", "all")
ALL_PROMPTS = Catalogue.load().select("aigc", ["all"], "all")
DEFAULT_PROMPTS = Catalogue.load().select("natural", [], "en")


def assert_complete(
    omnicap: Any, ids: list[str], prompts: list[Prompt] = DEFAULT_PROMPTS, name: str = "out.jsonl"
) -> None:
    """One ok record for each item and prompt, none twice, and in each the right caption."""
    records = omnicap.records(name)
    wanted = Counter((item_id, prompt.style, prompt.lang) for item_id in ids for prompt in prompts)
    assert Counter((record["id"], record["style"], record["lang"]) for record in records) == wanted
    assert_right(omnicap, records, prompts)


def assert_right(omnicap: Any, records: list[dict[str, Any]], prompts: list[Prompt] = DEFAULT_PROMPTS) -> None:
    """No key twice, and every record is ok with the caption of its own item and prompt."""
    assert len({record["key"] for record in records}) == len(records)
    shas = {(prompt.style, prompt.lang): prompt.sha for prompt in prompts}
    for record in records:
        content = (omnicap.folder / record["image"]).read_bytes()
        expected = caption_of(record["id"], shas[record["style"], record["lang"]], record["settings"], content)
        assert (record["status"], record["caption"]) == ("ok", expected)


def assert_fails(process: Any, *parts: str, code: int = 1) -> None:
    """It ended with `code` and said `parts`, in words for users."""
    assert "Traceback" not in process.stderr
    assert "Fatal Python error" not in process.stderr
    assert process.returncode == code, process.stderr
    for part in parts:
        assert part in process.stderr


def finish(process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
    """Wait for a process that should end by itself soon."""
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, (stdout or b"").decode(), stderr.decode())


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".partial")]


# ------------------------------------------------------------------------------------------------- SIGKILL


def test_killed_at_many_moments(omnicap, make_pictures):
    ids = make_pictures(120)  # 960 requests: more than all the kills together let through
    words = ("in", *EVERYTHING, "-o", "out.jsonl")
    moments = random.Random(20)
    num_kills = 22
    for number in range(num_kills):
        process = omnicap.start(*words, seconds=0.004)
        if number % 4 == 3:  # while it starts, plans or works
            time.sleep(moments.uniform(0, 0.5))
        else:  # somewhere in the work
            log_bytes = (len(omnicap.begun) + moments.randint(1, 20)) * LOG_LINE_BYTES
            omnicap.wait_for(
                process, lambda size=log_bytes: omnicap.log.exists() and omnicap.log.stat().st_size >= size
            )
            time.sleep(moments.uniform(0, 0.003))
        process.kill()
        process.wait()
        with contextlib.suppress(FileNotFoundError):
            assert_right(omnicap, omnicap.records(), ALL_PROMPTS)
    assert len(omnicap.records()) < len(ids) * len(ALL_PROMPTS)  # or the kills came too late to prove anything
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids, ALL_PROMPTS)
    assert len(omnicap.begun) <= len(ids) * len(ALL_PROMPTS) + num_kills  # each cost what was on the engine, no more


def test_killed_within_batches(omnicap, make_pictures):
    """The engine had answered several, out of order, and not all of them were on record."""
    ids = make_pictures(30)
    words = ("in", *EVERYTHING, "-o", "out.jsonl")
    for num_results in (0, 1, 7, 8, 20):
        process = omnicap.run(*words, batch_size=8, order="shuffled", die_after=num_results)
        assert process.returncode == -signal.SIGKILL
    assert len(omnicap.records()) == 0 + 1 + 7 + 8 + 20
    assert omnicap.run(*words, batch_size=8, order="shuffled").returncode == 0
    assert_complete(omnicap, ids, ALL_PROMPTS)


def test_killed_while_compacting(omnicap, make_pictures):
    ids = make_pictures(12)
    words = ("in", "-o", "out.jsonl")
    assert omnicap.run(*words, fail=["3", "5", "7"]).returncode == 3
    deaths = iter(COMPACTION_DEATHS)
    killed = omnicap.run(*words, "--retry-failed", death=next(deaths))
    assert killed.returncode == -signal.SIGKILL
    assert len(omnicap.records()) == 12 + 3  # the errors are still there
    for death in deaths:
        assert omnicap.run(*words, death=death).returncode == -signal.SIGKILL
        newest = {record["key"]: record for record in omnicap.records()}
        assert len(newest) == 12
        assert_right(omnicap, list(newest.values()))
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == 12 + 3


def test_a_killed_compaction_leaves_nothing_behind_for_ever(omnicap, make_pictures):
    make_pictures(5)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words, fail=["3"])
    for _ in range(2):
        omnicap.run(*words, "--retry-failed", death="compaction writes")
    assert omnicap.run(*words).returncode == 0
    assert not partial_files(omnicap.folder)


# ------------------------------------------------------------------------------------- SIGINT and SIGTERM

SIGNALS = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["sigint", "sigterm"]
)


@SIGNALS
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_is_on_the_engine_is_finished(omnicap, make_pictures, number, code, batch_size):
    ids = make_pictures(30)
    words = ("in", "-o", "out.jsonl")
    process = omnicap.start(*words, seconds=0.5, batch_size=batch_size)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > batch_size)  # the second batch is on the engine
    process.send_signal(number)
    ended = finish(process)
    assert_fails(ended, "stopping", code=code)
    assert [record["key"] for record in omnicap.records()] == omnicap.begun
    assert_right(omnicap, omnicap.records())
    assert len(omnicap.records()) < len(ids)
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == len(ids)


def test_a_signal_that_is_told_twice_counts_once(omnicap, make_pictures):
    """As launchers do it: the terminal tells all processes, and the launcher passes it on besides."""
    make_pictures(4)
    process = omnicap.start("in", "-o", "out.jsonl", seconds=1)
    omnicap.wait_for(process, lambda: len(omnicap.begun) == 1)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # two of a kind might reach it as one
    assert_fails(finish(process), "stopping", "run the same command again to go on", code=130)
    assert [record["key"] for record in omnicap.records()] == omnicap.begun


@SIGNALS
def test_the_second_signal_ends_it_at_once(omnicap, make_pictures, number, code):
    ids = make_pictures(4)
    words = ("in", "-o", "out.jsonl")
    assert omnicap.run(*words, "--limit", "1").returncode == 0
    process = omnicap.start(*words, seconds=300)
    omnicap.wait_for(process, lambda: len(omnicap.begun) == 2)
    process.send_signal(number)
    assert b"stopping" in process.stderr.readline()
    assert process.poll() is None  # it waits for what is on the engine
    time.sleep(ECHO_SECONDS)
    process.send_signal(number)
    assert_fails(finish(process), code=code)
    assert len(omnicap.records()) == 1
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


def test_interrupted_while_a_pipe_is_silent(omnicap, make_pictures):
    """Whoever feeds the pipe keeps it open, so that a thread is still reading when the process ends."""
    (first,) = make_pictures(1)
    process = omnicap.start("-", "-o", "out.jsonl", stdin=subprocess.PIPE)
    process.stdin.write(f"{first}\n".encode())
    process.stdin.flush()
    omnicap.wait_for(process, lambda: (omnicap.folder / "out.jsonl").exists() and omnicap.records())
    process.send_signal(signal.SIGINT)
    process.wait(timeout=PATIENCE_SECONDS)  # with the pipe still open
    ended = subprocess.CompletedProcess(process.args, process.returncode, "", process.stderr.read().decode())
    assert_fails(ended, code=130)
    assert_complete(omnicap, [first])


def test_interrupted_stdout_has_whole_lines(omnicap, make_pictures):
    make_pictures(20)
    process = omnicap.start("in", seconds=0.3, batch_size=4, order="reversed")
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 4)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert_fails(ended, code=130)
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert Counter(record["key"] for record in records) == Counter(omnicap.begun)
    assert [record["id"] for record in records] == sorted(record["id"] for record in records)


def test_an_interrupted_overwrite_says_how_to_go_on(omnicap, make_pictures):
    ids = make_pictures(6)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    process = omnicap.start("in", "-o", "out.jsonl", "--overwrite", seconds=0.5)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 6 + 1)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert_fails(ended, "again without --overwrite", code=130)
    assert "the same command" not in ended.stderr
    assert 0 < len(omnicap.records()) < 6
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


def test_an_interrupt_leaves_superseded_lines_to_the_next_run(omnicap, make_pictures):
    """Whoever presses Ctrl-C, or shuts the machine down, doesn't want to wait for a journal to be rewritten."""
    ids = make_pictures(6)
    words = ("in", "-o", "out.jsonl")
    assert omnicap.run(*words, fail=["000"]).returncode == 3
    content = (omnicap.folder / "out.jsonl").read_bytes()
    process = omnicap.start(*words, "--retry-failed", seconds=0.5)
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 6 + 1)
    process.send_signal(signal.SIGINT)
    assert_fails(finish(process), code=130)
    assert (omnicap.folder / "out.jsonl").read_bytes().startswith(content)
    num_superseded = len(omnicap.records()) - 6
    assert 1 <= num_superseded < 6
    assert omnicap.run(*words, "--retry-failed").returncode == 0
    assert_complete(omnicap, ids)
    assert [record["attempts"] for record in omnicap.records()] == [2] * 6


def read_all(descriptor: int) -> bytes:
    """What comes out of a terminal until nobody writes to it any more."""
    content = b""
    with contextlib.suppress(OSError):  # EIO: so Linux says that the other side is closed
        while block := os.read(descriptor, 1 << 16):
            content += block
    return content


def test_the_second_interrupt_shows_the_cursor_again(omnicap, make_pictures, monkeypatch):
    """The bar hides it, and has no time to put it back."""
    try:
        terminal, other_side = os.openpty()
    except OSError:
        pytest.skip("there is no pseudo-terminal here")
    monkeypatch.setenv("TERM", "xterm")
    make_pictures(2)
    process = omnicap.start("in", "-o", "out.jsonl", stderr=other_side, seconds=300)
    os.close(other_side)
    omnicap.wait_for(process, lambda: len(omnicap.begun) == 1)
    said = b""
    while b"\x1b[?25l" not in said:
        said += os.read(terminal, 1 << 16)
    process.send_signal(signal.SIGINT)
    while b"stopping" not in said:
        said += os.read(terminal, 1 << 16)
    time.sleep(ECHO_SECONDS)
    process.send_signal(signal.SIGINT)
    said += read_all(terminal)
    os.close(terminal)
    assert process.wait(timeout=PATIENCE_SECONDS) == 130
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")


# --------------------------------------------------------------------------------------- damaged journals


def torn(content: bytes) -> bytes:
    return content[:-25]


def without_newline(content: bytes) -> bytes:
    return content[:-1]


def broken_in_the_middle(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:2], lines[2][:40] + b"\n", *lines[3:]])


def zeros_in_the_middle(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:2], b"\0" * len(lines[2]), *lines[3:]])  # its newline is gone, so the next is lost too


def zeros_at_the_end(content: bytes) -> bytes:
    return content + b"\0" * 1000


@pytest.mark.parametrize(
    ("damage", "num_lost", "num_broken"),
    [
        (torn, 1, 0),
        (without_newline, 0, 0),
        (broken_in_the_middle, 1, 1),
        (zeros_in_the_middle, 2, 1),
        (zeros_at_the_end, 0, 0),
    ],
)
def test_a_damaged_journal_is_completed(omnicap, make_pictures, damage, num_lost, num_broken):
    ids = make_pictures(6)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words)
    path = omnicap.folder / "out.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    again = omnicap.run(*words)
    assert again.returncode == 0
    assert ("lines that are no records" in again.stderr) == bool(num_broken)
    assert len(omnicap.begun) == 6 + num_lost
    lines = path.read_bytes().splitlines()
    sound = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    assert len(lines) - len(sound) == num_broken
    path.write_bytes(b"".join(line + b"\n" for line in sound))
    assert_complete(omnicap, ids)


def test_an_empty_file_becomes_a_journal(omnicap, make_pictures):
    ids = make_pictures(2)
    (omnicap.folder / "out.jsonl").touch()
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


@pytest.mark.parametrize("content", [b"Dear diary,\n", b'{"a": 1}\n', b'{"image": "a.png"}', b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_journal_is_refused(omnicap, make_pictures, content):
    make_pictures(1)
    path = omnicap.folder / "out.jsonl"
    path.write_bytes(content)
    assert_fails(omnicap.run("in", "-o", "out.jsonl"), "left alone", "--overwrite")
    assert path.read_bytes() == content
    assert not omnicap.begun
    assert omnicap.run("in", "-o", "out.jsonl", "--overwrite").returncode == 0
    assert_complete(omnicap, ["in/0000.png"])


# -------------------------------------------------------------------------------------------- two processes


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_second_process_is_refused(omnicap, make_pictures, more):
    ids = make_pictures(15)
    first = omnicap.start("in", "-o", "out.jsonl", seconds=0.2)
    omnicap.wait_for(first, lambda: len(omnicap.begun) > 1)
    note = (omnicap.folder / "out.jsonl.meta.json").read_bytes()
    second = omnicap.run("in", "-o", "out.jsonl", *more)
    assert_fails(second, "another omnicap process", "out.jsonl")
    assert (omnicap.folder / "out.jsonl.meta.json").read_bytes() == note
    assert first.poll() is None
    assert finish(first).returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == 15


# ------------------------------------------------------------------------------------------------ full disk


def largest_file(num_bytes: int) -> Callable[[], None]:
    """To run in a new process: no file that it writes can grow past so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.mark.parametrize("num_bytes", [3_000, 5_123, 9_999])
def test_a_journal_that_can_grow_no_more(omnicap, make_pictures, num_bytes):
    ids = make_pictures(30)
    full = omnicap.run("in", "-o", "out.jsonl", preexec=largest_file(num_bytes))
    assert_fails(full, "can't write", "out.jsonl", "hint:")
    records = omnicap.records()  # which are whole lines
    assert 0 < len(records) < 30
    assert_right(omnicap, records)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)
    assert len(omnicap.begun) == 30 + 1  # only the one that found no room ran twice


def test_no_room_for_the_note_beside_the_journal(omnicap, make_pictures):
    ids = make_pictures(2)
    assert_fails(omnicap.run("in", "-o", "out.jsonl", preexec=largest_file(50)), "can't write", ".meta.json")
    assert not omnicap.begun
    assert not partial_files(omnicap.folder)
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


def test_no_room_to_compact(omnicap, make_pictures):
    ids = make_pictures(20)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words, fail=["0003"])
    omnicap.run(*words, "--retry-failed", death="compaction begins")
    path = omnicap.folder / "out.jsonl"
    content = path.read_bytes()
    assert len(content) > 5_000
    again = omnicap.run(*words, preexec=largest_file(5_000))
    assert (again.returncode, path.read_bytes()) == (0, content)  # nothing is wrong but its size
    assert "Traceback" not in again.stderr
    assert not partial_files(omnicap.folder)
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


def test_no_room_for_the_newline_that_a_crash_took(omnicap, make_pictures):
    ids = make_pictures(20)
    words = ("in", "-o", "out.jsonl")
    omnicap.run(*words, "--limit", "10")
    path = omnicap.folder / "out.jsonl"
    content = path.read_bytes()[:-1]
    path.write_bytes(content)
    assert_fails(omnicap.run(*words, preexec=largest_file(len(content))), "can't write", "out.jsonl")
    assert path.read_bytes() == content
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount")
def test_a_full_file_system(omnicap, make_pictures, small_disk):
    ids = make_pictures(100)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 20_000)
    words = ("in", "-o", "disk/out.jsonl")
    full = omnicap.run(*words)
    assert_fails(full, "can't write", "out.jsonl", "No space left on device")
    records = omnicap.records("disk/out.jsonl")
    assert 0 < len(records) < 100
    assert_right(omnicap, records)
    still_full = omnicap.run(*words)  # not even the note finds room, or the journal none for one more
    assert_fails(still_full, "can't write", "No space left on device")
    assert omnicap.records("disk/out.jsonl")[: len(records)] == records
    filler.unlink()
    small_disk_grows = subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], capture_output=True)
    assert small_disk_grows.returncode == 0
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids, name="disk/out.jsonl")
    assert not partial_files(small_disk)


# -------------------------------------------------------------------------------------------- permissions


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "closed"
    folder.mkdir()
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("output", ["closed/out.jsonl", "closed/new/out.jsonl"])
def test_a_folder_that_is_read_only(omnicap, make_pictures, closed_folder, output):
    make_pictures(2)
    closed_folder.chmod(0o555)
    assert_fails(omnicap.run("in", "-o", output, preexec=drop_override), "can't write", "Permission denied", "hint:")
    assert list(closed_folder.iterdir()) == []
    assert not omnicap.begun


def test_a_journal_in_a_folder_that_became_read_only(omnicap, make_pictures, closed_folder):
    make_pictures(2)
    assert omnicap.run("in", "-o", "closed/out.jsonl", "--limit", "1").returncode == 0
    content = (closed_folder / "out.jsonl").read_bytes()
    closed_folder.chmod(0o555)
    assert_fails(omnicap.run("in", "-o", "closed/out.jsonl", preexec=drop_override), "can't write", "Permission denied")
    assert (closed_folder / "out.jsonl").read_bytes() == content


def test_a_journal_that_is_read_only(omnicap, make_pictures):
    make_pictures(2)
    omnicap.run("in", "-o", "out.jsonl", "--limit", "1")
    path = omnicap.folder / "out.jsonl"
    content = path.read_bytes()
    path.chmod(0o444)
    assert_fails(omnicap.run("in", "-o", "out.jsonl", preexec=drop_override), "can't write", "Permission denied")
    assert path.read_bytes() == content


def test_a_picture_that_may_not_be_read_is_an_error_of_its_own(omnicap, make_pictures):
    ids = make_pictures(3)
    (omnicap.folder / ids[1]).chmod(0)
    assert omnicap.run("in", "-o", "out.jsonl", preexec=drop_override).returncode == 3
    assert [record["status"] for record in omnicap.records()] == ["ok", "error", "ok"]
    assert omnicap.records()[1]["error"]["kind"] == "AccessError"


# ----------------------------------------------------------------------------------- what changes between runs


def ran_again(omnicap: Any, *words: str, **options: Any) -> list[tuple[str, str]]:
    """Run once more and say which requests ran, as (id, style); the records from before must all still be there."""
    before, num_begun = omnicap.records(), len(omnicap.begun)
    assert omnicap.run(*words, **options).returncode == 0
    after = omnicap.records()
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert [record["key"] for record in new] == omnicap.begun[num_begun:]
    return [(record["id"], record["style"]) for record in new]


@pytest.fixture
def done(omnicap, make_pictures) -> Any:
    """Three pictures and a PDF of two pages, captioned in two styles."""
    make_pictures(3)
    document = pypdfium2.PdfDocument.new()
    for _ in range(2):
        document.new_page(50, 50)
    document.save(omnicap.folder / "in" / "pages.pdf")
    omnicap.words = ("in", "--style", "short,medium", "-o", "out.jsonl")
    assert omnicap.run(*omnicap.words).returncode == 0
    assert len(omnicap.records()) == 5 * 2
    return omnicap


PICTURES = [f"in/000{number}.png" for number in range(3)]
PAGES = [f"in/pages.pdf#page={number}" for number in (1, 2)]


def both_styles(ids: list[str]) -> list[tuple[str, str]]:
    return [(item_id, style) for item_id in ids for style in ("short", "medium")]


def test_nothing_changed(done):
    assert ran_again(done, *done.words) == []
    assert ran_again(done, "./in/", "--style", "medium,short", "-o", "out.jsonl") == []  # the same, said differently


def test_a_changed_prompt(done):
    prompts = done.folder / "own.toml"
    prompts.write_text('[types.natural.styles.short.en]\nuser = "Say it in three words."\n')
    words = (*done.words, "--prompts", "own.toml")
    assert ran_again(done, *words) == [(item_id, "short") for item_id in PICTURES + PAGES]
    assert ran_again(done, *words) == []
    assert ran_again(done, *done.words) == []  # the answers to the old question are still known


def test_a_changed_resolution_is_for_pages_only(done):
    assert ran_again(done, *done.words, "--dpi", "72") == both_styles(PAGES)


@pytest.mark.parametrize("option", ["--max-pixels", "--min-pixels"])
def test_changed_pixel_limits(done, option):
    assert ran_again(done, *done.words, option, "5000") == both_styles(PICTURES + PAGES)


@pytest.mark.parametrize("options", [("--max-decode-pixels", "1000000"), ("--workers", "2"), ("--unordered",)])
def test_what_does_not_change_a_caption(done, options):
    assert ran_again(done, *done.words, *options) == []


def test_a_changed_model(done):
    assert ran_again(done, *done.words, fingerprint="weights-2") == both_styles(PICTURES + PAGES)
    assert ran_again(done, *done.words, "--model", "other") == both_styles(PICTURES + PAGES)
    assert ran_again(done, *done.words) == []


def test_a_changed_file(done):
    (done.folder / PICTURES[1]).write_bytes((done.folder / PICTURES[2]).read_bytes() + b"more")
    assert ran_again(done, *done.words) == both_styles([PICTURES[1]])


def test_a_file_of_the_same_size_with_a_new_time(done):
    os.utime(done.folder / PICTURES[0], (1, 1))
    assert ran_again(done, *done.words) == both_styles([PICTURES[0]])


def test_content_is_known_by_content(omnicap, make_pictures):
    ids = make_pictures(3)
    words = ("in", "--fingerprint", "content", "-o", "out.jsonl")
    omnicap.run(*words)
    os.utime(omnicap.folder / ids[0], (1, 1))
    state = (omnicap.folder / ids[1]).stat()
    content = bytearray((omnicap.folder / ids[1]).read_bytes())
    content[-1] ^= 1
    (omnicap.folder / ids[1]).write_bytes(content)
    os.utime(omnicap.folder / ids[1], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert ran_again(omnicap, *words) == [(ids[1], "detailed")]


def test_fewer_items_and_other_styles_delete_nothing(done):
    assert ran_again(done, *done.words, "--limit", "1") == []
    assert ran_again(done, "in", "--style", "tag", "-o", "out.jsonl", "--limit", "2") == [
        (item_id, "tag") for item_id in PICTURES[:2]
    ]
    (done.folder / PICTURES[0]).unlink()
    assert ran_again(done, *done.words) == []
    assert len(done.records()) == 12


# --------------------------------------------------------------------------------------- errors of items


def test_errors_stay_until_they_are_retried(omnicap, make_pictures):
    ids = make_pictures(6)
    words = ("in", "-o", "out.jsonl")
    first = omnicap.run(*words, fail=["0001", "0004"])
    assert first.returncode == 3
    assert first.stderr.count("told to fail") == 2
    keys = {record["id"]: record["key"] for record in omnicap.records()}
    content = (omnicap.folder / "out.jsonl").read_bytes()

    again = omnicap.run(*words)
    assert (again.returncode, len(omnicap.begun)) == (3, 6)
    assert "--retry-failed" in again.stderr
    assert (omnicap.folder / "out.jsonl").read_bytes() == content

    assert omnicap.run(*words, "--retry-failed", fail=["0004"]).returncode == 3
    assert omnicap.begun[6:] == [keys[ids[1]], keys[ids[4]]]
    rest = [ids[0], ids[2], ids[3], ids[5]]
    assert [record["id"] for record in omnicap.records()] == [*rest, ids[1], ids[4]]
    assert [record["attempts"] for record in omnicap.records()] == [1, 1, 1, 1, 2, 2]

    assert omnicap.run(*words, "--retry-failed").returncode == 0
    assert omnicap.begun[8:] == [keys[ids[4]]]
    assert [record["attempts"] for record in omnicap.records()] == [1, 1, 1, 1, 2, 3]
    assert_complete(omnicap, ids)
    assert omnicap.run(*words, "--retry-failed").returncode == 0
    assert len(omnicap.begun) == 9


def test_errors_are_no_captions(omnicap, make_pictures):
    make_pictures(1)
    omnicap.run("in", "missing.png", "-o", "out.jsonl", fail=["0000"])
    for record, kind in zip(omnicap.records(), ("InferenceError", "NotFoundError"), strict=True):
        assert (record["status"], record["caption"], record["error"]["kind"]) == ("error", None, kind)


def test_fail_fast(omnicap, make_pictures):
    make_pictures(40)
    failed = omnicap.run("in", "-o", "out.jsonl", "--fail-fast", fail=["0003", "0009"])
    assert_fails(failed, "--fail-fast", "told to fail")
    assert [record["status"] for record in omnicap.records()] == ["ok", "ok", "ok", "error"]


def test_max_error_rate(omnicap, make_pictures):
    make_pictures(100)
    failing = [f"{number:04}" for number in range(10, 100)]
    assert_fails(omnicap.run("in", "-o", "out.jsonl", "--max-error-rate", "0.6", fail=failing), "--max-error-rate 0.6")
    assert len(omnicap.records()) == 26  # 16 of 26 is more than 0.6, 15 of 25 is not
    under = omnicap.run("in", "-o", "other.jsonl", "--max-error-rate", "0.9", fail=failing)
    assert under.returncode == 3
    assert len(omnicap.records("other.jsonl")) == 100


def test_overwrite(omnicap, make_pictures):
    ids = make_pictures(3)
    omnicap.run("in", "-o", "out.jsonl", "--style", "short")
    assert omnicap.run("in", "-o", "out.jsonl", "--overwrite").returncode == 0
    assert_complete(omnicap, ids)


# ------------------------------------------------------------------------------------- errors of the engine


def test_an_engine_that_does_not_load(omnicap, make_pictures):
    ids = make_pictures(50)
    failed = omnicap.run("in", "-o", "out.jsonl", load_error="the weights are not there")
    assert_fails(failed, "error: the weights are not there")
    assert omnicap.records() == []
    assert omnicap.run("in", "-o", "out.jsonl").returncode == 0
    assert_complete(omnicap, ids)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_engine_that_breaks_on_the_way(omnicap, make_pictures, batch_size):
    ids = make_pictures(50)
    words = ("in", "-o", "out.jsonl")
    assert_fails(omnicap.run(*words, error_after=7, batch_size=batch_size), "error: the fake device is gone")
    assert len(omnicap.records()) == 7
    assert_right(omnicap, omnicap.records())
    assert omnicap.run(*words).returncode == 0
    assert_complete(omnicap, ids)


def test_what_waits_for_its_turn_is_written_before_an_engine_breaks(omnicap, make_pictures):
    """Of four in a batch the last two are answered; the first two never will be."""
    ids = make_pictures(8)
    ended = omnicap.run("in", batch_size=4, order="reversed", error_after=2)
    assert_fails(ended, "error: the fake device is gone")
    assert ids_of(ended.stdout) == ids[2:4]
    assert ended.stdout.endswith("\n")


def test_an_engine_that_breaks_while_a_pipe_is_open(omnicap, make_pictures):
    ids = make_pictures(3)
    process = omnicap.start("-", "-o", "out.jsonl", stdin=subprocess.PIPE, error_after=1)
    process.stdin.write("".join(f"{item_id}\n" for item_id in ids).encode())
    process.stdin.flush()
    process.wait(timeout=PATIENCE_SECONDS)
    ended = subprocess.CompletedProcess(process.args, process.returncode, "", process.stderr.read().decode())
    assert_fails(ended, "the fake device is gone")
    assert len(omnicap.records()) == 1


# ----------------------------------------------------------------------------------------------- streams


def ids_of(lines: str) -> list[str]:
    return [json.loads(line)["id"] for line in lines.splitlines()]


def test_a_slow_pipe_sees_its_results(omnicap, make_pictures):
    ids = make_pictures(6)
    process = omnicap.start("-", stdin=subprocess.PIPE, batch_size=4, order="reversed")
    shown = []
    for group in (ids[:1], ids[1:3]):  # less than a batch each time
        process.stdin.write("".join(f"{item_id}\n" for item_id in group).encode())
        process.stdin.flush()
        shown += [json.loads(process.stdout.readline())["id"] for _ in group]
        assert process.poll() is None
    rest, _ = process.communicate("".join(f"{item_id}\n" for item_id in ids[3:]).encode(), timeout=PATIENCE_SECONDS)
    assert shown + ids_of(rest.decode()) == ids
    assert process.returncode == 0


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_stdout_has_the_order_of_the_inputs(omnicap, make_pictures, order):
    ids = make_pictures(30)
    ended = omnicap.run("in", batch_size=7, order=order, fail=["0011"])
    assert ended.returncode == 3
    assert ids_of(ended.stdout) == ids


def test_unordered_stdout_has_the_order_of_the_engine(omnicap, make_pictures):
    ids = make_pictures(10)
    ended = omnicap.run("in", "--unordered", batch_size=5, order="reversed")
    assert ids_of(ended.stdout) == ids[4::-1] + ids[:4:-1]


@pytest.mark.parametrize("stays_open", [False, True], ids=["files", "open-pipe"])
def test_a_reader_that_has_had_enough(omnicap, make_pictures, stays_open):
    ids = make_pictures(300)
    words, stdin = (("-",), subprocess.PIPE) if stays_open else (("in",), subprocess.DEVNULL)
    process = omnicap.start(*words, stdin=stdin, seconds=0.01)
    if process.stdin:
        process.stdin.write("".join(f"{item_id}\n" for item_id in ids).encode())
        process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == ids[0]
    omnicap.wait_for(process, lambda: len(omnicap.begun) > 40)  # by now it waits for more of the pipe
    process.stdout.close()
    process.wait(timeout=PATIENCE_SECONDS)
    assert (process.returncode, process.stderr.read()) == (0, b"")
    assert len(omnicap.begun) < 300


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_stdout_on_a_full_disk(omnicap, make_pictures):
    make_pictures(3)
    with open("/dev/full", "wb") as full:
        ended = finish(omnicap.start("in", stdout=full))
    assert_fails(ended, "can't write the standard output: No space left on device")


def test_nothing_given(omnicap):
    (omnicap.folder / "in").mkdir()
    for words in (("in",), ("-",), ("in", "-o", "out.jsonl")):
        ended = omnicap.run(*words)
        assert (ended.returncode, ended.stdout) == (0, "")
        assert "no pictures" in ended.stderr
    assert omnicap.records() == []


def test_quiet(omnicap, make_pictures):
    make_pictures(3)
    ended = omnicap.run("in", "-q", fail=["0001"])
    assert (ended.returncode, ended.stderr) == (3, "")
    assert len(ended.stdout.splitlines()) == 3
    ended = omnicap.run("in", "-q", "-o", "out.jsonl")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert "the weights" in omnicap.run("in", "-q", load_error="the weights are not there").stderr


# ------------------------------------------------------------------------------------------------ inputs


def test_what_is_given_twice_is_captioned_once(omnicap, make_pictures):
    ids = make_pictures(3)
    ended = omnicap.run("in", ids[1], f"./{ids[1]}", "in/*.png", "in//0002.png", "-", stdin=f"{ids[0]}\n".encode())
    assert ids_of(ended.stdout) == ids


def test_several_pictures_with_one_id(omnicap, make_pictures):
    """The first has the id; each of the others is an error record of its own, and the rest is captioned."""
    ids = make_pictures(4)
    rows = [{"image": ids[number], "id": "same"} for number in (0, 1, 2, 1, 0)]
    rows.append({"image": ids[3], "id": "other"})
    stdin = "".join(json.dumps(row) + "\n" for row in rows).encode()
    ended = omnicap.run("-", "-o", "out.jsonl", stdin=stdin, batch_size=4)
    assert_fails(ended, "same", code=3)
    found = Counter((record["id"], record["image"], record["status"]) for record in omnicap.records())
    assert found[("same", ids[0], "ok")] == 1
    assert found[("other", ids[3], "ok")] == 1
    assert found[("same", ids[1], "error")] == 1
    assert found[("same", ids[2], "error")] == 1
    assert len({record["key"] for record in omnicap.records()}) == 4
    again = omnicap.run("-", "-o", "out.jsonl", stdin=stdin, batch_size=4)
    assert_fails(again, "nothing to do", code=3)


def test_dry_run(omnicap, make_pictures):
    ids = make_pictures(5)
    (omnicap.folder / "in" / "bad.png").write_bytes(b"no picture")
    words = ("in", "--style", "short,tag", "-o", "out.jsonl")
    before = sorted(omnicap.folder.rglob("*"))
    plan = json.loads(omnicap.run(*words, "--dry-run").stdout)
    assert sorted(omnicap.folder.rglob("*")) == before
    counts = ("items", "unreadable", "requests", "done", "failed_before", "to_do")
    assert [plan[name] for name in counts] == [6, 1, 12, 0, 0, 12]
    assert (plan["engine"], plan["prompts"]) == ("fake", ["natural/short/en", "natural/tag/en"])

    assert omnicap.run("in", "--style", "short", "-o", "out.jsonl", "--limit", "3", fail=[ids[2]]).returncode == 3
    content, num_begun = (omnicap.folder / "out.jsonl").read_bytes(), len(omnicap.begun)
    before = sorted(omnicap.folder.rglob("*"))
    plan = json.loads(omnicap.run(*words, "--dry-run").stdout)
    assert [plan[name] for name in counts] == [6, 1, 12, 2, 1, 9]
    plan = json.loads(omnicap.run(*words, "--dry-run", "--retry-failed").stdout)
    assert [plan[name] for name in counts] == [6, 1, 12, 2, 1, 10]
    assert sorted(omnicap.folder.rglob("*")) == before
    assert (omnicap.folder / "out.jsonl").read_bytes() == content
    assert len(omnicap.begun) == num_begun


def test_dry_run_of_an_overwrite_counts_everything_as_to_do(omnicap, make_pictures):
    ids = make_pictures(4)
    assert omnicap.run("in", "-o", "out.jsonl", fail=[ids[1]]).returncode == 3
    content = (omnicap.folder / "out.jsonl").read_bytes()
    plan = json.loads(omnicap.run("in", "-o", "out.jsonl", "--overwrite", "--dry-run").stdout)
    assert [plan[name] for name in ("requests", "done", "failed_before", "to_do")] == [4, 0, 0, 4]
    assert (omnicap.folder / "out.jsonl").read_bytes() == content


def test_a_row_that_json_cannot_write_back(omnicap, make_pictures):
    """JSON is read to a greater depth than it is written; one such row is no reason to end a run."""
    ids = make_pictures(2)
    row = f'{{"image": "{ids[0]}", "deep": {"[" * 300}{"]" * 300}}}'
    ended = omnicap.run("-", "-o", "out.jsonl", stdin=f"{row}\n{ids[1]}\n".encode())
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 3)
    assert [record["id"] for record in omnicap.records() if record["status"] == "ok"][-1] == ids[1]


@pytest.mark.parametrize("descriptor", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_started_with_a_closed_stream(omnicap, make_pictures, descriptor):
    """As some services and cron jobs do; none of the three is needed to fill a journal."""
    ids = make_pictures(2)
    ended = finish(omnicap.start("in", "-o", "out.jsonl", preexec=lambda: os.close(descriptor)))
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert_complete(omnicap, ids)


def test_nothing_stays_behind(omnicap, make_pictures):
    make_pictures(3)
    omnicap.run("in", "-o", "out.jsonl")
    assert {path.name for path in omnicap.folder.iterdir()} == {
        *("in", "begun.log", "out.jsonl", "out.jsonl.lock", "out.jsonl.meta.json")
    }
