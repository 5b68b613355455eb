"""Runs of the huggingface engine over drawn pictures, and what transformers itself says of each picture alone."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Prompt, Settings
from omnicap_cli.engines.generation import Generation
from omnicap_cli.engines.registry import DeviceOptions, EngineOptions, create_engine
from omnicap_cli.media.sources import Sources

SHORT = Prompt(type="natural", style="short", lang="en", system="You are brief.", user="What is it?")
LONG = Prompt(
    type="natural",
    style="detailed",
    lang="en",
    system="You are a careful assistant who describes pictures completely. " * 3,
    user="Describe the image in detail: its subject, the colours, and how things are arranged.",
)
BARE = Prompt(type="natural", style="tag", lang="zh", system="", user="标签？")
PROMPTS = [SHORT, LONG, BARE]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are fastest so, and another number of threads adds up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_pictures(folder, sizes, seed=0):
    """Pictures of random smooth colours, in the order of `sizes`, each (width, height)."""
    folder.mkdir(exist_ok=True)
    dice = np.random.default_rng(seed)
    for number, (width, height) in enumerate(sizes):
        coarse = dice.integers(0, 255, (max(1, height // 9), max(1, width // 9), 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{number:04}.png")
    return folder


def mixed_sizes(count, low=20, high=260, seed=0):
    dice = random.Random(seed)
    return [(dice.randint(low, high), dice.randint(low, high)) for _ in range(count)]


def engine_of(model, *, batch_size=None, workers=None, **generation):
    options = EngineOptions(
        model=str(model),
        devices=DeviceOptions(device="cpu"),
        batch_size=batch_size,
        workers=workers,
        generation=Generation(**{"max_new_tokens": 8} | generation),
    )
    return create_engine("huggingface", options)


def requests_of(engine, folder, prompts=PROMPTS, settings=None):
    plan = RequestPlan(prompts=prompts, engine=engine.identity, settings=settings or Settings())
    for item in Sources(inputs=(str(folder),)):
        group = plan.requests_of(item)
        last = len(group) - 1
        yield from (replace(each, num_following=last - place) for place, each in enumerate(group))


def run_engine(engine, folder, prompts=PROMPTS, settings=None, on_captioner=None):
    """(name of the picture, style) -> Result; each request exactly once."""
    requests = list(requests_of(engine, folder, prompts, settings))
    if on_captioner:
        engine.warm_up()
        on_captioner(engine._loading.result()[0])
    with contextlib.closing(engine):
        results = list(engine.run(iter(requests), threading.Event()))
    assert Counter(result.key for result in results) == Counter(request.key for request in requests)
    names = {request.key: (Path(request.item.id).name, request.prompt.style) for request in requests}
    return {names[result.key]: result for result in results}
