"""How many frames a video file has, how fast they are and how large, from its header if that tells. It knows no model.

OpenCV reads it, which has FFmpeg in it. It gives one number of frames, be it from an index of all of them or guessed
from the duration; so this module looks for itself whether there is such an index, and else counts the frames.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import math
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, Literal, NamedTuple

from omnicap_cli.core.tokens.clip_grid import Clip
from omnicap_cli.errors import AccessError, DecodeError, EmptyFileError, ItemError, TooLargeError, UnsupportedError
from omnicap_cli.media.local_files import open_file, unreadable_error

_MAX_FRAMES: Final = 10_000_000  # that are counted one by one: four days at 30 a second
_MAX_BOXES: Final = 10_000  # that are looked at in one place of an MP4: nobody writes as many but to keep us busy
_HEAD_BYTES: Final = 512
_QUIET: Final = "-8"  # AV_LOG_QUIET
_VP8: Final = int.from_bytes(b"VP80", "little")
_FIRST_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_HAS_VIDEO: Final = (b"\x1a\x45\xdf\xa3", b"RIFF", b"FLV\x01", b"\0\0\x01\xba", b"\x30\x26\xb2\x75")  # Matroska, AVI, …

# "decoder" where frames that are not shown stand among the others, which no packet tells
Way = Literal["index", "packets", "decoder"]


class _Span(NamedTuple):
    """A part of a file, in bytes."""

    start: int
    end: int


def clip_of(path: str) -> Clip:
    """The frames, frame rate and size, as shown, of a local video.

    Where the file has no index of its frames, or one that doesn't fit, it is read through once to count them. Raises an
    ItemError where it is missing, unreadable, empty, damaged, no video, or one without frames.
    """
    with _opened(path) as (video, file):
        return _measured(video, file)


@contextlib.contextmanager
def opened_video(path: str) -> Iterator[Any]:
    """OpenCV's reader of a local video, at its first frame. Raises an ItemError, also for what it raises inside."""
    with _opened(path) as (video, _):
        yield video


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Any, BinaryIO]]:
    """The reader and the file that it reads."""
    _check_kind(path)
    with open_file(path) as file:
        try:
            with _reader(file) as video:
                yield video, file
        except OSError as error:
            raise unreadable_error(error) from error


def _check_kind(path: str) -> None:
    """Only files and folders can be opened safely, to hear what the system says of folders: a pipe waits for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise unreadable_error(error) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise AccessError("not a regular file")


@contextlib.contextmanager
def _reader(file: BinaryIO) -> Iterator[Any]:
    head = file.read(_HEAD_BYTES)
    if not head:
        raise EmptyFileError("the file is empty")
    cv2 = _silent_opencv()
    # by its number: so no name is taken for a URL, a pattern or a playlist, and any bytes may be in it
    options = [cv2.CAP_PROP_N_THREADS, 1]
    video = cv2.VideoCapture(f"/dev/fd/{file.fileno()}", cv2.CAP_FFMPEG, options)
    try:
        if not video.isOpened():
            raise _not_opened(head)
        yield video
    except cv2.error as error:
        raise DecodeError(f"damaged: {error}") from error
    finally:
        video.release()


@functools.lru_cache(maxsize=1)
def _silent_opencv() -> Any:
    """OpenCV, which with FFmpeg would write to the terminal what is wrong with a file."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _QUIET)  # read when the first video is opened; there is no call
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _measured(video: Any, file: BinaryIO) -> Clip:
    cv2 = _silent_opencv()
    width, height = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
    fps, claimed = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    if min(width, height) < 1 or not 0 < fps < math.inf:
        raise DecodeError(f"damaged: its header says {width} x {height} pixels and {fps:g} frames a second")
    way = _way_to_count(file, int(claimed), fps) if claimed >= 1 else "packets"
    num_frames = int(claimed) if way == "index" else _count(video, way)
    if not num_frames:
        raise DecodeError("damaged: there is no frame in it")
    return Clip(num_frames, fps, width, height)


def _count(video: Any, way: Way) -> int:
    """Read the frames to the end. Of VP8, some packets hold what is never shown, so they are always decoded."""
    cv2 = _silent_opencv()
    if way == "packets" and int(video.get(cv2.CAP_PROP_FOURCC)) != _VP8:
        video.set(cv2.CAP_PROP_FORMAT, -1)
    for num_frames in range(_MAX_FRAMES + 1):
        if not video.grab():
            return num_frames
    raise TooLargeError(f"a video without an index, of more than {_MAX_FRAMES:,} frames")


def _not_opened(head: bytes) -> ItemError:
    """Say what a file is that FFmpeg finds no video in, from its first bytes."""
    if not head.strip(b"\0"):
        return DecodeError("nothing but zero bytes: a download or a disk that broke off?")
    if head.startswith(_HAS_VIDEO) or head[4:8] in _FIRST_BOXES:
        return DecodeError("damaged or truncated, or without a picture: no video is found in it")
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # which lets the last character be cut
        if all(character.isprintable() or character.isspace() for character in text):
            return UnsupportedError("not a video: it holds text")
    return UnsupportedError("not a video in a format that is read here, or one damaged in its header")


# ------------------------------------------------------------------------------------------------ indexes


def _way_to_count(file: BinaryIO, num_frames: int, fps: float) -> Way:
    """How to know the number of frames: `num_frames`, if it is that of an index in a file as long as it says."""
    whole = _Span(0, os.fstat(file.fileno()).st_size)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        return "index" if 8 + int.from_bytes(head[4:8], "little") == whole.end else "packets"
    if head[4:8] not in _FIRST_BOXES:
        return "packets"
    try:
        boxes = list(_boxes(file, whole))
        movies = [span for kind, span in boxes if kind == b"moov"]
        if not movies or any(kind == b"moof" for kind, _ in boxes):
            return "packets"
        return _way_to_count_movie(file, movies[0], num_frames, fps)
    except struct.error:
        return "packets"


def _way_to_count_movie(file: BinaryIO, movie: _Span, num_frames: int, fps: float) -> Way:
    """By the first video track: whether its table of sizes has `num_frames`, and its edit list leaves none out.

    Source: ISO/IEC 14496-12, 8.4.3 (hdlr), 8.7.3 (stsz, stz2).
    """
    for kind, track in _boxes(file, movie):
        handler = _inside(file, track, b"mdia", b"hdlr") if kind == b"trak" else None
        if handler is None or _read(file, handler, 8, ">4s") != (b"vide",):
            continue
        tables = _inside(file, track, b"mdia", b"minf", b"stbl")
        sizes = tables and (_inside(file, tables, b"stsz") or _inside(file, tables, b"stz2"))
        if sizes is None or _read(file, sizes, 8, ">I") != (num_frames,):
            return "packets"
        return "decoder" if _is_cut(file, movie, track, fps) else "index"
    return "packets"


def _is_cut(file: BinaryIO, movie: _Span, track: _Span, fps: float) -> bool:
    """Whether what an edit list shows is not as long as what there is, by half a frame or more.

    Source: ISO/IEC 14496-12, 8.2.2 (mvhd), 8.4.2 (mdhd), 8.6.6 (elst).
    """
    edits = _inside(file, track, b"edts", b"elst")
    if edits is None:
        return False
    per_second, _ = _time_scale(file, _inside(file, movie, b"mvhd"))
    media_per_second, media_duration = _time_scale(file, _inside(file, track, b"mdia", b"mdhd"))
    version, num_edits = _read(file, edits, 0, ">B3xI")
    form = ">QqI" if version else ">IiI"
    entry_bytes = struct.calcsize(form)
    entries = [_read(file, edits, 8 + entry_bytes * number, form) for number in range(min(num_edits, _MAX_BOXES))]
    shown: int = sum(duration for duration, media_time, _ in entries if media_time >= 0)  # below 0: a pause
    return abs(shown / per_second - media_duration / media_per_second) * fps >= 0.5


def _time_scale(file: BinaryIO, header: _Span | None) -> tuple[int, int]:
    """Units for a second, and how many units it takes, of a movie or of a track's media."""
    if header is None:
        raise struct.error("no header")
    version, *_ = _read(file, header, 0, ">B")
    scale, duration = _read(file, header, 20, ">IQ") if version else _read(file, header, 12, ">II")
    if not scale:
        raise struct.error("no time scale")
    return scale, duration


def _inside(file: BinaryIO, span: _Span, *kinds: bytes) -> _Span | None:
    """The content of the first box of the first kind, in it that of the second, and so on."""
    for wanted in kinds:
        found = next((inside for kind, inside in _boxes(file, span) if kind == wanted), None)
        if found is None:
            return None
        span = found
    return span


def _boxes(file: BinaryIO, span: _Span) -> Iterator[tuple[bytes, _Span]]:
    """The boxes in a part of an MP4 or QuickTime file, each with its content. Raises struct.error if they don't fit."""
    start = span.start
    for _ in range(_MAX_BOXES):
        if start + 8 > span.end:
            return
        size, kind = _read(file, _Span(start, span.end), 0, ">I4s")
        header_bytes = 8
        if size == 1:
            (size,), header_bytes = _read(file, _Span(start, span.end), 8, ">Q"), 16
        end = start + size if size else span.end
        if end > span.end:
            raise struct.error("a box larger than what it is in")
        yield kind, _Span(start + header_bytes, end)
        start = end
    raise struct.error("too many boxes")


def _read(file: BinaryIO, span: _Span, offset: int, form: str) -> tuple[Any, ...]:
    file.seek(span.start + offset)
    return struct.unpack(form, file.read(struct.calcsize(form)))
