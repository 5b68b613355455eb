"""Mixture files, and which records of a set an epoch takes; the counts are worked out by hand."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnicap_cli.errors import OptionError, UsageError
from omnicap_cli.training.config.mixture import DataSet, choose_records, num_chosen, read_mixture


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mixture.yaml"


# ----------------------------------------------------------------------------------------------- the file

PUBLISHED = """\
META:
  - path: data/detailed.jsonl
    type: 'image'
    ratio: 2
  -
    path: "data/图表.json"
    type: chart
    ratio: 0.5
  - path: /data/ocr.jsonl
"""


def test_a_mixture_as_it_was_published(path):
    path.write_text(PUBLISHED, "utf-8")
    warnings: list[str] = []
    assert read_mixture(path, warnings.append) == (
        DataSet(path=Path("data/detailed.jsonl"), ratio=2.0, type="image"),
        DataSet(path=Path("data/图表.json"), ratio=0.5, type="chart"),
        DataSet(path=Path("/data/ocr.jsonl"), ratio=1.0),
    )
    assert warnings == []


def test_a_mixture_as_json_with_tabs(tmp_path):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"META": [{"path": "a.jsonl", "ratio": 1e-5}]}, indent="\t"))
    assert read_mixture(path) == (DataSet(path=Path("a.jsonl"), ratio=0.00001),)


def test_what_is_not_known_is_passed_over_and_said(path):
    path.write_text("SEED: 7\nMETA:\n- {path: a.jsonl, weight: 3, name: best, ratio: null}\n- {path: b.jsonl}\n")
    warnings: list[str] = []
    assert read_mixture(path, warnings.append) == (DataSet(path=Path("a.jsonl")), DataSet(path=Path("b.jsonl")))
    assert warnings == [f"{path}: passed over SEED", f"{path}: META[0]: passed over weight, name"]


def test_a_file_that_is_listed_again_gives_another_part(path):
    entry = "{path: a.jsonl, ratio: 0.5}"
    path.write_text(f"META: [{entry}, {{path: b.jsonl}}, {entry}, {entry}]\n")
    assert [each.label for each in read_mixture(path)] == ["a.jsonl", "b.jsonl", "a.jsonl (2)", "a.jsonl (3)"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("META: [{path: a.jsonl, ratio: lots}]", r"META\[0\]\.ratio: 'lots' is no number"),
        ("META: [{path: a.jsonl}, {path: b.jsonl, ratio: yes}]", r"META\[1\]\.ratio: True is no number"),
        ("META: [{path: a.jsonl, ratio: 0}]", r"META\[0\]\.ratio: 0\.0 is no ratio; give more than 0"),
        ("META: [{path: a.jsonl, ratio: -1}]", r"META\[0\]\.ratio: -1\.0 is no ratio; give more than 0"),
        ("META: [{path: a.jsonl, ratio: 1000.5}]", r"META\[0\]\.ratio: 1000\.5 is no ratio; give more than 0"),
        ("META: [{path: a.jsonl, ratio: .nan}]", r"META\[0\]\.ratio: nan is no number"),
        ("META: [{path: a.jsonl, type: 7}]", r"META\[0\]\.type: 7 is no text"),
        ("META: [{path: [a.jsonl]}]", r"META\[0\]\.path: \['a\.jsonl'\] is no text"),
        ("META: [{ratio: 1}]", r"META\[0\]\.path is missing"),
        ("META: [a.jsonl]", r"META\[0\]: 'a\.jsonl' is no set"),
        ("META: {path: a.jsonl}", "has no list META"),
        ("META: []", "has no list META"),
        ("meta: [{path: a.jsonl}]", "has no list META"),
        ("[{path: a.jsonl}]", "holds no keys"),
        ("META: [{path: a.jsonl}", "line 1: expected"),
        ("META:\n- path: a.jsonl\n  path: b.jsonl\n", "line 3: path is there twice"),
    ],
)
def test_what_is_no_mixture(path, content, message):
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_mixture(path)
    assert str(path) in caught.value.message


def test_no_mixture(path):
    with pytest.raises(OptionError, match=r"data\.mixture: .*No such file"):
        read_mixture(path)


# -------------------------------------------------------------------------------------------- the records


@pytest.mark.parametrize(
    ("num_records", "ratio", "expected"),
    [
        (100, 1.0, 100),
        (100, 0.5, 50),
        (5, 0.5, 3),  # 2.5: half up
        (3, 0.5, 2),  # 1.5
        (9, 0.05, 1),  # 0.45, but not nothing
        (1_000_000, 1e-12, 1),
        (0, 0.5, 0),
        (0, 3.0, 0),
        (10, 2.5, 25),
        (5, 2.5, 13),  # 12.5
        (10, 1.15, 12),  # 11.5, though 1.15 - 1 as a float is less than 0.15
        (10, 0.99, 10),
        (10, 1.04, 10),
        (21_000_000, 0.3, 6_300_000),
    ],
)
def test_how_many(num_records, ratio, expected):
    assert num_chosen(num_records, ratio) == expected
    if num_records < 1_000_000:
        assert len(choose_records(num_records, ratio, 0, "a")) == expected


def test_all_records_as_often_as_the_ratio_has_wholes():
    assert choose_records(4, 1.0, 0, "a").tolist() == [0, 1, 2, 3]
    assert choose_records(3, 3.0, 5, "b").tolist() == [0, 1, 2] * 3


@given(st.integers(1, 400), st.floats(0.001, 4), st.integers(0, 2**32 - 1), st.text())
def test_each_record_as_often_as_any_other_or_once_more(num_records, ratio, seed, label):
    taken = choose_records(num_records, ratio, seed, label).tolist()
    num_repeats = len(taken) // num_records
    assert abs(len(taken) - max(1, num_records * ratio)) <= 0.5 + 1e-6
    assert taken[: num_repeats * num_records] == list(range(num_records)) * num_repeats
    part = taken[num_repeats * num_records :]
    assert part == sorted(set(part))
    assert set(part) <= set(range(num_records))


def test_every_record_has_the_same_chance():
    times = Counter(index for seed in range(2000) for index in choose_records(10, 0.3, seed, "a").tolist())
    # 600 each on average; the deviation is sqrt(2000 * 0.3 * 0.7) = 20.5, so five of them
    assert all(abs(times[index] - 600) < 103 for index in range(10))


def test_the_part_is_not_the_first_records():
    half = choose_records(1000, 0.5, 0, "a")
    assert half.max() > 980
    assert half.min() < 20
    assert 200 < (half < 500).sum() < 300


def test_another_seed_or_name_gives_another_part():
    parts = {
        choose_records(1000, 0.5, seed, label).tobytes()
        for seed, label in [(0, "a"), (1, "a"), (0, "b"), (1, "b"), (11, "")]
    }
    assert len(parts) == 5
    assert choose_records(1000, 0.5, 0, "a").tobytes() in parts


def test_the_part_of_2_5_is_that_of_0_5():
    assert choose_records(11, 2.5, 3, "a").tolist()[22:] == choose_records(11, 0.5, 3, "a").tolist()


def test_the_same_part_in_every_process():
    code = (
        "from omnicap_cli.training.config.mixture import choose_records\n"
        "print(choose_records(1000, 0.4, 7, '图/a.jsonl').tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": number},
            check=True,
            capture_output=True,
        ).stdout
        for number in ("1", "2")
    }
    assert outputs == {f"{choose_records(1000, 0.4, 7, '图/a.jsonl').tolist()}\n".encode()}


def test_the_part_is_those_with_the_lowest_lots():
    digest = hashlib.sha256(b"7\0data/a.jsonl").digest()
    lots = np.random.PCG64(int.from_bytes(digest, "big")).random_raw(1000).tolist()
    lowest = sorted(range(1000), key=lots.__getitem__)[:333]
    assert choose_records(1000, 0.333, 7, "data/a.jsonl").tolist() == sorted(lowest)


def test_the_same_part_in_every_version():
    """A run that is resumed after an update goes on with the records that it began with: these were the first ones."""
    assert choose_records(40, 0.2, 0, "data/a.jsonl").tolist() == [2, 4, 6, 16, 17, 24, 31, 36]


def test_records_that_draw_the_same_lot(monkeypatch):
    """It happens once in many thousands of the largest sets; the count has to be right then too."""
    lots = np.array([5, 9, 5, 3, 5], np.uint64)
    monkeypatch.setattr(np.random, "PCG64", lambda _: SimpleNamespace(random_raw=lambda _: lots))
    assert len(choose_records(5, 0.4, 0, "a")) == 2
    assert len(choose_records(5, 0.6, 0, "a")) == 3


def test_a_label_that_no_utf8_file_can_hold():
    assert len(choose_records(10, 0.5, 0, "caf\udce9.jsonl")) == 5
