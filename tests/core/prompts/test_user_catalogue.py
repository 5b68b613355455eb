"""A user's own file of prompts: what it adds, changes and replaces, and how its faults are named."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from support.published_prompts import PUBLISHED, names_of
from support.published_prompts import builtin as builtin  # a fixture

from omnicap_cli.core.prompts.catalogue import Alias, Catalogue
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OptionError, UsageError

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


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


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
    assert names_of(catalogue.select("invoice", ["sum", "items_CN"], "en")) == [
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
    assert names_of(Catalogue.load(write(text)).select("a", ["b"], "all")) == [
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
