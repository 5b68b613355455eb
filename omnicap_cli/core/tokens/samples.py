"""A record of fine-tuning data, checked: its turns, its pictures and clips, and where in the turns they stand.

Only what can be trained on becomes a Sample. It opens no file and knows no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

from omnicap_cli.core.files.words import shortened

_ROLES: Final = ("human", "gpt")
# One line break beside a mark belongs to it: LLaVA's data has one after each, and a prompt for captions has none.
_MARK: Final = re.compile(r"\n?<(image|video)>\n?")


class MediaKind(Enum):
    """What stands in a question beside text."""

    IMAGE = "image"
    VIDEO = "video"


class SampleError(Exception):
    """A record that can't be trained on: `reason` is for counting, the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class Turn(NamedTuple):
    """A question, as texts and places of pictures and clips, and its answer."""

    question: tuple[str | MediaKind, ...]
    answer: str


class Sample(NamedTuple):
    """A record. `images` and `videos` are in the order of their places in `turns`; `texts` are its values unchanged."""

    images: Sequence[str]
    videos: Sequence[str]
    turns: Sequence[Turn]
    texts: Sequence[str]
    task_type: str | None

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Sample:
        """Of `{"image": path or list, "video": likewise, "conversations": [{"from", "value"}, …], "task_type"}`.

        The marks <image> and <video> in questions say where the media stand; without any mark they stand before the
        first question. Raises SampleError.
        """
        texts = _texts_of_turns(record.get("conversations"))
        images, videos = _media_paths(record, "image"), _media_paths(record, "video")
        questions = [_split_at_marks(text) for text in texts[::2]]
        _place_media(questions, images, videos)
        turns = [Turn(tuple(question), answer) for question, answer in zip(questions, texts[1::2], strict=True)]
        task_type = record.get("task_type")
        if task_type is not None and not isinstance(task_type, str):
            raise SampleError("not_a_record", f"task_type is {_shorten_value(task_type)}, not a name")
        return cls(images, videos, turns, texts, task_type)


def _texts_of_turns(conversation: Any) -> list[str]:
    """What is said, question and answer in turn."""
    if conversation is None or conversation == []:
        raise SampleError("empty_conversation", "nothing is said: conversations is missing or empty")
    if not isinstance(conversation, list):
        raise SampleError("not_a_record", f"conversations is {_shorten_value(conversation)}, not a list")
    texts = []
    for number, message in enumerate(conversation):
        text = message.get("value") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise SampleError("not_a_record", f"message {number + 1} has no text in value")
        if message.get("from") != _ROLES[number % 2]:
            wanted, found = _ROLES[number % 2], _shorten_value(message.get("from"))
            raise SampleError("roles_out_of_order", f"message {number + 1} is from {found}, not from {wanted}")
        texts.append(text)
    if len(texts) % 2:
        raise SampleError("no_answer", "the last message is a question")
    for number, answer in enumerate(texts[1::2], 1):
        if not answer or answer.isspace():
            raise SampleError("no_answer", f"answer {number} is empty")
    return texts


def _media_paths(record: Mapping[str, Any], kind: str) -> Sequence[str]:
    """The paths under a name, one or several."""
    value = record.get(kind)
    if value is None:
        return ()
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise SampleError("not_a_record", f"{kind} is {_shorten_value(value)}, not a path or a list of paths")
    return paths


def _split_at_marks(text: str) -> list[str | MediaKind]:
    """A question cut at its marks."""
    if "<image>" not in text and "<video>" not in text:
        return [text] if text else []
    pieces = _MARK.split(text)  # text, name of a mark, text, …
    parts = [MediaKind(piece) if number % 2 else piece for number, piece in enumerate(pieces)]
    return [part for part in parts if part]


def _place_media(questions: list[list[str | MediaKind]], images: Sequence[str], videos: Sequence[str]) -> None:
    """Put the media before all else where no mark says more; else see that there is a mark for each."""
    marks = [part for question in questions for part in question if isinstance(part, MediaKind)]
    if not marks:
        questions[0][:0] = [MediaKind.IMAGE] * len(images) + [MediaKind.VIDEO] * len(videos)
        return
    for kind, paths in ((MediaKind.IMAGE, images), (MediaKind.VIDEO, videos)):
        if (num_marks := marks.count(kind)) != len(paths):
            raise SampleError("marks_do_not_match", f"{num_marks} marks <{kind.value}> for {len(paths)} {kind.value}s")


def _shorten_value(value: Any) -> str:
    try:
        return shortened(repr(value), 40)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
