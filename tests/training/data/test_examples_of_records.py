"""Examples against the processors, the position ids and the chat templates of Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.training_data import FPS, count, draw_media, each_kind, reader_of, record
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.errors import NotFoundError
from omnicap_cli.training.data.examples import UncuttableError
from omnicap_cli.training.data.record_index import DataError

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SYSTEM = Catalogue.load().task_types["short"].system


@pytest.fixture(scope="module", params=QWEN)
def folder(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    draw_media(folder)
    return folder


@pytest.fixture(scope="module")
def records(folder, media):
    path = count(media, folder, each_kind(), name=folder.name)
    return {each["id"]: each for each in map(json.loads, path.read_text().splitlines())}


@pytest.fixture(scope="module")
def reader(folder, media):
    return reader_of(folder, media)


def by_the_processor(processor, media, each):
    """What transformers itself makes of a record."""
    images = [each["image"]] if isinstance(each.get("image"), str) else each.get("image") or []
    pictures = [ImageOps.exif_transpose(Image.open(media / name)).convert("RGB") for name in images]
    messages = [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]}]
    for turn in each["conversations"]:
        if turn["from"] == "gpt":
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn["value"]}]})
            continue
        content = []
        for number, piece in enumerate(turn["value"].replace("<video>", "<image>").split("<image>")):
            if number:
                content.append({"type": "video" if each.get("video") else "image"})
                piece = piece.removeprefix("\n")
            if piece:
                content.append({"type": "text", "text": piece})
        messages.append({"role": "user", "content": content})
    text = processor.apply_chat_template(messages, tokenize=False)
    if not each.get("video"):
        options = {"size": shared(processor, len(pictures))} if len(pictures) > 1 else {}
        return processor(text=[text], images=pictures or None, images_kwargs=options, return_tensors="pt")
    video = cv2.VideoCapture(str(media / each["video"]))
    frames = [video.read()[1][..., ::-1] for _ in range(13)]
    metadata = VideoMetadata(total_num_frames=13, fps=FPS, duration=13 / FPS, height=96, width=64)
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    options = {"do_sample_frames": True, "fps": 2, "video_metadata": [metadata]}
    return processor(text=[text], videos=[clip], videos_kwargs=options, return_tensors="pt", return_metadata=True)


def shared(processor, num_images):
    """Pictures of a sample share the most pixels that one may have."""
    size = processor.image_processor.size
    return {"shortest_edge": size["shortest_edge"], "longest_edge": size["longest_edge"] // num_images}


@pytest.mark.parametrize("name", [each["id"] for each in each_kind()])
def test_all_inputs_are_those_of_the_processor(processor, model, media, records, reader, name) -> None:
    example, expected = reader.read(records[name]), by_the_processor(processor, media, records[name])
    wanted = expected["input_ids"][0].tolist()
    assert example.input_ids.tolist() == wanted[: len(example)]
    assert processor.tokenizer.decode(wanted[len(example) :]) in ("", "\n")  # which the template writes after all
    for patches, values, grid in (
        (example.images, "pixel_values", "image_grid_thw"),
        (example.clips, "pixel_values_videos", "video_grid_thw"),
    ):
        assert (patches is None) == (values not in expected)
        if patches is not None:
            torch.testing.assert_close(patches.pixel_values, expected[values], rtol=0, atol=1e-6)
            assert patches.grid_thw.tolist() == expected[grid].tolist()


@pytest.mark.parametrize("name", [each["id"] for each in each_kind()])
def test_positions_are_those_of_the_model(processor, model, media, records, reader, name) -> None:
    example, inputs = reader.read(records[name]), by_the_processor(processor, media, records[name])
    seconds = inputs.get("second_per_grid_ts")
    extra = {} if seconds is None else {"second_per_grid_ts": torch.as_tensor(seconds)}
    given = {each: inputs.get(each) for each in ("input_ids", "image_grid_thw", "video_grid_thw", "mm_token_type_ids")}
    expected, _ = model.model.get_rope_index(**given, **extra)
    length = min(len(example), expected.shape[2])
    assert example.positions[1:, :length].tolist() == expected[:, 0, :length].tolist()
    assert example.positions[0].tolist() == list(range(len(example)))


@pytest.mark.parametrize("name", [each["id"] for each in each_kind()])
def test_supervised_are_the_answers_and_the_marks_that_end_them(processor, records, reader, name) -> None:
    example = reader.read(records[name])
    learnt = example.labels >= 0
    assert example.labels[learnt].tolist() == example.input_ids[learnt].tolist()
    answers = [turn["value"] for turn in records[name]["conversations"] if turn["from"] == "gpt"]
    assert processor.tokenizer.decode(example.labels[learnt]) == "".join(f"{answer}<|im_end|>" for answer in answers)


def test_counts_of_another_model_are_noticed(records, reader) -> None:
    with pytest.raises(DataError, match="counted as"):
        reader.read(records["picture"] | {"sequence_length": records["picture"]["sequence_length"] + 1})


def test_a_picture_that_changed_is_noticed(folder, tmp_path) -> None:
    draw_media(tmp_path)
    path = count(tmp_path, folder, [record("a", "<image>\nWhat?", "It.", image="0.png")])
    Image.new("RGB", (300, 200)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match="counted as"):
        reader_of(folder, tmp_path).read(json.loads(path.read_text()))


def test_a_missing_picture_is_an_error_of_the_item(records, reader) -> None:
    with pytest.raises(NotFoundError):
        reader.read(records["picture"] | {"image": "gone.png"})


def test_only_text_is_cut(records, reader) -> None:
    whole = reader.read(records["picture"])
    cut = reader.read(records["picture"], max_tokens=len(whole) - 2)
    assert cut.input_ids.tolist() == whole.input_ids.tolist()[:-2]
    assert cut.labels.tolist() == whole.labels.tolist()[:-2]
    assert cut.images.grid_thw.tolist() == whole.images.grid_thw.tolist()
    last_of_picture = int((whole.input_ids == reader.layout.image_token_id).nonzero()[-1])
    reader.read(records["picture"], max_tokens=last_of_picture + 1)
    with pytest.raises(UncuttableError):
        reader.read(records["picture"], max_tokens=last_of_picture)
