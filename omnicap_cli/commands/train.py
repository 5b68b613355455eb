"""`omnicap train`: fine-tune a captioner on a counted data set. It knows ways to start a run, and no model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import option, takes_groups
from omnicap_cli.errors import UsageError


@takes_groups(without=("options",))
def train(
    *,
    config: Annotated[Path, option(help="YAML file that says everything about the run.", metavar="FILE")],
    overrides: Annotated[
        list[str] | None, option("--set", help="Replace one value of it; can be repeated.", metavar="KEY=VALUE")
    ] = None,
    force: Annotated[bool, option(help="Go on from a checkpoint though the configuration is another by now.")] = False,
    num_processes: Annotated[
        int | None, option("--nproc", help="Start so many processes on this machine, one for each GPU.", metavar="N")
    ] = None,
    batch_file: Annotated[
        Path | None,
        typer.Option(
            "--slurm", help="Write a batch file that trains on a Slurm cluster; train nothing.", metavar="FILE"
        ),
    ] = None,
    num_nodes: Annotated[int | None, typer.Option("--nodes", help="Nodes for --slurm (1).", metavar="N")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", help="GPUs of each node for --slurm (8).", metavar="N")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a batch file that is there.")] = False,
    dry_run: Annotated[bool, option(help="Read the data and show what would happen; train nothing.")] = False,
    common: CommonFlags,
) -> None:
    """Fine-tune a vision-language model on what `omnicap merge` wrote.

    Run it again to go on from the newest checkpoint. It works under torchrun and accelerate launch too.
    """
    from omnicap_cli.jobs.training import run_train, start_processes, write_batch_file
    from omnicap_cli.training.config.sections import TrainConfig

    console = common.console
    if batch_file is None and (num_nodes is not None or gpus_per_node is not None):
        raise UsageError("--nodes and --gpus-per-node are for --slurm", hint="--nproc is for this machine.")
    if batch_file is not None:
        if num_processes is not None or dry_run:
            raise UsageError("--slurm goes with neither --nproc nor --dry-run", hint="Leave one of them out.")
        write_batch_file(
            batch_file,
            TrainConfig.read(config, overrides or [], console.warning),
            console,
            num_nodes=num_nodes,
            gpus_per_node=gpus_per_node,
            overwrite=overwrite,
        )
        return
    if num_processes is not None:
        raise typer.Exit(start_processes(num_processes))
    raise typer.Exit(run_train(config, overrides or [], console, force=force, dry_run=dry_run, as_json=common.as_json))
