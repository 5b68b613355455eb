"""The text of a URL: what is one, where it leads, and which are not valid."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.http_server import Answer
from support.remote_files import BODY, SECRET, TRANSFER, error_of
from support.remote_files import server as server  # a fixture
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import DownloadError, OptionError
from omnicap_cli.media.remote import urls


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
