"""A batch file that starts a command of omnicap on several nodes of a Slurm cluster. It asks no cluster anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

from omnicap_cli.errors import OptionError

GPUS_PER_NODE: Final = 8
_NOTICE_SECONDS: Final = 120  # from SIGTERM to the time limit: for the step at work, and a checkpoint
_SHUTDOWN_SECONDS: Final = _NOTICE_SECONDS - 10

# Each node's one task has to be torchrun itself: with a shell around it, Slurm's signals would end at the shell.
_TEMPLATE: Final = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={num_nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus_per_node}
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# So long before the time limit the run gets SIGTERM, finishes its step and writes a checkpoint.
#SBATCH --signal=TERM@{notice_seconds}
# After a failed node or a preemption the same command runs again, and goes on from the newest checkpoint.
#SBATCH --requeue

# How long torchrun waits for that checkpoint: without this, 30 seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={shutdown_seconds}

# This file runs on the first node, where the others come to meet; the port is one that few jobs share.
srun --kill-on-bad-exit=1 --cpu-bind=none \\
    {python} -m torch.distributed.run \\
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node={gpus_per_node} \\
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \\
    --rdzv-endpoint="$SLURMD_NODENAME:$((20000 + SLURM_JOB_ID % 10000))" \\
    -m omnicap_cli {command}
"""


def batch_file(command: Sequence[str], *, python: str, name: str, num_nodes: int, gpus_per_node: int) -> str:
    """What `sbatch` takes to run `command`, the words after `omnicap`, with a process for each GPU.

    `python` is the interpreter on the nodes, `name` becomes the job's. Raises OptionError for numbers below 1.
    """
    for option, number in (("--nodes", num_nodes), ("--gpus-per-node", gpus_per_node)):
        if number < 1:
            raise OptionError(option, number, "is too few; give 1 or more")
    return _TEMPLATE.format(
        name=re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII) or "omnicap",
        num_nodes=num_nodes,
        gpus_per_node=gpus_per_node,
        notice_seconds=_NOTICE_SECONDS,
        shutdown_seconds=_SHUTDOWN_SECONDS,
        python=shlex.quote(python),
        command=shlex.join(command),
    )
