"""How a command gets options, and where their values come from: flag, environment, file, default.

It knows no option of any command.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from omnicap_cli.errors import OptionError, UsageError

ENV_PREFIX = "OMNICAP_"
DEBUG_VARIABLE = "OMNICAP_DEBUG"


def option(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    """A typer.Option that the environment can set too: OMNICAP_ and its long name in capitals.

    Without a long name among `names` it gets that of its parameter or field, from `takes_groups`.
    """
    long_name = next((name for name in names if name.startswith("--")), "")
    variable = _variable_of(long_name.removeprefix("--"))
    return typer.Option(*names, help=help, envvar=variable, rich_help_panel=panel, show_envvar=False, **more)


def _variable_of(name: str) -> str:
    return ENV_PREFIX + name.replace("-", "_").upper()


def takes_groups(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, for each parameter whose type is a dataclass, the options that are its fields.

    Typer then sees plain options, in the order of parameters and fields; the command is called with the dataclasses.
    The fields that `without` names are no options of this command: they keep their defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        groups: dict[str, tuple[type, list[str]]] = {}
        for each in inspect.signature(command, eval_str=True).parameters.values():
            group = each.annotation
            if isinstance(group, type) and is_dataclass(group):
                options = [option for option in _options_of_group(group) if option.name not in without]
                groups[each.name] = group, [option.name for option in options]
                parameters += options
            else:
                _name_option(each.name, each.annotation)
                parameters.append(each)

        @functools.wraps(command)
        def call_with_groups(**values: Any) -> None:
            made = {
                name: group(**{option: values.pop(option) for option in options})
                for name, (group, options) in groups.items()
            }
            command(**values, **made)

        call_with_groups.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call_with_groups.__annotations__ = {each.name: each.annotation for each in parameters}
        return call_with_groups

    return decorate


@functools.cache
def _options_of_group(group: type[Any]) -> list[inspect.Parameter]:
    """The fields of a group as parameters of a command."""
    types, options = get_type_hints(group, include_extras=True), []
    for each in fields(group):
        _name_option(each.name, types[each.name])
        kind = inspect.Parameter.KEYWORD_ONLY
        options.append(inspect.Parameter(each.name, kind, default=each.default, annotation=types[each.name]))
    return options


def _name_option(name: str, annotation: Any) -> None:
    """Call the option in an annotation as its parameter is called, if it has no long name yet."""
    for shown in getattr(annotation, "__metadata__", ()):
        if getattr(shown, "envvar", None) == ENV_PREFIX:
            shown.param_decls, shown.envvar = (f"--{name.replace('_', '-')}",), _variable_of(name)


def number_or(word: str, name: str, value: str | None) -> int | None:
    """The number that an option has been given; None for the word that it takes too, or where it wasn't given."""
    if value is None or value == word:
        return None
    try:
        return int(value)
    except ValueError:
        raise OptionError(name, value, f"is not a number; give one, or {word}") from None


def read_options_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a YAML file the defaults of the other options."""
    if path is None:
        return None
    known, defaults = _options_of(context.command), {}
    elsewhere = {name for command in _all_commands(context.find_root().command) for name in _options_of(command)}
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


def _all_commands(command: Any) -> Iterator[Any]:
    """A command, and all below it."""
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _all_commands(child)


def _options_of(command: Any) -> dict[str, Any]:
    """The options of a command, by their names without dashes."""
    return {name.lstrip("-"): each for each in command.params if each.param_type_name == "option" for name in each.opts}


def unknown_variables(root: Any) -> Iterator[tuple[str, str | None]]:
    """Each OMNICAP_ variable that no command knows, with the nearest that one does."""
    known = {
        str(each.envvar) for command in _all_commands(root) for each in _options_of(command).values() if each.envvar
    }
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
