"""`omnicap tokenize` as a user meets it: what it writes, how it cuts data into splits, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.journal_records import make_record, write_journal
from support.tokenize_runs import TOKENS_OF_PICTURES, line_of, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture
from transformers import AutoProcessor
from typer.testing import CliRunner

from omnicap_cli.app import app
from omnicap_cli.errors import EngineError, UsageError

ADDED = ["token_length", "image_token_num", "task_type", "sequence_length"]


def test_a_line_stays_as_it_is_and_four_fields_follow(tokenizing) -> None:
    records = [
        record(0, meta={"source": "flickr", "score": 1e2, "big": 2**70}, text="ü \u2028 🙂"),
        record(1, task_type=None),
        record(2, id=17),
        record(3, "<image>\nRead it.", "Some text.", "And now?", "Nothing.") | {"id": None},
    ]
    tokenizing.data(records)
    report = tokenizing.here(task_type="OCR")
    tokenizer = AutoProcessor.from_pretrained(tokenizing.model).tokenizer
    lines = tokenizing.output().splitlines(keepends=True)
    assert len(lines) == 4
    for given, line, num_image_tokens in zip(records, lines, TOKENS_OF_PICTURES, strict=True):
        assert line.startswith(line_of(given)[:-2] + b",")
        kept = json.loads(line)
        joined = "\n".join(message["value"] for message in given["conversations"])
        assert kept["token_length"] == len(tokenizer(joined)["input_ids"])
        assert kept["image_token_num"] == num_image_tokens
        assert kept["task_type"] == "OCR"
        assert [type(kept[name]) for name in ADDED] == [int, int, str, int]
        assert kept == given | {name: kept[name] for name in ADDED}
        assert [line.count(b'"%b"' % name.encode()) for name in ADDED] == [1] * 4
    kept = tokenizing.kept()
    assert (report.num_in, report.num_kept, report.num_rejected, report.rejected) == (4, 4, 0, {})
    assert report.num_text_tokens == sum(each["token_length"] for each in kept)
    assert report.num_image_tokens == sum(TOKENS_OF_PICTURES)
    assert report.num_sequence_tokens == sum(each["sequence_length"] for each in kept)
    assert report.lengths.pairs() == sorted((each["sequence_length"], 1) for each in kept)


def test_counts_that_are_there_already_are_made_anew(tokenizing) -> None:
    """It is read by others by name: two values under one name would be read as either."""
    wrong = {"token_length": 3, "image_token_num": [1], "sequence_length": -1}
    tokenizing.data([record(0, **wrong), record(0), record(1, task_type="chart")])
    tokenizing.here(task_type="OCR")
    first, second, third = tokenizing.kept()
    assert first == second
    assert third["task_type"] == "OCR"
    for line in tokenizing.output().splitlines():
        assert [line.count(b'"%b"' % name.encode()) for name in ADDED] == [1] * 4


def test_the_output_of_a_run_is_an_input(tokenizing) -> None:
    tokenizing.data([record(n) for n in range(4)])
    tokenizing.here()
    tokenizing.here("out/data_split1.jsonl", output=Path("again"))
    assert tokenizing.kept(out="again") == tokenizing.kept()


def test_the_note_says_what_became_of_the_split(tokenizing) -> None:
    tokenizing.data([record(0), b"\n", b"{}\n", record(1, image="nowhere.png"), record(2), record(3, image="gone.png")])
    tokenizing.here(max_length=5000, max_pixels=100_000)
    note = tokenizing.note()
    assert (note["name"], note["index"], note["num_splits"], note["num_lines"]) == ("data", 0, 1, 6)
    assert (note["num_in"], note["num_kept"], note["num_rejected"]) == (5, 2, 3)
    assert note["rejected"] == {"missing_image": 2, "empty_conversation": 1}
    assert note["output_bytes"] == len(tokenizing.output())
    assert note["settings"]["pictures"]["max_pixels"] == 100_000
    assert note["settings"]["max_length"] == 5000
    kept = tokenizing.kept()
    assert note["num_text_tokens"] == sum(each["token_length"] for each in kept)
    assert note["num_image_tokens"] == TOKENS_OF_PICTURES[0] + TOKENS_OF_PICTURES[2]
    assert note["num_sequence_tokens"] == sum(each["sequence_length"] for each in kept)
    assert note["lengths"] == [[length, 1] for length in sorted(each["sequence_length"] for each in kept)]
    files = {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.suffix != ".lock"}
    assert files - {"rejects", "meta"} == {
        *("data_split1.jsonl", "rejects/data_split1.jsonl", "meta/data_split1.json", "meta/data.index.json"),
    }


# ----------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("num_lines", "num_splits", "wanted"),
    [
        (7, 3, [[0, 1, 2], [3, 4, 5], [6]]),
        (8, 4, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (10, 4, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]),
        (5, 4, [[0, 1], [2, 3], [4], []]),  # of two lines each: so the published script cuts, whatever is left
        (2, 5, [[0], [1], [], [], []]),
        (0, 3, [[], [], []]),
    ],
)
def test_splits_are_cut_at_the_published_lines(tokenizing, num_lines, num_splits, wanted) -> None:
    tokenizing.data([record(n) for n in range(num_lines)])
    tokenizing.here(num_splits=num_splits)
    ids = [[int(each["id"][1:]) for each in tokenizing.kept(n + 1)] for n in range(num_splits)]
    assert ids == wanted
    for index in range(num_splits):
        tokenizing.here(num_splits=num_splits, split_index=index, output=Path("single"))
    assert tokenizing.results() == tokenizing.results("single")


def test_blank_and_broken_lines_count_as_lines_of_a_split(tokenizing) -> None:
    tokenizing.data([record(0), b"\n", b"nonsense\n", record(3), b"  \r\n", record(5)])
    report = tokenizing.here(num_splits=3)
    assert [[each["id"] for each in tokenizing.kept(n)] for n in (1, 2, 3)] == [["r0"], ["r3"], ["r5"]]
    assert [each["line"] for each in tokenizing.rejected(2)] == [3]
    assert (report.num_lines, report.num_in, report.num_rejected) == (6, 4, 1)


def test_several_processes_make_the_same(tokenizing) -> None:
    tokenizing.data([record(n) for n in range(41)])
    one = tokenizing.here(num_splits=5)
    several = tokenizing.here(num_splits=5, num_workers=3, output=Path("several"))
    assert tokenizing.results() == tokenizing.results("several")
    assert several.lengths.pairs() == one.lengths.pairs()
    assert (several.num_splits, several.num_in) == (5, 41)


def test_two_captions_of_one_picture_are_two_samples(tokenizing) -> None:
    same = [record(0), record(0), record(0, "<image>\nDescribe it.", "Another one.")]
    tokenizing.data(same)
    tokenizing.here(num_splits=2)
    joined = [json.loads(line) for line in (tokenizing.output(1) + tokenizing.output(2)).splitlines()]
    assert [each["conversations"] for each in joined] == [each["conversations"] for each in same]


def test_the_published_loop(tokenizing) -> None:
    """process_splits.sh with `omnicap tokenize` for the script, and the `cat` behind it."""
    tokenizing.data([record(n) for n in range(10)] + [record(10, image="gone.png")])
    loop = """
        OUTPUT_DIR="counted"
        DATA_FILE="data.jsonl"
        DATA_NAME="pictures"
        TASKTYPE="OCR"
        SPLIT_NUM=4
        for SPLIT_INDEX in $(seq 0 3); do
            omnicap tokenize \\
              --split_index $SPLIT_INDEX \\
              --split_num $SPLIT_NUM \\
              --output_dir $OUTPUT_DIR \\
              --data_file $DATA_FILE \\
              --data_name $DATA_NAME \\
              --tasktype $TASKTYPE
            echo "exit code $?" >&2
        done
        cat counted/*_split*.jsonl > merged.jsonl
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = tokenizing.environment() | {"PATH": path}
    done = subprocess.run(["bash", "-c", loop], env=env, capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if "exit code" in line] == [
        *("exit code 0", "exit code 0", "exit code 0", "exit code 3")
    ]
    assert done.stderr.count("\n") == 5
    assert "1 rejected → counted/rejects\n" in done.stderr
    merged = [json.loads(line) for line in Path("merged.jsonl").read_bytes().splitlines()]
    assert [each["id"] for each in merged] == [f"r{n}" for n in range(10)]
    assert sorted(path.name for path in Path("counted").glob("*.jsonl")) == [
        f"pictures_split{n}.jsonl" for n in (1, 2, 3, 4)
    ]


# --------------------------------------------------------------------------------- what a user says and hears


def test_a_converted_run_is_tokenized_without_a_change(tokenizing) -> None:
    os.rename(b"in/2.png", b"in/\xff 100%.png")
    names = ["in/0.png", "in/1.png", "in/%FF 100%25.png"]
    write_journal(Path("run.jsonl"), [make_record(name, f"Picture {name}.") for name in names])
    command = [sys.executable, "-m", "omnicap_cli", "convert", "run.jsonl", "-o", "data.jsonl"]
    subprocess.run([*command, "--format", "conversations"], check=True, capture_output=True)
    report = tokenizing.here()
    assert (report.num_kept, report.num_rejected) == (3, 0)
    assert [each["image"] for each in tokenizing.kept()] == names
    assert [each["image_token_num"] for each in tokenizing.kept()] == TOKENS_OF_PICTURES[:3]


def test_the_report(tokenizing) -> None:
    tokenizing.data([record(n) for n in range(4)] + [record(4, image="gone.png")])
    done = tokenizing.run("--splits", "2", "--workers", "2", "-q")
    assert (done.returncode, done.stderr) == (3, "")
    report, lengths = (
        json.loads(done.stdout),
        sorted(each["sequence_length"] for n in (1, 2) for each in tokenizing.kept(n)),
    )
    assert report["num_splits"] == 2
    assert report["num_lines"] == report["num_in"] == 5
    assert report["num_image_tokens"] == sum(TOKENS_OF_PICTURES)
    assert report["num_sequence_tokens"] == sum(lengths)
    assert report["lengths"]["min"] == lengths[0]
    assert report["lengths"]["median"] == lengths[1]
    assert report["lengths"]["max"] == report["lengths"]["p99"] == lengths[3]
    assert sum(bucket["num_sequences"] for bucket in report["histogram"]) == 4
    assert tokenizing.run("--splits", "2", "-q").stdout == done.stdout  # of what is there already


def test_nobody_reads_the_report(tokenizing) -> None:
    tokenizing.data([record(0)])
    reading, writing = os.pipe()
    os.close(reading)
    process = tokenizing.start(stdout=writing)
    os.close(writing)
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    assert len(tokenizing.kept()) == 1


def test_a_dry_run_makes_nothing(tokenizing) -> None:
    tokenizing.data([record(n) for n in range(5)])
    tokenizing.run("--splits", "3", "--split-index", "1")
    done = tokenizing.run("--splits", "3", "--dry-run", "--workers", "2")
    assert json.loads(done.stdout) == {"lines": 5, "splits": 3, "splits_done": 0, "processes": 2}
    assert not list(Path("out").glob("*"))[1:]
    tokenizing.here(num_splits=3, split_index=1)
    before = tokenizing.results()
    done = tokenizing.run("--splits", "3", "--dry-run", "--workers", "2")
    assert json.loads(done.stdout) == {"lines": 5, "splits": 3, "splits_done": 1, "processes": 2}
    Path("out/data_split2.jsonl").write_text("changed\n")
    done = tokenizing.run("--splits", "3", "--dry-run", "--overwrite")
    assert json.loads(done.stdout)["splits_done"] == 0
    assert tokenizing.output(2) == b"changed\n"
    assert tokenizing.note(2) == before["data_split2.json"] | {
        name: tokenizing.note(2)[name] for name in ("started", "ended")
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--splits", "0"], "--splits: 0 is less than 1"),
        (["--split-index", "0", "--split-num", "0"], "--split-num: 0 is less than 1"),
        (["--split-index", "0"], "--split-index and --split-num go together"),
        (["--split-index", "3", "--split-num", "3"], "they are 0 to 2"),
        (["--split-index", "-1", "--split-num", "3"], "they are 0 to 2"),
        (["--splits", "3", "--split-num", "3", "--split-index", "0"], "--splits makes all splits"),
        (["--workers", "0"], "--workers: 0 is less than 1"),
        (["--max-length", "0"], "--max-length: 0 is less than 1"),
        (["--task-type", "ocr"], "did you mean OCR?"),
        (["--image-root", "nowhere"], "--image-root: 'nowhere' is no folder here"),
        (["--name", "a/b"], "--name: 'a/b' can't be part of a file name"),
        (["--prompts", "nowhere.toml"], "--prompts: 'nowhere.toml' can't be read"),
        (["--min-pixels", "9", "--max-pixels", "5"], "--min-pixels: 9 is more than --max-pixels 5"),
        (["--model", "nowhere"], "--model: 'nowhere' is no folder here"),
    ],
)
def test_wrong_usage(tokenizing, words, said) -> None:
    tokenizing.data([record(0)])
    given = ["tokenize", "data.jsonl", "-o", "out", "--model", str(tokenizing.model), *words]
    error = CliRunner().invoke(app, given).exception
    assert isinstance(error, UsageError)
    assert said in f"{error.message} {error.hint}"
    assert not Path("out").exists() or not list(Path("out").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("family", "missing", "said"),
    [
        ("qwen2_vl", "tokenizer.json", "has no tokenizer.json, which says how text becomes tokens"),
        ("qwen2_vl", "chat_template.jinja", "has no chat_template.jinja, which says how a question is put"),
        ("qwen2_vl", "*processor_config.json", "doesn't say how the model cuts pictures"),
        ("llava", "", "writes '<image>' for media, which is not one token between two"),
        ("idefics3", "", "writes '<image>' for media, which is not one token between two"),
    ],
)
def test_a_model_that_lacks_something(tokenizing, tiny_model, family, missing, said) -> None:
    shutil.copytree(tiny_model(family), "model")
    for path in Path("model").glob(missing or "nothing"):
        path.unlink()
    tokenizing.data([record(0)])
    with pytest.raises(EngineError) as caught:
        tokenizing.here(model="model")
    assert said in caught.value.message
    assert caught.value.hint
    assert not Path("out").exists()
