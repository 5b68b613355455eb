"""From the path of a script to the content of a catalogue file, with what could not be understood.

It knows no prompt: `search` finds them, `writing` writes them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from omnicap_cli.core.files.atomic import replacing
from omnicap_cli.core.files.words import printable
from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.errors import OmnicapError, OptionError
from omnicap_cli.prompt_import.script import read_script
from omnicap_cli.prompt_import.search import find_prompts
from omnicap_cli.prompt_import.writing import as_toml, check_toml

_HINT: Final = "Give the inference script that was published with the weights."
_MAX_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptImport:
    """`toml` is the catalogue file; `problems` are messages, each of a line of the script."""

    toml: str
    num_prompts: int
    num_types: int
    num_left_out: int
    problems: tuple[str, ...]

    def summary(self, output: Path | None) -> str:
        """The outcome in one line."""
        prompts = f"{self.num_prompts:,} prompt{'s' if self.num_prompts != 1 else ''}"
        types = f"{self.num_types:,} type{'s' if self.num_types != 1 else ''}"
        left_out = f"{self.num_left_out:,} left out" if self.num_left_out else "nothing left out"
        return f"{prompts} for {types}, {left_out}" + (f" → {printable(str(output))}" if output else "")


def import_prompts(path: Path) -> PromptImport:
    """Read the prompts of a script. Raises OmnicapError where it isn't Python, or holds none that is understood."""
    script, catalogue = read_script(path), Catalogue.load()
    try:
        prompts = find_prompts(script, catalogue)
    except RecursionError as error:
        raise OmnicapError(f"{path}: nested too deeply to be followed", hint=_HINT) from error
    problems = tuple(printable(f"{path}:{problem.line}: {problem.what}") for problem in prompts.problems)
    if not prompts.found:
        more = [f"and {len(problems) - _MAX_SHOWN:,} more"] if len(problems) > _MAX_SHOWN else []
        message = "\n  ".join([f"{path}: no prompt in it is understood", *problems[:_MAX_SHOWN], *more])
        raise OmnicapError(message, hint=_HINT)
    toml = as_toml(prompts.found, catalogue, title=f"The prompts of {printable(path.name)}, for --prompts.")
    check_toml(toml, prompts.found)
    return PromptImport(
        toml=toml,
        num_prompts=len(prompts.found),
        num_types=len({place.type for place in prompts.found}),
        num_left_out=sum(problem.is_left_out for problem in prompts.problems),
        problems=problems,
    )


def write_catalogue(toml: str, output: Path) -> None:
    """Write a catalogue file, whole or not at all. Raises OmnicapError."""
    try:
        with replacing(output) as file:
            file.write(toml.encode())
    except OSError as error:
        raise OmnicapError(f"can't write {output}: {error.strerror}", hint="Choose another place with -o.") from error


def check_output(output: Path, script: Path, *, overwrite: bool) -> None:
    """Raises OptionError where `output` may not be written."""
    try:
        is_there, is_file = os.path.lexists(output), output.is_file()
        is_script = output.exists() and script.exists() and output.samefile(script)
        has_home = output.resolve().parent.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"can't be used: {getattr(error, 'strerror', None) or error}"
        raise OptionError("--output", str(output), problem) from error
    if is_script:
        raise OptionError("--output", str(output), "is the script itself", hint="Choose another name with -o.")
    if is_there and not is_file:
        raise OptionError("--output", str(output), "is there and is not a file")
    if is_there and not overwrite:
        raise OptionError("--output", str(output), "is there already", hint="Pass --overwrite to replace it.")
    if not has_home:
        raise OptionError("--output", str(output), "is in a folder that isn't there", hint="Make the folder first.")
