"""The catalogue against the published table of types, styles and task types, written out by hand."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from omnicap_cli.core.prompts.catalogue import Alias, Catalogue
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OptionError, UsageError

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

INVOICE = """
[types.invoice]
description = "Invoices"
[types.invoice.system]
en = "You read invoices."
[types.invoice.styles.total]
description = "The sum"
aliases = ["sum"]
[types.invoice.styles.total.en]
user = "What does {supplier} ask for?"
[types.invoice.styles.items.zh]
system = "你会看发票。"
user = "列出各项。"
aliases = ["items_CN"]
"""

EVERY_STYLE = [pytest.param(kind, *row, id=f"{kind}-{row[0]}") for kind, rows in PUBLISHED.items() for row in rows]
EVERY_ALIAS = [
    pytest.param(kind, style, languages, alias, lang, id=f"{kind}-{alias}")
    for kind, rows in PUBLISHED.items()
    for style, languages, aliases in rows
    for alias, lang in aliases.items()
]


@pytest.fixture(scope="module")
def builtin() -> Catalogue:
    return Catalogue.load()


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def names(prompts: list[Prompt]) -> list[tuple[str, str, str]]:
    return [(prompt.type, prompt.style, prompt.lang) for prompt in prompts]


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
    assert names(list(found.prompts.values())) == [(kind, style, lang) for lang in languages]


@pytest.mark.parametrize(("kind", "style", "languages", "alias", "lang"), EVERY_ALIAS)
def test_alias_selects_its_style_and_a_chinese_one_its_language(builtin, kind, style, languages, alias, lang):
    assert names(builtin.select(kind, [alias], "en")) == [(kind, style, lang or "en")]
    assert names(builtin.select(kind, [alias], "all")) == [
        (kind, style, each) for each in languages if lang in (None, each)
    ]


@pytest.mark.parametrize("kind", PUBLISHED)
def test_default_is_the_first_style_of_the_row(builtin, kind):
    assert names(builtin.select(kind, [], "en")) == [(kind, PUBLISHED[kind][0][0], "en")]


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
    assert names(found) == [
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
    assert names(builtin.select("chart", ["all"], lang)) == expected


def test_all_languages_are_those_that_the_style_has(builtin):
    assert names(builtin.select("chem", ["smiles"], "all")) == [("chem", "smiles", "en")]


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


# -------------------------------------------------------------------------------------------- a user's file


def test_user_adds_a_type_and_the_built_in_ones_stay(write):
    catalogue = Catalogue.load(write(INVOICE))
    assert list(catalogue.types) == [*PUBLISHED, "invoice"]
    assert catalogue.types["invoice"].description == "Invoices"
    assert catalogue.types["invoice"].styles["total"].description == "The sum"
    assert catalogue.types["invoice"].styles["items"].description == ""
    assert catalogue.select("invoice", [], "en") == [
        Prompt(
            type="invoice",
            style="total",
            lang="en",
            system="You read invoices.",
            user="What does {supplier} ask for?",
        )
    ]
    assert names(catalogue.select("invoice", ["sum", "items_CN"], "en")) == [
        ("invoice", "total", "en"),
        ("invoice", "items", "zh"),
    ]
    assert len(catalogue.task_types) == 26


def test_style_in_chinese_only_says_so(write):
    with pytest.raises(OptionError) as caught:
        Catalogue.load(write(INVOICE)).select("invoice", ["items"], "en")
    assert caught.value.message == "--lang: 'en' is not a language of invoice/items, which has zh"
    assert caught.value.hint == "use --lang all for what it has, or a style of invoice that has en: total"


def test_user_adds_a_style_and_a_task_type(write):
    text = """
    [types.aigc.styles.poem.en]
    system = "You are a poet."
    user = "Write a haiku."
    [task_types]
    haiku = "aigc/poem/en"
    """
    catalogue = Catalogue.load(write(text))
    assert list(catalogue.types["aigc"].styles) == ["detailed", "medium", "short", "tag", "poem"]
    assert catalogue.system_for_task("haiku") == "You are a poet."
    assert len(catalogue.task_types) == 27


def test_user_changes_one_text_and_the_rest_stays(builtin, write):
    catalogue = Catalogue.load(write('[types.aigc.styles.short.en]\nuser = "In {n} words?"'))
    (before,), (after,) = builtin.select("aigc", ["short"], "en"), catalogue.select("aigc", ["Short"], "en")
    assert (after.system, after.user) == (before.system, "In {n} words?")
    assert catalogue.select("aigc", ["short"], "zh") == builtin.select("aigc", ["short"], "zh")
    assert list(catalogue.types["aigc"].styles) == ["detailed", "medium", "short", "tag"]


def test_list_replaces_the_list_below(write):
    catalogue = Catalogue.load(write('[types.aigc.styles.short]\naliases = ["brief"]'))
    assert catalogue.types["aigc"].styles["short"].aliases == (Alias("brief", None), Alias("Short_CN", "zh"))


def test_example_in_the_built_in_file_works(write):
    text = resources.files("omnicap_cli.core.prompts").joinpath("prompts.toml").read_text("utf-8")
    header = text.split("\n# - ")[0]
    example = [line.removeprefix("#   ") for line in header.splitlines() if line.startswith("#   ")]
    catalogue = Catalogue.load(write("\n".join(example)))
    (total,), (short,) = catalogue.select("invoice", [], "en"), catalogue.select("aigc", ["short"], "en")
    assert total.user == "State the total of this invoice from {supplier} and its currency."
    assert short.user == "Caption this picture in at most eight words."


def test_replace_drops_the_built_in_prompts(write):
    catalogue = Catalogue.load(write("replace = true\n" + INVOICE))
    assert list(catalogue.types) == ["invoice"]
    assert catalogue.task_types == {}


def test_replace_false_merges(write):
    assert list(Catalogue.load(write("replace = false\n" + INVOICE)).types) == [*PUBLISHED, "invoice"]


def test_languages_are_in_one_order_whatever_the_file_has(write):
    text = """
    [types.a.styles.b.zh]
    system = "甲"
    user = "乙"
    [types.a.styles.b.en]
    system = "A"
    user = "B"
    """
    assert names(Catalogue.load(write(text)).select("a", ["b"], "all")) == [
        ("a", "b", "en"),
        ("a", "b", "zh"),
    ]


def test_system_text_may_be_empty_on_purpose(write):
    text = INVOICE.replace('user = "What', 'system = ""\nuser = "What')
    assert [p.system for p in Catalogue.load(write(text)).select("invoice", [], "en")] == [""]


def test_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "bom.toml"
    path.write_text(INVOICE, encoding="utf-8-sig")
    assert "invoice" in Catalogue.load(path).types


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("name = 1", "name: unknown key; known here: types, task_types, choice, replace", "remove it"),
        (
            '[types.aigc.styles.short.en]\nsytem = "x"',
            "types.aigc.styles.short.en.sytem: unknown key; known here: system, user, aliases",
            "did you mean system?",
        ),
        (
            '[types.aigc.styles.short.fr]\nuser = "x"',
            "types.aigc.styles.short.fr: unknown key; known here: description, aliases, en, zh",
            "remove it",
        ),
        (
            '[types.aigc.style.short.en]\nuser = "x"',
            "types.aigc.style: unknown key; known here: description, system, styles",
            "did you mean styles?",
        ),
        (
            '[types.aigc.system]\nde = "x"',
            "types.aigc.system.de: unknown key; known here: en, zh",
            "remove it",
        ),
        (
            '[types.a.styles.b.en]\nuser = "x"',
            "types.a.styles.b.en.system: missing",
            'add system = "…" under [types.a.styles.b.en]',
        ),
        (
            '[types.a.styles.b.en]\nsystem = "x"',
            "types.a.styles.b.en.user: missing or empty",
            'add user = "…" under [types.a.styles.b.en]',
        ),
        (
            '[types.aigc.styles.short.zh]\nuser = " "',
            "types.aigc.styles.short.zh.user: missing or empty",
            'add user = "…" under [types.aigc.styles.short.zh]',
        ),
        (
            '[types.a.styles.b]\naliases = ["c"]',
            "types.a.styles.b.en: missing, and so is zh: nothing is asked",
            "add [types.a.styles.b.en] with system and user",
        ),
        (
            '[types.a]\ndescription = "x"',
            "types.a.styles: has no style",
            "add one as [types.a.styles.STYLE.en]",
        ),
        (
            "replace = true",
            "types: has no type",
            "add one as [types.TYPE.styles.STYLE.en], or drop replace = true",
        ),
        (
            'replace = "yes"\n' + INVOICE,
            "replace: is 'yes', not true or false",
            "write replace = true",
        ),
        (
            '[types.aigc.styles.short]\naliases = ["Short", "tag"]',
            "types.aigc.styles: the alias 'tag' stands for tag and again for short",
            "take one of them away",
        ),
        (
            '[types.aigc.styles.short]\naliases = ["Tag"]',
            "types.aigc.styles: the alias 'Tag' stands for short and again for tag",
            "take one of them away",
        ),
        (
            '[types.aigc.styles.short]\naliases = ["Short_CN"]',
            "types.aigc.styles: the alias 'Short_CN' stands for short and again for short",
            "take one of them away",
        ),
        (
            '[types.aigc.styles.short]\naliases = "brief"',
            "types.aigc.styles.short.aliases: is 'brief', not a list of names",
            'write it as ["name", "other"]',
        ),
        (
            '[types.aigc.styles.short]\naliases = ["a,b"]',
            "types.aigc.styles.short.aliases: 'a,b' can't be a name",
            "use letters, digits, '_' and '-'; 'all' and 'auto' have a meaning already",
        ),
        (
            '[types.auto.styles.b.en]\nsystem = "x"\nuser = "y"',
            "types.auto: 'auto' can't be a name",
            "use letters, digits, '_' and '-'; 'all' and 'auto' have a meaning already",
        ),
        (
            '[types.a.styles.all.en]\nsystem = "x"\nuser = "y"',
            "types.a.styles.all: 'all' can't be a name",
            "use letters, digits, '_' and '-'; 'all' and 'auto' have a meaning already",
        ),
        (
            '[types.a.styles]\nb = "ask"',
            "types.a.styles.b: is 'ask', not a table",
            "write it as [types.a.styles.b]",
        ),
        (
            "[types.aigc.styles.short.en]\nuser = 3",
            "types.aigc.styles.short.en.user: is 3, not a text",
            "put it in quotes",
        ),
        (
            '[task_types]\nvideo = "video/aspect/en"',
            "task_types.video: 'video/aspect/en' leads to no prompt",
            "did you mean video/aspects/en?",
        ),
        (
            '[task_types]\nmine = "?"',
            "task_types.mine: '?' leads to no prompt",
            "write TYPE/STYLE/LANG; `omnicap prompts list` shows every type, style and language",
        ),
    ],
)
def test_fault_in_a_file_is_named_with_file_key_and_remedy(write, text, message, hint):
    path = write(text)
    with pytest.raises(UsageError) as caught:
        Catalogue.load(path)
    assert caught.value.message == f"{path}: {message}"
    assert caught.value.hint == hint


def test_replaced_catalogue_refuses_task_types_of_the_built_in_one(write):
    path = write(f'replace = true\n{INVOICE}\n[task_types]\nvideo = "video/aspects/en"')
    with pytest.raises(UsageError, match=r"task_types\.video: 'video/aspects/en' leads to no prompt"):
        Catalogue.load(path)


def test_file_that_is_not_toml_is_named_with_the_line(write):
    path = write("[types]\nx = = 1")
    with pytest.raises(UsageError) as caught:
        Catalogue.load(path)
    assert caught.value.message.startswith(f"{path}: not TOML: ")
    assert "line 2" in caught.value.message
    assert caught.value.hint == "correct the place that is named"


def test_file_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "latin1.toml"
    path.write_bytes('replace = "ä"'.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        Catalogue.load(path)
    assert caught.value.message == f"{path}: not UTF-8 (byte 11)"
    assert caught.value.hint == "save the file as UTF-8"


def test_missing_file_is_an_error_of_the_option(tmp_path):
    path = tmp_path / "none.toml"
    with pytest.raises(OptionError) as caught:
        Catalogue.load(path)
    assert caught.value.message == f"--prompts: {str(path)!r} can't be read: No such file or directory"
    assert caught.value.hint == "give the path of a TOML file"
