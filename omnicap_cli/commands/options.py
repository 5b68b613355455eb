"""Options that commands share, and where an option's value comes from: flag, environment, file, default."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from omnicap_cli.errors import OptionError, UsageError
from omnicap_cli.terminal.console import Console

ENV_PREFIX = "OMNICAP_"
DEBUG_VARIABLE = "OMNICAP_DEBUG"


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A typer.Option that the environment can set too: OMNICAP_ and its long name in capitals."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    env = ENV_PREFIX + long_name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(*names, help=help, envvar=env, rich_help_panel=panel, show_envvar=False, **more)


def number_or(word: str, name: str, value: str | None) -> int | None:
    """The number that an option has been given; None for the word that it takes too, or where it wasn't given."""
    if value is None or value == word:
        return None
    try:
        return int(value)
    except ValueError:
        raise OptionError(name, value, f"is not a number; give one, or {word}") from None


def _read_options(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a YAML file the defaults of the other options."""
    if path is None:
        return None
    known, defaults = _options_of(context.command), {}
    elsewhere = {name for command in _commands(context.find_root().command) for name in _options_of(command)}
    for key, value in _load_yaml(path).items():
        name = "null" if key is None else str(key).replace("_", "-")  # YAML reads `null:` as nothing
        if name in known:
            defaults[str(known[name].name)] = ",".join(map(str, value)) if isinstance(value, list) else value
        elif name not in elsewhere:  # one file may serve several commands
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"`{context.command_path} --help` lists them."
            raise UsageError(f"{path}: {name!r} is not an option of {context.command_path}", hint=hint)
    context.default_map = defaults
    return path


def _commands(command: Any) -> Iterator[Any]:
    """A command with all below it."""
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _commands(child)


def _options_of(command: Any) -> dict[str, Any]:
    """The options of a command by their names without dashes."""
    return {name.lstrip("-"): each for each in command.params if each.param_type_name == "option" for name in each.opts}


def unknown_variables(root: Any) -> Iterator[tuple[str, str | None]]:
    """Each OMNICAP_ variable that no command knows, with the nearest that one does."""
    known = {str(each.envvar) for command in _commands(root) for each in _options_of(command).values() if each.envvar}
    for name in sorted(os.environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            yield name, next(iter(difflib.get_close_matches(name, known, n=1)), None)


def _load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise OptionError("--options", str(path), f"can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"{path}: not a mapping", hint="Write one option a line, as in `style: text`.")
    return values or {}


OptionsFile = Annotated[
    Path | None,
    typer.Option(
        "--options",
        help="YAML file with values for options; flags and OMNICAP_ variables win.",
        envvar="OMNICAP_OPTIONS",
        is_eager=True,
        callback=_read_options,
        show_envvar=False,
        metavar="FILE",
    ),
]


def _set_debug(wanted: bool) -> None:
    """The processes that this one starts shall know it too."""
    if wanted:
        os.environ[DEBUG_VARIABLE] = "1"
    else:
        os.environ.pop(DEBUG_VARIABLE, None)  # it may be set to 0


AsJson = Annotated[bool, option("--json", help="JSON on stdout, on a terminal too.")]
Quiet = Annotated[bool, option("-q", "--quiet", help="Only errors on stderr.")]
Verbose = Annotated[int, option("-v", "--verbose", help="Say more; twice for everything.", count=True)]
NoColor = Annotated[bool, option("--no-color", help="No colours; the variable NO_COLOR does the same.")]
Debug = Annotated[bool, option("--debug", help="Tracebacks, and what libraries print.", callback=_set_debug)]


def forms(incomplete: str) -> list[str]:
    """Completes --format."""
    from omnicap_cli.exports.formats import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


def make_console(*, quiet: bool, verbose: int, no_color: bool) -> Console:
    """The console that the common options ask for."""
    return Console(level=0 if quiet else 1 + verbose, no_color=no_color)
