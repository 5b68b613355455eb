"""A model in memory: loaded whole and exactly as it was saved, or refused. It runs nothing.

transformers fills weights that it doesn't find with random numbers, and runs code from folders if it is let: neither
happens here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from omnicap_cli.core.files.words import gigabytes, listed
from omnicap_cli.core.models.devices import WORKSPACE_BYTES, Placement
from omnicap_cli.core.models.library_logs import libraries_quiet
from omnicap_cli.core.models.machine import missing_extra
from omnicap_cli.core.models.memory import free_bytes, is_out_of_memory, mentions_memory
from omnicap_cli.core.models.model_files import ModelFiles
from omnicap_cli.core.models.weights import Weights
from omnicap_cli.errors import EngineError, MissingExtraError, OptionError

if TYPE_CHECKING:
    import torch

# Of a model's own generation settings those that belong to the model. Sampling, penalties and lengths don't: with them
# transformers would fill in whatever the user leaves open.
_KEPT_SETTINGS: Final = (
    *("bos_token_id", "decoder_start_token_id", "forced_bos_token_id"),
    *("bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A model ready to generate, in evaluation mode, and its processor, which pads on the left.

    The `processor` of a language model is its tokenizer.

    `model.generation_config` is greedy, with `end_token_ids` and a padding token and nothing else of the model's own.
    Inputs go to `device`, and the weights are on all of `devices` (cpu, mps, cuda:N). `attn` is the attention that is
    really used. `unused_weights` are in the files only: some models leave a few there, many mean that config.json
    belongs to another model.
    """

    model: Any
    processor: Any
    device: torch.device
    devices: tuple[str, ...]
    attn: str
    end_token_ids: tuple[int, ...]
    unused_weights: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Any:
        """What makes tokens of text."""
        return getattr(self.processor, "tokenizer", self.processor)


def load_for_generation(
    files: ModelFiles,
    placement: Placement,
    *,
    gpus: Sequence[int] | None = None,
    announce: Callable[[int], None] | None = None,
) -> LoadedModel:
    """Load a model onto its device, or spread over `gpus` (indices, as `plan_replicas` deals them out).

    What is still on the hub is fetched; `announce` hears of how many bytes before. Raises EngineError for whatever is
    in the way: an architecture that isn't known or sees no pictures, files, memory, weights that aren't there.
    """
    sees = check_architecture(files)
    files = files.fetch(announce)
    assert files.weights is not None
    devices = _device_names(placement, gpus)
    _check_quantization(files, placement)
    # before loading: a CPU without memory gives no error, but a killed process
    if files.weights.loaded_bytes(placement) > sum(map(free_bytes, devices)):
        raise _no_room_error(files.name, files.weights, placement, devices)
    with libraries_quiet() as said:
        try:
            model, info = load_model(files.folder, placement, devices, sees=sees)
        except Exception as error:  # of any kind, since transformers checks little by itself
            if is_out_of_memory(error) or any(mentions_memory(record.getMessage()) for record in said):
                raise _no_room_error(files.name, files.weights, placement, devices) from error
            raise _not_loadable_error(files.name, error) from error
        check_weights(files, info)
        processor = load_processor(files.folder, sees=sees)
        ends = _settle_generation(model, getattr(processor, "tokenizer", processor))
    return LoadedModel(
        model=model,
        processor=processor,
        device=model.device,
        devices=tuple(devices),
        attn=model.config._attn_implementation,
        end_token_ids=ends,
        unused_weights=tuple(sorted(info["unexpected_keys"])),
    )


def load_processor(folder: Path, *, sees: bool = True) -> Any:
    """What makes pictures and prompts into the input of the model in `folder`; it pads on the left.

    For a model that sees no pictures it is the tokenizer. Raises EngineError where a part of it is missing or makes no
    sense.
    """
    with libraries_quiet():
        try:
            return _read_processor(folder) if sees else _read_tokenizer(folder)
        except EngineError:
            raise
        except Exception as error:  # of any kind: those of the tokenizer's library have none
            raise _not_loadable_error(f"the processor in {folder}", error) from error


def check_architecture(files: ModelFiles) -> bool:
    """Whether the model sees pictures, or answers text alone, which `files.takes_text` has to allow.

    Raises EngineError unless the installed transformers knows it as one that answers.

    Needs nothing but config.json, but takes seconds, as it imports torch. Raises MissingExtraError without it.
    """
    try:
        from transformers import CONFIG_MAPPING
        from transformers import __version__ as version
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        )
    except ImportError as error:
        raise missing_extra(error.name or "transformers") from error
    kind = files.model_type
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return True
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and files.takes_text:
        return False
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        hint = "Take a vision-language model, such as a Qwen2-VL; this one is for text only."
        raise EngineError(f"{files.name} can't see pictures: it is a {kind}, a language model", hint=hint)
    if kind in CONFIG_MAPPING:
        hint = "Take a vision-language model, such as a Qwen2-VL."
        raise EngineError(f"{files.name} is a {kind}, which doesn't answer questions about pictures", hint=hint)
    upgrade = "A newer transformers may know it: pip install -U transformers"
    if "auto_map" in files.config:
        what = f"{files.name} is a {kind}, which comes with code of its own; omnicap doesn't run code from models"
        raise EngineError(f"{what}, and transformers {version} doesn't know it", hint=upgrade)
    raise EngineError(f"{files.name} is a {kind}, which transformers {version} doesn't know", hint=upgrade)


def _device_names(placement: Placement, gpus: Sequence[int] | None) -> list[str]:
    if gpus:
        return [f"cuda:{index}" for index in gpus]
    return ["cuda:0"] if placement.device == "cuda" else [placement.device]


def _check_quantization(files: ModelFiles, placement: Placement) -> None:
    if placement.quantize and (own := files.config.get("quantization_config")):
        method = own.get("quant_method", "some way") if isinstance(own, Mapping) else own
        problem = f"can't be applied: {files.name} is quantised already ({method})"
        raise OptionError("--quantize", placement.quantize, problem, hint="Leave it out.")


def _no_room_error(name: str, weights: Weights, placement: Placement, devices: Sequence[str]) -> EngineError:
    how = f"{placement.dtype}, {placement.quantize}" if placement.quantize else placement.dtype
    needed, free = weights.loaded_bytes(placement), sum(map(free_bytes, devices))
    what = f"{name} takes {gigabytes(needed)} of memory ({how}); free on {', '.join(devices)}: {gigabytes(free)}"
    ways = ["End what else uses the memory", "take a smaller model"]
    if placement.dtype == "float32":
        ways.insert(0, "Pass --dtype bfloat16 (half of it)")
    if placement.kind == "cuda":
        ways += [] if placement.quantize == "4bit" else ["pass --quantize 4bit (a third of it)"]
        ways += ["pass --gpus all", "pass --device cpu"]
    return EngineError(what, hint=", ".join(ways[:-1]) + f", or {ways[-1]}.")


def load_model(
    folder: Path, placement: Placement, devices: Sequence[str], *, sees: bool = True
) -> tuple[Any, dict[str, Any]]:
    """The model, and what transformers says of its weights. Raises whatever transformers does."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    load = partial(
        auto.from_pretrained,
        folder,
        dtype=placement.dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        ignore_mismatched_sizes=True,  # so that they are told, and refused by us
        output_loading_info=True,
        **_device_settings(devices),
        **_quantization_settings(placement),
    )
    try:
        model, info = load(attn_implementation=placement.attn)
    except (ValueError, ImportError):
        if placement.attn_is_asked:
            raise
        model, info = load(attn_implementation=None)  # whichever the model has
    return model, info


def _device_settings(devices: Sequence[str]) -> dict[str, Any]:
    """Where transformers puts what: all of it on one device, or layers one after another on several GPUs."""
    if len(devices) == 1:
        return {} if devices[0] == "cpu" else {"device_map": {"": devices[0]}}
    room = {int(name.partition(":")[2]): max(0, free_bytes(name) - WORKSPACE_BYTES) for name in devices}
    return {"device_map": "auto", "max_memory": room}


def _quantization_settings(placement: Placement) -> dict[str, Any]:
    if placement.quantize is None:
        return {}
    from transformers import BitsAndBytesConfig

    if placement.quantize == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=placement.dtype,
    )
    return {"quantization_config": config}


def check_weights(files: ModelFiles, info: Mapping[str, Any]) -> None:
    """Raise EngineError if a weight was not in the files, or not as large as config.json says: `load_model` tells."""
    hint = "Its config.json is that of another model, or it was saved in part: copy or download all of it again."
    if wrong := sorted(info["mismatched_keys"]):
        name, stored, expected = wrong[0]
        what = f"weights in {files.folder} have another size than config.json says, {len(wrong)} in all"
        raise EngineError(f"{what}: {name} is {list(stored)} instead of {list(expected)}", hint=hint)
    if missing := sorted(info["missing_keys"]):
        what = f"{files.folder} lacks weights that a {files.model_type} has, {len(missing)} in all"
        raise EngineError(f"{what}: {listed(missing, max_shown=3)}", hint=hint)


def _read_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        what = f"{folder} has no processor for pictures and text, but a {type(processor).__name__}"
        raise EngineError(what, hint="Copy processor_config.json and preprocessor_config.json from the base model.")
    if processor.chat_template is None:  # older models have it with the tokenizer only
        processor.chat_template = tokenizer.chat_template
    _pad_left(tokenizer, folder)
    return processor


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return _pad_left(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), folder)


def _pad_left(tokenizer: Any, folder: Path) -> Any:
    """The tokenizer, set up for prompts of several lengths side by side."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            what = f"the tokenizer of {folder} has neither a pad_token nor an eos_token"
            raise EngineError(what, hint="Copy tokenizer_config.json from the base model.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _settle_generation(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Leave greedy decoding in the model, and return the tokens that end a text.

    Those are the model's and the tokenizer's: fine-tuned models often keep only one of the two up to date.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    end_token_ids = sorted({token for token in (*ends, tokenizer.eos_token_id) if token is not None})
    kept = {name: getattr(own, name, None) for name in _KEPT_SETTINGS}
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=end_token_ids or None, pad_token_id=tokenizer.pad_token_id, **kept
    )
    return tuple(end_token_ids)


def _not_loadable_error(what: str, error: Exception) -> EngineError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if isinstance(error, ImportError):
        hint = f"Install what is missing: pip install {error.name}" if error.name else "Install what is missing."
        return MissingExtraError(f"{what} can't be loaded: {reason}", hint=hint)
    hint = "See whether the folder is whole and transformers new enough for it; --debug shows where it failed."
    return EngineError(f"{what} can't be loaded: {reason}", hint=hint)
