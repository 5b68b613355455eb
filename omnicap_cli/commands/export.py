"""`omnicap export`: a checkpoint of a training as a model. It knows no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import option, takes_groups


@takes_groups()
def export_model(
    *,
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="Folder checkpoint-N of a training, or the run's, for its newest."),
    ],
    output: Annotated[Path, option("-o", help="Folder for the model.", metavar="DIR")],
    model: Annotated[
        str | None, option(help="Where the model that was trained is now, if not where it was.", metavar="ID|DIR")
    ] = None,
    dtype: Annotated[str, option(help="auto (as they are), bfloat16 or float32: numbers for the weights.")] = "auto",
    max_shard_size: Annotated[str, option(help="The largest that a file of weights may be.", metavar="SIZE")] = "5GB",
    overwrite: Annotated[bool, option(help="Replace a model that is there.")] = False,
    common: CommonFlags,
) -> None:
    """Make a model of a checkpoint that `omnicap train` wrote: `--model DIR`, transformers and vLLM load it.

    An adapter is merged into the model that it was trained on. It takes memory for all weights, and no GPU.
    """
    from omnicap_cli.terminal.training_views import show_model_export
    from omnicap_cli.training.export.model_folder import ModelExportConfig, export_checkpoint

    config = ModelExportConfig(
        checkpoint=checkpoint,
        output=output,
        model=model,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )
    report = export_checkpoint(config, common.warn)
    show_model_export(common.console, report, as_json=common.as_json)
