"""Records for fine-tuning: their form as the training code reads it, and which captions are left out."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.journal_records import HOSTILE_CAPTIONS, make_record, write_journal

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.run_note import RunMeta
from omnicap_cli.errors import JournalWriteError
from omnicap_cli.exports.conversations import task_type
from omnicap_cli.exports.export_config import ExportConfig
from omnicap_cli.exports.export_job import ExportOutcome, export_journal
from omnicap_cli.media.record_pictures import PictureFile, RecordPictures

# as the published training data has them
TASK_TYPES = {
    *("detailed", "medium", "short", "tag", "detailed_CN", "medium_CN", "short_CN", "tag_CN"),
    *("detailed_natural", "medium_natural", "short_natural"),
    *("detailed_natural_CN", "medium_natural_CN", "short_natural_CN"),
    *("OCR", "poster", "poster_CN", "UI", "UI_CN", "chart", "table", "math_equation", "math_geometry"),
    *("structured_CN", "chemdata", "video"),
}
PROMPTS = {f"{each.type}/{each.style}/{each.lang}": each for each in Catalogue.load().prompts}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(name: str, id: str = "a.jpg", caption: str | None = "A dog.", **more: Any) -> dict[str, Any]:
    """A record of a prompt of the catalogue."""
    type, style, lang = name.split("/")
    return make_record(
        id, caption, **{"type": type, "style": style, "lang": lang, "prompt_sha": PROMPTS[name].sha} | more
    )


def converse(records: list[dict[str, Any]], name: str = "train.jsonl") -> tuple[list[Any], ExportOutcome]:
    """What an export of these records holds."""
    config = ExportConfig(
        journal=write_journal(Path("run.jsonl"), records), output=name, format="conversations", overwrite=True
    )
    outcome = export_journal(config, show=print)
    content = Path(name).read_bytes()
    found = json.loads(content) if name.endswith(".json") else [json.loads(line) for line in content.split(b"\n")[:-1]]
    assert len(found) == outcome.num_written
    return found, outcome


# ----------------------------------------------------------------------------------------------- the form


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_a_record(name):
    found, outcome = converse(
        [asked("natural/detailed/en", "in/a.jpg", "A dog.\nIt sits."), asked("natural/detailed/en")], name
    )
    question = PROMPTS["natural/detailed/en"].user
    assert found[0] == {
        "id": "in/a.jpg",
        "image": "in/a.jpg",
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": "A dog.\nIt sits."},
        ],
        "task_type": "detailed_natural",
    }
    assert (found[1]["id"], outcome.warnings, outcome.left_out.total()) == ("a.jpg", [], 0)


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_an_empty_journal(name):
    found, outcome = converse([], name)
    assert found == []
    assert len(outcome.warnings) == 1


def test_the_users_own_question(tmp_path):
    record = asked("natural/detailed/en", prompt="What is {this}?", prompt_sha="ffffffffffffffff")
    found, outcome = converse([record])
    assert found[0]["conversations"][0]["value"] == "<image>\nWhat is {this}?"
    assert outcome.warnings == []


def test_a_question_that_was_reworded_since():
    found, outcome = converse([asked("ocr/text/en", prompt_sha="ffffffffffffffff"), asked("ocr/text/en", "b.jpg")])
    assert [each["conversations"][0]["value"] for each in found] == [f"<image>\n{PROMPTS['ocr/text/en'].user}"] * 2
    (warning,) = outcome.warnings
    assert "since 1 of them" in warning


def test_a_prompt_that_nobody_knows():
    unknown = make_record("b.jpg", type="invoice", style="total")
    found, outcome = converse([asked("gui/caption/en"), unknown])
    assert [each["image"] for each in found] == ["a.jpg"]
    assert dict(outcome.left_out) == {"prompt not known": 1}
    found, outcome = converse([asked("gui/caption/en"), unknown | {"prompt": "The total?"}])
    assert [each["image"] for each in found] == ["a.jpg", "b.jpg"]
    assert outcome.left_out.total() == 0


@pytest.mark.parametrize("mark", ["<image>", "<video>", "<audio>"])
def test_no_text_holds_a_media_mark(mark):
    text = f"{mark} and <<image>> and {mark}{mark} <img> <Image> <image "
    found, _ = converse([asked("ocr/text/en", caption=text, prompt=f"Read {mark} it")])
    human, gpt = (turn["value"] for turn in found[0]["conversations"])
    word = mark.strip("<>")
    assert human == f"<image>\nRead < {word} > it"
    assert gpt == f"< {word} > and << image >> and < {word} >< {word} > <img> <Image> <image "


def test_hostile_captions():
    records = [asked("ocr/text/en", str(number), each) for number, each in enumerate(HOSTILE_CAPTIONS)]
    for name in ("train.jsonl", "train.json"):
        found, outcome = converse(records, name)
        assert [each["conversations"][1]["value"] for each in found] == [
            each for each in HOSTILE_CAPTIONS if each.strip()
        ]
        assert outcome.left_out["empty"] == sum(not each.strip() for each in HOSTILE_CAPTIONS)


# ----------------------------------------------------------------------------------------------- left out


def test_what_is_not_trained_on_is_counted():
    name = "natural/short/en"
    found, outcome = converse(
        [
            asked(name, "error.jpg", None),
            asked(name, "empty.jpg", ""),
            asked(name, "blank.jpg", " \n"),
            asked(name, "cut.jpg", finish_reason="length"),
            asked(name, "loop.jpg", finish_reason="repetition"),
            asked(name, "odd.jpg") | {"caption": ["a"]},
            asked(name, "fine.jpg", finish_reason=None),
            asked(name, "f.pdf#page=1", image="f.pdf", page=1),
        ]
    )
    assert [each["id"] for each in found] == ["fine.jpg"]
    expected = {"errors": 2, "empty": 2, "cut by a limit": 1, "cut in a loop": 1, "no picture": 1}
    assert dict(outcome.left_out) == expected


def test_the_caption_of_a_state_that_is_gone():
    found, outcome = converse([asked("ocr/text/en", caption=str(state), state=state) for state in range(3)])
    assert [each["conversations"][1]["value"] for each in found] == ["2"]
    assert dict(outcome.left_out) == {"older than another of the same id": 2}


# -------------------------------------------------------------------------------------------------- ids


def test_ids_with_several_prompts():
    records = [asked(prompt, id) for prompt in ("chart/caption/en", "chart/caption/zh") for id in ("a.jpg", "b.jpg")]
    found, _ = converse([*records, asked("chart/markdown/en", "c.jpg")])
    assert [each["id"] for each in found] == [
        *("a.jpg#chart/caption/en", "a.jpg#chart/caption/zh"),  # brought together
        *("b.jpg#chart/caption/en", "b.jpg#chart/caption/zh"),
        "c.jpg#chart/markdown/en",
    ]


def test_ids_with_several_questions_of_ones_own():
    shas = ["1" * 16, "2" * 16]
    records = [asked("ocr/text/en", prompt=f"Q{sha}", prompt_sha=sha, state=sha) for sha in shas]
    found, _ = converse([*records, asked("ocr/markdown/en")])
    expected = [f"a.jpg#ocr/text/en#{sha}" for sha in shas]
    assert [each["id"] for each in found] == [*expected, f"a.jpg#ocr/markdown/en#{PROMPTS['ocr/markdown/en'].sha}"]


def test_ids_of_which_each_has_a_question_of_its_own():
    records = [
        asked("ocr/text/en", str(number), prompt=f"Q{number}", prompt_sha=f"{number:016}") for number in range(4)
    ]
    found, _ = converse([*records, asked("ocr/markdown/en", "m")])
    assert [each["id"] for each in found] == ["0", "1", "2", "3", "m"]
    assert found[3]["conversations"][0]["value"] == "<image>\nQ3"


# ------------------------------------------------------------------------------------------------- tasks


def test_every_task_type_is_a_published_one_and_each_has_a_prompt():
    found = {task_type(prompt.type, prompt.style, prompt.lang) for prompt in PROMPTS.values()}
    assert found - {None} == TASK_TYPES


def test_task_types_agree_with_the_catalogue():
    """Which says of each task type under which prompt it is trained."""
    for name, prompt in Catalogue.load().task_types.items():
        assert task_type(prompt.type, prompt.style, prompt.lang) == name


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("natural/tag/en", None),
        ("natural/medium/zh", "medium_natural_CN"),
        ("mathgeo/summary/en", "math_geometry"),
        ("equation/caption/en", "math_equation"),
        ("table/caption/zh", "structured_CN"),
        ("chart/caption/en", "chart"),
        ("ocr/markdown/en", "OCR"),
        ("ocr/caption/zh", "poster_CN"),
        ("gui/caption/zh", "UI_CN"),
    ],
)
def test_some_task_types(prompt, name):
    found, _ = converse([asked(prompt)])
    assert found[0].get("task_type", None) == name
    assert ("task_type" in found[0]) == (name is not None)


# ----------------------------------------------------------------------------------------------- pictures

PAGES = [asked("ocr/text/en", f"in/f.pdf#page={page}", image="in/f.pdf", page=page) for page in (1, 2)]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def draw_document(*colours: tuple[int, int, int]) -> None:
    """A PDF with a page of each colour."""
    Path("in").mkdir(exist_ok=True)
    first, *others = (Image.new("RGB", (30, 20), colour) for colour in colours)
    first.save("in/f.pdf", save_all=True, append_images=others)


def colour_of(path: str) -> tuple[int, int, int]:
    """What the middle of a picture shows, a lossy encoding aside."""
    with Image.open(path) as image:
        pixel = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    return tuple(255 if value > 128 else 0 for value in pixel)


def test_pictures_that_are_no_files_are_written():
    draw_document(RED, BLUE)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), BLUE).save(buffer, "JPEG")
    with tarfile.open("x.tar", "w") as archive:
        member = tarfile.TarInfo("../n.jpg")
        member.size = len(buffer.getvalue())
        archive.addfile(member, io.BytesIO(buffer.getvalue()))
    records = [*PAGES, asked("ocr/text/en", "x.tar#member=../n.jpg"), asked("ocr/text/en", "a.jpg")]
    found, outcome = converse(records)
    assert outcome.num_written == 4
    images = {each["id"]: each["image"] for each in found}
    assert images.pop("a.jpg") == "a.jpg"
    starts = ["in/f.page-1.", "in/f.page-2.", "n."]
    suffixes = [".png", ".png", ".jpg"]
    for image, start, suffix in zip(images.values(), starts, suffixes, strict=True):
        assert image.startswith(f"train.jsonl.images/{start}")
        assert image.endswith(suffix)
    assert [colour_of(image) for image in images.values()] == [RED, BLUE, BLUE]
    assert Path(images["x.tar#member=../n.jpg"]).read_bytes() == buffer.getvalue()
    assert sorted(os.listdir()) == ["in", "run.jsonl", "train.jsonl", "train.jsonl.images", "x.tar"]


def test_each_picture_is_made_once(monkeypatch):
    draw_document(RED, BLUE)
    asked_for = []
    file_of = RecordPictures.file_of

    def watched(self: RecordPictures, record: dict[str, Any]) -> PictureFile:
        asked_for.append(record["id"])
        return file_of(self, record)

    monkeypatch.setattr(RecordPictures, "file_of", watched)
    markdown = [asked("ocr/markdown/en", page["id"], image="in/f.pdf", page=page["page"]) for page in PAGES]
    found, _ = converse([*PAGES, *markdown])
    assert asked_for == ["in/f.pdf#page=1", "in/f.pdf#page=2"]
    assert [colour_of(each["image"]) for each in found] == [RED, RED, BLUE, BLUE]
    assert len({each["id"] for each in found}) == 4


def test_a_picture_that_changed_is_written_anew():
    for colour in (RED, BLUE):
        draw_document(colour)
        found, _ = converse(PAGES[:1])
        assert colour_of(found[0]["image"]) == colour


def test_pictures_that_are_gone():
    draw_document(RED)  # and there is no second page
    found, outcome = converse([*PAGES, asked("ocr/text/en", "gone.tar#member=a.jpg")])
    assert [each["id"] for each in found] == ["in/f.pdf#page=1"]
    assert dict(outcome.left_out) == {"no picture": 2}


def test_stdout_has_no_place_for_pictures():
    draw_document(RED, BLUE)
    lines: list[bytes] = []
    journal = write_journal(Path("run.jsonl"), [*PAGES, asked("ocr/text/en", "b.jpg")])
    outcome = export_journal(ExportConfig(journal=journal, format="conversations"), show=lines.append)
    assert [json.loads(line)["image"] for line in b"".join(lines).splitlines()] == ["b.jpg"]
    assert dict(outcome.left_out) == {"no place for its picture": 2}


def test_pictures_are_found_from_where_the_run_was(tmp_path, monkeypatch):
    draw_document(RED)
    RunMeta(folder=str(tmp_path)).write(tmp_path / "run.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_journal(tmp_path / "run.jsonl", PAGES[:1])
    export_journal(ExportConfig(journal=tmp_path / "run.jsonl", output="train.json"), show=print)
    (found,) = json.loads(Path("train.json").read_bytes())
    assert found["image"].startswith(f"{tmp_path}/elsewhere/train.json.images/in/f.page-1.")
    assert colour_of(found["image"]) == RED


def test_no_room_for_a_picture():
    draw_document(RED)
    Path("train.jsonl").write_text("old")
    Path("train.jsonl.images").touch()  # a file where the folder should be
    found, outcome = converse(PAGES[:1])
    assert found == []
    assert dict(outcome.left_out) == {"no picture": 1}


def test_a_disk_that_takes_no_picture(monkeypatch):
    def full(*_names: object) -> None:
        raise OSError(28, "No space left on device")

    draw_document(RED)
    Path("train.jsonl").write_text("old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(JournalWriteError, match="No space left"):
        converse(PAGES[:1])
    assert Path("train.jsonl").read_text() == "old"
