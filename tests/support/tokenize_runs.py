"""`omnicap tokenize` as tests use it: training data with real pictures, and the command in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.tiny_models import TinyModel

from omnicap_cli.datasets.tokenizing import split_writer
from omnicap_cli.datasets.tokenizing.all_splits import TokenizeConfig, TokenizeReport, tokenize_splits
from omnicap_cli.datasets.tokenizing.split_run import Step

IMPATIENT = Path(__file__).parent / "impatient"
PATIENCE_SECONDS = 60.0  # only ever reached by a test that fails
SIZES = [(100, 80), (137, 91), (30, 200), (400, 300)]
TOKENS_OF_PICTURES = [4 * 3, 5 * 3, 1 * 7, 14 * 11]  # both sides divided by 28 and rounded


def record(number: int = 0, *values: str, **more: Any) -> dict[str, Any]:
    """A record on one of four pictures; `values` replace question and answer, `more` fields: None leaves one out."""
    said = values or ("<image>\nDescribe it.", f"A harbour, number {number}.")
    conversations = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(said)]
    found = {"id": f"r{number}", "image": f"in/{number % len(SIZES)}.png", "conversations": conversations}
    found |= {"task_type": "OCR"} | more
    return {name: value for name, value in found.items() if value is not None}


def line_of(each: Any) -> bytes:
    """A record as it stands in a data set, with blanks as nobody would write them again."""
    return json.dumps(each, ensure_ascii=False, separators=(" ,", ": ")).encode() + b"\n"


class Tokenize:
    """`omnicap tokenize` in a folder with four pictures, by default of `data.jsonl` into `out`."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "in").mkdir()
        for number, size in enumerate(SIZES):
            Image.new("RGB", size, (number, 0, 0)).save(folder / "in" / f"{number}.png")

    def data(self, records: Iterable[Any] | bytes, name: str = "data.jsonl") -> bytes:
        """Write a data set: records, lines, or the content itself."""
        content = records if isinstance(records, bytes) else b"".join(map(self._line, records))
        (self.folder / name).write_bytes(content)
        return content

    @staticmethod
    def _line(each: Any) -> bytes:
        return each if isinstance(each, bytes) else line_of(each)

    def here(
        self, data: str = "data.jsonl", *, tell: Callable[[Step], None] = lambda _: None, **options: Any
    ) -> TokenizeReport:
        """Run it in this process, which must be in the folder. `options` are fields of a TokenizeConfig."""
        config = {"data": data, "output": Path("out"), "name": "data", "model": str(self.model)} | options
        self.warned: list[str] = []
        with open(os.devnull, "rb") as nothing:
            return tokenize_splits(
                TokenizeConfig(**config),
                nothing,
                begin=lambda _: None,
                tell=tell,
                warn=self.warned.append,
            )

    def run(self, *words: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command to its end. `options`: those of `start`."""
        process = self.start(*words, stdin=subprocess.PIPE, **options)
        stdout, stderr = process.communicate(stdin, timeout=PATIENCE_SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, stdout.decode(), stderr.decode())

    def start(
        self,
        *words: str,
        data: str = "data.jsonl",
        stdin: Any = subprocess.DEVNULL,
        stdout: Any = subprocess.PIPE,
        preexec: Callable[[], None] | None = None,
        impatient: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start the command and leave it running; where it is `impatient` it saves after each record."""
        process = subprocess.Popen(
            [sys.executable, "-m", "omnicap_cli", "tokenize", data, "-o", "out", "--name", "data", *words],
            cwd=self.folder,
            env=self.environment() | ({"PYTHONPATH": str(IMPATIENT)} if impatient else {}),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            preexec_fn=preexec,
        )
        self._processes.append(process)
        return process

    def environment(self) -> dict[str, str]:
        """Variables of the command."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
        return env | {"NO_COLOR": "1", "OMNICAP_MODEL": str(self.model)}

    def wait_for(self, process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
        """Until `condition` holds; fails if the process ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if process.poll() is not None and not condition():
                pytest.fail(f"ended too early, with {process.returncode}: {process.communicate()[1].decode()}")
            if time.monotonic() > deadline:
                pytest.fail("what the test waits for doesn't happen")
            time.sleep(0.002)

    def output(self, split: int = 1, out: str = "out") -> bytes:
        """The content of a split, counted from 1."""
        return (self.folder / out / f"data_split{split}.jsonl").read_bytes()

    def kept(self, split: int = 1, out: str = "out") -> list[dict[str, Any]]:
        """The records of a split."""
        return [json.loads(line) for line in self.output(split, out).splitlines()]

    def rejected(self, split: int = 1, out: str = "out") -> list[dict[str, Any]]:
        """The records that a split doesn't have."""
        path = self.folder / out / "rejects" / f"data_split{split}.jsonl"
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    def note(self, split: int = 1, out: str = "out") -> dict[str, Any]:
        """What is written last."""
        return json.loads((self.folder / out / "meta" / f"data_split{split}.json").read_bytes())

    def results(self, out: str = "out") -> dict[str, Any]:
        """All that is the same whenever it is made: contents by name, and notes without their times."""
        folder = self.folder / out
        found: dict[str, Any] = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in (*folder.glob("*.*"), *folder.glob("rejects/*"))
        }
        for path in folder.glob("meta/*_split*.json"):
            note = json.loads(path.read_bytes())
            found[path.name] = {name: value for name, value in note.items() if name not in ("started", "ended")}
        return found

    def close(self) -> None:
        """End what still runs."""
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()


def mixed(num_records: int) -> list[Any]:
    """Lines of a data set: every fifth record is rejected, and some lines are blank."""
    return [
        b"\n" if n % 7 == 6 else record(n, image="gone.png" if n % 5 == 4 else "in/0.png") for n in range(num_records)
    ]


def leftovers() -> list[str]:
    """What is there of splits that are not whole."""
    return [str(path) for path in Path("out").rglob("*") if path.name.endswith((".partial", ".checkpoint.json"))]


def in_child(run: Callable[[], Any], *, moment: int) -> bool:
    """Run it in a copy of this process that kills itself before the `moment`th step that reaches the disk.

    Whether it came to that.
    """
    child = os.fork()
    if not child:
        try:
            _kill_at(moment)
            run()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 1
    return os.WIFSIGNALED(status)


def _kill_at(moment: int) -> None:
    num_steps = 0

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **more: Any) -> Any:
            nonlocal num_steps
            num_steps += 1
            if num_steps == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **more)

        return step

    os.fsync = deadly(os.fsync)
    for name in ("replace", "unlink"):
        setattr(Path, name, deadly(getattr(Path, name)))
    split_writer._SAVE_SECONDS = split_writer._CHECKPOINT_SECONDS = 0.0


@pytest.fixture
def tokenizing(tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tokenize]:
    """See Tokenize; the folder is tmp_path, which is the current one too."""
    monkeypatch.chdir(tmp_path)
    runs = Tokenize(tmp_path, tiny_model("qwen2_vl"))
    yield runs
    runs.close()
