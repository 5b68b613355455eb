"""`omnicap convert`: a journal in another form. It knows no form beyond what its help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from omnicap_cli.commands.completions import complete_format
from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import option, takes_groups
from omnicap_cli.exports.formats import FORMATS


@takes_groups(without=("as_json",))
def convert(
    *,
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="The JSONL file of a run, or an export of it.")],
    output: Annotated[
        str | None, option("-o", help="File, or folder for txt; its suffix names the form.", metavar="PATH")
    ] = None,
    format: Annotated[
        str | None,
        option(help=f"{', '.join(FORMATS)}.", autocompletion=complete_format),
    ] = None,
    write_metadata: Annotated[
        Literal["xmp"] | None, option(help="Captions inside copies of the pictures, in the folder -o.")
    ] = None,
    sort: Annotated[bool, option(help="By id, then type, style and language.")] = False,
    limit: Annotated[int | None, option(help="Only the first N records.")] = None,
    overwrite: Annotated[bool, option(help="Replace a file that is there.")] = False,
    shard_bytes: Annotated[int, option(help="webdataset: begin another archive after so many bytes.")] = 1_000_000_000,
    image_root: Annotated[
        str | None, option(help="Where relative paths of pictures begin. Default: where the run was.")
    ] = None,
    image_key: Annotated[
        str | None, option(help="Column of parquet that was captioned. Default: as the note beside the journal says.")
    ] = None,
    common: CommonFlags,
) -> None:
    """Write what a journal holds in another form, without running anything again.

    Without -o it goes to stdout; the form txt then puts its files beside the pictures.
    """
    from omnicap_cli.exports.export_config import ExportConfig
    from omnicap_cli.jobs.exporting import run_export

    config = ExportConfig(
        journal=journal,
        output=output,
        format=write_metadata or format,
        sort=sort,
        limit=limit,
        overwrite=overwrite,
        shard_bytes=shard_bytes,
        image_root=image_root,
        image_key=image_key,
    )
    raise typer.Exit(run_export(config, common.console))
