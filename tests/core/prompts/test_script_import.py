"""Inference scripts in the shapes that are published become catalogues with every prompt in its place."""

from __future__ import annotations

import pytest
from support.inference_scripts import (
    BY_TYPE,
    CHAIN,
    MATCH,
    NESTED,
    PAIRS,
    SHAPES,
    TABLES_AND_CHAIN,
    import_script,
    problems_of,
)

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Prompt


@pytest.mark.parametrize("shape", SHAPES)
def test_every_prompt_is_selected_by_its_style_and_by_the_key_of_the_script(tmp_path, shape):
    source, expected = SHAPES[shape]
    catalogue, found = import_script(tmp_path, source)
    assert found.num_prompts == len({(kind, row[0], row[1]) for (kind, _), row in expected.items()})
    assert found.num_types == len({kind for kind, _ in expected})
    for (kind, key), (style, lang, system, user) in expected.items():
        prompt = Prompt(type=kind, style=style, lang=lang, system=system, user=user)
        assert catalogue.select(kind, [style], lang) == [prompt]
        assert catalogue.select(kind, [key], lang) == [prompt]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_script_does_not_hold_stays_as_it_was(tmp_path, shape):
    source, expected = SHAPES[shape]
    catalogue, _ = import_script(tmp_path, source)
    touched = {(kind, row[0], row[1]) for (kind, _), row in expected.items()}
    for prompt in Catalogue.load().prompts:
        if (prompt.type, prompt.style, prompt.lang) not in touched:
            assert prompt in catalogue.prompts
    for kind in Catalogue.load():
        for style in kind.styles.values():
            assert set(style.aliases) <= set(catalogue.types[kind.name].styles[style.name].aliases)


def test_a_chinese_key_that_is_new_means_chinese_whatever_the_language(tmp_path):
    catalogue, _ = import_script(tmp_path, NESTED)
    assert [prompt.lang for prompt in catalogue.select("gui", ["gui_CN"], "en")] == ["zh"]
    assert [prompt.lang for prompt in catalogue.select("receipt", ["total_CN"], "all")] == ["zh"]


def test_what_is_left_out_is_named_with_its_line(tmp_path):
    assert problems_of(tmp_path, TABLES_AND_CHAIN) == [
        'upstream.py:16: the system text of \'Short\' is built at run time: "Short": load_it("short"),',
        "upstream.py:22: 'Tag_Natural' is listed for natural, but has no texts",
        "upstream.py:30: the question of 'Detailed' is built at run time: "
        'return random.choice(["Tell me all.", "Everything, please."])',
    ]
    assert problems_of(tmp_path, CHAIN) == [
        "upstream.py:16: the question of 'table_latex' is built at run time: question = ask_user(style)",
    ]
    for source in (PAIRS, NESTED, MATCH, BY_TYPE):
        assert problems_of(tmp_path, source) == []
