"""Training runs as tests make them: a configuration of few values, somebody who follows, and what was logged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from omnicap_cli.training.checkpoints import list_checkpoints
from omnicap_cli.training.config.sections import TrainConfig


class Killed(BaseException):
    """The process is gone, as far as the run can tell."""


class Watch:
    """Follows a run; `at` is called with the number of each step, and may say that it is to stop."""

    def __init__(self, at: Callable[[int], bool] = lambda _: False) -> None:
        self._at, self._stops, self.plan = at, False, None

    def begin(self, plan) -> None:
        self.plan = plan

    def step(self, step, values) -> None:
        self._stops = self._stops or self._at(step + 1)

    def stops(self) -> bool:
        return self._stops


def make_config(folder: Path, model: Path, data: Path, **values: Any) -> TrainConfig:
    settings = {
        "model.name": str(model),
        "data.train": str(data / "train.jsonl"),
        "data.image_root": str(data),
        "data.num_workers": 0,
        "data.max_length": 1000,
        "packing.max_tokens": 1000,
        "optimisation.learning_rate": 1e-3,
        "optimisation.vision_learning_rate": 5e-4,
        "optimisation.adam_epsilon": 1e-3,  # where a gradient is almost nothing, its noise makes no step
        "checkpoint.output": str(folder / "run"),
        "checkpoint.every_steps": 2,
        "logging.every_steps": 1,
        "logging.eval_captions": 1,
    }
    settings |= {key.replace("__", "."): value for key, value in values.items()}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections))
    return TrainConfig.read(path)


def log_of(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.checkpoint.output / "metrics.jsonl").read_text().splitlines()]


def curve(log):
    """Loss and gradient of each step."""
    return [(each["step"], each["loss"], each["grad_norm"]) for each in log if "loss" in each]


def evaluations(log):
    """After which steps, and the loss."""
    return [(each["step"], each["eval_loss"]) for each in log if "eval_loss" in each]


def weights(folder: Path):
    return load_file(list_checkpoints(folder)[-1] / "model.safetensors")


def near(values, tolerance: float = 1e-5):
    return [pytest.approx(value, abs=tolerance, rel=tolerance) for value in values]
