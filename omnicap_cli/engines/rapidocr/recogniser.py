"""What runs in a process of the rapidocr engine: pixels to boxes to text. It knows no other process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import cv2
import numpy as np
from onnxruntime import InferenceSession

from omnicap_cli.core.runs.records import MediaRef, Request, Result
from omnicap_cli.engines.rapidocr.boxes import Point, TextBox
from omnicap_cli.engines.rapidocr.engine import RecogniserConfig
from omnicap_cli.engines.rapidocr.layout import to_text
from omnicap_cli.engines.rapidocr.markdown import to_markdown
from omnicap_cli.errors import EngineError
from omnicap_cli.media.decode import Pixels

_WRITERS: Final[dict[str, Callable[[list[TextBox]], str]]] = {"text": to_text, "markdown": to_markdown}
_MIN_SIDE: Final = 8  # in pixels; nothing in a thinner picture can be read
_SHORTEST_SIDE: Final = 184  # in pixels; the library enlarges this four times, and small text needs no more
_LONGEST_SIDE: Final = 2000  # in pixels; the library shrinks larger pictures to this
_DOUBTFUL: Final = 0.85  # a page read with less confidence may stand on its head
_SURE: Final = 0.9  # a large character drawn as text scores more, an eye or a cup that looks like one mostly less
_READ_HEIGHT: Final = 48  # in pixels, of a line as the recogniser sees it; what is higher lacks no detail
_TALL: Final = 1.5  # height over width at which the library turns a box by 90 degrees before reading it
_MAX_RATIO: Final = 4  # of height to width, for one look at a picture


class Recogniser:
    """RapidOCR, loaded once. The boxes of the last picture are kept for its other styles."""

    def __init__(self, config: RecogniserConfig) -> None:
        from rapidocr import RapidOCR

        logging.getLogger("RapidOCR").disabled = True
        cv2.setNumThreads(config.num_threads)
        self._ocr = RapidOCR(params=library_params(config))
        self._models = config.models
        self._has_worked = False
        self._last: tuple[MediaRef, list[TextBox]] | None = None

    def answer(self, request: Request, pixels: Pixels) -> Result:
        """The text of the picture in the layout of the request's style; no text is an empty caption."""
        started = time.monotonic()
        media = request.item.visuals[0]
        if self._last is None or self._last[0] != media:
            self._last = (media, self.find_boxes(np.asarray(pixels.image)))
        boxes = self._last[1]
        if not request.num_following:
            self._last = None
        return Result(
            key=request.key,
            text=_WRITERS[request.prompt.style](boxes),
            finish_reason="stop",
            width=pixels.width,
            height=pixels.height,
            output_tokens=sum(len(box.text) for box in boxes),  # PP-OCR emits one token per character
            seconds=time.monotonic() - started,
        )

    def find_boxes(self, rgb: np.ndarray) -> list[TextBox]:
        """What is recognised on an RGB picture, shape (height, width, 3), unordered.

        A page that lies on its side or upside down is turned first; the boxes are those of the turned page. (The
        library's own classifier decides line by line, and was seen to turn clean upright lines over.) One large
        doubtful character and nothing else is a photograph's shape rather than text.
        """
        boxes = self._read_upright(rgb)
        return [] if len(boxes) == 1 and _is_shape(boxes[0]) else boxes

    def _read_upright(self, rgb: np.ndarray) -> list[TextBox]:
        """What is recognised on a picture the right way up."""
        picture = np.ascontiguousarray(rgb[:, :, ::-1])
        boxes = self._read_picture(picture)
        for quarter_turns in _turns_to_try(boxes):
            turned = self._read_picture(np.ascontiguousarray(np.rot90(picture, quarter_turns)))
            if _confidence(turned) > _DOUBTFUL and _weight_read(turned) > 0.9 * _weight_read(boxes):
                return turned
        return boxes

    def _read_picture(self, picture: np.ndarray) -> list[TextBox]:
        """A BGR picture in one piece; a long one in strips, for as a whole it would be shrunk too far."""
        height, width = picture.shape[:2]
        if min(height, width) < _MIN_SIDE:
            return []
        if max(height, width) <= max(_LONGEST_SIDE, _MAX_RATIO * min(height, width)):
            return self._recognise(_widen_picture(picture))
        strip = min(max(_MAX_RATIO * min(height, width), _LONGEST_SIDE // 2), _LONGEST_SIDE)
        return self._read_wide(picture, strip) if width > height else self._read_tall(picture, strip)

    def _read_wide(self, picture: np.ndarray, strip: int) -> list[TextBox]:
        """From left to right, cut where the columns of pixels are plainest: between words, as far as there are gaps."""
        contrast = picture.mean(axis=2).std(axis=0)
        boxes, left, width = [], 0, picture.shape[1]
        while left < width:
            right = width
            if width - left > strip:
                first = left + 3 * strip // 4
                right = first + int(np.argmin(contrast[first : left + strip]))
            found = self._recognise(_widen_picture(np.ascontiguousarray(picture[:, left:right])))
            boxes += [_move_box(box, right=left) for box in found]
            left = right
        return boxes

    def _read_tall(self, picture: np.ndarray, strip: int) -> list[TextBox]:
        """From top to bottom, with an overlap of which each strip gives its half."""
        height, boxes = picture.shape[0], []
        overlap = strip // 8  # more than a line is high, so that each line is whole in one strip
        for top in range(0, height - overlap, strip - overlap):
            found = self._recognise(_widen_picture(picture[top : top + strip]))
            first = 0.0 if top == 0 else overlap / 2
            last = strip - overlap / 2 if top + strip < height else math.inf
            boxes += [_move_box(box, down=top) for box in found if first <= _middle_y(box) < last]
        return boxes

    def _recognise(self, picture: np.ndarray) -> list[TextBox]:
        try:
            found: Any = self._ocr(picture)
        except Exception:
            if not self._has_worked:  # the library loads its models when it first needs them
                _check_models(self._models.values())
            raise
        self._has_worked = True
        if found.boxes is None or found.txts is None:
            return []
        return [
            TextBox(text, _to_quad(quad), float(score))
            for quad, text, score in zip(found.boxes, found.txts, found.scores, strict=True)
        ]


def library_params(config: RecogniserConfig) -> dict[str, Any]:
    """RapidOCR's own settings."""
    params: dict[str, Any] = {
        "Global.log_level": "critical",
        "Global.use_cls": False,
        "EngineConfig.onnxruntime.intra_op_num_threads": config.num_threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return params | {f"{part.capitalize()}.model_path": path for part, path in config.models.items()}


def _to_quad(corners: Iterable[Sequence[float]]) -> tuple[Point, Point, Point, Point]:
    top_left, top_right, bottom_right, bottom_left = ((float(x), float(y)) for x, y in corners)
    return top_left, top_right, bottom_right, bottom_left


def _check_models(paths: Iterable[str]) -> None:
    """Raise EngineError for a model file that onnxruntime can't load."""
    for path in paths:
        try:
            InferenceSession(path)
        except Exception as error:
            raise EngineError(f"the model {path} doesn't load: {error}", hint="Copy it again, or reinstall.") from error


def _weight_read(boxes: Iterable[TextBox]) -> float:
    """How much was read: the scores of all characters added up."""
    return sum(box.score * len(box.text) for box in boxes)


def _confidence(boxes: Collection[TextBox]) -> float:
    """The mean score of the characters, from 0 to 1. Text upside down scores under 0.8."""
    return _weight_read(boxes) / max(1, sum(len(box.text) for box in boxes))


def _turns_to_try(boxes: Collection[TextBox]) -> Sequence[int]:
    """By how many quarter turns the page may have to be turned, as far as its boxes tell."""
    sideways = sum(len(box.text) if _is_tall_box(box) else -len(box.text) for box in boxes)
    if sideways > 0:
        return (1, 3)
    return (2,) if boxes and _confidence(boxes) < _DOUBTFUL else ()


def _is_tall_box(box: TextBox) -> bool:
    (left, top), _, (right, bottom), _ = box.quad
    return abs(bottom - top) > _TALL * abs(right - left)


def _is_shape(box: TextBox) -> bool:
    """Whether a box is a single character that could be read well by its size, and wasn't."""
    ys = [y for _, y in box.quad]
    return len(box.text) == 1 and box.score < _SURE and max(ys) - min(ys) > _READ_HEIGHT


def _middle_y(box: TextBox) -> float:
    """The y coordinate of its centre, in pixels."""
    return sum(y for _, y in box.quad) / 4


def _move_box(box: TextBox, *, right: int = 0, down: int = 0) -> TextBox:
    return replace(box, quad=_to_quad((x + right, y + down) for x, y in box.quad))


def _widen_picture(picture: np.ndarray) -> np.ndarray:
    """A small or a tall narrow picture with more room to the right and below, in the colour of its border.

    The library enlarges the shorter side to 736 pixels, and pads what is over eight times as wide as high in black.
    Without this, lines cut out closely are slow to read, and read worse.
    """
    height, width = picture.shape[:2]
    new_width = max(width, _SHORTEST_SIDE, height // 2 if height > _MAX_RATIO * width else 0)
    new_height = max(height, _SHORTEST_SIDE, math.ceil(width / 8))
    if (new_height, new_width) == (height, width):
        return picture
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    colour = np.median(border, axis=0).tolist()
    below, right = new_height - height, new_width - width
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=colour)
