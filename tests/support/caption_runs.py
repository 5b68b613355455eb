"""What tests of whole runs of `omnicap caption` check of them. It starts none of them itself."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from support.fake_engine import caption_of

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.runs.records import Prompt

PATIENCE_SECONDS = 60.0  # only ever reached by a test that fails
DEFAULT_PROMPTS = Catalogue.load().select("natural", [], "en")


def assert_complete(
    omnicap: Any, ids: list[str], prompts: list[Prompt] = DEFAULT_PROMPTS, name: str = "out.jsonl"
) -> None:
    """One ok record for each item and prompt, none twice, and in each the right caption."""
    records = omnicap.records(name)
    wanted = Counter((item_id, prompt.style, prompt.lang) for item_id in ids for prompt in prompts)
    assert Counter((record["id"], record["style"], record["lang"]) for record in records) == wanted
    assert_right(omnicap, records, prompts)


def assert_right(omnicap: Any, records: list[dict[str, Any]], prompts: list[Prompt] = DEFAULT_PROMPTS) -> None:
    """No key twice, and every record is ok with the caption of its own item and prompt."""
    assert len({record["key"] for record in records}) == len(records)
    shas = {(prompt.style, prompt.lang): prompt.sha for prompt in prompts}
    for record in records:
        content = (omnicap.folder / record["image"]).read_bytes()
        expected = caption_of(record["id"], shas[record["style"], record["lang"]], record["settings"], content)
        assert (record["status"], record["caption"]) == ("ok", expected)


def assert_fails(process: Any, *parts: str, code: int = 1) -> None:
    """It ended with `code` and said `parts`, in words for users."""
    assert "Traceback" not in process.stderr
    assert "Fatal Python error" not in process.stderr
    assert process.returncode == code, process.stderr
    for part in parts:
        assert part in process.stderr


def wait_for_end(process: subprocess.Popen[bytes]) -> subprocess.CompletedProcess[str]:
    """Wait for a process that should end by itself soon."""
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, (stdout or b"").decode(), stderr.decode())


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".partial")]


def ids_of(lines: str) -> list[str]:
    return [json.loads(line)["id"] for line in lines.splitlines()]
