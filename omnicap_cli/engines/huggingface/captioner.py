"""One loaded model: visuals to embeddings, embeddings and questions to texts; or questions alone.

Each visual is encoded once, whatever is asked about it. It knows no files, no batch planning and no journal.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from PIL import Image
from transformers import GenerationConfig

from omnicap_cli.core.models.loading import LoadedModel
from omnicap_cli.core.models.memory import is_out_of_memory
from omnicap_cli.core.runs.records import Prompt, Request, Result, Settings
from omnicap_cli.core.tokens.visual_chat import VisualChat, chat_of
from omnicap_cli.engines.generation import Generation
from omnicap_cli.engines.huggingface.auto_type import NameScorer
from omnicap_cli.engines.huggingface.decoding import Decoder, GeneratedRow
from omnicap_cli.engines.huggingface.kv_cache import roomy_cache
from omnicap_cli.engines.huggingface.prefill import EncodedOfRows

_GRID: Final = "image_grid_thw"  # the encoder's, and what positions are made from
_RETRY_TEMPERATURE: Final = 0.7  # at which a caption that ran into a loop is tried once more


@dataclass(frozen=True, slots=True)
class _EncodedVisual:
    """What a vision encoder made of one visual; `kind` and `is_stacked` say how transformers hands it on."""

    kind: type
    pooled: list[torch.Tensor]
    is_stacked: bool
    deepstack: list[list[torch.Tensor]]


@dataclass(slots=True, kw_only=True, eq=False)
class PreparedVisual:
    """A visual as the model takes it: what its processor made of it, and its size in pixels as shown.

    Once it went through the vision encoder, `encoded` is what is left of it for whatever else is asked about it.
    """

    inputs: dict[str, Any]
    width: int
    height: int
    encoded: _EncodedVisual | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Question:
    """A request about prepared visuals, if any. `prompt` is what is asked, chosen by the model where it may choose."""

    request: Request
    visuals: Sequence[PreparedVisual]
    prompt: Prompt
    seconds: float = 0.0
    type_score: float | None = None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of its visuals."""
        return [(visual.width, visual.height) for visual in self.visuals]


class Captioner:
    """A model that answers questions, many at a time; used by one thread, but for `prepare`."""

    def __init__(self, loaded: LoadedModel, generation: Generation) -> None:
        self.device = str(loaded.device)
        self.is_over = threading.Event()  # nobody wants an answer any more
        self.chat = chat_of(loaded.processor)
        self._model, self._processor, self._tokenizer = loaded.model, loaded.processor, loaded.tokenizer
        self._end_token_ids = frozenset(loaded.end_token_ids)
        self._generation = generation
        self._decoder: Decoder | None = None
        self._encoder_takes = _encoder_parameters(self._model)

    def prepare(self, image: Image.Image, settings: Settings) -> PreparedVisual:
        """The picture as the model takes it, on the CPU. Safe in any thread."""
        assert isinstance(self.chat, VisualChat), "who counts pictures for a language model is refused"
        inputs = self._processor.image_processor(images=image, **self.chat.image_kwargs(settings))
        return PreparedVisual(inputs=dict(inputs), width=image.width, height=image.height)

    @property
    def num_reached_tokens(self) -> int:
        """How long the texts of the latest batch became, so far."""
        return self._decoder.num_steps if self._decoder else 0

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question], on_result: Callable[[Result], None]) -> None:
        """Caption all of them at once; each result as soon as its text has ended, in any order.

        Raises AbandonedError once `is_over` is set.
        """
        started = time.monotonic()
        self._decoder = None
        self._encode(list({id(visual): visual for each in questions for visual in each.visuals}.values()))
        self._choose_types([each for each in questions if each.prompt.choices])
        for question in questions:
            question.seconds += (time.monotonic() - started) / len(questions)
        rows = [self._new_row(each, self._generation) for each in questions]
        looped: list[int] = []

        def end(place: int) -> None:
            row = rows[place]
            assert row.ending is not None
            if row.ending.finish_reason == "repetition" and self._generation.retry_loops:
                looped.append(place)
            else:
                on_result(self._make_result(questions[place], row))

        self._generate(questions, rows, self._generation, end)
        if looped:
            self._retry_loops([questions[place] for place in looped], [rows[place] for place in looped], on_result)

    def _retry_loops(
        self, questions: Sequence[Question], looped: Sequence[GeneratedRow], on_result: Callable[[Result], None]
    ) -> None:
        """Try what ran into a loop once more, drawn by chance; what loops again stays as it was at first."""
        temperature = max(self._generation.temperature or 0, _RETRY_TEMPERATURE)
        generation = replace(self._generation, temperature=temperature)
        rows = [self._new_row(each, generation, attempt=2) for each in questions]

        def end(place: int) -> None:
            row, first = rows[place], looped[place]
            assert row.ending is not None
            best, other = (first, row) if row.ending.finish_reason == "repetition" else (row, first)
            questions[place].seconds += other.seconds
            on_result(self._make_result(questions[place], best))

        try:
            self._generate(questions, rows, generation, end)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            for question, first, row in zip(questions, looped, rows, strict=True):
                if row.ending is None:  # then what there is stays
                    on_result(self._make_result(question, first))

    def _new_row(self, question: Question, generation: Generation, *, attempt: int = 1) -> GeneratedRow:
        dice = generation.dice(question.request.key, attempt=attempt) if generation.samples else None
        return GeneratedRow(max_new_tokens=generation.max_new_tokens, dice=dice)

    def _make_result(self, question: Question, row: GeneratedRow) -> Result:
        assert row.ending is not None
        tokens, reason = row.ending
        sizes = question.sizes
        counts = self.chat.counts(question.prompt, sizes, question.request.settings)
        width, height = sizes[0] if len(sizes) == 1 else (None, None)
        return Result(
            key=question.request.key,
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            finish_reason=reason,
            width=width,
            height=height,
            prompt_tokens=counts.prompt_tokens,
            image_tokens=counts.visual_tokens,
            output_tokens=len(tokens),
            seconds=question.seconds + row.seconds,
            prompt=question.prompt,
            type_score=question.type_score,
        )

    # ------------------------------------------------------------------------------------- visuals to embeddings

    def _encode(self, visuals: Sequence[PreparedVisual]) -> None:
        """Each visual once. What a model packs into one sequence goes through its encoder together."""
        new = [visual for visual in visuals if visual.encoded is None and self._encoder_takes]
        packs = [new] if new and _GRID in new[0].inputs else [[visual] for visual in new]
        for pack in packs:
            names = [name for name in self._encoder_takes if name in pack[0].inputs]
            inputs = {name: self._concatenate([visual.inputs[name] for visual in pack]) for name in names}
            outputs = self._model.base_model.get_image_features(**inputs, return_dict=True)
            for visual, encoded in zip(pack, _split_by_visual(outputs, len(pack)), strict=True):
                visual.encoded = encoded
                for name in set(names) - {_GRID}:  # of which processors still ask for the shape
                    visual.inputs[name] = torch.zeros((), dtype=torch.uint8).expand(visual.inputs[name].shape)

    def _concatenate(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([each.to(self.device, non_blocking=True) for each in tensors])

    # ------------------------------------------------------------------------------------- embeddings to text

    def _generate(
        self,
        questions: Sequence[Question],
        rows: Sequence[GeneratedRow],
        generation: Generation,
        on_end: Callable[[int], None],
    ) -> None:
        own = self._model.generation_config
        config = GenerationConfig(
            max_new_tokens=generation.max_new_tokens,
            do_sample=generation.samples,
            temperature=generation.temperature if generation.samples else None,
            top_p=generation.top_p,
            top_k=(generation.top_k or 0) if generation.samples else None,  # None is fifty in transformers
            repetition_penalty=generation.repetition_penalty,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
        )
        self._decoder = Decoder(
            rows,
            encoded=self._encoded_of_rows(questions),
            end_token_ids=self._end_token_ids,
            on_end=on_end,
            is_over=self.is_over,
        )
        self._model.generate(
            **self._inputs(questions),
            past_key_values=roomy_cache(self._model),
            generation_config=config,
            custom_generate=self._decoder,
        )

    def _inputs(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What `generate` takes: prompts of shape (rows, longest), padded on the left; of visuals the rest."""
        prompts = [self.chat.input_ids(each.prompt, [visual.inputs for visual in each.visuals]) for each in questions]
        inputs: dict[str, Any] = {
            "input_ids": self._pad(prompts, self._tokenizer.pad_token_id),
            "attention_mask": self._pad([[1] * len(ids) for ids in prompts], 0),
        }
        types = [self.chat.token_types(ids) for ids in prompts]
        inputs |= {name: self._pad([each[name] for each in types], 0) for name in types[0]}
        visuals = [visual.inputs for question in questions for visual in question.visuals]
        inputs |= {
            name: self._concatenate([each[name] for each in visuals])
            for name, value in (visuals[0] if visuals else {}).items()
            if isinstance(value, torch.Tensor)
            and name not in self._processor.unused_input_names
            and (name == _GRID or name not in self._encoder_takes)
        }
        return inputs

    def _encoded_of_rows(self, questions: Sequence[Question]) -> EncodedOfRows | None:
        """What gives what was encoded of the visuals of any of the rows; None where a visual goes in as pixels."""
        encoded = [[visual.encoded for visual in question.visuals] for question in questions]
        if any(visual is None for of_row in encoded for visual in of_row):
            return None
        return lambda rows: _as_encoder_output([visual for row in rows for visual in encoded[row]])

    def _pad(self, rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[filling] * (longest - len(row)) + list(row) for row in rows], device=self.device)

    # ------------------------------------------------------------------------------------- the type of a picture

    def _choose_types(self, questions: Sequence[Question]) -> None:
        """Let the model sort each picture into one of the types, and put that type's prompt in place."""
        if not questions:
            return
        names = [choice.type for choice in questions[0].prompt.choices]
        tokens = [self._tokenizer.encode(name, add_special_tokens=False) for name in names]
        scorer = NameScorer(tokens, encoded=self._encoded_of_rows(questions))
        self._model.generate(
            **self._inputs(questions),
            past_key_values=roomy_cache(self._model),
            generation_config=GenerationConfig(max_new_tokens=1),
            custom_generate=scorer,
        )
        for question, shares in zip(questions, scorer.shares, strict=True):
            best = max(range(len(names)), key=shares.__getitem__)
            question.prompt, question.type_score = question.prompt.choices[best], shares[best]


def _encoder_parameters(model: Any) -> tuple[str, ...]:
    """What the model's image encoder takes; nothing, where what it returns can't be given back to the model."""
    encode = getattr(model.base_model, "get_image_features", None)
    if encode is None or "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return ()
    return tuple(inspect.signature(encode).parameters)


def _split_by_visual(outputs: Any, num_visuals: int) -> list[_EncodedVisual]:
    """What a vision encoder made of each visual. A single one may be several tiles."""
    pooled, deepstack = outputs.pooler_output, getattr(outputs, "deepstack_features", None) or []
    is_stacked = isinstance(pooled, torch.Tensor)
    if num_visuals == 1:
        return [_EncodedVisual(type(outputs), list(pooled), is_stacked, [list(layer) for layer in deepstack])]
    return [  # copies, since a view would keep what was encoded of all
        _EncodedVisual(type(outputs), [pooled[n].clone()], is_stacked, [[layer[n].clone()] for layer in deepstack])
        for n in range(num_visuals)
    ]


def _as_encoder_output(encoded: Sequence[Any]) -> Any:
    """What was encoded of visuals, as the model's encoder would have returned it for all of them; None for none."""
    if not encoded:
        return None
    pooled = [tensor for each in encoded for tensor in each.pooled]
    outputs: dict[str, Any] = {"pooler_output": torch.stack(pooled) if encoded[0].is_stacked else pooled}
    if encoded[0].deepstack:
        layers = zip(*(each.deepstack for each in encoded), strict=True)
        outputs["deepstack_features"] = [[tensor for of_visual in layer for tensor in of_visual] for layer in layers]
    return encoded[0].kind(**outputs)
