"""What a model's chat template writes around the texts and pictures of a conversation. It knows no tokens.

The template is rendered a few times with words that stand for texts. What stands between them is all that is needed
from then on: a conversation costs no rendering.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn

from omnicap_cli.core.models.model_json import read_object_if_there
from omnicap_cli.errors import EngineError

IMAGE, VIDEO = "image", "video"
_NAMED_TOKENS: Final = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
_WORDS: Final = tuple(f"Word{number}Stands" for number in range(8))
_HINT: Final = "Take a Qwen2-VL, Qwen2.5-VL or Qwen3-VL, or copy chat_template.jinja from the base model."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """The texts that a template writes, control tokens in them.

    A conversation is `before_system`, the system text and `after_system`, or `without_system`; then question,
    `before_answer`, answer in turns, with `after_answer` between two turns and `end` after the last. `image` and
    `video` stand where those stand. `written` is all that `template` can write by itself.
    """

    before_system: str
    after_system: str
    without_system: str
    before_answer: str
    after_answer: str
    end: str
    image: str
    video: str
    template: str
    written: str

    @classmethod
    def of_folder(cls, folder: Path) -> ChatFormat:
        """The format of the model in `folder`. Raises EngineError where it has none that can be taken apart."""
        try:
            template, variables = _read_template(folder)
        except (OSError, UnicodeDecodeError) as error:
            what = f"can't read the chat template in {folder}: {getattr(error, 'strerror', None) or error}"
            raise EngineError(what, hint=_HINT) from error
        try:
            render = _Renderer(template, variables)
            found = cls._learn(render)
            found._check_other_forms(render)
        except EngineError:
            raise
        except Exception as error:  # of the template, which may do anything
            raise EngineError(f"the chat template in {folder} fails: {error}", hint=_HINT) from error
        return found

    def _render(self, system: str, turns: Sequence[tuple[Sequence[str], str]]) -> str:
        """A whole conversation; IMAGE and VIDEO in a question stand for themselves."""
        text = f"{self.before_system}{system}{self.after_system}" if system else self.without_system
        media = {IMAGE: self.image, VIDEO: self.video}
        for number, (question, answer) in enumerate(turns, 1):
            text += "".join(media.get(part, part) for part in question) + self.before_answer + answer
            text += self.end if number == len(turns) else self.after_answer
        return text

    @classmethod
    def _learn(cls, render: _Renderer) -> ChatFormat:
        system, first, answer, second, last = _WORDS[:5]
        pieces = _split_around(render(system, [([first], answer), ([second], last)]), _WORDS[:5])
        before_system, after_system, before_answer, after_answer, again, end = pieces
        if again != before_answer:
            _refuse("it writes every turn in another way")
        without_system, _, _ = _split_around(render("", [([first], answer)]), (first, answer))
        media = [render(system, [([kind, first], answer)]) for kind in (IMAGE, VIDEO)]
        image, video = (_split_around(text, (system, first, answer))[1].removeprefix(after_system) for text in media)
        return cls(
            before_system=before_system,
            after_system=after_system,
            without_system=without_system,
            before_answer=before_answer,
            after_answer=after_answer,
            end=end,
            image=image,
            video=video,
            template=render.template,
            written=render.written,
        )

    def _check_other_forms(self, render: _Renderer) -> None:
        """Whether conversations of other forms are rendered as it says."""
        a, b, c, d, e, f, g, h = _WORDS
        for system, turns in (
            (a, [([b, IMAGE, c, IMAGE, d], e), ([f, VIDEO], g), ([h], a)]),
            ("", [([IMAGE, VIDEO, IMAGE, a], b), ([IMAGE, c], d)]),
            ("", [([a], b)]),
            (a, [([IMAGE], b), ([f"\n {c} \n", IMAGE, f" {d}\n"], f" \n{e}\n "), ([f], f" {g}")]),
        ):
            if self._render(system, turns) != render(system, turns):
                _refuse("it treats turns, or what is in them, differently by their place")


class _Renderer:
    """A template, as transformers renders it."""

    def __init__(self, template: str, variables: Mapping[str, str]) -> None:
        from jinja2.ext import Extension, loopcontrols
        from jinja2.nodes import Const, Node, TemplateData
        from jinja2.parser import Parser
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """`{% generation %}` marks what the model says, and writes nothing."""

            tags = frozenset({"generation"})  # type: ignore[assignment]

            def parse(self, parser: Parser) -> list[Node]:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, **({"ensure_ascii": False} | kwargs))
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.template, self._variables = template, variables
        self._template = environment.from_string(template)
        tree = environment.parse(template)
        literals = [each.data for each in tree.find_all(TemplateData)] + [each.value for each in tree.find_all(Const)]
        self.written = "\0".join(filter(lambda literal: isinstance(literal, str), literals))

    def __call__(self, system: str, turns: Sequence[tuple[Sequence[str], str]]) -> str:
        messages = [{"role": "system", "content": [_content_part(system)]}] if system else []
        for question, answer in turns:
            messages.append({"role": "user", "content": [_content_part(part) for part in question]})
            messages.append({"role": "assistant", "content": [_content_part(answer)]})
        return self._template.render(messages=messages, add_generation_prompt=False, **self._variables)


def _content_part(text: str) -> dict[str, str]:
    return {"type": text} if text in (IMAGE, VIDEO) else {"type": "text", "text": text}


def _split_around(text: str, words: Sequence[str]) -> list[str]:
    """What stands before, between and after `words`, each of which is there once, in their order."""
    pieces = []
    for word in words:
        piece, found, text = text.partition(word)
        if not found or word in text:
            _refuse("a text is not written once, or not as it is")
        pieces.append(piece)
    return [*pieces, text]


def _read_template(folder: Path) -> tuple[str, dict[str, str]]:
    """The template of a folder, and the tokens that it may write by name."""
    config = read_object_if_there(folder / "tokenizer_config.json") or {}
    named = {name: config[name] for name in _NAMED_TOKENS if config.get(name)}
    variables = {name: token["content"] if isinstance(token, dict) else str(token) for name, token in named.items()}
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text("utf-8"), variables
    of_processor = read_object_if_there(folder / "chat_template.json") or {}
    template = of_processor.get("chat_template") or config.get("chat_template")
    if isinstance(template, list):  # of several, by name
        template = {each.get("name"): each.get("template") for each in template}.get("default")
    if not isinstance(template, str):
        raise EngineError(f"{folder} has no chat_template.jinja, which says how a question is put", hint=_HINT)
    return template, variables


def _refuse(why: str) -> NoReturn:
    raise EngineError(f"the model's chat template can't be used for training data: {why}", hint=_HINT)
