"""The model that is trained: which of its weights learn, how fast, and whether it keeps samples of a pack apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from omnicap_cli.core.files.words import first_line
from omnicap_cli.core.models.devices import Placement
from omnicap_cli.core.models.library_logs import libraries_quiet
from omnicap_cli.core.models.loading import check_architecture, check_weights, load_model
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.errors import EngineError, OptionError
from omnicap_cli.training.attention import attend_by_sample, takes_lengths
from omnicap_cli.training.config.sections import AdapterConfig, ModelConfig
from omnicap_cli.training.data.collating import collate
from omnicap_cli.training.data.examples import Example

FAMILIES: Final = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class ModelPart(Enum):
    """A part of a vision-language model that can learn at a rate of its own."""

    VISION = "vision"
    MERGER = "merger"
    LLM = "llm"


def part_of(parameter: str) -> ModelPart:
    """The part that a parameter belongs to, by its name in transformers, with or without an adapter around it."""
    _, visual, inside = f".{parameter}".partition(".visual.")
    if not visual:
        return ModelPart.LLM
    return ModelPart.MERGER if "merger" in inside.split(".")[0] else ModelPart.VISION


def find_model_files(config: ModelConfig, adapter: AdapterConfig, checkpoint: Path | None = None) -> ModelFiles:
    """The files of what is to be trained, on this machine; whole weights are those of a `checkpoint` if there is one.

    Raises OptionError or EngineError where the model is of another family, or files are missing or damaged.
    """
    try:
        is_own = checkpoint and adapter.kind == "none"
        files = ModelFiles.find(str(checkpoint)) if is_own else ModelFiles.find(config.name, config.revision)
    except OptionError as error:
        raise _named_by_key(error, config, adapter) from error
    if files.model_type not in FAMILIES:
        hint = f"Take a model of one of these families: {', '.join(FAMILIES)}."
        raise OptionError("model.name", config.name, f"is a {files.model_type}, which isn't trained here", hint=hint)
    check_architecture(files)
    return files.fetch()


def load_for_training(
    files: ModelFiles,
    config: ModelConfig,
    adapter: AdapterConfig,
    *,
    precision: str,
    packs: bool = False,
    sizes_only: bool = False,
) -> Any:
    """The model on the CPU, in training mode, with everything frozen that isn't to learn.

    `precision` is what it is going to compute in, `packs` whether samples are going to share rows. With `sizes_only` no
    weight is read, and none is there. Raises OptionError or EngineError where it can't be trained as asked.
    """
    placement = _placement(config, adapter, precision)
    with libraries_quiet():
        model = _without_weights(files, placement) if sizes_only else _load_with_weights(files, placement)
        if packs:
            attend_by_sample(model)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if adapter.kind == "none":
            freeze(model, {part for part in ModelPart if not getattr(config, f"train_{part.value}")})
        else:
            model = with_adapter(model, adapter, gradient_checkpointing=config.gradient_checkpointing)
    return model.train()


def freeze(model: torch.nn.Module, parts: set[ModelPart]) -> None:
    """Let these parts learn nothing."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in parts)


def with_adapter(model: Any, config: AdapterConfig, *, gradient_checkpointing: bool = False) -> Any:
    """The model frozen, with low-rank matrices that learn beside its linear layers. Source: LoRA (arXiv 2106.09685)."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.kind == "qlora" and model.device.type != "meta":
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=gradient_checkpointing
        )
    elif gradient_checkpointing:
        model.enable_input_require_grads()
    parts = {ModelPart.LLM, ModelPart.VISION} if config.vision else {ModelPart.LLM}
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and part_of(f"{name}.weight") in parts and name != "lm_head"
    ]
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def parameter_groups(
    model: torch.nn.Module, learning_rates: Mapping[ModelPart, float], weight_decay: float
) -> list[dict[str, Any]]:
    """What an optimiser takes: each parameter that learns in one group, by part, and by whether it decays.

    Vectors (biases and the weights of norms) don't decay.
    """
    groups: dict[tuple[ModelPart, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name), len(_shape(parameter)) > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rates[part],
            "weight_decay": weight_decay if decays else 0.0,
            "name": f"{part.value}{'' if decays else ', no decay'}",
        }
        for (part, decays), parameters in groups.items()
    ]


@torch.no_grad()
def isolates_samples(model: Any, *, varlen: bool) -> bool:
    """Whether samples that share a row see nothing of each other: tried out, with a few tokens.

    Two samples are run with two different texts of the first; what the model says of the second must stay the same.
    """
    length, was_training = 8, model.training
    model.eval()
    second, said = _example_of_text(torch.arange(1, length + 1)), []
    for first in (_example_of_text(torch.full((length,), 3)), _example_of_text(torch.arange(length) + 9)):
        batch = collate([[first, second]], pad_token_id=0, varlen=varlen, all_logits=True)
        inputs = {name: each.to(model.device) if torch.is_tensor(each) else each for name, each in batch.items()}
        said.append(model(**inputs).logits[0, length:])
    model.train(was_training)
    return bool(torch.equal(*said))


def _example_of_text(input_ids: torch.Tensor) -> Example:
    positions = torch.arange(len(input_ids)).expand(4, -1)
    return Example(id="", input_ids=input_ids, labels=input_ids, positions=positions)


def check_isolation(model: Any, config: Any) -> None:
    """Raise OptionError where packing would let samples see each other. `config` is that of the model in `model`."""
    if not isolates_samples(model, varlen=takes_lengths(config)):
        problem = f"lets samples see each other with the attention {config._attn_implementation}"
        raise OptionError("packing.enabled", True, problem, hint="Set model.attn to sdpa, or packing.enabled to false.")


def trained_parameters(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """By the name of each part: how many parameters it has, and how many of them learn."""
    num_all, num_trained = Counter[str](), Counter[str]()
    for name, parameter in model.named_parameters():
        number, part = math.prod(_shape(parameter)), part_of(name).value
        num_all[part] += number
        num_trained[part] += number if parameter.requires_grad else 0
    return {part.value: (num_all[part.value], num_trained[part.value]) for part in ModelPart}


def state_bytes(model: torch.nn.Module) -> int:
    """What weights take, and gradients and AdamW's two averages of those that learn; no activations."""
    return sum(
        math.prod(_shape(each)) * each.element_size() * (4 if each.requires_grad else 1) for each in model.parameters()
    )


def _shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """Of the whole of it: under ZeRO-3 a process has only a part, without a shape."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _placement(config: ModelConfig, adapter: AdapterConfig, precision: str) -> Placement:
    dtype = "float32" if config.dtype == "auto" and adapter.kind == "none" else config.dtype
    quantize = "4bit" if adapter.kind == "qlora" else None
    try:
        attn = Placement.choose(dtype=precision, attn=config.attn)  # of the numbers that autocast gives it
        weights = Placement.choose(dtype=dtype, attn="sdpa", quantize=quantize)
    except OptionError as error:  # which names options of other commands
        raise _named_by_key(error, config, adapter) from error
    return replace(weights, attn=attn.attn, attn_is_asked=attn.attn_is_asked)


def _named_by_key(error: OptionError, config: ModelConfig, adapter: AdapterConfig) -> OptionError:
    named = {
        "--model": ("model.name", config.name),
        "--attn": ("model.attn", config.attn),
        "--dtype": ("model.dtype", config.dtype),
        "--quantize": ("adapter.kind", adapter.kind),
    }
    key, value = named.get(error.option, (error.option, error.value))
    return OptionError(key, value, error.problem, hint=error.hint if key == "model.name" else None)


def _without_weights(files: ModelFiles, placement: Placement) -> Any:
    with torch.device("meta"):
        loaded = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        dtype = getattr(torch, placement.dtype)
        return AutoModelForImageTextToText.from_config(loaded, dtype=dtype, attn_implementation=placement.attn)


def _load_with_weights(files: ModelFiles, placement: Placement) -> Any:
    device = f"cuda:{torch.cuda.current_device()}" if placement.quantize else "cpu"
    try:
        model, info = load_model(files.folder, placement, [device])
    except Exception as error:  # of any kind, since transformers checks little by itself
        raise EngineError(f"{files.name} can't be loaded: {first_line(error)}", hint="--debug shows where.") from error
    check_weights(files, info)
    return model
