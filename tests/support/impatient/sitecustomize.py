"""Loaded by every Python that has this folder in PYTHONPATH: `omnicap tokenize` saves after each record, not each second.

So that a test which kills it has checkpoints to see, in the processes that it starts too.
"""

from __future__ import annotations

from omnicap_cli.tokenizing import split_writer

split_writer._SAVE_SECONDS = split_writer._CHECKPOINT_SECONDS = 0.0
