"""Thousands of cards in a real browser: only what is near is in the page, and what is in sight stays there."""

from __future__ import annotations

import pytest
from support.gallery_pages import browser as browser  # a fixture
from support.gallery_pages import card_ids, focused_caption, let_page_draw, record, search_for, wait_until
from support.gallery_pages import open_page as open_page  # a fixture
from support.gallery_pages import usual_context as usual_context  # a fixture


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
        let_page_draw(page)
        numbers = [int(name.removesuffix(".png")) for name in card_ids(page)]
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
    wait_until(page, "scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 1")
    let_page_draw(page)
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
    let_page_draw(page)
    place = """() => { const node = document.elementFromPoint(innerWidth / 2, innerHeight / 2).closest('.card');
        return [node.getAttribute('aria-label'), node.getBoundingClientRect().top]; }"""
    where = "id => document.querySelector(`.card[aria-label='${id}']`).getBoundingClientRect().top"
    for _ in range(25):
        name, before = page.evaluate(place)
        page.evaluate("scrollBy(0, -350)")
        let_page_draw(page)
        assert page.evaluate(where, name) == pytest.approx(before + 350, abs=1.5)


def test_another_width_keeps_the_place(open_page, many):
    page = open_page(many)
    page.evaluate("scrollTo(0, 200000)")
    let_page_draw(page)
    name = page.evaluate("document.elementFromPoint(640, 300).closest('.card').getAttribute('aria-label')")
    length = page.evaluate("document.documentElement.scrollHeight")
    page.set_viewport_size({"width": 400, "height": 800})
    let_page_draw(page)
    let_page_draw(page)
    assert page.locator(f".card[aria-label='{name}']").bounding_box()["y"] < 800
    numbers = [int(each.removesuffix(".png")) for each in card_ids(page)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert page.evaluate("document.documentElement.scrollHeight") > 1.2 * length  # narrow cards are longer
    bottom = page.locator(".card").last.bounding_box()
    assert bottom["y"] + bottom["height"] > 800


def test_search_among_many(open_page, many):
    page = open_page(many)
    page.evaluate("scrollTo(0, 300000)")
    let_page_draw(page)
    assert card_ids(page)[0] != "00000.png"
    page.get_by_role("button", name="OK").click()
    assert card_ids(page)[0] == "00000.png"
    assert page.evaluate("scrollY") == 0
    search_for(page, "number 1234")
    assert (card_ids(page), page.locator("#hits").text_content()) == (["01234.png"], "1 of 6,667 captions")
    search_for(page, "NUMBER 49")
    let_page_draw(page)
    assert card_ids(page)[0] == "00049.png"
    assert (
        page.locator("#hits").text_content() == "199 of 6,667 captions"
    )  # 49xx, x49x and xx49 are 100 + 50 + 50, 4949 is two of them
    assert page.locator(".card").count() < MAX_CARDS
    search_for(page, "")
    assert card_ids(page)[0] == "00000.png"


def test_keys_through_many(open_page, many):
    page = open_page(many)
    for index in range(120):
        page.keyboard.press("j")
        assert focused_caption(page) == many[index]["caption"]
        assert page.locator(".card").count() < MAX_CARDS
    box = page.locator("[aria-current=true]").bounding_box()
    assert 0 < box["y"] < 800
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    let_page_draw(page)
    page.keyboard.press("k")  # from where the selection is, not from what is in sight
    assert focused_caption(page) == many[118]["caption"]


def test_pictures_are_parsed_when_they_come_into_view(open_page, many):
    page = open_page(many)
    assert page.evaluate("[...pictures.parsed.keys()]") == [0]
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    let_page_draw(page)
    assert 39 in page.evaluate("[...pictures.parsed.keys()]")  # 5000 / 128 = 39.06
    for part in range(20):
        page.evaluate("part => scrollTo(0, part / 20 * document.documentElement.scrollHeight)", part)
        let_page_draw(page)
    assert page.evaluate("pictures.parsed.size") == 6
    assert page.evaluate("document.querySelectorAll('script.cards').length") == 0
