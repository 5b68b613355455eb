"""Journals to test what is made of them: records as a run writes them, and captions that break careless writers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HOSTILE_CAPTIONS = (
    "",
    " ",
    'She said "so", and left;\tthen; more, and more',
    "two\nlines",
    "a lone \r carriage return, and a pair \r\n of them",
    "\n\r\n",
    '"',
    '""',
    '=HYPERLINK("http://example.org","x")',
    "@SUM(1+1)",
    "-1+1",
    "</script><script>alert(1)</script> & <b>bold</b> &amp;",
    "]]> --> ?> %00",
    "\x01\x02\x07\x08\x0b\x0c\x0e\x1b[31m\x1f\x7f\x80\x85\x9f",
    "a NUL \0 within",
    "\0",
    r"a lone surrogate, escaped: \ud800 \udfff",
    "line \u2028 and paragraph \u2029 separators, \ufeff a BOM, \ufffe and \uffff",
    "שלום עולם \u202e evil \u202c مرحبا",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 \U0010ffff 图片",
    "null",
    "NaN",
    "007",
    "1e5",
    "True",
    "\ufeff",
    "x" * 1_000_000,
    'long, "quoted"\r\n' * 10_000,
)


def make_record(id: str = "a.jpg", caption: str | None = "A dog.", *, state: object = 0, **more: Any) -> dict[str, Any]:
    """A record with its keys in the documented order. `state` tells states of one picture apart, as its key does.

    `more` replaces values, and adds what isn't there; without a caption it is an error.
    """
    record: dict[str, Any] = {"id": id, "image": more.pop("image", id)}
    if "page" in more:
        record["page"] = more.pop("page")
    record |= {"type": "natural", "style": "detailed", "lang": "en", "caption": caption}
    record["status"] = "ok" if caption is not None else "error"
    if caption is None:
        record["error"] = {"kind": "DecodeError", "message": "damaged: truncated"}
    record |= {
        **{"finish_reason": None if caption is None else "stop", "generated": True, "model": "U4R/OmniCaptioner"},
        **{"revision": None, "engine": "vllm", "prompt_sha": "0123456789abcdef", "settings": {}},
        **{"width": 640, "height": 480, "prompt_tokens": 30, "image_tokens": 391, "output_tokens": 7},
        **{"seconds": 0.25, "attempts": 1, "key": "", "meta": {}},
    }
    record |= more
    named = [record["id"], record["type"], record["style"], record["lang"], state]
    record["key"] = more.get("key", hashlib.sha256(json.dumps(named).encode()).hexdigest())
    return record


def line_of(record: dict[str, Any]) -> bytes:
    """A record as it stands in a journal."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_journal(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    """A journal of these records."""
    with path.open("wb") as file:
        file.writelines(map(line_of, records))
    return path
