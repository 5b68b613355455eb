"""Samples in one sequence are trained on as if each was alone: the same logits, losses and gradients.

Flash-attention needs a GPU; something that is called alike, and is told the same lengths, stands in for it here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from support.training_data import count, draw_media, each_kind, reader_of
from transformers import AttentionInterface, AutoModelForImageTextToText
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from omnicap_cli.errors import OptionError
from omnicap_cli.training.attention import BY_SAMPLE, attend_by_sample, takes_lengths
from omnicap_cli.training.data.collating import collate, stats_of
from omnicap_cli.training.model import check_isolation, isolates_samples

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PAD = 0


@pytest.fixture(scope="module", params=QWEN)
def folder(request, tiny_model):
    return tiny_model(request.param)


MASK, SAMPLES, FLASH = "mask", "samples", "flash_attention_2"  # what keeps samples of a row apart


def with_attention(folder, way, monkeypatch):
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    if way == FLASH:
        monkeypatch.setitem(AttentionInterface._global_mapping, FLASH, flash_stand_in)
        for config in (
            model.config.text_config,
            *(module.config for module in model.modules() if is_configured(module)),
        ):
            config._attn_implementation_internal = FLASH
    if way != MASK:
        attend_by_sample(model)
    assert takes_lengths(model.config) == (way != MASK)
    return model


def is_configured(module):
    return hasattr(getattr(module, "config", None), "_attn_implementation_internal")


def flash_stand_in(
    module, query, key, value, attention_mask, *, cu_seq_lens_q=None, cu_seq_lens_k=None, is_causal=None, **kwargs
):
    """One sequence after the other, as many as the lengths say."""
    assert attention_mask is None
    ends = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    assert cu_seq_lens_q is cu_seq_lens_k or torch.equal(cu_seq_lens_q, cu_seq_lens_k)
    assert ends[-1] == query.shape[2]
    is_causal = module.is_causal if is_causal is None else is_causal
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
    sequences = [[each[:, :, start:end] for each in (query, key, value)] for start, end in pairwise(ends)]
    outputs = [
        F.scaled_dot_product_attention(*each, is_causal=is_causal, scale=kwargs["scaling"]) for each in sequences
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


@pytest.fixture(params=["eval", "train"])
def mode(request):
    return request.param


@pytest.fixture(params=[MASK, SAMPLES, FLASH])
def model(request, folder, mode, monkeypatch):
    return with_attention(folder, request.param, monkeypatch).train(mode == "train")


@pytest.fixture
def plain(folder, mode):
    """The model as transformers makes it, to which others are compared."""
    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").train(mode == "train")


@pytest.fixture(scope="module")
def reader(folder, tmp_path_factory):
    media = tmp_path_factory.mktemp("media")
    draw_media(media)
    reader = reader_of(folder, media)
    reader.path = count(media, folder, each_kind())
    return reader


@pytest.fixture(scope="module")
def examples(reader):
    return [reader.read(json.loads(line)) for line in reader.path.read_text().splitlines()]


def collated(model, rows, **options):
    return collate(rows, pad_token_id=PAD, varlen=takes_lengths(model.config), **options)


def logits_of(model, rows):
    return model(**collated(model, rows, all_logits=True)).logits


def gradients(model, batches, num_items):
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = model(**batch, num_items_in_batch=num_items).loss
        loss.backward()
        total += loss.item()
    return total, {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def supervised(examples):
    return sum(int((each.labels[1:] >= 0).sum()) for each in examples)


# Here and below in double precision: in single, rounding alone comes to 1e-5 on some processors, for logits of 7.


def test_logits_of_a_pack_are_those_of_its_samples(model, plain, examples) -> None:
    packed = logits_of(model.double(), [examples])[0]
    plain.double()
    start = 0
    for example in examples:
        alone = logits_of(plain, [[example]])[0]
        torch.testing.assert_close(packed[start : start + len(example)], alone, rtol=0, atol=1e-6)
        start += len(example)
    assert start == packed.shape[0]


def test_gradients_of_the_mean_loss_are_those_of_single_samples(model, plain, examples) -> None:
    num_items = supervised(examples)
    model.double()
    alone, expected = gradients(plain.double(), [collate([[each]], pad_token_id=PAD) for each in examples], num_items)
    for rows in ([examples], [[each] for each in examples], [examples[:2], examples[2:]]):
        loss, found = gradients(model, [collated(model, rows)], num_items)
        assert loss == pytest.approx(alone, abs=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6)


def test_the_loss_is_that_of_the_model_with_plain_labels(model, plain, examples) -> None:
    """The mean over all supervised tokens, as transformers computes it when it shifts the labels itself."""
    picture = next(each for each in examples if each.images)
    batch = collated(model, [[picture]])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "pixel_values", "image_grid_thw")}
    expected = plain(**inputs, labels=picture.labels[None], use_cache=False).loss
    found = model(**batch, num_items_in_batch=supervised([picture])).loss
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("changed", range(5))
def test_what_one_sample_holds_changes_no_bit_of_the_others(model, examples, changed) -> None:
    example = examples[changed]
    ids = example.input_ids.clone()
    ids[-1] = (ids[-1] + 7) % 250
    images = example.images and example.images._replace(pixel_values=example.images.pixel_values * 0.5 + 0.1)
    clips = example.clips and example.clips._replace(pixel_values=example.clips.pixel_values * 0.5 + 0.1)
    others = [
        *examples[:changed],
        replace(example, input_ids=ids, images=images, clips=clips),
        *examples[changed + 1 :],
    ]
    before, after = logits_of(model, [examples])[0], logits_of(model, [others])[0]
    start = 0
    for number, each in enumerate(examples):
        end = start + len(each)
        assert torch.equal(before[start:end], after[start:end]) == (number != changed)
        start = end


def test_a_blank_picture_changes_neither_loss_nor_gradients(model, reader, examples) -> None:
    model.double()
    text = [each for each in examples if not each.images and not each.clips]
    num_items = supervised(text)
    alone, expected = gradients(model, [collated(model, [text])], num_items)
    loss, found = gradients(model, [collated(model, [[*text, reader.blank()]])], num_items)
    assert loss == pytest.approx(alone, abs=1e-5)
    visual = {name for name in found if "visual" in name}
    assert visual
    assert not any(found[name].any() for name in visual)
    for name in expected.keys() - visual:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


def test_nothing_to_learn_costs_nothing(model, reader) -> None:
    loss, found = gradients(model, [collated(model, [[reader.blank()]])], 1)
    assert loss == 0
    assert not any(each.any() for each in found.values())


def test_rows_are_filled_up_without_a_mask(plain, examples) -> None:
    """A shorter row in a batch says the same as alone."""
    together = logits_of(plain.double(), [examples[:1], examples])
    alone = logits_of(plain, [examples[:1]])
    torch.testing.assert_close(together[0, : len(examples[0])], alone[0], rtol=0, atol=1e-6)


def test_lengths_for_flash_attention(examples) -> None:
    batch = collate([examples[:2], examples[2:3]], pad_token_id=PAD, varlen=True)
    lengths = [len(each) for each in examples[:3]]
    ends = [0, lengths[0], lengths[0] + lengths[1], sum(lengths)]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == ends
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == max(lengths)
    assert batch["sample_lengths"] == tuple(lengths)
    assert batch["input_ids"].shape == (1, sum(lengths))


def test_what_is_counted_of_a_batch(reader, examples) -> None:
    stats = stats_of([examples[:2], [examples[2], reader.blank()]], num_places=1000, num_skipped=1)
    assert stats.num_tokens == sum(len(each) for each in examples[:3])
    assert stats.num_supervised_tokens == supervised(examples[:3])
    assert stats.num_places == 1000
    assert stats.sample_ids == tuple(each.id for each in examples[:3])
    assert stats.num_skipped == 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_that_keeps_samples_apart_is_taken(folder, attention) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation=attention)
    assert isolates_samples(model, varlen=False)
    check_isolation(model, model.config)


@pytest.mark.parametrize("way", [SAMPLES, FLASH])
def test_lengths_that_keep_samples_apart_are_taken(folder, way, monkeypatch) -> None:
    model = with_attention(folder, way, monkeypatch)
    check_isolation(model, model.config)
    assert (
        not isolates_samples(model, varlen=False) or way == FLASH
    )  # which goes by positions where there are no lengths


def test_windows_that_slide_need_a_mask(folder) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    assert takes_lengths(prepared(model).config)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    model.config.text_config.layer_types = ["sliding_attention"]
    assert not takes_lengths(prepared(model).config)


def prepared(model):
    attend_by_sample(model)
    return model


def test_a_saved_model_says_nothing_of_it(folder, tmp_path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    prepared(model).save_pretrained(tmp_path)
    assert BY_SAMPLE not in (tmp_path / "config.json").read_text()
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).config.text_config._attn_implementation == "sdpa"


def test_attention_that_does_not_is_refused(folder, monkeypatch) -> None:
    def blind(module, query, key, value, attention_mask, **kwargs):
        return sdpa_attention_forward(module, query, key, value, None, is_causal=query.shape[2] > 1, **kwargs)

    AttentionInterface.register("blind", blind)
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    for module in model.modules():
        if is_configured(module):
            module.config._attn_implementation = "blind"
    with pytest.raises(OptionError, match=r"packing\.enabled"):
        check_isolation(model, model.config)
