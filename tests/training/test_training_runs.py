"""Whole training runs of tiny models on the CPU: what is learnt, in which order, and what happens if it goes wrong."""

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
from support.tiny_models import tiny_model  # noqa: F401  a fixture
from support.training_data import corpus_of, count, draw_media, many, reader_of, record
from support.training_runs import Killed, Watch, curve, log_of, make_config, near, weights
from transformers import AutoModelForImageTextToText

from omnicap_cli.errors import JournalLockedError, OptionError, UsageError
from omnicap_cli.tokenizing.locks import locked
from omnicap_cli.training.batches import collate
from omnicap_cli.training.checkpoints import CheckpointError, found
from omnicap_cli.training.corpus import Corpus
from omnicap_cli.training.model import Part, part_of
from omnicap_cli.training.records import DataError
from omnicap_cli.training.run import Run
from omnicap_cli.training.trainer import NotFiniteError


@pytest.fixture(autouse=True)
def _one_thread():
    """Several wait for each other longer than such small models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tiny_model):  # noqa: F811
    return tiny_model("qwen2_vl")


@pytest.fixture(scope="module")
def data(model, tmp_path_factory):
    """24 samples of very unequal lengths, some of text alone, and 6 held-out ones."""
    folder = tmp_path_factory.mktemp("data")
    draw_media(folder)
    count(folder, model, many(24), "train")
    count(folder, model, many(6, seed=2), "held-out")
    return folder


@pytest.fixture
def train(model, data, tmp_path):
    """Trains with values in place of those below, and gives the log."""

    def run(watch: Watch | None = None, *, force: bool = False, **values: Any) -> list[dict[str, Any]]:
        config = make_config(tmp_path, model, data, **values)
        Run(config, force=force).train(watch or Watch())
        return log_of(config)

    return run


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


def test_accumulated_steps_equal_large_ones(train, model, data, tmp_path_factory) -> None:
    """All 24 samples in a step: one at a time, four at a time, and packed."""
    curves = []
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
        run = Run(config)
        if packing:  # as many packs as are accumulated, or the step would be another
            assert run.plan.num_batches == 3 * accumulation
        run.train(Watch())
        curves.append(curve(log_of(config)))
    for other in curves[1:]:
        assert len(other) == len(curves[0]) == 3
        for (step, loss, norm), (step_, loss_, norm_) in zip(curves[0], other, strict=True):
            assert (step, *near((loss, norm))) == (step_, loss_, norm_)


@pytest.mark.parametrize("frozen", ["vision", "merger", "llm"])
def test_frozen_parts_keep_every_bit(train, model, tmp_path, frozen) -> None:
    train(optimisation__max_steps=2, **{f"model__train_{frozen}": False})
    before, after = load_file(model / "model.safetensors"), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {part_of(name) for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == set(Part) - {Part(frozen)}


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
    for part, rate in ((Part.LLM, 1e-3), (Part.MERGER, 1e-4), (Part.VISION, 1e-5)):
        moved = max((after[name] - before[name]).abs().max().item() for name in after if part_of(name) is part)
        assert moved == pytest.approx(rate, rel=0.02)


def test_every_epoch_has_every_sample_once(train, model, data, tmp_path) -> None:
    config = make_config(tmp_path, model, data, packing__max_tokens=1000, optimisation__num_epochs=3)
    plan = Run(config).plan
    for epoch in range(3):
        batches = range(plan.epoch_starts[epoch], plan.epoch_starts[epoch + 1])
        seen = [sample for batch in batches for row in plan.rows(batch) for sample in row]
        assert sorted(seen) == list(range(24))


# ------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("killed_at", [3, 4, 5])  # 4: just before the checkpoint
def test_a_killed_run_goes_on_as_if_nothing_had_been(model, data, tmp_path_factory, adapter, killed_at) -> None:
    values = {"optimisation__max_steps": 6, "adapter__kind": adapter, "adapter__rank": 4, "adapter__dropout": 0.3}
    whole = make_config(tmp_path_factory.mktemp("whole"), model, data, **values)
    Run(whole).train(Watch())

    def kill(step: int) -> bool:
        if step == killed_at + 1:
            raise Killed
        return False

    config = make_config(tmp_path_factory.mktemp("killed"), model, data, **values)
    with pytest.raises(Killed):
        Run(config).train(Watch(kill))
    watch = Watch()
    Run(config).train(watch)
    assert watch.plan.resumed_from == f"checkpoint-{(killed_at - 1) // 2 * 2}"
    assert curve(log_of(config)) == curve(log_of(whole))
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    states = [load_file(found(each.checkpoint.output)[-1] / name) for each in (config, whole)]
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
    run = Run(config)
    run.train(Watch())
    assert read == [sample for batch in (4, 5) for row in run.plan.rows(batch) for sample in row]


def test_a_finished_run_has_nothing_left_to_do(train) -> None:
    first = train(optimisation__max_steps=2)
    assert train(optimisation__max_steps=2) == first


def test_only_the_newest_checkpoints_stay(train, tmp_path) -> None:
    train(optimisation__max_steps=6, checkpoint__keep=2)
    assert [path.name for path in found(tmp_path / "run")] == ["checkpoint-4", "checkpoint-6"]
    assert not list((tmp_path / "run").glob(".*"))
    assert not list((tmp_path / "run").rglob("training_args.bin"))


def test_another_configuration_is_refused_and_shown(train) -> None:
    train(optimisation__max_steps=2)
    with pytest.raises(UsageError, match=r"optimisation\.learning_rate: 0\.002, was 0\.001"):
        train(optimisation__max_steps=2, optimisation__learning_rate=2e-3)
    train(optimisation__max_steps=2, logging__every_steps=5, data__num_workers=1)  # change nothing
    log = train(optimisation__max_steps=4, optimisation__learning_rate=2e-3, force=True)
    assert [step for step, *_ in curve(log)] == [1, 2, 3, 4]


def test_other_data_under_the_same_name_is_refused(model, data, tmp_path) -> None:
    draw_media(tmp_path)
    lines = (data / "train.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_bytes(b"".join(lines))
    values = {"optimisation__max_steps": 2, "data__train": str(tmp_path / "train.jsonl")}
    Run(make_config(tmp_path, model, data, **values)).train(Watch())
    (tmp_path / "train.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UsageError, match="data"):
        Run(make_config(tmp_path, model, data, **values))


# ------------------------------------------------------------------------------------------ what goes wrong


def test_a_loss_that_is_no_number_stops_with_the_samples(train, tmp_path) -> None:
    with pytest.raises(NotFiniteError, match=r"step [2-4].* r\d+") as raised:
        train(optimisation__learning_rate=1e25, optimisation__max_steps=4, optimisation__max_grad_norm=0)
    assert re.search(r"\br\d+", raised.value.message)


def test_missing_pictures_stop_the_run_or_are_counted(train, model, tmp_path) -> None:
    draw_media(tmp_path)
    records = [record(f"r{n}", "<image>\nWhat?", "A canoe on the lake.", image=f"{n % 2}.png") for n in range(6)]
    path = count(tmp_path, model, records)
    (tmp_path / "1.png").unlink()
    values = {"data__train": str(path), "data__image_root": str(tmp_path)}
    with pytest.raises(DataError, match=r"r[135]: the picture 1\.png isn't there any more$"):
        train(**values)
    log = train(data__missing_media="skip", **values)
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
    assert [path.name for path in found(tmp_path / "run")] == ["checkpoint-2"]
    assert not list((tmp_path / "run").glob(".*"))
    log = train(optimisation__max_steps=6)
    assert [step for step, *_ in curve(log)] == [1, 2, 3, 4, 5, 6]


def test_two_runs_in_one_folder_are_refused(train, tmp_path) -> None:
    with locked(tmp_path / "run/run.lock", what="it"), pytest.raises(JournalLockedError, match="run is being made by"):
        train(optimisation__max_steps=1)
    assert train(optimisation__max_steps=1)


def test_a_model_of_another_family_is_refused(train, tiny_model) -> None:  # noqa: F811
    with pytest.raises(OptionError, match=r"model\.name.*llava"):
        train(model__name=str(tiny_model("llava")))


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
