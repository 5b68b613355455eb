"""Boxes drawn by hand, with the text that a person would read."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.engines.rapidocr.boxes import TextBox, skew_radians, text_width
from omnicap_cli.engines.rapidocr.layout import to_text
from omnicap_cli.engines.rapidocr.markdown import to_markdown

CHARACTER = 9.0  # pixels
PROSE = (
    "It was the best of times, it was",
    "the worst of times, it was the",
    "age of wisdom, it was the age of",
    "foolishness, it was the epoch of",
    "belief, it was the epoch of in-",
    "credulity, it was the season of",
    "Light.",
)
OTHER_PROSE = (
    "Call me Ishmael. Some years ago,",
    "never mind how long precisely,",
    "having little or no money in my",
    "purse, and nothing particular to",
    "interest me on shore, I thought",
    "I would sail about a little and",
    "see the watery part of the world.",
)


def box(text, left, top, height=20.0, width=None):
    right = left + (text_width(text) * CHARACTER * height / 20 if width is None else width)
    return TextBox(text, ((left, top), (right, top), (right, top + height), (left, top + height)), 0.99)


def lines(texts, left, top, pitch=26.0, **kwargs):
    return [box(text, left, top + pitch * place, **kwargs) for place, text in enumerate(texts)]


def rotated(boxes, degrees):
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return [
        TextBox(b.text, tuple((x * cos - y * sin + 200, x * sin + y * cos + 100) for x, y in b.quad), b.score)
        for b in boxes
    ]


def joined(*texts):
    return "\n".join(texts)


TITLE = box("A Tale of Two Books", 120, 20, height=32)
TWO_COLUMNS = [TITLE, *lines(PROSE, 40, 80), *lines(OTHER_PROSE, 350, 80)]
RECEIPT = [
    box("CORNER SHOP", 150, 10),
    *lines(("Milk 1L", "Sourdough bread", "Butter, salted"), 20, 50),
    *lines(("1.29", "3.80", "2.49"), 380, 50),
    box("TOTAL", 20, 140),
    box("7.58", 380, 140),
    box("THANK YOU", 160, 180),
]
TABLE = [
    *lines(("Fruit", "Apples", "Pears"), 20, 10, pitch=30),
    *lines(("Weight | kg", "12", "7"), 200, 10, pitch=30),
    *lines(("Price", "3.20", "4.10"), 400, 10, pitch=30),
]


def test_nothing():
    assert to_text([]) == to_markdown([]) == ""
    assert to_text([box("  ", 0, 0)]) == to_markdown([box("", 0, 0)]) == ""


def test_single_box():
    assert to_text([box("Exit", 5, 5)]) == to_markdown([box("Exit", 5, 5)]) == "Exit"


def test_one_column():
    assert to_text(lines(PROSE, 40, 80)) == joined(*PROSE)


def test_title_over_two_columns():
    assert to_text(TWO_COLUMNS) == joined("A Tale of Two Books", *PROSE, *OTHER_PROSE)


def test_columns_whose_lines_do_not_pair_up():
    boxes = [TITLE, *lines(PROSE, 40, 80), *lines(OTHER_PROSE, 350, 91, pitch=23)]
    assert to_text(boxes) == joined("A Tale of Two Books", *PROSE, *OTHER_PROSE)


def test_three_columns_between_lines_over_the_page():
    wide = "A line that runs from the left margin to the right one, over all three of the columns below it"
    boxes = [
        box(wide, 40, 20, width=940),
        *lines(PROSE, 40, 60),
        *lines(OTHER_PROSE, 350, 60),
        *lines(PROSE[::-1], 670, 60),
        box(wide.upper(), 40, 260, width=940),
    ]
    assert to_text(boxes) == joined(wide, *PROSE, *OTHER_PROSE, *PROSE[::-1], wide.upper())


def test_a_column_that_goes_on_below_the_other_one():
    boxes = [*lines(PROSE, 40, 80), *lines(OTHER_PROSE[:4], 350, 80)]
    assert to_text(boxes) == joined(*PROSE, *OTHER_PROSE[:4])


def test_boxes_that_overlap_the_next_line():
    """A title right above columns, all boxes a third higher than the line pitch."""
    boxes = [
        box("A title that spans both of the columns of the page", 60, 60, height=30),
        *lines(PROSE, 40, 80, pitch=22, height=30, width=290),
        *lines(OTHER_PROSE, 345, 80, pitch=22, height=30, width=290),
    ]
    assert to_text(boxes).splitlines()[1:] == [*PROSE, *OTHER_PROSE]


def test_receipt_is_read_row_by_row():
    assert to_text(RECEIPT) == joined(
        "CORNER SHOP",
        "Milk 1L 1.29",
        "Sourdough bread 3.80",
        "Butter, salted 2.49",
        "TOTAL 7.58",
        "THANK YOU",
    )


def test_heading_between_labels_and_values():
    boxes = [box("SHOP", 280, 10), box("Main Street 3", 240, 36), *RECEIPT[1:-1]]
    assert to_text(boxes).splitlines()[:3] == ["SHOP", "Main Street 3", "Milk 1L 1.29"]


def test_labels_beside_values_of_two_lines():
    boxes = [
        *lines(("Name", "Address", "Remark"), 20, 23, pitch=60),
        *lines(("Ada Lovelace,", "12 Square Street", "not yet known"), 200, 10, pitch=60),
        *lines(("countess", "London", "to anybody"), 200, 36, pitch=60),
    ]
    assert to_text(boxes).splitlines().index("Name") < to_text(boxes).splitlines().index("not yet known")


def test_table_is_read_row_by_row():
    assert to_text(TABLE) == joined("Fruit Weight | kg Price", "Apples 12 3.20", "Pears 7 4.10")


@pytest.mark.parametrize("degrees", [-3, 3, -12, 12])
@pytest.mark.parametrize("boxes", [TWO_COLUMNS, RECEIPT, TABLE], ids=["columns", "receipt", "table"])
def test_skewed_page(boxes, degrees):
    assert to_text(rotated(boxes, degrees)) == to_text(boxes)
    assert to_markdown(rotated(boxes, degrees)) == to_markdown(boxes)


def test_skew_ignores_stray_boxes():
    assert skew_radians([*rotated(lines(PROSE, 40, 80), 3), box("Stamp", 0, 0)]) == pytest.approx(math.radians(3))
    assert skew_radians([]) == 0


def test_cjk_pieces_are_joined_without_a_space():
    boxes = [
        box("图像描述", 20, 20),
        box("工具", 95, 21),
        box("OCR", 150, 20),
        box("价格", 400, 20),
        box("한국", 440, 20),
    ]
    assert to_text(boxes) == "图像描述工具 OCR 价格 한국"
    assert (
        to_markdown(lines(("人工智能可以描述图像", "也可以识别文字。"), 20, 20))
        == "人工智能可以描述图像也可以识别文字。"
    )


def test_vertical_cjk_is_read_from_right_to_left():
    boxes = [
        box("春眠不覺曉", 300, 20, height=120, width=24),
        box("處處聞啼鳥", 260, 20, height=120, width=24),
    ]
    assert to_text(boxes) == joined("春眠不覺曉", "處處聞啼鳥")


def test_vertical_note_in_the_margin_comes_last():
    note = box("arXiv:2507.07104v1", 2, 40, height=200, width=20)
    assert to_text([note, *TWO_COLUMNS]) == joined(to_text(TWO_COLUMNS), note.text)


def test_overlapping_boxes_stay_lines():
    boxes = [box("first", 10, 10), box("first again", 12, 12), box("second", 10, 26)]
    assert to_text(boxes) == joined("first", "first again", "second")


def test_logo_beside_two_lines():
    boxes = [box("ACME", 10, 10, height=50), box("12 Main Street", 150, 12), box("Springfield", 150, 38)]
    assert to_text(boxes) == joined("ACME 12 Main Street", "Springfield")


def test_markdown_of_a_page():
    assert to_markdown(TWO_COLUMNS) == (
        "# A Tale of Two Books\n\n"
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
        "foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of "
        "Light.\n\n" + " ".join(OTHER_PROSE)
    )


def test_markdown_paragraph_goes_on_in_the_next_column():
    boxes = [
        *lines(PROSE[:4], 40, 80),
        *lines(("belief, it was the epoch of in-", *PROSE[5:6], *PROSE[:1]), 350, 80),
    ]
    assert "the epoch of belief, it was the epoch of incredulity" in to_markdown(boxes)
    assert "\n" not in to_markdown(boxes)


def test_markdown_headings_have_levels():
    boxes = [
        box("Report", 40, 10, height=48),
        box("Introduction", 40, 80, height=30),
        *lines(PROSE, 40, 130),
        box("Results", 40, 330, height=29),
        *lines(OTHER_PROSE, 40, 380),
    ]
    headings = [block for block in to_markdown(boxes).split("\n\n") if block.startswith("#")]
    assert headings == ["# Report", "## Introduction", "## Results"]


def test_markdown_paragraphs_at_gaps_and_indents():
    gap = [*lines(PROSE, 40, 80), *lines(OTHER_PROSE, 40, 300)]
    assert to_markdown(gap).count("\n\n") == 1
    indented = [*lines(PROSE, 40, 80), box(OTHER_PROSE[0], 65, 262), *lines(OTHER_PROSE[1:], 40, 288)]
    assert to_markdown(indented).count("\n\n") == 1


def test_markdown_lists():
    boxes = lines(("Buy:", "• milk", "·bread", "- salt", "1. open the", "2)close", "2.5 kg of flour"), 40, 10)
    assert to_markdown(boxes) == "Buy:\n\n- milk\n- bread\n- salt\n1. open the\n2. close\n\n2.5 kg of flour"


def test_markdown_list_items_go_on_where_they_are_indented():
    boxes = [
        box("• an item that is too long for", 40, 10),
        box("its line", 60, 36),
        box("• another one of about the same", 40, 62),
    ]
    assert to_markdown(boxes) == "- an item that is too long for its line\n- another one of about the same"


def test_markdown_keeps_short_lines():
    assert to_markdown(lines(("Jane Doe", "12 Main Street", "Springfield"), 40, 10)) == joined(
        "Jane Doe", "12 Main Street", "Springfield"
    )


RAGGED = (
    "The boat that we had hired, although it was old and slow,",  # much longer than what follows
    "had two good sails and a stove in the cabin. We",
    "left the harbour before six, and with a wind that",
    "was just strong enough, and nobody on the quay",
    "to see us off.",
)
SENDER = ("Ada Lovelace", "12 St James's Square", "London")


def test_markdown_joins_a_paragraph_with_a_ragged_right_edge():
    boxes = [*lines(SENDER, 430, 10), *lines(SENDER, 40, 120), *lines(RAGGED, 40, 240), box("With regards,", 40, 400)]
    assert to_markdown(boxes) == (
        "Ada Lovelace\n12 St James's Square\nLondon\n\n"
        "Ada Lovelace\n12 St James's Square\nLondon\n\n"
        "The boat that we had hired, although it was old and slow, had two good sails and a stove in the cabin. "
        "We left the harbour before six, and with a wind that was just strong enough, and nobody on the quay to "
        "see us off.\n\n"
        "With regards,"
    )


@pytest.mark.parametrize(
    "texts",
    [
        (  # a verse
            "Whose woods these are I think I know",
            "His house is in the village though",
            "He will not see me stopping here",
            "To watch his woods fill up with snow",
        ),
        (  # labels and values
            "Monday 12 May: your van collects the lamp, after 10 am",
            "Saturday 24 May: the exhibition opens",
            "Sunday 14 September: last day",
            "Friday 19 September: the lamp comes home",
        ),
        ("two large eggs, beaten", "a pinch of salt", "half a pound of the best flour", "milk"),
        ("With very kind regards from all of us,", "Eleanor Whitcombe", "chair of the society"),
    ],
    ids=["verse", "dates", "recipe", "signature"],
)
def test_markdown_keeps_lines_that_end_where_they_were_meant_to(texts):
    boxes = [*lines(RAGGED, 40, 10), *lines(texts, 40, 200), *lines(RAGGED, 40, 360)]
    assert to_markdown(boxes).split("\n\n")[1:-1] == [joined(*texts)]
    assert to_markdown(lines(texts, 40, 200)) == joined(*texts)


def test_markdown_table():
    assert to_markdown(TABLE) == joined(
        "| Fruit | Weight \\| kg | Price |",
        "| --- | --- | --- |",
        "| Apples | 12 | 3.20 |",
        "| Pears | 7 | 4.10 |",
    )


def test_markdown_table_with_missing_and_wrapped_cells():
    boxes = [
        *lines(("Name", "Ada", "Bob", "Cy"), 20, 10, pitch=60),
        *lines(("Remark", "a remark of", "", "none"), 200, 10, pitch=60),
        box("two lines", 200, 96),
    ]
    assert to_markdown(boxes) == joined(
        "| Name | Remark |", "| --- | --- |", "| Ada | a remark of two lines |", "| Bob |  |", "| Cy | none |"
    )


def test_markdown_rows_that_do_not_align_stay_lines():
    boxes = [
        box("alpha", 20, 10),
        box("beta", 320, 10),
        box("a much longer first cell", 70, 40),
        box("b", 490, 40),
    ]
    assert to_markdown(boxes) == joined("alpha beta", "a much longer first cell b")


COORDINATES = st.floats(-1e6, 1e6) | st.integers(0, 300).map(float)
POINTS = st.tuples(COORDINATES, COORDINATES)
QUADS = st.lists(st.tuples(POINTS, POINTS, POINTS, POINTS), max_size=25)
SIZES = st.integers(0, 90)
PLACES = st.integers(0, 400)
RECTANGLES = st.lists(
    st.builds(lambda x, y, w, h: box("", x, y, height=h, width=w).quad, PLACES, PLACES, SIZES, SIZES),
    max_size=25,
)


def tokens(quads):
    return [TextBox(f"<{place}>", quad, 0.9) for place, quad in enumerate(quads)]


@given(QUADS | RECTANGLES)
def test_every_text_appears_once(quads):
    expected = sorted(f"<{place}>" for place in range(len(quads)))
    assert sorted(to_text(tokens(quads)).split()) == expected
    assert to_markdown(tokens(quads)).count("<") == len(quads)


@given(QUADS | RECTANGLES, st.randoms())
def test_order_of_input_does_not_matter(quads, random):
    shuffled = tokens(quads)
    random.shuffle(shuffled)
    assert to_text(shuffled) == to_text(tokens(quads))
    assert to_markdown(shuffled) == to_markdown(tokens(quads))


@pytest.mark.parametrize(
    "place",
    [
        lambda n: ((n % 10) * 200, (n // 10) * 30),
        lambda n: (0, 0),
        lambda n: (n * 200, 0),
        lambda n: (0, n * 10),
        lambda n: (n * 37 % 3000, n * 91 % 4000),
        lambda n: (n % 2 * 400 + n * 7 % 40, n // 2 * 30),
    ],
    ids=["grid", "pile", "row", "stack", "scattered", "ragged"],
)
def test_thousands_of_boxes_end(place):
    boxes = [box(f"<{n}>", *place(n), width=120) for n in range(3000)]
    assert to_text(boxes).count("<") == to_markdown(boxes).count("<") == 3000
