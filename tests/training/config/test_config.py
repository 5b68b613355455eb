"""The configuration of a training run: what is read, and what may change on a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.training_configs import DEFAULTS, SMALLEST, message_of
from support.training_configs import path as path  # a fixture

from omnicap_cli.errors import OptionError
from omnicap_cli.training.config.changes import FREE_ON_RESUME, differences
from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.config.sections import TrainConfig

# -------------------------------------------------------------------------------------------- what is read


def test_the_defaults(path):
    assert TrainConfig.read(path).as_dict() == DEFAULTS


def test_every_key_can_be_set(path):
    """Each to something that isn't its default; and the dictionary, as YAML, is the same configuration."""
    changed: dict[str, dict[str, Any]] = {
        "model": {
            "name": "models/tiny",
            "revision": "0a1b",
            "attn": "eager",
            "dtype": "bfloat16",
            "train_vision": False,
            "train_merger": False,
            "train_llm": False,
            "gradient_checkpointing": True,
            "liger": "off",
        },
        "data": {
            "train": [
                {"path": "a.jsonl", "ratio": 0.5, "name": "first", "type": "image"},
                {"path": "/b.json", "ratio": 3.0, "name": None, "type": None},
            ],
            "mixture": None,
            "eval": [{"path": "c.jsonl", "ratio": 1.0, "name": None, "type": None}],
            "image_root": "pictures",
            "min_pixels": 3136,
            "max_pixels": 5017600,
            "prompts": "prompts.toml",
            "max_length": 4096,
            "too_long": "truncate",
            "missing_media": "skip",
            "num_workers": 0,
            "seed": 4294967295,
        },
        "packing": {"enabled": False, "max_tokens": 4096, "max_patches": 16384, "window": 10000},
        "optimisation": {
            "learning_rate": 0.001,
            "merger_learning_rate": 0.002,
            "vision_learning_rate": 0.003,
            "weight_decay": 0.1,
            "warmup_ratio": 0.0,
            "schedule": "linear",
            "min_learning_rate_ratio": 1.0,
            "num_epochs": 3,
            "max_steps": 70,
            "batch_size": 2,
            "gradient_accumulation": 4,
            "max_grad_norm": 0.0,
            "adam_beta1": 0.0,
            "adam_beta2": 0.95,
            "adam_epsilon": 1e-6,
            "precision": "float32",
            "tf32": False,
            "seed": 1,
        },
        "adapter": {"kind": "lora", "rank": 8, "alpha": 32, "dropout": 0.0, "vision": True},
        "distributed": {"strategy": "deepspeed", "deepspeed_config": None, "zero_stage": 3, "offload": True},
        "checkpoint": {"output": "/out", "every_steps": None, "every_minutes": 0.5, "keep": 3},
        "logging": {
            "every_steps": 1,
            "eval_every_steps": 5,
            "eval_captions": 0,
            "report_to": ["wandb", "tensorboard"],
            "name": "run",
        },
    }
    for section, values in changed.items():
        same = [key for key, value in values.items() if value == DEFAULTS[section][key]]
        assert set(same) <= {"mixture", "deepspeed_config"}
    path.write_text(yaml.safe_dump(changed))
    config = TrainConfig.read(path)
    assert config.as_dict() == changed
    assert json.loads(json.dumps(config.as_dict())) == changed


def test_sets_of_records(path):
    path.write_text(
        "model: {name: org/model}\ncheckpoint: {output: out}\n"
        "data:\n  train: [a.jsonl, {path: b.jsonl, ratio: 2}]\n  eval: held/out.jsonl\n"
    )
    data = TrainConfig.read(path).data
    assert data.train == (DataSet(path=Path("a.jsonl")), DataSet(path=Path("b.jsonl"), ratio=2.0))
    assert data.eval == (DataSet(path=Path("held/out.jsonl"), ratio=1.0),)


def test_a_mixture_becomes_its_sets(path, tmp_path):
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("META:\n- {path: a.jsonl, ratio: 0.5, type: image, odd: 1}\n- {path: b.jsonl}\n")
    path.write_text(f"model: {{name: org/model}}\ndata: {{mixture: {mixture}}}\ncheckpoint: {{output: out}}\n")
    warnings: list[str] = []
    data = TrainConfig.read(path, warn=warnings.append).data
    assert data.train == (DataSet(path=Path("a.jsonl"), ratio=0.5, type="image"), DataSet(path=Path("b.jsonl")))
    assert data.mixture is None
    assert warnings == [f"{mixture}: META[0]: passed over odd"]
    mixture.write_text("META: [{path: a.jsonl, ratio: 0.25}]")  # the same name, and other data
    assert TrainConfig.read(path).data.train == (DataSet(path=Path("a.jsonl"), ratio=0.25),)


def test_a_set_or_a_mixture_but_not_both(path):
    assert "data.mixture: 'm.yaml' can't go with data.train | Keep one" in message_of(path, "data.mixture=m.yaml")
    assert "data.mixture: 'm.yaml' can't be read" in message_of(path, "data.mixture=m.yaml", "data.train=")
    assert "data.train: [] names no set" in message_of(path, "data.train=[]")


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("optimisation.learning_rate=1e-5", "optimisation", "learning_rate", 0.00001),  # a text in YAML 1.1
        ("optimisation.learning_rate=2E6", "optimisation", "learning_rate", 2_000_000.0),
        ("optimisation.learning_rate=1", "optimisation", "learning_rate", 1.0),
        (" optimisation.seed = 5 ", "optimisation", "seed", 5),
        ("model.liger=on", "model", "liger", "on"),  # true in YAML 1.1
        ("model.liger=off", "model", "liger", "off"),
        ("model.liger='on'", "model", "liger", "on"),
        ("model.revision='7'", "model", "revision", "7"),
        ("logging.name=a=b.c", "logging", "name", "a=b.c"),
        ("logging.report_to=[tensorboard, trackio]", "logging", "report_to", ("tensorboard", "trackio")),
        ("logging.report_to=wandb", "logging", "report_to", ("wandb",)),
        ("logging.report_to=", "logging", "report_to", ()),
        ("checkpoint.every_steps=", "checkpoint", "every_steps", None),
        ("packing.enabled=no", "packing", "enabled", False),
        ("packing={enabled: false, max_tokens: 5}", "packing", "max_tokens", 5),
        ("data.train=[{path: b.jsonl, ratio: 2}]", "data", "train", (DataSet(path=Path("b.jsonl"), ratio=2.0),)),
    ],
)
def test_overrides(path, override, section, key, expected):
    value = getattr(getattr(TrainConfig.read(path, [override]), section), key)
    assert value == expected
    assert type(value) is type(expected)


def test_overrides_win_and_the_last_one_does(path):
    path.write_text(SMALLEST + "optimisation: {num_epochs: 2, batch_size: 3}\n")
    optimisation = TrainConfig.read(path, ["optimisation.num_epochs=5", "optimisation.num_epochs=4"]).optimisation
    assert (optimisation.num_epochs, optimisation.batch_size) == (4, 3)


def test_sections_that_share_an_anchor_are_overridden_one_by_one(path):
    path.write_text(SMALLEST + "packing: &none {}\nadapter: *none\n")
    config = TrainConfig.read(path, ["packing.max_tokens=9000", "adapter.rank=8"])
    assert (config.packing.max_tokens, config.adapter.rank) == (9000, 8)


def test_an_empty_section_is_its_defaults(path):
    path.write_text(SMALLEST + "packing:\n  # max_tokens: 4096\nlogging: {}\n")
    assert TrainConfig.read(path).as_dict() == DEFAULTS
    assert TrainConfig.read(path, ["packing.max_tokens=9000"]).packing.max_tokens == 9000


def test_merge_keys_of_yaml(path):
    path.write_text(
        SMALLEST.replace(
            "{train: a.jsonl}", "\n  train:\n  - &a {path: a.jsonl, ratio: 2}\n  - {<<: *a, path: b.jsonl}"
        )
    )
    assert [(each.path.name, each.ratio) for each in TrainConfig.read(path).data.train] == [
        ("a.jsonl", 2.0),
        ("b.jsonl", 2.0),
    ]


def test_the_home_folder(path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = TrainConfig.read(path, ["checkpoint.output='~/run'", "data.train='~/a.jsonl'"])
    assert config.checkpoint.output == Path("/home/somebody/run")
    assert config.data.train[0].path == Path("/home/somebody/a.jsonl")


# ------------------------------------------------------------------------------------------- what is there


def test_the_files_that_are_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        "data.train=[a.jsonl, b.jsonl]",
        "data.eval=c.jsonl",
        "data.image_root=pictures",
        "data.prompts=p.toml",
        "distributed.strategy=deepspeed",
        "distributed.deepspeed_config=zero.json",
    ]
    config = TrainConfig.read(path, overrides)
    for key, name in [
        ("data.train", "a.jsonl"),
        ("data.train", "b.jsonl"),
        ("data.eval", "c.jsonl"),
        ("data.image_root", "pictures"),
        ("data.prompts", "p.toml"),
        ("distributed.deepspeed_config", "zero.json"),
    ]:
        with pytest.raises(OptionError, match=f"^{key}: '{name}' is not there$"):
            config.check_files()
        (tmp_path / name).touch()
    config.check_files()


# -------------------------------------------------------------------------------------------- differences


def test_no_differences(path):
    values = TrainConfig.read(path).as_dict()
    assert differences(json.loads(json.dumps(values)), values) == []


def test_differences(path):
    old = TrainConfig.read(path, ["optimisation.learning_rate=2e-5", "data.train=[a.jsonl, b.jsonl]"]).as_dict()
    new = TrainConfig.read(
        path, ["data.train=[{path: a.jsonl, ratio: 2}]", "model.revision=图", "data.eval=c"]
    ).as_dict()
    assert differences(old, new) == [
        'model.revision: "图", was null',
        "data.train[0].ratio: 2.0, was 1.0",
        'data.eval[0].path: "c", was not there',
        "data.eval[0].ratio: 1.0, was not there",
        "data.eval[0].name: null, was not there",
        "data.eval[0].type: null, was not there",
        "optimisation.learning_rate: 1e-05, was 2e-05",
        'data.train[1].path: not there, was "b.jsonl"',
        "data.train[1].ratio: not there, was 1.0",
        "data.train[1].name: not there, was null",
        "data.train[1].type: not there, was null",
    ]


def test_what_may_change_on_a_resume(path):
    free = [
        "checkpoint.keep=7",
        "checkpoint.every_steps=",
        "checkpoint.every_minutes=5",
        "data.num_workers=0",
        "logging={every_steps: 1, eval_captions: 0, report_to: [wandb, trackio], name: x}",
        "distributed.offload=true",
        "checkpoint.output=other",
    ]
    old = TrainConfig.read(path).as_dict()
    assert differences(old, TrainConfig.read(path, free).as_dict()) == []
    assert differences(old, TrainConfig.read(path, ["distributed.strategy=fsdp"]).as_dict()) == [
        'distributed.strategy: "fsdp", was "auto"'
    ]


@pytest.mark.parametrize("free", ["adapter.kind=lora", "distributed.strategy=deepspeed", "model.dtype=float32"])
def test_weights_that_learn_are_not_coarse(path, free):
    """Of a weight of 0.02 the next larger number in bfloat16 is 0.4 percent more: steps of 1e-5 are lost."""
    assert "model.dtype" in message_of(path, "model.dtype=bfloat16")
    TrainConfig.read(path, ["model.dtype=bfloat16", free])


def test_every_free_key_is_one():
    known = {f"{section}.{key}" for section, values in DEFAULTS.items() for key in values}
    assert not FREE_ON_RESUME - known - {f"{section}.*" for section in DEFAULTS}


def test_nothing_heavy_is_loaded():
    code = (
        "import sys, omnicap_cli.training.config.sections, omnicap_cli.training.config.changes\n"
        "print({'numpy', 'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"set()\n"
