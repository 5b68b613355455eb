"""Where the picture of a manifest's row is: its bytes in the row, or a path that counts from somewhere.

It opens no picture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

from omnicap_cli.media.names import is_http, is_url, split_chain, without_query


def path_and_content(picture: Any) -> tuple[str | None, bytes | None]:
    """A path, or the bytes of the picture: on their own, or as `datasets` keeps them, {"bytes": …, "path": …}."""
    if isinstance(picture, Mapping):
        return path_and_content(picture.get("bytes") or picture.get("path"))
    if isinstance(picture, bytes):
        return None, picture
    return (picture, None) if isinstance(picture, str) else (None, None)


def path_in_row(path: str, *, folder: str, image_root: str | None) -> str:
    """A path of a row, which counts from `image_root`, else from the manifest's folder or the current one."""
    if is_url(path):
        return path
    if image_root is not None:
        return os.path.join(image_root, path)
    if os.path.isabs(path) and not is_url(folder):
        return path
    beside = resolve_against_url(folder, path) if is_url(folder) else os.path.join(folder, path)
    return beside if is_url(beside) or os.path.lexists(beside) or not os.path.lexists(path) else path


def folder_of(path: str) -> str:
    """Where a row's relative path counts from; a URL ends in a slash there, and keeps what its chain leads through."""
    if not is_url(path):
        return os.path.dirname(path)
    before, _, after = split_chain(path)
    return f"{before}{without_query(path).rsplit('/', 1)[0]}/{after}"


def resolve_against_url(folder: str, path: str) -> str:
    """A row's path as seen from the URL of its manifest's folder."""
    before, link, after = split_chain(folder)
    if is_url(path):
        return path
    if is_http(link):
        return before + urljoin(link, path) + after
    return path if path.startswith("/") else before + link + path + after
