"""docs/training.md: its commands as they stand, on the shapes; its tables against the code. And the recipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from support.shapes_example import PATIENCE_SECONDS, ROOT
from transformers import AutoModelForImageTextToText

from omnicap_cli.training.config.sections import TrainConfig

DOCUMENT = (ROOT / "docs" / "training.md").read_text("utf-8")
WALK, REST = DOCUMENT.split("\n## The configuration\n")
KEYS = re.findall(r"^\| `(\w+)\.(\w+)` \| (?:`([^`]+)` )?\| (.+) \|$", DOCUMENT, re.MULTILINE)
LOG = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", DOCUMENT.partition("\n## The log\n")[2], re.MULTILINE)
RECIPE = ROOT / "examples" / "omnicaptioner-7b.yaml"


def run(block: str, folder: Path) -> str:
    """What a block of commands prints; each of them has to end well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block],
        cwd=folder,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# ------------------------------------------------------------------------------------------ the walk


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything down to the captions was run, in the order of the document."""
    folder = tmp_path_factory.mktemp("walked")
    (folder / "examples").symlink_to(ROOT / "examples")
    for language, block in re.findall(r"```(sh|yaml)\n(.*?)```", WALK, re.DOTALL)[:-1]:
        if language == "yaml":
            (folder / "shapes.yaml").write_text(block)
        else:
            run(block, folder)
    return folder


def test_the_walk_ends_with_captions_of_a_trained_model(walked) -> None:
    records = [json.loads(line) for line in (walked / "captions.jsonl").read_text("utf-8").splitlines()]
    assert {record["id"] for record in records} == {f"shapes/held-out/{number:06}.png" for number in range(1, 21)}
    assert {(record["status"], record["model"]) for record in records} == {("ok", "shapes-captioner")}
    before, after = (
        AutoModelForImageTextToText.from_pretrained(walked / name).state_dict()
        for name in ("shapes-model", "shapes-captioner")
    )
    assert before.keys() == after.keys()
    assert not any(before[name].equal(after[name]) for name in before if name.endswith("proj.weight"))


def test_every_field_of_the_log_is_in_the_document(walked) -> None:
    lines = [json.loads(line) for line in (walked / "shapes-run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    logged = {name for line in lines for name in line}
    documented = set(re.findall(r"`(\w+)`", " ".join(LOG)))
    assert documented == logged | {"skipped_samples"}  # of which there are none here
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    said = [each for line in lines for each in line.get("captions", [])]
    assert {name for each in said for name in each} == {"id", "caption", "reference"}


@pytest.mark.slow
def test_the_walk_with_an_adapter(walked) -> None:
    run(re.findall(r"```sh\n(.*?)```", WALK, re.DOTALL)[-1], walked)
    assert (walked / "shapes-lora" / "checkpoint-10" / "adapter_model.safetensors").exists()
    assert (walked / "shapes-lora-captioner" / "model.safetensors").exists()


# ------------------------------------------------------------------------------------------ tables and words


def test_the_tables_have_every_key_once_with_its_default_and_its_choices() -> None:
    documented = {(section, key): (default, meaning) for section, key, default, meaning in KEYS}
    sections = get_type_hints(TrainConfig)
    known = {(name, each.name): each for name, section in sections.items() for each in fields(section)}
    assert len(documented) == len(KEYS)
    assert documented.keys() == known.keys()
    for (section, key), each in known.items():
        default, meaning = documented[section, key]
        kind = get_type_hints(sections[section])[key]
        if each.default in (MISSING, None, ()):
            assert default == "", key
        elif isinstance(each.default, bool):
            assert default == str(each.default).lower(), key
        elif isinstance(each.default, str):
            assert default == each.default, key
        else:
            assert float(default) == each.default, key
        if get_origin(kind) is Literal:
            assert set(get_args(kind)) <= set(re.findall(r"`([^`]+)`", f"`{default}` {meaning}")), key


def test_every_link_and_every_file_that_is_named_is_there() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", DOCUMENT, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENT):
        path, _, anchor = target.partition("#")
        assert (ROOT / "docs" / path).exists(), target
        assert path or anchor in anchors, target


# ------------------------------------------------------------------------------------------ the published recipe


def test_the_recipe_has_the_published_values() -> None:
    """As the published script and the paper have them."""
    config = TrainConfig.read(RECIPE)
    model, data, optimisation = config.model, config.data, config.optimisation
    assert model.name == "Qwen/Qwen2-VL-7B-Instruct"
    assert (model.train_vision, model.train_merger, model.train_llm) == (True, True, True)
    assert (model.dtype, model.gradient_checkpointing, model.liger) == ("bfloat16", True, "on")
    assert (data.min_pixels, data.max_pixels) == (4 * 28 * 28, 6400 * 28 * 28)
    assert (data.max_length, data.num_workers) == (7000, 4)
    assert (optimisation.learning_rate, optimisation.vision_learning_rate) == (1e-5, 2e-6)
    assert optimisation.merger_learning_rate in (None, 1e-5)
    assert (optimisation.weight_decay, optimisation.warmup_ratio, optimisation.schedule) == (0, 0.03, "cosine")
    assert (optimisation.num_epochs, optimisation.max_steps, optimisation.batch_size) == (1, None, 1)
    assert (optimisation.precision, optimisation.tf32) == ("bfloat16", True)
    assert config.adapter.kind == "none"
    assert (config.distributed.strategy, config.distributed.zero_stage) == ("deepspeed", 3)
    assert config.distributed.offload
    assert (config.checkpoint.every_steps, config.checkpoint.keep) == (50, 1)
    assert config.logging.report_to == ("tensorboard",)


def test_the_recipe_says_how_to_have_the_published_batch() -> None:
    command = next(line for line in RECIPE.read_text("utf-8").splitlines() if "--set" in line)
    config = TrainConfig.read(RECIPE, re.findall(r"--set ([\w.=]+)", command))
    num_gpus = 4 * 8
    assert not config.packing.enabled
    assert num_gpus * config.optimisation.batch_size * config.optimisation.gradient_accumulation == 128


def test_every_value_of_the_recipe_has_its_source() -> None:
    lines = RECIPE.read_text("utf-8").splitlines()
    values = [number for number, line in enumerate(lines) if re.match(r"  \w+: ", line)]
    assert len(values) > 25
    for number in values:
        beside = lines[number].partition("#")[2] or lines[number - 1]
        assert re.search(r"\b(script|ours|guess)\b", beside), lines[number]
