"""The rapidocr engine with its real weights: what it reads, what it says of models, and what it keeps quiet about."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.engines.rapidocr.engine import builtin_models, create, find_models, num_cores
from omnicap_cli.engines.registry import EngineOptions
from omnicap_cli.errors import EngineError, OptionError

EXAMPLES = Path(__file__).parents[3] / "examples"
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


def test_the_current_folder_is_no_place_for_modules(tmp_path):
    """A data set may hold a queue.py; that of the installed command is not looked for there."""
    for name in ("cv2.py", "queue.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported from the current folder')\n")
    shutil.copy(EXAMPLES / "sign-zh.png", tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    done = subprocess.run(
        [Path(sys.executable).with_name("omnicap"), "caption", "sign-zh.png", "--type", "ocr"],
        cwd=tmp_path,
        env={name: value for name, value in environment.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    caption = records_of(done.stdout)["sign-zh.png", "text"]["caption"]
    assert [word for word in WORDS["sign-zh.png"] if word not in caption] == []


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_loading(worker):
    return "onnxruntime" in Path(f"/proc/{worker.pid}/maps").read_text()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="what a process has loaded is not seen here")
@pytest.mark.parametrize("moment", ["loading", "working"])
def test_a_service_that_is_stopped_finishes_what_is_being_worked_on(tmp_path, moment):
    """systemd and the like send SIGTERM to every process: to the group, and to those with a session of their own."""
    ids = [f"{number}.png" for number in range(5)]
    for name in ids:
        shutil.copy(EXAMPLES / "sign-zh.png", tmp_path / name)
    journal = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "omnicap_cli", "caption", *ids, "--type", "ocr", "--workers", "1", "-o", journal]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        family = psutil.Process(process.pid)
        wait_until(family.children, process)
        (worker,) = family.children()
        if moment == "loading":
            wait_until(lambda: is_loading(worker), process)
        else:
            wait_until(lambda: journal.exists() and journal.stat().st_size, process)
        worker.terminate()
        time.sleep(0.3)  # long enough for one that may die to be dead
        assert worker.is_running()
        assert worker.status() != psutil.STATUS_ZOMBIE
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 143, said
    assert "stopping" in said
    assert "the same command again" in said
    assert "error" not in said
    text = journal.read_text("utf-8")
    assert not text or text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["id"] for record in records] == ids[: len(records)]
    assert {record["status"] for record in records} <= {"ok"}
    assert len(records) < len(ids)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert sorted(records_of(journal.read_text("utf-8"))) == [(name, "text") for name in ids]
    assert len(journal.read_text("utf-8").splitlines()) == len(ids)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 8),
        ("50000 100000\n", 1),  # half a core is one
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # a core and a half: two, or the half is wasted
        ("3200000 100000\n", 8),  # more than there are
        ("", 8),
        (None, 8),
    ],
)
def test_cores_are_those_that_the_container_may_use(monkeypatch, quota, cores):
    def read_text(path, *_arguments):
        assert path == Path("/sys/fs/cgroup/cpu.max")
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", read_text)
    assert num_cores() == cores


def test_two_styles_of_a_picture_cost_one_recognition(monkeypatch):
    from rapidocr import RapidOCR

    from omnicap_cli.engines.rapidocr.engine import RecogniserConfig
    from omnicap_cli.engines.rapidocr.recogniser import Recogniser
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
        item = Item(id=name, image=name, visuals=(MediaRef(path=str(EXAMPLES / name)),), fingerprint="")
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
    item = Item(id="a", image="a", visuals=(MediaRef(path=path),), fingerprint="")
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
from omnicap_cli.engines.registry import EngineOptions, create_engine
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
