"""How a sample becomes a model's input, in numbers: what `tokenize` counts and training builds. It opens no media."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omnicap_cli.core.files.atomic import read_errors
from omnicap_cli.core.models.model_json import FROM_BASE, missing_file_error
from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Settings
from omnicap_cli.core.tokens.chat_format import ChatFormat
from omnicap_cli.core.tokens.clip_grid import Clip, ClipGrid, Media
from omnicap_cli.core.tokens.pixel_grid import PixelGrid
from omnicap_cli.core.tokens.samples import MediaKind, Sample, SampleError
from omnicap_cli.core.tokens.sequences import Part, SequenceBuilder
from omnicap_cli.core.tokens.text_tokens import TextTokens
from omnicap_cli.errors import AspectRatioError, EngineError, UnsupportedError


class SampleCounts(NamedTuple):
    """`token_length` is of the texts alone, `image_token_num` of pictures and clips, `sequence_length` of all ids."""

    token_length: int
    image_token_num: int
    sequence_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFormat:
    """What decides about the input, beside the model: pixel limits of pictures, and where the system texts come from.

    Several pictures of a sample share `max_pixels`. None is the model's own limit.
    """

    folder: Path
    min_pixels: int | None = None
    max_pixels: int | None = None
    prompts: Path | None = None
    task_type: str | None = None

    def __post_init__(self) -> None:
        Settings(min_pixels=self.min_pixels, max_pixels=self.max_pixels)  # which refuses what can't be


class TrainingInput:
    """The input of one model. Raises EngineError where its folder doesn't say how it is made."""

    def __init__(self, format: TrainingFormat, *, fast: bool = True) -> None:
        self.format = format
        tokenizer_json = _read_tokenizer_file(format.folder / "tokenizer.json")
        self._tokenizer_digest = _hex_digest(tokenizer_json)
        self._chat = ChatFormat.of_folder(format.folder)
        self.text = TextTokens(tokenizer_json, written=self._chat.written, fast=fast)
        self.builder = SequenceBuilder(self._chat, self.text)
        grid = PixelGrid.of_folder(format.folder)
        if grid is None:
            hint = "Take a Qwen2-VL, Qwen2.5-VL or Qwen3-VL."
            raise EngineError(f"{format.folder} cuts pictures in a way that isn't known here", hint=hint)
        self._grid = grid.with_limits(format.min_pixels, format.max_pixels)
        self._systems = {name: prompt.system for name, prompt in Catalogue.load(format.prompts).task_types.items()}
        if format.task_type is not None:
            Catalogue.load(format.prompts).system_for_task(format.task_type)  # which knows the nearest name
        self.grid_for = functools.cache(self._find_grid_for)  # by the number of pictures of a sample

    @functools.cached_property
    def clip_grid(self) -> ClipGrid:
        """How clips are cut. Raises EngineError where the folder doesn't say."""
        grid = ClipGrid.of_folder(self.format.folder)
        if grid is None:
            raise EngineError(f"{self.format.folder} doesn't say how the model cuts clips", hint=FROM_BASE)
        return grid

    def task_type(self, sample: Sample) -> str:
        """What the sample is trained as: the same for all if that was asked, else what it says itself."""
        name = self.format.task_type or sample.task_type
        if name is None:
            raise SampleError("no_task_type", "it has no task_type, and --task-type gives none")
        if name not in self._systems:
            raise SampleError("unknown_task_type", f"{name!r} is no task type")
        return name

    def image(self, height: int, width: int, *, num_images: int = 1) -> Media:
        """A picture of a sample with `num_images`. Raises SampleError."""
        try:
            return Media(self.grid_for(num_images).num_tokens(height, width))
        except AspectRatioError as error:
            raise SampleError("aspect_ratio", error.message) from error

    def clip(self, clip: Clip) -> Media:
        """A clip. Raises SampleError."""
        try:
            return self.clip_grid.layout(clip)
        except AspectRatioError as error:
            raise SampleError("aspect_ratio", error.message) from error
        except UnsupportedError as error:
            raise SampleError("too_short", error.message) from error

    def parts(self, sample: Sample, task_type: str, images: Sequence[Media], clips: Sequence[Media]) -> list[Part]:
        """What the sequence of a sample is built of."""
        return self.builder.parts(self._systems[task_type], sample.turns, _media_in_order(sample, images, clips))

    def counts(
        self, sample: Sample, task_type: str, images: Sequence[Media], clips: Sequence[Media] = ()
    ) -> SampleCounts:
        """What a sample takes."""
        media = _media_in_order(sample, images, clips)
        return SampleCounts(
            self.builder.text_length(sample.texts),
            sum([each.num_visual_tokens for each in media]),
            self.builder.sequence_length(self._systems[task_type], sample.turns, media),
        )

    def exact_counts(
        self, sample: Sample, task_type: str, images: Sequence[Media], clips: Sequence[Media] = ()
    ) -> SampleCounts:
        """The same from the ids themselves, all by the model's own tokenizer."""
        sequence = self.builder.build(self.parts(sample, task_type, images, clips))
        return SampleCounts(
            len(self.text.encode("\n".join(sample.texts))),
            sum(each.num_visual_tokens for each in (*images, *clips)),
            len(sequence.input_ids),
        )

    def settings(self) -> dict[str, Any]:
        """All that the counts hang on, for a note: a change of any makes other counts."""
        clips = ClipGrid.of_folder(self.format.folder)
        return {
            "tokenizer": self._tokenizer_digest,
            "chat_template": _hex_digest(repr(self._chat).encode()),
            "pictures": asdict(self._grid),
            "clips": {"kind": type(clips).__name__, **asdict(clips)} if clips else None,
            "task_type": self.format.task_type,
            "system_texts": _hex_digest(repr(sorted(self._systems.items())).encode()),
        }

    def _find_grid_for(self, num_images: int) -> PixelGrid:
        max_pixels = max(1, self._grid.max_pixels // num_images)
        return self._grid.with_limits(min(self._grid.min_pixels, max_pixels), max_pixels)


def _media_in_order(sample: Sample, images: Sequence[Media], clips: Sequence[Media]) -> Sequence[Media]:
    """Pictures and clips in the order in which they stand in the turns."""
    if not clips or not images:
        return images or clips
    waiting = {MediaKind.IMAGE: iter(images), MediaKind.VIDEO: iter(clips)}
    places = (part for turn in sample.turns for part in turn.question if isinstance(part, MediaKind))
    return [next(waiting[kind]) for kind in places]


def _read_tokenizer_file(path: Path) -> bytes:
    if not path.exists():
        raise missing_file_error(path.parent, path.name, "how text becomes tokens")
    with read_errors(path, EngineError):
        return path.read_bytes()


def _hex_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
