"""Models in memory are what is on disk, or they are refused: small ones, with random weights, loaded and damaged."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub.utils import are_progress_bars_disabled
from safetensors.torch import load_file, save_file
from support.model_folders import change_json
from support.model_folders import folder as folder  # a fixture
from support.model_folders import tiny as tiny  # a fixture
from support.tiny_models import build_tiny

from omnicap_cli.core.models import loading
from omnicap_cli.core.models.devices import WORKSPACE_BYTES, Placement
from omnicap_cli.core.models.loading import LoadedModel, load_for_generation, load_processor
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import EngineError, MissingExtraError, OptionError

CPU = Placement(device="cpu", dtype="float32", attn="sdpa")
GPU = Placement(device="cuda", dtype="bfloat16", attn="sdpa")
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "llava")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def put_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_folder(folder: Path, placement: Placement = CPU) -> LoadedModel:
    return load_for_generation(ModelFiles.find(str(folder)), placement)


def refused(folder: Path, placement: Placement = CPU) -> EngineError:
    with pytest.raises(EngineError) as caught:
        load_folder(folder, placement)
    assert caught.value.hint
    return caught.value


def greedy(loaded: LoadedModel, **settings: Any) -> list[int]:
    ids = torch.tensor([[5, 6, 7, 8]])
    return loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, **settings)[0].tolist()


# ---------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_loaded_as_it_was_saved(family, tmp_path):
    folder = build_tiny(family, tmp_path / family)
    loaded = load_folder(folder)
    assert str(loaded.device) == "cpu"
    assert (loaded.devices, loaded.attn, loaded.unused_weights) == (("cpu",), "sdpa", ())
    assert not loaded.model.training
    loaded.model.save_pretrained(tmp_path / "again")
    before, after = weights_of(folder), weights_of(tmp_path / "again")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    tokenizer = loaded.processor.tokenizer
    padded = tokenizer(["a", "a longer text"], padding=True)["input_ids"]
    assert len(padded[0]) == len(padded[1])
    assert padded[0][0] == tokenizer.pad_token_id
    assert loaded.processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_are_of_the_kind_that_was_chosen(tiny, dtype):
    loaded = load_folder(tiny, Placement(device="cpu", dtype=dtype, attn="eager", attn_is_asked=True))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert loaded.attn == "eager"
    assert len(greedy(loaded)) > 4


def test_weights_that_are_shared_may_be_saved_once(folder):
    weights = weights_of(folder)
    name = next(name for name in weights if name.endswith("lm_head.weight"))
    del weights[name]
    put_weights(folder, weights)
    change_json(folder / "config.json", tie_word_embeddings=True)
    loaded = load_folder(folder)
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


def test_nothing_is_printed_and_everything_is_as_before(folder, capfd):
    weights = weights_of(folder)
    put_weights(folder, weights | {"surplus.weight": torch.zeros(2)})  # which transformers would report
    logger = logging.getLogger("transformers")
    before = (logger.handlers[:], logger.propagate, logger.level)
    loaded = load_folder(folder)
    assert loaded.unused_weights == ("surplus.weight",)
    load_processor(folder)
    del weights[sorted(weights)[0]]
    put_weights(folder, weights)
    refused(folder)
    assert capfd.readouterr() == ("", "")
    assert (logger.handlers, logger.propagate, logger.level) == before
    assert not are_progress_bars_disabled()
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_a_model_that_comes_from_the_hub_is_fetched_first(tiny, tmp_path, monkeypatch):
    files = ModelFiles.find(str(tiny))
    elsewhere = ModelFiles(
        name="owner/name", revision="c0ffee", fingerprint="c0ffee", folder=tmp_path, config=files.config, weights=None
    )
    asked = []
    monkeypatch.setattr("omnicap_cli.core.models.model_files.fetch_model", lambda *words: asked.append(words) or tiny)
    announce = print
    assert load_for_generation(elsewhere, CPU, announce=announce).model.config.model_type == "qwen2_vl"
    assert asked == [("owner/name", "c0ffee", announce)]


# ---------------------------------------------------------------------------------------------- how it generates

SAMPLING = {
    **{"do_sample": True, "temperature": 5.0, "top_k": 40, "top_p": 0.99, "min_p": 0.001},
    **{"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "max_new_tokens": 3, "num_beams": 2},
}


def test_a_model_does_not_bring_its_own_sampling(tiny, folder):
    change_json(folder / "generation_config.json", **SAMPLING)
    plain = load_folder(tiny)
    expected = greedy(plain)
    assert len(expected) > 4 + 3
    assert greedy(load_folder(folder)) == expected
    config = transformers.GenerationConfig(max_new_tokens=30)
    ids = torch.tensor([[5, 6, 7, 8]])
    for loaded in (plain, load_folder(folder)):  # what is left open isn't filled in
        assert loaded.model.generate(ids, generation_config=config)[0].tolist() == expected


@pytest.mark.parametrize(
    ("of_model", "of_tokenizer", "expected"),
    [
        (["<|im_end|>", "<|endoftext|>"], "<|im_end|>", ["<|im_end|>", "<|endoftext|>"]),
        (["<|endoftext|>"], "<|im_end|>", ["<|im_end|>", "<|endoftext|>"]),
        ("<|endoftext|>", "<|im_end|>", ["<|im_end|>", "<|endoftext|>"]),
        (["<|endoftext|>"], "<|endoftext|>", ["<|endoftext|>"]),
        (None, "<|im_end|>", ["<|im_end|>"]),
    ],
)
def test_what_ends_a_text(folder, of_model, of_tokenizer, expected):
    special = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in special}
    of_model = [ids[token] for token in of_model] if isinstance(of_model, list) else ids.get(of_model)
    change_json(folder / "generation_config.json", eos_token_id=of_model, pad_token_id=3)
    change_json(folder / "tokenizer_config.json", eos_token=of_tokenizer)
    loaded = load_folder(folder)
    assert loaded.end_token_ids == tuple(sorted(ids[token] for token in expected))
    assert loaded.model.generation_config.eos_token_id == list(loaded.end_token_ids)
    assert loaded.model.generation_config.pad_token_id == ids["<|endoftext|>"]


def test_what_belongs_to_the_model_is_kept(folder):
    change_json(folder / "generation_config.json", bad_words_ids=[[17]], suppress_tokens=[3])
    config = load_folder(folder).model.generation_config
    assert (config.bad_words_ids, config.suppress_tokens) == ([[17]], [3])


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    change_json(
        folder / "tokenizer_config.json", pad_token=None, tokenizer_class="TokenizersBackend", padding_side="right"
    )
    tokenizer = load_folder(folder).processor.tokenizer
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<|im_end|>", "left")
    change_json(folder / "tokenizer_config.json", eos_token=None)
    assert "neither a pad_token nor an eos_token" in refused(folder).message


def test_a_chat_template_of_the_tokenizer_will_do(folder):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    change_json(folder / "tokenizer_config.json", chat_template=template)
    assert load_folder(folder).processor.chat_template == template


# ---------------------------------------------------------------------------------------------- attention


def test_a_model_without_the_chosen_attention(tiny, monkeypatch):
    monkeypatch.setattr(transformers.Qwen2VLPreTrainedModel, "_supports_sdpa", False)
    assert load_folder(tiny).attn == "eager"
    asked = Placement(device="cpu", dtype="float32", attn="sdpa", attn_is_asked=True)
    assert "scaled_dot_product_attention" in refused(tiny, asked).message


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("qwen2", ["can't see pictures", "a qwen2, a language model"]),
        ("vit", ["is a vit", "doesn't answer questions about pictures"]),
        ("qwen9_vl", ["is a qwen9_vl", f"transformers {transformers.__version__} doesn't know", "-U transformers"]),
    ],
)
def test_other_kinds_of_models(folder, model_type, words):
    change_json(folder / "config.json", model_type=model_type)
    error = refused(folder)
    assert [word for word in words if word not in f"{error.message} {error.hint}"] == []


def test_code_of_a_model_is_not_run(folder):
    ran = folder / "ran"
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w')")
    auto_map = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model", "AutoProcessor": "code.P"}
    change_json(folder / "config.json", model_type="own", auto_map=auto_map)
    assert "code of its own" in refused(folder).message
    change_json(folder / "config.json", model_type="qwen2_vl")  # which transformers knows, so its own code isn't needed
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        change_json(folder / name, auto_map=auto_map)
    assert load_folder(folder).unused_weights == ()
    assert not ran.exists()


def test_an_architecture_is_refused_before_anything_is_fetched(tmp_path):
    config = {"model_type": "qwen2"}
    files = ModelFiles(name="a/b", revision="c", fingerprint="c", folder=tmp_path, config=config, weights=None)
    with pytest.raises(EngineError, match="can't see pictures"):
        load_for_generation(files, CPU)


@pytest.mark.parametrize("num_missing", [1, 5])
def test_weights_that_are_missing(folder, num_missing):
    """transformers would put random numbers there."""
    weights = weights_of(folder)
    missing = sorted(name for name in weights if "layers" in name)[:num_missing]
    put_weights(folder, {name: tensor for name, tensor in weights.items() if name not in missing})
    error = refused(folder)
    assert f"lacks weights that a qwen2_vl has, {num_missing} in all: " in error.message
    assert "layers.0" in error.message
    assert ("and 2 more" in error.message) == (num_missing == 5)


def test_weights_of_another_size(folder):
    weights = weights_of(folder)
    name = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    put_weights(folder, weights | {name: torch.zeros(7, 128)})
    error = refused(folder)
    assert "another size than config.json says, 1 in all: " in error.message
    assert "mlp.up_proj.weight is [7, 128] instead of [256, 128]" in error.message


def test_a_configuration_with_a_layer_less(folder):
    """The layer's weights are left over, and told."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    (folder / "config.json").write_text(json.dumps(config))
    unused = load_folder(folder).unused_weights
    assert len(unused) == sum("layers.1." in name and "visual" not in name for name in weights_of(folder))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokenizer.json", {"model": None}),
        ("config.json", {"text_config": {"hidden_size": "wide"}}),
        ("config.json", {"vision_config": 7}),
        ("processor_config.json", {"image_processor": {"image_processor_type": "NoSuchProcessor"}}),
    ],
)
def test_files_that_are_whole_but_make_no_sense(folder, name, values):
    change_json(folder / name, **values)
    message = refused(folder).message
    assert message.startswith(("model can't be loaded: ", f"the processor in {folder} can't be loaded: "))


def test_a_folder_without_a_processor_for_pictures(folder):
    (folder / "processor_config.json").unlink()
    change_json(folder / "tokenizer_config.json", processor_class="Qwen2Tokenizer")
    change_json(folder / "preprocessor_config.json", processor_class="Qwen2Tokenizer")
    assert "no processor for pictures and text, but a Qwen2Tokenizer" in refused(folder).message


def test_a_package_that_a_model_needs(tiny, monkeypatch):
    def lack(*_words: Any, **_settings: Any) -> None:
        raise ImportError("No module named 'timm'", name="timm")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", lack)
    error = refused(tiny)
    assert isinstance(error, MissingExtraError)
    assert error.hint == "Install what is missing: pip install timm"


def test_without_transformers(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = refused(tiny)
    assert isinstance(error, MissingExtraError)
    assert "pip install 'omnicap[torch]'" in error.hint


def test_what_is_quantised_is_not_quantised_again(folder):
    change_json(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    placement = Placement(device="cuda", dtype="bfloat16", attn="sdpa", quantize="4bit")
    with pytest.raises(OptionError, match=r"--quantize: '4bit' .*quantised already \(awq\)"):
        load_folder(folder, placement)


# ---------------------------------------------------------------------------------------------- memory


def test_too_little_memory_is_seen_before_loading(tiny, monkeypatch):
    needed = sum(tensor.numel() for tensor in weights_of(tiny).values()) * 4
    monkeypatch.setattr(loading, "free_bytes", lambda device: needed)
    assert load_folder(tiny).attn == "sdpa"
    monkeypatch.setattr(loading, "free_bytes", lambda device: needed - 1)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", None)
    error = refused(tiny)
    assert error.message == f"tiny takes {needed / 1e6:.1f} MB of memory (float32); free on cpu: {needed / 1e6:.1f} MB"
    assert "--dtype bfloat16" in error.hint
    assert "--quantize" not in error.hint


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), ""),
        (RuntimeError("We encountered some issues"), "DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_too_little_memory_while_loading(tiny, monkeypatch, error, logged):
    """Some of transformers' own errors are in its log only."""

    def fail(*_words: Any, **_settings: Any) -> None:
        logging.getLogger("transformers.modeling_utils").warning(logged)
        raise error

    monkeypatch.setattr(loading, "free_bytes", lambda device: 8_000_000)
    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", fail)
    told = refused(tiny, GPU)
    needed = sum(tensor.numel() for tensor in weights_of(tiny).values()) * 2
    assert told.message == f"tiny takes {needed / 1e6:.1f} MB of memory (bfloat16); free on cuda:0: 8.0 MB"
    assert [word for word in ("--quantize 4bit", "--gpus all", "--device cpu") if word not in told.hint] == []


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("cpu", None, {}),
        ("mps", None, {"device_map": {"": "mps"}}),
        ("cuda", None, {"device_map": {"": "cuda:0"}}),
        ("cuda:2", None, {"device_map": {"": "cuda:2"}}),
        ("cuda", (1,), {"device_map": {"": "cuda:1"}}),
        ("cuda", (0, 3), {"device_map": "auto", "max_memory": {0: 10_000_000_000, 3: 13_000_000_000}}),
    ],
)
def test_where_the_weights_are_put(tiny, monkeypatch, device, gpus, expected):
    """As transformers is told; there are no such devices here."""
    free = {"cpu": 99, "mps": 99, "cuda:0": 10, "cuda:1": 11, "cuda:2": 12, "cuda:3": 13}
    monkeypatch.setattr(loading, "free_bytes", lambda name: free[name] * 1_000_000_000 + WORKSPACE_BYTES)
    told = {}

    def stop(*_words: Any, **settings: Any) -> None:
        told.update(settings)
        raise RuntimeError("far enough")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", stop)
    with pytest.raises(EngineError, match="far enough"):
        load_for_generation(
            ModelFiles.find(str(tiny)), Placement(device=device, dtype="float16", attn="sdpa"), gpus=gpus
        )
    assert {name: told[name] for name in told if name in ("device_map", "max_memory")} == expected
    assert (told["use_safetensors"], told["trust_remote_code"], told["local_files_only"]) == (True, False, True)


def test_how_the_weights_are_quantised(tiny, monkeypatch):
    monkeypatch.setattr(loading, "free_bytes", lambda name: 1_000_000_000)
    told = []

    def stop(*_words: Any, **settings: Any) -> None:
        told.append(settings["quantization_config"])
        raise RuntimeError("far enough")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", stop)
    for quantize in ("4bit", "8bit"):
        refused(tiny, Placement(device="cuda", dtype="bfloat16", attn="sdpa", quantize=quantize))
    four, eight = told
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
