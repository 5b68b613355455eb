"""The example letter: its words, and the smallest PDF that carries them as text.

It embeds no font (Times is one of the fourteen that every reader has), and knows of no other PDF feature.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

LETTER = (
    """
                                                            Eleanor Whitcombe
                                                            Keeper's Cottage
                                                            Saltmarsh Point
                                                            9 April 2025

    Mr Daniel Okafor
    Harbour Museum
    Quay Street
    Alderbrook

    Dear Mr Okafor,

    Thank you for your letter of 28 March. I am delighted that the museum
    would like to show the lamp from the old lighthouse, and I am glad to
    lend it to you for the whole of the summer.

    You asked how it came into my family. My grandfather, Thomas Whitcombe,
    was the last keeper at Saltmarsh Point. When the light was made
    automatic in 1962, the engineers left the oil lamp in the yard, under a
    sheet, with a note that said "scrap". He carried it home in a fish cart
    and polished it every Sunday for the rest of his life.

    The lamp stands 84 cm high and weighs about 31 kg. The brass is sound,
    but one of the glass panels has a crack near the foot, so it should be
    lifted by the lower ring and never by the handle. I have kept the
    original burner, two spare wicks and the keeper's log from 1938 to 1951.

    It must not be cleaned with anything wet. A soft cloth is enough, and a
    little wax on the ring before winter. If a spare part is needed, the
    chandler on Fish Street made the last one and still has the drawing.
    """,
    """
    The log may interest your visitors most of all. It is written in pencil,
    three or four lines a day, and it is mostly about the weather. But there
    are better things among the gales: a seal that slept on the slipway for
    a week, a piano washed ashore with the lid still locked, and the night
    of 11 January 1947, when the snow was so thick that he rang the bell by
    hand until morning.

    I suggest the following dates, if they suit you:

    Monday 12 May: your van collects the lamp, any time after 10 am
    Saturday 24 May: the exhibition opens
    Sunday 14 September: last day
    Friday 19 September: the lamp comes home

    Please could you tell me the value for which it will be insured? My
    cousin believes that 4,500 pounds is a fair figure, and I have no better
    one to offer.

    With kind regards,

    Eleanor Whitcombe

    Enclosed: two photographs, one copy of the log for January 1947
    """,
)

A4_POINTS = (595, 842)
LEFT_POINTS, SENDER_POINTS, TOP_POINTS, LEADING_POINTS = 85, 390, 752, 19
FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Times-Roman /Encoding /WinAnsiEncoding >>"


class Line(NamedTuple):
    """A line of text and where it starts, in points from the page's lower left corner."""

    x: int
    y: int
    text: str


def set_page(page: str) -> list[Line]:
    """The lines of a typed page; what is typed far to the right (the sender) is set there."""
    lines = []
    for index, line in enumerate(page.strip("\n").splitlines()):
        x = SENDER_POINTS if line.startswith(" " * 60) else LEFT_POINTS
        if line.strip():
            lines.append(Line(x, TOP_POINTS - LEADING_POINTS * index, line.strip()))
    return lines


def letter_lines() -> list[list[str]]:
    """What is written on each page, line by line."""
    return [[line.text for line in set_page(page)] for page in LETTER]


def letter_pdf() -> bytes:
    """The letter as a PDF file."""
    return pdf_file(content_stream(set_page(page)) for page in LETTER)


def content_stream(lines: Iterable[Line]) -> bytes:
    """A page's content (ISO 32000-1, 9.4): each line set in 12 point Times."""
    escapes = str.maketrans({"\\": r"\\", "(": r"\(", ")": r"\)"})
    shown = (f"1 0 0 1 {x} {y} Tm ({text.translate(escapes)}) Tj" for x, y, text in lines)
    return "\n".join(["BT /F1 12 Tf", *shown, "ET"]).encode("cp1252")


def pdf_file(contents: Iterable[bytes]) -> bytes:
    """A PDF of A4 pages with these contents (ISO 32000-1, 7.5: header, objects, xref, trailer)."""
    pages: list[bytes] = []
    kids: list[bytes] = []
    shared = b"/Parent 2 0 R /MediaBox [0 0 %d %d] /Resources << /Font << /F1 3 0 R >> >>" % A4_POINTS
    for content in contents:
        number = 4 + len(pages)  # objects 1 to 3 are the catalogue, the page tree and the font
        pages.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
        pages.append(b"<< /Type /Page %s /Contents %d 0 R >>" % (shared, number))
        kids.append(b"%d 0 R" % (number + 1))
    tree = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    return join_objects([b"<< /Type /Catalog /Pages 2 0 R >>", tree, FONT, *pages])


def join_objects(objects: Iterable[bytes]) -> bytes:
    """The file of these objects, numbered from 1; the first is the catalogue."""
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    size, start = len(offsets) + 1, len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % size
    data += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return data + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, start)
