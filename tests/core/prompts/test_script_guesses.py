"""What an inference script decides only when it runs is left out with its line, and never guessed."""

from __future__ import annotations

import pytest
from support.inference_scripts import import_script, problems_of, texts_of

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.prompts.script_import.places import CatalogueKeys


def check_that_only_short_is_known(folder, source, line):
    catalogue, found = import_script(folder, source)
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
    said = problems_of(tmp_path, source)
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
    assert problems_of(tmp_path, source) == [
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
    assert texts_of(tmp_path, source, "Detailed") == ("", "a")
    assert problems_of(tmp_path, source) == []


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
    catalogue, found = import_script(tmp_path, f"OTHER_QUESTIONS = {{'Short': 'sure'}}\n{table}\n")
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
    _, found = import_script(tmp_path, source)
    assert (found.num_prompts, found.problems) == (2, ())
    assert texts_of(tmp_path, source, "Short") == ("", "b")


def test_two_functions_that_ask_differently_are_a_conflict(tmp_path):
    source = """\
def one(style):
    if style == "Detailed": question = "a"
def two(style):
    if style == "Detailed": question = "b"
    elif style == "Short": question = "c"
"""
    assert problems_of(tmp_path, source) == ["upstream.py:2: the question of 'Detailed' isn't the same everywhere"]


def test_two_keys_of_one_style_with_other_texts_are_both_left_out(tmp_path):
    source = 'QUESTIONS = {"chart_markdwon": "a",\n"chart_markdown": "b",\n"CHART_MARKDOWN": "a", "gui": "c"}'
    said = problems_of(tmp_path, source)
    assert len(said) == 2
    assert said[0] == (
        "upstream.py:2: 'chart_markdown' has other texts than 'chart_markdwon', and both mean chart/markdown/en"
    )
    catalogue, _ = import_script(tmp_path, source)
    assert catalogue.select("chart", ["markdown"], "en") == Catalogue.load().select("chart", ["markdown"], "en")


def test_one_key_of_two_that_is_not_certain_leaves_both_out(tmp_path):
    source = 'QUESTIONS = {"chart_markdwon": "a", "chart_markdown": read(), "gui": "c"}'
    catalogue, found = import_script(tmp_path, source)
    assert (found.num_prompts, len(found.problems)) == (1, 1)
    assert catalogue.select("chart", ["markdown"], "en") == Catalogue.load().select("chart", ["markdown"], "en")


def test_two_keys_of_one_style_with_the_same_texts_are_one_prompt(tmp_path):
    catalogue, found = import_script(tmp_path, 'QUESTIONS = {"Detailed": "a", "DETAILED": "a"}')
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
    assert any(said in problem for problem in problems_of(tmp_path, source))


def test_a_script_without_system_texts_sends_none(tmp_path):
    assert texts_of(tmp_path, 'QUESTIONS = {"Detailed": "a"}', "Detailed") == ("", "a")


def test_a_system_text_for_all(tmp_path):
    source = 'SYSTEM_PROMPT = "S"\nQUESTIONS = {"Detailed": "a"}\ndef ask(style):\n    return QUESTIONS[style]\n'
    assert texts_of(tmp_path, source, "Detailed") == ("S", "a")


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
    (problem,) = problems_of(tmp_path, source)
    assert problem.startswith(f"upstream.py:{line}: the system text of 'Detailed' is built at run time: ")


def test_a_pair_that_is_never_taken_apart_is_not_known(tmp_path):
    assert problems_of(tmp_path, 'PROMPTS = {"Detailed": ("S text", "Q text")}') == [
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
    assert texts_of(tmp_path, source, "Detailed") == ("S", "a")
    assert texts_of(tmp_path, source, "Short") == ("S short", "b")


def test_the_type_in_the_name_of_a_table(tmp_path):
    source = 'natural_questions = {"Detailed": "a"}\nocr_questions = {"receipt": "b"}\n'
    assert texts_of(tmp_path, source, "Detailed", "natural") == ("", "a")
    assert texts_of(tmp_path, source, "receipt", "ocr") == ("", "b")


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
