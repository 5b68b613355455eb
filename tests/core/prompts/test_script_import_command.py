"""Scripts that can't be imported, and the command that imports them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.inference_scripts import MATCH, TABLES_AND_CHAIN, texts_of, write_script

from omnicap_cli.core.prompts.script_import.importer import import_prompts
from omnicap_cli.core.prompts.script_import.script import MAX_SCRIPT_BYTES
from omnicap_cli.errors import OmnicapError, OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


# ---------------------------------------------------------------------------------------------- broken scripts


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"print 'hello'\n", ":1: not Python 3: "),
        (b"x = 1\n  y = 2\n", ":2: not Python 3: "),
        (b"x = 1\0\n", ": not Python 3: "),
        (b'X = "\xff"\n', "not Python 3: "),
        (b"# coding: klingon\n", "unknown encoding: klingon"),
        ("x = 1".encode("utf-16"), "not Python 3: "),
        (b"", "no prompt in it is understood"),
        (b"x = 1\n", "no prompt in it is understood"),
        (b"x = " + b"-" * 50_000 + b"1\n", ""),
        (b"x = " + b"(" * 5_000 + b")" * 5_000, ""),
        (b"x = " + b" + ".join([b"y"] * 20_000), ""),
        (b"x" * (MAX_SCRIPT_BYTES + 1), "more than 2,000,000 bytes"),
    ],
    ids=range(12),
)
def test_what_is_no_such_script_is_an_error_for_people(tmp_path, source, said):
    with pytest.raises(OmnicapError) as caught:
        import_prompts(write_script(tmp_path, source))
    assert caught.value.message.startswith(f"{tmp_path}/upstream.py")
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "def f(a):\n    return f(a) + g(a) + f(a)\ndef g(a):\n    return f(a) + g(a) + f(a)\n",
        "x = 'ab'\n"
        + "x = x + x\n" * 70
        + "y = [1]\n"
        + "y = y + y\n" * 70
        + "v = [1]\n"
        + "v += v\n" * 70
        + "z = (1,)\n"
        + "z += z\n" * 70,
        "x = 'a' * 10 ** 9\ny = '{:>999999999}'.format('a')\nz = ('a' * 900000).replace('a', 'b' * 900000)\n",
        "x = ''.join(['a' * 900000, 'b' * 900000])\nx = '%s' * 99999\nw = x % (x, x)\nv = f'{0x" + "f" * 9000 + "}'\n",
        "d = {}\nd['d'] = d\nd['l'] = [d]\nq = []\nq.append(q)\nt = (d, q)\nPROMPTS = {'x': t}\n",
        "while True:\n    x = 1\nfor i in iter(int, 1):\n    pass\n",
        "def f():\n    n = 1\n    def g():\n        nonlocal n\n        n = 2\n    g()\nglobal k\n",
        "def f(style):\n" + "".join(f"    {'el' * (n > 0)}if style == 'k{n}': x = {n}\n" for n in range(1500)),
        "a0 = 'ab'\n" + "".join(f"a{n + 1} = a{n} + a{n}\n" for n in range(200)),
    ],
    ids=range(9),
)
def test_scripts_that_never_end_or_never_fit_do_no_harm(tmp_path, source):
    assert texts_of(tmp_path, source + 'QUESTIONS = {"Detailed": "a"}\n', "Detailed") == ("", "a")


def test_a_table_too_large_for_prompts(tmp_path):
    table = ", ".join(f"'k{number}': 'a text'" for number in range(10_001))
    with pytest.raises(OmnicapError, match="more than 10,000 texts and statements, too many"):
        import_prompts(write_script(tmp_path, f"QUESTIONS = {{{table}}}"))


@pytest.mark.parametrize("name", [".", "missing.py", "/dev/zero", "nul\0.py"])
def test_what_is_no_file(tmp_path, name):
    with pytest.raises(OptionError, match="FILE"):
        import_prompts(tmp_path / name)


# ------------------------------------------------------------------------------------------------ the command


def omnicap(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    command = [sys.executable, "-m", "omnicap_cli", "prompts", *words]
    return subprocess.run(command, cwd=cwd, env=env | {"NO_COLOR": "1"}, capture_output=True, text=True, timeout=120)


def shown(folder: Path, kind: str, style: str) -> list[dict[str, Any]]:
    result = omnicap("show", kind, style, "--prompts", "out.toml", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_command_writes_a_file_that_prompts_reads(tmp_path):
    write_script(tmp_path, TABLES_AND_CHAIN)
    result = omnicap("import", "upstream.py", "-o", "out.toml", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    *warnings, summary = result.stderr.splitlines()
    assert [line.split(": ")[:2] for line in warnings] == [["warning", f"upstream.py:{line}"] for line in (16, 22, 30)]
    assert summary == "5 prompts for 4 types, 3 left out → out.toml"
    assert [(each["system"], each["user"]) for each in shown(tmp_path, "aigc", "Medium_CN")] == [
        ("你看图。", "一半。😀")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.toml", "upstream.py"]


@pytest.mark.parametrize("more", [(), ("-o", "-"), ("--quiet",)])
def test_without_a_file_it_goes_to_the_standard_output(tmp_path, more):
    write_script(tmp_path, MATCH)
    result = omnicap("import", "upstream.py", *more, cwd=tmp_path)
    assert result.returncode == 0
    assert tomllib.loads(result.stdout)["types"]["gui"]["styles"]["caption"]["en"]["system"] == "S screen"
    assert result.stderr == ("" if more == ("--quiet",) else "4 prompts for 2 types, nothing left out\n")


def test_nothing_in_a_script_runs(tmp_path):
    mark = tmp_path / "it-ran"
    act = f"open({str(mark)!r}, 'w').write('x')"
    source = f"""\
{act}
import upstream_helper
class Meta(type):
    def __new__(*a): {act}
class Text(str, metaclass=Meta):
    def __str__(self): {act}
    def strip(self): {act}
X = [{act} for _ in "ab"]
f"{{{act}}}"
"{{0.__class__}}".format(exec({act!r}))
@exec({act!r})
def f(a={act}): {act}
QUESTIONS = {{"Detailed": "a", "Short": Text("b").strip(), "Medium": eval({act!r})}}
if __name__ == "__main__": {act}
"""
    write_script(tmp_path, act, "upstream_helper.py")
    write_script(tmp_path, source)
    result = omnicap("import", "upstream.py", "-o", "out.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not mark.exists()
    assert shown(tmp_path, "aigc", "detailed")[0]["user"] == "a"


def test_a_file_that_is_there_is_kept_without_overwrite(tmp_path):
    write_script(tmp_path, MATCH)
    write_script(tmp_path, "mine", "out.toml")
    refused = omnicap("import", "upstream.py", "-o", "out.toml", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "out.toml").read_text() == "mine"
    assert omnicap("import", "upstream.py", "-o", "out.toml", "--overwrite", cwd=tmp_path).returncode == 0
    assert shown(tmp_path, "aigc", "tag")[0]["user"] == "tags\n  and more\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing.py", "-o", "out.toml"], 1, "no prompt in it is understood"),
        (["python2.py", "-o", "out.toml"], 1, "python2.py:1: not Python 3"),
        (["missing.py", "-o", "out.toml"], 2, "missing.py"),
        ([".", "-o", "out.toml"], 2, "is not a file"),
        (["good.py", "-o", "good.py", "--overwrite"], 2, "is the script itself"),
        (["good.py", "-o", ".", "--overwrite"], 2, "is not a file"),
        (["good.py", "-o", "no/such/out.toml"], 2, "folder"),
        (["good.py", "-o", "x" * 300], 2, "File name too long"),
    ],
)
def test_what_goes_wrong_leaves_no_file(tmp_path, words, code, said):
    write_script(tmp_path, "SYSTEMS = {}\nQUESTIONS = {'nonsense': f()}\n", "nothing.py")
    write_script(tmp_path, "print 'x'\n", "python2.py")
    write_script(tmp_path, MATCH, "good.py")
    result = omnicap("import", *words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.py", "nothing.py", "python2.py"]
    assert (tmp_path / "good.py").read_text() == MATCH
