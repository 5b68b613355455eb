"""The sizes of the pictures and clips that records name, from their headers. It knows paths, and no tokens."""

from __future__ import annotations

import functools
import os
import stat
from typing import Final

from omnicap_cli.core.files.words import without_remedy
from omnicap_cli.core.runs.records import Settings, Transfer
from omnicap_cli.core.tokens.clip_grid import Clip
from omnicap_cli.core.tokens.samples import SampleError
from omnicap_cli.errors import AccessError, DownloadError, ItemError, LinkLoopError, NotFoundError
from omnicap_cli.media.headers import quick_size
from omnicap_cli.media.images import Size, decode_image, header_size
from omnicap_cli.media.open_media import open_media
from omnicap_cli.media.record_pictures import RecordPictures

_NUM_CACHED: Final = 16_384  # one picture often has several captions, near each other
_REASONS: Final = {
    NotFoundError: "missing",
    LinkLoopError: "missing",
    AccessError: "unreadable",
    DownloadError: "unreachable",
}


class MediaSizes:
    """Relative paths count from `root`, by default from the current folder.

    With `verify` every picture is decoded too.
    """

    def __init__(self, root: str | None, *, verify: bool) -> None:
        self._root, self._verify = root or "", verify
        self._elsewhere = RecordPictures(folders=(self._root,))  # in archives, and behind URLs
        self.image = functools.lru_cache(_NUM_CACHED)(self._find_image)
        self.clip = functools.lru_cache(_NUM_CACHED)(self._find_clip)

    def _find_image(self, name: str) -> Size:
        """The size of a picture, as shown. Raises SampleError."""
        try:
            size = self._size_of(name)
        except ItemError as error:
            raise _sample_error("image", name, error) from error
        if self._verify:
            self._decode(name)
        return size

    def _find_clip(self, name: str) -> Clip:
        """The size, length and rate of a video file. Raises SampleError."""
        from omnicap_cli.media.video import clip_of

        try:
            return clip_of(os.path.join(self._root, name))
        except ItemError as error:
            raise _sample_error("video", name, error) from error

    def _size_of(self, name: str) -> Size:
        if "://" not in name:
            path = os.path.join(self._root, name.partition("#")[0])
            _refuse_devices(path)
            if "#" not in name and "%" not in name:  # else it may be within an archive, or percent-encoded
                return quick_size(path)
        with open_media(self._elsewhere.media_of({"image": name}), Transfer()) as file:
            return header_size(file)

    def _decode(self, name: str) -> None:
        try:
            with open_media(self._elsewhere.media_of({"image": name}), Transfer()) as file:
                decode_image(file, max_decode_pixels=Settings().max_decode_pixels)
        except ItemError as error:
            raise SampleError("undecodable_image", f"{name}: {without_remedy(error.message)}") from error


def _refuse_devices(path: str) -> None:
    """Raise AccessError for a pipe or a device: opening one may take for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # which is said where it is opened
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise AccessError("not a regular file")


def _sample_error(kind: str, name: str, error: ItemError) -> SampleError:
    what = next((what for each, what in _REASONS.items() if isinstance(error, each)), "broken")
    return SampleError(f"{what}_{kind}", f"{name}: {without_remedy(error.message)}")
