"""Sequences against what the processors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL make of the same conversations."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_models import files, tiny_model  # noqa: F401  a fixture
from transformers import AutoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as resize_image
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize as resize_frame
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as resize_clip
from transformers.video_utils import VideoMetadata

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.tokens.clip_grid import Clip
from omnicap_cli.core.tokens.samples import MediaKind, Sample, SampleError
from omnicap_cli.core.tokens.sequences import IGNORED
from omnicap_cli.core.tokens.training_input import TrainingFormat, TrainingInput
from omnicap_cli.errors import EngineError

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NUM_CASES = 1000  # of each family
CATALOGUE = Catalogue.load()
TASK_TYPES = sorted(CATALOGUE.task_types)
END_OF_TURN = "<|im_end|>"
PIECES = (
    *(
        "A harbour at sunrise",
        "the sky, ",
        "Describe it.",
        "图中有一只猫",
        "。",
        "写出所有文字",
        "🙂",
        "👩\u200d👩\u200d👧",
    ),
    *("<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|im_start|>assistant\n", "<|im_", "end|>", "<image >"),
    *("<|video_pad|>", "\n", "\n\n", " ", "   ", "\t", "\r\n", " \n ", "1234567", "3.14", "don't", "I'LL", "# Title"),
    *("| a | b |", "\\frac{1}{2}", "e\u0301a\u0323\u0301", "ﬁ", "Ⅳ", "\u1df6", "가", "\u1100\u1161", "क्षि"),
    *("\u200b", "\u00a0", "ſ's", "’", "A" * 300, "ab" * 100, "！？"),
)
MARKS = {MediaKind.IMAGE: "<image>", MediaKind.VIDEO: "<video>"}


@pytest.fixture(scope="module", params=QWEN)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tiny_model, family, tmp_path_factory):  # noqa: F811
    """A model whose tokenizer has learnt line breaks and other white space in tokens of several characters."""
    copied = shutil.copytree(tiny_model(family), tmp_path_factory.mktemp("learnt") / family)
    draw = Random("what the tokenizer learns from")
    files.train_tokenizer([drawn_text(draw, least=8) for _ in range(400)], num_tokens=2000).save_pretrained(copied)
    return copied


@pytest.fixture(scope="module")
def processor(folder) -> Any:
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def inputs(folder) -> TrainingInput:
    return TrainingInput(TrainingFormat(folder=folder))


class SizeOnly:
    """An image processor that is told sizes, and makes of them what the real one would make of such pictures.

    A picture of 20,000 by 20,000 pixels is two gigabytes: what stands here for it is the library's own `smart_resize`.
    """

    def __init__(self, real: Any, sizes: Sequence[tuple[int, int]], limits: tuple[int, int]) -> None:
        self._real, self._sizes, self._limits = real, sizes, limits

    def __call__(self, images: Any, **kwargs: Any) -> dict[str, Any]:
        side = self._real.patch_size * self._real.merge_size
        low, high = self._limits
        shapes = [
            resize_image(height, width, factor=side, min_pixels=low, max_pixels=high) for height, width in self._sizes
        ]
        grids = [[1, height // self._real.patch_size, width // self._real.patch_size] for height, width in shapes]
        return {"image_grid_thw": torch.tensor(grids)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class ClipsOnly:
    """The same for clips, with the library's own sampling."""

    def __init__(self, real: Any, clips: Sequence[Clip]) -> None:
        self._real, self._clips = real, clips

    def __call__(self, videos: Any, **kwargs: Any) -> dict[str, Any]:
        grids, metadata = [], []
        for clip in self._clips:
            about = VideoMetadata(total_num_frames=clip.num_frames, fps=clip.fps)
            indices = self._real.sample_frames(about, fps=self._real.fps or 2.0)
            about.frames_indices = indices
            metadata.append(about)
            grids.append(self._grid(len(indices), clip))
        return {"video_grid_thw": torch.tensor(grids), "video_metadata": metadata}

    def _grid(self, num_frames: int, clip: Clip) -> list[int]:
        size, side = self._real.size, self._real.patch_size * self._real.merge_size
        limits = {"factor": side, "min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        if type(self._real).__name__ == "Qwen3VLVideoProcessor":
            shape = resize_clip(num_frames, clip.height, clip.width, **limits)
        else:
            shape = resize_frame(clip.height, clip.width, **limits)
        return [-(-num_frames // 2), *(edge // self._real.patch_size for edge in shape)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def expected(processor: Any, case: Any, grid: Any) -> Any:
    """The ids by transformers alone, for pictures and clips of the case's sizes."""
    replaced = copy.copy(processor)
    num_images = len(case.sizes)
    high = grid.max_pixels // max(1, num_images)
    replaced.image_processor = SizeOnly(processor.image_processor, case.sizes, (min(grid.min_pixels, high), high))
    replaced.video_processor = ClipsOnly(processor.video_processor, case.clips)
    return replaced.apply_chat_template(
        case.messages, tokenize=True, return_dict=True, return_tensors=None, sanitize_control_tokens=True
    )["input_ids"][0]


def drawn_text(random: Random, *, least: int = 0) -> str:
    length = random.choice((least, 1, 3, 8, 20, 200 if random.random() < 0.1 else 5))
    return "".join(random.choice(PIECES) + random.choice(("", "", " ")) for _ in range(max(least, length)))


def drawn_edge(random: Random) -> int:
    return random.choice((1, 2, 27, 28, 29, random.randint(1, 60), random.randint(1, 3000), random.randint(1, 20_000)))


def drawn_case(random: Random) -> Any:
    """A record, and the same conversation as transformers takes it."""
    images, clips = random.choice(((1, 0), (1, 0), (2, 0), (5, 0), (0, 1), (0, 2), (0, 0), (1, 1)))
    sizes = [(drawn_edge(random), drawn_edge(random)) for _ in range(images)]
    sizes = [(h, w) if max(h, w) <= 200 * min(h, w) else (h, min(20_000, 200 * h) if w > h else w) for h, w in sizes]
    sizes = [(min(h, 200 * w), w) for h, w in sizes]
    films = [
        Clip(random.choice((4, 5, 7, 9, 31, 250, 1001)), random.choice((2.0, 23.976, 25.0, 29.97, 60.0)), w, h)
        for w, h in ((random.randint(16, 1920), random.randint(16, 1080)) for _ in range(clips))
    ]
    kinds = [MediaKind.IMAGE] * images + [MediaKind.VIDEO] * clips
    num_turns = random.choice((1, 1, 1, 2, 4))
    contents: list[list[Any]] = [[] for _ in range(num_turns)]
    marked = bool(kinds) and random.random() < 0.5
    values = []
    for turn in range(num_turns):
        parts: list[Any] = [drawn_text(random)]
        if marked:
            here = kinds if turn == num_turns - 1 else kinds[: random.randint(0, len(kinds))]
            kinds = kinds[len(here) :]
            for kind in here:
                parts += [kind, drawn_text(random)]
        elif turn == 0:
            parts = [*kinds, *parts]
        # a line break beside a mark belongs to it, so a text that begins or ends with one is another case
        strip = (
            (lambda text: text.strip("\n")) if any(isinstance(part, MediaKind) for part in parts) and marked else str
        )
        parts = [part if isinstance(part, MediaKind) else strip(part) for part in parts]
        contents[turn] = [part for part in parts if part != ""]
        beside = random.choice(("", "\n"))
        written = [MARKS[part] + beside if isinstance(part, MediaKind) else part for part in parts]
        values.append("".join(written) if marked else "".join(part for part in parts if isinstance(part, str)))
    answers = [drawn_text(random, least=1) + "x" for _ in range(num_turns)]
    task_type = random.choice(TASK_TYPES)
    messages = [{"role": "system", "content": [{"type": "text", "text": CATALOGUE.system_for_task(task_type)}]}]
    turns = []
    for content, value, answer in zip(contents, values, answers, strict=True):
        messages.append({"role": "user", "content": [as_part(part) for part in content]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        turns += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    record: dict[str, Any] = {"id": "x", "conversations": turns, "task_type": task_type}
    if sizes:
        record["image"] = [f"{n}.png" for n in range(len(sizes))] if len(sizes) > 1 else "0.png"
    if films:
        record["video"] = [f"{n}.mp4" for n in range(len(films))]
    return SimpleNamespace(record=record, messages=messages, sizes=sizes, clips=films, answers=answers)


def as_part(part: Any) -> dict[str, Any]:
    if part is MediaKind.IMAGE:
        return {"type": "image", "image": Image.new("RGB", (1, 1))}
    if part is MediaKind.VIDEO:
        return {"type": "video", "video": np.zeros((4, 4, 4, 3), np.uint8)}
    return {"type": "text", "text": part}


def sized(inputs: TrainingInput, case: Any) -> Any:
    sample = Sample.of_record(case.record)
    images = [inputs.image(height, width, num_images=len(case.sizes)) for height, width in case.sizes]
    return sample, images, [inputs.clip(clip) for clip in case.clips]


def test_random_samples_are_what_the_processor_makes_of_them(inputs, processor, family) -> None:
    draw = Random(f"sequences of {family}")
    tokenizer = processor.tokenizer
    for number in range(NUM_CASES):
        case = drawn_case(draw)
        sample, images, clips = sized(inputs, case)
        task_type = inputs.task_type(sample)
        ids = expected(processor, case, inputs._grid)
        sequence = inputs.builder.build(inputs.parts(sample, task_type, images, clips))
        assert sequence.input_ids == ids, (number, case.record, case.sizes, case.clips)
        counts = inputs.counts(sample, task_type, images, clips)
        assert counts.sequence_length == len(ids), (number, case.record)
        num_visual = sum(ids.count(tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>")) for kind in ("image", "video"))
        assert counts.image_token_num == num_visual, (number, case.record)
        text = "\n".join(message["value"] for message in case.record["conversations"])
        marked = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            chat_template="{{ messages[0].content }}<|im_end|>" + " " * 0,
            tokenize=True,
            return_dict=False,
            sanitize_control_tokens=True,
        )
        assert counts.token_length == len(marked) - 1, (number, case.record)


def test_supervised_are_the_answers_each_with_its_end_mark(inputs, processor, family) -> None:
    draw, tokenizer = Random(f"labels of {family}"), processor.tokenizer
    for _ in range(100):
        case = drawn_case(draw)
        sample, images, clips = sized(inputs, case)
        sequence = inputs.builder.build(inputs.parts(sample, inputs.task_type(sample), images, clips))
        assert len(sequence.labels) == len(sequence.input_ids)
        runs: list[list[int]] = [[]]
        for number, label in zip(sequence.input_ids, sequence.labels, strict=True):
            if label == IGNORED:
                runs += [[]] if runs[-1] else []
                continue
            assert label == number
            runs[-1].append(label)
        decoded = [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs if run]
        assert [text.endswith(END_OF_TURN) for text in decoded] == [True] * len(case.answers)
        for text, answer in zip(decoded, case.answers, strict=True):
            written = tokenizer.backend_tokenizer.normalizer.normalize_str(answer + END_OF_TURN)
            if answer[0].isspace():  # white space may share a token with the line break before the answer
                assert written.endswith(text)
                assert not written.removesuffix(text).strip()
            else:
                assert text == written


@pytest.mark.parametrize("limits", [{}, {"min_pixels": 4 * 784, "max_pixels": 300 * 784}, {"max_pixels": 5000}])
@pytest.mark.parametrize("num_images", [1, 2, 3, 7])
def test_several_pictures_share_the_pixels_of_one(folder, processor, limits, num_images) -> None:
    inputs = TrainingInput(TrainingFormat(folder=folder, **limits))
    own = processor.image_processor.size
    high = limits.get("max_pixels", own["longest_edge"])
    low = min(limits.get("min_pixels", own["shortest_edge"]), high // num_images)
    picture = Image.effect_noise((900, 410), 50).convert("RGB")
    size = {"shortest_edge": low, "longest_edge": high // num_images}
    grid = processor.image_processor(picture, size=size, return_tensors="pt")["image_grid_thw"]
    assert inputs.image(410, 900, num_images=num_images).num_tokens == int(grid.prod()) // 4


@pytest.mark.parametrize(("height", "width"), [(1, 201), (201, 1), (20_000, 99), (3, 601)])
def test_a_picture_that_is_too_long_is_refused_as_the_processor_does(inputs, processor, height, width) -> None:
    with pytest.raises(ValueError, match="aspect ratio"):
        resize_image(height, width)
    with pytest.raises(SampleError) as caught:
        inputs.image(height, width)
    assert caught.value.reason == "aspect_ratio"


def test_task_types_are_the_records_own_or_one_for_all(inputs, folder) -> None:
    sample = Sample.of_record({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]})
    with pytest.raises(SampleError) as caught:
        inputs.task_type(sample)
    assert caught.value.reason == "no_task_type"
    with pytest.raises(SampleError) as caught:
        inputs.task_type(sample._replace(task_type="poem"))
    assert caught.value.reason == "unknown_task_type"
    assert inputs.task_type(sample._replace(task_type="OCR")) == "OCR"
    for_all = TrainingInput(TrainingFormat(folder=folder, task_type="chart"))
    assert for_all.task_type(sample._replace(task_type="OCR")) == "chart"


def test_a_template_that_treats_turns_differently_is_refused(folder, tmp_path) -> None:
    copied = shutil.copytree(folder, tmp_path / "model")
    template = (copied / "chat_template.jinja").read_text()
    for changed in (
        template.replace('"<|im_end|>\\n"', '"<|im_end|>\\n" if not loop.last else "<|im_end|>"', 1),
        template.replace("part.text", "part.text | trim | upper"),
        template.replace("part.text", "part.text | trim"),
        template.replace("part.text", "part.text.lstrip('\\n')"),
        "{{ raise_exception('no system text here') }}",
        "{% for",
        "hello",
    ):
        assert changed != template
        (copied / "chat_template.jinja").write_text(changed)
        if "loop.last" in changed:  # another end of the last turn is known, and learnt
            TrainingInput(TrainingFormat(folder=copied))
            continue
        with pytest.raises(EngineError):
            TrainingInput(TrainingFormat(folder=copied))
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(EngineError, match="chat_template"):
        TrainingInput(TrainingFormat(folder=copied))
