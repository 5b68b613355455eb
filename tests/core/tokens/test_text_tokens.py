"""Counts of texts against the tokenizer itself, and what happens where the fast way can't be had."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest
from support.tiny_models import SENTENCES, files
from tokenizers import Tokenizer

from omnicap_cli.core.tokens.text_tokens import _MAYBE_NOT_NFC, TextTokens
from omnicap_cli.errors import EngineError

WITHOUT_PATTERN = {"add_prefix_space": False, "trim_offsets": True}
TEXTS = [*SENTENCES, "cafe\u0301", "図", "a\n\n\nb", "<|im_end|>", "<think>", "don't 12 34", ""]


@pytest.fixture(scope="module")
def tokenizer_json() -> bytes:
    tokenizer = files.train_tokenizer([*SENTENCES, "\n\n", ".\n", "  "], num_tokens=1500).backend_tokenizer
    tokenizer.add_tokens(["<think>"])
    return str(tokenizer.to_str()).encode()


def by_itself(tokenizer_json: bytes, text: str) -> int:
    """Tokens of a text in which what looks like a special token stays text; such a token is all of a text here."""
    tokenizer = Tokenizer.from_buffer(tokenizer_json)
    tokenizer.encode_special_tokens = True
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", TEXTS)
def test_counts_are_those_of_the_tokenizer(tokenizer_json, text) -> None:
    tokens = TextTokens(tokenizer_json)
    assert tokens.is_fast
    assert tokens.count(text) == by_itself(tokenizer_json, text) == len(tokens.encode(text))
    assert TextTokens(tokenizer_json, fast=False).count(text) == tokens.count(text)


def test_added_tokens_stay_text_where_the_template_writes_them(tokenizer_json) -> None:
    number = TextTokens(tokenizer_json).id_of("<think>")
    assert TextTokens(tokenizer_json).encode("<think>") == [number]
    assert number not in TextTokens(tokenizer_json, written="{{ '<think>' }}").encode("<think>")


def test_places_are_those_of_characters(tokenizer_json) -> None:
    text = "A <|im_end|> 図 boat"
    places = [place for _, place in TextTokens(tokenizer_json).encode_with_places(text)]
    assert places == sorted(places)
    assert places[0] == 0
    assert text.index("<|im_end|>") in places
    assert text.index("図") in places


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normaliser"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "byte-level"),
        ({"pre_tokenizer": {"type": "ByteLevel", **WITHOUT_PATTERN, "use_regex": True}}, "byte-level"),
        (
            {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
            "byte-level",
        ),
    ],
)
def test_other_tokenizers_are_counted_by_themselves(tokenizer_json, change, why) -> None:
    changed = json.dumps(json.loads(tokenizer_json) | change).encode()
    tokens = TextTokens(changed)
    assert not tokens.is_fast
    assert why in str(tokens.why_slow)
    for text in TEXTS:
        assert tokens.count(text) == by_itself(changed, text)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 3}', b'{"model": {"type": "BPE"}}', b"\xff"])
def test_a_damaged_tokenizer_is_named(content) -> None:
    with pytest.raises(EngineError, match=r"tokenizer\.json"):
        TextTokens(content)


def test_texts_that_skip_the_normaliser_are_normal() -> None:
    """Of every character that counts as harmless: it composes with nothing before it, and is its own normal form."""
    seconds = {0x1161 + number for number in range(21)} | {0x11A8 + number for number in range(27)}
    for number in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(number)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(int(parts[1], 16))
    harmless = [number for number in range(sys.maxunicode + 1) if not _MAYBE_NOT_NFC.match(chr(number))]
    assert len(harmless) > 40_000
    assert not seconds.intersection(harmless)
    for number in harmless:
        character = chr(number)
        assert not unicodedata.combining(character), hex(number)
        assert unicodedata.normalize("NFC", character) == character, hex(number)
