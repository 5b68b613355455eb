"""Gallery pages for tests, and a real browser that opens them and hears every complaint of a page."""

from __future__ import annotations

import io
import shutil
import time

import pytest
from PIL import Image

from omnicap_cli.exports.gallery.gallery import make_thumbnail, write_page

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


def failed_record(id, kind="DecodeError", message="damaged PNG file"):
    return record(id, status="error", caption=None, finish_reason=None, error={"kind": kind, "message": message})


def write_gallery(records, title="run.jsonl", thumbnail_of=lambda record: PICTURE):
    target = io.BytesIO()
    count = write_page(records, target, title=title, thumbnail_of=thumbnail_of)
    return count, target.getvalue()


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
        path.write_bytes(write_gallery(records, title, thumbnail_of)[1])
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


def let_page_draw(page):
    """Let the page draw what a scroll asked for."""
    page.evaluate(
        "async () => { for (let left = 5; left; left--) await new Promise(done => requestAnimationFrame(done)); }"
    )


def wait_until(page, condition, argument=None):
    """Wait for a condition. Playwright's own way evaluates strings in the page, which its policy refuses."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(10)


def card_ids(page):
    return page.locator(".card h2").all_text_contents()


def search_for(page, query):
    page.get_by_role("searchbox").fill(query)
    page.keyboard.press("Enter")


def focused_caption(page):
    return page.evaluate("document.activeElement.caption?.record.caption")


SAMPLE = [
    record("a/one.png", width=640, height=480),
    record("a/one.png", style="markdown", caption="# One\n\n| a | b |\n| --- | --- |\n$\\frac{1}{2}$"),
    record("b/two.png", type="chart", caption="Quarterly sales rise", meta={"source": {"shelf": "K-17"}}),
    failed_record("c/broken.png", message="damaged PNG file: image file is truncated"),
    record("d/blank.png", caption=""),
    record("e/long.png", lang="zh", caption="滨江公园游客须知", finish_reason="length"),
    record("f/loop.png", caption="and and and", finish_reason="repetition", model="m2"),
]
