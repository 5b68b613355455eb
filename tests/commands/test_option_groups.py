"""Options that commands share: what Typer makes of a group, what a command gets, and what groups become."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from omnicap_cli.commands.groups import EngineFlags, GenerationFlags, MediaFlags, OutputFlags
from omnicap_cli.commands.options import option, takes_groups
from omnicap_cli.core.runs.shard import Shard
from omnicap_cli.errors import OptionError

COMMANDS = Path(__file__).resolve().parents[2] / "omnicap_cli" / "commands"
MAX_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintFlags:
    colour: Annotated[str, option("-c", help="Which.")] = "red"
    num_coats: Annotated[int, option(help="How many.")] = 1
    is_dry: Annotated[bool, option("--dry", help="By now.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WallFlags:
    paint: Annotated[str | None, option(help="The name of a paint.")] = None  # as the parameter of another group


def run(*arguments: str, without: tuple[str, ...] = (), **environment: str) -> tuple[list[str], dict]:
    """The options of a command in their order, and what it was called with."""
    app, called = typer.Typer(), {}

    @app.command()
    @takes_groups(without=without)
    def decorate(
        *,
        room: Annotated[str, typer.Argument()],
        door: Annotated[str | None, typer.Option("--the-door", hidden=True)] = None,
        paint: PaintFlags,
        ladder: Annotated[bool, option(help="Is one needed?")] = False,
        wall: WallFlags,
    ) -> None:
        """Paint a room."""
        called.update(room=room, door=door, paint=paint, ladder=ladder, wall=wall)

    result = CliRunner().invoke(app, ["hall", *arguments], env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    command = typer.main.get_command(app)
    assert command.help == "Paint a room."
    return [each.opts[-1] for each in command.params if each.param_type_name == "option" and each.envvar], called


def test_the_fields_of_groups_are_options_where_the_group_stands():
    options, called = run("-c", "blue", "--num-coats", "2", "--dry", "--ladder", "--paint", "lime")
    assert options == ["--colour", "--num-coats", "--dry", "--ladder", "--paint"]
    assert called == {
        "room": "hall",
        "door": None,
        "paint": PaintFlags(colour="blue", num_coats=2, is_dry=True),
        "ladder": True,
        "wall": WallFlags(paint="lime"),
    }
    with pytest.raises(FrozenInstanceError):
        called["paint"].colour = "green"


def test_variables_set_options():
    _, called = run(
        OMNICAP_LADDER="1", OMNICAP_NUM_COATS="3", OMNICAP_COLOUR="blue", OMNICAP_DRY="1", OMNICAP_IS_DRY="0"
    )
    assert called["paint"] == PaintFlags(colour="blue", num_coats=3, is_dry=True)
    assert called["ladder"]


def test_an_option_that_a_command_goes_without_has_its_default():
    options, called = run("-c", "blue", without=("num_coats", "paint"), OMNICAP_NUM_COATS="3")
    assert options == ["--colour", "--dry", "--ladder"]
    assert (called["paint"], called["wall"]) == (PaintFlags(colour="blue"), WallFlags())


def bodies() -> dict[str, int]:
    """How many lines the body of each command has, its docstring included."""
    functions = (
        (path.stem, node)
        for path in COMMANDS.glob("*.py")
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
    )
    return {
        f"{module}.{function.name}": (function.body[-1].end_lineno or 0) - function.body[0].lineno + 1
        for module, function in functions
        if any("takes_groups" in ast.unparse(decorator) for decorator in function.decorator_list)
    }


def test_the_bodies_of_commands_are_short():
    assert {"caption.caption", "convert.convert", "train.train"} <= bodies().keys()
    assert {name: num_lines for name, num_lines in bodies().items() if num_lines > MAX_LINES} == {}


def test_a_preset_gives_way_to_what_is_given():
    paper = GenerationFlags(preset="paper", top_k=3, seed=7)
    assert (paper.generation().temperature, paper.generation().top_k, paper.generation().seed) == (0.2, 3, 7)
    greedy = GenerationFlags(preset="paper", temperature=0.0).generation()
    assert (greedy.top_p, greedy.top_k, greedy.repetition_penalty) == (None, None, 1.2)
    media = MediaFlags(max_pixels=1_000_000)
    assert (media.settings().min_pixels, media.settings().max_pixels) == (None, 1_000_000)
    assert (media.settings("paper").min_pixels, media.settings("paper").max_pixels) == (1568, 1_000_000)


def test_words_beside_numbers():
    options = EngineFlags(gpus="all", batch_size="4").options(GenerationFlags())
    assert (options.devices.gpus, options.batch_size) == ("all", 4)
    options = EngineFlags(gpus="2").options(GenerationFlags())
    assert (options.devices.gpus, options.batch_size) == (2, None)
    with pytest.raises(OptionError, match="--batch-size: 'some'"):
        EngineFlags(batch_size="some").options(GenerationFlags())


@pytest.mark.parametrize(
    ("output", "shard", "target"),
    [
        (None, None, None),
        ("-", Shard(1, 4), None),
        ("out-{shard}.jsonl", Shard(1, 4), "out-1.jsonl"),
        ("out-{shard}.jsonl", None, "out-{shard}.jsonl"),
    ],
)
def test_where_the_output_goes(output, shard, target):
    assert OutputFlags(output=output).target(shard) == target
