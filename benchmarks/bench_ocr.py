"""The OCR pipeline beside RapidOCR in a bare loop, and worker processes beside each other.

All sides read the same pages with the same model settings; the bare loop gets them decoded already. Every side is timed
from its first result (for several processes: the first of each) to its last, so that loading a model doesn't count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from harness import print_machine, print_row, seconds
from PIL import Image
from rapidocr import RapidOCR

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.journal import Journal
from omnicap_cli.core.runs.pipeline import Pipeline, Policy
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Settings
from omnicap_cli.core.runs.sinks import JournalSink
from omnicap_cli.engines.rapidocr.engine import (
    RapidOcrEngine,
    RecogniserConfig,
    builtin_models,
    find_models,
    num_cores,
)
from omnicap_cli.engines.rapidocr.item_engine import ItemEngine
from omnicap_cli.engines.rapidocr.recogniser import library_params
from omnicap_cli.engines.registry import EngineOptions
from omnicap_cli.media.sources import Sources

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODELS = {part: str(path) for part, path in find_models(builtin_models()).items()}
ALL_CORES = RecogniserConfig(models=MODELS, num_threads=num_cores())


def main() -> None:
    """Measure both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=24, help="pictures that each side reads")
    parser.add_argument("--turns", type=int, default=3, help="how often each side is run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pages = write_pages(Path(folder) / "pages", arguments.pages)
        overhead = {
            "pipeline": lambda: pipeline_seconds(pages, Path(folder)),
            "bare, same settings": lambda: bare_seconds(pages, library_params(ALL_CORES)),
            "bare, its defaults": lambda: bare_seconds(pages, {"Global.log_level": "critical"}),
        }
        workers = {
            "1 x 1 thread": lambda: pool_seconds(pages, num_workers=1, num_threads=1),
            "2 x 1 thread": lambda: pool_seconds(pages, num_workers=2, num_threads=1),
            "1 x all threads": lambda: pool_seconds(pages, num_workers=1, num_threads=num_cores()),
        }
        print_machine("rapidocr", "onnxruntime", "opencv-python-headless")
        pipeline, same, defaults = medians(in_turns(overhead, arguments.turns), arguments.pages)
        print_row("pipeline / RapidOCR in a bare loop, same settings", pipeline / same, "<= 1.03")
        print_row("pipeline / RapidOCR in a bare loop, its defaults", pipeline / defaults, "<= 1.03")
        one, two, all_cores = medians(in_turns(workers, arguments.turns), arguments.pages)
        print_row("two one-thread workers / one, pages per second", one / two, ">= 1.5")
        print_row("two one-thread workers / one with all cores, pages per second", all_cores / two, ">= 0.95")


def medians(times: dict[str, list[float]], num_pages: int) -> list[float]:
    """The median seconds per page of each side, printed too."""
    for name, values in times.items():
        print(f"{name:<20} {seconds(values)} per page, {num_pages} pages")
    return [statistics.median(values) for values in times.values()]


def in_turns(sides: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Each side once per turn, in an order that changes from turn to turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in sides if turn % 2 == 0 else reversed(sides):
            times[name].append(sides[name]())
    return times


def write_pages(folder: Path, count: int) -> Path:
    """The example pictures again and again, under different names."""
    folder.mkdir()
    pictures = sorted(EXAMPLES.glob("*.png"))
    for number in range(count):
        source = pictures[number % len(pictures)]
        (folder / f"{number:04}-{source.name}").write_bytes(source.read_bytes())
    return folder


def bare_seconds(pages: Path, params: dict[str, Any]) -> float:
    """RapidOCR called on decoded pictures, in this process."""
    ocr = RapidOCR(params=params)
    pictures = [np.asarray(Image.open(path).convert("RGB"))[:, :, ::-1].copy() for path in sorted(pages.iterdir())]
    return between_results((ocr(picture) for picture in pictures), skip=1)


def pipeline_seconds(pages: Path, folder: Path) -> float:
    """The whole way from a folder into a journal on disk."""
    engine = RapidOcrEngine(EngineOptions(workers=1))  # with all cores, as the bare loop has them
    plan = RequestPlan(prompts=prompts(), engine=engine.identity, settings=Settings())
    clock: list[float] = []
    with Journal(folder / f"{time.monotonic_ns()}.jsonl") as journal:
        groups = plan.requests(Sources(inputs=(str(pages),)))
        stop = threading.Event()
        Pipeline(
            groups,
            engine,
            JournalSink(journal),
            policy=Policy(),
            stop=stop,
            on_result=lambda *_: clock.append(time.perf_counter()),
        ).run()
    engine.close()
    return (clock[-1] - clock[0]) / (len(clock) - 1)


def pool_seconds(pages: Path, *, num_workers: int, num_threads: int) -> float:
    """Worker processes without journal."""
    identity = RapidOcrEngine(EngineOptions()).identity
    plan = RequestPlan(prompts=prompts(), engine=identity, settings=Settings())
    requests = [request for group in plan.requests(Sources(inputs=(str(pages),))) for request in group]
    config = RecogniserConfig(models=MODELS, num_threads=num_threads)
    pool = ItemEngine("omnicap_cli.engines.rapidocr.recogniser:Recogniser", config, num_workers=num_workers)
    try:
        return between_results(pool.run(requests, threading.Event()), skip=num_workers)
    finally:
        pool.close()


def between_results(results: Iterable[object], *, skip: int) -> float:
    """Seconds per result after the first `skip`."""
    clock = [time.perf_counter() for _ in results]
    return (clock[-1] - clock[skip - 1]) / (len(clock) - skip)


def prompts() -> list:
    """What --type ocr asks."""
    return Catalogue.load().select("ocr", ["text"], "en")


if __name__ == "__main__":
    main()
