"""Which tokens a prompt with pictures becomes, and how many. It knows no device and runs no model.

A model's own processor says it. It is asked once for what stays the same, so that a prompt costs microseconds with
every picture after the first.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from omnicap_cli.core.files.words import first_line
from omnicap_cli.core.runs.records import Prompt, Settings
from omnicap_cli.core.tokens.chat import Chat, PromptPieces, TokenCounts, text_prompt
from omnicap_cli.core.tokens.pixel_grid import PixelGrid
from omnicap_cli.errors import EngineError, InferenceError, OptionError

_NUM_SIZES: Final = 16_384
_TRIAL_SHAPE: Final = (90, 150)  # height and width of the picture that a processor is tried with
# Tiles are cut by size and by shape: arithmetic that is right for all of these isn't so by chance.
_SHAPES: Final = (_TRIAL_SHAPE, (64, 64), (333, 500), (120, 1000), (1000, 120), (1200, 900))
_VALUES_PER_PATCH: Final = 3 * 14 * 14  # of the smallest patches in use
_TYPE_NAMES: Final = frozenset({"mm_token_type_ids", "token_type_ids"})
_HINT: Final = (
    "See whether its chat template (chat_template.jinja) is whole, and copy it from the base model; or take another "
    "chat model, such as a Qwen2-VL."
)


class VisualChat(Chat):
    """The tokens of prompts with pictures before their text, as `processor.apply_chat_template` makes them, exactly.

    `grid` is that of the pictures, None for processors that have no PixelGrid.
    """

    def __init__(self, processor: Any) -> None:
        """`processor` is one of transformers with a chat template; it stays as it is. Raises EngineError for others."""
        super().__init__(processor.tokenizer)
        self._processor = processor
        self._replay = _Replay(processor.image_processor)
        self._replaying = copy.copy(processor)
        self._replaying.image_processor = self._replay
        self._picture = _empty_picture(*_TRIAL_SHAPE)
        self._measured = functools.lru_cache(_NUM_SIZES)(self._measure)
        self._trial = self._try_processor()
        self.grid = self._find_grid()

    def counts(self, prompt: Prompt, sizes: Sequence[tuple[int, int]], settings: Settings) -> TokenCounts:
        """See Chat; no picture is needed.

        Without a PixelGrid, the processor's own arithmetic counts where it proves right; else an empty picture of the
        size goes through the processor, once for each size.
        Raises AspectRatioError for such a picture, and otherwise as `image_kwargs` and `input_ids`.
        """
        num_text_tokens = self.text_tokens(prompt, len(sizes)).num_tokens
        grid = self._grid_within(settings) if sizes else None
        if grid is None:
            counted = [self._count_without_grid(height, width) for width, height in sizes]
            num_patches = tuple(each.num_patches for each in counted)
            return TokenCounts(num_text_tokens, sum(each.num_tokens for each in counted), num_patches)
        num_patches = tuple(grid.num_patches(height, width) for width, height in sizes)
        return TokenCounts(num_text_tokens, sum(num_patches) // grid.merge_size**2, num_patches)

    def image_kwargs(self, settings: Settings) -> dict[str, Any]:
        """What to pass to `processor.image_processor` with a picture, for inputs that `input_ids` can use.

        Raises OptionError for a pixel limit where the processor has none: without a PixelGrid.
        """
        kwargs = self._replay.kwargs | {"return_tensors": "pt"}
        grid = self._grid_within(settings)
        if grid and grid != self.grid:
            kwargs["size"] = {"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels}
        return kwargs

    def input_ids(self, prompt: Prompt, visual_inputs: Sequence[Mapping[str, Any]]) -> list[int]:
        pieces = self.text_tokens(prompt, len(visual_inputs)).pieces
        image_ids = [self._image_ids(inputs) for inputs in visual_inputs]
        if pieces is None or not all(map(self._is_apart, image_ids)):
            return self._render_whole(prompt, visual_inputs)
        ids = list(pieces[0])
        for of_image, piece in zip(image_ids, pieces[1:], strict=True):
            ids += [*of_image, *piece]
        return ids

    def num_image_tokens(self, image_inputs: Mapping[str, Any]) -> int:
        """How many of those ids stand in a picture's place."""
        return len(self._image_ids(image_inputs))

    def token_types(self, input_ids: list[int]) -> dict[str, list[int]]:
        """`mm_token_type_ids` for Qwen."""
        names = self._trial.type_names
        return dict.fromkeys(names, self._processor.create_mm_token_type_ids([input_ids])[0]) if names else {}

    def _try_processor(self) -> _Trial:
        """Learn what the processor asks of its image processor, and be sure that a replay gives the same ids."""
        prompt = text_prompt("", "?")
        name = type(self._processor).__name__
        try:
            real = self._apply_template(prompt, None)
            inputs = self._replay.answer or {}
            ids, replayed = self._image_ids(inputs), self._apply_template(prompt, inputs)
            types = self._processor.create_mm_token_type_ids(real["input_ids"]) if _TYPE_NAMES & real.keys() else None
        except Exception as error:
            raise EngineError(f"{name} makes no prompt with a picture: {first_line(error)}", hint=_HINT) from error
        if replayed["input_ids"] != real["input_ids"]:
            raise EngineError(f"{name} makes prompts in a way that isn't known here", hint=_HINT)
        return _Trial(inputs, ids, [name for name in sorted(_TYPE_NAMES & real.keys()) if real[name] == types])

    def _find_grid(self) -> PixelGrid | None:
        """The grid, if it is right: there are processors that cut as Qwen2-VL, and put marks between the tokens."""
        grid = PixelGrid.of_config(self._processor.image_processor.to_dict())
        if grid and self._trial.image_ids == self._trial.image_ids[:1] * grid.num_tokens(*_TRIAL_SHAPE):
            return grid
        return None

    def _grid_within(self, settings: Settings) -> PixelGrid | None:
        """The grid with the limits that `settings` asks for."""
        for name in ("min_pixels", "max_pixels"):
            if self.grid is None and (value := getattr(settings, name)) is not None:
                kind = type(self._processor.image_processor).__name__
                option = f"--{name.replace('_', '-')}"
                raise OptionError(option, value, f"can't be kept: {kind} has no such limit", hint="leave it out")
        return self.grid.with_limits(settings.min_pixels, settings.max_pixels) if self.grid else None

    def _cut(self, ids: list[int], num_visuals: int) -> PromptPieces:
        """The pieces around the pictures of the trial."""
        image_ids = self._trial.image_ids
        width, num_tokens = len(image_ids), len(ids) - len(image_ids) * num_visuals
        starts = range(len(ids) - width + 1 if num_visuals else 0)
        places = [place for place in starts if ids[place : place + width] == image_ids]
        if len(places) != num_visuals:
            return PromptPieces(num_tokens, None)
        pieces = zip((0, *(place + width for place in places)), (*places, len(ids)), strict=True)
        return PromptPieces(num_tokens, [ids[start:end] for start, end in pieces])

    def _is_apart(self, image_ids: list[int]) -> bool:
        """Whether text beside `image_ids` is the same tokens whatever the picture.

        So it is between tokens that a tokenizer cuts out of a text before it looks at the rest.
        """
        ends, trial = image_ids[:1] + image_ids[-1:], self._trial.image_ids
        return ends == trial[:1] + trial[-1:] and all(number in self._marks for number in ends)

    def _image_ids(self, image_inputs: Mapping[str, Any]) -> list[int]:
        """What stands in a prompt in place of a picture."""
        tokenizer, mark = self._tokenizer, self._processor.image_token
        text = self._processor.replace_image_token(image_inputs, 0, **self._replay.kwargs)
        number, num_marks = tokenizer.convert_tokens_to_ids(mark), len(text) // len(mark)
        if number in self._marks and text == mark * num_marks:  # as it is for Qwen, and thousands of times
            return [number] * num_marks
        with self._lock:
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, prompt: Prompt, num_visuals: int) -> list[int]:
        inputs = self._trial.inputs if num_visuals == 1 else None  # several go through the processor for once
        return list(self._apply_template(prompt, inputs, num_visuals)["input_ids"][0])

    def _render_whole(self, prompt: Prompt, visual_inputs: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids by way of the processor itself."""
        if len(visual_inputs) > 1:
            raise InferenceError("the model's processor can't tell several pictures in one prompt apart")
        try:
            return list(self._apply_template(prompt, visual_inputs[0])["input_ids"][0])
        except Exception as error:
            raise self._refusal(prompt, error) from error

    def _apply_template(
        self, prompt: Prompt, image_inputs: Mapping[str, Any] | None, num_visuals: int = 1
    ) -> Mapping[str, Any]:
        """All that the processor makes of a prompt, with lists of ids; without `image_inputs`, of trial pictures."""
        guard = self._guard(prompt)
        with self._lock:
            self._replay.answer = image_inputs
            output: Mapping[str, Any] = self._replaying.apply_chat_template(
                _messages(prompt, [self._picture] * num_visuals),
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors=None,
                **guard,
            )
        return output

    def _count_without_grid(self, height: int, width: int) -> _ImageCounts:
        """What a picture takes that no PixelGrid cuts."""
        if self._foresight is None:
            return self._measured(height, width)
        num_tokens = self._foretell(height, width) + self._foresight.more_tokens
        return _ImageCounts(num_tokens, math.ceil(num_tokens * self._foresight.patches_per_token))

    @functools.cached_property
    def _foresight(self) -> _Foresight | None:
        """What makes the processor's own arithmetic right; None where nothing does, or it has none."""
        if not hasattr(self._processor, "_get_num_multimodal_tokens"):
            return None
        measured = [self._measured(*shape) for shape in _SHAPES]
        missing = {each.num_tokens - self._foretell(*shape) for each, shape in zip(measured, _SHAPES, strict=True)}
        if len(missing) > 1:
            return None
        return _Foresight(missing.pop(), max(each.num_patches / each.num_tokens for each in measured))

    def _foretell(self, height: int, width: int) -> int:
        counts = self._processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        return int(counts["num_image_tokens"][0])

    def _measure(self, height: int, width: int) -> _ImageCounts:
        inputs = self._processor.image_processor(_empty_picture(height, width), **self.image_kwargs(Settings()))
        num_values = max(tensor.numel() for tensor in inputs.values() if hasattr(tensor, "numel"))
        return _ImageCounts(self.num_image_tokens(inputs), math.ceil(num_values / _VALUES_PER_PATCH))


def chat_of(processor: Any) -> Chat:
    """What counts and makes the tokens of prompts: for pictures too where the model takes them."""
    sees = getattr(processor, "image_processor", None) is not None
    return VisualChat(processor) if sees else Chat(processor)


class _ImageCounts(NamedTuple):
    """What a picture takes."""

    num_tokens: int
    num_patches: int


class _Foresight(NamedTuple):
    """`more_tokens` than a processor foretells stand in a picture's place: the marks around it."""

    more_tokens: int
    patches_per_token: float


class _Trial(NamedTuple):
    """What became of the picture that a processor was tried with; `type_names` are inputs that tell ids apart."""

    inputs: Mapping[str, Any]
    image_ids: list[int]
    type_names: list[str]


class _Replay:
    """An image processor that gives an answer again instead of looking at the picture: only the prompt is wanted.

    Without an `answer` it asks the real one, and keeps what it was asked with.
    """

    def __init__(self, real: Any) -> None:
        self._real = real
        self.answer: Mapping[str, Any] | None = None
        self.kwargs: dict[str, Any] = {}

    def __call__(self, images: Any, **kwargs: Any) -> Mapping[str, Any]:
        if self.answer is None:
            self.answer, self.kwargs = self._real(images, **kwargs), kwargs
        return copy.copy(self.answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def _messages(prompt: Prompt, pictures: Sequence[Any]) -> list[dict[str, Any]]:
    """The conversation in transformers' form; an empty system text is none."""
    visuals = [{"type": "image", "image": picture} for picture in pictures]
    question = [*visuals, {"type": "text", "text": prompt.user}]
    system = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []
    return [*system, {"role": "user", "content": question}]


def _empty_picture(height: int, width: int) -> Any:
    from PIL import Image

    return Image.new("RGB", (width, height))
