"""What runs in a process of the rapidocr engine: pixels to boxes to text. It knows no other process."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import cv2
import numpy as np

from omnicap_cli.core.records import MediaRef, Request, Result
from omnicap_cli.engines.boxes import Point, TextBox
from omnicap_cli.engines.layout import to_text
from omnicap_cli.engines.markdown import to_markdown
from omnicap_cli.engines.rapidocr import RecogniserConfig
from omnicap_cli.media.decode import Pixels

_WRITERS: Final[dict[str, Callable[[list[TextBox]], str]]] = {"text": to_text, "markdown": to_markdown}
_MIN_SIDE: Final = 32  # in pixels; a thinner picture can't be scaled for the detector
_DOUBTFUL: Final = 0.85  # a page read with less confidence may stand on its head
_TALL: Final = 1.5  # height over width at which the library turns a box by 90 degrees before reading it
_MAX_RATIO: Final = 40  # of the sides, for the same reason: 2000 pixels, the longest side it sees, over 50


class Recogniser:
    """RapidOCR, loaded once. The boxes of the last picture are kept for its other styles."""

    def __init__(self, config: RecogniserConfig) -> None:
        from rapidocr import RapidOCR

        logging.getLogger("RapidOCR").disabled = True
        cv2.setNumThreads(config.num_threads)
        self._ocr = RapidOCR(params=library_params(config))
        self._last: tuple[MediaRef, list[TextBox]] | None = None

    def answer(self, request: Request, pixels: Pixels) -> Result:
        """The text of the picture in the layout of the request's style; no text is an empty caption."""
        started = time.monotonic()
        media = request.item.media
        if self._last is None or self._last[0] != media:
            self._last = (media, self.boxes(np.asarray(pixels.image)))
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

    def boxes(self, rgb: np.ndarray) -> list[TextBox]:
        """What is recognised on an RGB picture, shape (height, width, 3), unordered.

        A page that lies on its side or upside down is turned first; the boxes are those of the turned page. (The
        library's own classifier decides line by line, and was seen to turn clean upright lines over.)
        """
        picture = _padded(np.ascontiguousarray(rgb[:, :, ::-1]))
        boxes = self._recognise(picture)
        sideways = _lies_sideways(boxes)
        for quarter_turns in (1, 3) if sideways else (2,) if boxes and _confidence(boxes) < _DOUBTFUL else ():
            turned = self._recognise(np.ascontiguousarray(np.rot90(picture, quarter_turns)))
            if turned and _confidence(turned) > max(_DOUBTFUL, 0.0 if sideways else _confidence(boxes)):
                return turned
        return boxes

    def _recognise(self, picture: np.ndarray) -> list[TextBox]:
        found: Any = self._ocr(picture)
        if found.boxes is None or found.txts is None:
            return []
        return [
            TextBox(text, _quad(quad), float(score))
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


def _quad(corners: Iterable[Iterable[float]]) -> tuple[Point, Point, Point, Point]:
    top_left, top_right, bottom_right, bottom_left = ((float(x), float(y)) for x, y in corners)
    return top_left, top_right, bottom_right, bottom_left


def _confidence(boxes: Iterable[TextBox]) -> float:
    """The mean score of the characters, from 0 to 1. Text upside down scores under 0.8."""
    scores = [(box.score, len(box.text)) for box in boxes]
    return sum(score * count for score, count in scores) / sum(count for _, count in scores)


def _lies_sideways(boxes: Iterable[TextBox]) -> bool:
    """Whether most characters stand in boxes that are clearly higher than wide."""
    counts = {True: 0, False: 0}
    for box in boxes:
        (left, top), _, (right, bottom), _ = box.quad
        counts[abs(bottom - top) > _TALL * abs(right - left)] += len(box.text)
    return counts[True] > counts[False]


def _padded(picture: np.ndarray) -> np.ndarray:
    """Add white at the right and below to a picture too small or too thin for the detector."""
    height, width = picture.shape[:2]
    least = max(_MIN_SIDE, max(height, width) // _MAX_RATIO)
    right, below = max(0, least - width), max(0, least - height)
    if not right and not below:
        return picture
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))
