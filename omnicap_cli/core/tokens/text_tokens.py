"""Which tokens a text becomes, exactly as the model's own tokenizer has it, and fast. It knows no chat and no picture.

A tokenizer's file is all that is needed: neither transformers nor torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import orjson

from omnicap_cli.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_NUM_BYTES: Final = 256
_BETWEEN: Final = "\u2028"  # stands for no byte
_NUM_CACHED: Final = 4096
_NUM_LONG_CACHED: Final = 8
_MAX_SHORT_CHARACTERS: Final = 1000
_MAX_SPACES: Final = 100_000  # in a row: tiktoken's regexes were seen to overflow at a million
_SPACES: Final = re.compile(rf"\s{{{_MAX_SPACES}}}")
# Between a line break and each of these every tokenizer that is read here begins a new token; `_breaks_lines` looks.
_AFTER_LINE_BREAK: Final = ("a", "Z", "ß", "1", "²", "图", "か", "'s", ".", "(", "—", "#", "*", "<", "🙂", "\u0301")
# Of texts that hold nothing else the normal form NFC changes nothing: no character here takes part in a composition,
# or has a combining class. By the stability policy of Unicode that stays so.
_COMPOSED: Final = (
    "\x00-\u02ff\u0400-\u0482\u048a-\u052f\u1e00-\u1eff\u2010-\u2027\u2030-\u205e\u2070-\u209c\u20a0-\u20bf"
    "\u2190-\u2328\u232b-\u23ff\u2460-\u2adb\u2add-\u2bff\u2e80-\u2e99\u2f00-\u2fd5\u3000-\u3029\u3030-\u303f"
    "\u3041-\u3096\u309b-\u30ff\u3105-\u312f\u3131-\u318e\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\ufe00-\ufe0f"
    "\uff01-\uffee\U0001f300-\U0001faff"
)
_MAYBE_NOT_NFC: Final = re.compile(f"[^{_COMPOSED}]")


class TokenizersDisagreeError(Exception):
    """The fast way of counting gave another number than the model's tokenizer: what was counted may be wrong."""


class TextTokens:
    """The tokens of texts. What looks like a token of the model's own in a text stays text.

    Those are, as transformers has it with `sanitize_control_tokens`, the special tokens and whatever else the chat
    template writes (`written`); any other added token, as `<think>`, is one in a text too.
    """

    def __init__(self, tokenizer_json: bytes, *, written: str = "", fast: bool = True) -> None:
        """`tokenizer_json` is what a tokenizer.json holds. Raises EngineError where that is no tokenizer.

        With `fast` off every text goes through the model's tokenizer itself.
        """
        self._json, config = tokenizer_json, _parse_config(tokenizer_json)
        self.exact: Tokenizer = _load_tokenizer(tokenizer_json)
        added = config.get("added_tokens") or []
        self._ids = {each["content"]: each["id"] for each in added}
        control = [
            each["content"]
            for each in added
            if each["special"] or (each["content"] in written and not each["content"].isspace())
        ]
        self._control, self._added = _one_of(control), _one_of(self._ids)
        self.why_slow: str | None = "it was asked not to be"
        self._fast_count: Callable[[str], int] | None = None
        if fast:
            self._fast_count, self.why_slow = _build_fast_count(config)
        self.breaks_lines = self._breaks_lines()
        self._count_short = functools.lru_cache(_NUM_CACHED)(self.count)
        self._count_long = functools.lru_cache(_NUM_LONG_CACHED)(self.count)

    @property
    def is_fast(self) -> bool:
        """Whether texts are counted in the fast way; `why_slow` says why not."""
        return self._fast_count is not None

    def id_of(self, token: str) -> int | None:
        """The id of an added token."""
        return self._ids.get(token)

    def count(self, text: str) -> int:
        """How many tokens `text` becomes."""
        if not text:
            return 0
        overflows = len(text) >= _MAX_SPACES and _SPACES.search(text)
        if self._fast_count is None or overflows or self._added.search(text):
            return sum(len(encoding.ids) for _, encoding in self._encodings(text))
        return self._fast_count(text)

    def count_known(self, text: str) -> int:
        """`count` for what comes again: a question in many samples, an answer twice in its own."""
        return self._count_short(text) if len(text) <= _MAX_SHORT_CHARACTERS else self._count_long(text)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, by the model's tokenizer itself."""
        return [number for number, _ in self.encode_with_places(text)]

    def encode_with_places(self, text: str) -> list[tuple[int, int]]:
        """The ids of `text`, each with the character of `text` at which its token begins."""
        return [
            (number, start + place)
            for start, encoding in self._encodings(text)
            for number, (place, _) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def literal(self, text: str) -> list[str | int]:
        """What a chat template writes: its added tokens as ids, and the texts between them."""
        parts = re.split(f"({self._added.pattern})", text)  # text, added token, text, …
        return [self._ids[part] if number % 2 else part for number, part in enumerate(parts) if part]

    @functools.cached_property
    def _has_plain_text(self) -> Tokenizer:
        """The same without added tokens."""
        return _load_tokenizer(orjson.dumps(_parse_config(self._json) | {"added_tokens": []}))

    def _encodings(self, text: str) -> Iterator[tuple[int, Encoding]]:
        """The parts of `text` encoded, each with the character at which it begins: control tokens apart, as text."""
        start = 0
        for match in self._control.finditer(text):
            if start < match.start():
                yield start, self.exact.encode(text[start : match.start()], add_special_tokens=False)
            yield match.start(), self._has_plain_text.encode(match[0], add_special_tokens=False)
            start = match.end()
        if start < len(text):
            yield start, self.exact.encode(text[start:], add_special_tokens=False)

    def _breaks_lines(self) -> bool:
        """Whether a text can be counted in two parts, where a line break is followed by anything but white space."""
        lines = [(f"{head}\n", tail) for head in ("a", "b.", "1", "图", "-") for tail in _AFTER_LINE_BREAK]
        ids = [self.encode(head + tail) == self.encode(head) + self.encode(tail) for head, tail in lines]
        return all(ids)


def _one_of(words: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of `words` wherever one begins; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")


def _parse_config(tokenizer_json: bytes) -> dict[str, Any]:
    try:
        config: dict[str, Any] = orjson.loads(tokenizer_json)
    except ValueError as error:
        raise _damaged_error(error) from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise _damaged_error("it has no model")
    return config


def _load_tokenizer(tokenizer_json: bytes) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:  # the library raises no other
        raise _damaged_error(error) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _damaged_error(why: object) -> EngineError:
    return EngineError(f"the model's tokenizer.json can't be read: {why}", hint="Copy or download it again.")


# ------------------------------------------------------------------------------------------ the fast way


def _build_fast_count(config: dict[str, Any]) -> tuple[Callable[[str], int] | None, str | None]:
    """What counts with tiktoken, in texts without added tokens; else None, and why.

    That is for a byte-level BPE tokenizer that splits by one pattern, as all of Qwen.
    """
    from tokenizers import normalizers

    normalizer = config.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return None, f"its normaliser is {normalizer.get('type')}"
    pattern = _pattern(config.get("pre_tokenizer") or {})
    ranks = _ranks(config["model"])
    if pattern is None or ranks is None:
        return None, "it is no byte-level BPE tokenizer"
    import tiktoken

    try:
        encode = tiktoken.Encoding("model", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
    except Exception as error:  # noqa: BLE001  of its regex library, which reads another dialect
        return None, f"its pattern can't be used: {error}"
    normalize = normalizers.NFC().normalize_str

    def count(text: str) -> int:
        if normalizer is not None and not text.isascii() and _MAYBE_NOT_NFC.search(text):
            text = normalize(text)
        return len(encode(text))

    return count, None


def _pattern(pre_tokenizer: dict[str, Any]) -> str | None:
    """The regex that a text is split by before its bytes are joined into tokens."""
    steps = pre_tokenizer.get("pretokenizers") or []
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, byte_level = steps
    is_plain = split.get("behavior") == "Isolated" and not split.get("invert")
    if not is_plain or byte_level.get("add_prefix_space") or byte_level.get("use_regex"):
        return None
    pattern: str | None = split.get("pattern", {}).get("Regex")
    return pattern


def _ranks(model: dict[str, Any]) -> dict[bytes, int] | None:
    """Tokens as bytes, in the order in which they are joined; the single bytes first."""
    extras = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model.get("type") != "BPE" or any(model.get(name) for name in (*extras, "byte_fallback")):
        return None
    bytes_of = {ord(character): byte for byte, character in _byte_characters().items()}
    if any(chr(character) not in model["vocab"] for character in bytes_of):
        return None
    ranks = {bytes([byte]): byte for byte in range(_NUM_BYTES)}
    joined = [pair.replace(" ", "") if isinstance(pair, str) else "".join(pair) for pair in model["merges"]]
    for token in _BETWEEN.join(joined).translate(bytes_of).split(_BETWEEN) if joined else ():
        ranks.setdefault(token.encode("latin-1"), len(ranks))
    return ranks


def _byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level vocabulary, as GPT-2 introduced it."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, _NUM_BYTES)]
    hidden = [byte for byte in range(_NUM_BYTES) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(_NUM_BYTES + n) for n, byte in enumerate(hidden)}
