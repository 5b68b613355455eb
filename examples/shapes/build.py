"""Builds a small Qwen2-VL of random weights for the pictures of shapes: a whole model folder, ready to be trained.

It knows the model's sizes, and where the words for its tokenizer are; it trains nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_files import qwen2_vl_processor, qwen_vision_ids, save_model, text_ids, train_tokenizer

from omnicap_cli.core.prompts.catalogue import Catalogue

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXT = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    # Of the 64 rotated values of a head: half as many angles, for time, height and width. With the usual theta of 1e6
    # width would turn the slowest angles, by less than can be seen in pictures a few tokens wide.
    "rope_parameters": {"rope_type": "default", "type": "mrope", "mrope_section": [8, 12, 12], "rope_theta": 10.0},
    "initializer_range": 0.06,  # about one over the root of hidden_size; 0.02 is for wider ones: learns slower here
}
VISION = {
    "depth": 3,
    "embed_dim": 192,
    "num_heads": 6,
    "mlp_ratio": 4,
    "hidden_size": TEXT["hidden_size"],
    "initializer_range": TEXT["initializer_range"],
}


def read_texts(records: Path) -> Iterator[str]:
    """What the model is to read and write: the words of a JSONL file of records, and every built-in English prompt."""
    with records.open(encoding="utf-8") as file:
        for line in file:
            yield from (turn["value"].replace("<image>", "") for turn in json.loads(line)["conversations"])
    for prompt in Catalogue.load().prompts:
        if prompt.lang == "en":
            yield from (prompt.system, prompt.user)


def build_model(folder: Path, texts: Iterable[str], *, seed: int = 0, num_tokens: int = 1000) -> None:
    """Write a model of four million parameters to `folder`. Same texts, seed, torch and transformers: same bytes."""
    tokenizer = train_tokenizer(texts, num_tokens=num_tokens)
    save_model(folder, random_model(tokenizer, seed), qwen2_vl_processor(tokenizer))


def random_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model as Qwen2-VL starts its training, in float32. torch's own random state stays as it was."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text: dict[str, Any] = TEXT | text_ids(tokenizer)
    config = Qwen2VLConfig(text_config=text, vision_config=dict(VISION), **qwen_vision_ids(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2VLForConditionalGeneration(config)


def main() -> None:
    """Read the options, build."""
    parser = argparse.ArgumentParser(
        description="Build a small Qwen2-VL of random weights, with a tokenizer trained on the words of RECORDS."
    )
    parser.add_argument("folder", type=Path, help="folder to write; it must be empty, or not there yet")
    parser.add_argument("--records", type=Path, required=True, help="JSONL file that draw.py wrote")
    parser.add_argument("--num-tokens", type=int, default=1000, metavar="N", help="at most so many (1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other weights (0)")
    options = parser.parse_args()
    if not options.records.is_file():
        parser.error(f"--records: no file {str(options.records)!r}; `draw.py` writes one")
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        parser.error(f"{str(options.folder)!r} is there already, and not an empty folder: name another")
    from transformers.utils import logging

    logging.disable_progress_bar()
    build_model(options.folder, read_texts(options.records), seed=options.seed, num_tokens=options.num_tokens)


if __name__ == "__main__":
    main()
