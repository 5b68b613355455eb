"""`omnicap train` as processes: several that share the work, and signals that end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from support.training_data import corpus_of, count, draw_media, make_data, record
from support.training_runs import Watch, curve, log_of, make_config, near, weights

from omnicap_cli.training.checkpoints import list_checkpoints
from omnicap_cli.training.run import TrainingRun

PATIENCE_SECONDS = 120.0  # only ever reached by a test that fails


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("qwen2_vl")


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), model, num_train=21, num_held_out=5)


def start(folder: Path, *words: str, devices: str = "") -> subprocess.Popen[bytes]:
    """The command with the recipe in `folder`, its messages in `messages`."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": devices}
    with (folder / "messages").open("wb") as messages:
        return subprocess.Popen(
            [sys.executable, "-m", "omnicap_cli", "train", "--config", str(folder / "recipe.yaml"), *words],
            env=env,
            stdout=subprocess.PIPE,
            stderr=messages,
        )


def ended(process: subprocess.Popen[bytes], folder: Path, *, exit_code: int = 0) -> str:
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    messages = (folder / "messages").read_text()
    assert process.returncode == exit_code, messages
    return output.decode() + messages


def wait_for_steps(config, num_steps: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    path = config.checkpoint.output / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < num_steps:
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_two_processes_equal_one(tiny_model, data, tmp_path_factory, family) -> None:
    """Loss, gradient and weights; an odd number of packs, and some of text alone beside some with pictures."""
    model = tiny_model(family)
    if family != "qwen2_vl":  # whose counts are those of `data`
        data = make_data(tmp_path_factory.mktemp("data"), model, num_train=21, num_held_out=5)
    paths = [data / "train.jsonl", data / "held-out.jsonl"]
    longest = int(corpus_of(paths, tmp_path_factory.mktemp("cache")).lengths.max())
    values = {"packing__max_tokens": longest, "data__max_length": longest}
    values |= {"optimisation__num_epochs": 1, "data__eval": str(data / "held-out.jsonl"), "logging__eval_captions": 0}
    one = make_config(tmp_path_factory.mktemp("one"), model, data, optimisation__gradient_accumulation=2, **values)
    run = TrainingRun(one)
    assert run.plan.num_batches % 2 == 1
    has_pictures = [run.corpus.num_visual_tokens[run.plan.rows(each)[0]].any() for each in range(run.plan.num_batches)]
    assert any(left != right for left, right in zip(has_pictures[::2], has_pictures[1::2], strict=False))
    run.train(Watch())
    folder = tmp_path_factory.mktemp("two")
    two = make_config(folder, model, data, **values)
    ended(start(folder, "--nproc", "2"), folder)
    assert len(curve(log_of(two))) == (run.plan.num_batches + 1) // 2
    for (step, *numbers), (step_, *numbers_) in zip(curve(log_of(one)), curve(log_of(two)), strict=True):
        assert (step_, *numbers_) == (step, *near(numbers))
    totals = [sum(each.get("supervised_tokens", 0) for each in log_of(config)) for config in (one, two)]
    assert totals[0] == totals[1] > 0
    evals = [[each["eval_loss"] for each in log_of(config) if "eval_loss" in each] for config in (one, two)]
    assert evals[1] == near(evals[0])
    expected = weights(one.checkpoint.output)
    for name, tensor in weights(two.checkpoint.output).items():
        assert (tensor - expected[name]).abs().max() < 1e-5, name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: accelerate knows FSDP on no others")
def test_a_model_in_parts_equals_a_whole_one(model, data, tmp_path_factory) -> None:
    """FSDP2 over two processes."""
    values = {"optimisation__max_steps": 4, "packing__max_tokens": 1000}
    one = make_config(tmp_path_factory.mktemp("one"), model, data, optimisation__gradient_accumulation=2, **values)
    TrainingRun(one).train(Watch())
    folder = tmp_path_factory.mktemp("parts")
    parts = make_config(folder, model, data, distributed__strategy="fsdp", **values)
    ended(start(folder, "--nproc", "2", devices="0,1"), folder)
    assert len(curve(log_of(parts))) == 4
    for (step, *numbers), (step_, *numbers_) in zip(curve(log_of(one)), curve(log_of(parts)), strict=True):
        assert (step_, *numbers_) == (step, *near(numbers, 1e-4))
    expected = weights(one.checkpoint.output)
    for name, tensor in weights(parts.checkpoint.output).items():
        assert (tensor - expected[name]).abs().max() < 1e-5, name


LONG = {"optimisation__max_steps": 40, "checkpoint__every_steps": 3, "packing__max_tokens": 1000}


@pytest.fixture(scope="module")
def uninterrupted(model, data, tmp_path_factory):
    """The log of a run of LONG."""
    folder = tmp_path_factory.mktemp("whole")
    config = make_config(folder, model, data, **LONG)
    ended(start(folder), folder)
    return curve(log_of(config))


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals_end_a_run_that_goes_on_later(model, data, tmp_path, uninterrupted, number, exit_code) -> None:
    folder, config = tmp_path, make_config(tmp_path, model, data, **LONG)
    process = start(folder)
    wait_for_steps(config, 7, process)
    process.send_signal(number)
    messages = ended(process, folder, exit_code=exit_code)
    (checkpoint,) = list_checkpoints(config.checkpoint.output)
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 6 <= step < 40
    if number != signal.SIGKILL:  # the checkpoint is of the very step
        assert step == curve(log_of(config))[-1][0]
        assert "run the same command again to go on" in messages
    report = json.loads(ended(start(folder, "-q"), folder))
    assert report["num_steps"] == 40
    assert curve(log_of(config)) == uninterrupted
    assert not list(config.checkpoint.output.glob(".*"))


def test_a_dry_run_trains_nothing(model, data, tmp_path) -> None:
    make_config(tmp_path, model, data)
    plan = json.loads(ended(start(tmp_path, "--dry-run"), tmp_path))
    assert plan["num_samples"] == 21
    assert plan["num_steps"] == plan["num_batches"]
    assert not list(tmp_path.glob("run/checkpoint-*"))
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_what_others_print_is_no_part_of_the_report(model, data, tmp_path) -> None:
    """Some of those that follow a run greet on the standard output."""
    (tmp_path / "sitecustomize.py").write_text(
        "from transformers import Trainer\n"
        "train = Trainer.train\n"
        "Trainer.train = lambda *args, **kwargs: print('welcome') or train(*args, **kwargs)\n"
    )
    make_config(tmp_path, model, data, optimisation__max_steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        process = start(tmp_path)
    report = json.loads(process.communicate(timeout=PATIENCE_SECONDS)[0])
    assert (process.returncode, report["num_steps"]) == (0, 1)
    assert "welcome" in (tmp_path / "messages").read_text()


def test_what_is_wrong_is_said_in_a_line(model, data, tmp_path) -> None:
    make_config(tmp_path, model, data)
    process = start(tmp_path, "--set", "optimisation.learning_rat=3")
    assert "learning_rate" in ended(process, tmp_path, exit_code=2)
    process = start(tmp_path, "--set", f"data.train={tmp_path / 'none.jsonl'}")
    assert "none.jsonl" in ended(process, tmp_path, exit_code=2)


def test_an_error_ends_the_run_and_its_workers(model, tmp_path) -> None:
    """Workers ignore the signal with which Python ends them, and then waits."""
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe.", image=f"{n % 4}.png") for n in range(12)]
    count(tmp_path, model, records, "train")
    make_config(tmp_path, model, tmp_path, data__num_workers=2, packing__enabled=False)
    (tmp_path / "3.png").unlink()
    process = start(tmp_path)
    assert "the picture 3.png isn't there any more" in ended(process, tmp_path, exit_code=1)
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or [])]
    assert not left


def test_samples_that_were_left_out_show_in_the_exit_code(model, tmp_path) -> None:
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe.", image=f"{n}.png") for n in range(2)]
    count(tmp_path, model, records, "train")
    make_config(tmp_path, model, tmp_path, data__missing_media="skip")
    (tmp_path / "0.png").unlink()
    process = start(tmp_path, "-q")
    report = json.loads(process.communicate(timeout=PATIENCE_SECONDS)[0])
    assert (process.returncode, report["num_skipped"]) == (3, 1)


def test_what_fails_in_one_process_ends_all(model, tmp_path) -> None:
    """A picture that only the second process comes to; the first one says which it was too."""
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe.", image=f"{n}.png") for n in range(2)]
    count(tmp_path, model, records, "train")
    values = {"packing__enabled": False, "checkpoint__every_steps": None, "data__num_workers": 0}
    config = make_config(tmp_path, model, tmp_path, **values)
    (second,) = TrainingRun(config).plan.rows(1)
    (tmp_path / f"{second[0]}.png").unlink()
    messages = ended(start(tmp_path, "--nproc", "2"), tmp_path, exit_code=1)
    assert "Traceback" not in messages
    gone = f"r{second[0]}: the picture {second[0]}.png isn't there any more"
    assert f"error: {gone}" in messages
    assert f"error: process 1 of the run failed: {gone}" in messages
    assert not list_checkpoints(config.checkpoint.output)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_ends_all_processes_with_a_checkpoint(
    model, data, tmp_path, number, exit_code
) -> None:
    """It reaches the workers that load data too, which have to live until the step is over."""
    config = make_config(tmp_path, model, data, **LONG | {"data__num_workers": 2, "checkpoint__every_steps": 1000})
    process = start(tmp_path, "--nproc", "2")
    wait_for_steps(config, 3, process)
    process.send_signal(number)
    messages = ended(process, tmp_path, exit_code=exit_code)
    assert "run the same command again to go on" in messages
    assert "Traceback" not in messages
    (checkpoint,) = list_checkpoints(config.checkpoint.output)
    assert int(checkpoint.name.removeprefix("checkpoint-")) == curve(log_of(config))[-1][0]
