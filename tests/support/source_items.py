"""A folder for tests of sources, and what becomes of the inputs that are named there."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from support.media_samples import solid_png

from omnicap_cli.media.sources import Sources

PNG = solid_png()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder that is the current one, so that ids are short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_files(*names, data=PNG):
    for name in names:
        path = Path(os.fsdecode(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def items_of(*inputs, stdin=None, **options):
    return list(Sources(inputs=inputs, stdin=None if stdin is None else io.BytesIO(stdin), **options))


def ids_of(*inputs, **options):
    return [item.id for item in items_of(*inputs, **options)]


def kinds_of(*inputs, **options):
    """id -> kind of error or "ok"."""
    found = items_of(*inputs, **options)
    named = {item.id: item.error.kind if item.error else "ok" for item in found}
    assert len(named) == len(found)
    assert all(item.error is None or item.error.message for item in found)
    return named


def call_within(seconds, call):
    """What `call` returns, if it does within `seconds`."""
    box = []
    thread = threading.Thread(target=lambda: box.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert box, "it waits"
    return box[0]


def warnings_of(*inputs):
    """What is said of inputs that hold nothing."""
    said = []
    assert ids_of(*inputs, warn=said.append) == []
    return said
