"""The command line as a user meets it: start-up, usage errors, where options come from, what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omnicap_cli.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[2]
SIGN = ROOT / "examples" / "sign-zh.png"
HEAVY = {"numpy", "PIL", "torch", "transformers", "cv2", "onnxruntime", "rapidocr", "pypdfium2", "yaml", "orjson"}


def omnicap(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    environment |= {"COLUMNS": "120", "PYTHONUTF8": "1"} | more.pop("env", {})
    return subprocess.run(
        [sys.executable, "-m", "omnicap_cli", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        **more,
    )


def plan(*arguments: str, **more) -> dict:
    """What --dry-run says of a run over one picture, which no model is needed for."""
    result = omnicap("caption", str(SIGN), "--dry-run", *arguments, **more)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("arguments", [["--help"], ["caption", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys, json\n"
        "from omnicap_cli.app import main\n"
        f"sys.argv = ['omnicap', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('\\nMODULES', json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.split(".")[0] for name in json.loads(result.stdout.rpartition("MODULES ")[2])}
    assert not modules & HEAVY
    assert "typer" in modules  # the list is that of a process that did run the app


def test_version():
    from omnicap_cli import __version__

    assert omnicap("--version").stdout == f"omnicap {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["caption"], "INPUT"),
        (["caption", "a.png", "--no-such-option"], "--no-such-option"),
        (["caption", "a.png", "--workers", "many"], "--workers"),
        (["caption", "a.png", "--type", "orc"], "did you mean ocr?"),
        (["caption", "a.png", "--type", "ocr", "--style", "txt"], "did you mean text?"),
        (["caption", "a.png", "--type", "ocr", "--lang", "fr"], "'fr'"),
        (["caption", "a.png", "--type", "ocr", "--lang", "zh"], "zh"),
        (["caption", "a.png", "--type", "ocr", "--engine", "tesseract"], "rapidocr"),
        (["caption", "a.png", "--type", "ocr", "--workers", "0"], "--workers"),
        (["caption", "a.png", "--type", "ocr", "--limit", "0"], "--limit"),
        (["caption", "a.png", "--type", "ocr", "--max-error-rate", "2"], "--max-error-rate"),
        (["caption", "a.png", "--type", "ocr", "-o", "out.docx"], ".jsonl"),
        (["caption", "a.png", "--type", "ocr", "--dpi", "0"], "--dpi"),
        (["caption", "a.png", "--type", "ocr", "--min-pixels", "9", "--max-pixels", "4"], "--min-pixels"),
        (["caption", "-", "-", "--type", "ocr"], "'-' once"),
        (["caption", "a.png", "--type", "ocr", "--prompts", "missing.toml"], "missing.toml"),
        (["caption", "a.png", "--type", "ocr", "--style", "poster", "--engine", "rapidocr"], "poster"),
        (["caption", "a.png", "--type", "ocr", "--engine", "rapidocr", "--prompt", "Read."], "--prompt"),
        (["caption", "a.png", "--type", "ocr", "--options", "missing.yaml"], "missing.yaml"),
        (["prompts", "show", "ocr", "nothing"], "nothing"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(arguments, said, tmp_path):
    result = omnicap(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--style", "all", "--lang", "all"], ["--engine", "auto"]])
def test_without_a_model_it_says_what_to_pass(more):
    result = omnicap("caption", str(SIGN), "--type", "natural", *more)
    assert result.returncode == 1
    assert "--model" in result.stderr
    assert "--type ocr" in result.stderr
    assert len(result.stderr.splitlines()) <= 6
    assert "Traceback" not in result.stderr


def test_natural_is_the_default_type():
    assert "--type natural" in omnicap("caption", str(SIGN)).stderr


def test_dash_reads_paths_from_stdin():
    result = omnicap("caption", "-", "--type", "ocr", "--dry-run", input=f"{SIGN}\n{SIGN.with_name('table.png')}\n")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["items"] == 2


def test_a_stdin_that_does_not_wait_is_read_to_its_end(tmp_path):
    """As Node.js and some shells leave a pipe behind: "nothing yet" is not the end."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICAP_")}
    command = [sys.executable, "-m", "omnicap_cli", "caption", "-", "--type", "ocr", "--dry-run", "--json"]
    process = subprocess.Popen(command, stdin=read_end, stdout=subprocess.PIPE, env=environment, cwd=tmp_path)
    os.close(read_end)
    with open(write_end, "wb", buffering=0) as pipe:
        for name in ("sign-zh.png", "table.png", "poster.png"):
            time.sleep(0.8)  # it has begun to read by now, or will before the last
            pipe.write(f"{SIGN.with_name(name)}\n".encode())
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    counts = json.loads(stdout)
    assert (counts["items"], counts["unreadable"]) == (3, 0)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("type: ocr\nstyle: markdown\n")
    assert plan("--type", "ocr")["prompts"] == ["ocr/text/en"]
    assert plan("--options", str(file))["prompts"] == ["ocr/markdown/en"]
    assert plan("--options", str(file), env={"OMNICAP_STYLE": "text,markdown"})["prompts"] == [
        "ocr/text/en",
        "ocr/markdown/en",
    ]
    flagged = plan("--options", str(file), "--style", "text", env={"OMNICAP_STYLE": "markdown"})
    assert flagged["prompts"] == ["ocr/text/en"]


def test_the_options_file_can_come_from_the_environment_and_hold_lists_and_flags(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("type: ocr\nstyle: [text, markdown]\nmax_pixels: 100000\ndry-run: true\n")
    result = omnicap("caption", str(SIGN), env={"OMNICAP_OPTIONS": str(file)})
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["requests"] == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("stile: text\n", "Did you mean style?"),
        ("- text\n", "not a mapping"),
        ("style: [text\n", "not YAML"),
        ("workers: many\n", "--workers"),
        ("inputs: a.png\n", "inputs"),
    ],
)
def test_a_wrong_options_file_is_named(content, said, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text(content)
    result = omnicap("caption", str(SIGN), "--type", "ocr", "--dry-run", "--options", str(file))
    assert result.returncode == 2
    assert said in result.stderr


def test_null_in_an_options_file_is_the_option(tmp_path):
    """YAML takes an unquoted `null` for nothing."""
    file = tmp_path / "options.yaml"
    file.write_text("type: ocr\nnull: true\ndry-run: true\n")
    names = f"{SIGN}\0{SIGN.with_name('table.png')}\0"
    result = omnicap("caption", "-", "--options", str(file), input=names)
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)
    assert (counts["items"], counts["unreadable"]) == (2, 0)


def test_one_options_file_serves_several_commands(tmp_path):
    (tmp_path / "out.jsonl").touch()
    file = tmp_path / "options.yaml"
    file.write_text("type: ocr\nmax_pixels: 100000\njson: true\n")
    assert plan("--options", str(file))["prompts"] == ["ocr/text/en"]
    status = omnicap("status", "out.jsonl", "--options", str(file), cwd=tmp_path)
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["num_ok"] == 0
    file.write_text("type: ocr\nnonsense: 1\n")  # which no command knows
    wrong = omnicap("status", "out.jsonl", "--options", str(file), cwd=tmp_path)
    assert wrong.returncode == 2
    assert "nonsense" in wrong.stderr


def test_a_variable_that_means_nothing_is_warned_of():
    result = omnicap("caption", str(SIGN), "--type", "ocr", "--dry-run", env={"OMNICAP_WORKRES": "2"})
    assert result.returncode == 0
    assert json.loads(result.stdout)["items"] == 1
    assert "OMNICAP_WORKRES" in result.stderr
    assert "did you mean OMNICAP_WORKERS?" in result.stderr
    right = omnicap("caption", str(SIGN), "--type", "ocr", "--dry-run", env={"OMNICAP_WORKERS": "2"})
    assert right.stderr == ""


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "loop.jsonl"], ids=["too-long", "loop"])
def test_an_output_that_the_system_refuses_is_an_error_for_people(tmp_path, name):
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    result = omnicap("caption", str(SIGN), "--type", "ocr", "-o", name, cwd=tmp_path)
    assert result.returncode in (1, 2)
    assert name in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["loop.jsonl"]


def test_status_of_what_is_no_journal(tmp_path):
    result = omnicap("status", str(SIGN))
    assert (result.returncode, result.stdout) == (1, "")
    assert "not a journal" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_status_of_a_journal_whose_name_is_not_utf8(tmp_path, more):
    name = os.fsdecode(b"x\xff.jsonl")
    (tmp_path / name).touch()
    result = omnicap("status", name, *more, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "jsonl" in (json.loads(result.stdout)["journal"] if more else result.stdout)
    missing = omnicap("status", f"no-{name}", *more, cwd=tmp_path)
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize("kind", ["missing", "empty", "other files"])
def test_a_model_folder_without_models_is_named(tmp_path, kind):
    folder = tmp_path / "models"
    if kind != "missing":
        folder.mkdir()
    if kind == "other files":
        (folder / "README.md").write_text("no model")
    result = omnicap("caption", str(SIGN), "--type", "ocr", "--model", str(folder))
    assert (result.returncode, result.stdout) == (2, "")
    assert "--model" in result.stderr
    assert str(folder) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_hub_model_without_network_is_explained():
    env = {"HF_HUB_OFFLINE": "1"}
    result = omnicap("caption", str(SIGN), "--type", "ocr", "--model", "U4R/OmniCaptioner", env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert "U4R/OmniCaptioner" in result.stderr
    assert "HF_HUB_OFFLINE" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_extra_is_one_command(monkeypatch):
    from omnicap_cli.engines import registry

    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        registry.create_engine("huggingface", registry.EngineOptions())
    assert "torch, torchvision, transformers" in caught.value.message
    assert "pip install 'omnicap[torch]'" in caught.value.hint


@pytest.mark.parametrize(("value", "shown"), [("0", False), ("false", False), ("1", True)])
def test_debug_as_a_variable(tmp_path, value, shown):
    result = omnicap("status", str(tmp_path / "missing.jsonl"), env={"OMNICAP_DEBUG": value})
    assert result.returncode == 1
    assert ("Traceback" in result.stderr) == shown


def test_a_traceback_shows_only_with_debug(tmp_path):
    missing = str(tmp_path / "missing.jsonl")
    plain, debug = omnicap("status", missing), omnicap("status", missing, "--debug")
    assert plain.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "missing.jsonl" in plain.stderr
    assert "Traceback" in debug.stderr


def test_colours_only_on_a_terminal():
    assert "\x1b" not in omnicap("caption", str(SIGN), "--type", "natural").stderr


def test_prompts_list_has_every_type_and_show_every_text():
    listed = json.loads(omnicap("prompts", "list", "--json").stdout)
    assert set(listed) == {
        *("aigc", "natural", "mathgeo", "chart", "equation", "ocr", "gui", "table", "chem", "video"),
    }
    shown = [json.loads(line) for line in omnicap("prompts", "show", "gui", "--json").stdout.splitlines()]
    assert [(prompt["style"], prompt["lang"]) for prompt in shown] == [("caption", "en"), ("caption", "zh")]
    assert all(prompt["user"] for prompt in shown)
    assert "gui" in omnicap("prompts", "list").stdout
    assert shown[1]["user"] in omnicap("prompts", "show", "gui").stdout


def test_doctor_finds_the_base_install_in_order():
    result = omnicap("doctor")
    assert result.returncode == 0, result.stdout
    assert "PP-OCR" in result.stdout
    findings = {finding["name"]: finding for finding in json.loads(omnicap("doctor", "--json").stdout)}
    assert findings["engine rapidocr"]["ok"]
    assert findings["engine huggingface"]["ok"]
    assert not findings["engine vllm"]["ok"]


def test_doctor_names_the_command_for_what_is_missing(monkeypatch):
    import importlib.metadata

    from omnicap_cli.engines import diagnosis

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    [finding] = [finding for finding in diagnosis.examine() if finding.name == "onnxruntime"]
    assert finding.needed
    assert not finding.ok
    assert "pip install onnxruntime" in finding.fix


def test_generated_files_are_those_of_the_app():
    subprocess.run([sys.executable, str(ROOT / "scripts" / "generate.py"), "--check"], check=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid_shell(shell):
    name = {"bash": "omnicap.bash", "zsh": "_omnicap", "fish": "omnicap.fish"}[shell]
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(ROOT / "completions" / name)], check=True)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("omnicap caption --type mat", ["mathgeo"]),
        ("omnicap caption --type ocr --style mark", ["markdown"]),
        ("omnicap caption --type ocr --style al", ["all"]),
        ("omnicap caption --style detail", ["detailed"]),  # of the default type
        ("omnicap caption --lang z", ["zh"]),
        ("omnicap caption --lang a", ["all"]),
    ],
)
def test_completion_offers_what_there_is(words, offered):
    number = str(len(words.split()) - 1)
    environment = {"_OMNICAP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": number}
    code = "from omnicap_cli.app import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.stdout.split() == offered


def commands_of_the_readme() -> list[str]:
    readme = (ROOT / "README.md").read_text("utf-8")
    block = readme.partition("## Use it\n\n```sh\n")[2].partition("```")[0]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def test_the_commands_of_the_readme_run(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copy(SIGN, tmp_path / "scans" / "sign.png")
    shutil.copy(SIGN, tmp_path / "in" / "deep" / "sign.png")
    shutil.copy(ROOT / "examples" / "letter.pdf", tmp_path / "paper.pdf")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    commands = commands_of_the_readme()
    assert len(commands) >= 6
    for command in commands:
        if "jq" in command and not shutil.which("jq"):
            command = command.partition("| jq")[0]
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, (command, result.stderr)
        assert result.stdout or "-o " in command, command
