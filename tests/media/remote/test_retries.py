"""Waiting between attempts, and files that break off: they are continued, and never put together from two."""

from __future__ import annotations

import types

import pytest
from support.http_server import Answer
from support.remote_files import BODY, STATE, TRANSFER, error_of, read
from support.remote_files import server as server  # a fixture
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import DownloadError
from omnicap_cli.media.remote import http, urls


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited between attempts, without the waiting."""
    found = []
    monkeypatch.setattr(http, "time", types.SimpleNamespace(sleep=found.append))
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.5)
    return found


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


# ---------------------------------------------------------------------------------------------- what breaks off


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
