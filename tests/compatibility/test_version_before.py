"""Files that version 0.1.0 left when it was interrupted, gone on with by this one: nothing done is done again.

They were made by its own commands, in folders of their own. `{folder}` stands in them for where they are; a checkout
keeps no times of files, so the times that were noted are given back.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from support.fake_engine import caption_of
from support.tokenize_runs import Tokenize

from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.datasets.tokenizing import split_run
from omnicap_cli.datasets.tokenizing.data_file import DataFile
from omnicap_cli.training import callbacks
from omnicap_cli.training.config.sections import TrainConfig
from omnicap_cli.training.data import record_index

DATA = Path(__file__).parent / "data"
DATA_TIME_NS = 10**18  # of every data set, when it was read


@pytest.fixture
def restore(tmp_path, monkeypatch):
    """Puts one of the folders, as it was left, where the test runs."""
    monkeypatch.chdir(tmp_path)

    def restore(name: str) -> None:
        shutil.copytree(DATA / name, tmp_path, dirs_exist_ok=True)
        for path in tmp_path.rglob("*.json"):
            path.write_text(path.read_text("utf-8").replace("{folder}", str(tmp_path.resolve())), "utf-8")
        for path in tmp_path.glob("*.jsonl"):
            os.utime(path, ns=(DATA_TIME_NS, DATA_TIME_NS))

    return restore


def test_an_interrupted_caption_run_is_gone_on_with(restore, omnicap) -> None:
    restore("caption")
    for number, path in enumerate(sorted(Path("in").iterdir())):
        os.utime(path, ns=(10**18 + number * 10**9,) * 2)
    before = omnicap.records()
    note = RunMeta.read(Path("out.jsonl"))
    assert (note.state_now, note.num_requests, note.num_left) == ("interrupted", 6, 3)
    assert note.folder == str(omnicap.folder)
    ended = omnicap.run("in", "-o", "out.jsonl")
    assert ended.returncode == 0, ended.stderr
    records = omnicap.records()
    assert records[:3] == before
    assert omnicap.begun == [record["key"] for record in records[3:]]
    assert [record["id"] for record in records] == [f"in/{number:04}.png" for number in range(6)]
    for record in records:
        content = Path(record["image"]).read_bytes()
        assert record["caption"] == caption_of(record["id"], record["prompt_sha"], {}, content)
    assert RunMeta.read(Path("out.jsonl")).state == "finished"


def test_a_tokenize_run_that_was_killed_is_gone_on_with(restore, tmp_path, monkeypatch) -> None:
    """Of two splits of twelve lines the first is whole, and of the second a checkpoint vouches for four."""
    tokenizing = Tokenize(tmp_path, Path("model"))
    restore("tokenize")
    shutil.copytree(DATA / "model", "model")
    whole = Path("out/data_split1.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(DataFile, "_scan", lambda *_: pytest.fail("the data was read again, in spite of its index"))
    counted = []
    count = split_run.RecordCounter.count
    monkeypatch.setattr(split_run.RecordCounter, "count", lambda *of: counted.append(of[2]) or count(*of))
    report = tokenizing.here(num_splits=2)
    assert counted == [number for number in range(17, 25) if (number - 1) % 7 != 6]  # those that aren't blank
    assert tokenizing.warned == []
    assert (report.num_lines, report.num_in) == (24, 21)
    assert Path("out/data_split1.jsonl").stat().st_mtime_ns == whole
    assert tokenizing.results() == tokenizing.results("whole")  # which that version made without a break


def test_a_training_run_is_gone_on_with(restore, tiny_model, tmp_path, monkeypatch) -> None:
    """From the note of its checkpoint, and with its index of records; the weights are those of the model itself."""
    from omnicap_cli.training.run import TrainingRun

    restore("training")
    shutil.copytree(tiny_model("qwen2_vl"), "model")
    shutil.copytree("model", "run/checkpoint-2", dirs_exist_ok=True)
    for name in ("optimizer.pt", "scheduler.pt"):
        (tmp_path / "run/checkpoint-2" / name).touch()
    digest = hashlib.sha256(os.fsencode(Path("train.jsonl").resolve())).hexdigest()[:12]
    Path("run/index/train.npz").rename(f"run/index/train-{digest}.npz")
    monkeypatch.setattr(record_index, "_scan_records", lambda *_: pytest.fail("the records were indexed again"))

    run = TrainingRun(
        TrainConfig.read(Path("recipe.yaml"))
    )  # which refuses a checkpoint of other data or another recipe
    plan = run.describe()
    assert (plan.resumed_from, plan.num_steps, plan.num_samples) == ("checkpoint-2", 4, 16)
    lines = Path("train.jsonl").read_bytes().splitlines()
    assert [run.corpus.record(number) for number in range(8)] == [json.loads(line) for line in lines]

    log = callbacks.MetricsLog(Path("run/metrics.jsonl"))
    assert log.latest("loss") == 7.207748889923096
    log.begin(1)
    assert (log.latest("step"), log.latest("loss")) == (1, 7.876574516296387)
