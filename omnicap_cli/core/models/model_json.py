"""The JSON files of a model's folder. It knows what a damaged one means to a user, and nothing of what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson

from omnicap_cli.core.files.atomic import read_errors
from omnicap_cli.errors import EngineError

LFS_POINTER: Final = b"version https://git-lfs"
FROM_BASE: Final = "Copy it from the base model; merged and fine-tuned models often lack it."
COPY_AGAIN: Final = "Copy or download it again."


def read_object(path: Path) -> dict[str, Any]:
    """The object in a file. Raises EngineError where it holds something else, or can't be read."""
    value = read_object_if_there(path)
    if value is None:
        raise EngineError(f"there is no {path}", hint=COPY_AGAIN)
    return value


def read_object_if_there(path: Path) -> dict[str, Any] | None:
    """As `read_object`; None where there is no such file."""
    with read_errors(path, EngineError):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
    if content.startswith(LFS_POINTER):
        raise lfs_pointer_error(path)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        what = f"is not JSON, or was cut off: {error}" if content.strip() else "is empty"
        raise EngineError(f"{path} {what}", hint=COPY_AGAIN) from error
    if not isinstance(value, dict):
        raise EngineError(f"{path} holds no JSON object", hint=COPY_AGAIN)
    return value


def missing_file_error(folder: Path, name: str, what: str) -> EngineError:
    """What the user is told where a folder lacks the file that says `what`."""
    return EngineError(f"{folder} has no {name}, which says {what}", hint=FROM_BASE)


def lfs_pointer_error(path: Path) -> EngineError:
    """What the user is told of a file whose content `git clone` left behind."""
    hint = f"Fetch the files themselves: cd {path.parent} && git lfs install && git lfs pull"
    return EngineError(f"{path} is only a Git LFS pointer to the real file", hint=hint)
