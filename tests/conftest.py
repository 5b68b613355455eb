"""What tests of whole runs share: tiny pictures, and the real command line with an engine that needs no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from support.tiny_models import tiny_model as tiny_model  # a fixture

SUPPORT = Path(__file__).parent / "support"
PATIENCE_SECONDS = 60.0  # only ever reached by a test that fails

# a shell that starts the tests in the background has them, and what they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes hangs on what else the machine does
settings.register_profile("omnicap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("omnicap")


class FakeOmnicap:
    """`omnicap caption` (or another `command`) in a folder of its own.

    The engine is a fake, and each call chooses its behaviour (see FakeConfig).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "begun.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(self, *words: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end. `options`: those of `start`."""
        process = self.start(*words, stdin=subprocess.PIPE, **options)
        stdout, stderr = process.communicate(stdin, timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, stdout.decode(), stderr.decode())

    def start(
        self,
        *words: str,
        stdin: int = subprocess.DEVNULL,
        stdout: Any = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        preexec: Callable[[], None] | None = None,
        death: str = "",
        command: str = "caption",
        **fake: Any,
    ) -> subprocess.Popen[bytes]:
        """Start it and leave it running. `fake` is for the engine; `preexec` runs in the process before it begins."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
        env |= {"FAKE_ENGINE": json.dumps({"log": str(self.log)} | fake), "FAKE_DEATH": death, "NO_COLOR": "1"}
        engine = ("--engine", "fake") if command == "caption" else ()
        process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "fake_omnicap.py"), command, *words, *engine],
            cwd=self.folder,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=preexec,
        )
        self._processes.append(process)
        return process

    @property
    def begun(self) -> list[str]:
        """The key of each request that an engine has begun, in order, over all runs."""
        return self.log.read_text().split() if self.log.exists() else []

    def records(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        """The records of a journal, which must be whole lines and nothing else."""
        content = (self.folder / name).read_bytes()
        assert not content or content.endswith(b"\n")
        return [json.loads(line) for line in content.splitlines()]

    def wait_for(self, process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        """Until `condition` holds; fails if the process ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if process.poll() is not None and not condition():
                pytest.fail(f"ended too early, with {process.returncode}: {process.communicate()[1].decode()}")
            if time.monotonic() > deadline:
                pytest.fail("what the test waits for doesn't happen")
            time.sleep(0.002)

    def close(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


@pytest.fixture
def omnicap(tmp_path: Path) -> Iterator[FakeOmnicap]:
    """See FakeOmnicap; the folder is tmp_path."""
    fake = FakeOmnicap(tmp_path)
    yield fake
    fake.close()


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[..., list[str]]:
    """`make_pictures(count, folder="in")` draws so many and returns their ids, which are in the order of a run."""

    def make(count: int, folder: str = "in") -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        names = [f"{folder}/{number:04}.png" for number in range(count)]
        for number, name in enumerate(names):
            Image.new("RGB", (2, 1), (number % 256, number // 256, 0)).save(tmp_path / name)
        return names

    return make
