"""A journal as one HTML page for reviewing it: pictures beside captions, one file that asks nothing of any network.

It knows how a record looks and how the page takes it in; it doesn't know where records or pictures come from. What the
page does stands in the files beside this one, which hold nothing of any journal.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from string import Template
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import orjson  # each record is on the page

from omnicap_cli import __version__
from omnicap_cli.errors import ItemError
from omnicap_cli.exports.export_job import ExportJob

if TYPE_CHECKING:
    from PIL.Image import Image

Record = Mapping[str, Any]

BOX_PIXELS: Final = (240, 320)  # what a thumbnail fits into
LONGEST_RATIO: Final = 4  # of a longer strip only the beginning is shown, else nothing could be made out
QUALITY: Final = 60
PICTURES_PER_BLOCK: Final = 128  # the page finds a picture by its number, so this is the same in gallery_data.js
CARDS_PER_BLOCK: Final = 128
RECORDS_PER_CARD: Final = 32  # more of one id begin another card, so that no card outgrows a page's memory
BLOCK_BYTES: Final = 1 << 20
MANY_RECORDS: Final = 20_000  # more than this and the page is larger than what opens in a few seconds
MAX_DEPTH: Final = 32  # of what stands in a record; orjson writes no more than 254
_SCRIPTS: Final = ("gallery_data.js", "gallery_list.js", "gallery.js")
_DATA_MARK: Final = "<!-- data -->"
# Inside JSON strings, and nowhere else in JSON: what would end a script element, open a comment or break a line.
_ESCAPES: Final = {
    b"<": rb"\u003c",
    b">": rb"\u003e",
    b"&": rb"\u0026",
    "\u2028".encode(): rb"\u2028",
    "\u2029".encode(): rb"\u2029",
}


class Thumbnail(NamedTuple):
    """A small picture: the bytes of a WebP file, and its own size in pixels."""

    webp: bytes
    width: int
    height: int


def write_gallery(job: ExportJob) -> None:
    """See `ExportJob`."""
    assert job.config.target is not None, "ExportConfig asks for a file"

    def thumbnail_of(record: Record) -> Thumbnail | None:
        try:
            return make_thumbnail(job.pictures.pixels_of(record).image)
        except (ItemError, MemoryError):
            return None

    with job.open_output_file(job.config.target) as file:
        records = job.records(grouped=True)
        job.outcome.num_written = write_page(records, file, title=job.reader.path.name, thumbnail_of=thumbnail_of)
    if job.outcome.num_written > MANY_RECORDS:
        job.outcome.warnings.append("browsers take long to open a page of this size; --limit makes a smaller one")


def write_page(
    records: Iterable[Record],
    target: IO[bytes],
    *,
    title: str,
    thumbnail_of: Callable[[Record], Thumbnail | None],
) -> int:
    """Write the page, in the order of `records`, and return how many there were.

    Records that follow each other with one `id` share a card and a picture, that of the first. `thumbnail_of` is called
    from several threads, once for each card, and returns None where there is no picture; what it raises is raised here.
    Never more than a few hundred records are in memory.
    """
    head, tail = _page_around_data(title)
    target.write(head)
    captions = _JsonBlocks(target, "cards", CARDS_PER_BLOCK, BLOCK_BYTES)
    pictures = _JsonBlocks(target, "pictures", PICTURES_PER_BLOCK)
    num_records = 0
    for card, picture in _with_pictures(_group_into_cards(records), thumbnail_of):
        captions.add([dict(record) for record in card])
        pictures.add(picture and (base64.b64encode(picture.webp).decode(), picture.width, picture.height))
        num_records += len(card)
    captions.flush()
    pictures.flush()
    target.write(tail)
    return num_records


def make_thumbnail(image: Image) -> Thumbnail:
    """Shrink a picture of any mode into BOX_PIXELS and encode it, without what else its file said (place, profile)."""
    from PIL.Image import Resampling

    from omnicap_cli.media.images import to_rgb

    longest = LONGEST_RATIO * min(image.size)
    whole = image.crop((0, 0, min(image.width, longest), min(image.height, longest)))
    small = to_rgb(whole)
    small.thumbnail(BOX_PIXELS, Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.info.clear()  # which some Pillows write along
    small.save(buffer, "WEBP", quality=QUALITY)
    return Thumbnail(buffer.getvalue(), *small.size)


# -------------------------------------------------------------------------------------------------- cards


def _group_into_cards(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Neighbours with one id together; a record without one stands alone."""
    for name, group in itertools.groupby(records, lambda record: record.get("id")):
        while card := list(itertools.islice(group, RECORDS_PER_CARD if isinstance(name, str) else 1)):
            yield card


def _with_pictures(
    cards: Iterable[list[Record]], thumbnail_of: Callable[[Record], Thumbnail | None]
) -> Iterator[tuple[list[Record], Thumbnail | None]]:
    """Each card with its thumbnail, in order; threads are a few cards ahead of the one that is yielded."""
    num_threads = min(4, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="thumbnails")
    waiting: deque[tuple[list[Record], Future[Thumbnail | None]]] = deque()
    try:
        for card in cards:
            waiting.append((card, pool.submit(thumbnail_of, card[0])))
            if len(waiting) > 2 * num_threads:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


# --------------------------------------------------------------------------------------------------- page


def _page_around_data(title: str) -> tuple[bytes, bytes]:
    """The page before and after its data. Its policy lets run what is inlined here, by digest, and nothing else."""
    folder = resources.files(__package__)
    style = (folder / "gallery.css").read_text("utf-8")
    scripts = [(folder / name).read_text("utf-8") for name in _SCRIPTS]
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_script_digest(style)}",
        f"script-src {' '.join(map(_script_digest, scripts))}",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    page = Template((folder / "gallery.html").read_text("utf-8")).substitute(
        policy="; ".join(policy),
        title=html.escape(title),
        version=__version__,
        style=style,
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )
    head, _, tail = page.encode("utf-8", "backslashreplace").partition(_DATA_MARK.encode())
    return head, tail


def _script_digest(text: str) -> str:
    """The source expression of CSP level 2, section 4.2.5, that allows an inlined `text`."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _JsonBlocks:
    """JSON arrays in script elements that no browser runs, `num_each` values or `max_bytes` in each.

    The page parses a block when it needs it.
    """

    def __init__(self, target: IO[bytes], name: str, num_each: int, max_bytes: float = math.inf) -> None:
        self._target = target
        self._start = f'<script type="application/json" class="{name}">['.encode()
        self._num_each = num_each
        self._max_bytes = max_bytes
        self._waiting: list[bytes] = []
        self._num_bytes = 0

    def add(self, value: object) -> None:
        self._waiting.append(_inert_json(value))
        self._num_bytes += len(self._waiting[-1])
        if len(self._waiting) >= self._num_each or self._num_bytes >= self._max_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits for its block to be full."""
        if self._waiting:
            self._target.write(self._start + b",\n".join(self._waiting) + b"]</script>\n")
        self._waiting.clear()
        self._num_bytes = 0


def _inert_json(value: object) -> bytes:
    """JSON in which no HTML parser sees anything but text."""
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:  # a lone surrogate, a number or a depth that only another program writes
        encoded = orjson.dumps(_writable_value(value))
    for character, escape in _ESCAPES.items():
        encoded = encoded.replace(character, escape)
    return encoded


def _writable_value(value: object, depth: int = 0) -> object:
    """`value` as a tree that JSON and UTF-8 can hold, odd leaves as their text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(_writable_value(str(name))): _writable_value(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_writable_value(inner, depth + 1) for inner in value]
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    return _writable_value(str(value))
