"""Image files to RGB pixels, as a person sees them. It knows Pillow, and nothing of where files come from."""

from __future__ import annotations

import codecs
import contextlib
import functools
import math
import os
import struct
import warnings
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from omnicap_cli.core.runs.records import Settings
from omnicap_cli.errors import DecodeError, EmptyFileError, ItemError, TooLargeError, UnsupportedError
from omnicap_cli.media.local_files import open_file, unreadable_error

# Formats that only hold pixels. Left out on purpose: EPS and PS, which Pillow hands to Ghostscript to run.
IMAGE_FORMATS: Final = (
    *("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "ICO", "ICNS", "JPEG2000"),
    *("TGA", "PCX", "SGI", "QOI", "AVIF", "HEIF"),
)
_RAISE_LIMIT: Final = "if it is meant to be that large, raise --max-decode-pixels and pass --retry-failed"
_TURNED: Final = frozenset((5, 6, 7, 8))  # EXIF orientations that swap width and height
DEFAULT_MAX_DECODE_PIXELS: Final = Settings().max_decode_pixels
_PHOTOMETRIC: Final = 262  # the TIFF tag that says whether zero is black
_PNG_SIGNATURE_BYTES: Final = 8
_EXIF: Final = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # where Pillow puts an orientation
_PNG_EXIF_CHUNKS: Final = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_CORRUPT: Final = (  # what Pillow was seen to raise on damaged files
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, ArithmeticError, struct.error),
    *(AttributeError, RuntimeError),
)
warnings.filterwarnings("ignore", module=r"PIL\.")  # one for each odd tag helps nobody; sizes are checked here


class Size(NamedTuple):
    """In pixels, as shown: turned by the EXIF orientation."""

    width: int
    height: int


def num_image_pages(source: str | BinaryIO) -> int:
    """How many pages a TIFF has; of other formats the frames of an animation. Raises an ItemError as `header_size`."""
    with _open_image(source, None) as image:
        return int(getattr(image, "n_frames", 1))


def format_of(source: str | BinaryIO) -> str:
    """The format as Pillow names it, one of FORMATS. Raises an ItemError as `header_size`."""
    with _open_image(source, None) as image:
        return str(image.format)


def header_size(source: str | BinaryIO, page: int = 1, *, max_decode_pixels: int | None = None) -> Size:
    """The size of an image file (a path, or the open file), read from its header alone.

    Raises an ItemError where the file is missing, unreadable, empty, damaged or not an image.
    """
    with _open_image(source, max_decode_pixels) as image:
        if page > 1:
            image.seek(page - 1)
        width, height = image.size
        return Size(height, width) if _is_turned(image) else Size(width, height)


def decode_image(source: str | BinaryIO, page: int = 1, *, max_decode_pixels: int) -> Image.Image:
    """One page of an image file, by default its first frame: 8-bit RGB, turned upright, transparency over white.

    Raises TooLargeError before decoding if there are more than `max_decode_pixels`, or another ItemError.
    """
    with _open_image(source, max_decode_pixels) as image:
        image.seek(page - 1)
        check_size(*image.size, max_decode_pixels=max_decode_pixels)
        try:
            image.load()
            return to_rgb(_turned_upright(_black_is_zero(image)))
        except _CORRUPT as error:
            raise DecodeError(f"damaged {image.format} file: {error}") from error


def check_size(width: int, height: int, *, max_decode_pixels: int) -> None:
    """Raise TooLargeError if width times height is over the limit, or UnsupportedError if there are none."""
    if width * height > max_decode_pixels:
        raise TooLargeError(f"{width}x{height} pixels are more than the limit of {max_decode_pixels:,}; {_RAISE_LIMIT}")
    if width < 1 or height < 1:
        raise UnsupportedError("the picture has no pixels")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as 8-bit RGB; what is transparent becomes white."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        return converted if converted is not None else image.convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def fit_pixels(image: Image.Image, *, min_pixels: int | None, max_pixels: int | None) -> Image.Image:
    """Scale so that the area lies in [min_pixels, max_pixels], keeping the ratio; None means no bound."""
    area = image.width * image.height
    target = min(max(area, min_pixels or 0), max_pixels or max(area, min_pixels or 0))
    if target == area:
        return image
    scale = (target / area) ** 0.5
    rounded = math.ceil if scale > 1 else math.floor
    size = (max(1, rounded(image.width * scale)), max(1, rounded(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


@contextlib.contextmanager
def _open_image(source: str | BinaryIO, max_decode_pixels: int | None) -> Iterator[Image.Image]:
    """The header of an image file read, its pixels not yet. Pillow's own guard stays on, at twice our limit."""
    Image.MAX_IMAGE_PIXELS = max_decode_pixels or DEFAULT_MAX_DECODE_PIXELS
    with open_file(source) if isinstance(source, str) else contextlib.nullcontext(source) as file:
        try:
            with Image.open(file, formats=installed_formats()) as image:
                yield image
        except Image.DecompressionBombError as error:
            limit = f"more than twice the limit of {Image.MAX_IMAGE_PIXELS:,} pixels; {_RAISE_LIMIT}"
            raise TooLargeError(limit) from error
        except UnidentifiedImageError as error:
            raise _unidentified_error(file) from error
        except _CORRUPT as error:
            raise unreadable_error(error) from error


def _unidentified_error(file: BinaryIO) -> ItemError:
    """Say what a file is that is no image, from its first bytes."""
    file.seek(0)
    head = file.read(512)
    if not head:
        return EmptyFileError("the file is empty")
    if head.startswith(b"%PDF-"):
        return UnsupportedError("a PDF whose name doesn't end in .pdf")
    if not head.strip(b"\0"):
        return DecodeError("nothing but zero bytes: a download or a disk that broke off?")
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # which lets the last character be cut
        if all(character.isprintable() or character.isspace() for character in text):
            return UnsupportedError("not an image: it holds text")
    if head.startswith(b"PK\x03\x04"):
        return UnsupportedError("not an image: a zip archive or an office document")
    return UnsupportedError("not an image in a format that is read here, or one damaged in its header")


def _is_turned(image: Image.Image) -> bool:
    if image.format == "TIFF":  # whose size Pillow has turned already
        return False
    if not any(name in image.info for name in _EXIF) and not _has_late_exif(image):
        return False
    return _orientation_of(image) in _TURNED


def _has_late_exif(png: Image.Image) -> bool:
    """Whether a PNG may have an orientation behind the pixels, all of which Pillow would decode to look for it."""
    if not isinstance(png, PngImagePlugin.PngImageFile):
        return False
    assert png.fp
    png.fp.seek(_PNG_SIGNATURE_BYTES)
    behind = False
    while len(head := png.fp.read(8)) == 8:
        num_bytes, kind = struct.unpack(">I4s", head)
        behind = behind or kind == b"IDAT"
        if behind and kind in _PNG_EXIF_CHUNKS:
            return True
        png.fp.seek(num_bytes + 4, os.SEEK_CUR)  # the content and its checksum
    return False


def _orientation_of(image: Image.Image) -> int | None:
    with contextlib.suppress(*_CORRUPT):
        value = image.getexif().get(ExifTags.Base.Orientation)
        return value if isinstance(value, int) else None
    return None


def _black_is_zero(image: Image.Image) -> Image.Image:
    """A 16-bit grey TIFF may count from white, which Pillow minds in 8 bits only."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith("I;16"):
        return image
    if image.tag_v2.get(_PHOTOMETRIC) != 0:
        return image
    import numpy as np

    return Image.fromarray(np.uint16(65535) - np.asarray(image, dtype=np.uint16))


def _turned_upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _CORRUPT:  # EXIF that can't be read tells no orientation; the pixels are as good as ever
        return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits or floats to 0..255.

    Integers count from black to the full 16 bits, unless they all fit in 8; floats to 1.0, or to their maximum.
    """
    import numpy as np  # only here: it takes a while to import, and few pictures need it

    values = np.asarray(image)
    if np.issubdtype(values.dtype, np.floating):
        values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        full = max(1.0, float(values.max(initial=0.0)))
    else:
        highest = int(values.max(initial=0))
        full = 255.0 if highest <= 255 and values.dtype.itemsize > 2 else float(max(65535, highest))
    return Image.fromarray((np.clip(values / full, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


@functools.lru_cache(maxsize=1)
def installed_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with; HEIC comes with the pillow-heif package."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)
