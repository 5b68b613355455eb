"""Videos that are damaged, or no videos, become errors, and nothing else ends or stays open."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
from support.permissions import drop_override
from support.video_files import FORMATS, box, find_box, fragmented, save_video, write_boxes, y4m
from support.video_files import movie as movie  # a fixture
from support.video_files import videos as videos  # a fixture

from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    EmptyFileError,
    ItemError,
    LinkLoopError,
    NotFoundError,
    UnsupportedError,
)
from omnicap_cli.media import video
from omnicap_cli.media.video import clip_of

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
            clip_of(save_video(tmp_path, content, name))


def test_an_index_that_is_lost(videos, tmp_path):
    with pytest.raises(DecodeError, match="damaged or truncated"):
        clip_of(save_video(tmp_path, (videos / "v.mp4").read_bytes()[:30_000]))


def test_an_index_of_nothing(tmp_path, movie):
    tables = find_box(movie, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    for kind in (b"stts", b"stsc", b"stco", b"stsz"):
        find_box(tables, kind)[:] = bytes(12 if kind == b"stsz" else 8)
    with pytest.raises(DecodeError):
        clip_of(save_video(tmp_path, write_boxes(movie)))


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
    path = save_video(tmp_path, (videos / "v.mp4").read_bytes())
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
        save_video(tmp_path, damaged(content, draw), f"{n}-{k}")
        for n in range(30)
        for k, content in enumerate(contents)
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
    broken = save_video(tmp_path, b"\x1a\x45\xdf\xa3" + bytes(500))
    clip_of(str(videos / "v.mp4"))
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        clip_of(str(videos / "v.mkv"))
        with pytest.raises(DecodeError):
            clip_of(broken)
    assert os.listdir("/proc/self/fd") == before
