"""Files behind URLs: what is there and every byte of it, through servers that fail in each way that servers do."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import time
import types
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from support.http_server import Answer, serving

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import (
    AccessError,
    DecodeError,
    DownloadError,
    ItemError,
    NotFoundError,
    OmnicapError,
    OptionError,
    TooLargeError,
    UnsupportedError,
)
from omnicap_cli.media.remote import http, urls

TRANSFER = Transfer(timeout_seconds=30, num_retries=2)
BODY = random.Random(1).randbytes(300_000)
SECRET = "s3cret"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """No proxy and nobody's ~/.netrc; no waiting between attempts."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.0)


@pytest.fixture
def server():
    with serving() as one:
        yield one


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited between attempts, without the waiting."""
    found = []
    monkeypatch.setattr(http, "time", types.SimpleNamespace(sleep=found.append))
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.5)
    return found


@pytest.fixture
def memory():
    """An empty memory:// file system, which is one for the whole process."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def read(url, transfer=TRANSFER):
    with urls.open_stream(url, transfer) as file:
        return file.read()


def error_of(call, *arguments):
    """The error of one item that `call` raises: on one line, without secrets, addresses or libraries' names."""
    with pytest.raises(ItemError) as caught:
        call(*arguments)
    message = caught.value.message
    assert message
    assert caught.value.kind in (
        *("DownloadError", "NotFoundError", "AccessError", "TooLargeError", "UnsupportedError", "DecodeError"),
    )
    assert "\n" not in message
    assert "\\" not in message  # an escaped one
    assert not re.search(f"0x[0-9a-f]{{6}}|urllib3|requests|HTTPConnection|Errno|{SECRET}", message)
    return caught.value


def zip_of(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/").replace("_", "."), (2020, 1, 2, 3, 4, 6)), content)
    return file.getvalue()


# ------------------------------------------------------------------------------------------ the text of a URL


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("https://example.org/a.png", True),
        ("S3://bucket/a", True),
        ("zip://a::file://b", True),
        ("a-b+c.d://x", True),
        ("simplecache::file:///a.png", True),
        ("filecache://::zip://a::s3://b", True),
        ("folder::file:///a.png", False),
        ("C://folder/a.png", False),
        ("a.png", False),
        ("folder/http://x", False),
        ("data:image/png;base64,AAAA", False),
        ("://x", False),
    ],
)
def test_what_is_a_url(path, expected):
    assert urls.is_url(path) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:///a%20b", "/a b"),
        ("local:///a b.png", "/a b.png"),
        ("FILE://localhost/x/y.png", "/x/y.png"),
        ("file:///caf%E9.png", "/caf\udce9.png"),
        ("file:///caf\udce9.png", "/caf\udce9.png"),
        ("file:///caf%C3%A9/é", "/café/é"),
        ("file:///a#b?c::d", "/a#b?c::d"),
        ("file://elsewhere/a.png", None),
        ("file://a.png", None),
        ("zip://a::file:///b.zip", None),
        ("https://example.org/file:///a", None),
        ("/a.png", None),
    ],
)
def test_the_path_of_a_file_url(url, expected):
    assert urls.as_local_path(url) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://a.png", True),
        ("zip://a.png::memory://x.zip", True),
        ("s3://memory/a.png", False),
        ("file:///memory", False),
        ("https://example.org/::memory://", False),
    ],
)
def test_what_only_this_process_sees(url, expected):
    assert urls.is_in_process(url) is expected


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"timeout_seconds": 0}, "--timeout"),
        ({"timeout_seconds": float("nan")}, "--timeout"),
        ({"timeout_seconds": float("inf")}, "--timeout"),
        ({"timeout_seconds": 1e10}, "--timeout"),
        ({"num_retries": -1}, "--retries"),
        ({"max_bytes": 0}, "--max-file-bytes"),
    ],
)
def test_settings_that_make_no_sense(values, named):
    with pytest.raises(OptionError, match=named):
        Transfer(**values)


def test_nothing_is_loaded_before_it_is_used():
    code = "import sys, omnicap_cli.media.remote.urls; print([m for m in ('requests', 'fsspec') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------------------------- what a web server tells


def test_etag_and_size(server):
    url = server.serve("/a.png", Answer(body=b"12345", headers={"ETag": '"v1"', "Last-Modified": "yesterday"}))
    assert urls.describe(url, TRANSFER) == ("file", 'url:"v1":5', 5)
    assert [seen.method for seen in server.requests()] == ["HEAD"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(body=b"12345", headers={"Last-Modified": "Tue, 01 Jul 2025"}), ("url:Tue, 01 Jul 2025:5", 5)),
        (Answer(body=b"12345", headers={"ETag": 'W/"x"'}, declared=None), ('url:W/"x":', None)),
        (Answer(body=b"12345", headers={"ETag": '"x"', "Content-Encoding": "gzip"}), ('url:"x":5', None)),
        (Answer(body=b"12345"), ("url", 5)),
        (Answer(body=b"12345", headers={"ETag": ""}), ("url", 5)),
        (Answer(declared=None), ("url", None)),
    ],
)
def test_what_a_server_tells_of_a_file(server, answer, expected):
    url = server.serve("/a.png", answer)
    assert urls.describe(url, TRANSFER) == ("file", *expected)
    assert urls.describe(url, TRANSFER) == ("file", *expected)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 501])
def test_where_questions_are_not_allowed_the_download_decides(server, status):
    url = server.serve("/a.png", Answer(body=BODY), head=Answer(status=status, headers={"ETag": '"of the error"'}))
    assert urls.describe(url, TRANSFER) == ("file", "url", None)
    assert len(server.requests()) == 1
    assert urls.fetch(url, TRANSFER) == BODY


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_question_is_asked_again(server, status):
    url = server.serve("/a.png", Answer(status=status), Answer(status=status), Answer(headers={"ETag": '"x"'}))
    assert urls.describe(url, TRANSFER).fingerprint == 'url:"x":0'
    assert len(server.requests()) == 3


def test_a_question_that_is_never_answered(server):
    url = server.serve("/a.png", Answer(status=503, body=b"<h1>busy</h1>"))
    error = error_of(urls.describe, url, TRANSFER)
    assert error.message == "HTTP 503 Service Unavailable (in 3 attempts); try again with --retry-failed"
    assert isinstance(error, DownloadError)
    assert len(server.requests()) == 3


def test_a_failure_that_passes_not_is_not_asked_again(server):
    url = server.serve("/a.png", Answer(status=505))
    assert error_of(urls.describe, url, TRANSFER).message == "HTTP 505 HTTP Version Not Supported"
    assert len(server.requests()) == 1


def test_questions_share_a_connection(server):
    kept = server.serve("/kept.png", Answer(headers={"ETag": '"x"'}))
    gone = server.serve("/gone.png", Answer(status=404, body=b"x" * 5000))
    moved = server.redirect("/moved.png", "/kept.png")
    for _ in range(3):
        urls.describe(kept, TRANSFER)
        urls.describe(moved, TRANSFER)
        error_of(urls.fetch, gone, TRANSFER)
        urls.fetch(moved, TRANSFER)
    assert len(server.requests()) == 18
    assert server.num_connections == 1


def test_many_threads_ask_at_once(server):
    addresses = [server.serve(f"/{n}.png", Answer(body=b"x" * n, headers={"ETag": f'"{n}"'})) for n in range(200)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda url: urls.describe(url, TRANSFER), addresses))
        contents = list(pool.map(lambda url: urls.fetch(url, TRANSFER), addresses))
    assert found == [("file", f'url:"{n}":{n}', n) for n in range(200)]
    assert contents == [b"x" * n for n in range(200)]


# ------------------------------------------------------------------------------------------------------ waiting


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("0", 0), ("7", 7), ("3600", 60), ("Fri, 31 Dec 1999 23:59:59 GMT", 0), ("Fri, 31 Dec 2999 23:59:59 GMT", 60)],
)
def test_a_server_says_how_long_to_wait(server, waits, asked, expected):
    busy = Answer(status=429, headers={"Retry-After": asked})
    url = server.serve("/a.png", busy, Answer(body=b"fine"))
    assert urls.fetch(url, TRANSFER) == b"fine"
    assert waits == [expected]


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "-1"}])
def test_waits_grow(server, waits, headers):
    url = server.serve("/a.png", Answer(status=500, headers=headers))
    error_of(urls.fetch, url, Transfer(num_retries=10))
    assert len(waits) == 10
    bounds = [(0.375 * 2**n, 0.625 * 2**n) for n in range(6)]  # 0.5 s, doubled each time, 25% more or less
    assert all(low <= wait <= high for wait, (low, high) in zip(waits, bounds, strict=False))
    assert waits[-2:] == [60, 60]


# ------------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize(
    "answer",
    [Answer(body=BODY), Answer(body=BODY, chunked=True), Answer(body=BODY, declared=None), Answer(body=b"")],
    ids=["length", "chunked", "until it closes", "empty"],
)
@pytest.mark.parametrize("get", [urls.fetch, read])
def test_every_byte(server, answer, get):
    assert get(server.serve("/a.png", answer), TRANSFER) == answer.body
    (seen,) = server.requests()
    assert (seen.method, seen.range, seen.headers["Accept-Encoding"]) == ("GET", None, "identity")
    assert re.fullmatch(r"omnicap/\d+\.\d+\.\d+", seen.headers["User-Agent"])


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, NotFoundError, "HTTP 404 Not Found"),
        (410, NotFoundError, "HTTP 410 Gone"),
        (401, AccessError, "HTTP 401 Unauthorized: "),
        (403, AccessError, "HTTP 403 Forbidden: "),
        (400, DownloadError, "HTTP 400 Bad Request"),
        (304, DownloadError, "HTTP 304 Not Modified"),
        (206, DownloadError, "HTTP 206 Partial Content"),
        (599, DownloadError, "HTTP 599"),
    ],
)
@pytest.mark.parametrize("get", [urls.fetch, read])
def test_an_answer_that_is_not_the_file(server, get, status, kind, said):
    url = server.serve("/a.png", Answer(status=status, body=b"<html>\n"))
    error = error_of(get, url, TRANSFER)
    assert type(error) is kind
    assert error.message.startswith(said)
    assert len(server.requests()) == 1


@pytest.mark.parametrize("get", [urls.fetch, read])
def test_500_and_then_the_file(server, get):
    url = server.serve("/a.png", Answer(status=500, body=b"oh"), Answer(status=502), Answer(body=BODY))
    assert get(url, TRANSFER) == BODY


@pytest.mark.parametrize("num_retries", [0, 1, 3])
def test_as_many_attempts_as_allowed(server, num_retries):
    url = server.serve("/a.png", Answer(status=500))
    error = error_of(urls.fetch, url, Transfer(num_retries=num_retries))
    assert error.message.startswith("HTTP 500 Internal Server Error")
    assert len(server.requests()) == num_retries + 1


@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_a_server_that_never_answers(server, get):
    url = server.serve("/a.png", Answer(is_silent=True))
    error = error_of(get, url, Transfer(timeout_seconds=0.3, num_retries=1))
    assert type(error) is DownloadError
    assert error.message.startswith("no answer from 127.0.0.1 within 0.3 s (in 2 attempts)")
    assert len(server.requests()) == 2


@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_a_port_where_nobody_listens(get):
    with serving() as gone:
        url = gone.url("/a.png", user=f"me:{SECRET}")
    error = error_of(get, url, TRANSFER)
    assert type(error) is DownloadError
    assert error.message.startswith("can't reach 127.0.0.1: Connection refused (in 3 attempts)")


@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_a_host_that_is_not_known(get):
    error = error_of(get, f"http://me:{SECRET}@no-such-host.invalid/a.png", Transfer(num_retries=0))
    assert type(error) is DownloadError
    assert error.message.startswith("can't reach no-such-host.invalid: ")


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "https:///a.png", "http://[::1", "http://[::1]x/", "http://exa mple", "http://exa\tmple/"),
        *("http://example.org/a\nb.png", "http://example.org/a\0b.png", "http://example.org/\x7f", "http://:80/a"),
        *("http://host:port/a", "http://host:99999/a", "http://\\@host/a", "http://*/a", "http://%zz/a", "http://./"),
        *(f"http://me:{SECRET}@/a", f"http://me:{SECRET}@ho st/a", f"http://me:{SECRET}@{'a' * 70}.org/a"),
        *(f"http://me:{SECRET}/x@host/a", "http://例え.テスト\ud800/a", "http://host/caf\udce9.png"),
    ],
)
@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_what_is_no_valid_url(get, url):
    error = error_of(get, url, Transfer(num_retries=0, timeout_seconds=5))
    assert type(error) is DownloadError
    error.message.encode()


@pytest.mark.parametrize(
    ("spelled", "sent"),
    [
        ("/café.png", "/caf%C3%A9.png"),
        ("/caf%C3%A9.png", "/caf%C3%A9.png"),
        ("/caf%E9.png", "/caf%E9.png"),
        ("/a b%2Fc.png?x=1&y=é#part", "/a%20b%2Fc.png?x=1&y=%C3%A9"),
        ("/100%.png", "/100%25.png"),
        ("/日本語/図.png", "/%E6%97%A5%E6%9C%AC%E8%AA%9E/%E5%9B%B3.png"),
        ("", "/"),
        ("/a::b://c.png", "/a::b://c.png"),
    ],
)
def test_paths_reach_the_server_as_they_are_meant(server, spelled, sent):
    server.serve(sent, Answer(body=BODY, headers={"ETag": '"x"'}))
    url = server.url(spelled)
    assert urls.fetch(url, TRANSFER) == BODY
    assert urls.describe(url, TRANSFER).num_bytes == len(BODY)
    assert urls.fetch(url.replace("http", "HTTP", 1), TRANSFER) == BODY


# ---------------------------------------------------------------------------------------------- what breaks off


STATE = {"ETag": '"v1"'}


@pytest.mark.parametrize("get", [urls.fetch, read])
@pytest.mark.parametrize("how", [{"stop_after": 100_001}, {"stop_after": 100_001, "reset": True}])
def test_a_broken_file_is_continued_where_it_broke_off(server, get, how):
    whole = Answer(body=BODY, headers=STATE, ranges=True)
    url = server.serve("/a.png", Answer(body=BODY, headers=STATE, **how), whole)
    assert get(url, TRANSFER) == BODY
    first, second = server.requests()
    assert first.range is None
    begin = int(second.range.removeprefix("bytes=").removesuffix("-"))
    assert begin == 100_001 if "reset" not in how else 0 < begin <= 100_001  # a reset may swallow what was on its way
    assert second.headers["If-Range"] == '"v1"'


@pytest.mark.parametrize("get", [urls.fetch, read])
@pytest.mark.parametrize("whole", [{}, {"chunked": True}, {"declared": None}])
def test_without_ranges_a_broken_file_is_read_again(server, get, whole):
    url = server.serve("/a.png", Answer(body=BODY, stop_after=100_001), Answer(body=BODY, **whole))
    assert get(url, TRANSFER) == BODY
    assert [seen.range for seen in server.requests()] == [None, "bytes=100001-"]


def test_a_break_in_a_chunk(server):
    url = server.serve("/a.png", Answer(body=BODY, chunked=True, stop_after=5_500), Answer(body=BODY, chunked=True))
    assert urls.fetch(url, TRANSFER) == BODY
    assert len(server.requests()) == 2


def test_a_break_before_the_first_byte(server):
    url = server.serve("/a.png", Answer(body=BODY, headers=STATE, stop_after=0), Answer(body=BODY, ranges=True))
    assert urls.fetch(url, TRANSFER) == BODY
    assert [seen.range for seen in server.requests()] == [None, None]


@pytest.mark.parametrize("get", [urls.fetch, read])
def test_a_file_that_always_breaks_off(server, get):
    url = server.serve("/a.png", Answer(body=BODY, stop_after=150_000))
    error = error_of(get, url, TRANSFER)
    assert type(error) is DownloadError
    assert error.message.startswith("broke off after 150,000 of 300,000 bytes (in 3 attempts)")
    assert len(server.requests()) == 3


def test_a_file_without_a_length_that_always_breaks_off(server):
    url = server.serve("/a.png", Answer(body=BODY, chunked=True, stop_after=5_500))
    error = error_of(urls.fetch, url, TRANSFER)
    assert error.message.startswith("broke off after 5,500 bytes (in 3 attempts)")


def test_a_file_in_which_nothing_more_comes(server):
    transfer = Transfer(timeout_seconds=0.3, num_retries=1)
    stalled = Answer(body=BODY, stall_after=1000, ranges=True)
    assert urls.fetch(server.serve("/a.png", stalled, Answer(body=BODY, ranges=True)), transfer) == BODY
    url = server.serve("/b.png", Answer(body=BODY, stall_after=1000))
    error = error_of(urls.fetch, url, transfer)
    assert error.message.startswith("broke off after 1,000 of 300,000 bytes: timed out (in 2 attempts)")


def test_a_picture_has_so_many_attempts_a_stream_for_each_stretch(server):
    """Every answer brings 10,000 bytes more: a stream of 30 such answers is worth it, a picture is given up."""
    url = server.serve("/a.png", Answer(body=BODY, headers=STATE, ranges=True, stop_after=10_000))
    assert read(url, TRANSFER) == BODY
    assert len(server.requests()) == 30
    error = error_of(urls.fetch, url, TRANSFER)
    assert error.message.startswith("broke off after 30,000 of 300,000 bytes (in 3 attempts)")
    assert len(server.requests()) == 33


def test_a_stream_that_got_on_has_all_attempts_again(server):
    step = Answer(body=BODY, headers=STATE, ranges=True, stop_after=140_000)
    busy = Answer(status=503)
    url = server.serve("/a.png", busy, busy, step, busy, step, busy, step)  # a break is a failed attempt too
    with urls.open_stream(url, TRANSFER) as file:
        assert file.read(1000) == BODY[:1000]
        assert file.read() == BODY[1000:]
    url = server.serve("/b.png", step, busy)
    with urls.open_stream(url, TRANSFER) as file:
        assert error_of(file.read).message.startswith("HTTP 503 Service Unavailable (in 3 attempts)")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"headers": {"ETag": '"v1"'}}, {"headers": {"ETag": '"v2"'}}),
        ({"headers": {"ETag": 'W/"v1"'}}, {"headers": {"ETag": 'W/"v2"'}}),
        ({"headers": {"Last-Modified": "Mon"}}, {"headers": {"Last-Modified": "Tue"}}),
        ({}, {"body": BODY + b"more"}),
        ({}, {"body": BODY[:-1]}),
        ({}, {"headers": {"Content-Encoding": "gzip"}}),
    ],
)
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("get", [urls.fetch, read])
def test_a_file_that_changes_meanwhile_is_never_put_together(server, get, ranges, before, after):
    begun = Answer(**{"body": BODY, "stop_after": 100_000} | before)
    url = server.serve("/a.png", begun, Answer(**{"body": BODY, "ranges": ranges} | after))
    error = error_of(get, url, TRANSFER)
    assert type(error) is DownloadError
    assert "changed" in error.message


def test_a_file_without_a_length_that_gets_shorter(server):
    begun = Answer(body=BODY, chunked=True, stop_after=150_000)
    url = server.serve("/a.png", begun, Answer(body=BODY[:20_000], chunked=True))
    assert "changed" in error_of(urls.fetch, url, TRANSFER).message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ETag": '"v1"', "Last-Modified": "Mon"}, '"v1"'),
        ({"ETag": 'W/"v1"', "Last-Modified": "Mon"}, "Mon"),
        ({"ETag": 'W/"v1"'}, None),
        ({}, None),
    ],
)
def test_only_what_can_promise_it_guards_the_rest(server, headers, expected):
    whole = Answer(body=BODY, headers=headers, ranges=True)
    url = server.serve("/a.png", Answer(body=BODY, headers=headers, stop_after=1000), whole)
    assert urls.fetch(url, TRANSFER) == BODY
    assert server.requests()[-1].headers.get("If-Range") == expected


def test_the_same_etag_outweighs_another_time(server):
    """Mirrors behind one name seldom agree on times."""
    begun = Answer(body=BODY, headers=STATE | {"Last-Modified": "Mon"}, stop_after=1000)
    rest = Answer(body=BODY, headers=STATE | {"Last-Modified": "Tue"}, ranges=True)
    assert urls.fetch(server.serve("/a.png", begun, rest), TRANSFER) == BODY


@pytest.mark.parametrize(("shift", "is_read"), [(-300, True), (300, False)])
def test_another_part_than_was_asked_for(server, shift, is_read):
    part = Answer(body=BODY, ranges=True, range_shift=shift)
    url = server.serve("/a.png", Answer(body=BODY, stop_after=1000), part)
    if is_read:
        assert urls.fetch(url, TRANSFER) == BODY
    else:
        assert type(error_of(urls.fetch, url, TRANSFER)) is DownloadError


@pytest.mark.parametrize("get", [urls.fetch, read])
def test_less_than_was_asked_for(server, get):
    """RFC 9110, 14.2: a server may send a part of the rest."""
    part = Answer(body=BODY, ranges=True, range_bytes=150_000)
    url = server.serve("/a.png", Answer(body=BODY, stop_after=1000), part)
    assert get(url, TRANSFER) == BODY
    assert [seen.range for seen in server.requests()] == [None, "bytes=1000-", "bytes=151000-"]


def test_a_part_that_does_not_say_which(server):
    url = server.serve("/a.png", Answer(body=BODY, stop_after=1000), Answer(body=BODY, status=206))
    assert "something else" in error_of(urls.fetch, url, TRANSFER).message


# ------------------------------------------------------------------------------------------------------- limits


def test_a_file_that_declares_too_much_is_not_read(server):
    url = server.serve("/a.png", Answer(declared=10**12, stall_after=0))
    error = error_of(urls.fetch, url, Transfer(max_bytes=10_000))
    assert type(error) is TooLargeError
    assert "1,000,000,000,000 bytes are more than the limit of 10,000" in error.message
    assert "--max-file-bytes" in error.message


@pytest.mark.parametrize("how", [{"chunked": True}, {"declared": None}])
def test_a_file_that_declares_nothing_is_read_up_to_the_limit(server, how):
    url = server.serve("/a.png", Answer(body=BODY, stall_after=200_000, **how))  # beyond the limit it would never end
    error = error_of(urls.fetch, url, Transfer(max_bytes=150_000))
    assert type(error) is TooLargeError
    assert "the limit of 150,000" in error.message
    assert "--max-file-bytes" in error.message


@pytest.mark.parametrize("how", [{}, {"chunked": True}])
def test_the_limit_itself_is_allowed(server, how):
    url = server.serve("/a.png", Answer(body=BODY, **how))
    assert urls.fetch(url, Transfer(max_bytes=len(BODY))) == BODY
    assert type(error_of(urls.fetch, url, Transfer(max_bytes=len(BODY) - 1))) is TooLargeError


@pytest.mark.parametrize("length", ["9" * 5000, "-5", "²", "300000, 300000", "1e3"])
def test_a_length_that_makes_no_sense(server, length):
    answer = Answer(body=BODY, declared=None, headers={"Content-Length": length, "ETag": '"x"'})
    url = server.serve("/a.png", answer)
    assert urls.describe(url, TRANSFER) == ("file", 'url:"x":', None)
    assert urls.fetch(url, TRANSFER) == BODY


def test_pieces_outweigh_a_length(server):
    """RFC 9112, 6.3: a Content-Length beside a Transfer-Encoding means nothing."""
    url = server.serve("/a.png", Answer(body=BODY, chunked=True, headers={"Content-Length": "5", "ETag": '"x"'}))
    assert urls.describe(url, TRANSFER).num_bytes is None
    assert urls.fetch(url, TRANSFER) == BODY


def test_a_stream_has_no_limit(server):
    assert read(server.serve("/a.tar", Answer(body=BODY)), Transfer(max_bytes=1)) == BODY


# ---------------------------------------------------------------------------------------------------- encodings


TEXT = b"a line of text that repeats\n" * 20_000
RAW_ENCODINGS = {
    "gzip": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "GZIP": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "identity": TEXT,
}


@pytest.mark.parametrize("encoding", RAW_ENCODINGS)
@pytest.mark.parametrize("get", [urls.fetch, read])
def test_an_encoding_that_nobody_asked_for_is_taken_off(server, get, encoding):
    answer = Answer(body=RAW_ENCODINGS[encoding], headers={"Content-Encoding": encoding})
    assert get(server.serve("/a.txt", answer), TRANSFER) == TEXT


@pytest.mark.parametrize("name", ["/a.tar.gz", "/a.TGZ", "/rows.jsonl.gz?x=1"])
def test_a_file_that_is_compressed_itself_stays_so(server, name):
    """Servers that guess from the name call that an encoding."""
    content = gzip.compress(TEXT)
    url = server.serve(name, Answer(body=content, headers={"Content-Encoding": "gzip"}))
    assert read(url) == content
    assert urls.fetch(url, TRANSFER) == content


def test_an_encoded_file_that_breaks_off_is_continued(server):
    content = gzip.compress(BODY)
    headers = STATE | {"Content-Encoding": "gzip"}
    step = Answer(body=content, headers=headers, ranges=True, stop_after=70_000)
    url = server.serve("/a.png", step)
    assert read(url) == BODY
    assert [seen.range for seen in server.requests()][:2] == [None, "bytes=70000-"]


@pytest.mark.parametrize(
    "content",
    [gzip.compress(TEXT)[:-9], gzip.compress(TEXT)[:-8] + b"damaged!", b"no gzip at all", gzip.compress(TEXT) + b"xx"],
    ids=["cut", "damaged", "other", "more"],
)
def test_a_broken_encoding(server, content):
    url = server.serve("/a.txt", Answer(body=content, headers={"Content-Encoding": "gzip"}))
    error = error_of(urls.fetch, url, TRANSFER)
    assert type(error) is DecodeError
    assert "gzip" in error.message


def test_an_empty_file_has_an_encoding(server):
    assert urls.fetch(server.serve("/a.txt", Answer(headers={"Content-Encoding": "gzip"})), TRANSFER) == b""


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
def test_an_encoding_that_is_not_known(server, encoding):
    url = server.serve("/a.png", Answer(body=b"x", headers={"Content-Encoding": encoding}))
    error = error_of(urls.fetch, url, TRANSFER)
    assert type(error) is DownloadError
    assert encoding in error.message


def test_a_bomb_is_stopped_at_the_limit(server):
    inner = gzip.compress(bytes(1 << 28), compresslevel=1)
    url = server.serve("/a.png", Answer(body=inner, headers={"Content-Encoding": "gzip"}))
    code = """
import resource, sys
from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import TooLargeError
from omnicap_cli.media.remote import http_body
from omnicap_cli.media.remote import urls
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    urls.fetch(sys.argv[1], Transfer(max_bytes=8 << 20))
except TooLargeError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 << 10  # KiB; the bomb holds 256 MiB


# ---------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server, status):
    server.serve("/sub/é.png".replace("é", "%C3%A9"), Answer(body=BODY, headers=STATE))
    server.redirect("/sub/c", "é.png".encode().decode("latin-1"), status)  # bytes that are UTF-8
    server.redirect("/b", server.url("/sub/c"), status)
    url = server.redirect("/a.png", "b", status)
    assert urls.fetch(url, TRANSFER) == BODY
    assert urls.describe(url, TRANSFER).fingerprint == 'url:"v1":300000'
    assert read(url) == BODY


def test_ten_redirects_are_followed_and_not_more(server):
    server.serve("/0", Answer(body=BODY))
    for number in range(11):
        server.redirect(f"/{number + 1}", f"/{number}")
    assert urls.fetch(server.url("/10"), TRANSFER) == BODY
    assert error_of(urls.fetch, server.url("/11"), TRANSFER).message == "redirected more than 10 times"


@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_redirects_in_a_circle(server, get):
    url = server.redirect("/a.png", "/b.png")
    server.redirect("/b.png", "/a.png")
    error = error_of(get, url, TRANSFER)
    assert type(error) is DownloadError
    assert "redirected more than 10 times" in error.message
    assert len(server.requests()) == 11


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("FILE:///etc/passwd", "/etc/passwd"),
        ("ftp://example.org/a.png", "ftp://example.org/a.png"),
        (f"ftp://me:{SECRET}@example.org/a.png?signature={SECRET}", "ftp://example.org/a.png:"),
        ("javascript:alert(1)", "javascript:alert(1)"),
        ("memory://a", "memory://a"),
        ("data:image/png;base64,AAAA", "data:image/png"),
    ],
)
@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_a_redirect_to_another_protocol_is_refused(server, get, location, shown):
    url = server.redirect("/a.png", location)
    error = error_of(get, url, TRANSFER)
    assert type(error) is DownloadError
    assert "redirected to" in error.message
    assert shown in error.message
    assert "only http and https" in error.message


@pytest.mark.parametrize("location", ["http://", "http://[::1", "//", "http://exa mple/", "http://h:x/", "\xff\xfe"])
def test_a_redirect_to_nowhere(server, location):
    assert type(error_of(urls.fetch, server.redirect("/a.png", location), TRANSFER)) is DownloadError


def test_the_path_of_a_local_file_is_one_on_the_server(server):
    url = server.redirect("/a.png", "/etc/passwd")
    server.serve("/etc/passwd", Answer(body=b"of the server"))
    assert urls.fetch(url, TRANSFER) == b"of the server"


def test_the_body_of_a_redirect_is_not_read(server):
    server.serve("/b.png", Answer(body=BODY))
    endless = Answer(status=302, headers={"Location": "/b.png"}, declared=10**12, body=BODY, stall_after=len(BODY))
    assert urls.fetch(server.serve("/a.png", endless), TRANSFER) == BODY
    endless = Answer(status=404, declared=10**12, body=BODY, stall_after=len(BODY))
    assert type(error_of(urls.fetch, server.serve("/c.png", endless), TRANSFER)) is NotFoundError


def test_a_break_after_a_redirect_begins_at_its_start(server):
    """Where a redirect leads may be signed for minutes only."""
    url = server.redirect("/a.png", "/b.png")
    answer = Answer(body=BODY, headers=STATE, ranges=True)
    server.serve("/b.png", Answer(body=BODY, headers=STATE, stop_after=1000), answer)
    assert urls.fetch(url, TRANSFER) == BODY
    assert [(seen.path, seen.range) for seen in server.requests()] == [
        ("/a.png", None),
        ("/b.png", None),
        ("/a.png", "bytes=1000-"),
        ("/b.png", "bytes=1000-"),
    ]


# -------------------------------------------------------------------------------------------------- credentials


BASIC = "Basic bWU6czNjcmV0"  # me:s3cret in base64


def test_credentials_stay_with_their_server(server):
    with serving() as other:
        target = other.serve("/c.png", Answer(body=BODY))
        server.redirect("/b.png", target)
        server.redirect("/a.png", server.url("/b.png"))
        server.redirect("/start.png", "a.png")
        assert urls.fetch(server.url("/start.png", user=f"me:{SECRET}"), TRANSFER) == BODY
        assert [seen.headers.get("Authorization") for seen in server.requests()] == [BASIC] * 3
        assert [seen.headers.get("Authorization") for seen in other.requests()] == [None]


def test_a_redirect_may_bring_credentials_of_its_own(server):
    server.serve("/b.png", Answer(body=BODY))
    url = server.redirect("/a.png", server.url("/b.png", user=f"me:{SECRET}"))
    assert urls.fetch(url.replace("//", "//someone:else@"), TRANSFER) == BODY
    assert server.requests("/b.png")[0].headers["Authorization"] == BASIC


@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        ("http://u:p@host/a", "https://host/b", "https://u:p@host/b"),
        ("http://u:p@host:80/a", "https://HOST:443/b", "https://u:p@HOST:443/b"),
        ("http://u:p@host/a", "http://host:80/b", "http://u:p@host:80/b"),
        ("https://u:p@host/a", "http://host/b", "http://host/b"),
        ("http://u:p@host:8080/a", "https://host/b", "https://host/b"),
        ("http://u:p@host/a", "https://host:8443/b", "https://host:8443/b"),
        ("http://u:p@host/a", "//host/b", "http://u:p@host/b"),
        ("http://u:p@host/a", "//evil/b", "http://evil/b"),
        ("http://u:p@host/a", "http://host.evil/b", "http://host.evil/b"),
        ("http://u:p@host/a", "?x=1", "http://u:p@host/a?x=1"),
        ("http://host/a", "/b", "http://host/b"),
    ],
)
def test_which_server_is_the_same(url, location, expected):
    assert http._redirect_target(url, location) == expected


def test_a_netrc_file_is_used(server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert urls.fetch(server.serve("/a.png", Answer(body=BODY)), TRANSFER) == BODY
    assert server.requests()[0].headers["Authorization"] == BASIC


@pytest.mark.parametrize("status", [401, 403, 404, 418, 500])
@pytest.mark.parametrize("get", [urls.fetch, urls.open_stream])
def test_no_error_tells_credentials(server, get, status):
    server.serve("/a.png?key=s3cret", Answer(status=status, body=SECRET.encode()))
    error = error_of(get, server.url("/a.png?key=s3cret", user=f"me:{SECRET}"), TRANSFER)
    assert SECRET not in error.message


def test_cookies_hold_for_one_chain_of_redirects(server):
    server.serve("/b.png", Answer(body=BODY))
    start = Answer(status=302, headers={"Location": "/b.png", "Set-Cookie": "session=1; Path=/"})
    url = server.serve("/a.png", start)
    urls.fetch(url, TRANSFER)
    urls.fetch(url, TRANSFER)
    assert [seen.headers.get("Cookie") for seen in server.requests("/b.png")] == ["session=1", "session=1"]
    assert [seen.headers.get("Cookie") for seen in server.requests("/a.png")] == [None, None]


def test_a_proxy_is_used(server, monkeypatch):
    server.serve("http://example.org/a.png", Answer(body=BODY))
    monkeypatch.setenv("http_proxy", server.url(""))
    assert urls.fetch("http://example.org/a.png", TRANSFER) == BODY


@pytest.mark.parametrize("proxy", ["http:///", "nothing://x"])
def test_a_proxy_that_can_not_be_used(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    error = error_of(urls.fetch, "http://example.org/a.png", TRANSFER)
    assert type(error) is DownloadError
    assert "proxy" in error.message


# ---------------------------------------------------------------------------------------------------------- TLS


def test_a_server_that_speaks_no_tls(server):
    url = server.serve("/a.png", Answer(body=BODY)).replace("http", "https")
    error = error_of(urls.fetch, url, Transfer(num_retries=0))
    assert type(error) is DownloadError
    assert error.message.startswith("can't reach 127.0.0.1: ")


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    path = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    try:
        subprocess.run([*command, "-keyout", path, "-out", tmp_path / "cert.pem"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl can't make a certificate here")
    with path.open("ab") as file:
        file.write((tmp_path / "cert.pem").read_bytes())
    return path


def test_a_certificate_that_nobody_signed(certificate, monkeypatch):
    with serving(certificate) as server:
        url = server.serve("/a.png", Answer(body=BODY))
        error = error_of(urls.fetch, url, TRANSFER)
        assert type(error) is DownloadError
        assert error.message.startswith("127.0.0.1 is not trusted: certificate verify failed: ")
        assert server.num_connections <= 1  # another attempt would change nothing
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert urls.fetch(url, TRANSFER) == BODY


# ------------------------------------------------------------------------------------------------------ streams


def test_an_archive_is_read_from_a_broken_stream(server):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 30_000
            archive.addfile(info, io.BytesIO(random.Random(number).randbytes(30_000)))
    answer = Answer(body=file.getvalue(), headers=STATE, ranges=True, stop_after=70_000)
    with (
        urls.open_stream(server.serve("/x.tar.gz", answer), TRANSFER) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as archive,
    ):
        found = {info.name: archive.extractfile(info).read() for info in archive}
    assert found == {f"{number}.png": random.Random(number).randbytes(30_000) for number in range(20)}
    assert len(server.requests()) > 5


def test_lines_are_read_from_a_stream(server):
    lines = [json.dumps({"image": f"{number}.png"}).encode() + b"\n" for number in range(5000)]
    answer = Answer(body=b"".join(lines), headers=STATE, ranges=True, stop_after=20_000)
    with urls.open_stream(server.serve("/rows.jsonl", answer), TRANSFER) as stream:
        assert list(stream) == lines


def test_a_stream_gives_what_is_there(server):
    """A manifest that grows slowly is worked on while it comes."""
    url = server.serve("/rows.jsonl", Answer(body=BODY, stall_after=1000))
    with urls.open_stream(url, TRANSFER) as stream:
        assert stream.read1(1 << 20) == BODY[:1000]


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_stream_that_is_closed_early_frees_its_connection(server, headers):
    body = gzip.compress(BODY) * 50
    url = server.serve("/a.tar", Answer(body=body, headers=headers))
    threads = threading.active_count()
    streams = [urls.open_stream(url, TRANSFER) for _ in range(5)]
    for stream in streams:
        assert stream.read(10) == (BODY if headers else body)[:10]
        stream.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)  # until the server notices
    assert threading.active_count() <= threads


# ----------------------------------------------------------------------------------- everything but web servers


def test_files_in_memory(memory):
    memory.pipe("/folder/a.png", BODY)
    found = urls.describe("memory://folder/a.png", TRANSFER)
    assert (found.kind, found.num_bytes) == ("file", len(BODY))
    assert found.fingerprint.startswith("url:")
    assert found.fingerprint.endswith(":300000")
    assert urls.describe("memory://folder/a.png", TRANSFER) == found
    assert urls.fetch("memory://folder/a.png", TRANSFER) == BODY
    assert read("memory://folder/a.png") == BODY
    memory.pipe("/folder/a.png", BODY[::-1])
    assert urls.describe("memory://folder/a.png", TRANSFER).fingerprint != found.fingerprint


@pytest.mark.parametrize("url", ["memory://folder", "memory://folder/", "memory:///folder"])
def test_folders_in_memory(memory, url):
    memory.pipe("/folder/b.png", BODY)
    memory.pipe("/folder/a.png", b"a")
    memory.pipe("/folder/é ?#[x].png", b"odd")
    memory.pipe("/folder/sub/c.png", BODY)
    assert urls.describe(url, TRANSFER) == ("folder", "url", None)
    plain = url.rstrip("/")
    found = list(urls.list_folder(url))
    assert found == [
        (f"{plain}/a.png", False),
        (f"{plain}/b.png", False),
        (f"{plain}/sub", True),
        (f"{plain}/é ?#[x].png", False),
    ]
    assert [urls.fetch(child, TRANSFER) for child, is_folder in found if not is_folder] == [b"a", BODY, b"odd"]
    assert list(urls.list_folder(f"{plain}/sub")) == [(f"{plain}/sub/c.png", False)]


def test_the_root_of_a_file_system_is_a_folder(memory):
    memory.pipe("/a.png", BODY)
    memory.pipe("/folder/b.png", BODY)
    assert list(urls.list_folder("memory://")) == [("memory://a.png", False), ("memory://folder", True)]
    assert urls.fetch("memory://a.png", TRANSFER) == BODY


def test_a_folder_that_is_kept_as_an_empty_object_is_not_in_itself(memory, monkeypatch):
    class Bucket(MemoryFileSystem):
        cachable = False

        def ls(self, path, detail=True, **kwargs):
            marker = {"name": f"{path}/", "size": 0, "type": "file"}
            return [marker, *super().ls(path, detail=detail, **kwargs)]

    monkeypatch.setitem(_registry, "memory", Bucket)
    memory.pipe("/folder/a.png", BODY)
    assert list(urls.list_folder("memory://folder")) == [("memory://folder/a.png", False)]


def test_a_listing_is_kept_while_it_is_used(memory, monkeypatch):
    """Buckets answer from it what each file is; of a million files it takes a gigabyte."""

    class Bucket(MemoryFileSystem):
        def ls(self, path, detail=True, **kwargs):
            self.dircache[path] = super().ls(path, detail=True, **kwargs)
            return self.dircache[path]

    monkeypatch.setitem(_registry, "memory", Bucket)
    memory.pipe("/folder/a.png", BODY)
    memory.pipe("/folder/sub/b.png", BODY)
    kept = fsspec.filesystem("memory").dircache
    outer = urls.list_folder("memory://folder/")
    assert next(outer) == ("memory://folder/a.png", False)
    inner = urls.list_folder("memory://folder/sub")
    assert next(inner) == ("memory://folder/sub/b.png", False)
    assert set(kept) == {"/folder", "/folder/sub"}
    assert list(inner) == []
    assert set(kept) == {"/folder"}
    outer.close()
    assert set(kept) == set()


def test_patterns_in_memory(memory):
    for name in ("b.png", "a.png", "c.jpg", "sub/d.png"):
        memory.pipe(f"/folder/{name}", name.encode())
    found = list(urls.glob("memory://folder/*.png"))
    assert found == ["memory://folder/a.png", "memory://folder/b.png"]
    assert [urls.fetch(url, TRANSFER) for url in found] == [b"a.png", b"b.png"]
    assert list(urls.glob("memory://fold*/**/*.png")) == [*found, "memory://folder/sub/d.png"]
    assert list(urls.glob("memory://folder/*.gif")) == []


@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_what_is_not_in_memory(memory, get):
    assert error_of(get, "memory://missing.png", TRANSFER).message == "no such file"
    assert type(error_of(get, "memory://missing.png", TRANSFER)) is NotFoundError


def test_folders_that_are_not_there(memory):
    assert type(error_of(list, urls.list_folder("memory://missing"))) is NotFoundError


def test_the_limit_holds_for_every_file_system(memory, tmp_path):
    memory.pipe("/a.png", BODY)
    (tmp_path / "a.png").write_bytes(BODY)
    (tmp_path / "a.zip").write_bytes(zip_of(a_png=BODY))
    for url in ("memory://a.png", f"file://{tmp_path}/a.png", f"zip://a.png::file://{tmp_path}/a.zip"):
        assert urls.fetch(url, Transfer(max_bytes=len(BODY))) == BODY
        error = error_of(urls.fetch, url, Transfer(max_bytes=len(BODY) - 1))
        assert type(error) is TooLargeError
        assert "300,000 bytes are more than the limit of 299,999" in error.message  # before any of it was read
        assert "--max-file-bytes" in error.message
        assert read(url, Transfer(max_bytes=1)) == BODY


def test_local_files(tmp_path):
    folder = tmp_path / "a b%é"
    (folder / "sub").mkdir(parents=True)
    (folder / "x y.png").write_bytes(BODY)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"latin")
    url = f"file://{tmp_path}/a%20b%25%C3%A9"
    assert urls.describe(url, TRANSFER).kind == "folder"
    children = list(urls.list_folder(url))
    assert children == [(f"{url}/caf%E9.png", False), (f"{url}/sub", True), (f"{url}/x%20y.png", False)]
    assert list(urls.glob(f"{url}/*.png")) == [f"{url}/caf%E9.png", f"{url}/x%20y.png"]
    assert urls.fetch(f"{url}/caf%E9.png", TRANSFER) == b"latin"
    os.utime(folder / "x y.png", (1000, 2000))
    found = urls.describe(f"{url}/x%20y.png", TRANSFER)
    assert found == ("file", "url:2000.0:300000", len(BODY))
    os.utime(folder / "x y.png", (1000, 2001))
    assert urls.describe(f"{url}/x%20y.png", TRANSFER).fingerprint != found.fingerprint


def test_a_local_root_is_a_folder():
    assert ("file:///etc", True) in list(urls.list_folder("file:///"))


def test_a_fifo_behind_a_url(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for get in (urls.describe, urls.fetch, urls.open_stream):
        assert type(error_of(get, f"file://{tmp_path}/pipe", TRANSFER)) is AccessError


def test_a_folder_is_no_file(tmp_path):
    assert type(error_of(urls.fetch, f"file://{tmp_path}", TRANSFER)) is AccessError


@pytest.mark.parametrize("url", ["file://elsewhere/a.png", "file://a.png", "local://a.png"])
@pytest.mark.parametrize("get", [urls.describe, urls.fetch, urls.open_stream])
def test_a_file_url_names_the_whole_path(tmp_path, monkeypatch, get, url):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(BODY)
    assert type(error_of(get, url, TRANSFER)) is UnsupportedError


@pytest.mark.parametrize("where", ["memory", "file"])
def test_inside_an_archive(memory, tmp_path, where):
    content = zip_of(b_png=BODY, sub__a_png=b"in a folder")
    memory.pipe("/x.zip", content)
    (tmp_path / "x.zip").write_bytes(content)
    archive = "memory://x.zip" if where == "memory" else f"file://{tmp_path}/x.zip"
    found = urls.describe(f"zip://b.png::{archive}", TRANSFER)
    assert found == ("file", f"url:{zlib.crc32(BODY)}:300000", len(BODY))
    assert urls.fetch(f"zip://b.png::{archive}", TRANSFER) == BODY
    assert urls.describe(f"zip://sub::{archive}", TRANSFER).kind == "folder"
    root = [(f"zip://b.png::{archive}", False), (f"zip://sub::{archive}", True)]
    assert list(urls.list_folder(f"zip://::{archive}")) == root
    assert list(urls.list_folder(f"zip://sub::{archive}")) == [(f"zip://sub/a.png::{archive}", False)]
    assert list(urls.glob(f"zip://**/*.png::{archive}")) == [
        f"zip://b.png::{archive}",
        f"zip://sub/a.png::{archive}",
    ]
    stream = urls.open_stream(f"zip://b.png::{archive}", TRANSFER)
    gc.collect()  # the file system closes its archive when nobody needs it any more
    assert stream.read() == BODY
    stream.close()


def test_archives_that_are_broken(memory):
    memory.pipe("/no.zip", b"PK no zip")
    content = bytearray(zip_of(a_png=BODY))
    content[1000] ^= 1
    memory.pipe("/damaged.zip", bytes(content))
    assert type(error_of(urls.describe, "zip://a.png::memory://no.zip", TRANSFER)) is DecodeError
    assert type(error_of(urls.fetch, "zip://a.png::memory://damaged.zip", TRANSFER)) is DecodeError
    assert type(error_of(read, "zip://a.png::memory://damaged.zip")) is DecodeError
    assert type(error_of(urls.fetch, "zip://b.png::memory://damaged.zip", TRANSFER)) is NotFoundError
    assert type(error_of(urls.fetch, "zip://a.png::memory://missing.zip", TRANSFER)) is NotFoundError
    assert type(error_of(list, urls.list_folder("zip://::memory://no.zip"))) is DecodeError


@pytest.mark.parametrize("url", ["nothing://x/a.png", "zip://a.png::nothing://x"])
def test_a_protocol_that_nobody_knows(url):
    for get in (urls.describe, urls.fetch, urls.open_stream):
        error = error_of(get, url, TRANSFER)
        assert type(error) is UnsupportedError
        assert "nothing://" in error.message
    assert type(error_of(list, urls.list_folder(url))) is UnsupportedError
    assert type(error_of(list, urls.glob(url))) is UnsupportedError


@pytest.mark.parametrize(
    ("url", "package"),
    [("s3://bucket/a.png", "s3fs"), ("zip://a::gs://bucket/b.zip", "gcsfs"), ("hf://datasets/a/b", "huggingface-hub")],
)
def test_a_package_that_is_missing_ends_the_run(monkeypatch, url, package):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    for get in (urls.describe, urls.fetch, urls.open_stream):
        with pytest.raises(OmnicapError) as caught:
            get(url, TRANSFER)
        assert not isinstance(caught.value, ItemError)
        assert package in caught.value.message
        assert f"pip install {package}" in caught.value.hint


@pytest.mark.parametrize("url", ["http://example.org/folder/", "https://example.org/*.png"])
def test_a_web_server_lists_nothing(url):
    assert type(error_of(list, urls.list_folder(url))) is UnsupportedError
    assert type(error_of(list, urls.glob(url))) is UnsupportedError


def test_a_server_of_another_kind_that_is_gone():
    with serving() as gone:
        port = gone.port
    url = f"ftp://me:{SECRET}@127.0.0.1:{port}/a.png"
    for get in (urls.describe, urls.fetch, urls.open_stream):
        assert "Connection refused" in error_of(get, url, TRANSFER).message
    assert type(error_of(list, urls.list_folder(url))) is DownloadError


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (PermissionError("no"), AccessError),
        (FileNotFoundError("x"), NotFoundError),
        (TimeoutError(), DownloadError),
        (RuntimeError(f"GET https://me:{SECRET}@host/a?signature={SECRET}\nfailed"), DownloadError),
        (KeyError("x"), DownloadError),
        (Exception(), DownloadError),
    ],
)
def test_whatever_a_file_system_raises(memory, monkeypatch, raised, kind):
    class Moody(MemoryFileSystem):
        cachable = False

        def info(self, *args, **kwargs):
            raise raised

        def _open(self, *args, **kwargs):
            return _MoodyFile(raised)

        ls = glob = info

    monkeypatch.setitem(_registry, "memory", Moody)
    url = f"memory://me:{SECRET}@a.png"
    assert type(error_of(urls.describe, url, TRANSFER)) is kind
    assert type(error_of(urls.fetch, url, TRANSFER)) is kind
    assert type(error_of(read, url)) is kind
    assert type(error_of(list, urls.list_folder(url))) is kind
    assert type(error_of(list, urls.glob(url))) is kind


class _MoodyFile(io.BytesIO):
    def __init__(self, error):
        super().__init__(b"x")
        self._error = error

    def read(self, *args):
        raise self._error
