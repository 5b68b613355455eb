"""Which frames of a clip the Qwen-VL family looks at, and how many tokens they take: arithmetic on a header's numbers.

It is done for millions of clips, so it is plain Python on a few numbers, and needs no decoder, torch or transformers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from omnicap_cli.core.models.model_json import read_object_if_there
from omnicap_cli.core.tokens.pixel_grid import MAX_ASPECT_RATIO, PixelGrid, aspect_ratio_error, fit_into_limits
from omnicap_cli.errors import EngineError, UnsupportedError

_FILES: Final = ("video_preprocessor_config.json", "preprocessor_config.json")
_COPY_IT: Final = f"copy {_FILES[0]} from the model that this one is made from"
_FLOOR_SHARE: Final = 1.05  # of the lower limit: no cap goes below


class Clip(NamedTuple):
    """A video as its header tells of it: `fps` frames a second, above 0; width and height in pixels, as shown."""

    num_frames: int
    fps: float
    width: int
    height: int


class GridThw(NamedTuple):
    """Patches of a clip along time, height and width: a row of `video_grid_thw`."""

    t: int
    h: int
    w: int


class Media(NamedTuple):
    """What takes the place of the one token that a chat template writes for a picture or clip.

    Without `timestamps` it is one run of `num_tokens` visual tokens. With them it is, for each, its text, a
    vision_start, a run and a vision_end. What the template writes around that token stays in both cases.
    """

    num_tokens: int
    timestamps: Sequence[str] | None = None

    @property
    def num_visual_tokens(self) -> int:
        """All of its tokens but for marks and those of the timestamps."""
        return self.num_tokens * (1 if self.timestamps is None else len(self.timestamps))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipGrid(ABC):
    """A patch is `patch_size` pixels square in `temporal_patch_size` frames, a token `merge_size` patches square.

    `fps` frames of each second are looked at, but `min_frames` to `max_frames` of a clip. They are chosen whatever
    `do_sample_frames` says, and a processor that has no `fps` is asked for 2. The defaults of the two kinds are what
    transformers takes where a model doesn't say.
    """

    patch_size: int
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int
    max_pixels: int
    min_frames: int = 4
    max_frames: int = 768
    fps: float = 2.0
    cap_pixels_per_frame: bool = False
    max_video_tokens: int
    _limits_beside_size: ClassVar[bool]  # whether min_pixels and max_pixels in a configuration count

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not _is_valid_number(field.name, value):
                raise EngineError(f"the model's video processor has the {field.name} {value!r}", hint=_COPY_IT)

    @staticmethod
    def of_folder(folder: Path) -> ClipGrid | None:
        """The grid of a model's folder, or None where it has no video processor, or one that cuts in another way.

        Raises EngineError where a file is damaged or holds impossible numbers.
        Source: `AutoVideoProcessor.from_pretrained` in transformers, which looks into these files in this order.
        """
        config = (read_object_if_there(folder / "processor_config.json") or {}).get("video_processor")
        for name in _FILES:
            config = read_object_if_there(folder / name) if config is None else config
        if config is None:
            return None
        if not isinstance(config, dict):
            raise EngineError(f"{folder / 'processor_config.json'} holds no video processor", hint=_COPY_IT)
        return ClipGrid.of_config({**config, "video_processor_type": _kind_name(config, folder)})

    @staticmethod
    def of_config(config: Mapping[str, Any]) -> ClipGrid | None:
        """The grid of a video processor, by its configuration file or its `to_dict()`.

        None for another processor, for one that doesn't resize, and for one that takes the same number of frames of
        every clip. Raises EngineError as `of_folder`.
        """
        kind = _KINDS.get(str(config.get("video_processor_type")))
        if kind is None or config.get("do_resize") is False or config.get("num_frames") is not None:
            return None
        names = {field.name for field in fields(kind)} - {"min_pixels", "max_pixels"}
        numbers = {name: config[name] for name in names if config.get(name) is not None}
        return kind(**numbers, **_pixel_limits(config, beside_size=kind._limits_beside_size))

    def grid(self, num_frames: int, height: int, width: int) -> GridThw:
        """The patches of `num_frames` frames that were chosen, height and width in pixels.

        Raises AspectRatioError where one side is too long for the other, UnsupportedError where there are too few
        frames.
        """
        new_height, new_width = self._resized_size(num_frames, height, width)
        num_in_time = math.ceil(num_frames / self.temporal_patch_size)  # the last frame is repeated to fill a patch
        return GridThw(num_in_time, new_height // self.patch_size, new_width // self.patch_size)

    def layout(self, clip: Clip) -> Media:
        """What stands in the prompt for a clip. Raises as `grid`."""
        indices = self.frame_indices(clip.num_frames, clip.fps)
        grid = self.grid(len(indices), clip.height, clip.width)
        return self._layout(grid, indices, clip.fps)

    @abstractmethod
    def frame_indices(self, num_frames: int, fps: float) -> list[int]:
        """The frames, counted from 0, that are looked at of a clip of `num_frames` at `fps` frames a second.

        Raises UnsupportedError where there are too few.
        """

    @abstractmethod
    def _resized_size(self, num_frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width, in pixels, that each frame is resized to before it is cut. Raises as `grid`."""

    @abstractmethod
    def _layout(self, grid: GridThw, indices: Sequence[int], fps: float) -> Media: ...

    def _too_few(self, num_frames: int) -> UnsupportedError:
        frames = "1 frame" if num_frames == 1 else f"{num_frames} frames"
        return UnsupportedError(
            f"a clip of {frames}: too short for a model that takes {self.temporal_patch_size} at a time"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen2ClipGrid(ClipGrid):
    """Of Qwen2-VL and Qwen2.5-VL: the limits in pixels are those of each frame.

    Source: `Qwen2VLVideoProcessor` in transformers.
    """

    patch_size: int = 14
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    max_video_tokens: int = 128_000
    _limits_beside_size: ClassVar[bool] = True

    def frame_indices(self, num_frames: int, fps: float) -> list[int]:
        """See ClipGrid.

        transformers takes every (num_frames / num_chosen)-th frame. Where that quotient comes out a trifle small it
        adds one behind the end of the clip, on which it then fails: it is left out here.
        """
        step = self.temporal_patch_size
        num_asked = min(max(num_frames / fps * self.fps, self.min_frames), self.max_frames, num_frames)
        num_chosen = math.floor(num_asked / step) * step
        if num_chosen < 1:
            raise self._too_few(num_frames)
        return [int(place) for place in _arange(num_frames, num_frames / num_chosen) if place < num_frames]

    def _resized_size(self, num_frames: int, height: int, width: int) -> tuple[int, int]:
        side, max_pixels = self.patch_size * self.merge_size, self.max_pixels
        if self.cap_pixels_per_frame:
            total_pixels = int(self.max_video_tokens * side * side * 0.9)
            share = total_pixels * self.temporal_patch_size // num_frames
            max_pixels = max(min(max_pixels, share), int(self.min_pixels * _FLOOR_SHARE))
        frame = PixelGrid(
            patch_size=self.patch_size,
            merge_size=self.merge_size,
            min_pixels=self.min_pixels,
            max_pixels=max_pixels,
        )
        return frame.resized_size(height, width)

    def _layout(self, grid: GridThw, indices: Sequence[int], fps: float) -> Media:  # noqa: ARG002
        return Media(grid.t * grid.h * grid.w // self.merge_size**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3ClipGrid(ClipGrid):
    """Of Qwen3-VL: the limits in pixels are those of all frames together, and each patch in time has a timestamp.

    Source: `Qwen3VLVideoProcessor`, and `_calculate_timestamps` of `Qwen3VLProcessor`, in transformers.
    """

    patch_size: int = 16
    min_pixels: int = 128 * 32 * 32
    max_pixels: int = 768 * 32 * 32
    max_video_tokens: int = 768  # of each frame
    _limits_beside_size: ClassVar[bool] = False

    def frame_indices(self, num_frames: int, fps: float) -> list[int]:
        """See ClipGrid: evenly from the first frame to the last, half to even."""
        num_chosen = min(max(int(num_frames / fps * self.fps), self.min_frames), self.max_frames, num_frames)
        if num_chosen < 2:
            return [0] * num_chosen
        stride = (num_frames - 1) / (num_chosen - 1)
        return [round(stride * number) for number in range(num_chosen)]

    def _resized_size(self, num_frames: int, height: int, width: int) -> tuple[int, int]:
        if num_frames < self.temporal_patch_size:
            raise self._too_few(num_frames)
        side, max_pixels = self.patch_size * self.merge_size, self._max_pixels(num_frames)
        scale = max(side / height, side / width)
        tall, wide = (int(height * scale), int(width * scale)) if scale > 1 else (height, width)
        if max(tall, wide) / min(tall, wide) > MAX_ASPECT_RATIO:
            raise aspect_ratio_error(height, width)
        num_padded = round(num_frames / self.temporal_patch_size) * self.temporal_patch_size
        return fit_into_limits(tall, wide, side, self.min_pixels, max_pixels, num_frames, num_padded)

    def _max_pixels(self, num_frames: int) -> int:
        if not self.cap_pixels_per_frame:
            return self.max_pixels
        of_a_frame = self.max_video_tokens * (self.patch_size * self.merge_size) ** 2
        share = min(of_a_frame, self.max_pixels // num_frames)
        return max(share, int(self.min_pixels * _FLOOR_SHARE)) * num_frames

    def _layout(self, grid: GridThw, indices: Sequence[int], fps: float) -> Media:
        step, last = self.temporal_patch_size, len(indices) - 1
        ends = ((first, min(first + step - 1, last)) for first in range(0, len(indices), step))
        seconds = ((indices[first] / fps + indices[end] / fps) / 2 for first, end in ends)
        return Media(grid.h * grid.w // self.merge_size**2, tuple(f"<{each:.1f} seconds>" for each in seconds))


_KINDS: Final[Mapping[str, type[ClipGrid]]] = {
    "Qwen2VLVideoProcessor": Qwen2ClipGrid,
    "Qwen3VLVideoProcessor": Qwen3ClipGrid,
}
_KIND_NAMES: Final = {  # by the model_type of a whole model
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "qwen3_vl_moe": "Qwen3VLVideoProcessor",
}


def _kind_name(config: Mapping[str, Any], folder: Path) -> str | None:
    """The video processor of a folder whose file on it is `config`: one for pictures, in older models."""
    if config.get("video_processor_type") is not None:
        return str(config["video_processor_type"])
    name = str(config.get("image_processor_type")).replace("ImageProcessor", "VideoProcessor")
    if name in _KINDS:
        return name
    return _KIND_NAMES.get(str((read_object_if_there(folder / "config.json") or {}).get("model_type")))


def _pixel_limits(config: Mapping[str, Any], *, beside_size: bool) -> dict[str, Any]:
    """The limits in pixels that a configuration sets, None where its `size` lacks one, which transformers refuses.

    With `beside_size`, a limit of its own beats the one in `size`.
    """
    limits, size = {}, config.get("size")
    for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
        if beside_size and config.get(name) is not None:
            limits[name] = config[name]
        elif size is not None:
            limits[name] = size.get(edge) if isinstance(size, Mapping) else None
    return limits


def _arange(end: int, step: float) -> array[float]:
    """`torch.arange(0, end, step)`, rounded to 32 bits as torch does it on x86.

    It fills whole sixteens by eights, each counted from its first number, which is rounded before.
    """
    size = math.ceil(end / step)
    num_by_eights = size // 16 * 16
    firsts = array("f", (step * number for number in range(0, num_by_eights, 8)))
    by_eights = (first + step * number for first in firsts for number in range(8))
    return array("f", (*by_eights, *(step * number for number in range(num_by_eights, size))))


def _is_valid_number(name: str, value: object) -> bool:
    if name == "cap_pixels_per_frame":
        return isinstance(value, bool)
    if name == "fps":
        return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]
    return type(value) is int and value > 0
