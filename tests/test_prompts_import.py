"""Inference scripts in the shapes that are published, with wording made up here; every expected text is by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OmnicapError, OptionError
from omnicap_cli.prompt_import.importer import PromptImport, import_prompts
from omnicap_cli.prompt_import.places import Place, Places
from omnicap_cli.prompt_import.script import MAX_SCRIPT_BYTES
from omnicap_cli.prompt_import.search import Found
from omnicap_cli.prompt_import.writing import as_toml, check_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# by (type, key of the script): style, language, system text, question
Expected = dict[tuple[str, str], tuple[str, str, str, str]]

TABLES_AND_CHAIN = '''\
import argparse, random, torch
from transformers import AutoProcessor, SomeModel
from somewhere import process_vision_info

BASE = "You look at pictures" " carefully. "
SYSTEM_PROMPTS = {
    "Detailed": BASE + "Say everything.",
    "Medium_CN": "你看图。",
    "Medium": f"{BASE}Say half.",
    "Detailed_Natural": ("You know "
        "photographs."),
    "mathgeo_tikz": """You draw.
Use \\\\draw[->] and "quotes".
""",
    "general_ocr": BASE.strip() + "\\tRead.",
    "Short": load_it("short"),
}
STYLES = {
    "aigc": ["Detailed", "Medium", "Medium_CN", "Short"],
    "natural": [
        "Detailed_Natural",
        "Tag_Natural",
    ],
    "mathgeo": ["mathgeo_tikz"],
    "ocr": ["general_ocr"],
}

def get_question(style):
    if style == "Detailed":
        return random.choice(["Tell me all.", "Everything, please."])
    elif style in ("Medium", "Medium_CN"):
        return "Half." if style == "Medium" else "一半。😀"
    elif style == "mathgeo_tikz":
        return r"Give \\LaTeX {x}."
    elif style in ["general_ocr"]:
        answer = "Read it."
        return answer
    return "Say what the photograph shows."

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image_type", default="aigc")
    args = parser.parse_args()
    if args.device == "cuda":
        model = SomeModel.from_pretrained("x")
    else:
        raise SystemExit("no device")
    processor = AutoProcessor.from_pretrained("x")
    for style in STYLES[args.image_type]:
        system_prompt = SYSTEM_PROMPTS[style]
        question = get_question(style)
        messages = [
            {"role": "system", "content": system_prompt},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
        ]
        prompt = processor.apply_chat_template(messages, tokenize=False)
        print(model.generate(**processor(text=[prompt])))

if __name__ == "__main__":
    main()
'''
TABLES_AND_CHAIN_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "You look at pictures carefully. Say everything.", "Tell me all."),
    ("aigc", "Medium"): ("medium", "en", "You look at pictures carefully. Say half.", "Half."),
    ("aigc", "Medium_CN"): ("medium", "zh", "你看图。", "一半。😀"),
    ("natural", "Detailed_Natural"): (
        "detailed",
        "en",
        "You know photographs.",
        "Say what the photograph shows.",
    ),
    ("mathgeo", "mathgeo_tikz"): (
        "tikz",
        "en",
        'You draw.\nUse \\draw[->] and "quotes".\n',
        "Give \\LaTeX {x}.",
    ),
    ("ocr", "general_ocr"): ("text", "en", "You look at pictures carefully.\tRead.", "Read it."),
}

NESTED = """\
receipt = {"total": ("S receipt", "Q receipt"), "total_CN": ("S 收据", "Q 收据")}
PROMPTS = {
    "aigc": {
        "Detailed": ("S aigc detailed", "Q aigc detailed"),
        "Short": ["S aigc short", "Q aigc short"],
        "Short_CN": {"system": "S 短句", "question": "Q 短句"},
    },
    "Natural": {
        "Detailed": ("S natural detailed", "Q natural detailed"),
        "short": dict(system_prompt="S natural short", user="Q natural short"),
        "MEDIUM_NATURAL": ("S natural medium", "Q natural medium"),
    },
    "receipt": receipt,
    "ocr": {"pdf_ocr": ("S page", "Q page"), "stamp": ("S stamp", "Q stamp")},
    "gui": {"gui_CN": ("S 界面", "Q 界面")},
}
PROMPTS["chart"] = {"caption": {"en": ("S chart", "Q chart"), "zh": ("S 图表", "Q 图表")}}
"""
NESTED_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S aigc detailed", "Q aigc detailed"),
    ("aigc", "Short"): ("short", "en", "S aigc short", "Q aigc short"),
    ("aigc", "Short_CN"): ("short", "zh", "S 短句", "Q 短句"),
    ("natural", "Detailed"): ("detailed", "en", "S natural detailed", "Q natural detailed"),
    ("natural", "Detailed_Natural"): ("detailed", "en", "S natural detailed", "Q natural detailed"),
    ("natural", "short"): ("short", "en", "S natural short", "Q natural short"),
    ("natural", "MEDIUM_NATURAL"): ("medium", "en", "S natural medium", "Q natural medium"),
    ("receipt", "total"): ("total", "en", "S receipt", "Q receipt"),
    ("receipt", "total_CN"): ("total", "zh", "S 收据", "Q 收据"),
    ("ocr", "pdf_ocr"): ("markdown", "en", "S page", "Q page"),
    ("ocr", "stamp"): ("stamp", "en", "S stamp", "Q stamp"),
    ("gui", "gui_CN"): ("caption", "zh", "S 界面", "Q 界面"),
    ("chart", "caption"): ("caption", "en", "S chart", "Q chart"),
    ("chart", "chart_caption_CN"): ("caption", "zh", "S 图表", "Q 图表"),
}

CHAIN = '''\
def run(model, image, image_type, style, max_new_tokens=10):
    system_prompt = "You are general."
    if image_type == "chart":
        if style == "chart_markdwon":
            system_prompt = "S data"
            question = "Q data"
        elif style == 'chart_caption':
            question = """Q
caption"""
        elif style == 'chart_caption_CN':
            question = "Q 图表"
    elif image_type == 'gui':
        question = "Q screen " + 'tail'
    elif image_type == 'table':
        if style == "table_latex":
            question = ask_user(style)
        else:
            question = "Q table"
    else:
        raise ValueError(image_type)
    return model.chat(image, system_prompt, question)
'''
CHAIN_TEXTS: Expected = {
    ("chart", "chart_markdwon"): ("markdown", "en", "S data", "Q data"),
    ("chart", "chart_caption"): ("caption", "en", "You are general.", "Q\ncaption"),
    ("chart", "chart_caption_CN"): ("caption", "zh", "You are general.", "Q 图表"),
    ("gui", "gui"): ("caption", "en", "You are general.", "Q screen tail"),
}

MATCH = '''\
import textwrap
from dataclasses import dataclass

@dataclass
class Texts:
    HEAD = "Head. "
    DETAILED = HEAD + "All of the {what}"

    @staticmethod
    def question(style):
        match style:
            case "Detailed" | "Detailed_CN":
                return Texts.DETAILED.format(what="thing")
            case "Tag":
                return textwrap.dedent("""\\
                    tags
                      and more
                    """)
            case "gui":
                return "Screen: %s, %d times" % ("all", 2)
            case _:
                raise ValueError(style)

class Captioner:
    def __init__(self, path, lang="en"):
        self.model = load(path)
        self.systems = {"Detailed": "S all", "Detailed_CN": "S 全部", "Tag": "S tags"}
        self.systems["gui"] = "S screen"

    def messages(self, style, image):
        content = [{"type": "image", "image": image}, {"type": "text", "text": Texts.question(style)}]
        return [
            {"role": "system", "content": [{"type": "text", "text": self.systems[style]}]},
            {"role": "user", "content": content},
        ]
'''
MATCH_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S all", "Head. All of the thing"),
    ("aigc", "Detailed_CN"): ("detailed", "zh", "S 全部", "Head. All of the thing"),
    ("aigc", "Tag"): ("tag", "en", "S tags", "tags\n  and more\n"),
    ("gui", "gui"): ("caption", "en", "S screen", "Screen: all, 2 times"),
}

BY_TYPE = """\
NATURAL, OCR = "natural", "ocr"
STYLES_OF = {NATURAL: ("Detailed_Natural", "Short_Natural"), OCR: ("poster_ocr", "barcode")}
SYSTEMS = {NATURAL: "S photographs", OCR: "S text"}
aliases = QUESTIONS = {}
for name, text in [("Detailed_Natural", "Q long"), ("Short_Natural", "Q short"), ("poster_ocr", "Q poster")]:
    QUESTIONS[name] = text
QUESTIONS |= {"barcode": "Q bars"}

async def ask(client, image_type, key):
    for style in STYLES_OF[image_type]:
        if style != key:
            continue
        try:
            text = aliases[style]
        except KeyError:
            text = "never"
        return await client.chat(messages=[
            dict(role="system", content=SYSTEMS[image_type]),
            dict(role="user", content=[dict(type="text", text=text)]),
        ])
"""
BY_TYPE_TEXTS: Expected = {
    ("natural", "Detailed_Natural"): ("detailed", "en", "S photographs", "Q long"),
    ("natural", "Short_Natural"): ("short", "en", "S photographs", "Q short"),
    ("ocr", "poster_ocr"): ("poster", "en", "S text", "Q poster"),
    ("ocr", "barcode"): ("barcode", "en", "S text", "Q bars"),
}

SHAPES = {
    "tables-and-chain": (TABLES_AND_CHAIN, TABLES_AND_CHAIN_TEXTS),
    "nested": (NESTED, NESTED_TEXTS),
    "chain": (CHAIN, CHAIN_TEXTS),
    "match": (MATCH, MATCH_TEXTS),
    "by-type": (BY_TYPE, BY_TYPE_TEXTS),
}


def write(folder: Path, source: str | bytes, name: str = "upstream.py") -> Path:
    path = folder / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return path


def imported(folder: Path, source: str | bytes) -> tuple[Catalogue, PromptImport]:
    """The catalogue that the file of an import makes, and the import itself."""
    found = import_prompts(write(folder, source))
    return Catalogue.load(write(folder, found.toml, "out.toml")), found


def problems(folder: Path, source: str | bytes) -> list[str]:
    """What is said of a script, without the folder of its name."""
    try:
        found = import_prompts(write(folder, source)).problems
    except OmnicapError as error:
        first, *rest = error.message.split("\n  ")
        assert first.endswith("no prompt in it is understood")
        found = tuple(rest)
    return [problem.removeprefix(f"{folder}/") for problem in found]


def texts(folder: Path, source: str | bytes, key: str, kind: str = "aigc") -> tuple[str, str]:
    catalogue, _ = imported(folder, source)
    (prompt,) = catalogue.select(kind, [key], "en")
    return prompt.system, prompt.user


# ------------------------------------------------------------------------------------------------ whole scripts


@pytest.mark.parametrize("shape", SHAPES)
def test_every_prompt_is_selected_by_its_style_and_by_the_key_of_the_script(tmp_path, shape):
    source, expected = SHAPES[shape]
    catalogue, found = imported(tmp_path, source)
    assert found.num_prompts == len({(kind, row[0], row[1]) for (kind, _), row in expected.items()})
    assert found.num_types == len({kind for kind, _ in expected})
    for (kind, key), (style, lang, system, user) in expected.items():
        prompt = Prompt(type=kind, style=style, lang=lang, system=system, user=user)
        assert catalogue.select(kind, [style], lang) == [prompt]
        assert catalogue.select(kind, [key], lang) == [prompt]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_script_does_not_hold_stays_as_it_was(tmp_path, shape):
    source, expected = SHAPES[shape]
    catalogue, _ = imported(tmp_path, source)
    touched = {(kind, row[0], row[1]) for (kind, _), row in expected.items()}
    for prompt in Catalogue.load().prompts:
        if (prompt.type, prompt.style, prompt.lang) not in touched:
            assert prompt in catalogue.prompts
    for kind in Catalogue.load():
        for style in kind.styles.values():
            assert set(style.aliases) <= set(catalogue.types[kind.name].styles[style.name].aliases)


def test_a_chinese_key_that_is_new_means_chinese_whatever_the_language(tmp_path):
    catalogue, _ = imported(tmp_path, NESTED)
    assert [prompt.lang for prompt in catalogue.select("gui", ["gui_CN"], "en")] == ["zh"]
    assert [prompt.lang for prompt in catalogue.select("receipt", ["total_CN"], "all")] == ["zh"]


def test_what_is_left_out_is_named_with_its_line(tmp_path):
    assert problems(tmp_path, TABLES_AND_CHAIN) == [
        'upstream.py:16: the system text of \'Short\' is built at run time: "Short": load_it("short"),',
        "upstream.py:22: 'Tag_Natural' has no system text",
        "upstream.py:30: one of several texts is drawn at random; the first is taken: "
        'return random.choice(["Tell me all.", "Everything, please."])',
    ]
    assert import_prompts(tmp_path / "upstream.py").num_left_out == 2
    assert problems(tmp_path, CHAIN) == [
        "upstream.py:16: the question of 'table_latex' is built at run time: question = ask_user(style)",
    ]
    assert problems(tmp_path, NESTED) == problems(tmp_path, MATCH) == problems(tmp_path, BY_TYPE) == []


# ---------------------------------------------------------------------------------------------- kinds of texts


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
        ("f'{NAME} and {{braces}} {2}'", "Ann and {braces} 2"),
        ("f'{NAME!s}' + f'{f\"<{NAME}>\"}'", "Ann<Ann>"),
        ("'Dear {}, {1}'.format(NAME)", None),
        ("'Dear {}, {}'.format(NAME, 'hi')", "Dear Ann, hi"),
        ("'{n} {0}'.format('x', n=NAME)", "Ann x"),
        ("'{:>9}'.format(NAME)", None),
        ("'{0.__class__}'.format(NAME)", None),
        ("'%s %d%%' % (NAME, 3)", "Ann 3%"),
        ("'%9s' % NAME", None),
        ("NAME.upper().replace('N', 'M') + '  x '.strip()", "AMMx"),
        ("' '.join(['a', *PARTS, 'd'])", "a b c d"),
        ("'/'.join(part + '!' for part in PARTS if part != 'b')", "c!"),
        ("PARTS[-1] + 'abc'[1:] + ('x', 'y')[0]", "cbcx"),
        ("textwrap.dedent('  a\\n    b\\n')", "a\n  b\n"),
        ("'-' * 3 + NAME", "---Ann"),
        ("NAME if 1 + 1 else 'x'", None),
        ("'' or NAME", "Ann"),
        ("(lambda: 'x')()", None),
        ("open('x').read()", None),
        ("os.environ['QUESTION']", None),
        ("'a' 'b' if len(NAME) > 2 else 'c'", None),
        ("NAME + other.NAME", None),
        ("b'bytes'", None),
        ("Box.text + Box().text", "in a boxin a box"),
        ("Box(text='own').text", "own"),
        ('\'a\\n""""b"""\'', 'a\n""""b"""'),
        ("Box.made('by a class')", "Made by a class"),
        ("'\\d'", "\\d"),
    ],
)
def test_expressions(tmp_path, expression, text):
    source = f"""\
import os, textwrap, other
from dataclasses import dataclass
NAME = "Ann"
PARTS = ["b"]
PARTS.append("c")
@dataclass
class Box:
    text: str = "in a box"
    @classmethod
    def made(cls, how):
        return "Made " + how
QUESTIONS = {{"Detailed": {expression}, "Short": "short"}}
"""
    catalogue, found = imported(tmp_path, source)
    selected = catalogue.select("aigc", ["Detailed"], "en")[0].user
    if text is not None:
        assert (selected, found.problems) == (text, ())
        return
    assert [selected] == [prompt.user for prompt in Catalogue.load().select("aigc", ["detailed"], "en")]
    (problem,) = found.problems
    assert "the question of 'Detailed' is built at run time" in problem or "no" in problem


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_line_ends_are_those_that_python_reads(tmp_path, ending):
    source = 'QUESTIONS = {"Detailed": """one\ntwo""",\n"Short": read()}\n'.replace("\n", ending)
    assert texts(tmp_path, source, "Detailed") == ("", "one\ntwo")
    assert problems(tmp_path, source) == [
        "upstream.py:3: the question of 'Short' is built at run time: \"Short\": read()}"
    ]


def test_encodings(tmp_path):
    source = '# -*- coding: gbk -*-\nQUESTIONS = {"Detailed": "描述图片"}\n'
    assert texts(tmp_path, source.encode("gbk"), "Detailed")[1] == "描述图片"
    assert texts(tmp_path, b"\xef\xbb\xbf" + 'QUESTIONS = {"Detailed": "é"}'.encode(), "Detailed")[1] == "é"


@settings(max_examples=150)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text("\"\\\n\r\t '", max_size=12))
def test_any_text_comes_back_from_the_file(start, end):
    found = {Place("ocr", "new style".replace(" ", "-"), "zh"): Found(start + end, "x" + end + start, ["κλειδί"])}
    toml = as_toml(found, Catalogue.load(), title="a test")
    table = tomllib.loads(toml)["types"]["ocr"]["styles"]["new-style"]["zh"]
    assert (table["system"], table["user"]) == (start + end, "x" + end + start)
    check_toml(toml, found)


def test_no_line_of_a_text_ends_in_a_space_that_an_editor_would_take_away():
    toml = as_toml({Place("gui", "caption", "en"): Found("one \n  two  \n", "q", [])}, Catalogue.load(), title="a test")
    assert not any(line.endswith(" ") for line in toml.splitlines())


def test_a_file_that_says_something_else_is_noticed():
    place = Place("gui", "caption", "en")
    toml = as_toml({place: Found("s", "q", ["gui"])}, Catalogue.load(), title="a test")
    check_toml(toml, {place: Found("s", "q", ["gui"])})
    with pytest.raises(OmnicapError, match="gui/caption/en"):
        check_toml(toml, {place: Found("s", "Q", ["gui"])})


def test_half_of_a_surrogate_pair_is_left_out(tmp_path):
    source = 'QUESTIONS = {"Detailed": "\\ud83d", "Short": "ok"}'
    assert problems(tmp_path, source) == [
        "upstream.py:1: the question of 'Detailed' has half of a surrogate pair, which no file can hold"
    ]


# ---------------------------------------------------------------------------------------------- never a guess


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("    question = 'a'\n    if args.short:\n        question = 'b'\n", 4),
        ("    question = 'a' if args.short else 'b'\n", 3),
        ("    question = args.question or 'b'\n", 3),
        ("    question = 'a'\n    for word in args.words:\n        question += 'b'\n", 4),
        ("    question = 'a'\n    while args.more():\n        question = question + 'b'\n", 4),
        ("    question = 'a'\n    while True:\n        question = question + 'b'\n        if args.enough: break\n", 4),
        ("    question = TABLE['x']\n    TABLE['x'] = 'c'\n", 4),
        ("    question = NAME\n", 12),
        ("    parts = ['a']\n    if args.more:\n        parts.append('b')\n    question = ' '.join(parts)\n", 5),
        ("    try:\n        question = args.table[0]\n    except KeyError:\n        question = 'a'\n", 4),
        ("    question = recursive(3)\n", 14),
        ("    question = next(words())\n", 3),
        ("    question = style_of(args)\n", 17),
        ("    question = 'a' if words() else 'b'\n", 3),
        ("    match args.kind:\n        case 'x' if style: question = 'a'\n        case _: question = 'b'\n", 3),
        ("    parts = ['a']\n    parts *= args.times\n    question = ''.join(parts)\n", 4),
        (
            "    question = 'a'\n    try:\n        CHANGED[style]\n    except KeyError:\n        question = 'b'\n",
            4,
        ),
        ("    setattr(Holder, 'text', args.text)\n    question = Holder.text\n", 3),
    ],
)
def test_what_only_a_run_would_tell_is_left_out(tmp_path, body, line):
    source = f"""\
def ask(style, args):
    system_prompt = {{"Detailed": "S", "Short": "S"}}[style]
{body}    if style == "Short": question = "sure"
    return chat(system_prompt, question)
TABLE = {{"x": "b"}}
NAME = "b"
class Holder:
    text = "b"
def change():
    global NAME
    NAME = "c"; CHANGED[NAME] = "c"
def recursive(n):
    return "x" + recursive(n - 1) if n else "x"
def words():
    yield "x"
def style_of(args):
    if args.short:
        return "x"
    return "y"
CHANGED = {{}}
"""
    catalogue, found = imported(tmp_path, source)
    assert catalogue.select("aigc", ["Short"], "en")[0].user == "sure"
    assert catalogue.select("aigc", ["Detailed"], "en") == Catalogue.load().select("aigc", ["detailed"], "en")
    (problem,) = found.problems
    assert f"upstream.py:{line}: the question of 'Detailed' is built at run time: " in problem


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("    question = 'a'\n    if args.short:\n        question = 'a'\n", "a"),
        ("    if not args.path:\n        raise ValueError(args.path)\n    question = 'a'\n", "a"),
        ("    if not args.path:\n        return None\n    question = 'a'\n", "a"),
        ("    for word in args.words:\n        print(word)\n    question = 'a'\n", "a"),
        ("    for word in ['x', 'y', 'z']:\n        question = word\n        if word == 'y': break\n", "y"),
        ("    for word in ['x', 'y']:\n        if word == 'y': continue\n        question = word\n", "x"),
        ("    for word in []:\n        pass\n    else:\n        question = 'a'\n", "a"),
        ("    try:\n        question = {}['x']\n    except KeyError:\n        question = 'a'\n", "a"),
        ("    with args.lock as lock:\n        question = 'a'\n", "a"),
        ("    question, other = 'a', 'b'\n    del other\n", "a"),
        ("    question = (found := 'a') + found\n", "aa"),
        ("    question = next_to('a', tail='c')\n", "abc"),
        ("    if style.startswith('Det') and style not in ('x', 'y'):\n        question = 'a'\n", "a"),
        ("    if style.lower() == 'detailed' and not style.endswith('_CN'):\n        question = 'a'\n", "a"),
        ("    question = {**{'x': 'b'}, 'x': 'a'}['x']\n", "a"),
        ("    question = {'y': 'a'}.get(style, 'fallback')\n", "fallback"),
        ("    question = {'y': 'b'}[style] if args.short else 'a'\n", "a"),
        ("    question = 'a'\n    if args.bad:\n        question = 'b'\n        sys.exit(question)\n", "a"),
    ],
)
def test_what_is_certain_is_followed(tmp_path, body, text):
    source = f"""\
import sys
def next_to(head, middle="b", *, tail):
    return head + middle + tail
def ask(style, args):
    system_prompt = {{"Detailed": "S"}}[style]
{body}    return chat(system_prompt, question)
"""
    assert texts(tmp_path, source, "Detailed") == ("S", text)


@pytest.mark.parametrize("order", [1, -1])
def test_a_table_that_a_function_changes_is_not_known_wherever_it_is_read(tmp_path, order):
    functions = [
        "def change(text):\n    QUESTIONS['Detailed'] = text\n",
        "def ask(style):\n    question = QUESTIONS[style]\n    return chat(question)\n",
    ]
    source = 'QUESTIONS = {"Detailed": "a"}\nOTHERS = {"Short": "b"}\n' + "".join(functions[::order])
    source += "def other(style):\n    question = OTHERS[style]\n"
    catalogue, found = imported(tmp_path, source)
    assert catalogue.select("aigc", ["Short"], "en")[0].user == "b"
    assert found.num_prompts == 1
    assert "'Detailed' is built at run time: QUESTIONS['Detailed'] = text" in found.problems[0]


@pytest.mark.parametrize("styles", ['["Detailed", "Short"]', "read_styles()"])
def test_what_grows_from_style_to_style_is_not_known(tmp_path, styles):
    source = f"""\
QUESTIONS = {{"Detailed": "a", "Short": "b"}}
def ask_all(client):
    text, system_prompt = "", ""
    for style in {styles}:
        system_prompt = "S"
        text += QUESTIONS[style]
        client.chat([{{"role": "system", "content": system_prompt}}, {{"role": "user", "content": text}}])
"""
    said = problems(tmp_path, source)
    assert len(said) == 2
    assert all("'Detailed'" in problem or "'Short'" in problem for problem in said)


def test_a_loop_that_looks_for_another_key(tmp_path):
    source = """\
TEXTS = {"Detailed": "a", "Short": "b"}
def text_of(key):
    for name, text in TEXTS.items():
        if name == key:
            return text
    return "none"
def ask(style):
    system_prompt = "S " + text_of("Short")
    question = text_of(style)
"""
    assert texts(tmp_path, source, "Detailed") == ("S b", "a")


def test_a_style_with_a_default(tmp_path):
    source = """\
def ask(style="Detailed", head="Look: "):
    if style == "Detailed": question = head + "a"
    elif style == "Short": question = head + "b"
"""
    assert texts(tmp_path, source, "Detailed") == ("", "Look: a")
    assert texts(tmp_path, source, "Short") == ("", "Look: b")


def test_tables_about_other_things_are_passed_over(tmp_path):
    source = """\
import sys
file_system = sys.argv[1]
DTYPES = {"cuda": ["float16", "bfloat16"], "cpu": ["float32"]}
LENGTHS = {"short": 10, "detailed": 900}
QUESTIONS = {"Detailed": "a", "Short": "b"}
def ask(style, dtype, device):
    if device == "cuda" and dtype not in DTYPES[device]: raise ValueError(dtype)
    if dtype == "float16": half = True
    question = QUESTIONS[style]
"""
    _, found = imported(tmp_path, source)
    assert (found.num_prompts, found.problems) == (2, ())
    assert texts(tmp_path, source, "Short") == ("", "b")


def test_two_functions_that_ask_differently_are_a_conflict(tmp_path):
    source = """\
def one(style):
    if style == "Detailed": question = "a"
def two(style):
    if style == "Detailed": question = "b"
    elif style == "Short": question = "c"
"""
    assert problems(tmp_path, source) == ["upstream.py:2: the question of 'Detailed' isn't the same everywhere"]


def test_two_keys_of_one_style_with_other_texts_are_both_left_out(tmp_path):
    source = 'QUESTIONS = {"chart_markdwon": "a",\n"chart_markdown": "b",\n"CHART_MARKDOWN": "a", "gui": "c"}'
    said = problems(tmp_path, source)
    assert len(said) == 2
    assert said[0] == (
        "upstream.py:2: 'chart_markdown' has other texts than 'chart_markdwon', and both mean chart/markdown/en"
    )
    catalogue, _ = imported(tmp_path, source)
    assert catalogue.select("chart", ["markdown"], "en") == Catalogue.load().select("chart", ["markdown"], "en")


def test_one_key_of_two_that_is_not_certain_leaves_both_out(tmp_path):
    source = 'QUESTIONS = {"chart_markdwon": "a", "chart_markdown": read(), "gui": "c"}'
    catalogue, found = imported(tmp_path, source)
    assert (found.num_prompts, found.num_left_out) == (1, 1)
    assert catalogue.select("chart", ["markdown"], "en") == Catalogue.load().select("chart", ["markdown"], "en")


def test_two_keys_of_one_style_with_the_same_texts_are_one_prompt(tmp_path):
    catalogue, found = imported(tmp_path, 'QUESTIONS = {"Detailed": "a", "DETAILED": "a"}')
    assert (found.num_prompts, found.problems) == (1, ())
    for name in ("detailed", "Detailed", "DETAILED"):
        assert catalogue.select("aigc", [name], "en")[0].user == "a"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('QUESTIONS = {"nonsense": "a"}', "'nonsense' is no style that is known, and no table tells its type"),
        ('QUESTIONS = {"caption": "a"}', "'caption' is no style that is known, and no table tells its type"),
        ('QUESTIONS = {"Detailed": "  \\n"}', "the question of 'Detailed' is empty"),
        ('SYSTEMS = {"Detailed": "a"}', "'Detailed' has no question"),
        ('SYSTEMS = {"Short": "a"}\nQUESTIONS = {"Detailed": "b"}', "'Detailed' has no system text"),
        ('colours = {"Detailed": "a"}', "nothing says whether the text of 'Detailed' is a system text or a question"),
        ('QUESTIONS = {"Detailed": None}', "'Detailed' has no texts"),
        ('from texts import X\nQUESTIONS = {"Detailed": X}', "is built at run time: from texts import X"),
        ('QUESTIONS = {**more(), "Short": "a"}\ndef f(style):\n    question = QUESTIONS[style]', ""),
    ],
)
def test_why_a_key_is_left_out(tmp_path, source, said):
    assert any(said in problem for problem in problems(tmp_path, source)) or not said


def test_a_script_without_system_texts_sends_none(tmp_path):
    assert texts(tmp_path, 'QUESTIONS = {"Detailed": "a"}', "Detailed") == ("", "a")


def test_a_system_text_for_all(tmp_path):
    source = 'SYSTEM_PROMPT = "S"\nQUESTIONS = {"Detailed": "a"}\ndef ask(style):\n    return QUESTIONS[style]\n'
    assert texts(tmp_path, source, "Detailed") == ("S", "a")


def test_the_list_of_a_type_says_which_keys_go_with_it(tmp_path):
    source = """\
SYSTEMS = {"natural": "S photographs", "ocr": "S text"}
QUESTIONS = {"Short_Natural": "Q short", "barcode": "Q bars"}
STYLES = {"natural": ["Short_Natural"], "ocr": ["barcode"]}
def ask(image_type, style):
    system_prompt = SYSTEMS[image_type]
    question = QUESTIONS[style]
"""
    catalogue, found = imported(tmp_path, source)
    assert (found.num_prompts, found.problems) == (2, ())
    assert texts(tmp_path, source, "barcode", "ocr") == ("S text", "Q bars")
    assert texts(tmp_path, source, "short", "natural") == ("S photographs", "Q short")
    assert "barcode" not in catalogue.types["natural"].styles


def test_what_a_function_adds_to_a_nested_table(tmp_path):
    source = """\
PROMPTS = {
    "receipt": {"total": ("S receipt", "Q total"), "shop": ("S receipt", "Q shop")},
    "natural": {"Short": ("S short", "Q short")},
}
def ask(kind, style):
    system_prompt, question = PROMPTS[kind][style]
    question += " Be exact."
"""
    assert texts(tmp_path, source, "total", "receipt") == ("S receipt", "Q total Be exact.")
    assert texts(tmp_path, source, "shop", "receipt") == ("S receipt", "Q shop Be exact.")
    assert texts(tmp_path, source, "Short", "natural") == ("S short", "Q short Be exact.")
    assert import_prompts(tmp_path / "upstream.py").num_prompts == 3


def test_languages_that_a_function_tells_apart(tmp_path):
    source = """\
QUESTIONS = {"Detailed": {"en": "a", "zh": "甲"}, "Short": {"en": "b", "zh": "乙"}}
def ask(style, lang="en"):
    question = QUESTIONS[style][lang]
    question += "。" if lang == "zh" else "."
"""
    catalogue, found = imported(tmp_path, source)
    assert (found.num_prompts, found.problems) == (4, ())
    assert [prompt.user for prompt in catalogue.select("aigc", ["Detailed", "Short"], "all")] == [
        *("a.", "甲。", "b.", "乙。"),
    ]


def test_the_type_in_the_name_of_a_table(tmp_path):
    source = 'natural_questions = {"Detailed": "a"}\nocr_questions = {"receipt": "b"}\n'
    assert texts(tmp_path, source, "Detailed", "natural") == ("", "a")
    assert texts(tmp_path, source, "receipt", "ocr") == ("", "b")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("Detailed", ("aigc", "detailed", "en")),
        ("detailed_cn", ("aigc", "detailed", "zh")),
        ("Detailed_CN_Natural", ("natural", "detailed", "zh")),
        ("Detailed_Natural_CN", ("natural", "detailed", "zh")),
        ("gui_zh", ("gui", "caption", "zh")),
        ("mathgeo_caption_CN", ("mathgeo", "caption", "zh")),
        ("table_latex_en", ("table", "latex", "en")),
        ("Video_all_wostyle", ("video", "aspects_nostyle", "en")),
        ("caption", None),
        ("CN", None),
        ("scene", None),
    ],
)
def test_where_a_key_belongs(key, place):
    assert Places(Catalogue.load()).find(None, key, None) == place


# ---------------------------------------------------------------------------------------------- broken scripts


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"print 'hello'\n", ":1: not Python 3: "),
        (b"x = 1\n  y = 2\n", ":2: not Python 3: "),
        (b"x = 1\0\n", ": not Python 3: "),
        (b'X = "\xff"\n', "not Python 3: "),
        (b"# coding: klingon\n", "unknown encoding: klingon"),
        ("x = 1".encode("utf-16"), "not Python 3: "),
        (b"", "no prompt in it is understood"),
        (b"x = 1\n", "no prompt in it is understood"),
        (b"x = " + b"-" * 50_000 + b"1\n", ""),
        (b"x = " + b"(" * 5_000 + b")" * 5_000, ""),
        (b"x = " + b" + ".join([b"y"] * 20_000), ""),
        (b"x" * (MAX_SCRIPT_BYTES + 1), "more than 2,000,000 bytes"),
    ],
    ids=range(12),
)
def test_what_is_no_such_script_is_an_error_for_people(tmp_path, source, said):
    with pytest.raises(OmnicapError) as caught:
        import_prompts(write(tmp_path, source))
    assert caught.value.message.startswith(f"{tmp_path}/upstream.py")
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "def f(a):\n    return f(a) + g(a) + f(a)\ndef g(a):\n    return f(a) + g(a) + f(a)\n",
        "x = 'ab'\n"
        + "x = x + x\n" * 70
        + "y = [1]\n"
        + "y = y + y\n" * 70
        + "v = [1]\n"
        + "v += v\n" * 70
        + "z = (1,)\n"
        + "z += z\n" * 70,
        "x = 'a' * 10 ** 9\ny = '{:>999999999}'.format('a')\nz = ('a' * 900000).replace('a', 'b' * 900000)\n",
        "x = ''.join(['a' * 900000, 'b' * 900000])\nx = '%s' * 99999\nw = x % (x, x)\nv = f'{0x" + "f" * 9000 + "}'\n",
        "d = {}\nd['d'] = d\nd['l'] = [d]\nq = []\nq.append(q)\nt = (d, q)\nPROMPTS = {'x': t}\n",
        "while True:\n    x = 1\nfor i in iter(int, 1):\n    pass\n",
        "def f():\n    n = 1\n    def g():\n        nonlocal n\n        n = 2\n    g()\nglobal k\n",
        "def f(style):\n" + "".join(f"    {'el' * (n > 0)}if style == 'k{n}': x = {n}\n" for n in range(300)),
    ],
    ids=range(8),
)
def test_scripts_that_never_end_or_never_fit_do_no_harm(tmp_path, source):
    assert texts(tmp_path, source + 'QUESTIONS = {"Detailed": "a"}\n', "Detailed") == ("", "a")


def test_a_script_that_takes_too_long_to_follow_is_given_up(tmp_path):
    table = ", ".join(f"'k{number}': 'q'" for number in range(3_000))
    source = f"QUESTIONS = {{'Detailed': 'a', {table}}}\ndef ask(style):\n    question = QUESTIONS[style]\n"
    with pytest.raises(OmnicapError, match="takes too long to follow"):
        import_prompts(write(tmp_path, source))


def test_a_table_too_large_for_prompts(tmp_path):
    table = ", ".join(f"'k{number}': 'a text'" for number in range(20_001))
    with pytest.raises(OmnicapError, match="20,001 texts, too many"):
        import_prompts(write(tmp_path, f"QUESTIONS = {{{table}}}"))


@pytest.mark.parametrize("name", [".", "missing.py", "/dev/zero", "nul\0.py"])
def test_what_is_no_file(tmp_path, name):
    with pytest.raises(OptionError, match="FILE"):
        import_prompts(tmp_path / name)


# ------------------------------------------------------------------------------------------------ the command


def omnicap(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    command = [sys.executable, "-m", "omnicap_cli", "prompts", *words]
    return subprocess.run(command, cwd=cwd, env=env | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=120)


def shown(folder: Path, kind: str, style: str) -> list[dict[str, Any]]:
    result = omnicap("show", kind, style, "--prompts", "out.toml", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_command_writes_a_file_that_prompts_reads(tmp_path):
    write(tmp_path, TABLES_AND_CHAIN)
    result = omnicap("import", "upstream.py", "-o", "out.toml", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    *warnings, summary = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in warnings] == [["warning", f"upstream.py:{line}"] for line in (16, 22, 30)]
    assert summary == "6 prompts for 4 types, 2 left out → out.toml"
    assert [(each["system"], each["user"]) for each in shown(tmp_path, "aigc", "Medium_CN")] == [
        ("你看图。", "一半。😀")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.toml", "upstream.py"]


@pytest.mark.parametrize("more", [(), ("-o", "-"), ("--quiet",)])
def test_without_a_file_it_goes_to_the_standard_output(tmp_path, more):
    write(tmp_path, MATCH)
    result = omnicap("import", "upstream.py", *more, cwd=tmp_path)
    assert result.returncode == 0
    assert tomllib.loads(result.stdout)["types"]["gui"]["styles"]["caption"]["en"]["system"] == "S screen"
    assert result.stderr == ("" if more == ("--quiet",) else "4 prompts for 2 types, nothing left out\n")


def test_nothing_in_a_script_runs(tmp_path):
    mark = tmp_path / "it-ran"
    act = f"open({str(mark)!r}, 'w').write('x')"
    source = f"""\
{act}
import upstream_helper
class Meta(type):
    def __new__(*a): {act}
class Text(str, metaclass=Meta):
    def __str__(self): {act}
    def strip(self): {act}
X = [{act} for _ in "ab"]
f"{{{act}}}"
"{{0.__class__}}".format(exec({act!r}))
@exec({act!r})
def f(a={act}): {act}
QUESTIONS = {{"Detailed": "a".strip(), "Short": Text("b").strip(), "Medium": eval({act!r})}}
if __name__ == "__main__": {act}
"""
    write(tmp_path, act, "upstream_helper.py")
    write(tmp_path, source)
    result = omnicap("import", "upstream.py", "-o", "out.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not mark.exists()
    assert shown(tmp_path, "aigc", "detailed")[0]["user"] == "a"


def test_a_file_that_is_there_is_kept_without_overwrite(tmp_path):
    write(tmp_path, MATCH)
    write(tmp_path, "mine", "out.toml")
    refused = omnicap("import", "upstream.py", "-o", "out.toml", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "out.toml").read_text() == "mine"
    assert omnicap("import", "upstream.py", "-o", "out.toml", "--overwrite", cwd=tmp_path).returncode == 0
    assert shown(tmp_path, "aigc", "tag")[0]["user"] == "tags\n  and more\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing.py", "-o", "out.toml"], 1, "no prompt in it is understood"),
        (["python2.py", "-o", "out.toml"], 1, "python2.py:1: not Python 3"),
        (["missing.py", "-o", "out.toml"], 2, "missing.py"),
        ([".", "-o", "out.toml"], 2, "is not a file"),
        (["good.py", "-o", "good.py", "--overwrite"], 2, "is the script itself"),
        (["good.py", "-o", ".", "--overwrite"], 2, "is not a file"),
        (["good.py", "-o", "no/such/out.toml"], 2, "folder"),
        (["good.py", "-o", "x" * 300], 2, "File name too long"),
    ],
)
def test_what_goes_wrong_leaves_no_file(tmp_path, words, code, said):
    write(tmp_path, "SYSTEMS = {}\nQUESTIONS = {'nonsense': f()}\n", "nothing.py")
    write(tmp_path, "print 'x'\n", "python2.py")
    write(tmp_path, MATCH, "good.py")
    result = omnicap("import", *words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.py", "nothing.py", "python2.py"]
    assert (tmp_path / "good.py").read_text() == MATCH
