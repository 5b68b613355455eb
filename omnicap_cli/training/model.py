"""The model that is trained: which of its weights learn, how fast, and whether it keeps samples of a pack apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from omnicap_cli.core.devices import Placement
from omnicap_cli.core.model_files import ModelFiles
from omnicap_cli.core.models import check_architecture, check_weights, load_model, load_processor
from omnicap_cli.core.quiet import libraries_quiet
from omnicap_cli.errors import EngineError, OptionError
from omnicap_cli.training.batches import collate
from omnicap_cli.training.config import AdapterConfig, ModelConfig
from omnicap_cli.training.examples import Example

FAMILIES: Final = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


class Part(Enum):
    """A part of a vision-language model that can learn at a rate of its own."""

    VISION = "vision"
    MERGER = "merger"
    LLM = "llm"


class TrainedModel(NamedTuple):
    """A model on the CPU, in training mode, and what belongs to it. `files` tells which one it was made from."""

    model: Any
    processor: Any
    files: ModelFiles
    attn: str


def part_of(parameter: str) -> Part:
    """The part that a parameter belongs to, by its name in transformers, with or without an adapter around it."""
    _, visual, inside = f".{parameter}".partition(".visual.")
    if not visual:
        return Part.LLM
    return Part.MERGER if "merger" in inside.split(".")[0] else Part.VISION


def load(config: ModelConfig, adapter: AdapterConfig, checkpoint: Path | None = None) -> TrainedModel:
    """Load what is to be trained, with everything else frozen; whole weights from a `checkpoint` where there is one.

    Raises OptionError or EngineError where the model is of another family, its files are damaged, or can't be trained
    as asked.
    """
    if checkpoint and adapter.kind == "none":
        files = ModelFiles.find(str(checkpoint))
    else:
        files = ModelFiles.find(config.name, config.revision)
    if files.model_type not in FAMILIES:
        hint = f"Take a model of one of these families: {', '.join(FAMILIES)}."
        raise OptionError("model.name", config.name, f"is a {files.model_type}, which isn't trained here", hint=hint)
    check_architecture(files)
    files = files.fetched()
    model = _loaded(files, config, adapter)
    with libraries_quiet():
        processor = load_processor(files.folder)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if adapter.kind == "none":
            freeze(model, {part for part in Part if not getattr(config, f"train_{part.value}")})
        else:
            model = with_adapter(model, adapter, gradient_checkpointing=config.gradient_checkpointing)
    return TrainedModel(model.train(), processor, files, model.config._attn_implementation)


def freeze(model: torch.nn.Module, parts: set[Part]) -> None:
    """Let these parts learn nothing."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in parts)


def with_adapter(model: Any, config: AdapterConfig, *, gradient_checkpointing: bool = False) -> Any:
    """The model frozen, with low-rank matrices that learn beside its linear layers. Source: LoRA (arXiv 2106.09685)."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.kind == "qlora":
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=gradient_checkpointing
        )
    elif gradient_checkpointing:
        model.enable_input_require_grads()
    parts = {Part.LLM, Part.VISION} if config.vision else {Part.LLM}
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
    model: torch.nn.Module, learning_rates: Mapping[Part, float], weight_decay: float
) -> list[dict[str, Any]]:
    """What an optimiser takes: each parameter that learns in one group, by part, and by whether it decays.

    Vectors (biases and the weights of norms) don't decay.
    """
    groups: dict[tuple[Part, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name), parameter.ndim > 1), []).append(parameter)
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
def isolates(model: Any, *, varlen: bool) -> bool:
    """Whether samples that share a row see nothing of each other: tried out, with a few tokens.

    Two samples are run with two different texts of the first; what the model says of the second must stay the same.
    """
    length, was_training = 8, model.training
    model.eval()
    second, said = _text(torch.arange(1, length + 1)), []
    for first in (_text(torch.full((length,), 3)), _text(torch.arange(length) + 9)):
        batch = collate([[first, second]], pad_token_id=0, varlen=varlen, all_logits=True)
        inputs = {name: each.to(model.device) if torch.is_tensor(each) else each for name, each in batch.items()}
        said.append(model(**inputs).logits[0, length:])
    model.train(was_training)
    return bool(torch.equal(*said))


def _text(input_ids: torch.Tensor) -> Example:
    positions = torch.arange(len(input_ids)).expand(4, -1)
    return Example(id="", input_ids=input_ids, labels=input_ids, positions=positions)


def check_isolation(model: Any, attn: str) -> None:
    """Raise OptionError where packing would let samples see each other."""
    if not isolates(model, varlen=attn == "flash_attention_2"):
        problem = f"lets samples see each other with the attention {attn}"
        raise OptionError("packing.enabled", True, problem, hint="Set model.attn to sdpa, or packing.enabled to false.")


def trained_parameters(model: torch.nn.Module) -> Iterator[tuple[Part, int, int]]:
    """For each part: how many parameters it has, and how many of them learn."""
    counts = {part: [0, 0] for part in Part}
    for name, parameter in model.named_parameters():
        counts[part_of(name)][0] += parameter.numel()
        counts[part_of(name)][1] += parameter.numel() if parameter.requires_grad else 0
    for part, (num_all, num_trained) in counts.items():
        yield part, num_all, num_trained


def state_bytes(model: torch.nn.Module) -> int:
    """What weights take, and gradients and AdamW's two averages of those that learn; no activations."""
    return sum(each.numel() * each.element_size() * (4 if each.requires_grad else 1) for each in model.parameters())


def _loaded(files: ModelFiles, config: ModelConfig, adapter: AdapterConfig) -> Any:
    quantize = "4bit" if adapter.kind == "qlora" else None
    dtype = "float32" if config.dtype == "auto" and adapter.kind == "none" else config.dtype
    try:
        placement = Placement.choose(dtype=dtype, attn=config.attn, quantize=quantize)
    except OptionError as error:  # which names options of other commands
        raise EngineError(f"{config.name} can't be trained so here: {error.message}", hint=error.hint) from error
    device = f"cuda:{torch.cuda.current_device()}" if quantize else "cpu"
    with libraries_quiet():
        try:
            model, info = load_model(files.folder, placement, [device])
        except Exception as error:  # of any kind, since transformers checks little by itself
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise EngineError(f"{files.name} can't be loaded: {reason}", hint="--debug shows where.") from error
    check_weights(files, info)
    return model
