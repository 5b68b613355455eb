"""What runs again when something changed since the last run, and what does not.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import os
from typing import Any

import pypdfium2
import pytest


def ran_again(omnicap: Any, *words: str, **options: Any) -> list[tuple[str, str]]:
    """Run once more and say which requests ran, as (id, style); the records from before must all still be there."""
    before, num_begun = omnicap.records(), len(omnicap.begun)
    assert omnicap.run(*words, **options).returncode == 0
    after = omnicap.records()
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert [record["key"] for record in new] == omnicap.begun[num_begun:]
    return [(record["id"], record["style"]) for record in new]


@pytest.fixture
def done(omnicap, make_pictures) -> Any:
    """Three pictures and a PDF of two pages, captioned in two styles."""
    make_pictures(3)
    document = pypdfium2.PdfDocument.new()
    for _ in range(2):
        document.new_page(50, 50)
    document.save(omnicap.folder / "in" / "pages.pdf")
    omnicap.words = ("in", "--style", "short,medium", "-o", "out.jsonl")
    assert omnicap.run(*omnicap.words).returncode == 0
    assert len(omnicap.records()) == 5 * 2
    return omnicap


PICTURES = [f"in/000{number}.png" for number in range(3)]
PAGES = [f"in/pages.pdf#page={number}" for number in (1, 2)]


def both_styles(ids: list[str]) -> list[tuple[str, str]]:
    return [(item_id, style) for item_id in ids for style in ("short", "medium")]


def test_nothing_changed(done):
    assert ran_again(done, *done.words) == []
    assert ran_again(done, "./in/", "--style", "medium,short", "-o", "out.jsonl") == []  # the same, said differently


def test_a_changed_prompt(done):
    prompts = done.folder / "own.toml"
    prompts.write_text('[types.natural.styles.short.en]\nuser = "Say it in three words."\n')
    words = (*done.words, "--prompts", "own.toml")
    assert ran_again(done, *words) == [(item_id, "short") for item_id in PICTURES + PAGES]
    assert ran_again(done, *words) == []
    assert ran_again(done, *done.words) == []  # the answers to the old question are still known


def test_a_changed_resolution_is_for_pages_only(done):
    assert ran_again(done, *done.words, "--dpi", "72") == both_styles(PAGES)


@pytest.mark.parametrize("option", ["--max-pixels", "--min-pixels"])
def test_changed_pixel_limits(done, option):
    assert ran_again(done, *done.words, option, "5000") == both_styles(PICTURES + PAGES)


@pytest.mark.parametrize("options", [("--max-decode-pixels", "1000000"), ("--workers", "2"), ("--unordered",)])
def test_what_does_not_change_a_caption(done, options):
    assert ran_again(done, *done.words, *options) == []


def test_a_changed_model(done):
    assert ran_again(done, *done.words, fingerprint="weights-2") == both_styles(PICTURES + PAGES)
    assert ran_again(done, *done.words, "--model", "other") == both_styles(PICTURES + PAGES)
    assert ran_again(done, *done.words) == []


def test_a_changed_file(done):
    (done.folder / PICTURES[1]).write_bytes((done.folder / PICTURES[2]).read_bytes() + b"more")
    assert ran_again(done, *done.words) == both_styles([PICTURES[1]])


def test_a_file_of_the_same_size_with_a_new_time(done):
    os.utime(done.folder / PICTURES[0], (1, 1))
    assert ran_again(done, *done.words) == both_styles([PICTURES[0]])


def test_content_is_known_by_content(omnicap, make_pictures):
    ids = make_pictures(3)
    words = ("in", "--fingerprint", "content", "-o", "out.jsonl")
    omnicap.run(*words)
    os.utime(omnicap.folder / ids[0], (1, 1))
    state = (omnicap.folder / ids[1]).stat()
    content = bytearray((omnicap.folder / ids[1]).read_bytes())
    content[-1] ^= 1
    (omnicap.folder / ids[1]).write_bytes(content)
    os.utime(omnicap.folder / ids[1], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert ran_again(omnicap, *words) == [(ids[1], "detailed")]


def test_fewer_items_and_other_styles_delete_nothing(done):
    assert ran_again(done, *done.words, "--limit", "1") == []
    assert ran_again(done, "in", "--style", "tag", "-o", "out.jsonl", "--limit", "2") == [
        (item_id, "tag") for item_id in PICTURES[:2]
    ]
    (done.folder / PICTURES[0]).unlink()
    assert ran_again(done, *done.words) == []
    assert len(done.records()) == 12
