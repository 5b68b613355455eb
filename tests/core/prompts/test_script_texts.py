"""Texts in inference scripts: however Python lets them be written, they come out as they are sent."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.inference_scripts import import_script, problems_of, texts_of

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.prompts.script_import.places import CatalogueKey
from omnicap_cli.core.prompts.script_import.writing import ImportedPrompt, as_toml, check_toml
from omnicap_cli.errors import OmnicapError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("'one' 'two'", "onetwo"),
        ("('a'\n  'b' +\n  'c')", "abc"),
        ("'''\\\n  lines\n\tand tabs  \n'''", "  lines\n\tand tabs  \n"),
        ("'\\r\\n\\0\\x1b\\x7f\\x85\\ufeff\\u2028 end '", "\r\n\0\x1b\x7f\x85\ufeff\u2028 end "),
        ("'\\\\ \"\"\" \\'\\'\\' \\N{SNOWMAN}'", "\\ \"\"\" ''' ☃"),
        ("'ends with quotes\\n\"\"'", 'ends with quotes\n""'),
        ("'\\n\\nempty lines   \\n   \\n'", "\n\nempty lines   \n   \n"),
        ("r'\\d {x} {{y}}'", "\\d {x} {{y}}"),
        ('\'a\\n""""b"""\'', 'a\n""""b"""'),
        ("'\\d'", "\\d"),
        ("NAME", "Ann"),
        ("f'{NAME} and {{braces}}' + f'{f\"<{NAME}>\"}'", "Ann and {braces}<Ann>"),
        ("f'{NAME!r}'", None),
        ("f'{NAME:>9}'", None),
        ("f'{len(NAME)}'", None),
        ("'Dear {}'.format(NAME)", None),
        ("'%s' % NAME", None),
        ("'  x '.strip()", None),
        ("' '.join(['a', 'b'])", None),
        ("textwrap.dedent('  a')", None),
        ("PARTS[0]", None),
        ("'-' * 3", None),
        ("NAME if os.name else 'x'", None),
        ("'' or NAME", None),
        ("(lambda: 'x')()", None),
        ("random.choice(['x', 'y'])", None),
        ("open('x').read()", None),
        ("os.environ['QUESTION']", None),
        ("NAME + other.NAME", None),
        ("TWICE", None),
        ("GROWN", None),
        ("LOOPED", None),
        ("IMPORTED", None),
        ("ITSELF", None),
        ("b'bytes'", "no question"),
        ("None", "no question"),
    ],
)
def test_expressions(tmp_path, expression, text):
    source = f"""\
SYSTEMS = {{"Detailed": "S", "Short": "S"}}
QUESTIONS = {{"Short": "short", "Detailed": {expression}}}
import os, random, textwrap, other
from texts import IMPORTED
NAME = "Ann"
PARTS = ["b"]
TWICE = "a"
TWICE = "b"
GROWN = "a"
GROWN += "b"
for LOOPED in ["a"]: pass
ITSELF = ITSELF + "a"
"""
    catalogue, found = import_script(tmp_path, source)
    selected = catalogue.select("aigc", ["Detailed"], "en")[0].user
    if text and text != "no question":
        assert (selected, found.problems) == (text, ())
        return
    assert [selected] == [prompt.user for prompt in Catalogue.load().select("aigc", ["detailed"], "en")]
    (problem,) = found.problems
    line, what = (1, "'Detailed' has no question") if text else (2, "the question of 'Detailed' is built at run time: ")
    assert f"upstream.py:{line}: {what}" in problem


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_ends_are_those_that_python_reads(tmp_path, ending):
    source = 'QUESTIONS = {"Detailed": """one\ntwo""",\n"Short": read()}\n'.replace("\n", ending)
    assert texts_of(tmp_path, source, "Detailed") == ("", "one\ntwo")
    assert problems_of(tmp_path, source) == [
        "upstream.py:3: the question of 'Short' is built at run time: \"Short\": read()}"
    ]


def test_encodings(tmp_path):
    source = '# -*- coding: gbk -*-\nQUESTIONS = {"Detailed": "描述图片"}\n'
    assert texts_of(tmp_path, source.encode("gbk"), "Detailed")[1] == "描述图片"
    assert texts_of(tmp_path, b"\xef\xbb\xbf" + 'QUESTIONS = {"Detailed": "é"}'.encode(), "Detailed")[1] == "é"


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text("\"\\\n\r\t '", max_size=12))
def test_any_text_comes_back_from_the_file(start, end):
    found = {
        CatalogueKey("ocr", "new style".replace(" ", "-"), "zh"): ImportedPrompt(
            start + end, "x" + end + start, ["κλειδί"]
        )
    }
    toml = as_toml(found, Catalogue.load(), title="a test")
    table = tomllib.loads(toml)["types"]["ocr"]["styles"]["new-style"]["zh"]
    assert (table["system"], table["user"]) == (start + end, "x" + end + start)
    check_toml(toml, found)


def test_no_line_of_a_text_ends_in_a_space_that_an_editor_would_take_away():
    toml = as_toml(
        {CatalogueKey("gui", "caption", "en"): ImportedPrompt("one \n  two  \n", "q", [])},
        Catalogue.load(),
        title="a test",
    )
    assert not any(line.endswith(" ") for line in toml.splitlines())


def test_a_file_that_says_something_else_is_noticed():
    place = CatalogueKey("gui", "caption", "en")
    toml = as_toml({place: ImportedPrompt("s", "q", ["gui"])}, Catalogue.load(), title="a test")
    check_toml(toml, {place: ImportedPrompt("s", "q", ["gui"])})
    with pytest.raises(OmnicapError, match="gui/caption/en"):
        check_toml(toml, {place: ImportedPrompt("s", "Q", ["gui"])})


def test_half_of_a_surrogate_pair_is_left_out(tmp_path):
    source = 'QUESTIONS = {"Detailed": "\\ud83d", "Short": "ok"}'
    assert problems_of(tmp_path, source) == [
        "upstream.py:1: the question of 'Detailed' has half of a surrogate pair, which no file can hold"
    ]
