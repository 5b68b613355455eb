"""Counting in the fast way is checked against the model's own tokenizer; where they disagree, that one is right."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tokenize_runs import Tokenize, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture

from omnicap_cli.core.tokens import text_tokens
from omnicap_cli.core.tokens.training_input import TrainingInput
from omnicap_cli.datasets.tokenizing import counting, split_writer
from omnicap_cli.datasets.tokenizing.split_run import Step, StoppedError
from omnicap_cli.errors import JournalWriteError, UsageError

WRONG = "bicycle"


def wrong_from(number: int) -> list[dict[str, Any]]:
    """Records of which that one is the first to be counted wrong."""
    return [record(n, "<image>", WRONG if n == number else "A harbour.") for n in range(number + 3)]


@pytest.fixture(autouse=True)
def _checks_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first eight are checked, and one in 64."""
    monkeypatch.setattr(counting, "_NUM_CHECKED_FIRST", 8)
    monkeypatch.setattr(counting, "_CHECKED_EVERY", 64)


@pytest.fixture
def counts_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way takes one word for a token more."""
    build = text_tokens._build_fast_count

    def build_wrong(config: dict[str, Any]) -> tuple[Any, Any]:
        count, why_slow = build(config)
        assert count is not None
        return (lambda text: count(text) + text.count(WRONG)), why_slow

    monkeypatch.setattr(text_tokens, "_build_fast_count", build_wrong)


@pytest.fixture
def exact_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each record had that was counted by the model's tokenizer itself."""
    counted: list[int] = []
    exact = TrainingInput.exact_counts
    monkeypatch.setattr(
        TrainingInput, "exact_counts", lambda input, *of: counted.append(len(of[0].texts)) or exact(input, *of)
    )
    return counted


@pytest.mark.parametrize("number", [0, 7, 63, 127])
def test_a_split_is_counted_again_where_the_fast_way_is_wrong(tokenizing, request, number) -> None:
    tokenizing.data(wrong_from(number))
    tokenizing.here(output=Path("right"))
    assert tokenizing.warned == []
    request.getfixturevalue("counts_wrong")
    report = tokenizing.here()
    assert tokenizing.output() == tokenizing.output(out="right")
    assert report.num_in == number + 3
    (warning,) = tokenizing.warned
    assert "the fast way of counting text is wrong for this data" in warning
    assert "data_split1 is counted again, slowly" in warning


def test_what_an_earlier_process_counted_is_counted_again_too(tokenizing, request, monkeypatch) -> None:
    """Nobody sees that it is wrong of record 20; record 70 is among the first of the next process."""
    tokenizing.data(record(n, "<image>", WRONG if n in (20, 70) else "A harbour.") for n in range(100))
    tokenizing.here(output=Path("right"))
    request.getfixturevalue("counts_wrong")
    with monkeypatch.context() as impatient:
        impatient.setattr(split_writer, "_SAVE_SECONDS", 0.0)
        with pytest.raises(StoppedError):
            tokenizing.here(tell=stop_after(68))
    assert Path("out/data_split1.jsonl.partial").stat().st_size > 10_000
    tokenizing.here()
    assert tokenizing.output() == tokenizing.output(out="right")
    assert len(tokenizing.warned) == 1


def stop_after(num_records: int) -> Callable[[Step], None]:
    """Hears of progress until then."""
    num_in = 0

    def tell(step: Step) -> None:
        nonlocal num_in
        num_in += step.num_in
        if num_in >= num_records:
            raise StoppedError

    return tell


def test_the_same_in_processes(tokenizing: Tokenize) -> None:
    """A model whose tokenizer has no fast way: every process says so, and a user hears it once."""
    shutil.copytree(tokenizing.model, "slow")
    tokenizer = json.loads(Path("slow/tokenizer.json").read_bytes())
    tokenizer["normalizer"] = {"type": "NFKC"}
    Path("slow/tokenizer.json").write_text(json.dumps(tokenizer))
    tokenizing.data(record(n) for n in range(10))
    tokenizing.here(num_splits=2, num_workers=2, model="slow")
    assert tokenizing.warned == [
        "text is counted slowly, by the model's tokenizer itself: its normaliser is NFKC",
    ]
    tokenizing.here(num_splits=2, output=Path("fast"))
    assert [tokenizing.output(n) for n in (1, 2)] == [tokenizing.output(n, "fast") for n in (1, 2)]


def test_the_first_records_are_checked_and_some_of_the_rest(tokenizing, exact_counts) -> None:
    tokenizing.data(record(n) for n in range(130))
    tokenizing.here()
    assert len(exact_counts) == 8 + 2


def test_records_that_are_huge_are_not_checked(tokenizing, exact_counts) -> None:
    """The tokenizer itself needs a thousand times their size for them."""
    texts = ["harbour " * (counting._MAX_CHECKED_BYTES // 8), "A harbour."]
    tokenizing.data(record(0, "<image>", value) for value in texts)
    tokenizing.here()
    assert exact_counts == [2]
    assert len(tokenizing.kept()) == 2


def test_a_split_that_was_begun_slowly_goes_on_slowly(tokenizing, request, monkeypatch) -> None:
    """Record 5 proves the fast way wrong; the others that are counted wrong are not among those that are checked."""
    tokenizing.data(record(n, "<image>", WRONG if n == 5 or n > 100 else "A harbour.") for n in range(120))
    tokenizing.here(output=Path("right"))
    request.getfixturevalue("counts_wrong")
    monkeypatch.setattr(counting, "_CHECKED_EVERY", 10_000)
    with monkeypatch.context() as impatient:
        impatient.setattr(split_writer, "_SAVE_SECONDS", 0.0)
        with pytest.raises(StoppedError):
            tokenizing.here(tell=stop_after(100))
    tokenizing.here()
    assert tokenizing.output() == tokenizing.output(out="right")


@pytest.mark.parametrize("space", [" ", "\t", "\u3000"])
def test_a_million_spaces_are_counted(tokenizing, space) -> None:
    """At so many tiktoken's regexes give up."""
    tokenizing.data([record(0), record(1, "<image>", f"a{space * 1_000_100}b"), record(2)])
    report = tokenizing.here()
    assert (report.num_kept, report.num_rejected) == (3, 0)


def test_values_nested_beyond_reason_are_rejected(tokenizing) -> None:
    nested = b"[" * 1015 + b"]" * 1015
    line = b'{"image": %b, "conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "A"}]}\n' % nested
    tokenizing.data([line, record(1)])
    report = tokenizing.here()
    assert (report.num_kept, report.rejected) == (1, {"not_a_record": 1})


def test_another_token_of_the_template_is_another_setting(tokenizing) -> None:
    shutil.copytree(tokenizing.model, "named")
    template = Path("named/chat_template.jinja")
    template.write_text("{{- pad_token -}}\n" + template.read_text())
    config = json.loads(Path("named/tokenizer_config.json").read_bytes())
    tokenizing.data(record(n) for n in range(4))
    for token in ("<|endoftext|>", "<|vision_pad|>"):
        Path("named/tokenizer_config.json").write_text(json.dumps(config | {"pad_token": token}))
        if token == "<|endoftext|>":
            tokenizing.here(model="named")
            continue
        with pytest.raises(UsageError, match="the chat template changed"):
            tokenizing.here(model="named")


def test_a_disk_that_is_full_at_the_last_moment_is_named(tokenizing, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/data_split1.jsonl.partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tokenizing.data(record(n) for n in range(4))
    with monkeypatch.context() as filling:
        filling.setattr(split_writer.os, "fsync", full)
        with pytest.raises(JournalWriteError, match=r"data_split1\.jsonl: No space left"):
            tokenizing.here()
    assert tokenizing.here().num_kept == 4
