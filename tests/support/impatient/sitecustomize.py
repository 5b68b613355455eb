"""Loaded by every Python with this folder in PYTHONPATH: `omnicap tokenize` saves after each record, not each second.

So a test that kills it finds checkpoints, also of the processes that it started.
"""

from __future__ import annotations

from omnicap_cli.datasets.tokenizing import split_writer

split_writer._SAVE_SECONDS = split_writer._CHECKPOINT_SECONDS = 0.0
