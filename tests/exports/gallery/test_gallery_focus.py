"""The keyboard keeps its place in the gallery page whatever is drawn anew under it."""

from __future__ import annotations

from support.gallery_pages import SAMPLE, wait_until
from support.gallery_pages import browser as browser  # a fixture
from support.gallery_pages import open_page as open_page  # a fixture
from support.gallery_pages import usual_context as usual_context  # a fixture

PLACE = "document.activeElement.closest('.card')?.querySelector('h2').textContent"


def go_to(page, name):
    while page.evaluate(PLACE) != name:
        page.keyboard.press("j")


def test_a_list_that_is_drawn_anew_gives_the_focus_back_to_the_caption_that_had_it(open_page):
    page = open_page(SAMPLE)
    go_to(page, "b/two.png")
    page.evaluate("wanted.query = 'two'; applyFilters()")  # as a search does that comes late
    assert page.evaluate(PLACE) == "b/two.png"
    page.evaluate("wanted.query = 'three'; applyFilters()")
    wait_until(page, "document.activeElement.id == 'clear'")  # nothing is left to stand on
    page.keyboard.press("Enter")
    wait_until(page, "document.activeElement.id == 'query'")  # the button is gone


def test_the_first_caption_gets_the_focus_where_the_filters_hide_the_one_that_had_it(open_page):
    page = open_page(SAMPLE)
    go_to(page, "f/loop.png")
    page.evaluate("wanted.query = 'sales'; applyFilters()")
    assert page.evaluate(PLACE) == "b/two.png"


def test_what_was_typed_is_searched_for_when_the_field_is_left(open_page):
    page = open_page(SAMPLE)
    page.keyboard.press("/")
    page.keyboard.type("sales")
    page.keyboard.press("Escape")
    assert page.evaluate("wanted.query") == "sales"
    page.keyboard.press("j")
    assert page.evaluate(PLACE) == "b/two.png"
