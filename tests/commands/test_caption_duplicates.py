"""Inputs that are given twice or share an id, and dry runs, which count what is to do.

The real command line runs in processes of its own; only the engine is a fake.
"""

from __future__ import annotations

import json
from collections import Counter

from support.caption_runs import assert_fails, ids_of


def test_what_is_given_twice_is_captioned_once(omnicap, make_pictures):
    ids = make_pictures(3)
    ended = omnicap.run("in", ids[1], f"./{ids[1]}", "in/*.png", "in//0002.png", "-", stdin=f"{ids[0]}\n".encode())
    assert ids_of(ended.stdout) == ids


def test_several_pictures_with_one_id(omnicap, make_pictures):
    """The first has the id; each of the others is an error record of its own, and the rest is captioned."""
    ids = make_pictures(4)
    rows = [{"image": ids[number], "id": "same"} for number in (0, 1, 2, 1, 0)]
    rows.append({"image": ids[3], "id": "other"})
    stdin = "".join(json.dumps(row) + "\n" for row in rows).encode()
    ended = omnicap.run("-", "-o", "out.jsonl", stdin=stdin, batch_size=4)
    assert_fails(ended, "same", code=3)
    found = Counter((record["id"], record["image"], record["status"]) for record in omnicap.records())
    assert found[("same", ids[0], "ok")] == 1
    assert found[("other", ids[3], "ok")] == 1
    assert found[("same", ids[1], "error")] == 1
    assert found[("same", ids[2], "error")] == 1
    assert len({record["key"] for record in omnicap.records()}) == 4
    again = omnicap.run("-", "-o", "out.jsonl", stdin=stdin, batch_size=4)
    assert_fails(again, "nothing to do", code=3)


def test_dry_run(omnicap, make_pictures):
    ids = make_pictures(5)
    (omnicap.folder / "in" / "bad.png").write_bytes(b"no picture")
    words = ("in", "--style", "short,tag", "-o", "out.jsonl")
    before = sorted(omnicap.folder.rglob("*"))
    plan = json.loads(omnicap.run(*words, "--dry-run").stdout)
    assert sorted(omnicap.folder.rglob("*")) == before
    counts = ("items", "unreadable", "requests", "done", "failed_before", "to_do")
    assert [plan[name] for name in counts] == [6, 1, 12, 0, 0, 12]
    assert (plan["engine"], plan["prompts"]) == ("fake", ["natural/short/en", "natural/tag/en"])

    assert omnicap.run("in", "--style", "short", "-o", "out.jsonl", "--limit", "3", fail=[ids[2]]).returncode == 3
    content, num_begun = (omnicap.folder / "out.jsonl").read_bytes(), len(omnicap.begun)
    before = sorted(omnicap.folder.rglob("*"))
    plan = json.loads(omnicap.run(*words, "--dry-run").stdout)
    assert [plan[name] for name in counts] == [6, 1, 12, 2, 1, 9]
    plan = json.loads(omnicap.run(*words, "--dry-run", "--retry-failed").stdout)
    assert [plan[name] for name in counts] == [6, 1, 12, 2, 1, 10]
    assert sorted(omnicap.folder.rglob("*")) == before
    assert (omnicap.folder / "out.jsonl").read_bytes() == content
    assert len(omnicap.begun) == num_begun


def test_dry_run_of_an_overwrite_counts_everything_as_to_do(omnicap, make_pictures):
    ids = make_pictures(4)
    assert omnicap.run("in", "-o", "out.jsonl", fail=[ids[1]]).returncode == 3
    content = (omnicap.folder / "out.jsonl").read_bytes()
    plan = json.loads(omnicap.run("in", "-o", "out.jsonl", "--overwrite", "--dry-run").stdout)
    assert [plan[name] for name in ("requests", "done", "failed_before", "to_do")] == [4, 0, 0, 4]
    assert (omnicap.folder / "out.jsonl").read_bytes() == content


def test_a_row_that_json_cannot_write_back(omnicap, make_pictures):
    """JSON is read to a greater depth than it is written; one such row is no reason to end a run."""
    ids = make_pictures(2)
    row = f'{{"image": "{ids[0]}", "deep": {"[" * 300}{"]" * 300}}}'
    ended = omnicap.run("-", "-o", "out.jsonl", stdin=f"{row}\n{ids[1]}\n".encode())
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 3)
    assert [record["id"] for record in omnicap.records() if record["status"] == "ok"][-1] == ids[1]
