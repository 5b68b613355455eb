"""Draws the example inputs, and writes beside each one the text that is on it.

It knows nothing of OCR: what it records is what it drew. Same fonts and same Pillow, same bytes.
"""

from __future__ import annotations

import argparse
import random
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from letter import letter_lines, letter_pdf
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (24, 24, 28)
GREY: Colour = (96, 100, 108)


class Ink(NamedTuple):
    """A font at one size, and the colour it writes in."""

    font: ImageFont.FreeTypeFont
    fill: Colour = BLACK


class Cell(NamedTuple):
    """A piece of a line: where it stands (`align` is l, m or r of `x`) and, if not the line's, its ink."""

    x: int
    text: str
    align: str = "l"
    ink: Ink | None = None


class Sheet:
    """A picture and, line by line in reading order, what is written on it."""

    def __init__(self, width: int, height: int, background: Colour) -> None:
        self.image = Image.new("RGB", (width, height), background)
        self.pen = ImageDraw.Draw(self.image)
        self.lines: list[str] = []

    def row(self, baseline: int, ink: Ink, *cells: Cell) -> None:
        """Write one line: its cells share a baseline, and the truth joins them by a space."""
        for cell in cells:
            font, fill = cell.ink or ink
            self.pen.text((cell.x, baseline), cell.text, fill=fill, font=font, anchor=f"{cell.align}s")
        self.lines.append(" ".join(cell.text for cell in cells))


class Fonts(NamedTuple):
    """The font files that the pictures are drawn with."""

    sans: Path
    bold: Path
    serif: Path
    serif_bold: Path
    mono: Path
    mono_bold: Path
    cjk: Path


def find_font(pattern: str, package: str) -> Path:
    """The file of the font that fontconfig has for `pattern`; exits if it has only a substitute."""
    try:
        found = subprocess.run(
            ["fc-match", "-f", "%{family}\t%{file}", pattern], capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise SystemExit("draw.py: no fc-match here; apt-get install fontconfig") from None
    families, path = found.stdout.split("\t")
    if pattern.split(":")[0] not in families.split(","):
        raise SystemExit(f"draw.py: no font {pattern!r}; apt-get install {package}")
    return Path(path)


def find_fonts(cjk: Path | None) -> Fonts:
    """The DejaVu faces, and `cjk` or Noto Sans CJK SC."""

    def dejavu(style: str) -> Path:
        return find_font(f"DejaVu {style}", "fonts-dejavu-core")

    return Fonts(
        sans=dejavu("Sans:book"),
        bold=dejavu("Sans:bold"),
        serif=dejavu("Serif:book"),
        serif_bold=dejavu("Serif:bold"),
        mono=dejavu("Sans Mono:book"),
        mono_bold=dejavu("Sans Mono:bold"),
        cjk=cjk or find_font("Noto Sans CJK SC:bold", "fonts-noto-cjk"),
    )


def load(path: Path, size_pixels: int, fill: Colour = BLACK) -> Ink:
    """The font as ink. Basic layout: Raqm is not in every Pillow, and spaces letters otherwise."""
    font = ImageFont.truetype(path, size_pixels, layout_engine=ImageFont.Layout.BASIC)
    return Ink(font, fill)


def load_chinese(path: Path, size_pixels: int, fill: Colour) -> Ink:
    """As `load`, and from a collection the face with the mainland's letter forms ("... SC")."""
    first = ImageFont.truetype(path, size_pixels, layout_engine=ImageFont.Layout.BASIC)
    if path.suffix != ".ttc":
        return Ink(first, fill)
    for index in range(16):
        try:
            face = first.font_variant(index=index)
        except OSError:
            break
        if (face.getname()[0] or "").endswith(" SC"):
            return Ink(face, fill)
    return Ink(first, fill)


def draw_poster(fonts: Fonts) -> Sheet:
    """An event's poster: display type over an evening sky, hills and lanterns."""
    sheet = Sheet(900, 1200, (28, 34, 84))
    for y in range(900):
        share = y / 900
        sheet.pen.line((0, y, 900, y), (28 + int(140 * share), 34 + int(60 * share), 84 + int(20 * share)))
    sheet.pen.ellipse((-500, 700, 800, 2000), (34, 78, 84))
    sheet.pen.ellipse((-100, 770, 1900, 2700), (24, 58, 68))
    for x, y, radius in ((110, 620, 26), (250, 690, 20), (640, 650, 24), (790, 590, 30), (470, 720, 16)):
        sheet.pen.line((x, y - 2 * radius, x, y), (250, 214, 130), 2)
        sheet.pen.ellipse((x - radius, y - radius, x + radius, y + int(1.3 * radius)), (250, 190, 90))
    cream, gold = (255, 244, 220), (255, 206, 110)
    sheet.row(150, load(fonts.sans, 34, gold), Cell(450, "Alderbrook Town Council presents", "m"))
    sheet.row(280, load(fonts.serif_bold, 116, cream), Cell(450, "RIVERSIDE", "m"))
    sheet.row(400, load(fonts.serif_bold, 104, cream), Cell(450, "LANTERNS", "m"))
    sheet.row(490, load(fonts.serif, 40, gold), Cell(450, "an evening of light and music", "m"))
    sheet.row(880, load(fonts.bold, 46, cream), Cell(450, "Saturday 14 September", "m"))
    sheet.row(940, load(fonts.sans, 36, cream), Cell(450, "Old Mill Meadow, 6 pm until late", "m"))
    sheet.row(1010, load(fonts.sans, 30, cream), Cell(450, "Paper boats, street food, brass band", "m"))
    sheet.pen.rounded_rectangle((300, 1050, 600, 1116), 33, gold)
    sheet.row(1095, load(fonts.bold, 32, (28, 34, 84)), Cell(450, "FREE ENTRY", "m"))
    small = load(fonts.sans, 22, cream)
    sheet.row(1164, small, Cell(450, "Bring a lantern, or make one with us from 4 pm", "m"))
    return sheet


PURCHASES = (
    ("Braeburn apples 2 kg", "5.60"),
    ("Oat bread 800 g", "3.20"),
    ("Carrots, bunch", "1.45"),
    ("Free-range eggs x 12", "3.90"),
    ("Strawberry jam 340 g", "2.75"),
    ("Lemons x 4", "1.80"),
    ("Olive oil 500 ml", "7.25"),
)


def draw_receipt(fonts: Fonts) -> Sheet:
    """A till receipt, photographed a little askew on a wooden table."""
    sheet = Sheet(600, 1000, (246, 244, 238))
    ink, bold = load(fonts.mono, 25, (48, 48, 56)), load(fonts.mono_bold, 34, (40, 40, 48))
    sheet.row(80, bold, Cell(300, "GREEN CORNER", "m"))
    sheet.row(122, ink, Cell(300, "12 Market Lane, Alderbrook", "m"))
    sheet.row(158, ink, Cell(300, "Tel 01632 960118", "m"))
    sheet.row(220, ink, Cell(50, "Receipt 004817"), Cell(550, "Till 2", "r"))
    sheet.row(256, ink, Cell(50, "03/06/2025"), Cell(550, "10:42", "r"))
    dash_across(sheet, 284)
    for index, (item, price) in enumerate(PURCHASES):
        sheet.row(330 + 42 * index, ink, Cell(50, item), Cell(550, price, "r"))
    dash_across(sheet, 610)
    sheet.row(656, ink, Cell(50, "Subtotal"), Cell(550, "25.95", "r"))
    sheet.row(698, ink, Cell(50, "Loyalty discount"), Cell(550, "-1.50", "r"))
    sheet.row(752, bold, Cell(50, "TOTAL GBP"), Cell(550, "24.45", "r"))
    sheet.row(806, ink, Cell(50, "Paid by card"), Cell(550, "24.45", "r"))
    dash_across(sheet, 834)
    sheet.row(890, ink, Cell(300, "You saved 1.50 today", "m"))
    sheet.row(930, ink, Cell(300, "Thank you and see you soon", "m"))
    sheet.image = photograph(sheet.image)
    return sheet


def dash_across(sheet: Sheet, y: int) -> None:
    """A dashed rule over the receipt's width."""
    for x in range(50, 550, 20):
        sheet.pen.line((x, y, x + 10, y), GREY, 2)


def photograph(paper: Image.Image) -> Image.Image:
    """The paper on a table: turned by a degree, slightly soft, with the sensor's grain."""
    table = Image.new("RGB", (paper.width + 120, paper.height + 120), (122, 92, 66))
    table.paste((84, 62, 44), (68, 68, paper.width + 68, paper.height + 68))
    table.paste(paper, (60, 60))
    turned = table.rotate(0.9, Image.Resampling.BICUBIC, fillcolor=(122, 92, 66))
    soft = turned.filter(ImageFilter.GaussianBlur(0.6))
    grain = Image.frombytes("L", soft.size, random.Random(7).randbytes(soft.width * soft.height))
    return Image.blend(soft, grain.convert("RGB"), 0.04)


BEES_TITLE = "The Bees on the Library Roof"
BEES = (
    "Few readers know that the quietest corner of our library is also the busiest. Above the "
    "reading room, behind a low brick wall, stand four wooden hives. On a warm day some forty "
    "thousand bees leave them to visit the lime trees along the canal.",
    "The idea came from Marta Lindqvist, who looked after the map collection for thirty years. "
    "When she retired she asked for no clock and no dinner. She asked for the roof. The council "
    "said no twice, then sent an engineer, who liked honey and said yes.",
    "The first summer was a poor one. Rain fell through most of June, and a swarm settled on the "
    "flagpole during a wedding at the town hall. Nobody was stung, but the photographs are "
    "remarkable, and one of them still hangs behind the front desk.",
    "Since then the colony has grown strong. Last year it gave sixty jars, which were sold in a "
    "single morning to pay for new picture books. Children from the school next door now paint "
    "the labels, and each class keeps a diary of what is in flower.",
    "Marta still climbs the stairs every Tuesday. She says that bees and readers are much alike: "
    "they go out empty, come home full, and tell the others where they have been.",
)


INDENT_PIXELS = 28


def wrap(paragraph: str, font: ImageFont.FreeTypeFont, width_pixels: int) -> list[tuple[int, str]]:
    """Lines no wider than `width_pixels`, each with its indent; only the first is indented."""
    lines = [(INDENT_PIXELS, "")]
    for word in paragraph.split():
        indent, line = lines[-1]
        longer = f"{line} {word}".strip()
        if indent + font.getlength(longer) <= width_pixels:
            lines[-1] = (indent, longer)
        else:
            lines.append((0, word))
    return lines


def draw_columns(fonts: Fonts) -> Sheet:
    """A page of a magazine: a title over two columns of prose."""
    sheet = Sheet(1100, 900, (253, 251, 245))
    sheet.row(120, load(fonts.serif_bold, 48, (60, 40, 20)), Cell(550, BEES_TITLE, "m"))
    sheet.pen.line((80, 160, 1020, 160), (150, 120, 90), 2)
    ink = load(fonts.serif, 23)
    lines = [line for paragraph in BEES for line in wrap(paragraph, ink.font, 440)]
    half = (len(lines) + 1) // 2
    for left, column in ((80, lines[:half]), (580, lines[half:])):
        for index, (indent, text) in enumerate(column):
            sheet.row(220 + 36 * index, ink, Cell(left + indent, text))
    return sheet


HARVEST = (
    ("Crop", "Monday", "Wednesday", "Friday", "Total"),
    ("Tomatoes", "18.4", "22.0", "19.6", "60.0"),
    ("Cucumbers", "9.5", "11.2", "8.3", "29.0"),
    ("Runner beans", "6.0", "7.4", "5.1", "18.5"),
    ("Courgettes", "12.7", "10.9", "14.4", "38.0"),
    ("All crops", "46.6", "51.5", "47.4", "145.5"),
)
EDGES_PIXELS = (50, 300, 480, 690, 850, 1010)


def draw_table(fonts: Fonts) -> Sheet:
    """A ruled table with a heading, its numbers aligned on the right."""
    sheet = Sheet(1060, 520, WHITE)
    sheet.row(70, load(fonts.bold, 30), Cell(50, "Community garden harvest, week 31 (kg)"))
    sheet.pen.rectangle((50, 110, 1010, 174), (222, 234, 222))
    ink, bold = load(fonts.sans, 25), load(fonts.bold, 25)
    for index, texts in enumerate(HARVEST):
        numbers = [Cell(edge - 18, text, "r") for edge, text in zip(EDGES_PIXELS[2:], texts[1:], strict=True)]
        emphasis = bold if index in (0, len(HARVEST) - 1) else ink
        sheet.row(151 + 64 * index, emphasis, Cell(EDGES_PIXELS[0] + 18, texts[0]), *numbers)
    for index in range(len(HARVEST) + 1):
        sheet.pen.line((50, 110 + 64 * index, 1010, 110 + 64 * index), GREY, 2)
    for edge in EDGES_PIXELS:
        sheet.pen.line((edge, 110, edge, 110 + 64 * len(HARVEST)), GREY, 2)
    return sheet


def draw_sign(fonts: Fonts) -> Sheet:
    """A park's sign in simplified Chinese, on a green board."""
    sheet = Sheet(960, 760, (206, 216, 204))
    sheet.pen.rounded_rectangle((40, 40, 920, 720), 28, (16, 92, 66))
    sheet.pen.rounded_rectangle((56, 56, 904, 704), 20, outline=(226, 240, 226), width=3)
    sheet.row(160, load_chinese(fonts.cjk, 68, (255, 236, 170)), Cell(480, "滨江公园游客须知", "m"))
    sheet.pen.line((150, 200, 810, 200), (226, 240, 226), 2)
    ink = load_chinese(fonts.cjk, 38, WHITE)
    sheet.row(278, ink, Cell(120, "夏季开放"), Cell(840, "06:00-22:00", "r"))
    sheet.row(344, ink, Cell(120, "冬季开放"), Cell(840, "06:30-21:00", "r"))
    sheet.row(426, ink, Cell(120, "请爱护花草树木，不要踩踏草坪。"))
    sheet.row(492, ink, Cell(120, "水深危险，禁止游泳和钓鱼。"))
    sheet.row(558, ink, Cell(120, "遛狗请牵绳，垃圾请带走。"))
    small = load_chinese(fonts.cjk, 28, (206, 226, 206))
    sheet.row(652, small, Cell(480, "滨江公园管理处", "m"))
    return sheet


BLUE: Colour = (38, 98, 190)


def draw_screen(fonts: Fonts) -> Sheet:
    """A screenshot of a settings window: tabs, labels, fields, switches, buttons."""
    sheet = Sheet(1000, 700, (64, 104, 128))
    sheet.pen.rounded_rectangle((50, 40, 950, 660), 12, (246, 247, 249))
    sheet.pen.rounded_rectangle((50, 40, 950, 92), 12, (54, 58, 68), corners=(True, True, False, False))
    for index, colour in enumerate(((236, 106, 94), (244, 190, 80), (98, 196, 84))):
        sheet.pen.ellipse((70 + 26 * index, 58, 86 + 26 * index, 74), colour)
    sheet.row(74, load(fonts.bold, 21, WHITE), Cell(500, "Backup Settings", "m"))
    ink, grey = load(fonts.sans, 20), load(fonts.sans, 20, GREY)
    chosen = load(fonts.bold, 20, BLUE)
    sheet.row(136, grey, Cell(90, "General", "l", chosen), Cell(240, "Schedule"), Cell(400, "Network"))
    sheet.pen.line((50, 156, 950, 156), (208, 212, 218), 2)
    sheet.pen.line((86, 155, 186, 155), BLUE, 4)
    field(sheet, (320, 186, 750, 230), WHITE, (176, 182, 192))
    field(sheet, (770, 186, 910, 230), (228, 231, 236), (176, 182, 192))
    browse = Cell(840, "Browse", "m")
    sheet.row(215, ink, Cell(90, "Folder to copy"), Cell(336, "/home/mira/Pictures"), browse)
    field(sheet, (320, 256, 750, 300), WHITE, (176, 182, 192))
    sheet.pen.polygon(((718, 273), (734, 273), (726, 284)), GREY)
    sheet.row(285, ink, Cell(90, "Copy to"), Cell(336, "Attic server"))
    for index, (label, on) in enumerate(SWITCHES):
        switch(sheet, 90, 338 + 54 * index, on)
        sheet.row(358 + 54 * index, ink, Cell(160, label))
    sheet.row(530, load(fonts.sans, 18, GREY), Cell(90, "Last backup: today at 07:15, 1,284 files, 3.6 GB"))
    field(sheet, (90, 580, 290, 628), (228, 231, 236), (176, 182, 192))
    field(sheet, (620, 580, 750, 628), (228, 231, 236), (176, 182, 192))
    field(sheet, (770, 580, 910, 628), BLUE, BLUE)
    save = Cell(840, "Save", "m", load(fonts.bold, 20, WHITE))
    sheet.row(611, ink, Cell(190, "Back up now", "m"), Cell(685, "Cancel", "m"), save)
    return sheet


SWITCHES = (
    ("Start when I log in", True),
    ("Only on mains power", True),
    ("Delete copies older than 90 days", False),
)


def field(sheet: Sheet, box: Box, fill: Colour, outline: Colour) -> None:
    """The rounded box of a field or a button."""
    sheet.pen.rounded_rectangle(box, 6, fill, outline, 2)


def switch(sheet: Sheet, x: int, y: int, on: bool) -> None:
    """A sliding switch, 52 pixels wide."""
    sheet.pen.rounded_rectangle((x, y, x + 52, y + 26), 13, BLUE if on else (180, 184, 192))
    knob = x + 29 if on else x + 3
    sheet.pen.ellipse((knob, y + 3, knob + 20, y + 23), WHITE)


PICTURES: dict[str, Callable[[Fonts], Sheet]] = {
    "poster.png": draw_poster,
    "receipt.jpg": draw_receipt,
    "two-columns.png": draw_columns,
    "table.png": draw_table,
    "sign-zh.png": draw_sign,
    "screen.png": draw_screen,
}


def write_text(path: Path, lines: Iterable[str]) -> None:
    """One line a line, UTF-8, with a newline at the end."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_all(folder: Path, fonts: Fonts) -> None:
    """Draw every example into `folder`, each with its truth."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        sheet = draw(fonts)
        sheet.image.save(folder / name, optimize=True, quality=82)
        write_text((folder / name).with_suffix(".txt"), sheet.lines)
    (folder / "letter.pdf").write_bytes(letter_pdf())
    for number, lines in enumerate(letter_lines(), 1):
        write_text(folder / f"letter.page-{number}.txt", lines)


def main() -> None:
    """Read the options, draw."""
    parser = argparse.ArgumentParser(description="Draw the example inputs and their true text.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to draw into")
    parser.add_argument("--cjk-font", type=Path, help="font file with simplified Chinese")
    options = parser.parse_args()
    if options.cjk_font and not options.cjk_font.is_file():
        parser.error(f"--cjk-font: no file {str(options.cjk_font)!r}; apt-get install fonts-noto-cjk")
    write_all(options.output, find_fonts(options.cjk_font))


if __name__ == "__main__":
    main()
