"""The catalogue against the published table of types, styles and task types, and how prompts are selected."""

from __future__ import annotations

import pytest
from support.published_prompts import PUBLISHED, names_of
from support.published_prompts import builtin as builtin  # a fixture

from omnicap_cli.core.prompts.catalogue import Alias
from omnicap_cli.errors import OptionError

TASK_TYPES = {
    "detailed": ("aigc", "detailed", "en"),
    "medium": ("aigc", "medium", "en"),
    "short": ("aigc", "short", "en"),
    "tag": ("aigc", "tag", "en"),
    "detailed_CN": ("aigc", "detailed", "zh"),
    "medium_CN": ("aigc", "medium", "zh"),
    "short_CN": ("aigc", "short", "zh"),
    "tag_CN": ("aigc", "tag", "zh"),
    "detailed_natural": ("natural", "detailed", "en"),
    "medium_natural": ("natural", "medium", "en"),
    "short_natural": ("natural", "short", "en"),
    "detailed_natural_CN": ("natural", "detailed", "zh"),
    "medium_natural_CN": ("natural", "medium", "zh"),
    "short_natural_CN": ("natural", "short", "zh"),
    "OCR": ("ocr", "text", "en"),
    "poster": ("ocr", "caption", "en"),
    "poster_CN": ("ocr", "caption", "zh"),
    "UI": ("gui", "caption", "en"),
    "UI_CN": ("gui", "caption", "zh"),
    "chart": ("chart", "markdown", "en"),
    "table": ("table", "latex", "en"),
    "math_equation": ("equation", "latex", "en"),
    "math_geometry": ("mathgeo", "tikz", "en"),
    "structured_CN": ("chart", "caption", "zh"),
    "chemdata": ("chem", "smiles", "en"),
    "video": ("video", "aspects", "en"),
}

HEADINGS = [
    "Short Caption",
    "Background Caption",
    "Main Object Caption",
    "Reference Caption",
    "Standard Summary",
    "Key Tags",
    "Style Tags",
]


EVERY_STYLE = [pytest.param(kind, *row, id=f"{kind}-{row[0]}") for kind, rows in PUBLISHED.items() for row in rows]
EVERY_ALIAS = [
    pytest.param(kind, style, languages, alias, lang, id=f"{kind}-{alias}")
    for kind, rows in PUBLISHED.items()
    for style, languages, aliases in rows
    for alias, lang in aliases.items()
]


# ------------------------------------------------------------------------------------------ what is built in


def test_types_and_styles_are_the_published_ones_in_order(builtin):
    found = {kind.name: list(kind.styles) for kind in builtin}
    assert list(found) == list(PUBLISHED)
    assert found == {kind: [style for style, _, _ in rows] for kind, rows in PUBLISHED.items()}


@pytest.mark.parametrize(("kind", "style", "languages", "aliases"), EVERY_STYLE)
def test_style_has_its_languages_and_aliases(builtin, kind, style, languages, aliases):
    found = builtin.types[kind].styles[style]
    assert list(found.prompts) == languages
    assert found.aliases == tuple(Alias(name, lang) for name, lang in aliases.items())
    assert names_of(list(found.prompts.values())) == [(kind, style, lang) for lang in languages]


@pytest.mark.parametrize(("kind", "style", "languages", "alias", "lang"), EVERY_ALIAS)
def test_alias_selects_its_style_and_a_chinese_one_its_language(builtin, kind, style, languages, alias, lang):
    assert names_of(builtin.select(kind, [alias], "en")) == [(kind, style, lang or "en")]
    assert names_of(builtin.select(kind, [alias], "all")) == [
        (kind, style, each) for each in languages if lang in (None, each)
    ]


@pytest.mark.parametrize("kind", PUBLISHED)
def test_default_is_the_first_style_of_the_row(builtin, kind):
    assert names_of(builtin.select(kind, [], "en")) == [(kind, PUBLISHED[kind][0][0], "en")]


def test_types_and_styles_are_described_in_one_line(builtin):
    lines = [kind.description for kind in builtin]
    lines += [style.description for kind in builtin for style in kind.styles.values()]
    assert all(line and "\n" not in line and len(line) < 90 for line in lines)


def test_texts_are_filled_in_and_have_no_loose_ends(builtin):
    for prompt in (p for kind in builtin for p in builtin.select(kind.name, ["all"], "all")):
        for text in (prompt.system, prompt.user):
            assert text == text.strip()
            assert text[-1] in ".。"
            assert "  " not in text
            assert not {"{", "}", "\\"} & set(text), "braces are placeholders of a manifest's columns"


def test_chinese_prompts_are_chinese_and_english_ones_are_not(builtin):
    for prompt in (p for kind in builtin for p in builtin.select(kind.name, ["all"], "all")):
        chinese = [any("一" <= char <= "鿿" for char in text) for text in (prompt.system, prompt.user)]
        assert chinese == [prompt.lang == "zh"] * 2, (prompt.type, prompt.style, prompt.lang)


def test_no_two_prompts_are_the_same(builtin):
    prompts = [p for kind in builtin for p in builtin.select(kind.name, ["all"], "all")]
    assert len(prompts) == 39  # 26 styles, 13 of them in Chinese too
    assert len({prompt.sha for prompt in prompts}) == 39


def test_video_asks_for_the_exact_headings(builtin):
    full, without_style = builtin.select("video", ["aspects", "aspects_nostyle"], "en")
    assert [line.split(":")[0] for line in full.user.splitlines()[1:]] == HEADINGS
    assert [line.split(":")[0] for line in without_style.user.splitlines()[1:]] == HEADINGS[:-1]


# --------------------------------------------------------------------------------------------- task types


def test_task_types_are_the_26_published_ones(builtin):
    assert len(TASK_TYPES) == 26
    assert {name: (p.type, p.style, p.lang) for name, p in builtin.task_types.items()} == TASK_TYPES


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_task_type_is_trained_with_the_system_text_that_captioning_uses(builtin, task_type):
    kind, style, lang = TASK_TYPES[task_type]
    (prompt,) = builtin.select(kind, [style], lang)
    assert builtin.system_for_task(task_type) == prompt.system


@pytest.mark.parametrize(
    ("task_type", "kind", "lang"),
    [
        ("chart", "chart", "en"),
        ("table", "table", "en"),
        ("math_equation", "equation", "en"),
        ("math_geometry", "mathgeo", "en"),
        ("video", "video", "en"),
        ("structured_CN", "chart", "zh"),
        ("structured_CN", "table", "zh"),
        ("structured_CN", "equation", "zh"),
    ],
)
def test_task_type_that_mixes_styles_is_trained_with_the_text_of_all_of_them(builtin, task_type, kind, lang):
    systems = {prompt.system for prompt in builtin.select(kind, ["all"], lang)}
    assert systems == {builtin.system_for_task(task_type)}


def test_unknown_task_type_names_the_nearest(builtin):
    with pytest.raises(OptionError, match=r"--task-type: 'structure_CN' is not a task type") as caught:
        builtin.system_for_task("structure_CN")
    assert caught.value.hint == "did you mean structured_CN?"


# ------------------------------------------------------------------------------------------------ selecting


def test_select_keeps_the_order_asked_for_and_drops_repeats(builtin):
    found = builtin.select("aigc", ["tag", "Detailed_CN", "detailed", "Tag"], "all")
    assert names_of(found) == [
        ("aigc", "tag", "en"),
        ("aigc", "tag", "zh"),
        ("aigc", "detailed", "zh"),
        ("aigc", "detailed", "en"),
    ]


@pytest.mark.parametrize(
    ("lang", "expected"),
    [
        ("en", [("chart", "markdown", "en"), ("chart", "caption", "en")]),
        ("zh", [("chart", "caption", "zh")]),
        ("all", [("chart", "markdown", "en"), ("chart", "caption", "en"), ("chart", "caption", "zh")]),
    ],
)
def test_all_styles_are_those_that_have_the_language(builtin, lang, expected):
    assert names_of(builtin.select("chart", ["all"], lang)) == expected


def test_all_languages_are_those_that_the_style_has(builtin):
    assert names_of(builtin.select("chem", ["smiles"], "all")) == [("chem", "smiles", "en")]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("chrat", [], "en"),
            "--type: 'chrat' is not a type; choose from "
            "aigc, natural, mathgeo, chart, equation, ocr, gui, table, chem, video",
            "did you mean chart?",
        ),
        (
            ("zebra", [], "en"),
            "--type: 'zebra' is not a type; choose from "
            "aigc, natural, mathgeo, chart, equation, ocr, gui, table, chem, video",
            "`omnicap prompts list` shows every type, style and language",
        ),
        (
            ("aigc", ["short", "DETAILD"], "en"),
            "--style: 'DETAILD' is not a style of aigc; choose from detailed, medium, short, tag, all",
            "did you mean detailed?",
        ),
        (
            ("chart", ["chart_capton"], "en"),
            "--style: 'chart_capton' is not a style of chart; choose from markdown, caption, all",
            "did you mean chart_caption?",
        ),
        (
            ("chart", ["all", "qqq"], "en"),
            "--style: 'qqq' is not a style of chart; choose from markdown, caption, all",
            "`omnicap prompts list` shows every type, style and language",
        ),
        (
            ("aigc", [], "ehn"),
            "--lang: 'ehn' is not a language; choose from en, zh, all",
            "did you mean en?",
        ),
        (
            ("chart", [], "zh"),
            "--lang: 'zh' is not a language of chart/markdown, which has en",
            "use --lang all for what it has, or a style of chart that has zh: caption",
        ),
        (
            ("mathgeo", ["all"], "zh"),
            "--lang: 'zh' is not a language of mathgeo, which has en",
            "use --lang all for what it has",
        ),
    ],
)
def test_what_can_not_be_selected_is_named_with_the_choices(builtin, arguments, message, hint):
    with pytest.raises(OptionError) as caught:
        builtin.select(*arguments)
    assert (caught.value.message, caught.value.hint) == (message, hint)
