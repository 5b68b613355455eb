"""`omnicap tokenize` killed, interrupted, starved of disk or started twice: every sample once in the end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.http_server import Answer, serving
from support.permissions import drop_override
from support.tokenize_runs import PATIENCE_SECONDS, Tokenize, in_child, leftovers, mixed, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture

from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.datasets.tokenizing import split_run, split_writer
from omnicap_cli.datasets.tokenizing.split_run import Step, StoppedError
from omnicap_cli.errors import JournalLockedError


def assert_fails(ended: subprocess.CompletedProcess[str], *parts: str, code: int = 1) -> None:
    """It ended with `code` and said `parts`, in words for users."""
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code, ended.stderr
    for part in parts:
        assert part in ended.stderr


def finish(process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
    """Wait for a process that should end by itself soon."""
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, (stdout or b"").decode(), stderr.decode())


# ------------------------------------------------------------------------------------------------- SIGKILL


def test_killed_at_every_step_to_the_disk(tokenizing) -> None:
    """Two splits of few records, a checkpoint after each: there are as many ways to die as there are steps."""
    tokenizing.data(mixed(8))
    tokenizing.here(num_splits=2, output=Path("whole"))
    num_deaths = 0
    while True:
        shutil.rmtree("out", ignore_errors=True)
        if not in_child(lambda: tokenizing.here(num_splits=2), moment=num_deaths + 1):
            break
        num_deaths += 1
        report = tokenizing.here(num_splits=2)
        assert tokenizing.results() == tokenizing.results("whole"), num_deaths
        assert report.num_in == report.num_kept + report.num_rejected == 7
        assert not leftovers()
        assert tokenizing.warned == []
    assert num_deaths > 60


def test_killed_again_and_again_on_the_way(tokenizing) -> None:
    """Each run gets a little further, on what the ones before left."""
    tokenizing.data(mixed(40))
    tokenizing.here(num_splits=2, output=Path("whole"))
    num_runs = 0
    while in_child(lambda: tokenizing.here(num_splits=2), moment=35):  # steps of about six records, or of an end
        num_runs += 1
        assert num_runs < 40
    assert num_runs > 5
    assert tokenizing.results() == tokenizing.results("whole")
    assert not leftovers()


def test_what_a_checkpoint_vouches_for_is_not_counted_again(tokenizing, monkeypatch) -> None:
    tokenizing.data(mixed(20))
    tokenizing.here(output=Path("whole"))
    assert in_child(tokenizing.here, moment=40)
    done = json.loads(Path("out/meta/data_split1.checkpoint.json").read_bytes())["tally"]["num_lines"]
    assert 3 < done < 18
    counted = []
    count = split_run.RecordCounter.count
    monkeypatch.setattr(split_run.RecordCounter, "count", lambda *of: counted.append(of[2]) or count(*of))
    tokenizing.here()
    assert counted == [n for n in range(done + 1, 21) if (n - 1) % 7 != 6]
    assert tokenizing.results() == tokenizing.results("whole")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_command_goes_on(tokenizing, num_workers) -> None:
    tokenizing.data(mixed(150))
    tokenizing.here(num_splits=3, output=Path("whole"))
    words = ("--splits", "3", "--workers", str(num_workers))
    for num_bytes in (1, 4000, 14_000):  # of all splits together
        process = tokenizing.start(*words, impatient=True)
        tokenizing.wait_for(process, lambda least=num_bytes: _num_output_bytes() >= least)
        process.kill()
        process.wait()
    assert not Path("out/meta/data_split3.json").exists()
    assert tokenizing.run(*words).returncode == 3
    assert tokenizing.results() == tokenizing.results("whole")
    assert not leftovers()


def test_processes_end_with_the_one_that_started_them(tokenizing) -> None:
    """Whatever they are busy with: else the next run finds its splits locked."""
    with serving() as server:
        tokenizing.data([record(n, image=server.serve(f"/{n}.png", Answer(is_silent=True))) for n in range(2)])
        process = tokenizing.start("--splits", "2", "--workers", "2")
        tokenizing.wait_for(process, lambda: len(server.requests()) == 2)
        children = psutil.Process(process.pid).children()
        assert len(children) == 2
        process.kill()
        _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS / 3)
    assert not alive
    tokenizing.data(mixed(4))
    assert tokenizing.here(num_splits=2).num_in == 4


def _num_output_bytes() -> int:
    total = 0
    for path in Path("out").glob("data_split*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it got its other name
            return 0
    return total


# ------------------------------------------------------------------------------------- SIGINT and SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["sigint", "sigterm"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_interrupted(tokenizing, number, code, num_workers) -> None:
    tokenizing.data(mixed(600))
    words = ("--splits", "2", "--workers", str(num_workers))
    process = tokenizing.start(*words, impatient=True)
    tokenizing.wait_for(process, lambda: _num_output_bytes() > 1000)
    process.send_signal(number)
    assert_fails(finish(process), "stopping", "run the same command again to go on", code=code)
    assert leftovers()
    assert tokenizing.run(*words).returncode == 3
    tokenizing.here(num_splits=2, output=Path("whole"))
    assert tokenizing.results() == tokenizing.results("whole")


def test_an_interrupt_keeps_what_was_counted(tokenizing, monkeypatch) -> None:
    """No five seconds of work are lost, as they may be by SIGKILL."""
    tokenizing.data(mixed(100))
    told: list[int] = []

    def tell(step: Step) -> None:
        told.append(step.num_in)
        if sum(told) > 20:
            raise StoppedError

    monkeypatch.setattr(split_writer, "_SAVE_SECONDS", 0.0)
    with pytest.raises(StoppedError):
        tokenizing.here(tell=tell)
    assert json.loads(Path("out/meta/data_split1.checkpoint.json").read_bytes())["tally"]["num_in"] == sum(told)


def test_interrupted_while_a_pipe_is_silent(tokenizing) -> None:
    reading, writing = os.pipe()
    process = tokenizing.start(data="-", stdin=reading)
    os.close(reading)
    os.write(writing, b'{"id": 1}\n')
    tokenizing.wait_for(process, lambda: any(Path("out/meta").glob(".data.stdin.jsonl.*")))
    process.send_signal(signal.SIGINT)
    assert_fails(finish(process), "stopping", code=130)  # with the pipe still open
    os.close(writing)
    assert not any(Path("out/meta").glob(".data.stdin.jsonl.*"))


# ------------------------------------------------------------------------------------------- no room


def largest_file(num_bytes: int) -> Callable[[], None]:
    """To run in a new process: no file that it writes can grow past so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_files_that_can_grow_no_more(tokenizing, num_workers) -> None:
    tokenizing.data(mixed(60))
    tokenizing.here(num_splits=2, output=Path("whole"))
    words = ("--splits", "2", "--workers", str(num_workers))
    full = tokenizing.run(*words, preexec=largest_file(4000), impatient=True)
    assert_fails(full, "can't write out/data_split", "File too large", "hint:")
    checkpoints = [json.loads(path.read_bytes()) for path in Path("out/meta").glob("*.checkpoint.json")]
    assert 3000 < max(checkpoint["sizes"][0] for checkpoint in checkpoints) <= 4000
    assert tokenizing.run(*words).returncode == 3
    assert tokenizing.results() == tokenizing.results("whole")
    assert not leftovers()


@pytest.fixture
def small_disk(tokenizing: Tokenize) -> Iterator[Path]:
    """A file system of 64 KiB, called out."""
    disk = tokenizing.folder / "out"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount")
def test_a_full_file_system(tokenizing, small_disk) -> None:
    tokenizing.data(mixed(400))
    tokenizing.here(output=Path("whole"))
    for _ in range(2):
        assert_fails(tokenizing.run(impatient=True), "can't write", "No space left on device", "hint:")
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert json.loads(Path("out/meta/data_split1.checkpoint.json").read_bytes())["tally"]["num_in"] > 50
    assert tokenizing.run().returncode == 3
    assert tokenizing.results() == tokenizing.results("whole")


def test_a_folder_that_may_not_be_written(tokenizing) -> None:
    tokenizing.data([record(0)])
    Path("out").mkdir(mode=0o500)
    assert_fails(tokenizing.run(preexec=drop_override), "can't write out/meta", "Permission denied", "hint:")
    Path("out").chmod(0o700)
    Path("data.jsonl").chmod(0)
    assert_fails(tokenizing.run(preexec=drop_override), "DATA: ", "Permission denied", code=2)


# ------------------------------------------------------------------------------------- two at once


def test_the_second_of_two_runs_is_refused(tokenizing) -> None:
    tokenizing.data(mixed(400))
    tokenizing.here(output=Path("whole"), num_splits=2)
    process = tokenizing.start("--splits", "2", "--workers", "1", impatient=True)
    tokenizing.wait_for(process, lambda: _num_output_bytes() > 1000)
    for options in ({}, {"overwrite": True}):
        with pytest.raises(JournalLockedError, match="being made by another omnicap process"):
            tokenizing.here(num_splits=2, **options)
    assert process.poll() is None  # it was there all the time
    assert finish(process).returncode == 3
    assert tokenizing.results() == tokenizing.results("whole")


def test_nothing_is_overwritten_while_a_later_split_is_being_made(tokenizing) -> None:
    tokenizing.data(mixed(10))
    tokenizing.here(num_splits=2)
    before = tokenizing.results()
    with hold_lock(Path("out/meta/data_split2.lock"), what="it"), pytest.raises(JournalLockedError):
        tokenizing.here(num_splits=2, overwrite=True)
    assert tokenizing.results() == before


def test_what_comes_down_a_pipe_belongs_to_one_process(tokenizing) -> None:
    reading, writing = os.pipe()
    process = tokenizing.start(data="-", stdin=reading)
    os.close(reading)
    tokenizing.wait_for(process, lambda: any(Path("out/meta").glob(".data.stdin.jsonl.*")))
    second = tokenizing.run(data="-", stdin=b"{}\n")
    assert_fails(second, "out/data_split*.jsonl is being made by another omnicap process")
    os.write(writing, b"".join(map(tokenizing._line, mixed(10))))
    os.close(writing)
    assert finish(process).returncode == 3
    assert (len(tokenizing.kept()), len(tokenizing.rejected())) == (7, 2)
