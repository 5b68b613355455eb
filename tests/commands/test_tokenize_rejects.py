"""Why `omnicap tokenize` rejects a record, and how it says so."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from support.http_server import Answer, serving
from support.tokenize_runs import TOKENS_OF_PICTURES, line_of, record
from support.tokenize_runs import tokenizing as tokenizing  # a fixture


def rejects_of_every_kind() -> list[tuple[Any, str]]:
    """Lines, and why each is rejected. Writes the files that they name."""
    Path("in/folder").mkdir()
    os.mkfifo("in/pipe")
    Path("in/text.png").write_text("no picture")
    Path("in/empty.png").touch()
    Path("in/text.mp4").write_text("no video")
    Image.new("RGB", (4001, 20)).save("in/long.png")
    writer = cv2.VideoWriter("in/frame.mp4", cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25, (64, 48))
    writer.write(np.zeros((48, 64, 3), dtype=np.uint8))
    writer.release()
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save("in/whole.jpg")
    Path("in/cut.jpg").write_bytes(Path("in/whole.jpg").read_bytes()[:-5000])
    said = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    return [
        (b"nonsense\n", "not_json"),
        (b'{"id": "cut off", "image": "in/0.p\n', "not_json"),
        (b"[1, 2]\n", "not_a_record"),
        (b'"text"\n', "not_a_record"),
        (record(0, conversations="text"), "not_a_record"),
        (record(0, image={"path": "in/0.png"}), "not_a_record"),
        (record(0, image=["in/0.png", 7]), "not_a_record"),
        (record(0, image=""), "not_a_record"),
        (record(0, text="x" * (5 << 20)), "line_too_long"),
        (b"{}\n", "empty_conversation"),
        (record(0, conversations=[]), "empty_conversation"),
        (record(0, conversations=said[:1]), "no_answer"),
        (record(0, "Q", " \n"), "no_answer"),
        (record(0, conversations=said[::-1]), "roles_out_of_order"),
        (record(0, "<image> <image>", "A."), "marks_do_not_match"),
        (record(0, "<video>", "A."), "marks_do_not_match"),
        (record(0, "<image>", "A.", image=None), "marks_do_not_match"),
        (record(0, task_type=None), "no_task_type"),
        (record(0, task_type="ocr"), "unknown_task_type"),
        (record(0, image="in/gone.png"), "missing_image"),
        (record(0, image="in/a\0b.png"), "broken_image"),
        (record(0, image="in/folder"), "unreadable_image"),
        (record(0, image="in/pipe"), "unreadable_image"),
        (record(0, image="in/pipe#1"), "unreadable_image"),
        (record(0, image="in/text.png"), "broken_image"),
        (record(0, image="in/empty.png"), "broken_image"),
        (record(0, image="in/cut.jpg"), "undecodable_image"),
        (record(0, image="in/long.png"), "aspect_ratio"),
        (record(0, "<video>", "A.", image=None, video="in/gone.mp4"), "missing_video"),
        (record(0, "Q", "A.", image=None, video="in/text.mp4"), "broken_video"),
        (record(0, "Q", "A.", image=None, video="in/pipe"), "unreadable_video"),
        (record(0, "Q", "A.", image=None, video="in/folder"), "unreadable_video"),
        (record(0, "Q", "A.", image=None, video="in/frame.mp4"), "too_short"),
        (record(0, "<image>", "harbour " * 3000), "too_long"),
    ]


def test_every_reason_to_reject_a_record(tokenizing) -> None:
    rejects = rejects_of_every_kind()
    tokenizing.data([record(0), *(line for line, _ in rejects), record(1)])
    done = tokenizing.run("--max-length", "3000", "--verify-images")
    assert done.returncode == 3
    assert [each["id"] for each in tokenizing.kept()] == ["r0", "r1"]
    written = tokenizing.rejected()
    assert [each["reason"] for each in written] == [reason for _, reason in rejects]
    assert [each["line"] for each in written] == list(range(2, 2 + len(rejects)))
    for (line, reason), each in zip(rejects, written, strict=True):
        assert each.pop("message")
        if isinstance(line, dict) and reason != "line_too_long":
            assert {name: value for name, value in each.items() if name not in ("reason", "line")} == line
        elif reason == "not_json":
            assert each["text"] == line.decode().strip()
    report = json.loads(done.stdout)
    assert (report["num_in"], report["num_kept"], report["num_rejected"]) == (len(rejects) + 2, 2, len(rejects))
    assert report["rejected"] == {reason: [each for _, each in rejects].count(reason) for _, reason in rejects}
    assert sum(report["rejected"].values()) == report["num_in"] - report["num_kept"]


def test_a_rejected_line_stays_as_it_is(tokenizing) -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"in": deep}
    own = record(1, image="gone.png", reason="mine", message="mine", line="mine", extra=1)
    tokenizing.data(
        [
            record(0, image="gone.png", big=2**70, deep=deep),
            own,
            own | {"deep": deep},
            record(2, deep=deep, token_length=7),
            record(3, deep=deep),
        ]
    )
    report = tokenizing.here()
    lines = Path("out/rejects/data_split1.jsonl").read_bytes().splitlines()
    assert lines[0].startswith(line_of(record(0, image="gone.png", big=2**70, deep=deep))[:-2])
    assert [json.loads(line)["line"] for line in lines] == [1, 2, 3, 4]
    assert [lines[1].count(b'"%b"' % name) for name in (b"reason", b"message", b"line")] == [1, 1, 1]
    assert json.loads(lines[1]) == own | {name: json.loads(lines[1])[name] for name in ("reason", "message", "line")}
    assert report.rejected == {"missing_image": 3, "not_a_record": 1}
    assert [each["id"] for each in tokenizing.kept()] == ["r3"]


def test_pictures_are_decoded_only_if_asked(tokenizing) -> None:
    rejects_of_every_kind()
    tokenizing.data([record(0, image="in/cut.jpg"), record(1, image="in/whole.jpg")])
    assert tokenizing.here(output=Path("trusting")).num_kept == 2
    assert tokenizing.here(verify_images=True).rejected == {"undecodable_image": 1}
    assert [each["id"] for each in tokenizing.kept()] == ["r1"]


def test_urls_and_archives(tokenizing) -> None:
    subprocess.run(["tar", "cf", "x.tar", "in/3.png"], check=True)
    with serving() as server:
        good = server.serve("/a.png", Answer(body=Path("in/1.png").read_bytes()))
        text_page = server.serve("/page.png", Answer(body=b"<html>"))
        tokenizing.data(
            [
                record(0, image=good),
                record(1, image=server.url("/gone.png")),
                record(2, image=text_page),
                record(3, image="x.tar#member=in/3.png"),
                record(4, image="x.tar#member=in/9.png"),
            ]
        )
        report = tokenizing.here()
    assert [each["image_token_num"] for each in tokenizing.kept()] == [TOKENS_OF_PICTURES[1], TOKENS_OF_PICTURES[3]]
    assert report.rejected == {"missing_image": 2, "broken_image": 1}
    assert not any("--" in each["message"] for each in tokenizing.rejected())


def test_a_server_that_is_gone(tokenizing) -> None:
    with serving() as server:
        url = server.url("/a.png")
    tokenizing.data([record(0, image=url), record(1)])
    assert tokenizing.here().rejected == {"unreachable_image": 1}
    (rejected,) = tokenizing.rejected()
    assert url in rejected["message"]
    assert "--retry-failed" not in rejected["message"]
