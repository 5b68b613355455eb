"""Captioning with a local model beside a loop as the published script has it, and beside the model alone.

Both sides answer the same prompts about the same pictures with the same random model in float32; how long each answer
is was drawn once, from a fixed list, and no end mark is heeded. The loop takes one picture and one prompt at a time and
calls the processor each time. The ceiling is the vision encoder and generation alone, by the same code, on batches that
are ready. Sides run in turns in one process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import print_machine, print_row, seconds
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.journal import Journal
from omnicap_cli.core.runs.pipeline import Pipeline, Policy
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Prompt, Request, Result, Settings
from omnicap_cli.core.runs.sinks import JournalSink
from omnicap_cli.engines.generation import Generation
from omnicap_cli.engines.huggingface.captioner import Captioner, Question
from omnicap_cli.engines.huggingface.decoding import GeneratedRow
from omnicap_cli.engines.huggingface.engine import HuggingFaceEngine
from omnicap_cli.engines.registry import DeviceOptions, EngineOptions
from omnicap_cli.media.sources import Sources

ROOT = Path(__file__).resolve().parent.parent
NUM_TOKENS = (16, 24, 48, 64, 96, 128, 192, 256)  # of answers, as tags, sentences and descriptions have them
SIDES = (112, 140, 196, 224, 280, 336, 448)  # in pixels


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3, help="how often each side is run")
    parser.add_argument("--pictures", type=int, default=12, help="for all styles and languages")
    parser.add_argument("--mixed", type=int, default=64, help="for one style")
    parser.add_argument("--many", type=int, default=2000, help="for the memory")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        return measure_memory(arguments.memory_of)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_model(folder)
        print_machine("torch", "transformers")
        catalogue = Catalogue.load()
        everything = catalogue.select("aigc", ["all"], "all")
        pictures = draw_pictures(folder / "few", arguments.pictures)
        compare("all styles and languages", Job(model, pictures, everything), arguments.turns, wanted=6)
        mixed = draw_pictures(folder / "mixed", arguments.mixed)
        one = catalogue.select("natural", ["short"], "en")
        compare("one style", Job(model, mixed, one), arguments.turns, wanted=4)
        draw_pictures(folder / "many", arguments.many)
        print_memory(folder)
    return None


# ------------------------------------------------------------------------------------- what both sides do


class Job:
    """Pictures and prompts for one model, with the length of each answer."""

    def __init__(self, model: Path, pictures: Path, prompts: list[Prompt]) -> None:
        self.model, self.pictures, self.prompts = model, pictures, prompts
        dice = random.Random(0)
        self.names = sorted(str(path) for path in pictures.iterdir())
        self.num_tokens = {(name, prompt.sha): dice.choice(NUM_TOKENS) for name in self.names for prompt in prompts}

    def length_of(self, request: Request) -> int:
        return self.num_tokens[request.item.id, request.prompt.sha]


class TimedCaptioner(Captioner):
    """A captioner that ends answers where the job says, and notes what it was asked and how long it took."""

    def follow(self, job: Job) -> None:
        self._job, self._end_token_ids = job, frozenset()
        self.asked: list[list[Request]] = []
        self.model_seconds = 0.0
        self.resident: list[float] = []  # MB after each batch

    def _row(self, question: Question, _generation: Generation) -> GeneratedRow:
        return GeneratedRow(max_new_tokens=self._job.length_of(question.request))

    def answer(self, questions: Sequence[Question], on_result: Callable[[Result], None]) -> None:
        started = time.perf_counter()
        super().answer(questions, on_result)
        self.model_seconds += time.perf_counter() - started
        self.asked.append([question.request for question in questions])
        self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)


class Ours:
    """The whole way from files to a journal, the model loaded before."""

    def __init__(self, job: Job, folder: Path, *, batch_size: int | None = None) -> None:
        self._job, self._folder, self._num_runs = job, folder, 0
        generation = Generation(max_new_tokens=max(NUM_TOKENS))
        options = EngineOptions(
            model=str(job.model),
            devices=DeviceOptions(device="cpu"),
            batch_size=batch_size,
            generation=generation,
        )
        self._engine = HuggingFaceEngine(options)
        self._engine.warm_up()
        captioner, self._planner = self._engine._loading.result()
        captioner.__class__ = TimedCaptioner
        self.captioner: Any = captioner
        self.outside: list[float] = []  # shares of time without the model

    def run(self) -> None:
        self.captioner.follow(self._job)
        self._num_runs += 1
        started = time.perf_counter()
        sources = Sources(inputs=(str(self._job.pictures),))
        plan = RequestPlan(prompts=self._job.prompts, engine=self._engine.identity, settings=Settings())
        with Journal(self._folder / f"{self._num_runs}.jsonl") as journal:
            tally = Pipeline(
                plan.requests(sources),
                self._engine,
                JournalSink(journal),
                policy=Policy(),
                stop=threading.Event(),
            ).run()
        assert tally.num_ok == len(self._job.num_tokens), tally
        self.outside.append(1 - self.captioner.model_seconds / (time.perf_counter() - started))
        self.batches = self.captioner.asked


class Ceiling:
    """The batches that ours was seen to make, their pictures prepared: only the model is timed."""

    def __init__(self, ours: Ours, job: Job) -> None:
        self._ours, self._job = ours, job

    def prepare(self) -> None:
        captioner = self._ours.captioner
        captioner.follow(self._job)
        self._ready = []
        for batch in self._ours.batches:
            names = dict.fromkeys(request.item.id for request in batch)
            pictures = {name: captioner.prepare(opened(name), Settings()) for name in names}
            self._ready.append([Question.of(request, pictures[request.item.id]) for request in batch])

    def run(self) -> None:
        for questions in self._ready:
            self._ours.captioner.answer(questions, lambda _: None)


class Reference:
    """One picture, one prompt at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._processor = AutoProcessor.from_pretrained(job.model)
        self._model = AutoModelForImageTextToText.from_pretrained(job.model, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def run(self) -> None:
        for name in self._job.names:
            for prompt in self._job.prompts:
                image = opened(name)
                messages = [
                    {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.user}]},
                ]
                text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                inputs = self._processor(text=[text], images=[image], return_tensors="pt")
                num_tokens = self._job.num_tokens[name, prompt.sha]
                ids = self._model.generate(**inputs, do_sample=False, max_new_tokens=num_tokens)
                new = ids[:, inputs["input_ids"].shape[1] :]
                assert new.shape[1] == num_tokens
                self._processor.batch_decode(new, skip_special_tokens=True)


def opened(name: str) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(name)).convert("RGB")


# ------------------------------------------------------------------------------------- the figures


def compare(what: str, job: Job, turns: int, *, wanted: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, reference = Ours(job, Path(folder)), Reference(job)
        ours.run()  # to warm up, and to see the batches
        ceiling = Ceiling(ours, job)
        times: dict[str, list[float]] = {"ours": [], "ceiling": [], "reference": []}
        ours.outside.clear()
        for _ in range(turns):
            times["ours"].append(timed(ours.run))
            ceiling.prepare()
            times["ceiling"].append(timed(ceiling.run))
            times["reference"].append(timed(reference.run))
    medians = {name: statistics.median(values) for name, values in times.items()}
    num_rows = [len(batch) for batch in ours.batches]
    print(f"\n{what}: {len(job.names)} pictures x {len(job.prompts)} prompts in batches of {num_rows}")
    details = ", ".join(f"{name} {seconds(values)}" for name, values in times.items())
    print_row(f"{what}: reference / ours", medians["reference"] / medians["ours"], f">= {wanted}", details=details)
    print_row(f"{what}: reference / ceiling", medians["reference"] / medians["ceiling"], "(ceiling)")
    print_row(f"{what}: ceiling / ours", medians["ceiling"] / medians["ours"], ">= 0.95")
    print_row(f"{what}: share of time outside the model", statistics.median(ours.outside), "<= 0.05")


def timed(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def print_memory(folder: Path) -> None:
    command = [sys.executable, __file__, "--memory-of", str(folder)]
    first, last = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    print_row("memory: second half of many pictures / first half", last / first, "<= 1.05", details=f"{last:.0f} MB")


def measure_memory(folder: Path) -> None:
    """Print the memory in MB that is taken after a batch: the median in the first half of a run, and in the second."""
    job = Job(folder / "model", folder / "many", Catalogue.load().select("natural", ["tag"], "en"))
    job.num_tokens = dict.fromkeys(job.num_tokens, 4)
    ours = Ours(job, folder, batch_size=32)
    ours.run()
    resident = ours.captioner.resident
    middle = len(resident) // 2
    print(statistics.median(resident[:middle]), statistics.median(resident[middle:]))


# ------------------------------------------------------------------------------------- what it is measured on


def build_model(folder: Path) -> Path:
    """The small Qwen2-VL of examples/shapes, of random weights, with tokens for both languages."""
    sys.path.append(str(ROOT / "examples/shapes"))
    from build import build_model as build

    texts = [text for prompt in Catalogue.load().prompts for text in (prompt.system, prompt.user)]
    build(folder / "model", texts)
    return folder / "model"


def draw_pictures(folder: Path, num_pictures: int) -> Path:
    """Pictures of mixed sizes, of smooth noise: JPEG takes as long for them as for photographs."""
    folder.mkdir()
    dice = np.random.default_rng(0)
    for number in range(num_pictures):
        width, height = dice.choice(SIDES, 2)
        noise = Image.fromarray(dice.integers(0, 255, (height // 14, width // 14, 3), dtype=np.uint8))
        noise.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
