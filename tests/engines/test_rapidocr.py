"""The rapidocr engine with its real weights: what it reads, what it says of models, and what it keeps quiet about."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from omnicap_cli.core.planning import RequestPlan
from omnicap_cli.core.prompts import Catalogue
from omnicap_cli.core.records import Item, MediaRef, Settings
from omnicap_cli.engines.base import EngineOptions
from omnicap_cli.engines.rapidocr import builtin_models, create, find_models
from omnicap_cli.errors import EngineError, OptionError

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
WORDS = {  # as examples/*.txt have them
    "poster.png": ["RIVERSIDE", "LANTERNS", "Saturday", "September", "FREE ENTRY"],
    "receipt.jpg": ["GREEN CORNER", "Braeburn", "24.45", "TOTAL"],
    "sign-zh.png": ["滨江公园", "禁止游泳"],
}


def caption(*arguments, timeout=300):
    """`omnicap caption` as a user runs it."""
    command = [sys.executable, "-m", "omnicap_cli", "caption", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def records_of(text):
    return {(Path(record["id"]).name, record["style"]): record for record in map(json.loads, text.splitlines())}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Pictures on which there is nothing to read."""
    folder = tmp_path_factory.mktemp("shapes")
    for size in [(200, 100), (1, 1), (1, 30_000), (30_000, 1), (2, 2), (31, 31)]:
        Image.new("RGB", size, "white").save(folder / f"{size[0]}x{size[1]}.png")
    Image.new("RGB", (300, 200), "black").save(folder / "black.png")
    Image.new("RGB", (1, 1), "black").save(folder / "black-dot.png")
    return folder


@pytest.fixture(scope="module")
def one_worker(shapes, tmp_path_factory):
    """What one process makes of the examples and of the empty pictures, in both styles: process and records."""
    return run_all(shapes, tmp_path_factory.mktemp("one") / "out.jsonl", 1)


def run_all(shapes, output, num_workers):
    pictures = [EXAMPLES / name for name in WORDS]
    options = ["--type", "ocr", "--style", "text,markdown", "--workers", num_workers, "-o", output]
    done = caption(*pictures, shapes, *options)
    assert done.returncode == 0, done.stderr
    return done, records_of(output.read_text("utf-8"))


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("style", ["text", "markdown"])
def test_words_of_the_examples_are_read(one_worker, name, style):
    _, records = one_worker
    record = records[name, style]
    assert [word for word in WORDS[name] if word not in record["caption"]] == []
    assert (record["status"], record["finish_reason"], record["engine"]) == ("ok", "stop", "rapidocr")
    with Image.open(EXAMPLES / name) as image:
        assert (record["width"], record["height"]) == image.size
    assert record["output_tokens"] > 0


def test_where_there_is_nothing_to_read_the_caption_is_empty(one_worker, shapes):
    _, records = one_worker
    names = sorted(path.name for path in shapes.iterdir())
    assert len(names) == 8
    for name in names:
        for style in ("text", "markdown"):
            record = records[name, style]
            assert (name, record["status"], record["caption"]) == (name, "ok", "")
            assert (record["finish_reason"], record["output_tokens"]) == ("stop", 0)
    assert (records["1x30000.png", "text"]["width"], records["1x30000.png", "text"]["height"]) == (1, 30_000)


def test_two_processes_give_the_same_records_as_one(one_worker, shapes, tmp_path):
    _, expected = one_worker
    _, found = run_all(shapes, tmp_path / "out.jsonl", 2)
    for records in (expected, found):
        assert all(record["seconds"] >= 0 for record in records.values())
    timeless = [{key: {**record, "seconds": None} for key, record in records.items()} for records in (expected, found)]
    assert timeless[0] == timeless[1]


def test_the_library_keeps_quiet(one_worker):
    done, _ = one_worker
    assert done.stdout == ""
    assert "rapidocr" not in done.stderr.lower()
    assert "INFO" not in done.stderr
    assert "onnx" not in done.stderr.lower()
    assert len(done.stderr.splitlines()) <= 2  # the summary


def test_records_on_stdout_are_nothing_but_records():
    done = caption(EXAMPLES / "poster.png", "--type", "ocr")
    assert done.returncode == 0, done.stderr
    assert list(records_of(done.stdout)) == [("poster.png", "text")]
    assert "rapidocr" not in done.stderr.lower()


def test_two_styles_of_a_picture_cost_one_recognition(monkeypatch):
    from rapidocr import RapidOCR

    from omnicap_cli.engines.rapidocr import RecogniserConfig, num_cores
    from omnicap_cli.engines.rapidocr_worker import Recogniser
    from omnicap_cli.media.decode import decode

    models = {part: str(path) for part, path in find_models(builtin_models()).items()}
    worker = Recogniser(RecogniserConfig(models=models, num_threads=num_cores()))
    num_calls, recognise = 0, RapidOCR.__call__

    def counting(self, *arguments, **options):
        nonlocal num_calls
        num_calls += 1
        return recognise(self, *arguments, **options)

    monkeypatch.setattr(RapidOCR, "__call__", counting)
    engine = create(EngineOptions())
    prompts = Catalogue.load().select("ocr", ("text", "markdown"), "en")
    plan = RequestPlan(prompts=prompts, engine=engine.identity, settings=Settings())

    def answer_all(name):
        item = Item(id=name, image=name, media=MediaRef(path=str(EXAMPLES / name)), fingerprint="")
        first, second = plan.requests_of(item)
        pixels = decode(item, Settings())
        before = num_calls
        texts = [worker.answer(replace(first, num_following=1), pixels).text, worker.answer(second, pixels).text]
        both = num_calls - before
        alone = worker.answer(first, pixels).text
        assert alone == texts[0]
        return both, num_calls - before - both

    for name in ("poster.png", "receipt.jpg"):
        both, alone = answer_all(name)
        assert both == alone >= 1


# --- models


@pytest.fixture(scope="module")
def copied_models(tmp_path_factory):
    """A folder with the wheel's models, their names as they are."""
    folder = tmp_path_factory.mktemp("models")
    for path in find_models(builtin_models()).values():
        shutil.copyfile(path, folder / path.name)
    return folder


def test_a_folder_of_models(copied_models, one_worker):
    done = caption(EXAMPLES / "poster.png", "--type", "ocr", "--engine", "rapidocr", "--model", copied_models)
    assert done.returncode == 0, done.stderr
    record = records_of(done.stdout)["poster.png", "text"]
    _, builtin = one_worker
    assert record["caption"] == builtin["poster.png", "text"]["caption"]
    assert (record["model"], record["revision"]) == ("PP-OCRv6", None)  # as its recognition file is called
    assert record["key"] != builtin["poster.png", "text"]["key"]


def test_other_weights_in_a_folder_are_another_model(copied_models, tmp_path):
    def identity():
        return create(EngineOptions(model=str(tmp_path))).identity

    for path in copied_models.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
        os.utime(tmp_path / path.name, ns=(1, 1))
    before = identity()
    assert identity() == before
    os.utime(next(tmp_path.iterdir()), ns=(1, 2))
    assert identity() != before


@pytest.mark.parametrize("content", ["nothing", "other files", "no recogniser", "two recognisers"])
def test_a_folder_without_the_models_is_explained(tmp_path, content):
    if content != "nothing":
        (tmp_path / "notes.txt").write_text("no model")
    if "recogniser" in content:
        (tmp_path / "PP-OCRv4_det_mobile.onnx").write_bytes(b"x")
    if content == "two recognisers":
        (tmp_path / "a_rec_x.onnx").write_bytes(b"x")
        (tmp_path / "b_rec_x.onnx").write_bytes(b"x")
    with pytest.raises(OptionError, match="--model") as caught:
        create(EngineOptions(model=str(tmp_path)))
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_model_that_is_no_folder_is_explained(tmp_path, kind):
    path = tmp_path / "model"
    if kind == "file":
        path.write_bytes(b"x")
    with pytest.raises(OptionError, match="--model"):
        create(EngineOptions(model=str(path)))


@pytest.mark.parametrize("part", ["det", "rec"])
def test_a_truncated_model_is_an_engine_error(copied_models, tmp_path, part):
    for path in copied_models.iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data[: len(data) // 2] if f"_{part}_" in path.name else data)
    engine = create(EngineOptions(model=str(tmp_path)))
    prompts = Catalogue.load().select("ocr", ("text",), "en")
    plan = RequestPlan(prompts=prompts, engine=engine.identity, settings=Settings())
    path = str(EXAMPLES / "poster.png")
    item = Item(id="a", image="a", media=MediaRef(path=path), fingerprint="")
    try:
        with pytest.raises(EngineError) as caught:
            list(engine.run(iter(plan.requests_of(item)), threading.Event()))
    finally:
        engine.close()
    assert "load" in caught.value.message
    assert f"_{part}_" in caught.value.message  # which of the files is broken


def test_a_truncated_model_ends_the_command_without_a_traceback(copied_models, tmp_path):
    for path in copied_models.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[:1000])
    done = caption(EXAMPLES / "poster.png", "--type", "ocr", "--engine", "rapidocr", "--model", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "load" in done.stderr
    assert "Traceback" not in done.stderr


IDENTITY = """
import sys
from omnicap_cli.engines.base import EngineOptions, create_engine
identity = create_engine("rapidocr", EngineOptions()).identity
assert identity.engine == "rapidocr" and identity.model and identity.revision and identity.fingerprint, identity
heavy = {"rapidocr", "onnxruntime", "cv2"} & set(sys.modules)
assert not heavy, heavy
print(identity.model)
"""


def test_the_identity_is_known_without_loading_the_library():
    done = subprocess.run([sys.executable, "-c", IDENTITY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PP-OCR")


def test_the_identity_is_the_same_each_time():
    assert create(EngineOptions()).identity == create(EngineOptions(workers=2)).identity
