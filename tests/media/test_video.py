"""What headers of videos tell, against frames that are really there: written by OpenCV, or by hand from the formats."""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from support.permissions import drop_override

from omnicap_cli.core.tokens.clip_grid import Clip
from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    EmptyFileError,
    ItemError,
    LinkLoopError,
    NotFoundError,
    TooLargeError,
    UnsupportedError,
)
from omnicap_cli.media import video
from omnicap_cli.media.video import clip_of

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


@pytest.fixture
def no_counting(monkeypatch):
    """For what is to be known from the header alone."""
    monkeypatch.setattr(video, "_count", lambda *_: pytest.fail("read through"))


@pytest.fixture
def counted(monkeypatch):
    """A list of what was counted."""
    numbers, count = [], video._count
    monkeypatch.setattr(video, "_count", lambda *how: numbers.append(count(*how)) or numbers[-1])
    return numbers


def saved(folder, content, name="video"):
    path = folder / name
    path.write_bytes(content)
    return str(path)


def y4m(num_frames, *, rate="25:1"):
    """A YUV4MPEG2 file of 6 by 4 pixels: a line of text, then 24 + 6 + 6 bytes for each frame."""
    return f"YUV4MPEG2 W6 H4 F{rate} Ip A1:1 C420\n".encode() + b"FRAME\n".join(
        [b"", *[bytes(range(200, 236))] * num_frames]
    )


def decoded(path):
    """The frames that come out when it is played, and their size."""
    capture, frames = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame.shape)
    return len(frames), frames[0][1], frames[0][0]


# ------------------------------------------------------------------------------------------------ MP4, by boxes


def parsed(content):
    """Boxes as [kind, content], the content of CONTAINERS parsed too (ISO/IEC 14496-12, 4.2)."""
    boxes, place = [], 0
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        inside = content[place + 8 : place + size]
        boxes.append([kind, parsed(inside) if kind in CONTAINERS else bytearray(inside)])
        place += size
    return boxes


def box(kind, content):
    inside = b"".join(box(*each) for each in content) if isinstance(content, list) else bytes(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def written(boxes):
    return b"".join(box(*each) for each in boxes)


def found(boxes, *kinds):
    """The content of the box that is reached over `kinds`."""
    for kind in kinds:
        boxes = next(content for each, content in boxes if each == kind)
    return boxes


@pytest.fixture
def movie(videos):
    """The boxes of an MP4: ftyp, free, mdat, moov. Its scales are 1000 and 12800 units a second."""
    boxes = parsed((videos / "v.mp4").read_bytes())
    assert [kind for kind, _ in boxes] == [b"ftyp", b"free", b"mdat", b"moov"]
    assert struct.unpack_from(">II", found(boxes, b"moov", b"mvhd"), 12) == (1000, 1480)
    assert struct.unpack_from(">II", found(boxes, b"moov", b"trak", b"mdia", b"mdhd"), 12) == (12_800, 18_944)
    assert (
        struct.unpack(">5I", found(boxes, b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts")[:16] + b"\0" * 4)[2]
        == 37
    )
    return boxes


def with_edits(boxes, *edits, version=0):
    """Its edit list replaced by (duration in 1/1000, start in 1/12800) pairs."""
    form = ">QqI" if version else ">IiI"
    entries = [struct.pack(form, *edit, 1 << 16) for edit in edits]
    found(boxes, b"moov", b"trak", b"edts", b"elst")[:] = struct.pack(">B3xI", version, len(edits)) + b"".join(entries)
    return written(boxes)


def index_first(boxes):
    """ftyp, moov, mdat, and the places of the frames moved along."""
    ftyp, _, mdat, moov = boxes
    table = found([moov], b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    moved = len(box(*moov)) - 8  # the box `free` is gone
    places = struct.unpack_from(f">{len(table) // 4 - 2}I", table, 8)
    table[8:] = struct.pack(f">{len(places)}I", *(place + moved for place in places))
    return [ftyp, moov, mdat]


def fragmented(boxes, *, in_front=0):
    """The frames in one fragment, with none of them in the index in front, or all once more (ISO/IEC 14496-12, 8.8)."""
    tables = found(boxes, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    sizes = found(tables, b"stsz")[12:]
    for kind, content in tables:
        if not in_front and kind in (b"stts", b"stsc", b"stco", b"stss", b"stsz"):
            content[:] = bytes(12 if kind == b"stsz" else 8)
    moov = found(boxes, b"moov")
    moov[:] = [each for each in moov if each[0] != b"udta"]
    found(moov, b"trak")[:] = [each for each in found(moov, b"trak") if each[0] != b"edts"]
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

    return written(boxes if in_front else [boxes[0], boxes[3]]) + moof(len(moof(0)) + 8) + box(*boxes[2])


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(videos, name):
    assert clip_of(str(videos / name)) == Clip(NUM_FRAMES, FPS, *SIZE)


@pytest.mark.parametrize("name", [name for name, (_, has_index) in FORMATS.items() if has_index])
def test_an_index_is_all_that_is_read(videos, name, no_counting):
    assert clip_of(str(videos / name)) == Clip(NUM_FRAMES, FPS, *SIZE)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 301])
@pytest.mark.parametrize(("rate", "fps"), [("25:1", 25.0), ("30000:1001", 30000 / 1001), ("1:2", 0.5)])
def test_frame_by_frame(tmp_path, num_frames, rate, fps):
    assert clip_of(saved(tmp_path, y4m(num_frames, rate=rate))) == Clip(num_frames, fps, 6, 4)


def test_an_animation(tmp_path):
    frames = [Image.new("RGB", (9, 5), (40 * number, 0, 0)) for number in range(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    assert clip_of(str(tmp_path / "a.gif")) == Clip(5, 10.0, 9, 5)


@pytest.mark.parametrize(
    ("matrix", "size"),
    [((0, 1, -1, 0), (48, 64)), ((-1, 0, 0, -1), (64, 48)), ((0, -1, 1, 0), (48, 64)), ((1, 0, 0, 1), (64, 48))],
)
def test_width_and_height_as_shown(tmp_path, movie, matrix, size, no_counting):
    a, b, c, d = (number << 16 for number in matrix)
    found(movie, b"moov", b"trak", b"tkhd")[40:76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = saved(tmp_path, written(movie))
    assert clip_of(path)[2:] == size == decoded(path)[1:]


def test_a_frame_rate_that_varies(tmp_path, movie, no_counting):
    """20 frames of 1/25 second and 17 of 2/25 take 2.16 seconds."""
    track = found(movie, b"moov", b"trak")
    track[:] = [each for each in track if each[0] != b"edts"]
    found(track, b"mdia", b"minf", b"stbl", b"stts")[:] = struct.pack(">6I", 0, 2, 20, 512, 17, 1024)
    found(track, b"mdia", b"mdhd")[16:20] = struct.pack(">I", 27_648)
    clip = clip_of(saved(tmp_path, written(movie)))
    assert clip == Clip(37, pytest.approx(37 / 2.16), 64, 48)


# ------------------------------------------------------------------------------------------------ indexes


@pytest.mark.parametrize(
    ("edits", "num_frames"),
    [
        ([(1480, 0)], 37),
        ([(1080, 5120)], 27),  # the first 10 are cut off,
        ([(800, 0)], 20),  # and the last 17
        ([(1440, 512)], 36),  # one that the others are decoded from
        ([(600, 0), (880, 7680)], 37),  # both halves
        ([(400, 0), (680, 10_240)], 27),
    ],
)
@pytest.mark.parametrize("version", [0, 1])
def test_frames_that_an_edit_list_leaves_out(tmp_path, movie, edits, version, num_frames):
    path = saved(tmp_path, with_edits(movie, *edits, version=version))
    assert clip_of(path).num_frames == num_frames == decoded(path)[0]


@pytest.mark.parametrize("edits", [[(1480, 0)], [(500, -1), (1480, 0)], [(1479, 0)]])
@pytest.mark.parametrize("version", [0, 1])
def test_edit_lists_that_leave_nothing_out(tmp_path, movie, edits, version, no_counting):
    assert clip_of(saved(tmp_path, with_edits(movie, *edits, version=version))).num_frames == 37


def test_headers_with_64_bits(tmp_path, movie, no_counting):
    """Version 1 of each: times and durations of 8 bytes, the scale still of 4."""
    for path in ((b"moov", b"mvhd"), (b"moov", b"trak", b"mdia", b"mdhd")):
        header = found(movie, *path)
        scale, units = struct.unpack_from(">II", header, 12)
        header[:20] = struct.pack(">B3xQQIQ", 1, 0, 0, scale, units)
    assert clip_of(saved(tmp_path, with_edits(movie, (1480, 0)))).num_frames == 37


def test_boxes_larger_than_any_file(tmp_path):
    """One in another, which would lead to a place that no file has."""
    inner = struct.pack(">I4sQ", 1, b"hdlX", 2**63 + 100) + bytes(50)
    media = struct.pack(">I4sQ", 1, b"mdia", 2**64 - 1) + inner
    path = saved(tmp_path, box(b"ftyp", b"isom") + box(b"moov", box(b"trak", media)))
    with open(path, "rb") as file:
        assert video._way_to_count(file, 37, FPS) == "packets"
    with pytest.raises(DecodeError):
        clip_of(path)


def test_a_scale_of_nothing(tmp_path, movie, counted):
    found(movie, b"moov", b"mvhd")[12:16] = bytes(4)
    assert clip_of(saved(tmp_path, written(movie))).num_frames == 37
    assert counted == [37]


def test_an_index_in_front(tmp_path, movie, no_counting):
    assert clip_of(saved(tmp_path, written(index_first(movie)))).num_frames == 37


def test_frames_up_to_the_end_of_the_file(tmp_path, movie, no_counting):
    ftyp, moov, mdat = index_first(movie)
    open_end = struct.pack(">I4s", 0, b"mdat") + mdat[1]
    assert clip_of(saved(tmp_path, written([ftyp, moov]) + open_end)).num_frames == 37


def test_a_box_with_a_size_of_64_bits(tmp_path, movie, no_counting):
    ftyp, _, mdat, moov = movie
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + len(mdat[1])) + mdat[1]  # which takes the place of `free` too
    assert clip_of(saved(tmp_path, written([ftyp]) + large + written([moov]))).num_frames == 37


def test_other_tracks_do_not_count(tmp_path, movie, no_counting):
    sound = [b"trak", [[b"mdia", [[b"hdlr", bytes(8) + b"soun" + bytes(13)]]]]]
    found(movie, b"moov").insert(1, sound)
    assert clip_of(saved(tmp_path, written(movie))).num_frames == 37


@pytest.mark.parametrize(("in_front", "num_frames"), [(0, 37), (37, 74)])
def test_fragments(tmp_path, movie, in_front, num_frames):
    path = saved(tmp_path, fragmented(movie, in_front=in_front))
    assert decoded(path)[0] == num_frames
    assert clip_of(path) == Clip(num_frames, 25.0, 64, 48)


def test_an_index_that_knows_another_number(videos):
    with open(videos / "v.mp4", "rb") as file:
        assert [video._way_to_count(file, number, FPS) for number in (37, 38)] == ["index", "packets"]


def test_an_avi_in_several_parts(videos, tmp_path, counted):
    """As those of more than a gigabyte are: the first part doesn't know of the others."""
    path = saved(tmp_path, (videos / "v.avi").read_bytes() + struct.pack("<4sI4s", b"RIFF", 4, b"AVIX"))
    assert clip_of(path).num_frames == 37
    assert counted == [37]


def test_an_avi_that_was_never_finished(videos, tmp_path, counted):
    """Its numbers of frames are written last: in `avih` after four other numbers, in `strh` after eight."""
    content = bytearray((videos / "v.avi").read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        assert struct.unpack_from("<I", content, place) == (37,)
        content[place : place + 4] = bytes(4)
    assert clip_of(saved(tmp_path, content)).num_frames == 37
    assert counted == [37]


def test_frames_are_counted_and_not_decoded(videos, tmp_path):
    capture = cv2.VideoCapture(str(videos / "vp9.webm"), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_FORMAT, -1)
    packets = [capture.retrieve()[1].tobytes() for _ in range(NUM_FRAMES) if capture.grab()]
    content = (videos / "vp9.webm").read_bytes()
    path = saved(tmp_path, content.replace(packets[20], bytes(len(packets[20]))))
    assert decoded(path)[0] < 37
    assert clip_of(path).num_frames == 37


def test_an_index_of_frames_that_are_not_there(tmp_path, movie):
    content = written(index_first(movie))
    path = saved(tmp_path, content[: len(content) // 2])
    num_frames = decoded(path)[0]
    assert 3 < num_frames < 34
    assert clip_of(path).num_frames == num_frames


@pytest.mark.parametrize("name", ["v.avi", "mpeg4.avi", "vp8.webm", "v.mkv", "v.ts", "v.mpg"])
def test_files_that_break_off(videos, tmp_path, name):
    content = (videos / name).read_bytes()
    path = saved(tmp_path, content[: len(content) // 2])
    num_frames = decoded(path)[0]
    assert 3 < num_frames < 34
    assert clip_of(path).num_frames == num_frames


def test_frames_that_are_not_shown(videos, tmp_path):
    """Of VP8, a bit in its first byte says whether a frame is shown (RFC 6386, 9.1)."""
    content = bytearray((videos / "vp8.webm").read_bytes())
    capture = cv2.VideoCapture(str(videos / "vp8.webm"), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_FORMAT, -1)
    for number in range(20):
        capture.grab()
        if number in (5, 6, 17):
            content[content.index(capture.retrieve()[1].tobytes())] &= ~0x10
    path = saved(tmp_path, content)
    assert clip_of(path).num_frames == 34 == decoded(path)[0]


def test_an_end_to_counting(videos, monkeypatch):
    monkeypatch.setattr(video, "_MAX_FRAMES", 37)
    assert clip_of(str(videos / "v.mkv")).num_frames == 37
    monkeypatch.setattr(video, "_MAX_FRAMES", 36)
    with pytest.raises(TooLargeError, match="more than 36 frames"):
        clip_of(str(videos / "v.mkv"))
    assert clip_of(str(videos / "v.mp4")).num_frames == 37


def test_more_boxes_than_anybody_writes(tmp_path, movie, counted):
    """The index isn't trusted then, and the frames are counted."""
    movie[1:2] = [[b"free", b""]]
    crowded = written(movie) + box(b"free", b"") * 20_000
    assert clip_of(saved(tmp_path, crowded)).num_frames == 37
    assert counted == [37]


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", EmptyFileError, "the file is empty"),
        (b"A text.\n" * 100, UnsupportedError, "not a video: it holds text"),
        ("Überschrift – 数\n".encode() * 100, UnsupportedError, "it holds text"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nv.ts\n#EXT-X-ENDLIST\n", UnsupportedError, "it holds text"),
        (b"ffconcat version 1.0\nfile v.mp4\n", UnsupportedError, "it holds text"),
        (bytes(5000), DecodeError, "nothing but zero bytes"),
        (b"%PDF-1.4\n\xe2\xe3\xcf\xd3" * 50, UnsupportedError, "not a video in a format that is read here"),
        (bytes(range(256)) * 20, UnsupportedError, "not a video in a format that is read here"),
        (b"\x1a\x45\xdf\xa3" + bytes(range(200)), DecodeError, "damaged or truncated"),
        (box(b"ftyp", b"M4A \0\0\2\0"), DecodeError, "or without a picture"),
        (b"YUV4MPEG2 W6 H4 F25:1 Ip A1:1 C420\n", DecodeError, "there is no frame in it"),
    ],
)
def test_what_is_no_video(tmp_path, videos, content, error, message):
    for name in ("v.mp4", "v.ts"):
        (tmp_path / name).write_bytes((videos / name).read_bytes())
    for name in ("video", "video.mp4", "video.m3u8", "video.ffconcat"):
        with pytest.raises(error, match=message):
            clip_of(saved(tmp_path, content, name))


def test_an_index_that_is_lost(videos, tmp_path):
    with pytest.raises(DecodeError, match="damaged or truncated"):
        clip_of(saved(tmp_path, (videos / "v.mp4").read_bytes()[:30_000]))


def test_an_index_of_nothing(tmp_path, movie):
    tables = found(movie, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    for kind in (b"stts", b"stsc", b"stco", b"stsz"):
        found(tables, kind)[:] = bytes(12 if kind == b"stsz" else 8)
    with pytest.raises(DecodeError):
        clip_of(saved(tmp_path, written(movie)))


@pytest.mark.parametrize(
    ("width", "height", "fps"), [(0, 48, 25.0), (64, -1, 25.0), (64, 48, 0.0), (64, 48, float("nan"))]
)
def test_impossible_headers(videos, width, height, fps):
    """FFmpeg fills in a guess for most of what is damaged; this is what it would say if it didn't."""
    said = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: fps}
    header = SimpleNamespace(get=lambda name: said.get(name, 37.0))
    with (
        open(videos / "v.mp4", "rb") as file,
        pytest.raises(DecodeError, match=f"{width} x {height} pixels and {fps:g}"),
    ):
        video._measured(header, file)


@pytest.mark.parametrize(
    ("failure", "error"), [(cv2.error("out of memory"), DecodeError), (OSError(errno.EIO, "I/O error"), AccessError)]
)
def test_what_fails_on_the_way(videos, monkeypatch, failure, error):
    def count(*_):
        raise failure

    monkeypatch.setattr(video, "_count", count)
    with pytest.raises(error):
        clip_of(str(videos / "v.mkv"))


def test_what_can_not_be_opened(tmp_path, videos):
    with pytest.raises(NotFoundError, match="no such file"):
        clip_of(str(tmp_path / "nowhere.mp4"))
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFoundError, match="a link whose target is gone"):
        clip_of(str(tmp_path / "dangling"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(LinkLoopError):
        clip_of(str(tmp_path / "loop"))
    with pytest.raises(AccessError, match="Is a directory"):
        clip_of(str(tmp_path))
    with pytest.raises(AccessError, match="not a regular file"):
        clip_of("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(AccessError, match="not a regular file"):
        clip_of(str(tmp_path / "fifo"))
    with pytest.raises(ItemError):
        clip_of("nul\0byte.mp4")


def test_a_file_without_permission(videos, tmp_path):
    path = saved(tmp_path, (videos / "v.mp4").read_bytes())
    os.chmod(path, 0)
    code = (
        "import sys\n"
        "from omnicap_cli.errors import AccessError\n"
        "from omnicap_cli.media.video import clip_of\n"
        "try: clip_of(sys.argv[1])\n"
        "except AccessError as error: print(error)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, path], preexec_fn=drop_override, capture_output=True, text=True, check=True
    )
    assert child.stdout == "no permission to read it\n"


@pytest.mark.parametrize(
    "name", [b"v%02d.mp4", b"caf\xe9.mp4", b"concat:a|b.mp4", b"http:x.mp4", b"a b\n?*.mp4", b"-i"]
)
def test_odd_names(videos, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).write_bytes((videos / "v.mp4").read_bytes())
    assert clip_of(os.fsdecode(name)).num_frames == 37


# ------------------------------------------------------------------------------------------------ the process


def damaged(content, draw):
    """`content` with a few bytes changed, left out or doubled, mostly near its ends, where headers and indexes are."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 2, 5, 20))):
        reach = draw.choice((200, 1500, len(data)))
        place = draw.choice((draw.randrange(reach), len(data) - 1 - draw.randrange(reach))) % len(data)
        length = draw.choice((1, 2, 4, 30))
        kind = draw.randrange(5)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            data[place : place + length] = draw.choice((b"\0", b"\xff")) * length
        elif kind == 3:
            del data[place : place + length]
        else:
            data[place:place] = data[place : place + length]
    return bytes(data)


def test_damaged_files_end_nothing_and_write_nothing(videos, tmp_path, movie):
    """In a process of its own, which is to end well, with nothing on its stderr: FFmpeg likes to write there."""
    draw = random.Random(20250407)
    contents = [(videos / name).read_bytes() for name in FORMATS] + [fragmented(movie), y4m(9)]
    paths = [
        saved(tmp_path, damaged(content, draw), f"{n}-{k}") for n in range(30) for k, content in enumerate(contents)
    ]
    code = (
        "import sys\n"
        "from omnicap_cli.errors import ItemError\n"
        "from omnicap_cli.media.video import clip_of\n"
        "for path in sys.stdin.read().splitlines():\n"
        "    try: clip = clip_of(path)\n"
        "    except ItemError as error: print(error.kind)\n"
        "    else: print('ok' if min(clip) > 0 else clip)\n"
    )
    child = subprocess.run([sys.executable, "-c", code], input="\n".join(paths), capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (0, "")
    ends = child.stdout.splitlines()
    assert len(ends) == len(paths) == 420
    assert set(ends) == {"ok", "DecodeError", "UnsupportedError"}
    assert ends.count("ok") > 100
    assert ends.count("DecodeError") > 50


def test_opencv_is_loaded_with_the_first_video():
    code = (
        "import sys, omnicap_cli.media.video; print([name for name in ('cv2', 'numpy', 'PIL') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "[]\n"


def test_no_file_stays_open(videos, tmp_path):
    broken = saved(tmp_path, b"\x1a\x45\xdf\xa3" + bytes(500))
    clip_of(str(videos / "v.mp4"))
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        clip_of(str(videos / "v.mkv"))
        with pytest.raises(DecodeError):
            clip_of(broken)
    assert os.listdir("/proc/self/fd") == before
