"""Redirects are followed as far as that is safe, and each file begins at the first of them."""

from __future__ import annotations

import pytest
from support.http_server import Answer
from support.remote_files import BODY, SECRET, STATE, TRANSFER, error_of, read
from support.remote_files import server as server  # a fixture
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.errors import DownloadError, NotFoundError
from omnicap_cli.media.remote import urls


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
