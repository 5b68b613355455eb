"""What `omnicap tokenize` counts, against transformers and arithmetic by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from support.tokenize_runs import TOKENS_OF_PICTURES, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

from omnicap_cli.core.prompts.catalogue import Catalogue

SYSTEM = Catalogue.load().system_for_task("OCR")


def ids_by_transformers(model: Path, content: list[dict[str, Any]], answer: str, system: str = SYSTEM) -> list[int]:
    """The ids of a conversation, the real processor with the real pictures at work."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    processor = AutoProcessor.from_pretrained(model)
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors=None)["input_ids"][0]


def picture(path: str) -> dict[str, Any]:
    return {"type": "image", "image": Image.open(path).convert("RGB")}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def turned(path: str, size: tuple[int, int]) -> None:
    """A JPEG of that size that is shown turned by a quarter."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", size).save(path, exif=exif)


def video(path: str, *, num_frames: int, fps: float) -> list[np.ndarray]:
    """Write a clip of noise, and return its frames."""
    frames = list(np.random.default_rng(0).integers(0, 255, (num_frames, 48, 64, 3), dtype=np.uint8))
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), fps, (64, 48))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return frames


def test_a_sequence_is_as_long_as_what_the_processor_makes(tokenizing) -> None:
    turned("in/turned.jpg", (70, 300))
    question, answer = "What does it say?", "A harbour at sunrise. 图"
    given = [
        (f"<image>\n{question}", ["in/3.png"], [picture("in/3.png"), text(question)]),
        ("<image> and <image>", ["in/0.png", "in/2.png"], [picture("in/0.png"), text(" and "), picture("in/2.png")]),
        (question, "in/turned.jpg", [{"type": "image", "image": Image.new("RGB", (300, 70))}, text(question)]),
        (question, None, [text(question)]),
        (question, [], [text(question)]),
    ]
    tokenizing.data([record(0, asked, answer, image=image) for asked, image, _ in given])
    assert tokenizing.here().num_rejected == 0
    wanted = [ids_by_transformers(tokenizing.model, content, answer) for _, _, content in given]
    assert [each["sequence_length"] for each in tokenizing.kept()] == [len(ids) for ids in wanted]
    pad = AutoProcessor.from_pretrained(tokenizing.model).image_token_id
    assert [each["image_token_num"] for each in tokenizing.kept()] == [ids.count(pad) for ids in wanted]
    assert tokenizing.kept()[2]["image_token_num"] == 11 * 2  # 300 x 70, not 70 x 300: 10.7 and 2.5


def test_a_clip_counts_as_the_video_processor_cuts_it(tokenizing) -> None:
    frames = video("in/clip.mp4", num_frames=31, fps=10.0)
    tokenizing.data([record(0, "<video>\nWhat happens?", "Noise.", image=None, video="in/clip.mp4")])
    tokenizing.here(task_type="video")
    processor = AutoProcessor.from_pretrained(tokenizing.model)
    metadata = VideoMetadata(total_num_frames=31, fps=10.0, height=48, width=64, duration=3.1)
    grid = processor.video_processor(
        [np.stack(frames)], video_metadata=[metadata], do_sample_frames=True, fps=2.0, return_tensors="pt"
    )["video_grid_thw"]
    (kept,) = tokenizing.kept()
    assert kept["image_token_num"] == int(grid.prod()) // 4
    assert kept["task_type"] == "video"


def test_several_pictures_share_the_limit(tokenizing) -> None:
    tokenizing.data([record(0, image=["in/3.png"]), record(1, "<image><image>", "A.", image=["in/3.png"] * 2)])
    tokenizing.here(max_pixels=400 * 300)
    first, second = (each["image_token_num"] for each in tokenizing.kept())
    assert first == 14 * 10  # 14.3 x 10.7 are 14 x 11, which is over the limit, so rounded down
    assert second == 2 * (10 * 7)  # the sides divided by the root of two: 10.1 x 7.6


def test_limits_of_pixels(tokenizing) -> None:
    tokenizing.data([record(2), record(3)])
    tokenizing.here(min_pixels=100_352, max_pixels=100_352)
    assert [each["image_token_num"] for each in tokenizing.kept()] == [30 * 5, 13 * 9]  # 29.2 x 4.4 up, 13.1 x 9.8 down


def test_relative_paths_begin_at_the_image_root(tokenizing) -> None:
    tokenizing.data([record(0, image="0.png"), record(1, image=str(Path("in/3.png").absolute()))])
    tokenizing.here(image_root="in")
    assert [each["image_token_num"] for each in tokenizing.kept()] == [TOKENS_OF_PICTURES[0], TOKENS_OF_PICTURES[3]]


def test_a_task_type_for_all_wins(tokenizing) -> None:
    tokenizing.data([record(0), record(0, task_type=None), record(0, task_type="no such thing")])
    tokenizing.here(task_type="short_CN")
    assert [each["task_type"] for each in tokenizing.kept()] == ["short_CN"] * 3
    assert len({each["sequence_length"] for each in tokenizing.kept()}) == 1


def test_own_system_texts(tokenizing) -> None:
    own = '[types.aigc.styles.short.en]\nsystem = "Laugh a lot."\n[types.ocr.styles.text.en]\nsystem = "Read."\n'
    Path("own.toml").write_text(f'{own}[task_types]\nOCR = "ocr/text/en"\nmemes = "aigc/short/en"\n')
    tokenizing.data([record(0), record(0, task_type="memes")])
    tokenizing.here(prompts=Path("own.toml"))
    content, answer = [picture("in/0.png"), text("Describe it.")], "A harbour, number 0."
    assert [each["sequence_length"] for each in tokenizing.kept()] == [
        len(ids_by_transformers(tokenizing.model, content, answer, system)) for system in ("Read.", "Laugh a lot.")
    ]


def test_the_longest_sequence_that_is_kept(tokenizing) -> None:
    tokenizing.data([record(n) for n in range(4)])
    tokenizing.here(output=Path("all"))
    lengths = [each["sequence_length"] for each in tokenizing.kept(out="all")]
    limit = sorted(lengths)[2]
    report = tokenizing.here(max_length=limit)
    assert [each["sequence_length"] for each in tokenizing.kept()] == [each for each in lengths if each <= limit]
    assert report.rejected == {"too_long": 1}
