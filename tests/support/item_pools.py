"""Pools of item workers for tests, and which of their processes are there. What the workers do is in pool_worker."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from omnicap_cli.core.runs.records import Item, MediaRef, Prompt, Request, Settings
from omnicap_cli.engines.rapidocr.item_engine import ItemEngine

SUPPORT = Path(__file__).parent
PATIENCE_SECONDS = 60  # for what must happen at all; nothing is measured


@pytest.fixture(autouse=True)
def findable_worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.delenv("OMNICAP_DEBUG", raising=False)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "a.png"
    Image.new("RGB", (3, 2)).save(path)
    return str(path)


@contextlib.contextmanager
def pool_of(num_workers, target="Shouter", **config):
    pool = ItemEngine(f"pool_worker:{target}", config, num_workers=num_workers)
    try:
        yield pool
    finally:
        pool.close()
        left = children()
    assert left == []


@pytest.fixture(autouse=True)
def earlier_children():
    """The processes that an earlier test left, which are its failure and not that of others."""
    _earlier[:] = []
    _earlier[:] = children()


_earlier = []


def children():
    """The pool's processes that are still there, zombies not counted."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and "omnicap_cli.core.workers.pool_child" in command:
                found.append(process.pid)
    return [pid for pid in found if pid not in _earlier]


def wait_until(condition):
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def request_for(name, path, style="text", num_following=0, error=None):
    prompt = Prompt(type="ocr", style=style, lang="en", system="", user="")
    item = Item(id=name, image=name, visuals=(MediaRef(path=path),), fingerprint="", error=error)
    key = f"{name}/{style}"
    return Request(key=key, item=item, prompt=prompt, settings=Settings(), num_following=num_following)


def answers_of(results):
    """key -> text or kind of error; each key once."""
    results = list(results)
    found = {result.key: result.error.kind if result.error else result.text for result in results}
    assert len(found) == len(results)
    return found


def run_pool(pool, names, path, stop=None):
    return answers_of(pool.run((request_for(name, path) for name in names), stop or threading.Event()))


def shouted_answers(names):
    return {f"{name}/text": f"{name.upper()}|text|3x2" for name in names}
