"""How fast a training set is counted: beside a loop as the published script has it, and beside what can't be saved.

The floors are the encodings that the two counts of a record need (its texts joined, its question, its answer), one
header of each picture, and JSON read and written once; the lowest floor has the answer's encoding alone. What omnicap
takes includes its start, with a tokenizer to load.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagesize
import orjson
import tiktoken
from harness import Side, compare, print_machine, print_row, seconds
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "examples/shapes"))

from model_files import qwen2_vl_processor, train_tokenizer

from omnicap_cli.core.tokens.text_tokens import TextTokens
from omnicap_cli.datasets.tokenizing.all_splits import TokenizeConfig, tokenize_splits

NUM_RECORDS = 20_000
NUM_REFERENCE = 2000  # records that the slow reference is timed on
NUM_WORDS = 290  # of an answer, on average: about 370 tokens and 1,800 characters, as a detailed caption has
QUESTION = "Explain the key features of this picture."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json in place of a small one that is trained here")
    parser.add_argument("--records", type=int, default=NUM_RECORDS)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    print_machine("tiktoken", "tokenizers", "imagesize", "orjson", "pillow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model", arguments.tokenizer)
        data = make_data(folder, arguments.records)
        one_worker(folder, model, data, arguments)
        two_workers(folder, model, data, arguments)
        memory(folder, model)


def one_worker(folder: Path, model: Path, data: Path, arguments: argparse.Namespace) -> None:
    def ours() -> None:
        run(folder, model, data, num_splits=1, num_workers=1)

    few = folder / "few.jsonl"  # also what `memory` compares with
    few.write_bytes(b"".join(data.read_bytes().splitlines(keepends=True)[:NUM_REFERENCE]))
    reference = Reference(folder, model)
    result = compare(
        Side("reference", lambda: reference.run(few)), Side("ours", ours), turns=arguments.turns, warm_up=False
    )
    rate = arguments.records / statistics.median(result.second)
    slow = NUM_REFERENCE / statistics.median(result.first)
    details = f"reference {slow:,.0f} records/s, ours {rate:,.0f}/s"
    print_row(f"one worker, {arguments.records:,} records: rate over the loop's", rate / slow, ">= 12", details=details)
    for what, wanted, lowest in (("its floors", "<= 1.4", False), ("the lowest floor", "-", True)):
        floors = Floors(model, data, lowest=lowest)
        counted = compare(Side("ours", ours), Side("floors", floors.run), turns=arguments.turns)
        details = f"ours {seconds(counted.first)}, floors {seconds(counted.second)} ({floors.shares()})"
        print_row(f"one worker: time over that of {what}", counted.ratio, wanted, details=details)


def two_workers(folder: Path, model: Path, data: Path, arguments: argparse.Namespace) -> None:
    many = folder / "many.jsonl"  # long enough for the start of two processes not to count
    with many.open("wb") as file:
        for _ in range(5):
            file.write(data.read_bytes())

    def of(num_workers: int) -> Callable[[], None]:
        return lambda: run(folder, model, many, num_splits=8, num_workers=num_workers)

    result = compare(Side("one", of(1)), Side("two", of(2)), turns=max(3, arguments.turns // 2), warm_up=False)
    details = f"one {seconds(result.first)}, two {seconds(result.second)}"
    print_row(
        f"two workers, {5 * arguments.records:,} records: rate over one's", result.ratio, ">= 1.7", details=details
    )


def memory(folder: Path, model: Path) -> None:
    small, large = (peak_bytes(folder, model, folder / name) for name in ("few.jsonl", "many.jsonl"))
    details = f"{small / 1e6:.0f} MB and {large / 1e6:.0f} MB"
    print_row("peak memory, 100,000 records over 2,000", large / small, "<= 1.15", details=details)


def run(folder: Path, model: Path, data: Path, *, num_splits: int, num_workers: int) -> None:
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    config = TokenizeConfig(
        data=str(data),
        output=output,
        name="data",
        model=str(model),
        task_type="detailed",
        num_splits=num_splits,
        num_workers=num_workers,
    )
    report = tokenize_splits(config, io.BytesIO(), begin=lambda _: None, tell=lambda _: None, warn=sys.exit)
    assert report.num_kept == report.num_in > 0, report


class Reference:
    """A loop as the published script has it: one text, one picture, one line at a time."""

    def __init__(self, folder: Path, model: Path) -> None:
        from transformers import AutoProcessor

        self._tokenizer: Any = AutoProcessor.from_pretrained(model).tokenizer
        self._output = folder / "reference.jsonl"

    def run(self, data: Path) -> None:
        self._output.unlink(missing_ok=True)
        with open(os.devnull, "w") as nowhere, data.open() as file:
            for line in file:
                record = json.loads(line)
                text = "\n".join(message["value"] for message in record["conversations"])
                record["token_length"] = self._tokenizer(text, return_tensors="pt").input_ids.size(1)
                with Image.open(record["image"]) as image:
                    record["image_token_num"] = image.width * image.height // 784
                print(record["image"], image.size, record["image_token_num"], file=nowhere)
                record["task_type"] = "detailed"
                with self._output.open("a") as output:
                    output.write(json.dumps(record, ensure_ascii=False) + "\n")
                print(record["image"], file=nowhere)


class Floors:
    """What has to be done for every record, and nothing else."""

    def __init__(self, model: Path, data: Path, *, lowest: bool) -> None:
        self._data, self._lowest = data, lowest
        text = TextTokens((model / "tokenizer.json").read_bytes())
        assert text._fast is not None
        self._encode: Callable[[str], list[int]] = text._fast._encode
        assert isinstance(self._encode.__self__, tiktoken.Encoding)  # type: ignore[attr-defined]
        self._seconds = [0.0, 0.0, 0.0]

    def run(self) -> None:
        started = time.perf_counter()
        records = [orjson.loads(line) for line in self._data.open("rb")]
        lines = [orjson.dumps(record) for record in records]
        read = time.perf_counter()
        for record in records:
            question, answer = (message["value"] for message in record["conversations"])
            self._encode(answer)
            if not self._lowest:
                self._encode(question)
                self._encode(f"{question}\n{answer}")
        encoded = time.perf_counter()
        for record in records:
            imagesize.get(record["image"])
        ended = time.perf_counter()
        assert len(lines) == len(records)
        self._seconds = [encoded - read, ended - encoded, read - started]

    def shares(self) -> str:
        """The parts of the latest run."""
        return ", ".join(
            f"{name} {part:.2f}" for name, part in zip(("text", "headers", "JSON"), self._seconds, strict=True)
        )


def peak_bytes(folder: Path, model: Path, data: Path) -> float:
    """The largest resident memory of a process that counts `data`. (`ru_maxrss` would hold that of its parent too.)"""
    shutil.rmtree(folder / "output", ignore_errors=True)
    words = ["tokenize", str(data), "-o", str(folder / "output"), "--model", str(model), "--task-type", "detailed"]
    code = "import atexit; atexit.register(lambda: print(open('/proc/self/status').read()))"
    code += "; from omnicap_cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words, "-q"], check=True, capture_output=True, text=True)
    return float(done.stdout.partition("VmHWM:")[2].split()[0]) * 1024


def make_model(folder: Path, tokenizer: Path | None) -> Path:
    """A folder with a processor, and no weights: that is all that is read."""
    words = vocabulary(random.Random(1))
    texts = [" ".join(random.Random(number).choices(words, k=200)) for number in range(300)]
    processor = qwen2_vl_processor(train_tokenizer(texts, num_tokens=4000))
    processor.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    if tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


def make_data(folder: Path, num_records: int) -> Path:
    """Records with a picture each: crops of a photograph, half of them PNG."""
    from skimage.data import astronaut

    photograph, draw = Image.fromarray(astronaut()), random.Random(2)
    words, data, images = vocabulary(draw), folder / "data.jsonl", folder / "images"
    images.mkdir()
    with data.open("wb") as file:
        for number in range(num_records):
            width, height = draw.randint(60, 160), draw.randint(60, 160)
            path = images / f"{number}.{'png' if number % 2 else 'jpg'}"
            photograph.crop((number % 300, number % 290, number % 300 + width, number % 290 + height)).save(path)
            answer = " ".join(draw.choices(words, k=draw.randint(NUM_WORDS // 2, NUM_WORDS * 3 // 2))) + "."
            conversation = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": answer}]
            record = {"id": str(number), "image": str(path), "conversations": conversation}
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    return data


def vocabulary(draw: random.Random) -> list[str]:
    """Words of the model card and the guide, with their punctuation."""
    guide = (Path(__file__).parents[1] / "docs/guide.md").read_text()
    words = [word for word in guide.split() if word.strip(".,:;()").isalpha()]
    draw.shuffle(words)
    return words


if __name__ == "__main__":
    main()
