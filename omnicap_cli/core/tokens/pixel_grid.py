"""How the Qwen-VL family cuts a picture into patches and tokens: arithmetic on a width and a height, and no pixel.

It is done for millions of pictures, so it is plain Python on two integers, and needs neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from omnicap_cli.core.models.model_json import read_object_if_there
from omnicap_cli.errors import AspectRatioError, EngineError

MAX_ASPECT_RATIO: Final = 200  # of transformers' smart_resize; no configuration changes it
# One cuts pictures as the other; "Fast" is what older versions of transformers call the first.
_IMAGE_PROCESSORS: Final = {"Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"}
_COPY_IT: Final = "copy preprocessor_config.json from the model that this one is made from"


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelGrid:
    """A patch is `patch_size` pixels square, a token `merge_size` patches square.

    Before it is cut, a picture is resized to an area within `min_pixels` and `max_pixels`. Qwen2-VL, Qwen2.5-VL and
    Qwen3-VL differ in these numbers alone (for clips in more: Qwen3-VL's limits are of all frames together). The
    defaults are what transformers takes where a model doesn't say.
    Source: `smart_resize` in transformers' image processor of Qwen2-VL.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    def __post_init__(self) -> None:
        for name in self.__slots__:
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise EngineError(f"the model's image processor has the {name} {number!r}", hint=_COPY_IT)

    @classmethod
    def of_folder(cls, folder: Path) -> PixelGrid | None:
        """The grid of a model's folder, or None where pictures are cut in another way.

        Raises EngineError where the folder doesn't say how they are cut.
        """
        nested = (read_object_if_there(folder / "processor_config.json") or {}).get("image_processor")
        config = nested or read_object_if_there(folder / "preprocessor_config.json")
        if not config:
            raise EngineError(f"{folder} doesn't say how the model cuts pictures", hint=_COPY_IT)
        return cls.of_config(config)

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> PixelGrid | None:
        """The grid of an image processor, by its configuration file or its `to_dict()`; None as in `of_folder`.

        A limit of its own, as older versions of transformers write it, beats the one in `size`: so it does there.
        """
        if config.get("image_processor_type") not in _IMAGE_PROCESSORS or config.get("do_resize") is False:
            return None
        size = config.get("size") or {}
        numbers = {name: config.get(name) for name in cls.__slots__}
        for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            if numbers[name] is None:
                numbers[name] = size.get(edge, size.get(name))
        return cls(**{name: number for name, number in numbers.items() if number is not None})

    def with_limits(self, min_pixels: int | None, max_pixels: int | None) -> PixelGrid:
        """The same within limits that a user asked for: a limit of the model's own gives way to them."""
        low = min_pixels or min(self.min_pixels, max_pixels or self.min_pixels)
        high = max_pixels or max(self.max_pixels, low)
        return replace(self, min_pixels=low, max_pixels=high)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width, in pixels, that a picture is resized to before it is cut.

        Raises AspectRatioError where one side is too long for the other.
        """
        if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
            raise aspect_ratio_error(height, width)
        return fit_into_limits(height, width, self.patch_size * self.merge_size, self.min_pixels, self.max_pixels)

    def num_patches(self, height: int, width: int) -> int:
        """Patches of a picture, each a row of `pixel_values`. Raises as `resized_size`."""
        new_height, new_width = self.resized_size(height, width)
        return (new_height // self.patch_size) * (new_width // self.patch_size)

    def num_tokens(self, height: int, width: int) -> int:
        """Tokens that stand in the prompt for a picture. Raises as `resized_size`."""
        return self.num_patches(height, width) // self.merge_size**2


def fit_into_limits(
    height: int, width: int, side: int, min_pixels: int, max_pixels: int, num_frames: int = 1, num_padded: int = 1
) -> tuple[int, int]:
    """Height and width of whole tokens, `side` pixels square, with an area within the limits.

    Of a clip the limits are those of all frames together, which are `num_padded` once the last patch in time is filled.
    """
    new_height, new_width = round(height / side) * side, round(width / side) * side
    if num_padded * new_height * new_width > max_pixels:
        scale = math.sqrt(num_frames * height * width / max_pixels)
        new_height = max(side, math.floor(height / scale / side) * side)
        new_width = max(side, math.floor(width / scale / side) * side)
    elif num_padded * new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (num_frames * height * width))
        new_height = math.ceil(height * scale / side) * side
        new_width = math.ceil(width * scale / side) * side
    return new_height, new_width


def aspect_ratio_error(height: int, width: int) -> AspectRatioError:
    """What is wrong where one side is too long for the other."""
    what = f"one side is more than {MAX_ASPECT_RATIO} times the other, which the model doesn't take"
    return AspectRatioError(f"{width} x {height} pixels: {what}")
