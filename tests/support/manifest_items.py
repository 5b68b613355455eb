"""A folder of pictures for manifests to name, and the items that come out of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.media_samples import solid_png

from omnicap_cli.errors import ManifestError
from omnicap_cli.media.sources import Sources


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "d/c.png"):
        make_file(name)
    return tmp_path


def make_file(name, data=None):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(solid_png() if data is None else data if isinstance(data, bytes) else data.encode())
    return name


def items_of(*inputs, **options):
    return list(Sources(inputs=inputs, **options))


def columns_of(*inputs, **options):
    """(id, columns or kind of error) of each item."""
    return [(item.id, item.error.kind if item.error else dict(item.meta)) for item in items_of(*inputs, **options)]


def message_of(*inputs, **options):
    (item,) = items_of(*inputs, **options)
    assert isinstance(item.error, ManifestError)
    return item.error.message
