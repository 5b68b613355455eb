"""Which records can be trained on, and where their pictures stand."""

from __future__ import annotations

from typing import Any

import pytest

from omnicap_cli.core.tokens.samples import MediaKind, Sample, SampleError, Turn

IMAGE, VIDEO = MediaKind.IMAGE, MediaKind.VIDEO


def record(*values: Any, **others: Any) -> dict[str, Any]:
    roles = ("human", "gpt")
    return {"conversations": [{"from": roles[n % 2], "value": value} for n, value in enumerate(values)], **others}


@pytest.mark.parametrize(
    ("given", "turns"),
    [
        (record("Q", "A"), [Turn(("Q",), "A")]),
        (record("Q", "A", image="x.png"), [Turn((IMAGE, "Q"), "A")]),
        (record("Q", "A", image=["x.png", "y.png"]), [Turn((IMAGE, IMAGE, "Q"), "A")]),
        (record("Q", "A", video="x.mp4"), [Turn((VIDEO, "Q"), "A")]),
        (record("Q", "A", "R", "B", image="x.png"), [Turn((IMAGE, "Q"), "A"), Turn(("R",), "B")]),
        (record("<image>\nQ", "A", image="x.png"), [Turn((IMAGE, "Q"), "A")]),
        (record("<image>\n\nQ", "A", image="x.png"), [Turn((IMAGE, "\nQ"), "A")]),
        (record("Q\n<image>", "A", image="x.png"), [Turn(("Q", IMAGE), "A")]),
        (record("<image>", "A", image="x.png"), [Turn((IMAGE,), "A")]),
        (record("", "A", image="x.png"), [Turn((IMAGE,), "A")]),
        (record("", "A"), [Turn((), "A")]),
        (
            record("Compare <image> with <image>.", "A", image=["x.png", "y.png"]),
            [Turn(("Compare ", IMAGE, " with ", IMAGE, "."), "A")],
        ),
        (
            record("Q", "A", "And <image>", "B", image="x.png"),
            [Turn(("Q",), "A"), Turn(("And ", IMAGE), "B")],
        ),
        (
            record("<video>\n<image>\nQ", "A", image="x.png", video=["x.mp4"]),
            [Turn((VIDEO, IMAGE, "Q"), "A")],
        ),
        (record("Q", "an <image> tag of HTML", image="x.png"), [Turn((IMAGE, "Q"), "an <image> tag of HTML")]),
        (record("Q", " A\n"), [Turn(("Q",), " A\n")]),
    ],
)
def test_marks_say_where_media_stand_and_without_marks_they_come_first(given, turns) -> None:
    sample = Sample.of_record(given)
    assert list(sample.turns) == turns
    assert list(sample.texts) == [message["value"] for message in given["conversations"]]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "empty_conversation"),
        ({"conversations": []}, "empty_conversation"),
        ({"conversations": None}, "empty_conversation"),
        ({"conversations": "Q"}, "not_a_record"),
        ({"conversations": ["Q", "A"]}, "not_a_record"),
        ({"conversations": [{"from": "human"}]}, "not_a_record"),
        (record("Q", 7), "not_a_record"),
        (record("Q"), "no_answer"),
        (record("Q", ""), "no_answer"),
        (record("Q", " \n"), "no_answer"),
        (record("Q", "A", "R"), "no_answer"),
        (record("Q", "", "R", "B"), "no_answer"),
        ({"conversations": [{"from": "gpt", "value": "A"}, {"from": "human", "value": "Q"}]}, "roles_out_of_order"),
        ({"conversations": [{"from": "human", "value": "Q"}] * 2}, "roles_out_of_order"),
        ({"conversations": [{"from": "system", "value": "S"}]}, "roles_out_of_order"),
        (record("<image>Q", "A"), "marks_do_not_match"),
        (record("<image><image>Q", "A", image="x.png"), "marks_do_not_match"),
        (record("<image>Q", "A", image=["x.png", "y.png"]), "marks_do_not_match"),
        (record("<video>Q", "A", image="x.png"), "marks_do_not_match"),
        (record("<image>Q", "A", image="x.png", video="x.mp4"), "marks_do_not_match"),
        (record("Q", "A", image=7), "not_a_record"),
        (record("Q", "A", image=""), "not_a_record"),
        (record("Q", "A", image=["x.png", None]), "not_a_record"),
        (record("Q", "A", image={"path": "x.png"}), "not_a_record"),
        (record("Q", "A", task_type=["OCR"]), "not_a_record"),
    ],
)
def test_what_cannot_be_trained_on_has_a_reason(given, reason) -> None:
    with pytest.raises(SampleError) as caught:
        Sample.of_record(given)
    assert caught.value.reason == reason


def test_paths_and_task_type_are_taken_as_they_are() -> None:
    sample = Sample.of_record(record("Q", "A", image="a b.png", video=["x.mp4"], task_type="OCR"))
    assert (list(sample.images), list(sample.videos), sample.task_type) == (["a b.png"], ["x.mp4"], "OCR")
