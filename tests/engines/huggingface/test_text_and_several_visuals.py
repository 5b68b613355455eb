"""Questions about nothing but their text, and about several pictures: many at once is as one at a time.

What is right is what transformers' own `generate` gives for one prompt, with models of random weights.
"""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.tiny_models import SENTENCES
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import Item, MediaRef, Prompt, Settings
from omnicap_cli.engines.generation import Generation
from omnicap_cli.engines.registry import DeviceOptions, EngineOptions, create_engine
from omnicap_cli.errors import EngineError

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MAX_NEW_TOKENS = 12
ASK = Prompt(type="question", style="text", lang="en", system="You are brief.", user="{question}")
BARE = Prompt(type="question", style="bare", lang="en", system="", user="{question} Think first.")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are fastest so, and another number of threads adds up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(folder, **options):
    generation = Generation(max_new_tokens=MAX_NEW_TOKENS)
    devices = DeviceOptions(device="cpu")
    return create_engine(
        "huggingface", EngineOptions(model=str(folder), devices=devices, generation=generation, **options)
    )


def questions(count, seed=0):
    """Of one to forty words."""
    dice = random.Random(seed)
    words = " ".join(SENTENCES).split()
    return [" ".join(dice.choices(words, k=dice.randint(1, 40))) + "?" for _ in range(count)]


def text_item(number, question):
    return Item(id=f"q{number}", fingerprint="", meta={"question": question})


def answers(engine, items, prompts):
    """(id, style) -> Result; each request once, in batches as the engine makes them."""
    plan = RequestPlan(prompts=prompts, engine=engine.identity, settings=Settings(), fill_columns=True)
    requests = []
    for item in items:
        group = plan.requests_of(item)
        requests += [replace(each, num_following=len(group) - 1 - place) for place, each in enumerate(group)]
    with contextlib.closing(engine):
        found = {result.key: result for result in engine.run(iter(requests), threading.Event())}
    assert len(found) == len(requests)
    return {(request.item.id, request.prompt.style): found[request.key] for request in requests}


def messages(prompt, question, pictures=None):
    """As the model's card has them: parts for a processor, plain text for a tokenizer."""
    text = prompt.user.replace("{question}", question)
    content = text
    if pictures is not None:
        content = [*({"type": "image", "image": each} for each in pictures), {"type": "text", "text": text}]
    system = prompt.system if pictures is None else [{"type": "text", "text": prompt.system}]
    return [*([{"role": "system", "content": system}] if prompt.system else []), {"role": "user", "content": content}]


@torch.inference_mode()
def alone(model, renderer, conversation):
    """The text that one prompt gets, and the length of the prompt."""
    inputs = renderer.apply_chat_template(
        conversation, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
    length = inputs["input_ids"].shape[1]
    return renderer.decode(ids[0, length:], skip_special_tokens=True), length


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_language_model_answers_many_questions_as_one_at_a_time(tiny_model, family):
    folder, asked = tiny_model(family), questions(40)
    engine = engine_of(folder, takes_text=True)
    batches = []
    engine.warm_up()
    captioner = engine._loading.result()[0]
    real = captioner.answer
    captioner.answer = lambda rows, take: (batches.append(len(rows)), real(rows, take))
    found = answers(engine, [text_item(number, each) for number, each in enumerate(asked)], [ASK, BARE])
    assert sum(batches) == 80
    assert max(batches) > 20, "they were not asked together"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = {
        (f"q{number}", prompt.style): alone(model, tokenizer, messages(prompt, question))
        for number, question in enumerate(asked)
        for prompt in (ASK, BARE)
    }
    assert len({text for text, _ in expected.values()}) > 60  # the questions matter
    assert {name: (result.text, result.prompt_tokens) for name, result in found.items()} == expected
    assert {(result.image_tokens, result.width, result.height) for result in found.values()} == {(0, None, None)}


def test_a_language_model_says_that_it_sees_nothing(tiny_model, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    picture = Item(
        id="a", image="a", visuals=(MediaRef(path=str(tmp_path / "a.png")),), fingerprint="", meta={"question": "?"}
    )
    found = answers(engine_of(tiny_model("llama"), takes_text=True), [picture, text_item(1, "Why?")], [ASK])
    assert found["a", "text"].error.message == "the model sees no pictures: it is a language model"
    assert found["q1", "text"].error is None


def test_a_language_model_is_for_whoever_asks_for_one(tiny_model):
    with pytest.raises(EngineError):
        engine_of(tiny_model("llama"))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "llava"])
def test_questions_with_and_without_pictures_share_batches(tiny_model, tmp_path, family):
    folder, asked = tiny_model(family), questions(12, seed=1)
    items, pictures = [], {}
    for number, question in enumerate(asked):
        item = text_item(number, question)
        if number % 2:
            pictures[item.id] = drawn(tmp_path / f"{number}.png", seed=number)
            item = replace(item, image=item.id, visuals=(MediaRef(path=str(tmp_path / f"{number}.png")),))
        items.append(item)
    found = answers(engine_of(folder), items, [ASK, BARE])
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    for number, question in enumerate(asked):
        for prompt in (ASK, BARE):
            shown = [pictures[f"q{number}"]] if f"q{number}" in pictures else []
            text, length = alone(model, processor, messages(prompt, question, shown))
            result = found[f"q{number}", prompt.style]
            assert (result.text, result.prompt_tokens + result.image_tokens) == (text, length), result.error
            assert (result.image_tokens > 0) == bool(shown)


@pytest.mark.parametrize("family", QWEN)
def test_a_question_about_several_pictures(tiny_model, tmp_path, family):
    folder, asked = tiny_model(family), questions(6, seed=2)
    items, shown = [], []
    for number, question in enumerate(asked):
        paths = [tmp_path / f"{number}-{place}.png" for place in range(number % 3 + 1)]
        shown.append([drawn(path, seed=10 * number + place) for place, path in enumerate(paths)])
        visuals = tuple(MediaRef(path=str(path)) for path in paths)
        items.append(replace(text_item(number, question), image=str(paths[0]), visuals=visuals))
    found = answers(engine_of(folder), items, [ASK, BARE])
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    for number, question in enumerate(asked):
        for prompt in (ASK, BARE):
            text, length = alone(model, processor, messages(prompt, question, shown[number]))
            result = found[f"q{number}", prompt.style]
            assert (result.text, result.prompt_tokens + result.image_tokens) == (text, length), result.error
            assert (result.width is None) == (len(shown[number]) > 1)


def test_one_picture_of_several_that_is_broken_fails_the_question_alone(tiny_model, tmp_path):
    drawn(tmp_path / "good.png", seed=1)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    both = tuple(MediaRef(path=str(tmp_path / name)) for name in ("good.png", "bad.png"))
    items = [replace(text_item(0, "Which?"), visuals=both), replace(text_item(1, "What?"), visuals=both[:1])]
    found = answers(engine_of(tiny_model("qwen2_vl")), items, [ASK])
    assert found["q0", "text"].error is not None
    assert found["q1", "text"].text


def drawn(path, *, seed):
    """A picture of random colours and size, as the engine reads it."""
    dice = random.Random(seed)
    coarse = Image.frombytes("RGB", (8, 8), dice.randbytes(192))
    picture = coarse.resize((dice.randint(40, 200), dice.randint(40, 200)))
    picture.save(path)
    return picture
