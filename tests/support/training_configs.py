"""The smallest configuration of a training run and its defaults, written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnicap_cli.errors import UsageError
from omnicap_cli.training.config.sections import TrainConfig

SMALLEST = "model: {name: org/model}\ndata: {train: a.jsonl}\ncheckpoint: {output: out}\n"

DEFAULTS = {
    "model": {
        "name": "org/model",
        "revision": None,
        "attn": "auto",
        "dtype": "auto",
        "train_vision": True,
        "train_merger": True,
        "train_llm": True,
        "gradient_checkpointing": False,
        "liger": "auto",
    },
    "data": {
        "train": [{"path": "a.jsonl", "ratio": 1.0, "name": None, "type": None}],
        "mixture": None,
        "eval": [],
        "image_root": None,
        "min_pixels": None,
        "max_pixels": None,
        "prompts": None,
        "max_length": 7000,
        "too_long": "refuse",
        "missing_media": "fail",
        "num_workers": 2,
        "seed": 0,
    },
    "packing": {"enabled": True, "max_tokens": 8192, "max_patches": None, "window": None},
    "optimisation": {
        "learning_rate": 1e-5,
        "merger_learning_rate": None,
        "vision_learning_rate": 2e-6,
        "weight_decay": 0.0,
        "warmup_ratio": 0.03,
        "schedule": "cosine",
        "min_learning_rate_ratio": 0.0,
        "num_epochs": 1,
        "max_steps": None,
        "batch_size": 1,
        "gradient_accumulation": 1,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "precision": "auto",
        "tf32": True,
        "seed": 0,
    },
    "adapter": {"kind": "none", "rank": 64, "alpha": 16, "dropout": 0.05, "vision": False},
    "distributed": {"strategy": "auto", "deepspeed_config": None, "zero_stage": None, "offload": False},
    "checkpoint": {"output": "out", "every_steps": 500, "every_minutes": None, "keep": 1},
    "logging": {"every_steps": 10, "eval_every_steps": None, "eval_captions": 4, "report_to": [], "name": None},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(SMALLEST)
    return path


def message_of(path: Path, *overrides: str) -> str:
    """The error with its hint."""
    with pytest.raises(UsageError) as caught:
        TrainConfig.read(path, overrides)
    assert caught.value.exit_code == 2
    return f"{caught.value.message} | {caught.value.hint or ''}"
