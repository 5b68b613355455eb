"""Configurations that are refused: unknown and missing keys, wrong values, broken files; and how that is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.training_configs import DEFAULTS, SMALLEST, message_of
from support.training_configs import path as path  # a fixture

from omnicap_cli.errors import OptionError
from omnicap_cli.training.config import sections as config_module
from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.config.sections import CheckpointConfig, DataConfig, ModelConfig, TrainConfig

# ----------------------------------------------------------------------------------------- unknown, missing


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimisation.lerning_rate=1", "there is no key optimisation.lerning_rate | Did you mean optimisation.learn"),
        ("model.learning_rate=1", "there is no key model.learning_rate | learning_rate is in optimisation."),
        ("learning_rate=1", "there is no key learning_rate | learning_rate is in optimisation."),
        ("model.every_steps=1", "there is no key model.every_steps | every_steps is in checkpoint and logging."),
        ("model.max_token=1", "there is no key model.max_token | Did you mean packing.max_tokens?"),
        ("optimization.seed=1", "there is no key optimization | Did you mean optimisation?"),
        ("packing.xyzzy=1", "there is no key packing.xyzzy | Known here are enabled, max_tokens, max_patches, window."),
        ("data.train.path=a", "there is no key data.train.path | Known here are"),
        ("data.train=[{path: a, ration: 2}]", "no key data.train[0].ration | Did you mean data.train[0].ratio?"),
        ("data.train=[a, {path: b, 7: 2}]", "there is no key data.train[1].7 | Known here are path, ratio"),
        ("data.null=1", "there is no key data.null | "),
    ],
)
def test_unknown_keys(path, override, message):
    assert message in message_of(path, override)


def test_a_key_with_dots_in_the_file(path):
    path.write_text(SMALLEST + "optimisation.learning_rate: 1e-4\n")
    assert "no key optimisation.learning_rate | learning_rate is in optimisation." in message_of(path)


def test_what_is_missing_is_said_at_once(path):
    path.write_text("optimisation: {num_epochs: 1}\n")
    assert "lacks model.name, data.train or data.mixture and checkpoint.output" in message_of(path)
    message = message_of(path, "model.name=", "checkpoint.output=out")
    assert "lacks model.name and data.train or data.mixture |" in message
    assert "data.train[1].path is missing" in message_of(path, *SET_ALL, "data.train=[a, {ratio: 2}]")


SET_ALL = ("model.name=m", "checkpoint.output=out", "data.train=a.jsonl")


def test_overrides_give_what_is_missing(path):
    path.write_text("{}\n")
    assert TrainConfig.read(path, SET_ALL).model.name == "m"


def test_what_a_section_needs_is_in_the_list_of_what_is_required():
    """Else the error would come later, and alone."""
    needed = {
        (f"{name}.{each.name}",)
        for name, section in config_module.TrainConfig.__annotations__.items()
        for each in dataclasses.fields(getattr(config_module, section))
        if each.default is each.default_factory is dataclasses.MISSING
    }
    assert needed == {("model.name",), ("checkpoint.output",)}
    assert needed | {("data.train", "data.mixture")} == set(config_module._REQUIRED)


# ------------------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimisation.learning_rate=fast", "optimisation.learning_rate: 'fast' is no number"),
        ("optimisation.learning_rate=true", "optimisation.learning_rate: True is no number"),
        ("optimisation.learning_rate=.inf", "optimisation.learning_rate: inf is no number"),
        ("optimisation.learning_rate=nan", "optimisation.learning_rate: 'nan' is no number"),
        ("optimisation.learning_rate=", "optimisation.learning_rate: None is no number"),
        ("optimisation.learning_rate=[1]", "optimisation.learning_rate: [1] is no number"),
        (f"optimisation.learning_rate=1{'0' * 400}", "is no number"),
        ("optimisation.learning_rate=0", "optimisation.learning_rate: 0.0 is too small; give more than 0"),
        ("optimisation.merger_learning_rate=-1", "optimisation.merger_learning_rate: -1.0 is too small"),
        ("optimisation.vision_learning_rate=0", "optimisation.vision_learning_rate: 0.0 is too small"),
        ("optimisation.adam_epsilon=0", "optimisation.adam_epsilon: 0.0 is too small"),
        ("optimisation.adam_beta1=1", "optimisation.adam_beta1: 1.0 is out of range"),
        ("optimisation.adam_beta2=-0.1", "optimisation.adam_beta2: -0.1 is out of range"),
        ("optimisation.weight_decay=-0.1", "optimisation.weight_decay: -0.1 is too small; give 0 or more"),
        ("optimisation.max_grad_norm=-1", "optimisation.max_grad_norm: -1.0 is too small"),
        ("optimisation.warmup_ratio=3", "optimisation.warmup_ratio: 3.0 is no share; give 0 to 1"),
        ("optimisation.min_learning_rate_ratio=-1", "optimisation.min_learning_rate_ratio: -1.0 is no share"),
        ("optimisation.num_epochs=0", "optimisation.num_epochs: 0 is too small; give 1 or more"),
        ("optimisation.num_epochs=1.5", "optimisation.num_epochs: 1.5 is no whole number"),
        ("optimisation.num_epochs=true", "optimisation.num_epochs: True is no whole number"),
        ("optimisation.max_steps='7'", "optimisation.max_steps: '7' is no whole number"),
        ("optimisation.max_steps=0", "optimisation.max_steps: 0 is out of range; give 1 to"),
        ("optimisation.batch_size=0", "optimisation.batch_size: 0 is too small"),
        ("optimisation.gradient_accumulation=0", "optimisation.gradient_accumulation: 0 is too small"),
        ("optimisation.schedule=cosin", "'cosin' is not possible; choose from cosine, linear, constant | Did you mean"),
        ("optimisation.precision=fp16", "optimisation.precision: 'fp16' is not possible; choose from auto, float32"),
        ("optimisation.seed=-1", "optimisation.seed: -1 is no seed"),
        ("optimisation.seed=4294967296", "optimisation.seed: 4294967296 is no seed"),
        ("optimisation.tf32=1", "optimisation.tf32: 1 is neither true nor false"),
        ("model.train_llm=maybe", "model.train_llm: 'maybe' is neither true nor false"),
        ("model.name=7", "model.name: 7 is no text; if it is meant as one, put it in quotes"),
        ("model.name=' '", "model.name: ' ' is empty"),
        ("model.attn=flash", "model.attn: 'flash' is not possible; choose from auto, sdpa, flash_attention_2, eager"),
        ("model.attn=on", "model.attn: True is not possible"),
        ("model.dtype=", "model.dtype: None is not possible; choose from auto, float32, bfloat16"),
        ("model.liger=[on]", "model.liger: [True] is not possible"),
        ("model=org/model", "model: 'org/model' is not what stands here; write keys with values below it"),
        ("data.min_pixels=0", "data.min_pixels: 0 is too small"),
        ("data.max_pixels=0", "data.max_pixels: 0 is too small"),
        ("data.max_length=0", "data.max_length: 0 is too small"),
        ("data.num_workers=-1", "data.num_workers: -1 is too small; give 0 or more"),
        ("data.seed=-1", "data.seed: -1 is no seed"),
        ("data.too_long=cut", "data.too_long: 'cut' is not possible; choose from refuse, drop, truncate"),
        ("data.missing_media=ignore", "data.missing_media: 'ignore' is not possible"),
        ("data.train={path: a.jsonl, ratio: no}", "data.train[0].ratio: False is no number"),
        ("data.train=[[a.jsonl]]", "data.train[0]: ['a.jsonl'] is not what stands here"),
        ("data.train=[a.jsonl, b.jsonl, a.jsonl]", "data.train: 'a.jsonl' is there twice | Add up the ratios"),
        ("data.eval=[{path: a, name: x}, {path: b, name: x}]", "data.eval: 'x' is there twice"),
        ("packing.max_tokens=0", "packing.max_tokens: 0 is out of range; give 1 to 1,048,576"),
        ("packing.max_patches=0", "packing.max_patches: 0 is too small"),
        ("packing.window=0", "packing.window: 0 is too small"),
        ("packing.max_tokens=6999", "packing.max_tokens: 6999 is less than data.max_length 7000"),
        ("adapter.kind=dora", "adapter.kind: 'dora' is not possible; choose from none, lora, qlora"),
        ("adapter.rank=0", "adapter.rank: 0 is too small"),
        ("adapter.alpha=0", "adapter.alpha: 0 is too small"),
        ("adapter.dropout=1", "adapter.dropout: 1.0 is out of range"),
        ("distributed.strategy=zero", "distributed.strategy: 'zero' is not possible"),
        ("distributed.zero_stage=2", "distributed.zero_stage: 2 needs strategy: deepspeed"),
        ("distributed.deepspeed_config=a.json", "distributed.deepspeed_config: 'a.json' needs strategy: deepspeed"),
        ("distributed={strategy: deepspeed, zero_stage: 4}", "distributed.zero_stage: 4 is no stage of ZeRO"),
        ("distributed={strategy: deepspeed, zero_stage: 2, deepspeed_config: a}", "2 can't go with deepspeed_config"),
        ("distributed={strategy: deepspeed, offload: true, deepspeed_config: a}", "True can't go with deepspeed_confi"),
        ("distributed={strategy: ddp, offload: true}", "distributed.offload: True can't go with strategy: ddp"),
        ("checkpoint.every_steps=0", "checkpoint.every_steps: 0 is too small"),
        ("checkpoint.every_minutes=0", "checkpoint.every_minutes: 0.0 is too small; give more than 0"),
        ("checkpoint.keep=0", "checkpoint.keep: 0 is too small"),
        ("checkpoint.output=[a]", "checkpoint.output: ['a'] is no text"),
        ("logging.every_steps=0", "logging.every_steps: 0 is too small"),
        ("logging.eval_captions=-1", "logging.eval_captions: -1 is too small"),
        ("logging.eval_every_steps=5", "logging.eval_every_steps: 5 needs data.eval"),
        ("logging={eval_every_steps: 0}", "logging.eval_every_steps: 0 is too small"),
        (
            "logging.report_to=[wandb, mlflow]",
            "logging.report_to[1]: 'mlflow' is not possible; choose from tensorboard",
        ),
        ("logging.report_to=[[wandb]]", "logging.report_to[0]: ['wandb'] is not possible"),
        ("logging.name=2026-01-01", "logging.name: datetime.date(2026, 1, 1) is no text"),
    ],
)
def test_wrong_values(path, override, message):
    assert message in message_of(path, override)


def test_values_that_do_not_go_together(path):
    assert "data.min_pixels: 9 is more than data.max_pixels 8" in message_of(
        path, "data.min_pixels=9", "data.max_pixels=8"
    )
    frozen = [f"model.train_{part}=false" for part in ("vision", "merger", "llm")]
    assert "nothing is trained" in message_of(path, *frozen)
    for kind in ("lora", "qlora"):
        assert TrainConfig.read(path, [*frozen, f"adapter.kind={kind}"]).adapter.kind == kind
    for part in range(3):
        assert TrainConfig.read(path, frozen[:part] + frozen[part + 1 :]).model.trains_a_part


def test_values_at_the_limit(path):
    config = TrainConfig.read(path, ["packing.max_tokens=7000", "data.min_pixels=8", "data.max_pixels=8"])
    assert config.packing.max_tokens == 7000
    assert TrainConfig.read(path, ["packing.enabled=false", "packing.max_tokens=1"]).packing.max_tokens == 1
    assert TrainConfig.read(path, ["logging.eval_every_steps=5", "data.eval=b.jsonl"]).logging.eval_every_steps == 5


def test_the_classes_check_without_a_file():
    """For those who make a configuration in Python."""
    parts = {"model": ModelConfig(name="m"), "checkpoint": CheckpointConfig(output=Path("out"))}
    data = DataConfig(train=(DataSet(path=Path("a.jsonl")),))
    assert TrainConfig(data=data, **parts).packing.max_tokens == 8192
    with pytest.raises(OptionError, match=r"packing\.max_tokens: 8192 is less than data\.max_length 9000"):
        TrainConfig(data=dataclasses.replace(data, max_length=9000), **parts)
    with pytest.raises(OptionError, match=r"model\.attn: 'x' is not possible"):
        ModelConfig(name="m", attn="x")


# ------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model:\n  name: a\n  name: b\n", "train.yaml, line 3: name is there twice"),
        (b"model: {}\ndata: {}\n'model': {}\n", "train.yaml, line 3: model is there twice"),
        (b"model:\n  name: [a\ndata: {}\n", "train.yaml, line 3: "),
        (b"model:\n\tname: a\n", "train.yaml, line 2: found character"),
        (b"model: *nothing\n", "train.yaml, line 1: found undefined alias"),
        (b"model: !!python/object/apply:os.getcwd []\n", "train.yaml, line 1: could not determine a constructor"),
        (b"{[1]: 2}\n", "train.yaml, line 1: found unhashable key"),
        (b"", "holds no keys"),
        (b"- model\n", "holds no keys"),
        (b"just text\n", "holds no keys"),
        (b"a: 1\n---\nb: 2\n", "train.yaml, line 2: but found another document"),
        (b"model: \xff\n", "train.yaml: can't be understood"),
        (b"model: \x00\n", "train.yaml: can't be understood"),
        (b"checkpoint:\n  every_minutes: 12:30\n", "train.yaml, line 2: 12:30 is no number"),
        (b"checkpoint:\n  every_minutes: 12:30:01.5\n", "train.yaml, line 2: 12:30:01.5 is no number"),
        (b'model: !!timestamp "x"\n', "train.yaml: can't be understood"),
        (b"model: 2026-13-45\n", "train.yaml: can't be understood: month must be in 1..12"),
        (b"[" * 5000, "train.yaml: can't be understood"),
        (b"model: &a [*a]\n", "is not what stands here"),
    ],
)
def test_broken_files(path, content, message):
    path.write_bytes(content)
    assert message in message_of(path)


def test_files_that_cannot_be_read(tmp_path):
    assert "--config: " in message_of(tmp_path / "no.yaml")
    assert "No such file" in message_of(tmp_path / "no.yaml")
    assert "Is a directory" in message_of(tmp_path)


def test_files_as_editors_write_them(path):
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert TrainConfig.read(path).as_dict() == DEFAULTS


@pytest.mark.parametrize("override", ["optimisation.seed", "", "=5", ".seed=5"])
def test_overrides_that_set_nothing(path, override):
    assert f"--set: {override!r} sets nothing; write section.key=value" in message_of(path, override)


def test_a_name_that_no_folder_can_have(path):
    with pytest.raises(OptionError, match=r"checkpoint\.output: .* can't be made: embedded null byte"):
        TrainConfig.read(path, ['checkpoint.output="a\\0b"', f"data.train={path}"]).check_files()


@pytest.mark.parametrize("value", ["[1", "{a: 1, a: 2}", "2026-13-45", "caf\udce9", '!!timestamp "x"'])
def test_overrides_that_are_no_yaml(path, value):
    assert f"--set: {f'data.train={value}'!r} has a value that can't be understood" in message_of(
        path, f"data.train={value}"
    )
