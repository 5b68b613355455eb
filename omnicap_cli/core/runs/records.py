"""The records that flow: Item, Request, Result. They know how a line of a journal looks, and nothing of files."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from omnicap_cli.core.files.words import without_surrogates
from omnicap_cli.errors import ItemError, OptionError

FinishReason = Literal["stop", "length", "repetition"]


class Span(NamedTuple):
    """A part of a file: the member of an archive that isn't compressed."""

    offset_bytes: int
    num_bytes: int


class TimeWindow(NamedTuple):
    """A part of a clip, in seconds from its first frame."""

    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRef:
    """Where the pixels of one visual are: a picture, a page, or a clip. Whoever uses them decodes them from here.

    `path` is a URL, or a path spelled as Python spells it (bytes that are not UTF-8 as surrogates); `page`, of a PDF or
    of a TIFF with several, counts from 1; `window` is the part of a video that is meant, if not all of it is. `span` is
    the part of the file that holds the visual, if not all of it does. `content` is the file itself where nobody can
    find it again: it came by in a stream.
    """

    path: str
    page: int | None = None
    kind: Literal["image", "pdf", "video"] = "image"
    window: TimeWindow | None = None
    span: Span | None = None
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What prompts are about: one picture, page or clip, several of them, or none where the text says everything.

    `image` is what records call the (first) visual, None where there is none. `fingerprint` tells one state of the
    visuals from another; `meta` holds the caller's own columns. `error` is set where planning already saw that it
    can't be read.
    """

    id: str
    image: str | None = None
    visuals: tuple[MediaRef, ...] = ()
    fingerprint: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    error: ItemError | None = None

    @property
    def contents(self) -> list[bytes]:
        """The files of its visuals that are in memory."""
        return [visual.content for visual in self.visuals if visual.content is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What an engine is asked: the texts, and the names under which a user asked for them.

    `own` marks texts that are a user's own, not those of the built-in catalogue: their question goes into the record.
    Where the model is to choose among `choices`, one for each type, the texts are what it is asked for that.
    """

    type: str
    style: str
    lang: str
    system: str
    user: str
    own: bool = False
    choices: tuple[Prompt, ...] = ()

    @property
    def name(self) -> str:
        """What selects it in a catalogue: TYPE/STYLE/LANG."""
        return f"{self.type}/{self.style}/{self.lang}"

    @property
    def sha(self) -> str:
        """The first 16 hex digits of the SHA-256 of both texts: enough to tell prompts apart in a record."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineIdentity:
    """Which engine and model answer, and its own `settings`: what an engine decides or is told for all requests.

    `fingerprint` changes when the weights do.
    """

    engine: str
    model: str
    revision: str | None
    fingerprint: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How bytes are fetched from elsewhere; none of it changes a result.

    `timeout_seconds` is to connect, and between two pieces; `max_bytes` of one file, or of one member of an archive.
    """

    timeout_seconds: float = 30.0
    num_retries: int = 3
    max_bytes: int = 268_435_456

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= 86_400:  # sockets can't count much further
            raise OptionError(
                "--timeout", self.timeout_seconds, "is not a time; give seconds, more than 0, up to a day"
            )
        if self.num_retries < 0:
            raise OptionError("--retries", self.num_retries, "is not a number of attempts; give 0 or more")
        if self.max_bytes < 1:
            raise OptionError("--max-file-bytes", self.max_bytes, "is too small; give 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What decides the pixels that an engine sees. `None` leaves the choice to the engine.

    `max_decode_pixels` and `transfer` only guard: they decide whether an item is decoded, never how.
    """

    dpi: int = 150
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_decode_pixels: int = 178_956_970
    transfer: Transfer = field(default_factory=Transfer)

    def __post_init__(self) -> None:
        for name in ("dpi", "min_pixels", "max_pixels", "max_decode_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')}", value, "is too small; give 1 or more")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise OptionError("--min-pixels", self.min_pixels, f"is more than --max-pixels {self.max_pixels}")

    def of(self, visuals: Sequence[MediaRef]) -> dict[str, int]:
        """The settings that change the result for `visuals`: only PDF pages have a resolution to choose."""
        if not visuals:
            return {}
        chosen = {
            "dpi": self.dpi if any(visual.kind == "pdf" for visual in visuals) else None,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
        }
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An item with one prompt. `num_following` requests of the same item come directly after this one.

    `attempts` counts this attempt too: 1 unless an earlier one failed.
    """

    key: str
    item: Item
    prompt: Prompt
    settings: Settings
    num_following: int = 0
    attempts: int = 1


class Idle(enum.Enum):
    """Stands among the requests where the source has had nothing for a while: flush what is waiting."""

    IDLE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a request. `error` is set if and only if there is no caption.

    `width` and `height` are those of the only visual as shown (turned by its EXIF orientation), in pixels;
    `image_tokens` are those of all visuals. Where the engine chose the type, `prompt` is what it asked then, and
    `type_score` the share (0 to 1) that spoke for that type.
    """

    key: str
    text: str | None = None
    error: ItemError | None = None
    finish_reason: FinishReason | None = None
    width: int | None = None
    height: int | None = None
    prompt_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    prompt: Prompt | None = None
    type_score: float | None = None

    @classmethod
    def failed(cls, request: Request, error: ItemError, *, seconds: float = 0.0) -> Result:
        """The result of a request whose item can't be captioned."""
        return cls(key=request.key, error=error, seconds=seconds)


def encode_record(request: Request, result: Result, engine: EngineIdentity) -> bytes:
    """One line of a journal, newline included."""
    record = build_record(request, result, engine)
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate, which no UTF-8 file can hold
        return orjson.dumps(without_surrogates(record), option=orjson.OPT_APPEND_NEWLINE)


def build_record(request: Request, result: Result, engine: EngineIdentity) -> dict[str, Any]:
    """The record as users see it, keys in the documented order."""
    item, prompt, error = request.item, result.prompt or request.prompt, result.error
    record: dict[str, Any] = {"id": item.id, **_named_visuals(item)}
    record |= {"type": prompt.type, "style": prompt.style, "lang": prompt.lang}
    if result.type_score is not None:
        record["type_score"] = round(result.type_score, 4)
    record["caption"] = result.text
    record["status"] = "error" if error else "ok"
    if error:
        record["error"] = {"kind": error.kind, "message": error.message}
    record |= {
        "finish_reason": result.finish_reason,
        "generated": True,
        "model": engine.model,
        "revision": engine.revision,
        "engine": engine.engine,
        "prompt_sha": prompt.sha,
        **({"prompt": prompt.user} if prompt.own else {}),
        "settings": {**request.settings.of(item.visuals), **engine.settings},
        "width": result.width,
        "height": result.height,
        "prompt_tokens": result.prompt_tokens,
        "image_tokens": result.image_tokens,
        "output_tokens": result.output_tokens,
        "seconds": round(result.seconds, 3),
        "attempts": request.attempts,
        "key": request.key,
        "meta": dict(item.meta),
    }
    return record


def _named_visuals(item: Item) -> dict[str, Any]:
    """What a record says of an item's visuals: of one its file, and which part of it; of several their files."""
    if len(item.visuals) > 1:
        return {"images": [visual.path for visual in item.visuals]}
    visual = item.visuals[0] if item.visuals else MediaRef(path="")
    named: dict[str, Any] = {"video" if visual.kind == "video" else "image": item.image}
    if visual.page is not None:
        named["page"] = visual.page
    if visual.window is not None:
        named["window"] = list(visual.window)
    return named
