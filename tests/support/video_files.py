"""Videos written by OpenCV, the boxes of an MP4 to rearrange, and the frames that are really there."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

FORMATS = {  # what has an index of its frames, and what has none
    "v.mp4": ("mp4v", True),
    "v.mov": ("mp4v", True),
    "vp9.mp4": ("vp09", True),
    "v.avi": ("MJPG", True),
    "mpeg4.avi": ("mp4v", True),
    "v.mkv": ("mp4v", False),
    "vp8.webm": ("VP80", False),
    "vp9.webm": ("VP90", False),
    "v.mpg": ("MPG2", False),
    "v.ts": ("mp4v", False),
    "v.flv": ("FLV1", False),
    "v.wmv": ("WMV2", False),
}
NUM_FRAMES, FPS, SIZE = 37, 25.0, (64, 48)
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder with a video of each of FORMATS, of noise that doesn't compress away."""
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for name, (codec, _) in FORMATS.items():
        path, tag = str(folder / name), cv2.VideoWriter_fourcc(*codec)
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, tag, FPS, SIZE)
        assert writer.isOpened(), name
        for frame in frames:
            writer.write(frame)
        writer.release()
    return folder


def save_video(folder, content, name="video"):
    path = folder / name
    path.write_bytes(content)
    return str(path)


def y4m(num_frames, *, rate="25:1"):
    """A YUV4MPEG2 file of 6 by 4 pixels: a line of text, then 24 + 6 + 6 bytes for each frame."""
    return f"YUV4MPEG2 W6 H4 F{rate} Ip A1:1 C420\n".encode() + b"FRAME\n".join(
        [b"", *[bytes(range(200, 236))] * num_frames]
    )


def parse_boxes(content):
    """Boxes as [kind, content], the content of CONTAINERS parsed too (ISO/IEC 14496-12, 4.2)."""
    boxes, place = [], 0
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        inside = content[place + 8 : place + size]
        boxes.append([kind, parse_boxes(inside) if kind in CONTAINERS else bytearray(inside)])
        place += size
    return boxes


def box(kind, content):
    inside = b"".join(box(*each) for each in content) if isinstance(content, list) else bytes(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def write_boxes(boxes):
    return b"".join(box(*each) for each in boxes)


def find_box(boxes, *kinds):
    """The content of the box that is reached over `kinds`."""
    for kind in kinds:
        boxes = next(content for each, content in boxes if each == kind)
    return boxes


@pytest.fixture
def movie(videos):
    """The boxes of an MP4: ftyp, free, mdat, moov. Its scales are 1000 and 12800 units a second."""
    boxes = parse_boxes((videos / "v.mp4").read_bytes())
    assert [kind for kind, _ in boxes] == [b"ftyp", b"free", b"mdat", b"moov"]
    assert struct.unpack_from(">II", find_box(boxes, b"moov", b"mvhd"), 12) == (1000, 1480)
    assert struct.unpack_from(">II", find_box(boxes, b"moov", b"trak", b"mdia", b"mdhd"), 12) == (12_800, 18_944)
    assert (
        struct.unpack(">5I", find_box(boxes, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")[:16] + b"\0" * 4)[2]
        == 37
    )
    return boxes


def fragmented(boxes, *, in_front=0):
    """The frames in one fragment, with none of them in the index in front, or all once more (ISO/IEC 14496-12, 8.8)."""
    tables = find_box(boxes, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    sizes = find_box(tables, b"stsz")[12:]
    for kind, content in tables:
        if not in_front and kind in (b"stts", b"stsc", b"stco", b"stss", b"stsz"):
            content[:] = bytes(12 if kind == b"stsz" else 8)
    moov = find_box(boxes, b"moov")
    moov[:] = [each for each in moov if each[0] != b"udta"]
    find_box(moov, b"trak")[:] = [each for each in find_box(moov, b"trak") if each[0] != b"edts"]
    trex = struct.pack(">6I", 0, 1, 1, 512, 0, 0)
    moov.append([b"mvex", box(b"trex", trex)])

    def moof(data_offset):
        run = struct.pack(">IIi", 0x201, NUM_FRAMES, data_offset) + sizes
        track = (
            box(b"tfhd", struct.pack(">II", 0x20000, 1))
            + box(b"tfdt", struct.pack(">II", 0, 512 * in_front))
            + box(b"trun", run)
        )
        return box(b"moof", box(b"mfhd", struct.pack(">II", 0, 1)) + box(b"traf", track))

    return write_boxes(boxes if in_front else [boxes[0], boxes[3]]) + moof(len(moof(0)) + 8) + box(*boxes[2])
