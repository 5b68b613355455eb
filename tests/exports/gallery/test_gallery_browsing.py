"""What a real browser makes of the gallery page: filters, search, keys, the large view and links."""

from __future__ import annotations

import pytest
from support.gallery_pages import (
    PICTURE,
    SAMPLE,
    card_ids,
    failed_record,
    focused_caption,
    let_page_draw,
    record,
    search_for,
    wait_until,
)
from support.gallery_pages import browser as browser  # a fixture
from support.gallery_pages import open_page as open_page  # a fixture
from support.gallery_pages import usual_context as usual_context  # a fixture

# --------------------------------------------------------------------------------------------------- filters and search


def test_pictures_beside_captions(open_page):
    page = open_page(SAMPLE, thumbnail_of=lambda record: None if "broken" in record["id"] else PICTURE)
    assert card_ids(page) == ["a/one.png", "b/two.png", "c/broken.png", "d/blank.png", "e/long.png", "f/loop.png"]
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
        assert card_ids(page) == expected
        assert page.locator("#hits").text_content() == f"{number} of 7 captions"
        assert chip.locator("small").text_content() == str(number)
        pressed = [node.get_attribute("aria-pressed") for node in states.get_by_role("button").all()]
        assert pressed.count("true") == 1
        assert chip.get_attribute("aria-pressed") == "true"
    states.get_by_role("button", name="All").click()
    assert len(card_ids(page)) == 6


def test_filters_hide_captions_and_cards_with_none_left(open_page):
    page = open_page(SAMPLE)
    page.get_by_label("Filter by style").select_option("markdown")
    assert (card_ids(page), page.locator(".caption").count()) == (["a/one.png"], 1)
    assert page.locator("#hits").text_content() == "1 of 7 captions"
    page.get_by_label("Filter by type").select_option("chart")
    assert page.locator(".card").count() == 0
    page.get_by_role("button", name="Clear the filters").click()
    assert page.locator(".caption").count() == 7
    assert page.locator("#hits").text_content() == ""
    page.get_by_label("Filter by type").select_option("chart")
    assert card_ids(page) == ["b/two.png"]
    page.get_by_label("Filter by type").select_option("any type")
    page.get_by_label("Filter by lang").select_option("zh")
    assert card_ids(page) == ["e/long.png"]
    page.get_by_label("Filter by model").select_option("m2")
    assert card_ids(page) == []


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
        search_for(page, query)
        assert card_ids(page) == expected
        assert page.locator("#hits").text_content() == f"{num_captions} of 7 captions"
        assert page.get_by_text("Nothing matches.").is_visible() == (not expected)
        assert (page.locator("mark").count() > 0) == bool(expected)
        page.keyboard.press("Escape")


def test_search_while_typing(open_page):
    page = open_page(SAMPLE)
    page.keyboard.press("/")
    page.keyboard.type("quarterly")
    wait_until(page, "document.getElementById('hits').textContent === '1 of 7 captions'")
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
    search_for(page, "Needle")
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
        seen.append(focused_caption(page))
    captions = [each["caption"] for each in SAMPLE]
    assert seen == [captions[index] for index in (0, 1, 2, 3, 2, 1, 0, 0)]
    assert page.locator("[aria-current=true]").count() == 1
    for _ in range(20):
        page.keyboard.press("j")
    page.keyboard.press("Control+k")  # which is the browser's
    page.keyboard.press("Control+c")
    assert focused_caption(page) == "and and and"
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
    wait_until(page, "document.activeElement.caption?.record.id === 'a/one.png'")
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
    wait_until(page, "!document.querySelector('dialog[open]')")


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
    wait_until(page, "document.getElementById('notice').textContent === 'Caption copied'")
    if how == "large view":
        page.keyboard.press("Escape")
    page.get_by_role("searchbox").focus()
    page.keyboard.press("Control+V")
    assert page.get_by_role("searchbox").input_value() == "一行 <b>two</b>"


def test_an_error_has_nothing_to_copy(open_page):
    assert open_page([failed_record("a.png")]).get_by_role("button", name="Copy").count() == 0


# ------------------------------------------------------------------------------------------------------ links


def test_a_link_leads_to_its_caption(open_page):
    records = [record(f"{number}.png") for number in range(400)]
    records[300] = record("scan ü.pdf#page=3:2")
    page = open_page(records, link="#scan%20%C3%BC.pdf%23page%3D3%3A2")
    assert focused_caption(page) == "caption of scan ü.pdf#page=3:2"
    assert page.locator("[aria-current=true]").is_visible()
    let_page_draw(page)
    box = page.locator("[aria-current=true]").bounding_box()
    assert page.locator("#bar").bounding_box()["height"] <= box["y"] <= 800 - box["height"]


def test_the_address_follows_the_selection(open_page):
    page = open_page([record("a b.png"), record("a b.png", style="markdown", caption="second"), record("c.png")])
    page.keyboard.press("j")
    wait_until(page, "location.hash === '#a%20b.png'")
    page.keyboard.press("j")
    wait_until(page, "location.hash === '#a%20b.png:2'")
    page.evaluate("location.hash = '#c.png'")
    wait_until(page, "document.activeElement.caption?.record.id === 'c.png'")
    page.evaluate("location.hash = '#a%20b.png:2'")
    wait_until(page, "document.activeElement.caption?.record.caption === 'second'")


def test_a_link_to_what_filters_hide_takes_them_off(open_page):
    page = open_page(SAMPLE)
    search_for(page, "sales")
    page.evaluate("location.hash = '#d%2Fblank.png'")
    wait_until(page, "document.activeElement.caption?.record.id === 'd/blank.png'")
    assert page.get_by_role("searchbox").input_value() == ""
    assert page.locator(".caption").count() == 7


def test_a_link_that_leads_nowhere(open_page):
    page = open_page(SAMPLE, link="#nothing")
    for link in ["#%", "#:", "#list", "#a%2Fone.png:9", "#%3Cimg%20src=x%20onerror=alert(1)%3E"]:
        page.evaluate("link => new Promise(done => (onhashchange = done, location.hash = link)).then(() => 0)", link)
        assert page.locator("[aria-current=true]").count() == 0
        assert page.locator(".card").count() == 6
