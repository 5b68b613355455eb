"""The published table of types, styles and aliases, written out by hand, and the catalogue to compare with it."""

from __future__ import annotations

import pytest

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Prompt

# type: [(style, languages, {name it is published under: the language which that name fixes})]
PUBLISHED: dict[str, list[tuple[str, list[str], dict[str, str | None]]]] = {
    "aigc": [
        ("detailed", ["en", "zh"], {"Detailed": None, "Detailed_CN": "zh"}),
        ("medium", ["en", "zh"], {"Medium": None, "Medium_CN": "zh"}),
        ("short", ["en", "zh"], {"Short": None, "Short_CN": "zh"}),
        ("tag", ["en", "zh"], {"Tag": None, "Tag_CN": "zh"}),
    ],
    "natural": [
        ("detailed", ["en", "zh"], {"Detailed_Natural": None, "Detailed_CN_Natural": "zh"}),
        ("medium", ["en", "zh"], {"Medium_Natural": None, "Medium_CN_Natural": "zh"}),
        ("short", ["en", "zh"], {"Short_Natural": None, "Short_CN_Natural": "zh"}),
        ("tag", ["en", "zh"], {"Tag_Natural": None, "Tag_CN_Natural": "zh"}),
    ],
    "mathgeo": [
        ("tikz", ["en"], {"mathgeo_tikz": None}),
        ("caption", ["en"], {"mathgeo_caption": None}),
        ("construction", ["en"], {"mathgeo_caption_mavis": None}),
        ("summary", ["en"], {"mathgeo_caption_autogeo": None}),
    ],
    "chart": [
        ("markdown", ["en"], {"chart_markdwon": None, "chart_markdown": None}),
        ("caption", ["en", "zh"], {"chart_caption": None, "chart_caption_CN": "zh"}),
    ],
    "equation": [
        ("latex", ["en"], {"equation_latex": None}),
        ("caption", ["en", "zh"], {"equation_caption": None, "equation_caption_CN": "zh"}),
    ],
    "ocr": [
        ("text", ["en"], {"general_ocr": None}),
        ("poster", ["en"], {"poster_ocr": None}),
        ("markdown", ["en"], {"pdf_ocr": None}),
        ("caption", ["en", "zh"], {"poster_caption": None, "poster_caption_CN": "zh"}),
    ],
    "gui": [("caption", ["en", "zh"], {"gui": None})],
    "table": [
        ("latex", ["en"], {"table_latex": None}),
        ("caption", ["en", "zh"], {"table_caption": None, "table_caption_CN": "zh"}),
    ],
    "chem": [("smiles", ["en"], {})],
    "video": [
        ("aspects", ["en"], {"Video_all": None}),
        ("aspects_nostyle", ["en"], {"Video_all_wostyle": None}),
    ],
}


@pytest.fixture(scope="module")
def builtin() -> Catalogue:
    return Catalogue.load()


def names_of(prompts: list[Prompt]) -> list[tuple[str, str, str]]:
    return [(prompt.type, prompt.style, prompt.lang) for prompt in prompts]
