"""A record with its pictures and clips as what a model is trained on: ids, labels, positions and patches.

Ids and labels come from the builder that counted them, and must be as many as were counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from omnicap_cli.core.runs.records import Settings, Transfer
from omnicap_cli.core.tokens.clip_grid import Clip, Media
from omnicap_cli.core.tokens.positions import VisualBlock, sample_positions
from omnicap_cli.core.tokens.samples import MediaKind, Sample, SampleError
from omnicap_cli.core.tokens.sequences import IGNORED
from omnicap_cli.core.tokens.training_input import TrainingInput
from omnicap_cli.media.frames import frames_of
from omnicap_cli.media.images import decode_image
from omnicap_cli.media.open_media import open_media
from omnicap_cli.media.record_pictures import RecordPictures
from omnicap_cli.media.video import clip_of
from omnicap_cli.training.data.record_index import DataError

_COUNT_AGAIN = "Run omnicap tokenize and omnicap merge again, with the same model and pixel limits as the training."


class UncuttableError(DataError):
    """A sample that is too long even without the text at its end."""


class Patches(NamedTuple):
    """Pictures or clips as a model takes them: patches of shape (num_patches, channels * time * height * width).

    `grid_thw`, shape (num_media, 3), counts patches along time, height and width.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A sample. `input_ids` and `labels` have shape (num_tokens,), `positions` (4, num_tokens).

    `clip_seconds` are those between two patches of each clip, for a model that places them by the second.
    """

    id: str
    input_ids: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    images: Patches | None = None
    clips: Patches | None = None
    clip_seconds: tuple[float, ...] = ()
    is_blank: bool = False

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLayout:
    """What of a model's configuration decides where visual tokens stand.

    `tokens_per_second` is None where a clip's positions in time count its patches.
    """

    image_token_id: int
    video_token_id: int
    merge_size: int
    tokens_per_second: float | None

    @classmethod
    def of_config(cls, config: Any) -> VisionLayout:
        """Of the configuration of a whole model, as transformers has it."""
        return cls(
            image_token_id=config.image_token_id,
            video_token_id=config.video_token_id,
            merge_size=config.vision_config.spatial_merge_size,
            tokens_per_second=getattr(config.vision_config, "tokens_per_second", None),
        )


class ExampleReader:
    """Makes examples of records. Relative paths count from `image_root`, by default from the current folder."""

    def __init__(self, input: TrainingInput, processor: Any, layout: VisionLayout, *, image_root: str | None) -> None:
        """`processor` is transformers' own, of the same folder as `input`."""
        self._input, self._processor, self.layout = input, processor, layout
        self._root = image_root or ""
        self._pictures = RecordPictures(folders=(self._root,))

    def read(self, record: Mapping[str, Any], *, max_tokens: int | None = None) -> Example:
        """The example of a record that was counted; what is over `max_tokens` is cut off its end, if that is text.

        Raises ItemError where a picture or clip can't be had, UncuttableError where a part of one would be cut off,
        DataError where the counts are of something else.
        """
        sample, task_type = self._sample_of(record)
        limits = self._input.grid_for(max(1, len(sample.images)))
        size = {"shortest_edge": limits.min_pixels, "longest_edge": limits.max_pixels}
        images = [self._image(name, size) for name in sample.images]
        clips = [self._clip(name) for name in sample.videos]
        image_media = [Media(self._num_tokens(each.grid_thw)) for each in images]
        parts = self._input.parts(sample, task_type, image_media, [media for _, media, _ in clips])
        sequence = self._input.builder.build(parts)
        num_tokens, num_counted = len(sequence.input_ids), record["sequence_length"]
        if num_tokens != num_counted:
            what = f"{record.get('id')}: counted as {num_counted:,} tokens, and now it is {num_tokens:,}"
            raise DataError(f"{what}: its counts are those of another model, pixel limit or picture", hint=_COUNT_AGAIN)
        ids = np.array(sequence.input_ids)
        blocks = self._blocks(sample, images, clips)
        is_visual = np.isin(ids, (self.layout.image_token_id, self.layout.video_token_id))
        positions = sample_positions(is_visual, blocks)
        end = len(ids) if max_tokens is None else max_tokens
        if is_visual[end:].any():
            raise UncuttableError(f"{record.get('id')}: cut at {end:,} tokens it would lose part of a picture")
        return Example(
            id=str(record.get("id")),
            input_ids=torch.from_numpy(ids[:end]),
            labels=torch.tensor(sequence.labels[:end]),
            positions=torch.from_numpy(positions[:, :end]),
            images=join_patches(images),
            clips=join_patches([patches for patches, _, _ in clips]),
            clip_seconds=tuple(seconds for _, _, seconds in clips) if self.layout.tokens_per_second else (),
        )

    def blank(self) -> Example:
        """A picture of one token and nothing to learn: where a batch has none, the vision tower works all the same.

        Processes that share a model wait for each other in every part of it.
        """
        image = self._processor.image_processor
        side, layout = self.layout.merge_size, self.layout
        width = 3 * image.temporal_patch_size * image.patch_size**2
        ids = torch.tensor([layout.image_token_id])
        return Example(
            id="",
            input_ids=ids,
            labels=torch.full_like(ids, IGNORED),
            positions=torch.zeros(4, 1, dtype=torch.long),
            images=Patches(torch.zeros(side * side, width), torch.tensor([[1, side, side]])),
            is_blank=True,
        )

    def _sample_of(self, record: Mapping[str, Any]) -> tuple[Sample, str]:
        try:
            sample = Sample.of_record(record)
            return sample, self._input.task_type(sample)
        except SampleError as error:
            raise DataError(f"{record.get('id')}: {error.message}", hint=_COUNT_AGAIN) from error

    def _image(self, name: str, size: dict[str, int]) -> Patches:
        with open_media(self._pictures.media_of({"image": name}), Transfer()) as file:
            image = decode_image(file, max_decode_pixels=Settings().max_decode_pixels)
        made = self._processor.image_processor(images=image, size=size, return_tensors="pt")
        return Patches(made["pixel_values"], made["image_grid_thw"])

    def _clip(self, name: str) -> tuple[Patches, Media, float]:
        """A clip, how it stands in the text, and the seconds between two of its patches."""
        path = os.path.join(self._root, name)
        clip: Clip = clip_of(path)
        indices = self._input.clip_grid.frame_indices(clip.num_frames, clip.fps)
        frames = torch.from_numpy(frames_of(path, indices)).permute(0, 3, 1, 2)
        processor = self._processor.video_processor
        made = processor(videos=[frames], do_sample_frames=False, return_tensors="pt")
        seconds = processor.temporal_patch_size / (len(indices) / clip.num_frames * clip.fps)
        return Patches(made["pixel_values_videos"], made["video_grid_thw"]), self._input.clip(clip), seconds

    def _num_tokens(self, grid_thw: torch.Tensor) -> int:
        return int(grid_thw.prod()) // self.layout.merge_size**2

    def _blocks(
        self, sample: Sample, images: Sequence[Patches], clips: Sequence[tuple[Patches, Media, float]]
    ) -> Iterator[VisualBlock]:
        """In the order of their places."""
        waiting_images, waiting_clips = iter(images), iter(clips)
        for turn in sample.turns:
            for part in turn.question:
                if part is MediaKind.IMAGE:
                    yield self._block(next(waiting_images).grid_thw)
                elif part is MediaKind.VIDEO:
                    patches, media, seconds = next(waiting_clips)
                    block = self._block(patches.grid_thw)
                    if media.timestamps is not None:
                        yield from [block._replace(t=1)] * block.t
                    elif self.layout.tokens_per_second is not None:
                        yield block._replace(time_interval=self.layout.tokens_per_second * seconds)
                    else:
                        yield block

    def _block(self, grid_thw: torch.Tensor) -> VisualBlock:
        t, h, w = grid_thw[0].tolist()
        return VisualBlock(t, h // self.layout.merge_size, w // self.layout.merge_size)


def join_patches(patches: Sequence[Patches]) -> Patches | None:
    """Those of several as if they were one's, None where there are none."""
    return Patches(*map(torch.cat, zip(*patches, strict=True))) if patches else None
