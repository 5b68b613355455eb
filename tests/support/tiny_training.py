"""A tiny model and data for it, and a fixture that trains. What a run looks like is in training_runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.training_data import make_data
from support.training_runs import Watch, log_of, make_config

from omnicap_cli.training.run import TrainingRun


@pytest.fixture(autouse=True)
def one_thread():
    """Several wait for each other longer than such small models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("qwen2_vl")


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), model, num_train=24, num_held_out=6)


@pytest.fixture
def train(model, data, tmp_path):
    """Trains with values in place of those below, and gives the log."""

    def run(watch: Watch | None = None, *, force: bool = False, **values: Any) -> list[dict[str, Any]]:
        config = make_config(tmp_path, model, data, **values)
        TrainingRun(config, force=force).train(watch or Watch())
        return log_of(config)

    return run
