"""Records of training data and splits of them with their notes, written by hand as `omnicap tokenize` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnicap_cli.datasets.splits import Split, SplitNote

SETTINGS = {"data": "5f0c", "tokenizer": "a1", "max_length": None}


def sample(number: int, answer: str = "", *, num_text: int = 10, num_image: int = 100, **more: Any) -> dict[str, Any]:
    """A record with five tokens of the template beside those of text and picture."""
    return {
        "id": f"{number}",
        "image": f"{number}.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": answer or "A."}],
        "token_length": num_text,
        "image_token_num": num_image,
        "task_type": "short",
        "sequence_length": num_text + num_image + 5,
    } | more


def line(record: Any) -> bytes:
    """A record on a line."""
    return json.dumps(record).encode() + b"\n"


def published(record: dict[str, Any]) -> dict[str, Any]:
    """It as the published script writes it."""
    return {name: value for name, value in record.items() if name != "sequence_length"}


def write_split(folder: Path, name: str, number: int, num_splits: Any, content: bytes, **note: Any) -> Path:
    """Split `number` (from 1) with its note, in which `note` replaces what is there."""
    split = Split(folder=folder, name=name, index=number - 1, num_splits=num_splits)
    split.output.write_bytes(content)
    values: dict[str, Any] = {
        **{"name": name, "index": number - 1, "num_splits": num_splits, "settings": SETTINGS, "num_lines": 1},
        **{"num_in": 1, "num_kept": 1, "num_rejected": 0, "rejected": {}, "num_text_tokens": 1, "num_image_tokens": 1},
        **{"num_sequence_tokens": 1, "lengths": [], "output_bytes": len(content), "started": 1.0, "ended": 2.0},
    }
    SplitNote(**(values | note)).write(split.note)
    return split.output
