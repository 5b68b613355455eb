"""Small training sets as training reads them: real pictures and a clip, counted by `omnicap tokenize` itself."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.tiny_models import SENTENCES, files  # noqa: F401  and with it the path to examples/shapes

from omnicap_cli.core.models.loading import load_processor
from omnicap_cli.core.tokens.training_input import TrainingFormat, TrainingInput
from omnicap_cli.datasets.merging.merge_splits import DataMergeConfig, merge_data
from omnicap_cli.datasets.tokenizing.all_splits import TokenizeConfig, tokenize_splits
from omnicap_cli.training.config.mixture import DataSet
from omnicap_cli.training.data.corpus import Corpus
from omnicap_cli.training.data.examples import ExampleReader, VisionLayout

PICTURE_SIZES = ((60, 60), (90, 60), (120, 90), (56, 140))
FPS = 8.0


def draw_media(folder: Path) -> None:
    """Four pictures `0.png` … of noise, the last turned by its EXIF, and `clip.mp4` of 13 frames."""
    import cv2

    dice = np.random.default_rng(5)
    for number, (width, height) in enumerate(PICTURE_SIZES):
        image = Image.fromarray(dice.integers(0, 256, (height, width, 3), dtype=np.uint8))
        exif = image.getexif()
        exif[0x0112] = 6 if number == 3 else 1
        image.save(folder / f"{number}.png", exif=exif)
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), FPS, (64, 96))
    for number in range(13):
        writer.write(np.full((96, 64, 3), 15 * number, np.uint8) + dice.integers(0, 60, (96, 64, 3), dtype=np.uint8))
    writer.release()


def record(id: str, *said: str, image: Any = None, video: Any = None, task_type: str = "short") -> dict[str, Any]:
    """A record of questions and answers in turn."""
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(said)]
    media = {name: value for name, value in (("image", image), ("video", video)) if value is not None}
    return {"id": id, **media, "conversations": turns, "task_type": task_type}


def each_kind() -> list[dict[str, Any]]:
    """Text alone, a picture, several, a clip, and several turns."""
    return [
        record("text", "What is it?", "The street is crowded with bicycles."),
        record("picture", "<image>\nDescribe this image in detail.", "A yellow circle.", image="0.png"),
        record("pictures", "<image> and <image>\nCompare.", "Two children.", image=["1.png", "3.png"]),
        record("clip", "<video>\nWhat is the main object?", "A photograph of a small harbour.", video="clip.mp4"),
        record("turns", "<image>\nWhat?", "A canoe.", "Where?", "On the lake, in the mist.", image="2.png"),
    ]


def many(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Records of unequal lengths, about one in four of text alone."""
    dice = random.Random(seed)
    records = []
    for number in range(count):
        answer = " ".join(dice.sample(SENTENCES, dice.randint(1, 4)))
        if number % 4:
            image = f"{dice.randrange(len(PICTURE_SIZES))}.png"
            records.append(record(f"r{number}", "<image>\nDescribe this image.", answer, image=image))
        else:
            records.append(record(f"r{number}", dice.choice(SENTENCES), answer))
    return records


def count(folder: Path, model: Path, records: Iterable[dict[str, Any]], name: str = "data") -> Path:
    """Counted records in one file, `NAME.jsonl`; pictures are found from `folder`."""
    raw, target = folder / f"{name}.raw.jsonl", folder / f"{name}.jsonl"
    raw.write_text("".join(json.dumps(each) + "\n" for each in records))
    config = TokenizeConfig(
        data=str(raw), output=folder / f"{name}.counted", name=name, model=str(model), image_root=str(folder)
    )
    report = tokenize_splits(config, io.BytesIO(), begin=lambda _: None, tell=lambda _: None, warn=lambda _: None)
    assert not report.num_rejected, report.rejected
    merge_data(DataMergeConfig(inputs=(config.output,), output=target, keep_duplicates=True))
    return target


def make_data(folder: Path, model: Path, *, num_train: int, num_held_out: int) -> Path:
    """`train.jsonl` and `held-out.jsonl`: samples of very unequal lengths, some of text alone."""
    draw_media(folder)
    count(folder, model, many(num_train), "train")
    count(folder, model, many(num_held_out, seed=2), "held-out")
    return folder


def reader_of(model: Path, root: Path | None) -> ExampleReader:
    """What makes examples for a model."""
    from transformers import AutoConfig

    layout = VisionLayout.of_config(AutoConfig.from_pretrained(model))
    input = TrainingInput(TrainingFormat(folder=model), fast=False)
    return ExampleReader(input, load_processor(model), layout, image_root=str(root) if root else None)


def corpus_of(paths: Sequence[Path], cache: Path, *, max_tokens: int = 7000) -> Corpus:
    """All samples of files."""
    sets = [DataSet(path=path) for path in paths]
    return Corpus.open(sets, cache, max_tokens=max_tokens, too_long="refuse", seed=0)
