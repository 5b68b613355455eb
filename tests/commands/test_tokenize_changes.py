"""`omnicap tokenize` run again on something else, or on what is no longer as it was left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.tokenize_runs import Tokenize, in_child, leftovers, mixed, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture

from omnicap_cli.core.files import atomic
from omnicap_cli.datasets.tokenizing import split_writer
from omnicap_cli.datasets.tokenizing.split_run import Step
from omnicap_cli.errors import OmnicapError, OptionError, UsageError


def test_nothing_changed(tokenizing) -> None:
    tokenizing.data(mixed(12))
    first = tokenizing.here(num_splits=2)
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.json*")}
    os.utime("data.jsonl", (1, 1))
    again = tokenizing.here(num_splits=2, num_workers=2)
    assert (again.num_in, again.lengths.pairs()) == (first.num_in, first.lengths.pairs())
    index = Path("out/meta/data.index.json")
    assert {path: path.stat().st_mtime_ns for path in before if path != index} == {
        path: time for path, time in before.items() if path != index
    }


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "begun"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task_type": "chart"}, "--task-type changed"),
        ({"max_pixels": 50_000}, "how pictures are cut"),
        ({"min_pixels": 50_000}, "how pictures are cut"),
        ({"image_root": "."}, "--image-root changed"),
        ({"max_length": 100}, "--max-length changed"),
        ({"verify_images": True}, "--verify-images changed"),
        ({"num_splits": 3}, "the number of splits changed"),
        ({"prompts": Path("own.toml")}, "the system texts changed"),
        ({"model": "other"}, "the tokenizer, the chat template changed"),
        ({"data": "other.jsonl"}, "the data changed"),
    ],
)
def test_a_change_is_refused_until_all_is_made_again(tokenizing, options, said, is_whole) -> None:
    _write_others(tokenizing)
    tokenizing.data(mixed(12))
    before = {"num_splits": 2, "split_index": 0} if "num_splits" in options else {"num_splits": 2}
    if is_whole:
        tokenizing.here(**before)
    else:
        assert in_child(lambda: tokenizing.here(**before), moment=12)
    contents = {path: path.read_bytes() for path in Path("out").rglob("data_*")}
    after = {"num_splits": 2} | options
    with pytest.raises(UsageError) as caught:
        tokenizing.here(**after)
    assert said in caught.value.message
    assert "--overwrite" in caught.value.hint
    assert {path: path.read_bytes() for path in Path("out").rglob("data_*") if path in contents} == contents
    tokenizing.here(**after, overwrite=True)
    tokenizing.here(**after, output=Path("whole"))
    assert tokenizing.results() == tokenizing.results("whole")
    assert not leftovers()


def _write_others(tokenizing: Tokenize) -> None:
    """Another model, other texts, other data of the same size."""
    shutil.copytree(tokenizing.model, "other")
    tokenizer = json.loads(Path("other/tokenizer.json").read_bytes())
    tokenizer["model"]["merges"].pop()
    Path("other/tokenizer.json").write_text(json.dumps(tokenizer))
    template = Path("other/chat_template.jinja").read_text()
    Path("other/chat_template.jinja").write_text(template + "{# the same #}")
    Path("own.toml").write_text('[types.ocr.styles.text.en]\nsystem = "Read it."\n[task_types]\nOCR = "ocr/text/en"\n')
    tokenizing.data([*mixed(11), record(11, "<image>\nDescribe it.", "A harbour, number 99.")], "other.jsonl")


def test_a_later_split_with_other_settings_is_seen_before_anything_is_made(tokenizing) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here(num_splits=3, split_index=2)
    with pytest.raises(UsageError, match=r"data_split3.jsonl was made with something else: --max-length changed"):
        tokenizing.here(num_splits=3, max_length=4000)
    assert [path.name for path in Path("out").glob("*.jsonl")] == ["data_split3.jsonl"]


def test_splits_of_a_run_with_more_of_them(tokenizing) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here(num_splits=4)
    with pytest.raises(UsageError, match=r"data_split1\.jsonl was made with .*: the number of splits changed"):
        tokenizing.here(num_splits=2)
    with pytest.raises(UsageError, match=r"data_split3\.jsonl is left from a run with more than 2 splits"):
        tokenizing.here(num_splits=2, split_index=0, overwrite=True)
    tokenizing.data(mixed(3), "more.jsonl")
    tokenizing.here("more.jsonl", name="data_more")  # whose names only begin alike
    tokenizing.here(num_splits=2, overwrite=True)
    names = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*_split*.json*"))
    assert names == [
        *("data_more_split1.jsonl", "data_split1.jsonl", "data_split2.jsonl"),
        *("meta/data_more_split1.json", "meta/data_split1.json", "meta/data_split2.json"),
        *("rejects/data_more_split1.jsonl", "rejects/data_split1.jsonl", "rejects/data_split2.jsonl"),
    ]


def test_a_file_of_somebody_else_is_left_alone(tokenizing) -> None:
    tokenizing.data(mixed(3))
    Path("out").mkdir()
    Path("out/data_split1.jsonl").write_text("precious\n")
    with pytest.raises(UsageError, match="is there already, and no note tells what it was made of"):
        tokenizing.here()
    assert tokenizing.output() == b"precious\n"


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_an_output_that_is_not_as_it_was_left_is_made_again(tokenizing, content) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here()
    before = tokenizing.results()
    Path("out/data_split1.jsonl").unlink()
    if content is not None:
        Path("out/data_split1.jsonl").write_bytes(content)
    assert in_child(tokenizing.here, moment=20)
    assert not Path("out/meta/data_split1.json").exists()  # it told of what is no more
    tokenizing.here()
    assert tokenizing.results() == before
    assert tokenizing.warned == []  # the first of them said so


def test_an_output_that_is_made_again_is_named(tokenizing) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here()
    Path("out/data_split1.jsonl").unlink()
    tokenizing.here()
    assert tokenizing.warned == ["out/data_split1.jsonl is not as it was left: it is made again"]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[]", b'{"settings": 5}', b'{"name": "data"}'])
def test_a_note_that_is_none(tokenizing, content) -> None:
    tokenizing.data(mixed(3))
    tokenizing.here()
    Path("out/meta/data_split1.json").write_bytes(content)
    with pytest.raises(OmnicapError, match=r"can't read out/meta/data_split1\.json") as caught:
        tokenizing.here()
    assert caught.value.hint
    assert tokenizing.here(overwrite=True).num_in == 3


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"[]", b'{"settings": 5}'])
def test_a_checkpoint_that_is_none_begins_anew(tokenizing, content) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here(output=Path("whole"))
    assert in_child(tokenizing.here, moment=20)
    Path("out/meta/data_split1.checkpoint.json").write_bytes(content)
    tokenizing.here()
    assert tokenizing.results() == tokenizing.results("whole")


def test_what_the_checkpoint_does_not_vouch_for_is_cut_off(tokenizing) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here(output=Path("whole"))
    assert in_child(tokenizing.here, moment=20)
    for name in ("out/data_split1.jsonl.partial", "out/rejects/data_split1.jsonl.partial"):
        with open(name, "ab") as file:
            file.write(b"half a line of many more" * 1000)
    tokenizing.here()
    assert tokenizing.results() == tokenizing.results("whole")


def test_files_shorter_than_the_checkpoint_says_begin_anew(tokenizing) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here(output=Path("whole"))
    assert in_child(tokenizing.here, moment=20)
    os.truncate("out/data_split1.jsonl.partial", 10)
    tokenizing.here()
    assert tokenizing.results() == tokenizing.results("whole")


@pytest.mark.parametrize("is_saved", [True, False], ids=["saved", "not-saved"])
@pytest.mark.parametrize("change", ["appended", "written-over", "replaced", "gone"])
def test_data_that_change_while_they_are_read(tokenizing, change, is_saved, monkeypatch) -> None:
    """Where they are what they were afterwards, nothing that was made of anything else is left."""
    padding = "x" * (100_000 if is_saved else 1)  # so that there is more than is read at once, or waits to be written
    tokenizing.data(record(n, padding=padding) for n in range(30))
    original, state = Path("data.jsonl").read_bytes(), Path("data.jsonl").stat()
    if is_saved:
        monkeypatch.setattr(split_writer, "_SAVE_SECONDS", 0.0)
        monkeypatch.setattr(split_writer, "_CHECKPOINT_SECONDS", 0.0)
    told: list[Step] = []

    def tell(step: Step) -> None:
        told.append(step)
        if len(told) == (5 if is_saved else 1):
            changed(Path("data.jsonl"), change)

    with pytest.raises(OmnicapError, match=r"data\.jsonl changed while it was read"):
        tokenizing.here(tell=tell)
    assert not Path("out/data_split1.jsonl").exists()
    Path("data.jsonl").write_bytes(original)
    os.utime("data.jsonl", ns=(state.st_atime_ns, state.st_mtime_ns))
    tokenizing.here()
    tokenizing.here(output=Path("whole"))
    assert tokenizing.results() == tokenizing.results("whole")


def changed(path: Path, change: str) -> None:
    content = path.read_bytes()
    if change in ("replaced", "gone"):
        path.unlink()
    if change != "gone":
        other = content + content if change == "appended" else content.replace(b"harbour", b"HARBOUR")
        with path.open("wb" if change == "replaced" else "r+b") as file:
            file.write(other)


def test_leftovers_of_killed_processes_are_removed(tokenizing) -> None:
    tokenizing.data(mixed(3))
    Path("out/meta").mkdir(parents=True)
    for name in ("data.index.json", "data_split1.json", "data_split1.checkpoint.json"):
        (Path("out/meta") / f".{name}.12345{atomic.PARTIAL_SUFFIX}").write_bytes(b"half")
    Path("out/data_split1.jsonl.partial").write_bytes(b"half a li")
    tokenizing.here()
    assert not leftovers()


def test_a_split_that_does_not_go_with_the_others_is_refused(tokenizing) -> None:
    tokenizing.data(mixed(12))
    tokenizing.here(num_splits=3)
    before = tokenizing.output()
    with pytest.raises(UsageError, match=r"data_split1\.jsonl was made with something else: the number of splits"):
        tokenizing.here(num_splits=4, split_index=3)
    with pytest.raises(UsageError, match=r"data_split2\.jsonl was made with something else: --max-length changed"):
        tokenizing.here(num_splits=3, split_index=0, max_length=4000, overwrite=True)
    assert tokenizing.output() == before


@pytest.mark.parametrize("data", ["out/data_split1.jsonl", "out/rejects/data_split1.jsonl", "link.jsonl"])
def test_data_among_the_files_that_are_written_is_refused(tokenizing, data) -> None:
    tokenizing.data([*mixed(6), b"{broken"])
    tokenizing.here()
    Path("link.jsonl").symlink_to("out/data_split1.jsonl")
    before = Path(data).read_bytes()
    assert before
    with pytest.raises(OptionError, match="is among the files that are written"):
        tokenizing.here(data, overwrite=True)
    assert Path(data).read_bytes() == before
