"""The gallery page for every reader: contrast in light and dark, on a phone, and for those who hear it."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from support.gallery_pages import SAMPLE, record, search_for, wait_until
from support.gallery_pages import browser as browser  # a fixture
from support.gallery_pages import open_page as open_page  # a fixture
from support.gallery_pages import usual_context as usual_context  # a fixture

from omnicap_cli.exports.gallery.gallery import make_thumbnail

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
    search_for(page, "a")
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
    wait_until(page, "document.querySelectorAll('[role=feed] [aria-posinset]').length == 6")
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
    wait_until(page, "getComputedStyle(document.activeElement).outline.includes('solid')")
    controls = "[...document.querySelectorAll('button, a, select, input')]"
    assert "" not in page.evaluate(f"{controls}.map(node => (node.ariaLabel || node.textContent).trim())")
