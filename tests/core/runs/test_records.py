"""What a record says of what it is about: nothing, a picture, a page, a clip, a window of one, or several."""

from __future__ import annotations

import json

import pytest

from omnicap_cli.core.runs.planning import RequestPlan
from omnicap_cli.core.runs.records import (
    EngineIdentity,
    Item,
    MediaRef,
    Prompt,
    Result,
    Settings,
    TimeWindow,
    encode_record,
)

ENGINE = EngineIdentity(engine="fake", model="m", revision=None, fingerprint="f")
PROMPT = Prompt(type="t", style="s", lang="en", system="", user="?")
LIMITS = Settings(dpi=200, min_pixels=100, max_pixels=9000)

PICTURE = MediaRef(path="a.png")
PAGE = MediaRef(path="a.pdf", page=3, kind="pdf")
CLIP = MediaRef(path="a.mp4", kind="video")
WINDOW = MediaRef(path="a.mp4", kind="video", window=TimeWindow(60.0, 120.0))
PIXELS = {"min_pixels": 100, "max_pixels": 9000}
CASES = {
    "text alone": ((), None, {"image": None}, {}),
    "picture": ((PICTURE,), "a.png", {"image": "a.png"}, PIXELS),
    "page": ((PAGE,), "a.pdf", {"image": "a.pdf", "page": 3}, {"dpi": 200} | PIXELS),
    "clip": ((CLIP,), "a.mp4", {"video": "a.mp4"}, PIXELS),
    "window": ((WINDOW,), "a.mp4", {"video": "a.mp4", "window": [60.0, 120.0]}, PIXELS),
    "several": ((PICTURE, PAGE), "a.png", {"images": ["a.png", "a.pdf"]}, {"dpi": 200} | PIXELS),
}


def item_of(kind, **more):
    visuals, image, _, _ = CASES[kind]
    return Item(id="x", image=image, visuals=visuals, fingerprint="1", **more)


def request_of(item):
    return RequestPlan(prompts=[PROMPT], engine=ENGINE, settings=LIMITS).requests_of(item)[0]


@pytest.mark.parametrize("kind", CASES)
def test_a_record_names_its_visuals_and_the_settings_that_matter_to_them(kind):
    request = request_of(item_of(kind))
    record = json.loads(encode_record(request, Result(key=request.key, text="yes"), ENGINE))
    _, _, named, settings = CASES[kind]
    names = ("image", "images", "video", "page", "window")
    assert {name: record[name] for name in names if name in record} == named
    assert next(iter(record)) == "id"  # by which journals know their own lines
    assert record["settings"] == settings


def test_limits_of_pixels_are_no_matter_of_text():
    """A text question is the same request whatever the limits of pictures are."""
    item = item_of("text alone")
    other = RequestPlan(prompts=[PROMPT], engine=ENGINE, settings=Settings(max_pixels=5)).requests_of(item)[0]
    assert other.key == request_of(item).key
    assert len({request_of(item_of(kind)).key for kind in ("picture", "page", "text alone")}) == 3


def test_the_key_of_a_picture_is_that_of_the_version_before():
    """Written by hand from its definition: id, fingerprint, then a digest of texts, engine and settings."""
    import hashlib

    texts = '[["t","s","en","","?"],["fake","m",null,"f"],{"max_pixels":9000,"min_pixels":100}]'
    digest = hashlib.sha256(texts.encode()).digest()
    assert request_of(item_of("picture")).key == hashlib.sha256(b"x\x001\x00" + digest).hexdigest()


def test_the_files_in_memory_are_those_of_all_visuals():
    item = Item(
        id="x", visuals=(MediaRef(path="a", content=b"1"), PICTURE, MediaRef(path="b", content=b"2")), fingerprint=""
    )
    assert item.contents == [b"1", b"2"]
