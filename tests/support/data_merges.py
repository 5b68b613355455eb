"""Merges of splits in an empty folder, and the files that tests give them and read back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.training_records import line, sample

from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, DataMergeReport, merge_data

BOM = b"\xef\xbb\xbf"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_file(name: str, content: bytes) -> Path:
    Path(name).write_bytes(content)
    return Path(name)


def record_lines(*numbers: int) -> bytes:
    return b"".join(line(sample(number)) for number in numbers)


def merge(*inputs: Path, warn: Callable[[str], None] = lambda _: None, **more: Any) -> DataMergeReport:
    return merge_data(DataMergeConfig(**({"inputs": inputs, "output": Path("all.jsonl")} | more)), warn)


def merged_bytes(name: str = "all.jsonl") -> bytes:
    return Path(name).read_bytes()


def file_names(folder: str = ".") -> list[str]:
    return sorted(os.listdir(folder))
