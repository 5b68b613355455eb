"""Learning rates by step and by part, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForImageTextToText

from omnicap_cli.errors import OptionError
from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.config.sections import (
    AdapterConfig,
    CheckpointConfig,
    DataConfig,
    DistributedConfig,
    LoggingConfig,
    ModelConfig,
    OptimisationConfig,
    TrainConfig,
)
from omnicap_cli.training.model import ModelPart, freeze, parameter_groups, part_of, with_adapter
from omnicap_cli.training.trainer_arguments import arguments, learning_rates, schedule

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
RATES = {ModelPart.LLM: 1.0, ModelPart.MERGER: 2.0, ModelPart.VISION: 3.0}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 0.82, 0.64, 0.46, 0.28]),
        ("cosine", [0.5, 1, *(0.1 + 0.9 * (1 + math.cos(math.pi * k / 5)) / 2 for k in range(1, 5))]),
    ],
)
def test_rates_rise_and_fall(kind, expected) -> None:
    """Six steps: one of warm-up, then five down to a tenth, which the step after the last would have."""
    config = OptimisationConfig(schedule=kind, warmup_ratio=0.1, min_learning_rate_ratio=0.1)
    share = schedule(config)
    assert [share(step, 6) for step in range(6)] == pytest.approx(expected)
    assert share(6, 6) == pytest.approx(1 if kind == "constant" else 0.1)


def test_the_merger_learns_as_the_language_model_unless_it_is_said() -> None:
    config = OptimisationConfig(learning_rate=1e-4, vision_learning_rate=1e-6)
    assert learning_rates(config) == {ModelPart.LLM: 1e-4, ModelPart.MERGER: 1e-4, ModelPart.VISION: 1e-6}
    config = OptimisationConfig(learning_rate=1e-4, merger_learning_rate=3e-5)
    assert learning_rates(config)[ModelPart.MERGER] == 3e-5


def test_sharing_weights_needs_gpus(tmp_path, monkeypatch) -> None:
    """Without them accelerate would take DDP instead, and say nothing."""
    config = TrainConfig(
        model=ModelConfig(name="m"),
        data=DataConfig(train=(DataSet(path=tmp_path / "d.jsonl"),)),
        checkpoint=CheckpointConfig(output=tmp_path),
        distributed=DistributedConfig(strategy="fsdp"),
    )
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(OptionError, match=r"distributed\.strategy: 'fsdp' needs GPUs"):
        arguments(config)


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = TrainConfig(
        model=ModelConfig(name="m"),
        data=DataConfig(train=(DataSet(path=tmp_path / "d.jsonl"),)),
        checkpoint=CheckpointConfig(output=tmp_path),
        logging=LoggingConfig(report_to=("wandb",)),
    )
    with pytest.raises(OptionError, match=r"logging\.report_to: 'wandb' isn't installed"):
        arguments(config)


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("how", ["all", "frozen", "lora", "vision lora"])
def test_each_parameter_that_learns_is_in_one_group(tiny_model, family, how) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny_model(family))
    if how == "frozen":
        freeze(model, {ModelPart.VISION})
    elif "lora" in how:
        model = with_adapter(model, AdapterConfig(kind="lora", rank=2, vision=how == "vision lora"))
    groups = parameter_groups(model, RATES, 0.1)
    grouped = [id(each) for group in groups for each in group["params"]]
    assert sorted(grouped) == sorted(id(each) for each in model.parameters() if each.requires_grad)
    names = {id(each): name for name, each in model.named_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["lr"] == RATES[part_of(names[id(parameter)])]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0)
    parts = {part_of(names[each]) for each in grouped}
    assert (
        parts
        == {
            "all": {ModelPart.LLM, ModelPart.MERGER, ModelPart.VISION},
            "frozen": {ModelPart.LLM, ModelPart.MERGER},
            "lora": {ModelPart.LLM},
            "vision lora": {ModelPart.LLM, ModelPart.VISION},
        }[how]
    )


@pytest.mark.parametrize("family", QWEN)
def test_parts_by_their_modules(tiny_model, family) -> None:
    """The merger is what ends in the language model's width; the rest of the vision tower is vision."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_model(family))
    mergers = [model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", [])]
    expected = {id(each): ModelPart.MERGER for merger in mergers for each in merger.parameters()}
    expected |= {id(each): ModelPart.VISION for each in model.model.visual.parameters() if id(each) not in expected}
    for name, parameter in model.named_parameters():
        assert part_of(name) is expected.get(id(parameter), ModelPart.LLM)


def test_adapters_leave_the_output_layer_alone(tiny_model) -> None:
    model = with_adapter(
        AutoModelForImageTextToText.from_pretrained(tiny_model("qwen2_vl")), AdapterConfig(kind="lora", rank=2)
    )
    learnt = [name for name, each in model.named_parameters() if each.requires_grad]
    assert learnt
    assert all(".language_model.layers." in name and "lora_" in name for name in learnt)
    assert all(torch.equal(each, torch.zeros_like(each)) for name, each in model.named_parameters() if "lora_B" in name)
