"""What tests of remote files share: a server, bytes for it to serve, and what an error may never tell."""

from __future__ import annotations

import os
import random
import re

import pytest
from support.http_server import serving

from omnicap_cli.core.runs.records import Transfer
from omnicap_cli.errors import ItemError
from omnicap_cli.media.remote import http, urls

TRANSFER = Transfer(timeout_seconds=30, num_retries=2)
BODY = random.Random(1).randbytes(300_000)
SECRET = "s3cret"
STATE = {"ETag": '"v1"'}  # by which a server says that a file is still the same


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
