"""What goes wrong with a request, a batch or the device costs as little as can be; and slow or stopped sources."""

from __future__ import annotations

import contextlib
import shutil
import threading

import pytest
import torch
from PIL import Image
from support.huggingface_runs import SHORT, draw_pictures, engine_of, mixed_sizes, requests_of, run_engine
from support.huggingface_runs import one_thread as one_thread  # a fixture

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Idle
from omnicap_cli.errors import EngineError

# --- what goes wrong


def out_of_memory_beyond(num_rows, captioner):
    """What a device without room for more would do."""
    real, seen = captioner.answer, []

    def answer(asked, take):
        seen.append(len(asked))
        if len(asked) > num_rows:
            real(asked[: num_rows // 2], take)  # some were done before it happened
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        real(asked, take)

    captioner.answer, captioner.seen = answer, seen


def test_out_of_memory_halves_the_batch_and_loses_nothing(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(12))
    whole = run_engine(engine_of(tiny_model("qwen2_vl")), folder)
    seen = []

    def watch(captioner):
        out_of_memory_beyond(5, captioner)
        seen.append(captioner.seen)

    small = run_engine(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)
    assert {name: each.text for name, each in small.items()} == {name: each.text for name, each in whole.items()}
    assert max(seen[0]) > 5 >= min(seen[0])


def test_a_request_that_never_fits_fails_alone(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", [(100, 100), (250, 250), (90, 120)])

    def watch(captioner):
        real = captioner.answer

        def answer(asked, take):
            if any(each.visuals[0].width == 250 for each in asked):
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            real(asked, take)

        captioner.answer = answer

    found = run_engine(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)
    for (name, _), result in found.items():
        if name == "0001.png":
            assert result.error.kind == "OutOfMemoryError"
            assert "81 tokens of the picture" in result.error.message  # 252 x 252 pixels in squares of 28
            assert "--max-pixels" in result.error.message
        else:
            assert result.error is None


def test_what_the_model_chokes_on_fails_alone(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(4))
    Image.new("RGB", (77, 77)).save(folder / "bad.png")

    def watch(captioner):
        real = captioner.answer

        def answer(asked, take):
            if any(each.visuals[0].width == 77 for each in asked):
                raise ValueError("no such shape")
            real(asked, take)

        captioner.answer = answer

    found = run_engine(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)
    failed = {name for (name, _), result in found.items() if result.error}
    assert failed == {"bad.png"}
    assert found["bad.png", "short"].error.kind == "InferenceError"
    assert "no such shape" in found["bad.png", "short"].error.message


def test_a_lost_device_ends_the_run(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(3))

    def watch(captioner):
        def answer(*_):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

        captioner.answer = answer

    with pytest.raises(EngineError, match="illegal memory access"):
        run_engine(engine_of(tiny_model("qwen2_vl")), folder, on_captioner=watch)


def test_broken_and_too_long_pictures_become_errors(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", [(60, 60)])
    Image.new("RGB", (2010, 10)).save(folder / "long.png")
    Image.new("RGB", (2000, 10)).save(folder / "just.png")
    whole = (folder / "0000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    found = run_engine(engine_of(tiny_model("qwen2_vl")), folder, [SHORT])
    kinds = {name: result.error.kind if result.error else None for (name, _), result in found.items()}
    assert kinds == {
        "0000.png": None,
        "just.png": None,
        "long.png": "AspectRatioError",
        "cut.png": "DecodeError",
        "text.png": "UnsupportedError",
    }


def test_a_model_that_does_not_load_is_an_engine_error(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "model")
    engine = engine_of(model)
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(EngineError, match="can't be loaded"):
        run_engine(engine, draw_pictures(tmp_path / "in", [(50, 50)]))


@pytest.mark.parametrize("where", ["_encode", "_choose_types"])
def test_out_of_memory_before_the_first_word(tiny_model, tmp_path, where):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(6))
    prompt = Catalogue.load().automatic([], "en")
    whole = run_engine(engine_of(tiny_model("qwen2_vl")), folder, [prompt])

    def watch(captioner):
        real, calls = getattr(captioner, where), []

        def fail_once(asked):
            calls.append(len(asked))
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(asked)

        setattr(captioner, where, fail_once)

    small = run_engine(engine_of(tiny_model("qwen2_vl")), folder, [prompt], on_captioner=watch)
    assert {name: each.text for name, each in small.items()} == {name: each.text for name, each in whole.items()}


def test_whoever_takes_no_more_results_ends_the_run(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"), batch_size=2, max_new_tokens=100_000)
    engine.warm_up()
    captioner = engine._loading.result()[0]
    with torch.no_grad():  # texts without an end
        captioner._model.lm_head.weight[list(captioner._end_token_ids)] = 0.0
    folder = draw_pictures(tmp_path / "in", mixed_sizes(20))
    Image.new("RGB", (2010, 10)).save(folder / "0.png")  # answered at once
    results = engine.run(requests_of(engine, folder, [SHORT]), threading.Event())
    assert next(results).error.kind == "AspectRatioError"
    results.close()
    assert not [each for each in threading.enumerate() if each.name == "_work"]


def test_what_the_source_raises_is_raised(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"))
    requests = list(requests_of(engine, draw_pictures(tmp_path / "in", mixed_sizes(2)), [SHORT]))

    def source():
        yield requests[0]
        raise ZeroDivisionError("from the source")

    with pytest.raises(ZeroDivisionError, match="from the source"):
        list(engine.run(source(), threading.Event()))


# --- a slow source, and an early stop


def test_a_slow_source_gets_its_results_before_the_next_request(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"))
    requests = list(requests_of(engine, draw_pictures(tmp_path / "in", mixed_sizes(3)), [SHORT]))
    answered = threading.Semaphore(0)

    def source():
        for request in requests:
            yield request
            yield Idle.IDLE
            assert answered.acquire(timeout=60), "the result was held back"

    keys = []
    with contextlib.closing(engine):
        for result in engine.run(source(), threading.Event()):
            keys.append(result.key)
            answered.release()
    assert keys == [request.key for request in requests]


def test_on_stop_only_what_is_on_the_device_is_finished(tiny_model, tmp_path):
    engine = engine_of(tiny_model("qwen2_vl"), batch_size=2)
    requests = list(requests_of(engine, draw_pictures(tmp_path / "in", mixed_sizes(20)), [SHORT]))
    stop, results = threading.Event(), []
    with contextlib.closing(engine):
        for result in engine.run(iter(requests), stop):
            results.append(result)
            stop.set()
    assert 1 <= len(results) <= 4
    assert all(result.error is None for result in results)
