"""A training configuration in the words of transformers: arguments of its Trainer, and learning rates at each step."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from typing import Any, Final

import torch
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_tf32_available

from omnicap_cli.core.files.words import first_line
from omnicap_cli.errors import OptionError
from omnicap_cli.training.config.sections import DistributedConfig, OptimisationConfig, TrainConfig
from omnicap_cli.training.model import ModelPart

_BOTH: Final = "cuda:nccl,cpu:gloo"


def arguments(config: TrainConfig) -> TrainingArguments:
    """The Trainer's arguments. Made first of all, as this is where processes find each other.

    One of its batches is one of the plan, and one of its epochs the whole plan. It never saves or evaluates by itself.
    """
    optimisation, logging = config.optimisation, config.logging
    for name in logging.report_to:
        if importlib.util.find_spec(name) is None:
            raise OptionError("logging.report_to", name, "isn't installed", hint=f"Install it: pip install {name}")
    has_cuda = torch.cuda.is_available()
    if config.distributed.strategy == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise OptionError(
            "distributed.strategy", "deepspeed", "isn't installed", hint="Install it: pip install deepspeed"
        )
    if config.distributed.strategy == "fsdp" and not has_cuda:
        raise OptionError("distributed.strategy", "fsdp", "needs GPUs")
    has_bf16 = has_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    bf16 = optimisation.precision == "bfloat16" or (optimisation.precision == "auto" and has_bf16)
    try:
        made = TrainingArguments(
            output_dir=str(config.checkpoint.output),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=optimisation.gradient_accumulation,
            num_train_epochs=1,
            learning_rate=optimisation.learning_rate,
            weight_decay=optimisation.weight_decay,
            adam_beta1=optimisation.adam_beta1,
            adam_beta2=optimisation.adam_beta2,
            adam_epsilon=optimisation.adam_epsilon,
            max_grad_norm=optimisation.max_grad_norm,
            bf16=bf16,
            tf32=optimisation.tf32 if is_torch_tf32_available() else None,
            use_cpu=not has_cuda and not torch.backends.mps.is_available(),
            seed=optimisation.seed,
            dataloader_num_workers=config.data.num_workers,
            remove_unused_columns=False,
            average_tokens_across_devices=True,
            ddp_find_unused_parameters=False,
            use_liger_kernel=uses_liger(config),
            logging_steps=logging.every_steps,
            logging_first_step=True,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to=list(logging.report_to),
            run_name=logging.name or config.checkpoint.output.name,
            save_strategy="no",
            eval_strategy="no",
            **_sharding(config.distributed),
        )
        made._n_gpu = min(made.n_gpu, 1)  # a process has one; DataParallel can't cut these batches
    except (ValueError, ImportError) as error:  # of whatever the machine or its packages can't do
        problem = f"can't be used on this machine: {first_line(error)}"
        raise OptionError("--config", "the configuration", problem) from error
    if config.distributed.strategy == "fsdp" and made.world_size == 1:
        raise OptionError("distributed.strategy", "fsdp", "needs several processes", hint="Start them with --nproc.")
    return made


def shares_weights(config: TrainConfig) -> bool:
    """Whether each process has only a part of the weights, by the configuration or accelerate's own."""
    asked = (os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true") for name in ("FSDP", "DEEPSPEED"))
    return config.distributed.strategy in ("fsdp", "deepspeed") or any(asked)


def uses_liger(config: TrainConfig) -> bool:
    """Whether fused kernels are used: on CUDA, where installed. Raises OptionError where they were only asked for."""
    usable = torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None
    if config.model.liger == "on" and not usable:
        raise OptionError("model.liger", "on", "needs CUDA and liger-kernel", hint="pip install liger-kernel")
    return usable and config.model.liger != "off"


def learning_rates(config: OptimisationConfig) -> dict[ModelPart, float]:
    """The highest learning rate of each part."""
    merger = config.merger_learning_rate
    return {
        ModelPart.LLM: config.learning_rate,
        ModelPart.MERGER: config.learning_rate if merger is None else merger,
        ModelPart.VISION: config.vision_learning_rate,
    }


def schedule(config: OptimisationConfig) -> Callable[[int, int], float]:
    """The share of the learning rates at a step (from 0) of so many: up to 1 in a line, then down by the schedule."""

    def share(step: int, num_steps: int) -> float:
        num_warmup = math.ceil(config.warmup_ratio * num_steps)
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        done = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
        down = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
        lowest = config.min_learning_rate_ratio
        return lowest + (1.0 - lowest) * down[config.schedule]

    return share


def _sharding(config: DistributedConfig) -> dict[str, Any]:
    if config.strategy == "fsdp":
        settings = {"fsdp_version": 2, "cpu_offload": config.offload, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
        # what is kept in main memory is summed up there
        return {"fsdp": True, "fsdp_config": settings} | ({"ddp_backend": _BOTH} if config.offload else {})
    if config.strategy == "deepspeed":
        return {"deepspeed": str(config.deepspeed_config) if config.deepspeed_config else _zero(config)}
    return {}


def _zero(config: DistributedConfig) -> dict[str, Any]:
    """A configuration of DeepSpeed; what is "auto" comes from the Trainer's arguments. Source: its documentation."""
    stage = 3 if config.zero_stage is None else config.zero_stage
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    return {"zero_optimization": zero, "bf16": {"enabled": "auto"}} | dict.fromkeys(auto, "auto")
