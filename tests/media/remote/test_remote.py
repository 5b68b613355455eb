"""Files behind URLs of web servers: what is told of them, every byte of them, and streams of them."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.http_server import Answer, serving
from support.remote_files import BODY, SECRET, STATE, TRANSFER, error_of, read
from support.remote_files import server as server  # a fixture
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import AccessError, DownloadError, NotFoundError
from omnicap_cli.media.remote import urls

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
