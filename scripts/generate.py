"""Write what is generated from the app: the command reference and the shell completions. `--check` only compares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.completion import get_completion_script

from omnicap_cli.app import app

ROOT = Path(__file__).resolve().parent.parent
COMPLETIONS = {"bash": "omnicap.bash", "zsh": "_omnicap", "fish": "omnicap.fish"}


def main() -> int:
    """Write the files, or with --check name those that differ; the exit code."""
    check = "--check" in sys.argv[1:]
    different = []
    for path, content in generated_files().items():
        if not path.exists() or path.read_text("utf-8") != content:
            different.append(path.relative_to(ROOT))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, "utf-8")
    for path in different:
        print(f"{path} {'differs from the app: run `make generate`' if check else 'written'}")
    return 1 if check and different else 0


def generated_files() -> dict[Path, str]:
    """The content of every generated file, by its path."""
    files = {ROOT / "docs" / "commands.md": "\n".join(command_reference())}
    for shell, name in COMPLETIONS.items():
        script = get_completion_script(prog_name="omnicap", complete_var="_OMNICAP_COMPLETE", shell=shell)
        files[ROOT / "completions" / name] = script.strip() + "\n"
    return files


def command_reference() -> Iterator[str]:
    """The command reference in Markdown."""
    yield "# Commands\n\nGenerated from the app by `make generate`.\n"
    yield "An option's value comes from its flag, else from its variable, else from the `--options` file, else it is"
    yield "the default. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some items failed, 130 interrupted,"
    yield "143 terminated.\n"
    root = typer.main.get_command(app)
    yield from options_table(root)
    for name, command in leaf_commands(root, "omnicap"):
        yield f"\n## {name}\n\n{(command.help or '').strip()}\n\n```\n{usage_line(name, command)}\n```\n"
        yield from options_table(command)


def leaf_commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that is not a group, with its full name."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
    for child_name, child in (children or {}).items():
        yield from leaf_commands(child, f"{name} {child_name}")


def usage_line(name: str, command: Any) -> str:
    """The synopsis of a command."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    words = [each.metavar or each.name.upper() for each in arguments]
    return " ".join(
        [
            name,
            "[OPTIONS]",
            *(word if each.required else f"[{word}]" for word, each in zip(words, arguments, strict=True)),
        ]
    )


def options_table(command: Any) -> Iterator[str]:
    """A Markdown table of the options of a command."""
    yield "| option | variable | default | meaning |"
    yield "|---|---|---|---|"
    for each in command.params:
        if each.param_type_name == "option" and not each.hidden:
            names = ", ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
            default = (
                "" if each.default in (None, False, 0) or callable(each.default) else f"`{as_typed(each.default)}`"
            )
            variable = f"`{each.envvar}`" if each.envvar else ""
            yield f"| {names} | {variable} | {default} | {(each.help or '').replace('|', chr(92) + '|')} |"


def as_typed(value: Any) -> str:
    """A default as a user would type it."""
    return str(getattr(value, "value", value))


if __name__ == "__main__":
    sys.exit(main())
