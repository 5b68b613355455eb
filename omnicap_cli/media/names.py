"""What names tell: the kind of a file by its suffix, and how files are named in records.

A name in a record is text that any JSON reader takes, and it leads back to the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".icns", ".jp2", ".j2k", ".jpx", ".tga", ".pcx", ".sgi", ".qoi"),
        *(".avif", ".avifs", ".heic", ".heif", ".hif"),
    )
)
TIFF_SUFFIXES: Final = (".tif", ".tiff")
PDF_SUFFIX: Final = ".pdf"
ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_MEMBER: Final = "#member="
_CACHES: Final = r"(?:(?:simplecache|filecache|blockcache|cached)(?:://)?::)*"  # they keep what the next link has
_URL: Final = re.compile(_CACHES + r"[A-Za-z][A-Za-z0-9+.-]+://")
_CHAIN: Final = re.compile(rf"({_CACHES})(.*?)((?:::.*)?)", re.DOTALL)
_UNCHAINED: Final = re.compile(r"https?://|(?:file|local)://(?:localhost)?/", re.IGNORECASE)
_ELSEWHERE: Final = re.compile(r"(?!(?i:file|local|git)(?::|\Z))(?:[a-z]+\Z|[A-Za-z][A-Za-z0-9+.-]+://)")
_WEB_USER: Final = re.compile(r"(\b(?:https?|ftps?)://)[^/\s?#@]*@", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"(\b(?:sftp|ssh|smb|webdavs?)://[^/\s:?#@]*):[^/\s?#@]*@", re.IGNORECASE)
_DOT_STEPS: Final = re.compile(r"(?<=/)(?:\./+)+|(?<=/)/+")


def is_url(path: str) -> bool:
    """Whether it is a URL: a scheme of two letters or more, and `://`; perhaps behind caches."""
    return "://" in path and _URL.match(path) is not None


class UrlChain(NamedTuple):
    """A URL such as `simplecache::zip://a.png::s3://bucket/x.zip`, taken apart; the parts make it up again.

    `link` is the one that names the file; `before` are caches, and `after` is where the link leads through. Most URLs
    are one link.
    """

    before: str
    link: str
    after: str


def split_chain(url: str) -> UrlChain:
    """The links of a URL. Addresses of web servers and local files have one: there `::` is part of a name."""
    if _UNCHAINED.match(url):
        return UrlChain("", url, "")
    match = _CHAIN.fullmatch(url)
    assert match is not None, "every part may be empty"
    return UrlChain(*match.groups())


def is_http(path: str) -> bool:
    """Whether it is a URL without folders or patterns: in one of these a ? begins the query."""
    return split_chain(path).link.lower().startswith(("http://", "https://"))


def is_elsewhere(path: str) -> bool:
    """Whether it is a URL that leads to another machine.

    To fsspec a link of a chain that is a word in small letters is a protocol, any other without one a path of this
    machine; its `git://` reads repositories of this machine.
    """
    chain = split_chain(path)
    return is_url(path) and all(_ELSEWHERE.match(each) for each in (chain.link, *chain.after.split("::")[1:]))


def without_query(path: str) -> str:
    """The link of a URL that names the file, without query and fragment; a path as it is."""
    return re.split(r"[?#]", split_chain(path).link, maxsplit=1)[0] if is_url(path) else path


def suffix_of(path: str) -> str:
    """The suffix in small letters, with its dot."""
    return os.path.splitext(without_query(path))[1].lower()


def is_archive(path: str) -> bool:
    """Whether a path or URL names a tar archive."""
    return without_query(path).lower().endswith(ARCHIVE_SUFFIXES)


def is_media_name(name: str) -> bool:
    """Whether a file of that name is taken from a folder or an archive."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in IMAGE_SUFFIXES or suffix == PDF_SUFFIX


def member_name(archive: str, member: str) -> str:
    """The name of a member of an archive (`archive` as shown): `x.tar#member=NAME`, NAME percent-encoded."""
    return f"{archive}{_MEMBER}{quote_from_bytes(os.fsencode(member), safe='/')}"


def split_member(shown: str) -> tuple[str, str] | None:
    """The archive and the member that `member_name` put together; None for any other name."""
    archive, mark, member = shown.partition(_MEMBER)
    return (archive, os.fsdecode(unquote_to_bytes(member))) if mark else None


def shown_path(path: str) -> str:
    """`path` as an id: without `./`, doubled slashes and a URL's password; a name that isn't UTF-8 is percent-encoded.

    In a percent-encoded name every `%` is encoded too, so `path_of_shown` finds the bytes again.
    """
    path = plain_path(path)
    if path.isascii():
        return without_credentials(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        return quote_from_bytes(os.fsencode(path), safe=_SAFE)
    return path


def without_credentials(text: str) -> str:
    """`text` without the passwords of URLs in it: they must not get into any file.

    Other protocols (`github://org:repo@branch/…`) have an @ that is no secret.
    """
    return _PASSWORD.sub(r"\1@", _WEB_USER.sub(r"\1", text)) if "://" in text else text


def plain_path(path: str) -> str:
    """`path` without `./` and doubled slashes, with `/` between folders. Two spellings of one path become one."""
    if "://" in path:
        return path
    if "//" in path or "/./" in path:
        path = _DOT_STEPS.sub("", path)
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path.replace(os.sep, "/") if os.sep != "/" else path


def path_of_shown(shown: str) -> str:
    """The path that `shown_path` percent-encoded."""
    return os.fsdecode(unquote_to_bytes(shown))


def possible_paths(shown: str, folders: Iterable[str]) -> Iterator[str]:
    """Where the file of a record may be: its name as it stands there, or percent-decoded, in one of `folders`."""
    for name in dict.fromkeys((shown, path_of_shown(shown))):
        yield from (os.path.join(folder, name) for folder in folders)


_SAFE: Final = bytes(range(0x20, 0x7F)).replace(b"%", b"")
