"""Checkpoints made into models: the logits of the adapter, everything beside the weights, and nothing half done."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.training_data import count, draw_media, many
from transformers import AutoModelForImageTextToText, AutoProcessor

from omnicap_cli.core.models.devices import Placement
from omnicap_cli.core.models.loading import load_for_generation, load_processor
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import EngineError, OmnicapError, OptionError
from omnicap_cli.training.checkpoints import CheckpointError, make_note
from omnicap_cli.training.config.sections import AdapterConfig
from omnicap_cli.training.export.adapter import BaseModel, merge_adapter
from omnicap_cli.training.export.model_folder import ModelExportConfig, export_checkpoint
from omnicap_cli.training.model import with_adapter

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
ADAPTER = AdapterConfig(kind="lora", rank=4, alpha=6, vision=True)
SCALE = 1.5  # alpha / rank
COMPLETE = {
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"),
}
PATIENCE_SECONDS = 120


def export(checkpoint: Path, output: Path, **values: Any) -> tuple[Any, list[str]]:
    warnings: list[str] = []
    config = ModelExportConfig(checkpoint=checkpoint, output=output, **values)
    return export_checkpoint(config, warnings.append), warnings


def loaded(folder: Path) -> Any:
    """By transformers alone."""
    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def note(base: Path, **model: Any) -> str:
    config = {"model": {"name": str(base), "revision": None} | model}
    return json.dumps(make_note(config, fingerprint=ModelFiles.find(str(base)).fingerprint))


def write_adapter(base: Path, folder: Path, config: AdapterConfig = ADAPTER) -> Any:
    """A checkpoint as training leaves it, in which no matrix is zero; and the model with the adapter around it."""
    adapted = with_adapter(AutoModelForImageTextToText.from_pretrained(base, dtype="auto"), config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.normal_(0.0, 0.1, generator=generator)
    adapted.save_pretrained(folder)
    load_processor(base).save_pretrained(folder)
    (folder / "omnicap.json").write_text(note(base))
    (folder / "optimizer.pt").write_bytes(b"nobody opens this")
    return adapted


def calmed(model: Path, folder: Path) -> Path:
    """A model with weights half as large, in which a signal doesn't grow.

    In the other, float32 itself is up to 2.6e-5 away from float64, with the adapter as well as without.
    """
    calm = AutoModelForImageTextToText.from_pretrained(model, dtype="auto")
    with torch.no_grad():
        for weights in calm.parameters():
            if weights.ndim > 1:
                weights.mul_(0.5)
    calm.save_pretrained(folder)
    load_processor(model).save_pretrained(folder)
    return folder


def write_full(base: Path, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint with weights of its own."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=dtype)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.25)
    model.save_pretrained(folder)
    load_processor(base).save_pretrained(folder)
    (folder / "omnicap.json").write_text(note(base))
    (folder / "optimizer.pt").write_bytes(b"nobody opens this")
    return folder


@torch.no_grad()
def logits(model: Any, folder: Path) -> torch.Tensor:
    """What a model says after a picture and a question, prepared by transformers from `folder` alone."""
    processor = AutoProcessor.from_pretrained(folder)
    image = Image.radial_gradient("L").resize((90, 60)).convert("RGB")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    return model(**processor(text=[text], images=[image], return_tensors="pt")).logits


@pytest.fixture
def base(tiny_model):
    return tiny_model("qwen2_vl")


@pytest.fixture
def adapter(base, tmp_path):
    """A checkpoint of an adapter."""
    write_adapter(base, tmp_path / "checkpoint-3")
    return tmp_path / "checkpoint-3"


@pytest.mark.parametrize("vision", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_logits_are_those_with_the_adapter(tiny_model, tmp_path, family, vision):
    base, checkpoint = calmed(tiny_model(family), tmp_path / "base"), tmp_path / "checkpoint-3"
    config = AdapterConfig(kind="lora", rank=4, alpha=6, vision=vision)
    expected = logits(write_adapter(base, checkpoint, config), base)
    report, warnings = export(checkpoint, tmp_path / "out")
    assert not warnings
    assert (report.base, report.dtype, report.num_weight_files) == (str(base), "float32", 1)
    found = logits(loaded(tmp_path / "out"), tmp_path / "out")
    assert (found - expected).abs().max() < 1e-5
    assert (logits(loaded(base), base) - expected).abs().max() > 0.1
    assert {path.name for path in (tmp_path / "out").iterdir()} == COMPLETE
    assert report.num_bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out/model.safetensors").stat().st_mode == (tmp_path / "out/config.json").stat().st_mode


def test_weights_in_bfloat16_are_rounded_once(base, tmp_path):
    half = tmp_path / "half"
    AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    load_processor(base).save_pretrained(half)
    write_adapter(half, tmp_path / "checkpoint-3")
    report, _ = export(tmp_path / "checkpoint-3", tmp_path / "out")
    assert report.dtype == "bfloat16"
    before, found = load_file(half / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    matrices = load_file(tmp_path / "checkpoint-3/adapter_model.safetensors")
    adapted = "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_{}.weight"
    change = SCALE * matrices[adapted.format("B")] @ matrices[adapted.format("A")]
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(found[name], (before[name].float() + change).bfloat16())
    assert not torch.equal(found[name], before[name] + change.bfloat16())
    untouched = "model.embed_tokens.weight"
    assert torch.equal(found[untouched], before[untouched])


def test_a_base_in_float32_is_merged_before_it_becomes_bfloat16(base, adapter, tmp_path):
    assert export(adapter, tmp_path / "exact")[0].dtype == "float32"
    report, _ = export(adapter, tmp_path / "half", dtype="bfloat16")
    assert report.dtype == "bfloat16"
    exact, half = load_file(tmp_path / "exact/model.safetensors"), load_file(tmp_path / "half/model.safetensors")
    assert all(torch.equal(half[name], weights.bfloat16()) for name, weights in exact.items())
    assert half.keys() == exact.keys()
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    assert loaded(tmp_path / "half").dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_were_trained_stay_as_they_are(base, tmp_path, dtype):
    checkpoint = write_full(base, tmp_path / "run/checkpoint-12", dtype)
    write_full(base, tmp_path / "run/checkpoint-9", torch.float16)
    report, _ = export(tmp_path / "run", tmp_path / "out")
    assert (report.checkpoint, report.base) == (str(checkpoint), None)
    expected, found = load_file(checkpoint / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == dtype and torch.equal(found[name], expected[name]) for name in expected)
    assert {path.name for path in (tmp_path / "out").iterdir()} == COMPLETE
    assert (
        json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"]
        == json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    )
    assert "local_files_only" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())


@pytest.mark.parametrize("lacks", ["template", "processor"])
def test_what_a_checkpoint_lacks_comes_from_the_model_that_was_trained(base, tmp_path, lacks):
    older = shutil.copytree(base, tmp_path / "older")  # whose chat template is with the tokenizer
    template = (older / "chat_template.jinja").read_text() + "{# older #}"
    settings = json.loads((older / "tokenizer_config.json").read_text())
    (older / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    (older / "chat_template.jinja").unlink()
    ends = json.loads((older / "generation_config.json").read_text()) | {"repetition_penalty": 1.25}
    (older / "generation_config.json").write_text(json.dumps(ends))
    checkpoint = write_full(older, tmp_path / "checkpoint-1")
    (checkpoint / "chat_template.jinja").unlink()
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json") if lacks == "processor" else ():
        (checkpoint / name).unlink()
    (checkpoint / "generation_config.json").unlink()
    assert not export(checkpoint, tmp_path / "out")[1]
    assert (tmp_path / "out/chat_template.jinja").read_text() == template
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["repetition_penalty"] == 1.25
    assert (
        logits(loaded(tmp_path / "out"), tmp_path / "out").shape[-1] == settings_of(base)["text_config"]["vocab_size"]
    )


def test_whole_weights_need_no_other_model(base, tmp_path):
    checkpoint = write_full(base, tmp_path / "checkpoint-1")
    _, warnings = export(checkpoint, tmp_path / "out", model="nowhere")
    assert warnings == [f"{checkpoint} has all weights of its own: of --model only what it lacks beside them is taken"]


def settings_of(model: Path) -> Any:
    return json.loads((model / "config.json").read_text())


def test_weights_in_several_files(base, adapter, tmp_path):
    report, _ = export(adapter, tmp_path / "out", max_shard_size="500KB")
    assert report.num_weight_files == len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert ModelFiles.find(str(tmp_path / "out")).weights is not None
    export(adapter, tmp_path / "whole")
    assert torch.equal(logits(loaded(tmp_path / "out"), base), logits(loaded(tmp_path / "whole"), base))


def test_the_base_may_have_moved(base, adapter, tmp_path):
    moved = shutil.copytree(base, tmp_path / "moved")
    gone = tmp_path / "gone"
    (adapter / "omnicap.json").write_text(note(base).replace(json.dumps(str(base)), json.dumps(str(gone))))
    with pytest.raises(CheckpointError, match="gone") as failed:
        export(adapter, tmp_path / "out")
    assert "--model" in str(failed.value.hint)
    assert not (tmp_path / "out").exists()
    assert not export(adapter, tmp_path / "out", model=str(moved))[1]
    os.utime(moved / "model.safetensors", (1, 1))
    assert "moved was changed or copied" in export(adapter, tmp_path / "again", model=str(moved))[1][0]


def test_a_model_of_the_hub_is_taken_in_the_state_that_was_trained(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "omnicap_cli.training.export.adapter.find_processor", lambda *state: asked.append(state) or tmp_path / "cache"
    )
    commit = "0123456789abcdef0123456789abcdef01234567"
    values = make_note({"model": {"name": "owner/name", "revision": "main"}}, fingerprint=commit)
    (tmp_path / "omnicap.json").write_text(json.dumps(values))
    assert BaseModel(tmp_path, None).folder == tmp_path / "cache"
    assert BaseModel(tmp_path, "other/name").folder == tmp_path / "cache"
    assert asked == [("owner/name", commit), ("other/name", None)]


def test_old_output_stays_until_the_new_one_is_whole(adapter, tmp_path):
    export(adapter, tmp_path / "out")
    (tmp_path / "out/old.txt").write_text("old")
    before = state_of(tmp_path / "out")
    with pytest.raises(OptionError, match="has something in it"):
        export(adapter, tmp_path / "out")
    weights, limits = len(before["model.safetensors"]), resource.getrlimit(resource.RLIMIT_FSIZE)
    earlier = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (weights // 2, limits[1]))
        for name in ("out", "new"):
            with pytest.raises(CheckpointError, match="can't be written"):
                export(adapter, tmp_path / name, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, earlier)
    assert state_of(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3", "out"}
    export(adapter, tmp_path / "out", overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == COMPLETE
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3", "out"}


def state_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_ctrl_c_leaves_nothing(adapter, tmp_path, monkeypatch):
    def interrupt(*_: Any, **__: Any) -> None:
        assert list(tmp_path.glob(".out.*/model.safetensors"))  # most of it is there by now
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.ProcessorMixin.save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(adapter, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-3"}


def test_what_a_killed_export_left_is_named(adapter, tmp_path):
    (tmp_path / ".out.123456789.partial").mkdir()
    (tmp_path / ".other.123456789.partial").mkdir()
    _, warnings = export(adapter, tmp_path / "out")
    assert len(warnings) == 1
    assert ".out.123456789.partial" in warnings[0]


def test_an_adapter_of_another_model_is_refused(tiny_model, adapter, tmp_path):
    others = [tiny_model("qwen2_vl", hidden_size=64), tiny_model("qwen2_vl", num_hidden_layers=1)]
    for other in (*others, tiny_model("qwen2_5_vl"), tiny_model("llava")):
        with pytest.raises(CheckpointError, match="is of another model"):
            export(adapter, tmp_path / "out", model=str(other))
    assert not (tmp_path / "out").exists()


def damage(checkpoint: Path, how: str) -> None:
    weights = checkpoint / "adapter_model.safetensors"
    if how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "pickled":
        weights.rename(checkpoint / "adapter_model.bin")
    elif how == "lacks a matrix":
        matrices = load_file(weights)
        del matrices[min(matrices)]
        save_file(matrices, weights)
    else:
        matrices = load_file(weights)
        matrices[min(matrices)][0, 0] = float("nan")
        save_file(matrices, weights)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut off", "can't be read"),
        ("pickled", "can't be read"),
        ("lacks a matrix", "don't fit"),
        ("not a number", "no numbers"),
    ],
)
def test_a_damaged_adapter_is_refused(adapter, tmp_path, how, said):
    damage(adapter, how)
    with pytest.raises(CheckpointError, match=said):
        export(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_refused(base, tmp_path):
    checkpoint = write_full(base, tmp_path / "checkpoint-1")
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(EngineError, match=r"model\.safetensors"):
        export(checkpoint, tmp_path / "out")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model_fsdp_0").mkdir()
    with pytest.raises(CheckpointError, match="FSDP") as failed:
        export(checkpoint, tmp_path / "out")
    assert "accelerate merge-weights" in str(failed.value.hint)
    (checkpoint / "pytorch_model_fsdp_0").rmdir()
    (checkpoint / "zero_to_fp32.py").touch()
    with pytest.raises(EngineError, match="DeepSpeed") as joined:
        export(checkpoint, tmp_path / "out")
    assert "zero_to_fp32.py" in str(joined.value.hint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        export(checkpoint, tmp_path / "out")


def test_a_quantised_base_is_refused(base, adapter, tmp_path):
    quantised = shutil.copytree(base, tmp_path / "quantised")
    (quantised / "config.json").write_text(json.dumps(settings_of(base) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(EngineError, match="is quantised"):
        export(adapter, tmp_path / "out", model=str(quantised))


def test_what_is_no_checkpoint_is_refused(base, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, said in ((base, "is a model already"), (tmp_path / "empty", "holds no"), (tmp_path / "no", "not there")):
        with pytest.raises(CheckpointError, match=said):
            export(path, tmp_path / "out")
    (tmp_path / "empty/omnicap.json").write_text('{"omnicap": "99.0", "configuration": []}')
    with pytest.raises(CheckpointError, match="which model"):
        export(tmp_path / "empty", tmp_path / "out")


def test_nothing_that_is_needed_is_overwritten(base, adapter, tmp_path):
    model = shutil.copytree(base, tmp_path / "model")
    (adapter / "omnicap.json").write_text(note(model))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("kept")
    other = shutil.copytree(adapter, tmp_path / "other/checkpoint-1")
    shutil.copy(base / "config.json", other)
    before = sorted(tmp_path.rglob("*"))
    for output in (adapter, tmp_path, model, tmp_path / "mine", other, tmp_path / "mine/letter.txt"):
        with pytest.raises(OptionError, match="--output"):
            export(adapter, output, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "values", [{"dtype": "int8"}, {"max_shard_size": "5"}, {"max_shard_size": "0GB"}, {"max_shard_size": "5 GiB"}]
)
def test_wrong_options_are_refused(tmp_path, values):
    with pytest.raises(OptionError):
        ModelExportConfig(checkpoint=tmp_path, output=tmp_path / "out", **values)


def test_too_little_memory_is_said_before_loading(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("omnicap_cli.training.export.adapter.free_bytes", lambda _: 1_000_000)
    with pytest.raises(OmnicapError, match="memory in float32"):
        export(adapter, tmp_path / "out")


def omnicap(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    return subprocess.run(
        [sys.executable, "-m", "omnicap_cli", *words],
        cwd=folder,
        env=kept | {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def test_a_checkpoint_that_is_replaced_while_it_is_read(base, tmp_path, monkeypatch) -> None:
    """As by a run at work that keeps one: the next one is taken."""
    write_adapter(base, tmp_path / "run/checkpoint-1")
    original = merge_adapter

    def replaced(checkpoint, *args):
        if checkpoint.name == "checkpoint-1":
            write_adapter(base, tmp_path / "run/checkpoint-2")
            shutil.rmtree(checkpoint)
        return original(checkpoint, *args)

    monkeypatch.setattr("omnicap_cli.training.export.model_folder.merge_adapter", replaced)
    config = ModelExportConfig(checkpoint=tmp_path / "run", output=tmp_path / "out")
    assert export_checkpoint(config, lambda _: None).checkpoint == str(tmp_path / "run/checkpoint-2")


@pytest.mark.slow
def test_from_training_to_captions(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    draw_media(tmp_path)
    data = count(tmp_path, base, many(4))
    (tmp_path / "recipe.yaml").write_text(
        "model: {name: base}\n"
        f"data: {{train: {data.name}, image_root: {tmp_path}, num_workers: 0}}\n"
        "adapter: {kind: lora, rank: 4, vision: true}\n"
        "optimisation: {learning_rate: 0.05, vision_learning_rate: 0.05, max_steps: 2}\n"
        "checkpoint: {output: run}\n"
    )
    trained = omnicap(tmp_path, "train", "--config", "recipe.yaml")
    assert trained.returncode == 0, trained.stderr
    exported = omnicap(tmp_path, "export", "run", "-o", "out", "--json")
    assert exported.returncode == 0, exported.stderr
    report = json.loads(exported.stdout)
    assert (report["output"], report["base"], report["dtype"]) == ("out", "base", "float32")
    words = ("--type", "natural", "--style", "short", "--max-new-tokens", "20")
    captioned = omnicap(tmp_path, "caption", "0.png", "--model", "out", *words)
    assert captioned.returncode == 0, captioned.stderr
    record = json.loads(captioned.stdout)
    assert (record["model"], record["status"]) == ("out", "ok")
    assert (
        load_for_generation(ModelFiles.find(str(tmp_path / "out")), Placement.choose(device="cpu")).unused_weights == ()
    )
    again = omnicap(tmp_path, "export", "run/" + Path(report["checkpoint"]).name, "-o", "out")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr
