"""Chosen frames of a video as pixels. Which ones, and how they become tokens, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from omnicap_cli.errors import DecodeError
from omnicap_cli.media.video import opened_video


def frames_of(path: str, indices: Sequence[int]) -> npt.NDArray[np.uint8]:
    """The frames at `indices`, which ascend, of a local video: RGB, shape (len(indices), height, width, 3).

    It is read from its first frame on, since jumping lands beside the frame in some files. Raises an ItemError where
    it can't be read, or ends before the last of them.
    """
    wanted, frames = list(indices), []
    with opened_video(path) as video:
        number = -1
        for index in wanted:
            while number < index:
                if not video.grab():
                    raise DecodeError(f"damaged or truncated: it ends before frame {index}, at {number + 1}")
                number += 1
            decoded, frame = video.retrieve()
            if not decoded:
                raise DecodeError(f"damaged: frame {index} can't be decoded")
            frames.append(frame[..., ::-1])
    return np.stack(frames)
