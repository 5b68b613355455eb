"""How fast a model is fine-tuned: beside TRL's SFTTrainer, on the same samples of mixed lengths, model and cores.

A token counts if it is one of a sample: padding doesn't. Both sides see the same samples once, as many in a step on
average, with the same rates, and learn the same answers. That they learn alike is shown by their losses on the way, and
by that of all answers with the model in the end. TRL has to be installed beside omnicap: pip install trl
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from harness import print_machine, print_row
from PIL import Image
from transformers import AutoModelForImageTextToText

sys.path.append(str(Path(__file__).parents[1] / "examples/shapes"))

from build import build_model

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.training.config.sections import TrainConfig
from omnicap_cli.training.data.collating import collate
from omnicap_cli.training.run import TrainingRun, TrainPlan

NUM_SAMPLES = 384
BATCH_SIZE = 8
MAX_TOKENS = 860  # half of what a batch holds on average
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
        sides = ("packed", "grouped", "trl")
        runs: dict[str, list[Result]] = {side: [] for side in sides}
        for turn in range(arguments.turns):
            for side in sides[turn % 3 :] + sides[: turn % 3]:
                if side == "trl":
                    runs[side].append(theirs(folder, data, arguments.workers))
                else:
                    output = folder / f"{side}-{turn}"
                    runs[side].append(ours(folder, data, output, arguments.workers, packs=side == "packed"))
    rates = {side: statistics.median(each.tokens_per_second for each in results) for side, results in runs.items()}
    for side in sides[:-1]:
        details = ", ".join(
            f"{name} {rates[name]:,.0f} tokens/s, losses {' '.join(f'{loss:.2f}' for loss in runs[name][0].losses)}"
            for name in (side, "trl")
        )
        print_row(f"{side}: real tokens/s over TRL's", rates[side] / rates["trl"], ">= 1.5", details=details)
        ends = [statistics.median(each.final_loss for each in runs[name]) for name in (side, "trl")]
        wanted = "<= 1.02" if side == "packed" else "(for scale)"  # batches of equal lengths are other batches
        details = f"{side} {ends[0]:.3f}, trl {ends[1]:.3f}"
        print_row(f"{side}: loss in the end over TRL's", ends[0] / ends[1], wanted, details=details)
        wait = statistics.median(each.data_wait for each in runs[side])
        details = f"{arguments.workers} workers"
        print_row(f"{side}: share of the time that waits for data", wait, "<= 0.02", details=details)


class Result(NamedTuple):
    """`losses` are the means of each fifth of the steps, `final_loss` is that of all answers after the last.

    `data_wait` is the median share of a step's time.
    """

    tokens_per_second: float
    losses: list[float]
    final_loss: float
    data_wait: float = 0.0


def fifths(losses: Sequence[float]) -> list[float]:
    return [statistics.mean(losses[len(losses) * n // 5 : len(losses) * (n + 1) // 5]) for n in range(5)]


def ours(folder: Path, data: Path, output: Path, num_workers: int, *, packs: bool) -> Result:
    """With `packs` two of MAX_TOKENS make a step, else a batch of about equally long samples."""
    run, watcher = TrainingRun(recipe(folder, data, output, num_workers, packs=packs)), Watcher()
    plan = run.describe()
    report = run.train(watcher)
    steps = watcher.log[1:]  # the first one starts the workers
    wait = statistics.median(each["data_wait"] for each in steps)
    losses = fifths([each["loss"] for each in watcher.log])
    trained = AutoModelForImageTextToText.from_pretrained(report.checkpoint, dtype="float32")
    return Result(plan.num_tokens / watcher.seconds, losses, final_loss(trained, run), wait)


def recipe(folder: Path, data: Path, output: Path, num_workers: int, *, packs: bool) -> TrainConfig:
    settings = {
        "model": {"name": str(folder / "model")},
        "data": {"train": str(data), "max_length": MAX_TOKENS, "num_workers": num_workers},
        "packing": {"max_tokens": MAX_TOKENS, "enabled": packs},
        "optimisation": {
            "learning_rate": RATE,
            "vision_learning_rate": RATE,
            "schedule": "constant",
            "warmup_ratio": 0,
            "batch_size": 1 if packs else BATCH_SIZE,
            "gradient_accumulation": 2 if packs else 1,
        },
        "checkpoint": {"output": str(output), "every_steps": None},
        "logging": {"every_steps": 1},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return TrainConfig.read(path)


@torch.no_grad()
def final_loss(model: Any, run: TrainingRun) -> float:
    """The mean of all learned tokens."""
    loss_sum, num_tokens = 0.0, 0
    for sample in range(len(run.corpus)):
        batch = collate([[run.reader.read(run.corpus.record(sample))]], pad_token_id=0)
        num_supervised = int((batch["shift_labels"] >= 0).sum())
        loss_sum += float(model.eval()(**batch).loss) * num_supervised
        num_tokens += num_supervised
    return loss_sum / num_tokens


def theirs(folder: Path, data: Path, num_workers: int) -> Result:
    """The same of TRL, whose collator makes the same prompts."""
    from datasets import Dataset, Features, Sequence, Value
    from datasets import Image as ImageFeature
    from transformers import AutoProcessor, TrainerCallback
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
    run = TrainingRun(recipe(folder, data, folder / "unused", num_workers, packs=True))
    return Result(num_tokens / clock.seconds, fifths([float(loss) for loss in losses]), final_loss(trainer.model, run))


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
            num_words = min(450, max(4, round(MEDIAN_WORDS * math.exp(dice.gauss(0, SPREAD)))))
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
