"""Which tokens a prompt of text alone becomes, and how many. It knows no picture, no device and runs no model."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from omnicap_cli.core.files.words import first_line
from omnicap_cli.core.runs.records import Prompt, Settings
from omnicap_cli.errors import EngineError, InferenceError

_NUM_PROMPTS: Final = 256  # whose tokens are kept; where columns are filled in, every item has a prompt of its own


class TokenCounts(NamedTuple):
    """What a prompt takes: `prompt_tokens` for its text, `visual_tokens` in the places of its visuals.

    Their sum is the length of the ids. `num_patches` is what the vision encoder sees of each visual: exact with a
    PixelGrid, and otherwise for plans of memory, rather too many than too few.
    """

    prompt_tokens: int
    visual_tokens: int = 0
    num_patches: tuple[int, ...] = ()


class PromptPieces(NamedTuple):
    """A prompt's tokens without those of its visuals, as the pieces before, between and behind them.

    `pieces` is None where it can't be seen which tokens are a visual's.
    """

    num_tokens: int
    pieces: Sequence[Sequence[int]] | None


class Chat:
    """The tokens of prompts as the tokenizer's chat template makes them, exactly.

    With one difference: what looks like a token of the model's own in the text of a prompt, as "<|im_end|>", stays
    text (`sanitize_control_tokens` in transformers). So no prompt, and no column in one, passes for a picture or ends
    a turn. Threads may share a Chat.
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is one of transformers with a chat template; it stays as it is."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # no tokenizer can be set up anew while another thread is in it
        self._marks: Mapping[int, Any] = tokenizer.added_tokens_decoder
        self.text_tokens = functools.lru_cache(_NUM_PROMPTS)(self._count_text)

    def counts(self, prompt: Prompt, sizes: Sequence[tuple[int, int]], settings: Settings) -> TokenCounts:  # noqa: ARG002
        """What `prompt` takes with visuals of `sizes`, each width and height in pixels, as shown.

        Raises InferenceError where there are visuals and the model sees none, and otherwise as `input_ids`.
        """
        if sizes:
            raise InferenceError("the model sees no pictures: it is a language model")
        return TokenCounts(self.text_tokens(prompt, 0).num_tokens)

    def input_ids(self, prompt: Prompt, visual_inputs: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of `prompt` with the visuals that an image processor made `visual_inputs` of.

        Raises InferenceError for text that the tokenizer can't keep apart from a token of its own, and EngineError
        where the chat template doesn't take the prompt.
        """
        pieces = self.text_tokens(prompt, len(visual_inputs)).pieces
        assert pieces is not None, "without visuals all of it is one piece"
        return list(pieces[0])

    def token_types(self, input_ids: list[int]) -> dict[str, list[int]]:  # noqa: ARG002
        """What the model wants to know of each id besides, by the name of the input."""
        return {}

    def _count_text(self, prompt: Prompt, num_visuals: int) -> PromptPieces:
        """The tokens of the text of `prompt`, found by making all of it with small visuals."""
        ids = self._render_checked(prompt, num_visuals)
        self._refuse_passed(prompt, ids, num_visuals)
        return self._cut(ids, num_visuals)

    def _cut(self, ids: list[int], num_visuals: int) -> PromptPieces:
        assert not num_visuals
        return PromptPieces(len(ids), [ids])

    def _render(self, prompt: Prompt, num_visuals: int) -> list[int]:
        """The ids of a prompt with small visuals, as transformers makes them."""
        assert not num_visuals
        messages = [{"role": "user", "content": prompt.user}]
        if prompt.system:
            messages.insert(0, {"role": "system", "content": prompt.system})
        with self._lock:
            output = self._tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True, **self._guard(prompt)
            )
        return list(output["input_ids"])

    def _render_checked(self, prompt: Prompt, num_visuals: int) -> list[int]:
        try:
            return self._render(prompt, num_visuals)
        except Exception as error:
            raise self._refusal(prompt, error) from error

    def _refusal(self, prompt: Prompt, error: Exception) -> InferenceError | EngineError:
        """Why a prompt was not taken."""
        if found := self._look_alikes(prompt):
            return _look_alike_error(found)
        return EngineError(f"the model's chat template doesn't take the prompt: {first_line(error)}")

    def _refuse_passed(self, prompt: Prompt, ids: list[int], num_visuals: int) -> None:
        """Not every tokenizer can keep text apart from tokens: see that `ids` have those of the template alone."""
        found = self._look_alikes(prompt)
        if not found:
            return
        harmless = self._render_checked(text_prompt("?" if prompt.system else "", "?"), num_visuals)
        for number, mark in self._marks.items():
            if mark.special and mark.content in found and ids.count(number) != harmless.count(number):
                raise _look_alike_error([mark.content])

    def _look_alikes(self, prompt: Prompt) -> list[str]:
        """Tokens of the model's own that stand in the text of `prompt`; for some, a line break is one."""
        text = f"{prompt.system}\n{prompt.user}"
        marks = [mark.content for mark in self._marks.values()]
        return [mark for mark in marks if mark in text and not mark.isspace()]

    def _guard(self, prompt: Prompt) -> dict[str, bool]:
        return {"sanitize_control_tokens": True} if self._look_alikes(prompt) else {}


def text_prompt(system: str, user: str) -> Prompt:
    """A prompt of nothing but its texts."""
    return Prompt(type="", style="", lang="", system=system, user=user)


def _look_alike_error(marks: list[str]) -> InferenceError:
    return InferenceError(
        f"the text of the prompt holds {', '.join(marks)}, which the model's processor can't tell from its own tokens"
    )
