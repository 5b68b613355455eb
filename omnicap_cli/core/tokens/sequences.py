"""The one place where a conversation becomes the sequence that a model is trained on, or only its length.

What is counted beforehand and what training feeds come from the same `parts`, so they can't differ. Supervised are
the answers, each with the mark that ends it, and nothing else.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from omnicap_cli.core.tokens.chat_format import ChatFormat
from omnicap_cli.core.tokens.clip_grid import Media
from omnicap_cli.core.tokens.samples import MediaKind, Turn
from omnicap_cli.core.tokens.text_tokens import TextTokens
from omnicap_cli.errors import EngineError

IGNORED: Final = -100  # the label of what is not supervised, as in torch's cross entropy
_NUM_HEADS: Final = 256
_FROM_BASE: Final = "Copy tokenizer.json and chat_template.jinja from the base model."


class Text(NamedTuple):
    """A text that becomes tokens together with its neighbours."""

    text: str
    is_answer: bool = False


class Token(NamedTuple):
    """One token of the model's own, `num` times in a row."""

    id: int
    num: int = 1
    is_answer: bool = False


Part = Text | Token


class TokenSequence(NamedTuple):
    """Ids, and the labels that belong to them: the id itself where it is supervised, else IGNORED."""

    input_ids: list[int]
    labels: list[int]


class _Head(NamedTuple):
    """What stands before the first question: `parts` down to the last token, and the texts of `opening` behind it."""

    parts: list[Part]
    opening: list[Part]
    length: int


class SequenceBuilder:
    """Builds the sequences of one model."""

    def __init__(self, chat: ChatFormat, text: TextTokens) -> None:
        """Raises EngineError where the template doesn't write what the tokenizer knows as tokens."""
        self._text = text
        self._before_answer = self._parse_literal(chat.before_answer)
        self._before_system = self._parse_literal(chat.before_system)
        self._after_system = self._parse_literal(chat.after_system)
        self._without_system = self._parse_literal(chat.without_system)
        self._after_answer, self._end = self._ending_of(chat.after_answer), self._ending_of(chat.end)
        self._marks = {
            MediaKind.IMAGE: self._token_of_mark(chat.image),
            MediaKind.VIDEO: self._token_of_mark(chat.video),
        }
        self._head = functools.lru_cache(_NUM_HEADS)(self._find_head)

    def parts(self, system: str, turns: Sequence[Turn], media: Sequence[Media]) -> list[Part]:
        """A conversation, `media` in the order of their places; no system text is the template's own."""
        head = self._head(system)
        return [*head.parts, *self._body(head.opening, turns, media)]

    def sequence_length(self, system: str, turns: Sequence[Turn], media: Sequence[Media]) -> int:
        """The length of the ids of the same conversation."""
        head = self._head(system)
        return head.length + self._length(self._body(head.opening, turns, media))

    def text_length(self, texts: Sequence[str]) -> int:
        """Tokens of `texts` joined by line breaks: without template, system text and media."""
        return self._span_length([*(Text(f"{text}\n") for text in texts[:-1]), Text(texts[-1])])

    def _find_head(self, system: str) -> _Head:
        """The same for all samples of a task type."""
        parts = [*self._before_system, Text(system), *self._after_system] if system else self._without_system
        num_parts = max((number for number, part in enumerate(parts, 1) if isinstance(part, Token)), default=0)
        return _Head(parts[:num_parts], parts[num_parts:], self._length(parts[:num_parts]))

    def _body(self, opening: Iterable[Part], turns: Sequence[Turn], media: Sequence[Media]) -> list[Part]:
        found: list[Part] = [*opening]
        waiting = iter(media)
        for number, turn in enumerate(turns, 1):
            for part in turn.question:
                if isinstance(part, str):
                    found.append(Text(part))
                else:
                    found += self._media_parts(part, next(waiting))
            found += self._before_answer
            found.append(Text(turn.answer, is_answer=True))
            found += self._end if number == len(turns) else self._after_answer
        return found

    def _length(self, parts: Iterable[Part]) -> int:
        """The length of the ids of `parts`."""
        total = 0
        texts: list[Text] = []
        for part in parts:
            if isinstance(part, Text):
                texts.append(part)
                continue
            if texts:
                total += self._span_length(texts)
                texts = []
            total += part.num
        return total + self._span_length(texts)

    def build(self, parts: Iterable[Part]) -> TokenSequence:
        """The ids of `parts`, and the labels."""
        input_ids: list[int] = []
        labels: list[int] = []
        for span in _spans(parts):
            if isinstance(span, Token):
                input_ids += [span.id] * span.num
                labels += [span.id if span.is_answer else IGNORED] * span.num
                continue
            answer = sum(len(part.text) for part in span if not part.is_answer)  # it comes last in its span
            for number, place in self._text.encode_with_places("".join(part.text for part in span)):
                input_ids.append(number)
                labels.append(number if place >= answer else IGNORED)
        return TokenSequence(input_ids, labels)

    def _span_length(self, span: Sequence[Text]) -> int:
        """Each text by itself where that is known to be the same: most are questions, the same ones all the time."""
        if len(span) > 1 and not self._is_separable(span):
            return self._text.count("".join(part.text for part in span))
        count = self._text.count_known
        return sum([count(part.text) for part in span])

    def _is_separable(self, span: Sequence[Text]) -> bool:
        if not self._text.breaks_lines:
            return False
        for left, right in itertools.pairwise(span):
            if not left.text.endswith("\n") or right.text[:1].isspace() or not right.text:
                return False
        return True

    def _media_parts(self, kind: MediaKind, media: Media) -> Iterator[Part]:
        """A picture or clip with the marks around it."""
        before, pad, after = self._marks[kind]
        run: tuple[Part, ...] = (before, pad._replace(num=media.num_tokens), after)
        if media.timestamps is None:
            yield from run
            return
        yield before
        for timestamp in media.timestamps:
            yield Text(timestamp)
            yield from run
        yield after

    def _parse_literal(self, literal: str) -> list[Part]:
        return [Text(part) if isinstance(part, str) else Token(part) for part in self._text.literal(literal)]

    def _ending_of(self, literal: str) -> list[Part]:
        """What stands after an answer; the mark that ends it belongs to it."""
        first, *rest = self._parse_literal(literal) or [Text("")]
        if not isinstance(first, Token):
            raise EngineError("the model's chat template ends an answer with no token of its own", hint=_FROM_BASE)
        return [first._replace(is_answer=True), *rest]

    def _token_of_mark(self, literal: str) -> tuple[Token, Token, Token]:
        """The token before media, the one that stands for them, and the one after."""
        match self._parse_literal(literal):
            case [Token() as before, Token() as pad, Token() as after]:
                return before, pad, after
        what = f"the model's chat template writes {literal!r} for media, which is not one token between two"
        raise EngineError(what, hint=_FROM_BASE)


def _spans(parts: Iterable[Part]) -> Iterator[Token | list[Text]]:
    """Neighbouring texts together: nothing keeps their tokens apart."""
    texts: list[Text] = []
    for part in parts:
        if isinstance(part, Text):
            texts.append(part)
            continue
        if texts:
            yield texts
            texts = []
        yield part
    if texts:
        yield texts
