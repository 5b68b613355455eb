"""The gallery page: what is written, read back by another parser, and what a real browser makes of it."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import time
import tracemalloc
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omnicap_cli.exports.gallery.gallery import Thumbnail, make_thumbnail, write_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_SECONDS = 30.0  # only ever reached by a test that fails
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PICTURE = make_thumbnail(Image.new("RGB", (300, 200), (200, 40, 40)))
HOSTILE = [
    "<img src=x onerror=window.pwned=1>",
    "</script><script>window.pwned=2</script>",
    "<!--<script>",
    "--></style></title></textarea><svg/onload=alert(3)>",
    "'\"onmouseover=alert(4) autofocus onfocus=alert(5) x='",
    "javascript:alert(6)",
    "https://example.invalid/beacon.png",
    "${alert(7)} {{constructor.constructor('alert(8)')()}} $title",
    "__proto__",
    "constructor",
    "&lt;b&gt; &amp;amp; \\u003cscript\\u003e ]]>",
    "line\u2028separator\u2029paragraph",
    "\u202egnp.exe\u2066 \u200f\ufeff\U000e0041",
    "nul \0 bell \x07 escape \x1b[31m delete \x7f next \x85",
    "%00%zz:2:3#a",
    "𝒳 👩‍👩‍👧 é 滨江公园",
]


def record(id, **values):
    usual = {"id": id, "image": id, "type": "ocr", "style": "text", "lang": "en", "caption": f"caption of {id}"}
    usual |= {"status": "ok", "finish_reason": "stop", "generated": True, "model": "m1", "meta": {}}
    return usual | values


def failed(id, kind="DecodeError", message="damaged PNG file"):
    return record(id, status="error", caption=None, finish_reason=None, error={"kind": kind, "message": message})


def written(records, title="run.jsonl", thumbnail_of=lambda record: PICTURE):
    target = io.BytesIO()
    count = write_page(records, target, title=title, thumbnail_of=thumbnail_of)
    return count, target.getvalue()


class Blocks(HTMLParser):
    """What the page carries, as a parser sees it that is not ours: lists by the class of their script elements."""

    def __init__(self, page):
        super().__init__(convert_charrefs=False)
        self.values = {"cards": [], "pictures": []}
        self.num_scripts = 0
        self.lengths = []
        self._name = None
        self._text = ""
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attributes):
        self.num_scripts += tag == "script"
        self._name, self._text = dict(attributes).get("class") if tag == "script" else None, ""

    def handle_data(self, data):
        self._text += data

    def handle_endtag(self, tag):
        if tag == "script" and self._name:
            values = json.loads(self._text, parse_constant=pytest.fail)
            self.values[self._name] += values
            self.lengths.append((self._name, len(values)))
            assert not re.search("[<>&\u2028\u2029]", self._text)
        self._name = None


# --------------------------------------------------------------------------------------------- what is written


def test_neighbours_with_one_id_share_a_card_and_a_picture():
    records = [
        record("a.png"),
        record("a.png", style="markdown"),
        record("b.png"),
        record("a.png", style="poster"),
        {"caption": "no id"},
        {"caption": "no id either"},
        {"id": 5},
        {"id": 5},
    ]
    asked = []

    def thumbnail_of(record):
        asked.append(record)
        return PICTURE if record.get("id") != "b.png" else None

    count, page = written(records, thumbnail_of=thumbnail_of)
    values = Blocks(page).values
    assert count == 8
    groups = [records[:2], records[2:3], records[3:4], *([each] for each in records[4:])]
    assert values["cards"] == groups
    assert [bool(picture) for picture in values["pictures"]] == [True, False, True, True, True, True, True]
    assert sorted(map(str, asked)) == sorted(str(group[0]) for group in groups)


def test_a_card_holds_no_more_than_32_captions():
    _, page = written([record("a.png", style=str(number)) for number in range(70)])
    values = Blocks(page).values
    assert [len(card) for card in values["cards"]] == [32, 32, 6]
    assert len(values["pictures"]) == 3


def test_pictures_lie_where_the_page_looks_for_them():
    _, page = written(record(str(number)) for number in range(300))
    blocks = Blocks(page)
    assert [length for name, length in blocks.lengths if name == "pictures"] == [128, 128, 44]
    script = re.search(rb"const PICTURES_PER_BLOCK = (\d+);", page)
    assert int(script[1]) == 128


def test_blocks_of_long_captions_are_shorter():
    _, page = written(record(str(number), caption="x" * 400_000) for number in range(7))
    assert [length for name, length in Blocks(page).lengths if name == "cards"] == [3, 3, 1]


def test_pictures_keep_the_order_whichever_is_ready_first():
    later_begun = threading.Event()

    def thumbnail_of(record):
        number = int(record["id"])
        if number == 0:
            later_begun.wait(timeout=1)  # in vain where there is a single thread
        else:
            later_begun.set()
        return Thumbnail(b"webp", number, 1)

    _, page = written((record(str(number)) for number in range(50)), thumbnail_of=thumbnail_of)
    assert [width for _, width, _ in Blocks(page).values["pictures"]] == list(range(50))


def test_nothing_is_written():
    count, page = written([])
    assert count == 0
    assert Blocks(page).values == {"cards": [], "pictures": []}
    assert page.rstrip().endswith(b"</html>")


def test_only_a_block_and_a_few_more_are_in_memory():
    taken, lead = 0, []

    def records():
        nonlocal taken
        for taken in range(1, 1001):
            yield record(str(taken))

    class Target(io.BytesIO):
        num_cards = 0

        def write(self, data):
            lead.append(taken - self.num_cards)
            self.num_cards += bytes(data).count(b'"image":')
            return super().write(data)

    write_page(records(), Target(), title="t", thumbnail_of=lambda record: PICTURE)
    assert len(lead) > 16
    assert max(lead) <= 128 + 2 * 4 + 1  # a block; two for each of four threads; one in hand


def test_memory_does_not_grow_with_the_journal():
    class Nowhere:
        num_bytes = 0

        def write(self, data):
            self.num_bytes += len(data)

    def peak_bytes(num_records):
        target = Nowhere()
        records = (record(f"{number}.png", caption="x" * 1000) for number in range(num_records))
        tracemalloc.start()
        try:
            write_page(records, target, title="t", thumbnail_of=lambda record: Thumbnail(bytes(6000), 240, 240))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert target.num_bytes > num_records * 9000

    assert peak_bytes(4000) < 1.2 * peak_bytes(500)


def test_what_the_callers_parts_raise_is_raised_and_no_thread_stays():
    def broken(record):
        raise KeyError("image")

    def records():
        yield record("a.png")
        raise OSError("the journal is gone")

    before = threading.active_count()
    with pytest.raises(KeyError, match="image"):
        written([record(str(number)) for number in range(100)], thumbnail_of=broken)
    with pytest.raises(OSError, match="gone"):
        written(records())
    assert threading.active_count() == before


TEXTS = st.text(max_size=20) | st.sampled_from(HOSTILE)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), max_size=3), TEXTS)
def test_any_text_comes_back_as_it_was(records, title):
    for each in records:
        each.pop("id", None)
    _, page = written(records, title)
    blocks = Blocks(page)
    assert blocks.values["cards"] == [[each] for each in records]
    assert blocks.num_scripts == len(blocks.lengths) + 3


def test_what_json_cannot_hold():
    deep = inner = []
    for _ in range(400):
        inner.append([])
        inner = inner[0]
    odd = record("\ud800.png", caption="a\udfffb", meta={"big": 10**30, "nan": float("nan"), "\udc00": deep, 3: {"x"}})
    count, page = written([odd])
    card = Blocks(page).values["cards"][0][0]
    assert count == 1
    assert (card["id"], card["caption"]) == (r"\ud800.png", r"a\udfffb")
    assert (card["meta"]["big"], card["meta"]["nan"], card["meta"]["3"]) == (str(10**30), None, "{'x'}")
    assert json.dumps(card["meta"][r"\udc00"]).startswith("[[[[")


# ------------------------------------------------------------------------------------------------- thumbnails


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 320), (240, 160)),
        ((1000, 2000), (160, 320)),
        ((10, 20), (10, 20)),  # never enlarged
        ((100, 4000), (80, 320)),  # its first 400 rows
        ((4000, 100), (240, 60)),
        ((1, 5000), (1, 4)),
        ((1, 1), (1, 1)),
    ],
)
def test_sizes_of_thumbnails(size, expected):
    made = make_thumbnail(Image.new("RGB", size))
    assert (made.width, made.height) == expected
    with Image.open(io.BytesIO(made.webp)) as image:
        assert (image.format, image.size) == ("WEBP", expected)


def test_a_thumbnail_shows_the_picture():
    picture = Image.new("RGB", (400, 400), (200, 30, 30))
    picture.paste((30, 30, 200), (0, 200, 400, 400))
    with Image.open(io.BytesIO(make_thumbnail(picture).webp)) as image:
        for place, expected in (((120, 40), (200, 30, 30)), ((120, 200), (30, 30, 200))):
            assert all(abs(one - other) < 16 for one, other in zip(image.getpixel(place), expected, strict=True))


def test_of_a_strip_the_beginning_is_shown():
    strip = Image.new("RGB", (100, 4000), "black")
    strip.paste((255, 255, 255), (0, 0, 100, 400))
    with Image.open(io.BytesIO(make_thumbnail(strip).webp)) as image:
        assert min(image.convert("L").tobytes()) > 230


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "F"])
def test_thumbnails_of_any_mode(mode):
    picture = Image.new(mode, (600, 300))
    before = picture.copy()
    made = make_thumbnail(picture)
    assert (made.width, made.height) == (240, 120)
    assert (picture.size, picture.tobytes()) == (before.size, before.tobytes())


def test_what_is_transparent_is_white():
    with Image.open(io.BytesIO(make_thumbnail(Image.new("RGBA", (9, 9), (255, 0, 0, 0))).webp)) as image:
        assert image.mode == "RGB"
        assert min(image.getpixel((4, 4))) > 250


def test_a_thumbnail_tells_nothing_of_where_a_picture_was_taken():
    picture = Image.new("RGB", (9, 9))
    picture.info |= {"exif": b"Exif\0\0MM\0*", "icc_profile": bytes(5000), "xmp": b"<x:xmpmeta>"}
    made = make_thumbnail(picture)
    assert len(made.webp) < 300
    with Image.open(io.BytesIO(made.webp)) as image:
        assert not {"exif", "icc_profile", "xmp"} & set(image.info)


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def usual_context(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def open_page(browser, usual_context, tmp_path):
    """`open_page(records, …)` shows them; no page may ask for, complain of or pop up anything."""
    noticed, opened = [], []

    def open(records, *, title="run.jsonl", thumbnail_of=lambda record: PICTURE, link="", **options):
        path = tmp_path / f"gallery{len(opened)}.html"
        path.write_bytes(written(records, title, thumbnail_of)[1])
        context = browser.new_context(**options) if options else usual_context
        page = context.new_page()
        opened.append(context if options else page)
        page.on("console", lambda message: noticed.append(message.text))
        page.on("pageerror", lambda error: noticed.append(str(error)))
        page.on("dialog", lambda dialog: (noticed.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.split("#")[0] == path.as_uri() or noticed.append(request.url))
        page.goto(path.as_uri() + link)
        return page

    yield open
    for each in opened:
        each.close()
    assert noticed == []


def settled(page):
    """Let the page draw what a scroll asked for."""
    page.evaluate(
        "async () => { for (let left = 5; left; left--) await new Promise(done => requestAnimationFrame(done)); }"
    )


def until(page, condition, argument=None):
    """Wait for a condition. Playwright's own way evaluates strings in the page, which its policy refuses."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(10)


def ids(page):
    return page.locator(".card h2").all_text_contents()


def texts(page):
    return page.locator(".caption > .text").all_text_contents()


def search(page, query):
    page.get_by_role("searchbox").fill(query)
    page.keyboard.press("Enter")


def current(page):
    return page.evaluate("document.activeElement.caption?.record.caption")


SAMPLE = [
    record("a/one.png", width=640, height=480),
    record("a/one.png", style="markdown", caption="# One\n\n| a | b |\n| --- | --- |\n$\\frac{1}{2}$"),
    record("b/two.png", type="chart", caption="Quarterly sales rise", meta={"source": {"shelf": "K-17"}}),
    failed("c/broken.png", message="damaged PNG file: image file is truncated"),
    record("d/blank.png", caption=""),
    record("e/long.png", lang="zh", caption="滨江公园游客须知", finish_reason="length"),
    record("f/loop.png", caption="and and and", finish_reason="repetition", model="m2"),
]


def test_pictures_beside_captions(open_page):
    page = open_page(SAMPLE, thumbnail_of=lambda record: None if "broken" in record["id"] else PICTURE)
    assert ids(page) == ["a/one.png", "b/two.png", "c/broken.png", "d/blank.png", "e/long.png", "f/loop.png"]
    assert page.title() == "run.jsonl · captions"
    assert page.get_by_role("heading", level=1).text_content() == "run.jsonl"
    assert page.locator("#summary").text_content() == "7 captions of 6 pictures by m1, m2"
    assert page.get_by_text("Machine-made captions").is_visible()
    assert (
        page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
        == [[240, 160]] * 5
    )
    card = page.locator(".card").nth(0)
    assert card.get_by_text("640 × 480").is_visible()
    picture, caption = card.locator("img").bounding_box(), card.locator(".caption").nth(0).bounding_box()
    assert picture["x"] + picture["width"] < caption["x"]
    broken = page.locator(".card").nth(2)
    assert broken.get_by_text("DecodeError").is_visible()
    assert broken.get_by_text("damaged PNG file: image file is truncated").is_visible()
    assert broken.get_by_text("No picture").is_visible()
    badges = page.locator(".badge").all_text_contents()
    assert badges == ["DecodeError", "empty", "cut by a limit", "loop cut off"]


def test_line_breaks_are_kept_and_markup_is_text(open_page):
    page = open_page(SAMPLE)
    markdown = page.locator(".caption").nth(1).locator(".text")
    assert markdown.inner_text() == "# One\n\n| a | b |\n| --- | --- |\n$\\frac{1}{2}$"
    assert page.locator(".text[lang=zh]").inner_text() == "滨江公园游客须知"


def test_an_empty_journal(open_page):
    page = open_page([])
    assert page.locator("#summary").text_content() == "The journal is empty."
    for key in ["j", "k", "Enter", "c"]:
        page.keyboard.press(key)
    assert page.locator("dialog[open]").count() == 0


def test_filter_by_status(open_page):
    page = open_page(SAMPLE)
    states = page.get_by_role("group", name="Filter by status")
    for label, expected, number in [
        ("OK", ["a/one.png", "b/two.png"], 3),
        ("Errors", ["c/broken.png"], 1),
        ("Empty", ["d/blank.png"], 1),
        ("Cut or looped", ["e/long.png", "f/loop.png"], 2),
    ]:
        chip = states.get_by_role("button", name=label)
        chip.click()
        assert ids(page) == expected
        assert page.locator("#hits").text_content() == f"{number} of 7 captions"
        assert chip.locator("small").text_content() == str(number)
        pressed = [node.get_attribute("aria-pressed") for node in states.get_by_role("button").all()]
        assert pressed.count("true") == 1
        assert chip.get_attribute("aria-pressed") == "true"
    states.get_by_role("button", name="All").click()
    assert len(ids(page)) == 6


def test_filters_hide_captions_and_cards_with_none_left(open_page):
    page = open_page(SAMPLE)
    page.get_by_label("Filter by style").select_option("markdown")
    assert (ids(page), page.locator(".caption").count()) == (["a/one.png"], 1)
    assert page.locator("#hits").text_content() == "1 of 7 captions"
    page.get_by_label("Filter by type").select_option("chart")
    assert page.locator(".card").count() == 0
    page.get_by_role("button", name="Clear the filters").click()
    assert page.locator(".caption").count() == 7
    assert page.locator("#hits").text_content() == ""
    page.get_by_label("Filter by type").select_option("chart")
    assert ids(page) == ["b/two.png"]
    page.get_by_label("Filter by type").select_option("any type")
    page.get_by_label("Filter by lang").select_option("zh")
    assert ids(page) == ["e/long.png"]
    page.get_by_label("Filter by model").select_option("m2")
    assert ids(page) == []


def test_a_facet_with_one_value_is_no_choice(open_page):
    assert open_page(SAMPLE[:1]).get_by_role("combobox").count() == 0


def test_search(open_page):
    page = open_page(SAMPLE)
    for query, expected, num_captions in [
        ("one", ["a/one.png"], 2),  # the id
        ("SALES", ["b/two.png"], 1),  # the caption, whatever the case
        ("truncated png", ["c/broken.png"], 1),  # words in any order, of an error
        ("decodeerror", ["c/broken.png"], 1),
        ("k-17", ["b/two.png"], 1),  # deep in meta
        ("shelf", ["b/two.png"], 1),
        ("公园", ["e/long.png"], 1),
        ("\\frac{1}", ["a/one.png"], 1),
        ("(.*", [], 0),
        ("chart", [], 0),  # a type is for its filter
    ]:
        search(page, query)
        assert ids(page) == expected
        assert page.locator("#hits").text_content() == f"{num_captions} of 7 captions"
        assert page.get_by_text("Nothing matches.").is_visible() == (not expected)
        assert (page.locator("mark").count() > 0) == bool(expected)
        page.keyboard.press("Escape")


def test_search_while_typing(open_page):
    page = open_page(SAMPLE)
    page.keyboard.press("/")
    page.keyboard.type("quarterly")
    until(page, "document.getElementById('hits').textContent === '1 of 7 captions'")
    assert page.locator("mark").all_text_contents() == ["Quarterly"]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    assert page.get_by_role("searchbox").input_value() == "quarterly"


def test_a_long_caption_is_cut_to_eight_lines(open_page):
    page = open_page([record("a.png", caption="\n".join("abcdefghi")), record("b.png", caption="\n".join("abcdefgh"))])
    heights = page.evaluate("[...document.querySelectorAll('.caption .text')].map(node => node.clientHeight)")
    assert heights[0] == heights[1]
    shown = [node.get_by_role("button", name="Show all").is_visible() for node in page.locator(".caption").all()]
    assert shown == [True, False]


def test_a_hit_far_down_is_shown(open_page):
    caption = "\n".join(f"line {number}" for number in range(300)) + "\nthe needle\n" + "after\n" * 300
    page = open_page([record("a.png", caption=caption), record("b.png", caption="short")])
    assert page.locator(".caption").nth(0).get_by_role("button", name="Show all").is_visible()
    assert not page.locator(".caption").nth(1).get_by_role("button", name="Show all").is_visible()
    search(page, "Needle")
    mark = page.locator("mark")
    text = page.locator(".caption .text").bounding_box()
    place = mark.bounding_box()
    assert mark.text_content() == "needle"
    assert text["y"] <= place["y"] <= text["y"] + text["height"] - place["height"]
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#detail .text").text_content() == caption


# ------------------------------------------------------------------------------------------- keys, large view


def test_keys_move_through_what_is_shown(open_page):
    page = open_page(SAMPLE)
    seen = []
    for key in ["j", "j", "ArrowDown", "j", "k", "ArrowUp", "k", "k"]:
        page.keyboard.press(key)
        seen.append(current(page))
    captions = [each["caption"] for each in SAMPLE]
    assert seen == [captions[index] for index in (0, 1, 2, 3, 2, 1, 0, 0)]
    assert page.locator("[aria-current=true]").count() == 1
    for _ in range(20):
        page.keyboard.press("j")
    page.keyboard.press("Control+k")  # which is the browser's
    page.keyboard.press("Control+c")
    assert current(page) == "and and and"
    assert page.locator("#notice").text_content() == ""


@pytest.mark.parametrize("key", ["Enter", " "])
def test_the_large_view(open_page, key):
    extra = {"prompt_tokens": 12, "settings": {"dpi": 150}, "revision": None}
    page = open_page([SAMPLE[0], record("b.png", caption="one\n\ttwo", **extra), SAMPLE[3]])
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press(key)
    detail = page.get_by_role("dialog")
    assert detail.get_by_role("heading").text_content() == "b.png"
    assert detail.locator(".text").text_content() == "one\n\ttwo"
    assert detail.locator("img").is_visible()
    assert page.locator("#detail-place").text_content() == "2 of 3"
    names, values = (detail.locator(f".fields {tag}").all_text_contents() for tag in ("dt", "dd"))
    fields = dict(zip(names, values, strict=True))
    assert list(fields) == [name for name in record("b.png", **extra) if name != "caption"]
    assert (fields["prompt_tokens"], fields["settings"], fields["revision"]) == ("12", '{"dpi":150}', "null")
    page.keyboard.press("ArrowRight")
    assert detail.locator(".text").text_content() == "damaged PNG file: image file is truncated"
    assert detail.get_by_role("button", name="Next caption").is_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    detail.get_by_role("button", name="Previous caption").click()
    assert detail.get_by_role("heading").text_content() == "a/one.png"
    page.keyboard.press("Escape")
    until(page, "document.activeElement.caption?.record.id === 'a/one.png'")
    assert page.get_by_role("dialog").count() == 0


def test_left_and_right_stay_among_the_hits(open_page):
    page = open_page(SAMPLE)
    page.get_by_label("Filter by style").select_option("text")
    page.get_by_label("Filter by style").blur()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("dialog").get_by_role("heading").text_content() == "b/two.png"
    assert page.locator("#detail-place").text_content() == "2 of 6"


def test_a_click_on_the_picture_or_beside_the_large_view(open_page):
    page = open_page(SAMPLE)
    page.get_by_role("button", name="Open b/two.png").click()
    assert page.locator("#detail .text").text_content() == "Quarterly sales rise"
    page.mouse.click(5, 5)
    until(page, "!document.querySelector('dialog[open]')")


def test_help(open_page):
    page = open_page(SAMPLE)
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keys").is_visible()
    page.keyboard.press("j")  # the page behind stays as it is
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    assert page.locator("[aria-current=true]").count() == 0


def test_letters_in_the_search_are_letters(open_page):
    page = open_page(SAMPLE)
    page.keyboard.press("/")
    page.keyboard.type("j?ck /")
    assert page.get_by_role("searchbox").input_value() == "j?ck /"
    assert page.get_by_role("dialog").count() == 0


@pytest.mark.parametrize("how", ["button", "key", "large view"])
def test_copy(open_page, how):
    page = open_page([record("a.png", caption="一行 <b>two</b>")])
    page.keyboard.press("j")
    if how == "large view":
        page.keyboard.press("Enter")
    if how == "button":
        page.get_by_role("button", name="Copy").click()
    else:
        page.keyboard.press("c")
    until(page, "document.getElementById('notice').textContent === 'Caption copied'")
    if how == "large view":
        page.keyboard.press("Escape")
    page.get_by_role("searchbox").focus()
    page.keyboard.press("Control+V")
    assert page.get_by_role("searchbox").input_value() == "一行 <b>two</b>"


def test_an_error_has_nothing_to_copy(open_page):
    assert open_page([failed("a.png")]).get_by_role("button", name="Copy").count() == 0


# ------------------------------------------------------------------------------------------------------ links


def test_a_link_leads_to_its_caption(open_page):
    records = [record(f"{number}.png") for number in range(400)]
    records[300] = record("scan ü.pdf#page=3:2")
    page = open_page(records, link="#scan%20%C3%BC.pdf%23page%3D3%3A2")
    assert current(page) == "caption of scan ü.pdf#page=3:2"
    assert page.locator("[aria-current=true]").is_visible()
    settled(page)
    box = page.locator("[aria-current=true]").bounding_box()
    assert page.locator("#bar").bounding_box()["height"] <= box["y"] <= 800 - box["height"]


def test_the_address_follows_the_selection(open_page):
    page = open_page([record("a b.png"), record("a b.png", style="markdown", caption="second"), record("c.png")])
    page.keyboard.press("j")
    until(page, "location.hash === '#a%20b.png'")
    page.keyboard.press("j")
    until(page, "location.hash === '#a%20b.png:2'")
    page.evaluate("location.hash = '#c.png'")
    until(page, "document.activeElement.caption?.record.id === 'c.png'")
    page.evaluate("location.hash = '#a%20b.png:2'")
    until(page, "document.activeElement.caption?.record.caption === 'second'")


def test_a_link_to_what_filters_hide_takes_them_off(open_page):
    page = open_page(SAMPLE)
    search(page, "sales")
    page.evaluate("location.hash = '#d%2Fblank.png'")
    until(page, "document.activeElement.caption?.record.id === 'd/blank.png'")
    assert page.get_by_role("searchbox").input_value() == ""
    assert page.locator(".caption").count() == 7


def test_a_link_that_leads_nowhere(open_page):
    page = open_page(SAMPLE, link="#nothing")
    for link in ["#%", "#:", "#list", "#a%2Fone.png:9", "#%3Cimg%20src=x%20onerror=alert(1)%3E"]:
        page.evaluate("link => new Promise(done => (onhashchange = done, location.hash = link)).then(() => 0)", link)
        assert page.locator("[aria-current=true]").count() == 0
        assert page.locator(".card").count() == 6


# ------------------------------------------------------------------------------------------------------ scale


@pytest.fixture(scope="module")
def many():
    """5,000 cards of very different heights."""
    records = []
    for number in range(5000):
        caption = f"picture number {number}\n" + "word " * (number * 37 % 160) + "\n" * (number % 7) + "end"
        records.append(record(f"{number:05}.png", caption=caption))
        if number % 3 == 0:
            records.append(record(f"{number:05}.png", style="markdown", caption=f"# {number}"))
    return records


MAX_CARDS = 60  # in the page: a window of 800 pixels and 600 around it, of cards 30 pixels high at the least


def test_only_what_is_near_is_in_the_page(open_page, many):
    page = open_page(many)
    assert page.locator("#summary").text_content() == "6,667 captions of 5,000 pictures by m1"
    for part in [0, 0.1, 0.37, 0.5, 0.93, 1, 0.2, 0]:
        page.evaluate("part => scrollTo(0, part * document.documentElement.scrollHeight)", part)
        settled(page)
        numbers = [int(name.removesuffix(".png")) for name in ids(page)]
        assert 3 < len(numbers) < MAX_CARDS
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        middle = page.evaluate("document.elementFromPoint(innerWidth / 2, innerHeight / 2).closest('.card') !== null")
        assert middle, f"nothing in sight at {part}"
        assert abs(numbers[0] / 5000 - part) < 0.05
        assert page.evaluate("[...document.images].every(image => image.naturalWidth === 240)")
    assert numbers[0] == 0


@pytest.mark.parametrize("way", ["End", "scroll bar"])
def test_the_end_is_the_end(open_page, many, way):
    page = open_page(many)
    if way == "End":
        page.keyboard.press("End")
    else:
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    until(page, "scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 1")
    settled(page)
    last = page.locator(".card").last
    assert last.locator("h2").text_content() == "04999.png"
    assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize") == "5000"
    assert last.bounding_box()["y"] + last.bounding_box()["height"] <= 801


def test_a_tall_window_is_full_though_the_first_guess_was_wrong(open_page):
    records = [record(f"{number}.png", caption="x") for number in range(500)]
    page = open_page(records, viewport={"width": 1280, "height": 4000})
    box = page.locator(".card").last.bounding_box()
    assert box["y"] + box["height"] >= 4000


def test_what_is_in_sight_stays_there_while_what_is_above_is_measured(open_page, many):
    page = open_page(many)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
    settled(page)
    place = """() => { const node = document.elementFromPoint(innerWidth / 2, innerHeight / 2).closest('.card');
        return [node.getAttribute('aria-label'), node.getBoundingClientRect().top]; }"""
    where = "id => document.querySelector(`.card[aria-label='${id}']`).getBoundingClientRect().top"
    for _ in range(25):
        name, before = page.evaluate(place)
        page.evaluate("scrollBy(0, -350)")
        settled(page)
        assert page.evaluate(where, name) == pytest.approx(before + 350, abs=1.5)


def test_another_width_keeps_the_place(open_page, many):
    page = open_page(many)
    page.evaluate("scrollTo(0, 200000)")
    settled(page)
    name = page.evaluate("document.elementFromPoint(640, 300).closest('.card').getAttribute('aria-label')")
    length = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": 400, "height": 800})
    settled(page)
    settled(page)
    assert page.locator(f".card[aria-label='{name}']").bounding_box()["y"] < 800
    numbers = [int(each.removesuffix(".png")) for each in ids(page)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert page.evaluate("document.documentElement.scrollHeight") > 1.2 * length  # narrow cards are longer
    bottom = page.locator(".card").last.bounding_box()
    assert bottom["y"] + bottom["height"] > 800


def test_search_among_many(open_page, many):
    page = open_page(many)
    page.evaluate("scrollTo(0, 300000)")
    settled(page)
    assert ids(page)[0] != "00000.png"
    page.get_by_role("button", name="OK").click()
    assert ids(page)[0] == "00000.png"
    assert page.evaluate("scrollY") == 0
    search(page, "number 1234")
    assert (ids(page), page.locator("#hits").text_content()) == (["01234.png"], "1 of 6,667 captions")
    search(page, "NUMBER 49")
    settled(page)
    assert ids(page)[0] == "00049.png"
    assert (
        page.locator("#hits").text_content() == "199 of 6,667 captions"
    )  # 49xx, x49x and xx49 are 100 + 50 + 50, 4949 is two of them
    assert page.locator(".card").count() < MAX_CARDS
    search(page, "")
    assert ids(page)[0] == "00000.png"


def test_keys_through_many(open_page, many):
    page = open_page(many)
    for index in range(120):
        page.keyboard.press("j")
        assert current(page) == many[index]["caption"]
        assert page.locator(".card").count() < MAX_CARDS
    box = page.locator("[aria-current=true]").bounding_box()
    assert 0 < box["y"] < 800
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    settled(page)
    page.keyboard.press("k")  # from where the selection is, not from what is in sight
    assert current(page) == many[118]["caption"]


def test_pictures_are_parsed_when_they_come_into_view(open_page, many):
    page = open_page(many)
    assert page.evaluate("[...pictures.parsed.keys()]") == [0]
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    settled(page)
    assert 39 in page.evaluate("[...pictures.parsed.keys()]")  # 5000 / 128 = 39.06
    for part in range(20):
        page.evaluate("part => scrollTo(0, part / 20 * document.documentElement.scrollHeight)", part)
        settled(page)
    assert page.evaluate("pictures.parsed.size") == 6
    assert page.evaluate("document.querySelectorAll('script.cards').length") == 0


# --------------------------------------------------------------------------------------------------- security


def test_no_text_of_a_journal_does_anything(open_page):
    def spread(text):
        meta = {text: [text, {text: text}]}
        values = dict.fromkeys(("image", "type", "style", "lang", "model", "engine", "caption"), text)
        yield record(text, **values, meta=meta, finish_reason=text, width=text, settings=text) | {text: text}
        yield failed(text, kind=text, message=text) | {"status": text, "caption": text}

    records = [each for text in HOSTILE for each in spread(text)]
    page = open_page(records, title=HOSTILE[1] + HOSTILE[0])
    assert page.get_by_role("heading", level=1).text_content() == HOSTILE[1] + HOSTILE[0]
    seen = []
    for each in records:
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        seen.append((page.locator("#detail-id").text_content(), page.locator("#detail .text").text_content()))
        assert page.evaluate(
            "id => [...document.querySelectorAll('#detail dd')].some(node => node.textContent === id)", each["id"]
        )
        page.keyboard.press("Escape")
        until(page, "!document.querySelector('dialog[open]')")
    assert seen == [(text, text) for text in HOSTILE for _ in range(2)]
    assert page.evaluate("[...document.querySelectorAll('.badge.error')].length") > 0
    for text in HOSTILE:
        search(page, text)
        assert text in page.locator(".card h2").all_text_contents()
        search(page, "")
        page.get_by_label("Filter by type").select_option(text)
        page.get_by_label("Filter by type").select_option("any type")
        # by way of none: the address may have followed the search to this very caption, and to go there is no change
        page.evaluate("text => ((location.hash = ''), (location.hash = encodeURIComponent(text)))", text)
        until(page, "text => document.activeElement.caption?.record.id === text", text)
    links = page.evaluate("[...document.links].map(link => link.getAttribute('href'))")
    assert links
    assert all(link.startswith("#") for link in links)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == page.locator("img[src^='data:image/webp;base64,']").count() > 0
    assert page.locator("svg, iframe, object, style:not(head style), script:not([type]) ~ :not(script)").count() == 0


def test_the_policy_refuses_what_the_page_never_does(browser, tmp_path):
    path = tmp_path / "gallery.html"
    path.write_bytes(written(SAMPLE)[1])
    page = browser.new_page()
    page.goto(path.as_uri())
    refused = """action => new Promise((done) => setTimeout(() => {  // later: what a debugger runs is let through
        try { action(); done("done"); } catch (error) { done(error.name); }
    }))"""
    for action in (
        "() => (document.body.innerHTML = '<b>')",
        "() => document.body.insertAdjacentHTML('beforeend', '<b>')",
        "() => eval('1')",
        "() => new Function('1')",
        "() => (document.createElement('script').text = '1')",
        "() => document.body.setAttribute('onclick', 'window.pwned = 1')",
    ):
        assert page.evaluate(f"({refused})({action})") in ("TypeError", "EvalError"), action
    asked = page.evaluate(
        """async () => {
            const asked = [];
            document.addEventListener("securitypolicyviolation", (event) =>
                asked.push([event.effectiveDirective, event.disposition, event.blockedURI]));
            const image = new Image();
            const over = new Promise((done) => (image.onload = image.onerror = done));
            image.src = "https://example.invalid/picture.png";
            await over;
            await fetch("https://example.invalid/beacon").catch(() => 0);
            document.body.append(document.createElement("iframe"));
            document.body.lastChild.src = "https://example.invalid/frame";
            const style = document.createElement("style");
            style.append("body { color: red }");
            document.body.append(style);
            while (asked.length < 4) await new Promise((done) => setTimeout(done, 5));
            return asked.sort();
        }"""
    )
    assert asked == [
        ["connect-src", "enforce", "https://example.invalid/beacon"],
        ["frame-src", "enforce", "https://example.invalid"],
        ["img-src", "enforce", "https://example.invalid/picture.png"],
        ["style-src-elem", "enforce", "inline"],
    ]
    policy = page.locator("meta[http-equiv]").get_attribute("content")
    assert "unsafe" not in policy
    assert {"default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"} <= set(policy.split("; "))
    page.close()


def test_records_of_other_versions(open_page):
    records = [
        {},
        {"id": "no status", "caption": "text"},
        {"id": 7, "caption": ["a", 1], "type": None, "style": {"x": 1}, "lang": "not a language!", "meta": "plain"},
        {"id": "old error", "error": "just words", "status": "error"},
        {"id": "odd error", "error": ["x"], "status": "error", "meta": [1, None, {"deep": [2]}]},
        {"id": "null error", "error": None, "status": "ok", "caption": None, "finish_reason": 5},
        {"id": ["list"], "status": "ok", "caption": 12.5, "width": -1.5, "height": "tall"},
        {"id": "", "caption": " \n\t", "status": "ok"},
    ]
    page = open_page(records, viewport={"width": 1280, "height": 3000})
    assert ids(page) == ["(no id)", "no status", "7", "old error", "odd error", "null error", '["list"]', "(no id)"]
    assert texts(page) == ["text", '["a",1]', "just words", '["x"]', "12.5"]
    for _ in records:
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        until(page, "!document.querySelector('dialog[open]')")
    search(page, "deep: 2")
    assert ids(page) == ["odd error"]


# -------------------------------------------------------------------------------------------------- for everybody

# WCAG 2.2, 1.4.3 and its definitions of contrast ratio and relative luminance.
CONTRASTS = """() => {
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => {
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [x, y, z] = [r, g, b].map((v) => linear(v / 255));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const color = parse(getComputedStyle(node).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [NaN, NaN, NaN];
    };
    const found = {};
    for (const node of document.querySelectorAll("body *:not(script, noscript, option, :disabled, :disabled *)")) {
        const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!hasText || !node.checkVisibility()) continue;
        const [high, low] = [parse(getComputedStyle(node).color), ground(node)].map(luminance).sort((a, b) => b - a);
        found[`${node.tagName} ${node.className} ${node.textContent.slice(0, 20)}`] = (high + 0.05) / (low + 0.05);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_light_and_dark(open_page, scheme):
    page = open_page(SAMPLE, color_scheme=scheme, reduced_motion="reduce")
    assert page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    search(page, "a")
    ratios = page.evaluate(CONTRASTS)
    page.keyboard.press("Enter")
    ratios |= page.evaluate(CONTRASTS)
    assert len(ratios) > 30
    assert {name: ratio for name, ratio in ratios.items() if not ratio >= 4.5} == {}
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", ground)[0])
    assert (red > 200) == (scheme == "light")
    assert page.evaluate(
        "[...document.querySelectorAll('*')].every(node => getComputedStyle(node).transitionDuration === '0s')"
    )


def test_on_a_phone(open_page):
    long_name = record("a" * 300 + ".png", caption="b" * 500, style="markdown", meta={"c" * 200: "d"})
    tall = make_thumbnail(Image.new("RGB", (300, 600)))
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page = open_page(
        [long_name, record("tall.png", caption="line\n" * 200), *SAMPLE], thumbnail_of=lambda _: tall, **phone
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for node in page.locator(".card, .caption, .caption .text, #query").all():
        box = node.bounding_box()
        assert box is None or (box["x"] >= 0 and box["x"] + box["width"] <= 361)
    page.get_by_role("button", name="Open", exact=True).nth(1).tap()
    detail = page.locator("#detail")
    assert detail.bounding_box()["width"] == 360
    picture, text = detail.locator(".picture").bounding_box(), detail.locator("section").bounding_box()
    assert picture["y"] + picture["height"] <= text["y"]
    assert page.evaluate("document.getElementById('detail-body').scrollWidth <= 360")


def test_for_those_who_hear_it(open_page):
    page = open_page(SAMPLE)
    until(page, "document.querySelectorAll('[role=feed] [aria-posinset]').length == 6")
    feed = page.get_by_role("feed", name="Pictures with their captions")
    articles = feed.get_by_role("article").all()
    assert [node.get_attribute("aria-posinset") for node in articles] == list("123456")
    assert {node.get_attribute("aria-setsize") for node in articles} == {"6"}
    assert page.get_by_role("group", name="ocr / markdown / en").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    until(page, "getComputedStyle(document.activeElement).outline.includes('solid')")
    controls = "[...document.querySelectorAll('button, a, select, input')]"
    assert "" not in page.evaluate(f"{controls}.map(node => (node.ariaLabel || node.textContent).trim())")
