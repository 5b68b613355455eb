"""Whole training runs of tiny models on the CPU: what is learnt, in which order, and what stops it."""

from __future__ import annotations

import json
import math
import re
import resource
import signal
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_training import data as data  # a fixture
from support.tiny_training import model as model  # a fixture
from support.tiny_training import one_thread as one_thread  # a fixture
from support.tiny_training import train as train  # a fixture
from support.training_data import corpus_of, count, draw_media, make_data, reader_of, record
from support.training_runs import Watch, curve, log_of, make_config, near, weights
from transformers import AutoModelForImageTextToText

from omnicap_cli.core.files.locks import hold_lock
from omnicap_cli.errors import JournalLockedError, OptionError
from omnicap_cli.training.checkpoints import CheckpointError, list_checkpoints
from omnicap_cli.training.data.collating import collate
from omnicap_cli.training.data.record_index import DataError
from omnicap_cli.training.model import ModelPart, part_of
from omnicap_cli.training.run import TrainingRun
from omnicap_cli.training.trainer import CaptionTrainer, NotFiniteError

# ------------------------------------------------------------------------------------------ what is learnt


def test_the_loss_is_the_mean_of_the_supervised_tokens_of_a_step(train, model, data, tmp_path) -> None:
    """By hand from the plain model, one sample after the other: first training, then held-out."""
    log = train(
        optimisation__gradient_accumulation=100,
        data__eval=str(data / "held-out.jsonl"),
        optimisation__learning_rate=1e-12,
        optimisation__vision_learning_rate=1e-12,
    )
    plain = AutoModelForImageTextToText.from_pretrained(model)
    reader = reader_of(model, data)
    epochs = curve(log)
    assert len(epochs) == 1
    sums = {}
    for name in ("train", "held-out"):
        total, num_tokens = 0.0, 0
        corpus = corpus_of([data / f"{name}.jsonl"], tmp_path / "cache")
        for sample in range(len(corpus)):
            example = reader.read(corpus.record(sample))
            num_items = int((example.labels[1:] >= 0).sum())
            with torch.no_grad():
                total += plain(**collate([[example]], pad_token_id=0), num_items_in_batch=1).loss.item()
            num_tokens += num_items
        sums[name] = total / num_tokens
    assert next(each["eval_loss"] for each in log if "eval_loss" in each) == pytest.approx(sums["held-out"], abs=1e-5)
    assert epochs[0][1] == pytest.approx(sums["train"], abs=1e-5)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_accumulated_steps_equal_large_ones(tiny_model, data, tmp_path_factory, family) -> None:
    """All 24 samples in a step: one at a time, four at a time, and packed."""
    model, curves = tiny_model(family), []
    if family != "qwen2_vl":  # whose counts are those of `data`
        data = make_data(tmp_path_factory.mktemp("data"), model, num_train=24, num_held_out=1)
    for batch_size, accumulation, packing in ((1, 24, False), (4, 6, False), (24, 1, False), (1, 3, True)):
        folder = tmp_path_factory.mktemp("run")
        config = make_config(
            folder,
            model,
            data,
            packing__enabled=packing,
            packing__max_tokens=1500,
            optimisation__batch_size=batch_size,
            optimisation__gradient_accumulation=accumulation,
            optimisation__num_epochs=3,
        )
        run = TrainingRun(config)
        if packing:  # as many packs as are accumulated, or the step would be another
            assert run.plan.num_batches == 3 * accumulation
        run.train(Watch())
        curves.append(curve(log_of(config)))
    for other in curves[1:]:
        assert len(other) == len(curves[0]) == 3
        for (step, loss, norm), (step_, loss_, norm_) in zip(curves[0], other, strict=True):
            assert (step, *near((loss, norm))) == (step_, loss_, norm_)


@pytest.mark.parametrize(("attention", "is_filled_up"), [("sdpa", False), ("eager", True)])
def test_several_packs_at_a_time(train, model, data, tmp_path, attention, is_filled_up) -> None:
    """Where the attention is told lengths, they become one row; else the shorter ones are filled up."""
    values = {
        "model__attn": attention,
        "packing__max_tokens": 1000,
        "optimisation__batch_size": 100,
        "logging__every_steps": 1,
    }
    (tmp_path / "planned").mkdir()
    planned = TrainingRun(make_config(tmp_path / "planned", model, data, **values)).describe().fill
    (found,) = (each["fill"] for each in train(**values) if "fill" in each)
    assert (found < 1) == is_filled_up
    assert found == pytest.approx(planned)


@pytest.mark.parametrize("frozen", ["vision", "merger", "llm"])
def test_frozen_parts_keep_every_bit(train, model, tmp_path, frozen) -> None:
    train(optimisation__max_steps=2, **{f"model__train_{frozen}": False})
    before, after = load_file(model / "model.safetensors"), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {part_of(name) for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == set(ModelPart) - {ModelPart(frozen)}


def test_parts_learn_at_rates_of_their_own(train, model, tmp_path) -> None:
    """AdamW's first step moves each weight by its rate, whatever the gradient, where that isn't nothing."""
    train(
        optimisation__max_steps=1,
        optimisation__warmup_ratio=0,
        optimisation__schedule="constant",
        optimisation__learning_rate=1e-3,
        optimisation__merger_learning_rate=1e-4,
        optimisation__vision_learning_rate=1e-5,
        optimisation__adam_epsilon=1e-12,
        optimisation__max_grad_norm=0,
    )
    before, after = load_file(model / "model.safetensors"), weights(tmp_path / "run")
    for part, rate in ((ModelPart.LLM, 1e-3), (ModelPart.MERGER, 1e-4), (ModelPart.VISION, 1e-5)):
        moved = max((after[name] - before[name]).abs().max().item() for name in after if part_of(name) is part)
        assert moved == pytest.approx(rate, rel=0.02)


def test_every_epoch_has_every_sample_once(train, model, data, tmp_path) -> None:
    config = make_config(tmp_path, model, data, packing__max_tokens=1000, optimisation__num_epochs=3)
    plan = TrainingRun(config).plan
    for epoch in range(3):
        batches = range(plan.epoch_starts[epoch], plan.epoch_starts[epoch + 1])
        seen = [sample for batch in batches for row in plan.rows(batch) for sample in row]
        assert sorted(seen) == list(range(24))


# ------------------------------------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_no_number_stops_with_the_samples(train, tmp_path) -> None:
    with pytest.raises(NotFiniteError, match=r"step [2-4].* r\d+") as raised:
        train(optimisation__learning_rate=1e25, optimisation__max_steps=4, optimisation__max_grad_norm=0)
    assert re.search(r"\br\d+", raised.value.message)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_step_of_nothing_has_no_loss(tiny_model, tmp_path, family) -> None:
    """Of three steps of a picture one finds that it is gone."""
    draw_media(tmp_path)
    model = tiny_model(family)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe on the lake.", image=f"{n}.png") for n in range(3)]
    count(tmp_path, model, records, "train")
    (tmp_path / "0.png").unlink()
    config = make_config(tmp_path, model, tmp_path, data__missing_media="skip", packing__enabled=False)
    TrainingRun(config).train(Watch())
    losses = [(each.get("skipped_samples", 0), each["loss"]) for each in log_of(config) if "loss" in each]
    assert sorted((num_skipped, loss > 0) for num_skipped, loss in losses) == [(0, True), (0, True), (1, False)]
    assert all(math.isfinite(loss) for _, loss in losses)


def test_a_gradient_that_is_no_number_is_never_saved(train, tmp_path, monkeypatch) -> None:
    original = CaptionTrainer.training_step

    def spoiled(self, model, *args):
        loss = original(self, model, *args)
        if self.state.global_step == 1:
            next(each for each in model.parameters() if each.grad is not None).grad[0] = math.nan
        return loss

    monkeypatch.setattr(CaptionTrainer, "training_step", spoiled)
    with pytest.raises(NotFiniteError, match=r"the gradient is not a number in step 2, with the samples r\d+"):
        train(optimisation__max_grad_norm=0, checkpoint__every_steps=1, packing__enabled=False)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-1"]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_a_wrong_place_is_no_missing_picture(train, model, tmp_path) -> None:
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe on the lake.", image=f"{n % 4}.png") for n in range(12)]
    path = count(tmp_path, model, records)
    (tmp_path / "elsewhere").mkdir()
    values = {"data__missing_media": "skip", "packing__enabled": False}
    with pytest.raises(DataError, match="10 of 10 samples so far had to be skipped"):
        train(data__train=str(path), data__image_root=str(tmp_path / "elsewhere"), **values)


def test_held_out_pictures_that_are_gone_make_no_perfect_score(train, model, data, tmp_path) -> None:
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe on the lake.", image=str(tmp_path / "1.png")) for n in (0, 1)]
    path = count(tmp_path, model, records)
    (tmp_path / "1.png").unlink()
    log = train(data__missing_media="skip", data__eval=str(path), optimisation__max_steps=2)
    assert not [each for each in log if "eval_loss" in each]
    assert [each["skipped_samples"] for each in log if "loss" not in each and "captions" not in each] == [2]


def test_missing_pictures_stop_the_run_or_are_counted(train, model, tmp_path) -> None:
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe on the lake.", image=f"{n % 2}.png") for n in range(6)]
    path = count(tmp_path, model, records)
    (tmp_path / "1.png").unlink()
    values = {"data__train": str(path), "data__image_root": str(tmp_path)}
    with pytest.raises(DataError, match=r"r[135]: the picture 1\.png isn't there any more$"):
        train(**values)
    config = make_config(tmp_path, model, tmp_path, data__missing_media="skip", **values)
    assert TrainingRun(config).train(Watch()).num_skipped == 3
    log = log_of(config)
    assert sum(each.get("skipped_samples", 0) for each in log) == 3
    assert math.isfinite(log[-1]["loss"])


def test_stale_counts_stop_the_run(train, data, tmp_path) -> None:
    lines = (data / "train.jsonl").read_text().splitlines()
    changed = json.loads(lines[0]) | {"sequence_length": json.loads(lines[0])["sequence_length"] + 1}
    (tmp_path / "stale.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]))
    with pytest.raises(DataError, match="counted as"):
        train(data__train=str(tmp_path / "stale.jsonl"))


def test_a_full_disk_leaves_the_old_checkpoint(train, tmp_path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill_up(step: int) -> bool:
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        return False

    try:
        with pytest.raises(CheckpointError, match=r"checkpoint-4 can't be saved"):
            train(Watch(fill_up), optimisation__max_steps=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert not list((tmp_path / "run").glob(".*"))
    log = train(optimisation__max_steps=6)
    assert [step for step, *_ in curve(log)] == [1, 2, 3, 4, 5, 6]


def test_two_runs_in_one_folder_are_refused(train, tmp_path) -> None:
    with (
        hold_lock(tmp_path / "run/run.lock", what="it"),
        pytest.raises(JournalLockedError, match="run is being made by"),
    ):
        train(optimisation__max_steps=1)
    assert train(optimisation__max_steps=1)


def test_a_model_of_another_family_is_refused(train, tiny_model) -> None:
    with pytest.raises(OptionError, match=r"model\.name.*llava"):
        train(model__name=str(tiny_model("llava")))


def test_errors_name_keys_and_not_the_options_of_other_commands(model, data, tmp_path, monkeypatch) -> None:
    def message(**values: Any) -> str:
        with pytest.raises(OptionError) as raised:
            TrainingRun(make_config(tmp_path, model, data, **values)).train(Watch())
        assert "--" not in f"{raised.value.message} {raised.value.hint}"
        return raised.value.message

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert message(model__name="nothing here").startswith("model.name: 'nothing here'")
    assert message(model__attn="flash_attention_2").startswith("model.attn: 'flash_attention_2' needs a CUDA GPU")
    assert message(adapter__kind="qlora").startswith("adapter.kind: 'qlora' needs a CUDA GPU")
    (tmp_path / "file").write_text("")
    assert message(checkpoint__output=str(tmp_path / "file")).startswith("checkpoint.output: ")


def test_long_samples_are_refused_dropped_or_cut(train, tmp_path) -> None:
    limits = {"data__max_length": 160, "packing__max_tokens": 160}
    with pytest.raises(DataError, match=r"longer than data\.max_length 160"):
        train(**limits)
    cut, dropped = Watch(), Watch()
    train(cut, data__too_long="truncate", **limits)
    num_too_long = cut.plan.sets[0].num_too_long
    assert 0 < num_too_long < 24
    assert cut.plan.num_samples == 24
    train(dropped, data__too_long="drop", checkpoint__output=str(tmp_path / "other"), **limits)
    assert dropped.plan.num_samples == 24 - num_too_long


def test_samples_that_can_not_be_cut_are_no_missing_media(train, model, tmp_path) -> None:
    """A picture at the end of a long question, in most of the samples."""
    draw_media(tmp_path)
    question = "What is the main object? " * 40
    records = [record(f"r{n}", f"{question}<image>", "A canoe.", image="0.png") for n in range(12)]
    records += [record(f"s{n}", "<image>\nWhat?", "A canoe.", image="0.png") for n in range(3)]
    path = count(tmp_path, model, records)
    values = {"data__train": str(path), "data__image_root": str(tmp_path), "data__too_long": "truncate"}
    shortest = int(corpus_of([path], tmp_path / "cache").lengths.min())
    limits = {"data__max_length": shortest, "packing__max_tokens": shortest}
    report = TrainingRun(make_config(tmp_path, model, tmp_path, **values, **limits)).train(Watch())
    assert (report.num_uncuttable, report.num_skipped) == (12, 0)
