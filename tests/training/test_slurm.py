"""Batch files for Slurm: what is in them, and whether they train, with a stand-in for srun on this machine alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.shapes_example import ROOT
from support.training_data import count, draw_media, many
from support.training_runs import log_of, make_config

from omnicap_cli.errors import OptionError
from omnicap_cli.training.checkpoints import list_checkpoints, read_note
from omnicap_cli.training.slurm import batch_file

PATIENCE_SECONDS = 120.0  # only ever reached by a test that fails
EXAMPLES = ROOT / "examples"

SHOW = '#!/bin/bash\nprintf \'%s\\n\' "$@" > shown; echo "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > seconds\n'
"""In place of srun: what it was asked to start."""

START = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do "$@" & done
for job in $(jobs -p); do wait "$job" || exit 1; done
"""
"""In place of srun: its command as often as there are nodes, all on this one."""


def run_batch(script: str, folder: Path, srun: str, *, num_nodes: int, job: int) -> subprocess.CompletedProcess[str]:
    """Run a batch file as Slurm does, on a first node of the name localhost."""
    (folder / "bin").mkdir(exist_ok=True)
    stand_in = folder / "bin" / "srun"
    stand_in.write_text(srun)
    stand_in.chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NUM_NODES": str(num_nodes), "SLURMD_NODENAME": "localhost"}
    limits = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | slurm | limits | {"PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def write(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`omnicap train` with the published recipe, in a folder of the form of this repository."""
    if not (folder / "examples").exists():
        (folder / "examples" / "slurm").mkdir(parents=True)
        shutil.copy(EXAMPLES / "omnicaptioner-7b.yaml", folder / "examples")
    command = [sys.executable, "-m", "omnicap_cli", "train", "--config", "examples/omnicaptioner-7b.yaml", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


def options_of(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


def test_each_node_starts_torchrun_with_the_command_as_it_was_typed(tmp_path) -> None:
    command = ["train", "--config", "my recipe.yaml", "--set", "data.train=[a.jsonl, 'b $HOME.jsonl']", "-v"]
    script = batch_file(command, python="/opt/my python", name="run", num_nodes=3, gpus_per_node=4)
    result = run_batch(script, tmp_path, SHOW, num_nodes=3, job=1_234_567)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "shown").read_text().splitlines() == [
        *("--kill-on-bad-exit=1", "--cpu-bind=none"),
        *("/opt/my python", "-m", "torch.distributed.run"),
        *("--nnodes=3", "--nproc-per-node=4"),
        *("--rdzv-backend=c10d", "--rdzv-id=1234567", "--rdzv-endpoint=localhost:24567"),
        *("-m", "omnicap_cli", *command),
    ]


def test_a_checkpoint_is_waited_for_but_not_beyond_the_time_limit(tmp_path) -> None:
    script = batch_file(["train"], python="python", name="run", num_nodes=1, gpus_per_node=8)
    signal, _, notice_seconds = options_of(script)["signal"].partition("@")
    assert signal == "TERM"  # with a B: before it only the shell would get it
    run_batch(script, tmp_path, SHOW, num_nodes=1, job=1)
    assert 60 < int((tmp_path / "seconds").read_text()) < int(notice_seconds) == 120


@pytest.mark.parametrize(("name", "of_job"), [("a-b_c.2", "a-b_c.2"), ("my run%j\n#", "my-run-j-"), ("ä", "-")])
def test_options_of_the_job(name, of_job) -> None:
    script = batch_file(["train"], python="python", name=name, num_nodes=3, gpus_per_node=4)
    options = options_of(script)
    assert (options["job-name"], options["output"]) == (of_job, "%x-%j.log")
    assert (options["nodes"], options["ntasks-per-node"], options["gpus-per-node"]) == ("3", "1", "4")
    assert options["open-mode"] == "append"
    assert "requeue" in options
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    last_option, first_command = script.rindex("#SBATCH"), script.index("\nexport")
    assert last_option < first_command  # Slurm reads none after a command


@pytest.mark.parametrize(("num_nodes", "gpus", "option"), [(0, 8, "--nodes"), (1, 0, "--gpus-per-node")])
def test_less_than_one_is_refused(num_nodes, gpus, option) -> None:
    with pytest.raises(OptionError, match=f"{option}: 0"):
        batch_file(["train"], python="python", name="run", num_nodes=num_nodes, gpus_per_node=gpus)


# ------------------------------------------------------------------------------------------ by the command


def test_the_example_is_what_its_readme_makes(tmp_path) -> None:
    line = re.search(
        r"```sh\nomnicap train --config (\S+) (.*)\n", (EXAMPLES / "slurm" / "README.md").read_text("utf-8")
    )
    assert line
    result = write(tmp_path, *line[2].split())
    assert (result.returncode, result.stdout) == (0, "")
    target = "examples/slurm/omnicaptioner-7b.sbatch"
    assert f"sbatch --time=24:00:00 {target}" in result.stderr
    written = (tmp_path / target).read_text()
    assert sys.executable in written
    assert written.replace(sys.executable, "python") == (ROOT / target).read_text()


def test_the_command_is_the_same_but_for_where_it_starts(tmp_path) -> None:
    words = ("--set=logging.name=mine", "--slurm", "a.sbatch", "--nodes=2", "--overwrite", "--gpus-per-node", "1", "-q")
    assert write(tmp_path, *words).returncode == 0
    script = (tmp_path / "a.sbatch").read_text()
    assert script.endswith("omnicap_cli train --config examples/omnicaptioner-7b.yaml --set=logging.name=mine -q\n")
    options = options_of(script)
    assert (options["nodes"], options["gpus-per-node"], options["job-name"]) == ("2", "1", "mine")


def test_a_file_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path) -> None:
    target = tmp_path / "a.sbatch"
    target.write_text("mine")
    result = write(tmp_path, "--slurm", "a.sbatch")
    assert (result.returncode, target.read_text()) == (2, "mine")
    assert "a.sbatch" in result.stderr
    assert write(tmp_path, "--slurm", "a.sbatch", "--overwrite").returncode == 0
    assert target.read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--nodes", "2"), "--slurm"),
        (("--gpus-per-node", "2"), "--slurm"),
        (("--slurm", "a.sbatch", "--nproc", "2"), "--nproc"),
        (("--slurm", "a.sbatch", "--dry-run"), "--dry-run"),
        (("--slurm", "a.sbatch", "--nodes", "0"), "--nodes"),
        (("--slurm", "a.sbatch", "--set", "data.max_length=0"), "data.max_length"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path, words, named) -> None:
    result = write(tmp_path, *words)
    assert result.returncode == 2
    assert named in result.stderr
    assert not (tmp_path / "a.sbatch").exists()


# ------------------------------------------------------------------------------------------ for real


@pytest.fixture
def job() -> int:
    """A number for a job, with whose port nothing is done now."""
    for number in range(os.getpid() % 5000, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", 20_000 + number)):
                return number
    raise AssertionError("no port is free")


@pytest.mark.slow
def test_two_nodes_train_one_model(tiny_model, tmp_path, job) -> None:
    model = tiny_model("qwen2_vl")
    draw_media(tmp_path)
    count(tmp_path, model, many(12), "train")
    config = make_config(tmp_path, model, tmp_path, optimisation__max_steps=2)
    command = ["train", "--config", "recipe.yaml"]
    script = batch_file(command, python=sys.executable, name="run", num_nodes=2, gpus_per_node=1)
    result = run_batch(script, tmp_path, START, num_nodes=2, job=job)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_steps"] == 2  # once: by the first process
    assert [each["step"] for each in log_of(config) if "loss" in each] == [1, 2]
    assert read_note(list_checkpoints(config.checkpoint.output)[-1])["num_processes"] == 2
