"""How fast a model is fine-tuned: beside TRL's SFTTrainer, on the same samples of mixed lengths, model and cores.

A token counts if it is one of a sample: padding doesn't. Both sides see the same samples once, as many in a step on
average, with the same rates, and learn the same answers; the losses of both show that they learn alike. TRL has to be
installed beside omnicap: pip install trl
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from harness import print_machine, print_row
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "examples/shapes"))

from build import build_model

from omnicap_cli.core.prompts import Catalogue
from omnicap_cli.training.config import TrainConfig
from omnicap_cli.training.run import Run, TrainPlan

NUM_SAMPLES = 384
BATCH_SIZE = 8
MEDIAN_WORDS, SPREAD = 60, 0.9  # of answers: log-normal
RATE = 5e-4
QUESTION = "Describe this image."
TASK_TYPE = "short_natural"


class Watcher:
    """Lets a run go to its end, and remembers what was logged."""

    def __init__(self) -> None:
        self.log: list[Mapping[str, Any]] = []
        self.started = self.seconds = 0.0

    def begin(self, _plan: TrainPlan) -> None:
        self.started = time.perf_counter()

    def step(self, _step: int, values: Mapping[str, Any]) -> None:
        self.seconds = time.perf_counter() - self.started
        if "loss" in values:
            self.log.append(values)

    def stops(self) -> bool:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="that load data, on both sides")
    arguments = parser.parse_args()
    print_machine("torch", "transformers", "trl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder, arguments.samples)
        rates: dict[str, list[float]] = {"omnicap": [], "trl": []}
        losses: dict[str, list[float]] = {"omnicap": [], "trl": []}
        waits = []
        for turn in range(arguments.turns):
            sides = ("omnicap", "trl") if turn % 2 == 0 else ("trl", "omnicap")
            for side in sides:
                if side == "omnicap":
                    rate, loss, wait = ours(folder, data, turn, arguments.workers)
                    waits.append(wait)
                else:
                    rate, loss = theirs(folder, data, arguments.workers)
                rates[side].append(rate)
                losses[side].append(loss)
    medians = {side: statistics.median(values) for side, values in rates.items()}
    details = ", ".join(f"{side} {rate:,.0f} tokens/s, loss {losses[side][-1]:.3f}" for side, rate in medians.items())
    print_row("real tokens/s over TRL's", medians["omnicap"] / medians["trl"], ">= 1.5", details=details)
    wait = statistics.median(waits)
    print_row("share of the time that waits for data", wait, "<= 0.02", details=f"{arguments.workers} workers")


def ours(folder: Path, data: Path, turn: int, num_workers: int) -> tuple[float, float, float]:
    """Tokens a second, the loss of the last third, and the share of time that waited for data."""
    settings = {
        "model": {"name": str(folder / "model")},
        "data": {"train": str(data), "max_length": 2048, "num_workers": num_workers},
        "packing": {"max_tokens": 2048},
        "optimisation": {"learning_rate": RATE, "vision_learning_rate": RATE, "schedule": "constant"},
        "checkpoint": {"output": str(folder / f"run-{turn}"), "every_steps": None},
        "logging": {"every_steps": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    run, watcher = Run(TrainConfig.read(path)), Watcher()
    plan = run.describe()
    run.train(watcher)
    steps = watcher.log[1:]  # the first one starts the workers
    late = [each["loss"] for each in steps[-len(steps) // 3 :]]
    return plan.num_tokens / watcher.seconds, statistics.mean(late), statistics.median(e["data_wait"] for e in steps)


def theirs(folder: Path, data: Path, num_workers: int) -> tuple[float, float]:
    """The same of TRL, whose collator makes the same prompts."""
    from datasets import Dataset, Features, Sequence, Value
    from datasets import Image as ImageFeature
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    records = [json.loads(line) for line in data.read_text().splitlines()]
    system = Catalogue.load().task_types[TASK_TYPE].system
    message = {"role": Value("string"), "content": Value("string")}
    features = Features({"images": Sequence(ImageFeature()), "prompt": [message], "completion": [message]})
    rows = [
        {
            "images": [each["image"]],
            "prompt": [{"role": "system", "content": system}, {"role": "user", "content": QUESTION}],
            "completion": [{"role": "assistant", "content": each["conversations"][1]["value"]}],
        }
        for each in records
    ]
    clock = Clock()
    trainer = SFTTrainer(
        AutoModelForImageTextToText.from_pretrained(folder / "model", dtype="float32"),
        SFTConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            dataloader_num_workers=num_workers,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows, features=features),
        processing_class=AutoProcessor.from_pretrained(folder / "model"),
        callbacks=[clock],
    )
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    num_tokens = sum(each["sequence_length"] for each in records)
    return num_tokens / clock.seconds, statistics.mean(map(float, losses[-len(losses) // 3 :]))


def make_data(folder: Path, num_samples: int) -> Path:
    """A model of random weights, and counted samples: crops of a photograph with made-up texts."""
    from skimage.data import astronaut

    dice, photograph = random.Random(3), Image.fromarray(astronaut())
    guide = (Path(__file__).parents[1] / "docs/guide.md").read_text()
    words = [word for word in guide.split() if word.isalpha()][:400]
    (folder / "pictures").mkdir()
    raw = folder / "raw.jsonl"
    with raw.open("w") as file:
        for number in range(num_samples):
            side = dice.randint(60, 160)
            path = folder / f"pictures/{number}.jpg"
            photograph.crop((number, number, number + side, number + dice.randint(60, 160))).save(path)
            num_words = min(600, max(4, round(MEDIAN_WORDS * math.exp(dice.gauss(0, SPREAD)))))
            answer = " ".join(dice.choices(words, k=num_words))
            turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": answer}]
            record = {"id": str(number), "image": str(path), "conversations": turns, "task_type": TASK_TYPE}
            file.write(json.dumps(record) + "\n")
    build_model(folder / "model", [*words * 5, guide, Catalogue.load().task_types[TASK_TYPE].system])
    command = [sys.executable, "-m", "omnicap_cli"]
    counted, data = folder / "counted", folder / "train.jsonl"
    count = ["tokenize", str(raw), "-o", str(counted), "--model", str(folder / "model"), "--splits", "1", "-q"]
    subprocess.run([*command, *count], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*command, "merge", str(counted), "-o", str(data), "-q"], check=True, stdout=subprocess.DEVNULL)
    return data


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
