"""What headers of videos tell, against frames that are really there: written by OpenCV, or by hand from the formats."""

from __future__ import annotations

import struct

import cv2
import pytest
from PIL import Image
from support.video_files import FORMATS, FPS, NUM_FRAMES, SIZE, box, find_box, fragmented, save_video, write_boxes, y4m
from support.video_files import movie as movie  # a fixture
from support.video_files import videos as videos  # a fixture

from omnicap_cli.core.tokens.clip_grid import Clip
from omnicap_cli.errors import DecodeError, TooLargeError
from omnicap_cli.media import video
from omnicap_cli.media.video import clip_of


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


def played_frames(path):
    """The frames that come out when it is played, and their size."""
    capture, frames = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame.shape)
    return len(frames), frames[0][1], frames[0][0]


# ------------------------------------------------------------------------------------------------ MP4, by boxes


def with_edits(boxes, *edits, version=0):
    """Its edit list replaced by (duration in 1/1000, start in 1/12800) pairs."""
    form = ">QqI" if version else ">IiI"
    entries = [struct.pack(form, *edit, 1 << 16) for edit in edits]
    find_box(boxes, b"moov", b"trak", b"edts", b"elst")[:] = struct.pack(">B3xI", version, len(edits)) + b"".join(
        entries
    )
    return write_boxes(boxes)


def index_first(boxes):
    """ftyp, moov, mdat, and the places of the frames moved along."""
    ftyp, _, mdat, moov = boxes
    table = find_box([moov], b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stco")
    moved = len(box(*moov)) - 8  # the box `free` is gone
    places = struct.unpack_from(f">{len(table) // 4 - 2}I", table, 8)
    table[8:] = struct.pack(f">{len(places)}I", *(place + moved for place in places))
    return [ftyp, moov, mdat]


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
    assert clip_of(save_video(tmp_path, y4m(num_frames, rate=rate))) == Clip(num_frames, fps, 6, 4)


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
    find_box(movie, b"moov", b"trak", b"tkhd")[40:76] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = save_video(tmp_path, write_boxes(movie))
    assert clip_of(path)[2:] == size == played_frames(path)[1:]


def test_a_frame_rate_that_varies(tmp_path, movie, no_counting):
    """20 frames of 1/25 second and 17 of 2/25 take 2.16 seconds."""
    track = find_box(movie, b"moov", b"trak")
    track[:] = [each for each in track if each[0] != b"edts"]
    find_box(track, b"mdia", b"minf", b"stbl", b"stts")[:] = struct.pack(">6I", 0, 2, 20, 512, 17, 1024)
    find_box(track, b"mdia", b"mdhd")[16:20] = struct.pack(">I", 27_648)
    clip = clip_of(save_video(tmp_path, write_boxes(movie)))
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
    path = save_video(tmp_path, with_edits(movie, *edits, version=version))
    assert clip_of(path).num_frames == num_frames == played_frames(path)[0]


@pytest.mark.parametrize("edits", [[(1480, 0)], [(500, -1), (1480, 0)], [(1479, 0)]])
@pytest.mark.parametrize("version", [0, 1])
def test_edit_lists_that_leave_nothing_out(tmp_path, movie, edits, version, no_counting):
    assert clip_of(save_video(tmp_path, with_edits(movie, *edits, version=version))).num_frames == 37


def test_headers_with_64_bits(tmp_path, movie, no_counting):
    """Version 1 of each: times and durations of 8 bytes, the scale still of 4."""
    for path in ((b"moov", b"mvhd"), (b"moov", b"trak", b"mdia", b"mdhd")):
        header = find_box(movie, *path)
        scale, units = struct.unpack_from(">II", header, 12)
        header[:20] = struct.pack(">B3xQQIQ", 1, 0, 0, scale, units)
    assert clip_of(save_video(tmp_path, with_edits(movie, (1480, 0)))).num_frames == 37


def test_boxes_larger_than_any_file(tmp_path):
    """One in another, which would lead to a place that no file has."""
    inner = struct.pack(">I4sQ", 1, b"hdlX", 2**63 + 100) + bytes(50)
    media = struct.pack(">I4sQ", 1, b"mdia", 2**64 - 1) + inner
    path = save_video(tmp_path, box(b"ftyp", b"isom") + box(b"moov", box(b"trak", media)))
    with open(path, "rb") as file:
        assert video._way_to_count(file, 37, FPS) == "packets"
    with pytest.raises(DecodeError):
        clip_of(path)


def test_a_scale_of_nothing(tmp_path, movie, counted):
    find_box(movie, b"moov", b"mvhd")[12:16] = bytes(4)
    assert clip_of(save_video(tmp_path, write_boxes(movie))).num_frames == 37
    assert counted == [37]


def test_an_index_in_front(tmp_path, movie, no_counting):
    assert clip_of(save_video(tmp_path, write_boxes(index_first(movie)))).num_frames == 37


def test_frames_up_to_the_end_of_the_file(tmp_path, movie, no_counting):
    ftyp, moov, mdat = index_first(movie)
    open_end = struct.pack(">I4s", 0, b"mdat") + mdat[1]
    assert clip_of(save_video(tmp_path, write_boxes([ftyp, moov]) + open_end)).num_frames == 37


def test_a_box_with_a_size_of_64_bits(tmp_path, movie, no_counting):
    ftyp, _, mdat, moov = movie
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + len(mdat[1])) + mdat[1]  # which takes the place of `free` too
    assert clip_of(save_video(tmp_path, write_boxes([ftyp]) + large + write_boxes([moov]))).num_frames == 37


def test_other_tracks_do_not_count(tmp_path, movie, no_counting):
    sound = [b"trak", [[b"mdia", [[b"hdlr", bytes(8) + b"soun" + bytes(13)]]]]]
    find_box(movie, b"moov").insert(1, sound)
    assert clip_of(save_video(tmp_path, write_boxes(movie))).num_frames == 37


@pytest.mark.parametrize(("in_front", "num_frames"), [(0, 37), (37, 74)])
def test_fragments(tmp_path, movie, in_front, num_frames):
    path = save_video(tmp_path, fragmented(movie, in_front=in_front))
    assert played_frames(path)[0] == num_frames
    assert clip_of(path) == Clip(num_frames, 25.0, 64, 48)


def test_an_index_that_knows_another_number(videos):
    with open(videos / "v.mp4", "rb") as file:
        assert [video._way_to_count(file, number, FPS) for number in (37, 38)] == ["index", "packets"]


def test_an_avi_in_several_parts(videos, tmp_path, counted):
    """As those of more than a gigabyte are: the first part doesn't know of the others."""
    path = save_video(tmp_path, (videos / "v.avi").read_bytes() + struct.pack("<4sI4s", b"RIFF", 4, b"AVIX"))
    assert clip_of(path).num_frames == 37
    assert counted == [37]


def test_an_avi_that_was_never_finished(videos, tmp_path, counted):
    """Its numbers of frames are written last: in `avih` after four other numbers, in `strh` after eight."""
    content = bytearray((videos / "v.avi").read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        assert struct.unpack_from("<I", content, place) == (37,)
        content[place : place + 4] = bytes(4)
    assert clip_of(save_video(tmp_path, content)).num_frames == 37
    assert counted == [37]


def test_frames_are_counted_and_not_decoded(videos, tmp_path):
    capture = cv2.VideoCapture(str(videos / "vp9.webm"), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_FORMAT, -1)
    packets = [capture.retrieve()[1].tobytes() for _ in range(NUM_FRAMES) if capture.grab()]
    content = (videos / "vp9.webm").read_bytes()
    path = save_video(tmp_path, content.replace(packets[20], bytes(len(packets[20]))))
    assert played_frames(path)[0] < 37
    assert clip_of(path).num_frames == 37


def test_an_index_of_frames_that_are_not_there(tmp_path, movie):
    content = write_boxes(index_first(movie))
    path = save_video(tmp_path, content[: len(content) // 2])
    num_frames = played_frames(path)[0]
    assert 3 < num_frames < 34
    assert clip_of(path).num_frames == num_frames


@pytest.mark.parametrize("name", ["v.avi", "mpeg4.avi", "vp8.webm", "v.mkv", "v.ts", "v.mpg"])
def test_files_that_break_off(videos, tmp_path, name):
    content = (videos / name).read_bytes()
    path = save_video(tmp_path, content[: len(content) // 2])
    num_frames = played_frames(path)[0]
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
    path = save_video(tmp_path, content)
    assert clip_of(path).num_frames == 34 == played_frames(path)[0]


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
    crowded = write_boxes(movie) + box(b"free", b"") * 20_000
    assert clip_of(save_video(tmp_path, crowded)).num_frames == 37
    assert counted == [37]
