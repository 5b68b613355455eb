"""Data sets of which a split is missing, unfinished or other than noted are refused, unless that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.data_merges import here as here  # a fixture
from support.data_merges import merge, merged_bytes, record_lines, write_file
from support.training_records import write_split

from omnicap_cli.errors import JournalError


def refusal(*inputs: Path) -> str:
    """Why they are not merged; with allow_missing they are, and the same is a warning."""
    with pytest.raises(JournalError) as found:
        merge(*inputs)
    assert not Path("all.jsonl").exists()
    assert "--allow-missing" in (found.value.hint or "")
    first, *problems = found.value.message.splitlines()
    assert first == "these are not whole data sets:"
    warnings: list[str] = []
    report = merge(*inputs, allow_missing=True, warn=warnings.append)
    assert [problem.strip() for problem in problems] == warnings[: len(problems)] == report.problems
    return "\n".join(report.problems)


def test_a_missing_split_is_named():
    for number in (1, 2, 4):
        write_split(Path(), "a", number, 5, record_lines(number))
    assert refusal(Path()) == "missing: splits 3 and 5 of 5 of a in ."
    assert merged_bytes() == record_lines(1, 2, 4)


def test_a_split_that_is_being_made_is_not_finished():
    write_split(Path(), "a", 1, 3, record_lines(1))
    Path("a_split2.jsonl.partial").write_bytes(record_lines(2))
    Path("meta/a_split3.checkpoint.json").write_bytes(b"{}")
    assert refusal(Path()) == "not finished: splits 2 and 3 of 3 of a in ."


def test_a_split_without_its_note_is_not_finished():
    write_split(Path(), "a", 1, 2, record_lines(1))
    write_file("a_split2.jsonl", record_lines(2))
    assert refusal(Path()) == "a_split2.jsonl is not finished: there is no note of it"
    assert merged_bytes() == record_lines(1, 2)


def test_splits_that_are_there_but_not_given():
    paths = [write_split(Path(), "a", number, 3, record_lines(number)) for number in (1, 2, 3)]
    assert refusal(paths[1]) == "there, but not given: splits 1 and 3 of 3 of a in ."
    assert merged_bytes() == record_lines(2)


def test_plain_splits_with_a_gap_in_their_numbers():
    paths = [write_file(f"a_split{number}.jsonl", record_lines(number)) for number in (1, 2, 4)]
    assert refusal(*paths[:1], paths[2]) == (
        "missing: split 3 of 4 of a in .\nthere, but not given: split 2 of 4 of a in ."
    )


def test_a_split_of_another_size_than_noted():
    write_split(Path(), "a", 1, 1, record_lines(1), output_bytes=7)
    assert refusal(Path()) == f"a_split1.jsonl has {len(record_lines(1))} bytes, and its note tells of 7"


def test_splits_that_were_made_with_other_settings():
    write_split(Path(), "a", 1, 3, record_lines(1), settings={"tokenizer": "old", "data": 1})
    write_split(Path(), "a", 2, 3, record_lines(2), settings={"tokenizer": "new", "data": 1})
    write_split(Path(), "a", 3, 3, record_lines(3), settings={"tokenizer": "old", "data": 1})
    assert refusal(Path()) == 'a: tokenizer is not the same for all splits: "old" in 1 and 3 and "new" in 2'


def test_splits_of_runs_with_other_numbers_of_splits():
    write_split(Path(), "a", 1, 2, record_lines(1))
    write_split(Path(), "a", 2, 3, record_lines(2))
    assert refusal(Path()) == (
        "missing: split 3 of 3 of a in .\na: splits is not the same for all splits: 2 in 1 and 3 in 2"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{broken", "can't read meta/a_split1.json: it is no note of a split"),
        (b"[]", "can't read meta/a_split1.json: it is no note of a split"),
        (None, "meta/a_split1.json is no note of a_split1.jsonl"),
    ],
)
def test_a_note_that_is_none(content, said):
    write_split(Path(), "a", 1, 1, record_lines(1), index=7)
    if content is not None:
        Path("meta/a_split1.json").write_bytes(content)
    assert refusal(Path()).startswith(said)


@pytest.mark.parametrize(("num_splits", "more"), [(10**12, {}), ("many", {}), (0, {}), (1, {"settings": 7})])
def test_a_note_with_values_that_make_no_sense(num_splits, more):
    write_split(Path(), "a", 1, num_splits, record_lines(1), **more)
    said = refusal(Path())
    assert "meta/a_split1.json" in said
    assert "no note of" in said


def test_the_same_file_twice():
    path = write_split(Path(), "a", 1, 1, record_lines(1))
    assert refusal(path, Path("./a_split1.jsonl")) == "a_split1.jsonl is given 2 times"
    assert merged_bytes() == record_lines(1)


@pytest.mark.parametrize("left", ["b_split1.jsonl.partial", "meta/b_split1.checkpoint.json", "meta/b_split2.json"])
def test_a_set_of_which_no_split_is_whole_is_not_passed_over(left):
    Path("d/meta").mkdir(parents=True)
    write_split(Path("d"), "a", 1, 1, record_lines(1))
    (Path("d") / left).write_bytes(b"{}")
    with pytest.raises(JournalError, match="not finished: no split of b in d is whole"):
        merge(Path("d"))
    assert merge(Path("d"), allow_missing=True).num_records == 1
