"""Credentials stay with their server and out of errors; proxies, cookies and certificates."""

from __future__ import annotations

import subprocess

import pytest
from support.http_server import Answer, serving
from support.remote_files import BODY, SECRET, TRANSFER, error_of
from support.remote_files import server as server  # a fixture
from support.remote_files import surroundings as surroundings  # a fixture

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import DownloadError
from omnicap_cli.media.remote import http, urls

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
