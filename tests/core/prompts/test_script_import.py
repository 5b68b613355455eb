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
from omnicap_cli.core.prompts.script_import.importer import PromptImport, import_prompts
from omnicap_cli.core.prompts.script_import.places import CatalogueKey, CatalogueKeys
from omnicap_cli.core.prompts.script_import.script import MAX_SCRIPT_BYTES
from omnicap_cli.core.prompts.script_import.writing import ImportedPrompt, as_toml, check_toml
from omnicap_cli.core.runs.records import Prompt
from omnicap_cli.errors import OmnicapError, OptionError

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
    "general_ocr": BASE + "\\tRead.",
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
    elif style == "Medium_CN":
        return "一半。😀"
    elif style in ("Medium", "Short"):
        return "Half."
    elif style == "mathgeo_tikz":
        return r"Give \\LaTeX {x}."
    elif style in ["general_ocr"]:
        answer = "Read it."
        return answer
    if style == "Detailed_Natural":
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
        print("asked: " + question)
        print(model.generate(**processor(text=[prompt])))

if __name__ == "__main__":
    main()
'''
TABLES_AND_CHAIN_TEXTS: Expected = {
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
    ("ocr", "general_ocr"): ("text", "en", "You look at pictures carefully. \tRead.", "Read it."),
}

PAIRS = """\
SYSTEM_DETAILED = "S detailed"
SYSTEM_DRAWN = "S drawn\\n"
QUESTION_DETAILED = "Q detailed"
QUESTION_DRAWN = "Q drawn"
STYLES = {"aigc": ["Detailed", "Detailed_CN"], "gui": ["gui"], "chart": ["chart_markdwon"]}

def prompts_of(selected):
    if selected == "Detailed":
        return SYSTEM_DETAILED, QUESTION_DETAILED
    elif selected == "Detailed_CN":
        return SYSTEM_DETAILED, "Q 详细"
    if selected == "gui":
        return SYSTEM_DRAWN, QUESTION_DETAILED
    elif selected == "chart_markdwon":
        return SYSTEM_DRAWN, QUESTION_DRAWN

def ask(path, image_type):
    lists_by_type = {"aigc": STYLES["aigc"], "gui": STYLES["gui"]}
    for key in lists_by_type.get(image_type.lower(), []):
        system_prompt, question = prompts_of(key)
        send({"role": "system", "content": system_prompt}, {"role": "user", "content": question})
        print(f"asked for {key}")
"""
PAIRS_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S detailed", "Q detailed"),
    ("aigc", "Detailed_CN"): ("detailed", "zh", "S detailed", "Q 详细"),
    ("gui", "gui"): ("caption", "en", "S drawn\n", "Q detailed"),
    ("chart", "chart_markdwon"): ("markdown", "en", "S drawn\n", "Q drawn"),
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
        "short": {"system_prompt": "S natural short", "user": "Q natural short"},
        "MEDIUM_NATURAL": ("S natural medium", "Q natural medium"),
    },
    "receipt": receipt,
    "ocr": {"pdf_ocr": ("S page", "Q page"), "stamp": ("S stamp", "Q stamp")},
    "gui": {"gui_CN": ("S 界面", "Q 界面")},
    "chart": {"caption": {"en": ("S chart", "Q chart"), "zh": ("S 图表", "Q 图表")}},
}
def ask(image_type, style):
    system_prompt, question = PROMPTS[image_type][style]
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
        raise ValueError(image_type)
    return model.chat(image, system_prompt, question)
'''
CHAIN_TEXTS: Expected = {
    ("chart", "chart_markdwon"): ("markdown", "en", "S data", "Q data"),
    ("chart", "chart_caption"): ("caption", "en", "You are general.", "Q\ncaption"),
    ("chart", "chart_caption_CN"): ("caption", "zh", "You are general.", "Q 图表"),
    ("gui", "gui"): ("caption", "en", "You are general.", "Q screen tail"),
}

MATCH = """\
HEAD = "Head. "
ALL = HEAD + "All of it"

class Captioner:
    systems = {"Detailed": "S all", "Detailed_CN": "S 全部", "Tag": "S tags", "gui": "S screen"}

    def question_for(self, style):
        match style:
            case "Detailed" | "Detailed_CN":
                return ALL
            case "Tag":
                return "tags\\n  and more\\n"
            case "gui":
                return "Screen: all"
            case _:
                raise ValueError(style)

    async def ask(self, style, image):
        return await self.client.chat(
            {"role": "system", "content": [{"type": "text", "text": self.systems[style]}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.question_for(style)}]},
        )
"""
MATCH_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S all", "Head. All of it"),
    ("aigc", "Detailed_CN"): ("detailed", "zh", "S 全部", "Head. All of it"),
    ("aigc", "Tag"): ("tag", "en", "S tags", "tags\n  and more\n"),
    ("gui", "gui"): ("caption", "en", "S screen", "Screen: all"),
}

BY_TYPE = """\
NATURAL, OCR = "natural", "ocr"
STYLES_OF = {NATURAL: ("Detailed_Natural", "Short_Natural"), OCR: ("poster_ocr", "barcode")}
SYSTEMS = {NATURAL: "S photographs", OCR: "S text"}
QUESTIONS = {"Detailed_Natural": "Q long", "Short_Natural": "Q short", "poster_ocr": "Q poster", "barcode": "Q bars"}

def ask(client, image_type):
    for style in STYLES_OF[image_type]:
        text = QUESTIONS[style]
        client.chat({"role": "system", "content": SYSTEMS[image_type]}, {"role": "user", "content": text})
"""
BY_TYPE_TEXTS: Expected = {
    ("natural", "Detailed_Natural"): ("detailed", "en", "S photographs", "Q long"),
    ("natural", "Short_Natural"): ("short", "en", "S photographs", "Q short"),
    ("ocr", "poster_ocr"): ("poster", "en", "S text", "Q poster"),
    ("ocr", "barcode"): ("barcode", "en", "S text", "Q bars"),
}

SHAPES = {
    "tables-and-chain": (TABLES_AND_CHAIN, TABLES_AND_CHAIN_TEXTS),
    "pairs": (PAIRS, PAIRS_TEXTS),
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
        "upstream.py:22: 'Tag_Natural' is listed for natural, but has no texts",
        "upstream.py:30: the question of 'Detailed' is built at run time: "
        'return random.choice(["Tell me all.", "Everything, please."])',
    ]
    assert problems(tmp_path, CHAIN) == [
        "upstream.py:16: the question of 'table_latex' is built at run time: question = ask_user(style)",
    ]
    for source in (PAIRS, NESTED, MATCH, BY_TYPE):
        assert problems(tmp_path, source) == []


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
    catalogue, found = imported(tmp_path, source)
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
    assert problems(tmp_path, source) == [
        "upstream.py:1: the question of 'Detailed' has half of a surrogate pair, which no file can hold"
    ]


# ---------------------------------------------------------------------------------------------- never a guess


def check_that_only_short_is_known(folder, source, line):
    catalogue, found = imported(folder, source)
    assert catalogue.select("aigc", ["Short"], "en")[0].user == "sure"
    assert catalogue.select("aigc", ["Detailed"], "en") == Catalogue.load().select("aigc", ["detailed"], "en")
    (problem,) = found.problems
    assert f"upstream.py:{line}: the question of 'Detailed' is built at run time: " in problem


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("question = ask_user()", 5),
        ("question = decorate('a')", 5),
        ("question = 'a' if args.short else 'b'", 5),
        ("question = args.question or 'b'", 5),
        ("question = {'x': 'a'}[args.name]", 5),
        ("question = 'a'\n        question += args.more", 6),
        ("question = 'a'\n        if args.short:\n            question = 'b'", 6),
        ("if args.short:\n            question = 'a'\n        else:\n            question = 'b'", 5),
        ("question = 'a'\n        for word in args.words:\n            question = word", 6),
        ("question = 'a'\n        while args.more():\n            question = 'b'", 6),
        ("try:\n            question = 'a'\n        except KeyError:\n            question = 'b'", 5),
        ("with args.lock as question:\n            pass", 5),
        ("question = 'a'\n        print(question := args.question)", 6),
        ("question, other = args.pair", 5),
        ("head = args.head\n        question = f'{head} a'", 5),
    ],
)
def test_what_a_branch_assigns_at_run_time_is_left_out(tmp_path, body, line):
    source = f"""\
def ask(style, args):
    if style == "Short":
        question = "sure"
    elif style == "Detailed":
        {body}
    return args.client.chat(question)
"""
    check_that_only_short_is_known(tmp_path, source, line)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return ask_user()", 5),
        ("return text_of(style, 'a')", 5),
        ("return 'a' if args.short else 'b'", 5),
        ("return 'a' + args.more", 5),
        ("return args.question", 5),
        ("if args.short:\n            return 'a'\n        return 'b'", 5),
        ("for word in args.words:\n            return 'a'\n        return 'b'", 5),
        ("while True:\n            return 'a'", 5),
    ],
)
def test_what_a_branch_returns_at_run_time_is_left_out(tmp_path, body, line):
    source = f"""\
def question_for(style, args):
    if style == "Short":
        return "sure"
    elif style == "Detailed":
        {body}
"""
    check_that_only_short_is_known(tmp_path, source, line)


@pytest.mark.parametrize(
    ("chain", "line"),
    [
        ("if style == 'Detailed' and args.long: return 'a'", 3),
        ("if style == 'Detailed' or args.long: return 'a'", 3),
        ("if style[:8] == 'Detailed': return 'a'", 3),
        ("if style.startswith('Det'): return 'a'\n    elif style == 'Detailed': return 'b'", 3),
        ("if args.short: return 'a'\n    if style == 'Detailed': return 'b'", 3),
        ("if args.short:\n        if style == 'Detailed': return 'b'", 3),
        ("match style:\n        case 'Detailed' if args.long: return 'a'", 4),
        ("match style:\n        case ['Detailed']: return 'a'\n        case 'Detailed': return 'b'", 4),
    ],
)
def test_a_branch_under_another_condition_is_left_out(tmp_path, chain, line):
    source = f"""\
def question_for(style, args):
    if style == "Short": return "sure"
    {chain}
"""
    check_that_only_short_is_known(tmp_path, source, line)


@pytest.mark.parametrize(
    ("uses", "line"),
    [
        ("    question = QUESTIONS[style] + '.'\n", 3),
        ("    question = f'{QUESTIONS[style]}.'\n", 3),
        ("    question = QUESTIONS[style].format(args.name)\n", 3),
        ("    question = QUESTIONS.get(style, 'c') % args.name\n", 3),
        ("    question = args.question or QUESTIONS[style]\n", 3),
        ("    question = 'c' if args.short else QUESTIONS[style]\n", 3),
        ("    question = decorate(QUESTIONS[style])\n", 3),
        ("    question = QUESTIONS[style]\n    question += '.'\n", 4),
        ("    question = QUESTIONS[style]\n    question = question.strip()\n", 4),
        ("    question = QUESTIONS[style]\n    if args.short:\n        question = 'c'\n", 5),
        ("    question = QUESTIONS[style]\n    question, other = args.pair\n", 4),
        ("    text = QUESTIONS[style]\n    return client.chat(text + '.')\n", 4),
        ("    return client.chat({'role': 'user', 'content': '<image>' + QUESTIONS[style]})\n", 3),
        ("    ask(QUESTIONS[style])\ndef ask(question):\n    return client.chat(question + '.')\n", 5),
        ("    QUESTIONS['Short'] = args.short\n", 3),
        ("    del QUESTIONS['Short']\n", 3),
        ("    QUESTIONS.update(args.texts)\n", 3),
        ("    QUESTIONS |= args.texts\n", 3),
        ("    fill(QUESTIONS)\n", 3),
        ("    args.client.fill(QUESTIONS)\n", 3),
        ("    table = QUESTIONS\n    table['Short'] = args.short\n", 4),
        ("    global QUESTIONS\n    QUESTIONS = {}\n", 1),
    ],
)
def test_a_text_that_is_not_sent_as_it_stands_is_left_out(tmp_path, uses, line):
    source = 'QUESTIONS = {"Detailed": "a", "Short": "b"}\ndef main(style, args):\n' + uses
    said = problems(tmp_path, source)
    assert [problem.split(": ")[:2] for problem in said] == [
        [f"upstream.py:{line}", f"the question of '{key}' is built at run time"] for key in ("Detailed", "Short")
    ]


def test_what_a_chain_returns_and_the_caller_changes_is_left_out(tmp_path):
    source = """\
def question_for(style):
    if style == "Detailed": return "a"
def ask(style, args):
    return args.client.chat(question_for(style) + args.more)
"""
    assert problems(tmp_path, source) == [
        "upstream.py:4: the question of 'Detailed' is built at run time: "
        "return args.client.chat(question_for(style) + args.more)"
    ]


@pytest.mark.parametrize(
    "uses",
    [
        "    print('asking ' + QUESTIONS[style])\n",
        "    parser.add_argument('--style', choices=list(QUESTIONS), help=f\"one of {', '.join(QUESTIONS)}\")\n",
        "    if style not in QUESTIONS or not QUESTIONS[style]:\n        raise ValueError(f'{QUESTIONS}')\n",
        "    for style, text in QUESTIONS.items():\n        answers[style] = client.chat(text).strip() + '\\n'\n",
        "    messages = [{'role': 'user', 'content': QUESTIONS[style]}]\n    messages = [*messages, args.more]\n",
        "    try:\n        question = QUESTIONS[style]\n    except KeyError:\n        raise SystemExit(style)\n",
        "    question = QUESTIONS.get(style, args.question)\n    inputs = tokenizer(question, args.length + 1)\n",
    ],
)
def test_what_changes_no_text_is_no_matter(tmp_path, uses):
    source = 'QUESTIONS = {"Detailed": "a"}\ndef main(style, args, client, parser):\n' + uses
    assert texts(tmp_path, source, "Detailed") == ("", "a")
    assert problems(tmp_path, source) == []


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("QUESTIONS = {**more(), 'Detailed': 'a'}", "Detailed"),
        ("QUESTIONS = {'Detailed': 'a', **more()}", "Detailed"),
        ("QUESTIONS = {'Detailed': 'a', key(): 'b'}", "Detailed"),
        ("QUESTIONS = {'Detailed': 'a', 'x' + f'{key}': 'b'}", "Detailed"),
        ("if here(): QUESTIONS = {'Detailed': 'a'}\nelse: QUESTIONS = {'Detailed': 'b'}", "Detailed"),
        ("QUESTIONS = {'Detailed': 'a'}\nQUESTIONS['Short'] = read()", "Detailed"),
        ("QUESTIONS = {name: 'a' for name in ['Detailed']}", "QUESTIONS"),
        ("QUESTIONS = dict(Detailed='a')", "QUESTIONS"),
    ],
)
def test_a_table_that_is_built_at_run_time_is_left_out(tmp_path, table, key):
    catalogue, found = imported(tmp_path, f"OTHER_QUESTIONS = {{'Short': 'sure'}}\n{table}\n")
    assert catalogue.select("aigc", ["Short"], "en")[0].user == "sure"
    (problem,) = found.problems
    line = 3 if "read" in table else 2
    assert f"upstream.py:{line}: the question of {key!r} is built at run time: " in problem


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
    assert (found.num_prompts, len(found.problems)) == (1, 1)
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
        ('from texts import X\nQUESTIONS = {"Detailed": X}', 'is built at run time: QUESTIONS = {"Detailed": X}'),
        (
            'def describe(style):\n    if style == "Short":\n        return "a"',
            "nothing says whether the text of 'Short'",
        ),
    ],
)
def test_why_a_key_is_left_out(tmp_path, source, said):
    assert any(said in problem for problem in problems(tmp_path, source))


def test_a_script_without_system_texts_sends_none(tmp_path):
    assert texts(tmp_path, 'QUESTIONS = {"Detailed": "a"}', "Detailed") == ("", "a")


def test_a_system_text_for_all(tmp_path):
    source = 'SYSTEM_PROMPT = "S"\nQUESTIONS = {"Detailed": "a"}\ndef ask(style):\n    return QUESTIONS[style]\n'
    assert texts(tmp_path, source, "Detailed") == ("S", "a")


@pytest.mark.parametrize(
    ("uses", "line"),
    [
        ("    chat({'role': 'system', 'content': SYSTEM_PROMPT + args.more}, QUESTIONS[style])\n", 4),
        ("    system_prompt = SYSTEM_PROMPT\n    system_prompt += args.more\n    chat(system_prompt)\n", 5),
        ("    system_prompt = args.system or SYSTEM_PROMPT\n", 4),
        ("    system_prompt = load_it()\n", 4),
    ],
)
def test_a_system_text_for_all_that_is_not_sent_as_it_stands(tmp_path, uses, line):
    source = f'SYSTEM_PROMPT = "S"\nQUESTIONS = {{"Detailed": "a"}}\ndef ask(style, args):\n{uses}'
    (problem,) = problems(tmp_path, source)
    assert problem.startswith(f"upstream.py:{line}: the system text of 'Detailed' is built at run time: ")


def test_a_pair_that_is_never_taken_apart_is_not_known(tmp_path):
    assert problems(tmp_path, 'PROMPTS = {"Detailed": ("S text", "Q text")}') == [
        "upstream.py:1: nothing says whether the text of 'Detailed' is a system text or a question"
    ]


def test_a_chain_outside_of_functions(tmp_path):
    source = """\
SYSTEM_BASE = "S"
if __name__ == "__main__":
    style = input()
    if style == "Detailed":
        system_prompt, question = SYSTEM_BASE, "a"
    elif style == "Short":
        system_prompt = "S short"
        question = "b"
    else:
        raise SystemExit(style)
    send(system_prompt, question)
"""
    assert texts(tmp_path, source, "Detailed") == ("S", "a")
    assert texts(tmp_path, source, "Short") == ("S short", "b")


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
    assert CatalogueKeys(Catalogue.load()).find(None, key, None) == place


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
        "def f(style):\n" + "".join(f"    {'el' * (n > 0)}if style == 'k{n}': x = {n}\n" for n in range(1500)),
        "a0 = 'ab'\n" + "".join(f"a{n + 1} = a{n} + a{n}\n" for n in range(200)),
    ],
    ids=range(9),
)
def test_scripts_that_never_end_or_never_fit_do_no_harm(tmp_path, source):
    assert texts(tmp_path, source + 'QUESTIONS = {"Detailed": "a"}\n', "Detailed") == ("", "a")


def test_a_table_too_large_for_prompts(tmp_path):
    table = ", ".join(f"'k{number}': 'a text'" for number in range(10_001))
    with pytest.raises(OmnicapError, match="more than 10,000 texts and statements, too many"):
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
    assert summary == "5 prompts for 4 types, 3 left out → out.toml"
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
QUESTIONS = {{"Detailed": "a", "Short": Text("b").strip(), "Medium": eval({act!r})}}
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
