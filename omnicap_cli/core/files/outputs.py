"""Where the output of a merge may be written, and what keeps it from beginning. It opens no file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from omnicap_cli.errors import JournalError, OptionError

_MAX_PROBLEMS: Final = 10


def lock_path(output: Path) -> Path:
    """The file that a `Journal` of that name locks too."""
    return Path(f"{output.resolve()}.lock")


def check_output(
    output: Path | None, inputs: Iterable[os.stat_result], *, overwrite: bool, kind: str = "journals"
) -> None:
    """Raises OptionError where the output may not be written. `kind` is what messages call the inputs."""
    if output is None:
        return
    try:
        output.resolve()  # a link that leads to itself has no place
        found = output.stat() if output.exists() else None
    except (OSError, RuntimeError) as error:
        raise OptionError("--output", str(output), f"can't be used: {getattr(error, 'strerror', error)}") from error
    if found is None:
        return
    if any(os.path.samestat(found, file) for file in inputs):
        raise OptionError("--output", str(output), f"is one of the {kind} to merge", hint="Choose another place.")
    if not output.is_file():
        raise OptionError("--output", str(output), "is there and is not a file")
    if not overwrite:
        raise OptionError("--output", str(output), "is there already", hint="Pass --overwrite to replace it.")


def incomplete_error(what: str, problems: Sequence[str]) -> JournalError:
    """`what` keeps a merge from beginning, for the reasons in `problems`."""
    shown = [*problems[:_MAX_PROBLEMS]]
    if len(problems) > _MAX_PROBLEMS:
        shown.append(f"and {len(problems) - _MAX_PROBLEMS:,} more")
    hint = "Let what is missing run, or pass --allow-missing to merge what is there."
    return JournalError("\n  ".join([f"{what}:", *shown]), hint=hint)
