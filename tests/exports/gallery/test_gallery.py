"""What the gallery page carries, read back by another parser, and how little of it is in memory."""

from __future__ import annotations

import io
import json
import re
import threading
import tracemalloc
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gallery_pages import HOSTILE, PICTURE, record, write_gallery

from omnicap_cli.exports.gallery.gallery import Thumbnail, write_page


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

    count, page = write_gallery(records, thumbnail_of=thumbnail_of)
    values = Blocks(page).values
    assert count == 8
    groups = [records[:2], records[2:3], records[3:4], *([each] for each in records[4:])]
    assert values["cards"] == groups
    assert [bool(picture) for picture in values["pictures"]] == [True, False, True, True, True, True, True]
    assert sorted(map(str, asked)) == sorted(str(group[0]) for group in groups)


def test_a_card_holds_no_more_than_32_captions():
    _, page = write_gallery([record("a.png", style=str(number)) for number in range(70)])
    values = Blocks(page).values
    assert [len(card) for card in values["cards"]] == [32, 32, 6]
    assert len(values["pictures"]) == 3


def test_pictures_lie_where_the_page_looks_for_them():
    _, page = write_gallery(record(str(number)) for number in range(300))
    blocks = Blocks(page)
    assert [length for name, length in blocks.lengths if name == "pictures"] == [128, 128, 44]
    script = re.search(rb"const PICTURES_PER_BLOCK = (\d+);", page)
    assert int(script[1]) == 128


def test_blocks_of_long_captions_are_shorter():
    _, page = write_gallery(record(str(number), caption="x" * 400_000) for number in range(7))
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

    _, page = write_gallery((record(str(number)) for number in range(50)), thumbnail_of=thumbnail_of)
    assert [width for _, width, _ in Blocks(page).values["pictures"]] == list(range(50))


def test_nothing_is_written():
    count, page = write_gallery([])
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
        write_gallery([record(str(number)) for number in range(100)], thumbnail_of=broken)
    with pytest.raises(OSError, match="gone"):
        write_gallery(records())
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
    _, page = write_gallery(records, title)
    blocks = Blocks(page)
    assert blocks.values["cards"] == [[each] for each in records]
    assert blocks.num_scripts == len(blocks.lengths) + 3


def test_what_json_cannot_hold():
    deep = inner = []
    for _ in range(400):
        inner.append([])
        inner = inner[0]
    odd = record("\ud800.png", caption="a\udfffb", meta={"big": 10**30, "nan": float("nan"), "\udc00": deep, 3: {"x"}})
    count, page = write_gallery([odd])
    card = Blocks(page).values["cards"][0][0]
    assert count == 1
    assert (card["id"], card["caption"]) == (r"\ud800.png", r"a\udfffb")
    assert (card["meta"]["big"], card["meta"]["nan"], card["meta"]["3"]) == (str(10**30), None, "{'x'}")
    assert json.dumps(card["meta"][r"\udc00"]).startswith("[[[[")
