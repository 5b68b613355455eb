"""Several processes say what one says, share the machine, and are replaced if they die."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import threading
from collections import Counter
from functools import partial

import pytest
from support.huggingface_runs import draw_pictures, engine_of, mixed_sizes, requests_of, run_engine
from support.huggingface_runs import one_thread as one_thread  # a fixture
from transformers import AutoConfig

from omnicap_cli.core.models.machine import Gpu, Machine
from omnicap_cli.core.runs.records import Result
from omnicap_cli.core.workers.pool_child import Assignment
from omnicap_cli.engines.huggingface import engine as engine_module
from omnicap_cli.engines.huggingface import replicas
from omnicap_cli.engines.registry import DeviceOptions, EngineOptions, create_engine
from omnicap_cli.errors import EngineError, OptionError


def test_several_processes_say_the_same(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", [*mixed_sizes(6), (2010, 10)])
    one = run_engine(engine_of(tiny_model("qwen2_vl")), folder)
    two = run_engine(engine_of(tiny_model("qwen2_vl"), workers=2), folder)
    what = partial(map, lambda pair: (pair[0], pair[1].text, pair[1].error and pair[1].error.kind))
    assert sorted(what(two.items()), key=str) == sorted(what(one.items()), key=str)


def test_a_process_that_dies_is_replaced(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(8))
    engine = engine_of(tiny_model("qwen2_vl"), workers=2, batch_size=1)
    requests = list(requests_of(engine, folder))
    with contextlib.closing(engine):
        results = []
        for result in engine.run(iter(requests), threading.Event()):
            results.append(result)
            if len(results) == 2:
                busy = max(engine._replicas._pool._places, key=lambda place: len(place.in_hand))
                busy.child.kill()
    assert Counter(result.key for result in results) == Counter(request.key for request in requests)
    assert all(result.error is None for result in results)


def test_what_a_dead_process_left_is_numbered_anew(tiny_model, tmp_path):
    """One request of an item, the last, was answered; the rest must not run on into the next item."""
    engine = engine_of(tiny_model("qwen2_vl"))
    requests = list(requests_of(engine, draw_pictures(tmp_path / "in", mixed_sizes(3))))
    answered = Result(key=requests[2].key, text="")
    items = [replicas._unanswered(requests[0:3], answered), requests[3:6], requests[7:8]]
    assert items[0] == requests[0:2]
    asked = {}
    assignments = [Assignment(item, print, print) for item in items]
    numbered = [(each.key, each.num_following) for each in replicas._requests_in(assignments, asked)]
    left = [request.key for item in items for request in item]
    assert numbered == list(zip(left, [1, 0, 2, 1, 0, 0], strict=True))
    assert [asked[key].content for key in left] == [items[place] for place in (0, 0, 1, 1, 1, 2)]


def test_processes_share_the_memory_and_the_cores(tiny_model, monkeypatch):
    given = []
    monkeypatch.setattr(engine_module, "Replicas", lambda options, environments: given.append((options, environments)))
    monkeypatch.setattr(engine_module, "num_cores", lambda: 8)
    engine = engine_of(tiny_model("qwen2_vl"), workers=4)
    engine.warm_up()
    [(options, environments)] = given
    assert options.num_sharing == 4
    assert environments == [{"OMP_NUM_THREADS": "2"}] * 4
    one, four = engine_of(tiny_model("qwen2_vl")), create_engine("huggingface", options)
    config = AutoConfig.from_pretrained(tiny_model("qwen2_vl"))
    budgets = [each._planner(config, "sdpa", 1000).budget_bytes for each in (one, four)]
    assert budgets == [1000, 250]


GPUS = (Gpu("A", (8, 0), 80 * 10**9), Gpu("B", (8, 0), 40 * 10**9))


def test_each_gpu_gets_a_process(tiny_model, monkeypatch):
    machine = Machine(torch_version="2", built_for="CUDA", gpus=GPUS)
    monkeypatch.setattr(engine_module.ReplicatedEngine, "_read_machine", lambda _: machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    options = EngineOptions(model=str(tiny_model("qwen2_vl")), devices=DeviceOptions(gpus="all"))
    engine = create_engine("huggingface", options)
    found = engine._environments(engine._files)
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in found) == ["3", "5"]
    assert engine.identity.settings["dtype"] == "bfloat16"


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_workers_are_for_the_cpu(tiny_model, monkeypatch, device):
    machine = Machine(torch_version="2", built_for="CUDA", gpus=GPUS)
    monkeypatch.setattr(engine_module.ReplicatedEngine, "_read_machine", lambda _: machine)
    options = EngineOptions(model=str(tiny_model("qwen2_vl")), devices=DeviceOptions(device=device), workers=2)
    with pytest.raises(OptionError, match="--workers") as caught:
        create_engine("huggingface", options)
    assert "--gpus" in caught.value.hint


def test_an_error_of_an_option_crosses_processes():
    error = pickle.loads(pickle.dumps(OptionError("--max-pixels", 5, "can't be kept", hint="Leave it out.")))
    assert type(error) is OptionError
    assert (error.option, error.value, error.hint) == ("--max-pixels", 5, "Leave it out.")
    assert str(error) == "--max-pixels: 5 can't be kept"


def test_a_model_that_does_not_load_in_a_process_is_an_engine_error(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    engine = engine_of(model, workers=2)
    requests = list(requests_of(engine, draw_pictures(tmp_path / "in", [(50, 50)])))
    engine.warm_up()
    (model / "model.safetensors").write_bytes(b"")
    with contextlib.closing(engine), pytest.raises(EngineError, match=r"model\.safetensors"):
        list(engine.run(iter(requests), threading.Event()))
