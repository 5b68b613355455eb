"""How texts end: models that repeat themselves are stopped, and tried again by chance."""

from __future__ import annotations

import random

import pytest
import torch
from support.huggingface_runs import SHORT, draw_pictures, engine_of, mixed_sizes, run_engine
from support.huggingface_runs import one_thread as one_thread  # a fixture
from transformers import AutoProcessor

from omnicap_cli.engines.generation import Generation
from omnicap_cli.engines.huggingface import decoding


def test_the_model_that_repeats_itself_is_stopped(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", [(56, 56)])

    def stutter(captioner):
        with torch.no_grad():
            captioner._model.lm_head.weight.zero_()  # all logits are equal, and the first token wins for ever

    found = run_engine(engine_of(tiny_model("qwen2_vl"), max_new_tokens=1000), folder, [SHORT], on_captioner=stutter)
    [result] = found.values()
    tokenizer = AutoProcessor.from_pretrained(tiny_model("qwen2_vl")).tokenizer
    assert result.finish_reason == "repetition"
    assert result.text == tokenizer.decode([0])
    assert result.output_tokens == 1


def test_a_loop_is_tried_again_by_chance(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", [(56, 56), (70, 70)])
    engine = engine_of(tiny_model("qwen2_vl"), max_new_tokens=1000, retry_loops=True)

    def stutter(captioner):
        with torch.no_grad():
            captioner._model.lm_head.weight.zero_()

    for result in run_engine(engine, folder, [SHORT], on_captioner=stutter).values():
        assert result.finish_reason in ("stop", "length")  # drawn from all tokens alike, it doesn't loop
        assert len(set(result.text.split())) > 1 or result.output_tokens < 3


@pytest.mark.parametrize("memory_runs_out", [False, True])
def test_a_second_try_draws_anew_and_loses_nothing(tiny_model, tmp_path, memory_runs_out):
    folder = draw_pictures(tmp_path / "in", [(56, 56)])
    engine = engine_of(tiny_model("qwen2_vl"), max_new_tokens=600, retry_loops=True)

    def watch(captioner):
        with torch.no_grad():
            captioner._model.lm_head.weight.zero_()
        real, calls = captioner._generate, []

        def generate(*given):
            calls.append(given)
            if len(calls) == 2 and memory_runs_out:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return real(*given)

        captioner._generate = generate

    [result] = run_engine(engine, folder, [SHORT], on_captioner=watch).values()
    assert (result.finish_reason == "repetition") == memory_runs_out
    generation = Generation(temperature=0.7)
    assert generation.dice("k").random() != generation.dice("k", attempt=2).random()


def test_draws_hang_on_the_seed_and_not_on_the_batch(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(6))

    def texts(**options):
        found = run_engine(engine_of(tiny_model("qwen2_vl"), temperature=1.0, **options), folder)
        return {name: result.text for name, result in found.items()}

    first = texts(seed=1)
    assert texts(seed=1, batch_size=4) == first
    assert texts(seed=2) != first
    assert len(set(first.values())) > 12


def test_draws_have_the_probabilities_of_the_scores():
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.025, 0.0])
    seeds = torch.tensor([random.Random(number).getrandbits(63) for number in range(40_000)])
    drawn = (probabilities.log() + decoding._gumbel(seeds, 6)).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=6) / 40_000
    assert shares.tolist() == pytest.approx(probabilities.tolist(), abs=0.0125)  # five standard deviations
    assert shares[5] == 0


def test_top_k_of_one_is_greedy(tiny_model, tmp_path):
    folder = draw_pictures(tmp_path / "in", mixed_sizes(4))
    greedy = run_engine(engine_of(tiny_model("qwen2_vl")), folder)
    drawn = run_engine(engine_of(tiny_model("qwen2_vl"), temperature=1.5, top_k=1), folder)
    assert {name: each.text for name, each in drawn.items()} == {name: each.text for name, each in greedy.items()}
