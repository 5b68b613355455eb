"""`omnicap caption --model FOLDER` from the command line, with a small model of random weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from omnicap_cli.terminal.interrupts import ECHO_SECONDS

PATIENCE_SECONDS = 120


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        Image.radial_gradient("L").resize((60 + 20 * number, 80)).convert("RGB").save(folder / f"{number}.png")
    return folder


def command(folder, *words):
    return [sys.executable, "-m", "omnicap_cli", *words], {"cwd": folder, "env": environment()}


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    return kept | {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def omnicap(folder, *words):
    line, options = command(folder, *words)
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_SECONDS, **options)


def start(folder, *words):
    line, options = command(folder, *words)
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def records(path):
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()] if Path(path).exists() else []


def wait_for_records(process, path, count):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(records(path)) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


EVERYTHING = ("--type", "natural", "--style", "all", "--lang", "all")


def test_all_styles_and_languages_resume_after_sigkill_exactly(tiny_model, pictures, tmp_path):
    model = str(tiny_model("qwen2_vl"))
    words = ("caption", "in", "--model", model, *EVERYTHING, "--max-new-tokens", "40", "--batch-size", "4")
    whole = omnicap(tmp_path, *words, "-o", "whole.jsonl")
    assert whole.returncode == 0, whole.stderr
    expected = {record["key"]: record["caption"] for record in records(tmp_path / "whole.jsonl")}
    assert len(expected) == 6 * 8
    for goal in (3, 20):
        process = start(tmp_path, *words, "-o", "out.jsonl")
        wait_for_records(process, tmp_path / "out.jsonl", goal)
        process.kill()
        process.wait()
        assert len(records(tmp_path / "out.jsonl")) < len(expected)
    assert omnicap(tmp_path, *words, "-o", "out.jsonl").returncode == 0
    found = records(tmp_path / "out.jsonl")
    assert Counter(record["key"] for record in found) == Counter(expected.keys())
    assert {record["key"]: record["caption"] for record in found} == expected


def test_ctrl_c_in_the_middle_of_generation(tiny_model, pictures, tmp_path):
    words = (
        "caption",
        "in",
        "--model",
        str(tiny_model("qwen2_vl")),
        *EVERYTHING,
        "--batch-size",
        "3",
        "-o",
        "out.jsonl",
    )
    process = start(tmp_path, *words, "--max-new-tokens", "100")
    wait_for_records(process, tmp_path / "out.jsonl", 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "again" in said
    done = records(tmp_path / "out.jsonl")
    assert 1 <= len(done) < 48
    assert all(record["status"] == "ok" for record in done)


def test_a_second_ctrl_c_ends_it_at_once(tiny_model, pictures, tmp_path):
    words = ("caption", "in", "--model", str(tiny_model("qwen2_vl")), *EVERYTHING, "-o", "out.jsonl")
    process = start(tmp_path, *words, "--max-new-tokens", "20000")
    while "out.jsonl" not in os.listdir(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    while "stopping" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(ECHO_SECONDS)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130


def test_a_closed_pipe_is_no_error(tiny_model, pictures, tmp_path):
    words = ("caption", "in", "--model", str(tiny_model("qwen2_vl")), *EVERYTHING, "--batch-size", "4", "--unordered")
    line, options = command(tmp_path, *words, "--max-new-tokens", "200")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    assert json.loads(process.stdout.readline())["status"] == "ok"
    process.stdout.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert b"terminate" not in process.stderr.read()


def test_the_record_says_how_it_was_made(tiny_model, pictures, tmp_path):
    model = tiny_model("qwen2_vl")
    ran = omnicap(tmp_path, "caption", "in/0.png", "--model", str(model), "--preset", "paper", "--max-new-tokens", "5")
    assert ran.returncode == 0, ran.stderr
    [record] = map(json.loads, ran.stdout.splitlines())
    assert record["engine"] == "huggingface"
    assert record["model"] == model.name
    assert record["settings"] == {
        "min_pixels": 1568,
        "max_pixels": 5017600,
        "dtype": "float32",
        "max_new_tokens": 5,
        "temperature": 0.2,
        "top_p": 0.8,
        "top_k": 10,
        "repetition_penalty": 1.2,
        "seed": 0,
    }
    assert record["image_tokens"] == 2 * 3  # 60 x 80 pixels are 56 x 84, in squares of 28
    assert record["finish_reason"] in ("length", "stop")
    assert "type_score" not in record


def test_the_model_chooses_types(tiny_model, pictures, tmp_path):
    words = ("caption", "in", "--model", str(tiny_model("qwen2_vl")), "--type", "auto", "--style", "caption")
    ran = omnicap(tmp_path, *words, "--max-new-tokens", "5", "-o", "out.jsonl")
    assert ran.returncode == 0, ran.stderr
    for record in records(tmp_path / "out.jsonl"):
        assert record["type"] in ("aigc", "natural", "mathgeo", "chart", "equation", "ocr", "gui", "table", "chem")
        assert 1 / 9 <= record["type_score"] <= 1
        assert record["style"] in ("caption", "detailed", "smiles")
    again = omnicap(tmp_path, *words, "--max-new-tokens", "5", "-o", "out.jsonl")
    assert len(records(tmp_path / "out.jsonl")) == 6, again.stderr


def test_a_dry_run_counts_the_tokens_that_a_run_takes(tiny_model, pictures, tmp_path):
    words = ("caption", "in", "--model", str(tiny_model("qwen3_vl")), *EVERYTHING, "--max-new-tokens", "3")
    plan = json.loads(omnicap(tmp_path, *words, "--dry-run").stdout)
    assert omnicap(tmp_path, *words, "-o", "out.jsonl").returncode == 0
    found = records(tmp_path / "out.jsonl")
    assert plan["prompt_tokens"] == sum(record["prompt_tokens"] for record in found)
    assert plan["image_tokens"] == sum(record["image_tokens"] for record in found)
    assert plan["batches"] >= 1


def test_another_dtype_is_another_request(tiny_model, pictures, tmp_path):
    words = ("caption", "in/0.png", "--model", str(tiny_model("qwen2_vl")), "--max-new-tokens", "3", "-o", "out.jsonl")
    for dtype, count in (("auto", 1), ("float32", 1), ("bfloat16", 2)):
        ran = omnicap(tmp_path, *words, "--dtype", dtype)
        assert ran.returncode == 0, ran.stderr
        assert len(records(tmp_path / "out.jsonl")) == count


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--model", "nowhere/at-all"), 1, "nowhere/at-all"),
        (("--model", "./missing"), 2, "--model"),
        (("--type", "natural"), 1, "--model"),
        (("--type", "ocr", "--temperature", "0.5"), 2, "--temperature"),
        (("--model", "MODEL", "--top-p", "0.5"), 2, "--temperature"),
        (("--model", "MODEL", "--device", "cuda"), 2, "--device"),
        (("--model", "MODEL", "--gpus", "2"), 2, "GPU"),
        (("--model", "MODEL", "--gpus", "some"), 2, "--gpus"),
        (("--model", "MODEL", "--batch-size", "0"), 2, "--batch-size"),
        (("--model", "MODEL", "--preset", "papers"), 2, "--preset"),
        (("--model", "MODEL", "--quantize", "4bit"), 2, "--quantize"),
        (("--model", "MODEL", "--type", "auto", "--prompt", "What?"), 2, "--type auto"),
        (("--model", "MODEL", "--type", "auto", "--style", "all"), 2, "--style"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tiny_model, pictures, tmp_path, words, code, said):
    words = [str(tiny_model("qwen2_vl")) if word == "MODEL" else word for word in words]
    ran = omnicap(tmp_path, "caption", "in", *words, "-o", "out.jsonl")
    assert ran.returncode == code, ran.stderr
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not records(tmp_path / "out.jsonl")


def test_a_damaged_model_is_named_before_anything_is_written(tiny_model, pictures, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ran = omnicap(tmp_path, "caption", "in", "--model", "model", "-o", "out.jsonl")
    assert ran.returncode == 1
    assert "model.safetensors" in ran.stderr
    assert "Copy or download it again" in ran.stderr
    assert not (tmp_path / "out.jsonl").exists()
