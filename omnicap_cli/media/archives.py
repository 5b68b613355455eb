"""The pictures in a tar archive, one after the other, with what stands beside them. Nothing is unpacked to the disk.

Members that share a name up to its first dot and follow each other are one sample, as in WebDataset: its `.json` and
`.txt` are columns of its pictures. Names of members are only ever names here, so none can lead out of the archive.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Final

import orjson  # a sample with its JSON may be small and there are millions

from omnicap_cli.core.files.words import printable
from omnicap_cli.core.runs.records import Span
from omnicap_cli.errors import DecodeError, EmptyFileError, ItemError, ManifestError, TooLargeError, UnsupportedError
from omnicap_cli.media.manifests import json_value
from omnicap_cli.media.names import is_media_name

_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
_MAX_COLUMN_BYTES: Final = 16 << 20
_MAX_SAMPLE_BYTES: Final = 32 << 20  # held while more of a sample may come
_NEIGHBOURS: Final = "what belongs to a picture must be packed next to it, as tar --sort=name does"
_BROKEN: Final = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A picture or document in an archive: the `span` of the archive that holds it, or its `content`."""

    name: str
    span: Span | None = None
    content: bytes | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    error: ItemError | None = None


def is_plain_tar(file: BinaryIO) -> bool:
    """Whether a local file is a tar that isn't compressed, in which members can be found again by their place."""
    file.seek(0)
    head = file.read(_BLOCK_BYTES)
    file.seek(0)
    return not head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))


def read_members(
    file: BinaryIO,
    *,
    in_place: bool,
    max_bytes: int,
    warn: Callable[[str], None] = lambda _problem: None,
) -> Iterator[Member]:
    """The pictures and documents by their names, in order.

    `in_place` needs a seekable plain tar and gives spans; else `file` is read once from front to back, whatever its
    compression, and members bring their content. `warn` is told once if columns stand beside no picture. Raises a
    DecodeError where the archive breaks off or is none, once all members before that were given.
    """
    is_told = False
    for sample in _read_samples(file, in_place=in_place, max_bytes=max_bytes):
        if sample.column_file and not sample.pictures and not is_told:
            is_told = True
            warn(f"{printable(sample.column_file)} stands beside no picture: {_NEIGHBOURS}")
        yield from sample.finished_pictures()


def _read_samples(file: BinaryIO, *, in_place: bool, max_bytes: int) -> Iterator[_Sample]:
    """See `read_members`."""
    sample = _Sample("")
    try:
        # ENCODING is not the system's, which would make ids differ between machines
        with tarfile.open(fileobj=file, mode="r:" if in_place else "r|*", encoding="utf-8") as archive:
            for info in archive:
                if info.size < 0:  # tarfile would go round in a circle
                    raise DecodeError(f"the archive is damaged at its member {info.name}; what came before was taken")
                archive.members = []  # type: ignore[attr-defined]  # it would grow with every member
                if sample.key != (key := _sample_key(info.name)) or sample.num_bytes > _MAX_SAMPLE_BYTES:
                    yield sample
                    sample = _Sample(key)
                _add_member(sample, archive, info, in_place=in_place, max_bytes=max_bytes)
            yield sample
            sample = _Sample("")
            _check_end(archive, file, in_place=in_place)
    except ItemError:  # of the stream that it comes from
        yield sample
        raise
    except _BROKEN as error:
        yield sample
        if isinstance(error, tarfile.ReadError) and str(error) == "empty file":
            raise EmptyFileError("the archive is empty") from error
        raise DecodeError(f"the archive is broken, or is no tar ({error}); what came before that was taken") from error


@dataclass(slots=True)
class _Sample:
    """Members with one key, which wait for their columns; `column_file` is the first member that has any."""

    key: str
    pictures: list[Member] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    column_file: str = ""
    error: ItemError | None = None

    @property
    def num_bytes(self) -> int:
        """Of the pictures that are held."""
        return sum(len(picture.content or b"") for picture in self.pictures)

    def finished_pictures(self) -> Iterator[Member]:
        for picture in self.pictures:
            has_more = self.columns or self.error
            yield replace(picture, meta=self.columns, error=picture.error or self.error) if has_more else picture


def _add_member(
    sample: _Sample, archive: tarfile.TarFile, info: tarfile.TarInfo, *, in_place: bool, max_bytes: int
) -> None:
    """Add one member to its sample; a truncated one is there with what is known of it before that is raised."""
    name = info.name.rsplit("/", 1)[-1]
    if info.isdir() or _is_hidden(info.name):
        return
    is_wanted = is_media_name(info.name)
    if is_wanted and (error := _member_error(info, max_bytes)):
        sample.pictures.append(Member(name=info.name, error=error))
    elif is_wanted and in_place:
        sample.pictures.append(Member(name=info.name, span=Span(info.offset_data, info.size)))
    elif is_wanted:
        sample.pictures.append(Member(name=info.name, error=DecodeError("the archive breaks off within it")))
        content = _member_content(archive, info)
        sample.pictures[-1] = Member(name=info.name, content=content)
    elif name.lower().endswith((".json", ".txt")) and info.isreg() and info.size <= _MAX_COLUMN_BYTES:
        sample.column_file = sample.column_file or info.name
        _add_columns(sample, name, _member_content(archive, info))


def _is_hidden(name: str) -> bool:
    """Whether it, or a folder that it is in, begins with a dot; the steps `.` and `..` hide nothing."""
    return "/." in f"/{name}" and any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _member_error(info: tarfile.TarInfo, max_bytes: int) -> ItemError | None:
    if info.islnk() or info.issym():
        return UnsupportedError("a link in an archive: it isn't followed")
    if not info.isreg() or info.issparse():
        return UnsupportedError("no regular file in its archive")
    if info.size == 0:
        return EmptyFileError("the file is empty")
    if info.size > max_bytes:
        return TooLargeError(f"{info.size:,} bytes are more than --max-file-bytes {max_bytes:,}")
    return None


def _member_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None, "only regular files are read"
    content = file.read()
    if len(content) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _add_columns(sample: _Sample, name: str, content: bytes) -> None:
    """A JSON object's keys become columns; any other value, and text, one column named by the suffix."""
    suffix = name.rsplit(".", 1)[-1].lower()
    if suffix == "txt":
        sample.columns["txt"] = content.decode("utf-8-sig", "replace")
        return
    try:
        value = json_value(orjson.loads(content))
    except (orjson.JSONDecodeError, ManifestError) as error:
        sample.error = ManifestError(f"its {name} can't be read: {error}")
        return
    sample.columns |= value if isinstance(value, dict) else {"json": value}


def _sample_key(name: str) -> str:
    """The folder and the name up to its first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _check_end(archive: tarfile.TarFile, file: BinaryIO, *, in_place: bool) -> None:
    """Raise DecodeError where an archive has no end mark: what was read as its end is damage, or a broken copy."""
    if in_place:
        file.seek(archive.offset)
    stream: Any = file if in_place else archive.fileobj
    if stream.read(_BLOCK_BYTES) != bytes(_BLOCK_BYTES):
        raise DecodeError("the archive has no end mark: it broke off, or is damaged; what came before that was taken")
