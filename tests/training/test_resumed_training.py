"""Training runs that go on where they were killed, as if nothing had been, and those that may not."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_training import data as data  # a fixture
from support.tiny_training import model as model  # a fixture
from support.tiny_training import one_thread as one_thread  # a fixture
from support.tiny_training import train as train  # a fixture
from support.training_data import draw_media
from support.training_runs import Killed, Watch, curve, evaluations, log_of, make_config

from omnicap_cli.errors import UsageError
from omnicap_cli.training.checkpoints import CheckpointError, list_checkpoints
from omnicap_cli.training.data.corpus import Corpus
from omnicap_cli.training.data.record_index import DataError
from omnicap_cli.training.model import ModelPart, part_of
from omnicap_cli.training.run import TrainingRun
from omnicap_cli.training.trainer import CaptionTrainer


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("killed_at", [3, 4, 5])  # 4: just before the checkpoint
def test_a_killed_run_goes_on_as_if_nothing_had_been(model, data, tmp_path_factory, adapter, killed_at) -> None:
    values = {"optimisation__max_steps": 6, "adapter__kind": adapter, "adapter__rank": 4, "adapter__dropout": 0.3}
    values |= {"data__eval": str(data / "held-out.jsonl"), "logging__eval_every_steps": 2, "data__num_workers": 1}
    whole = make_config(tmp_path_factory.mktemp("whole"), model, data, **values)
    TrainingRun(whole).train(Watch())

    def kill(step: int) -> bool:
        if step == killed_at + 1:
            raise Killed
        return False

    config = make_config(tmp_path_factory.mktemp("killed"), model, data, **values)
    with pytest.raises(Killed):
        TrainingRun(config).train(Watch(kill))
    watch = Watch()
    TrainingRun(config).train(watch)
    assert watch.plan.resumed_from == f"checkpoint-{(killed_at - 1) // 2 * 2}"
    assert curve(log_of(config)) == curve(log_of(whole))
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    states = [load_file(list_checkpoints(each.checkpoint.output)[-1] / name) for each in (config, whole)]
    assert all(torch.equal(states[0][each], states[1][each]) for each in states[1])


def test_what_was_seen_is_not_read_again(train, model, data, tmp_path, monkeypatch) -> None:
    train(Watch(lambda step: step == 4), optimisation__max_steps=6, packing__enabled=False)
    read = []
    original = Corpus.record

    def counted(self, sample):
        read.append(sample)
        return original(self, sample)

    monkeypatch.setattr(Corpus, "record", counted)
    config = make_config(tmp_path, model, data, optimisation__max_steps=6, packing__enabled=False)
    run = TrainingRun(config)
    run.train(Watch())
    assert read == [sample for batch in (4, 5) for row in run.plan.rows(batch) for sample in row]


def test_a_finished_run_has_nothing_left_to_do(train) -> None:
    first = train(optimisation__max_steps=2)
    assert train(optimisation__max_steps=2) == first


def test_only_the_newest_checkpoints_stay(train, tmp_path) -> None:
    train(optimisation__max_steps=6, checkpoint__keep=2)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-4", "checkpoint-6"]
    assert not list((tmp_path / "run").glob(".*"))
    assert not list((tmp_path / "run").rglob("training_args.bin"))


def test_another_configuration_is_refused_and_shown(train) -> None:
    train(optimisation__max_steps=2)
    with pytest.raises(UsageError, match=r"optimisation\.learning_rate: 0\.002, was 0\.001"):
        train(optimisation__max_steps=2, optimisation__learning_rate=2e-3)
    train(optimisation__max_steps=2, logging__every_steps=5, data__num_workers=1)  # change nothing


def test_what_is_forced_is_what_is_done(train) -> None:
    """Other rates than those that the optimiser in the checkpoint remembers; cosine: none is left after step 4."""
    values = {"optimisation__warmup_ratio": 0, "optimisation__vision_learning_rate": 5e-4}
    train(optimisation__max_steps=2, **values)
    log = train(optimisation__max_steps=4, optimisation__learning_rate=2e-3, force=True, **values)
    steps = {each["step"]: each for each in log if "loss" in each}
    assert list(steps) == [1, 2, 3, 4]
    for step in (3, 4):
        share = (1 + math.cos(math.pi * (step - 1) / 4)) / 2
        assert steps[step]["learning_rate"] == pytest.approx(2e-3 * share)


@pytest.mark.parametrize(("key", "value"), [("adapter.kind", "lora"), ("model.train_vision", False)])
def test_other_weights_can_not_be_forced_to_go_on(train, tmp_path, key, value) -> None:
    train(optimisation__max_steps=2)
    with pytest.raises(UsageError, match=rf"checkpoint-2 has the state of other weights:\n  {key}: "):
        train(optimisation__max_steps=4, force=True, **{key: value})


def test_a_folder_that_was_moved_goes_on(train, tmp_path) -> None:
    train(Watch(lambda step: step == 2), optimisation__max_steps=4)
    (tmp_path / "run").rename(tmp_path / "moved")
    log = train(optimisation__max_steps=4, checkpoint__output=str(tmp_path / "moved"))
    assert [step for step, *_ in curve(log)] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_that_is_not_whole_is_refused(train, tmp_path, name) -> None:
    train(optimisation__max_steps=2)
    path = tmp_path / "run/checkpoint-2" / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"checkpoint-2 can't be gone on from"):
        train(optimisation__max_steps=4, force=True)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"checkpoint-2 is not whole: it has no {name}"):
        train(optimisation__max_steps=4, force=True)


def test_an_adapter_that_is_broken_is_named(train, tmp_path) -> None:
    values = {"adapter__kind": "lora", "adapter__rank": 4}
    train(optimisation__max_steps=2, **values)
    path = tmp_path / "run/checkpoint-2/adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"checkpoint-2 can't be gone on from"):
        train(optimisation__max_steps=4, force=True, **values)


def test_an_adapter_goes_on_with_its_own_model_only(train, model, tmp_path) -> None:
    base = tmp_path / "base"
    shutil.copytree(model, base)
    values = {"adapter__kind": "lora", "model__name": str(base), "optimisation__max_steps": 2}
    train(**values)
    weights = {name: 1.5 * tensor for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="is an adapter of another model"):
        train(**values)
    train(force=True, **values)


def test_lines_of_the_log_may_become_rarer(train) -> None:
    train(Watch(lambda step: step == 2), optimisation__max_steps=6)
    log = train(optimisation__max_steps=6, logging__every_steps=3)
    assert [step for step, *_ in curve(log)] == [1, 2, 3, 6]


def test_a_last_evaluation_that_was_killed_is_made_up_for(train, data, monkeypatch) -> None:
    values = {"optimisation__max_steps": 2, "data__eval": str(data / "held-out.jsonl")}

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(CaptionTrainer, "_held_out_loss", kill)
        with pytest.raises(Killed):
            train(**values)
    for _ in range(2):
        log = train(**values)
        assert [each["step"] for each in log if "eval_loss" in each] == [2]
        assert [step for step, *_ in curve(log)] == [1, 2]


@pytest.mark.parametrize("ends", ["killed", "stopped"])
def test_an_evaluation_that_did_not_happen_is_made_up_for(train, data, tmp_path, monkeypatch, ends) -> None:
    """After the second of five steps, of which every other is to be followed by one."""
    values = {"optimisation__max_steps": 5, "data__eval": str(data / "held-out.jsonl"), "logging__eval_every_steps": 2}
    whole = train(**values, checkpoint__output=str(tmp_path / "whole"))

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if ends == "killed":
            patch.setattr(CaptionTrainer, "_held_out_loss", kill)
            with pytest.raises(Killed):
                train(**values)
        else:
            train(Watch(lambda step: step == 2), **values)
    log = train(**values)
    assert evaluations(log) == evaluations(whole)
    assert [step for step, _ in evaluations(log)] == [2, 4, 5]
    assert curve(log) == curve(whole)


def test_processes_that_see_other_things_are_refused(train, monkeypatch) -> None:
    """As where a folder isn't shared between machines."""
    monkeypatch.setattr("omnicap_cli.training.run.gather_from_all", lambda seen: [seen, ("checkpoint-7", seen[1])])
    with pytest.raises(UsageError, match="processes see other checkpoints"):
        train()


def test_what_is_wrong_with_data_shows_before_weights_are_loaded(model, data, tmp_path, monkeypatch) -> None:
    def load_model(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("omnicap_cli.training.model.load_model", load_model)
    config = make_config(tmp_path, model, data)
    described = TrainingRun(config).describe()
    numbers = {part.value: 0 for part in ModelPart}
    for name, tensor in load_file(model / "model.safetensors").items():
        numbers[part_of(name).value] += tensor.numel()
    assert described.parameters == {part: (number, number) for part, number in numbers.items()}
    assert described.state_bytes == 16 * sum(numbers.values())
    with pytest.raises(DataError, match=r"more patches than packing\.max_patches 8, as 'r\d+' with \d+"):
        TrainingRun(make_config(tmp_path, model, data, packing__max_patches=8))
    with pytest.raises(DataError, match=r"longer than data\.max_length 60"):
        TrainingRun(make_config(tmp_path, model, data, data__max_length=60))


def test_other_data_under_the_same_name_is_refused(model, data, tmp_path) -> None:
    draw_media(tmp_path)
    lines = (data / "train.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_bytes(b"".join(lines))
    values = {"optimisation__max_steps": 2, "data__train": str(tmp_path / "train.jsonl")}
    TrainingRun(make_config(tmp_path, model, data, **values)).train(Watch())
    shorter, renamed = b"".join(lines[:-1]), b"".join(lines).replace(b'"r1"', b'"R1"')
    for content in (shorter, renamed):  # the second with the same lengths
        (tmp_path / "train.jsonl").write_bytes(content)
        with pytest.raises(UsageError, match="was made with other data"):
            TrainingRun(make_config(tmp_path, model, data, **values))
    (tmp_path / "train.jsonl").write_bytes(b"".join(lines))
    assert TrainingRun(make_config(tmp_path, model, data, **values)).describe().resumed_from == "checkpoint-2"
