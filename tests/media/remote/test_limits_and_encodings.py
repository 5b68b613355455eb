"""Files that are too large, or encoded as nobody asked for: they are stopped at the limit, or decoded."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zlib

import pytest
from support.http_server import Answer
from support.remote_files import BODY, STATE, TRANSFER, error_of, read
from support.remote_files import server as server  # a fixture
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import DecodeError, DownloadError, TooLargeError
from omnicap_cli.media.remote import urls

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
