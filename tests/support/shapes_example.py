"""The example of shapes as tests use it: its scripts run as the README does, or loaded as modules."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / "examples" / "shapes"
PATIENCE_SECONDS = 600  # only ever reached by a test that fails


def run(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SHAPES / script), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def run_readme(folder: Path, lines: slice) -> str:
    """Run lines of the README as they stand, in `folder`, and return what they printed."""
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    block = re.search(r"```sh\n(.*?)```", (SHAPES / "README.md").read_text("utf-8"), re.DOTALL)
    assert block
    printed = ""
    for line in block[1].splitlines()[lines]:
        program, *words = line.split()
        command = {"python": [sys.executable], "omnicap": [sys.executable, "-m", "omnicap_cli"]}[program]
        result = subprocess.run(
            [*command, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        assert result.returncode == 0, result.stderr
        printed += result.stdout
    return printed


def load_script(name: str) -> ModuleType:
    """A script of the example as a module, under a name that no other module has."""
    spec = importlib.util.spec_from_file_location(f"shapes_{name}", SHAPES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def read_records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def caption_of(record: dict[str, Any]) -> str:
    return record["conversations"][1]["value"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, by its path from there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
