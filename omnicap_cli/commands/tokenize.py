"""`omnicap tokenize`: token counts for a training set. It knows the options, also as a published script spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from omnicap_cli.commands.groups import CommonFlags
from omnicap_cli.commands.options import option, takes_groups

_DEFAULT_MODEL = "Qwen/Qwen2-VL-7B-Instruct"  # which the published captioner was made from
_PIXELS = "Default: the model's own."


def _published_option(name: str) -> Any:
    """An option as the published script spells it: taken, and not shown."""
    return typer.Option(name, hidden=True)


@takes_groups()
def tokenize_data(
    *,
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="JSON lines, or a JSON array, also .gz or .zst; - reads stdin.")
    ] = None,
    output: Annotated[Path | None, option("-o", help="Folder for the splits.", metavar="DIR")] = None,
    name: Annotated[str | None, option(help="Begins the names of the splits. Default: that of DATA.")] = None,
    task_type: Annotated[
        str | None, option(help="Of all records, as detailed or OCR. Default: each record's own.")
    ] = None,
    model: Annotated[str, option(help="Folder or hub id; only its processor is read.")] = _DEFAULT_MODEL,
    splits: Annotated[int | None, option(help="Make all N splits. Default: 1.")] = None,
    split_index: Annotated[int | None, option(help="Make only this split, counted from 0 …")] = None,
    split_num: Annotated[int | None, option(help="… of so many.")] = None,
    workers: Annotated[
        int | None, option(help="Processes, each at a split of its own. Default: one for each core.")
    ] = None,
    min_pixels: Annotated[int | None, option(help=f"Enlarge smaller pictures. {_PIXELS}")] = None,
    max_pixels: Annotated[
        int | None, option(help=f"Shrink larger ones; several of a record share it. {_PIXELS}")
    ] = None,
    image_root: Annotated[str | None, option(help="Where relative paths begin. Default: the current folder.")] = None,
    max_length: Annotated[int | None, option(help="Reject longer sequences, in tokens.")] = None,
    verify_images: Annotated[bool, option(help="Decode every picture, reject broken ones.")] = False,
    prompts: Annotated[
        Path | None, option(help="TOML with your own system texts of task types.", metavar="FILE")
    ] = None,
    overwrite: Annotated[bool, option(help="Make all again, whatever is there.")] = False,
    dry_run: Annotated[bool, option(help="Show what there is to do; count nothing.")] = False,
    data_file: Annotated[str | None, _published_option("--data_file")] = None,
    output_dir: Annotated[Path | None, _published_option("--output_dir")] = None,
    data_name: Annotated[str | None, _published_option("--data_name")] = None,
    tasktype: Annotated[str | None, _published_option("--tasktype")] = None,
    published_index: Annotated[int | None, _published_option("--split_index")] = None,
    published_num: Annotated[int | None, _published_option("--split_num")] = None,
    common: CommonFlags,
) -> None:
    """Count the tokens of fine-tuning data beforehand, exactly as training will feed it; reject what can't be used.

    Writes DIR/NAME_splitI.jsonl, DIR/rejects and DIR/meta. Run it again to go on where it was interrupted;
    `omnicap merge DIR` joins the splits.
    """
    from omnicap_cli.jobs.tokenizing import make_tokenize_config, run_tokenize

    config = make_tokenize_config(
        data=data or data_file,
        output=output or output_dir,
        name=name or data_name,
        task_type=task_type or tasktype,
        splits=splits,
        split_index=published_index if split_index is None else split_index,
        split_num=published_num if split_num is None else split_num,
        workers=workers,
        model=model,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        image_root=image_root,
        max_length=max_length,
        verify_images=verify_images,
        prompts=prompts,
        overwrite=overwrite,
    )
    raise typer.Exit(run_tokenize(config, common.console, dry_run=dry_run, as_json=common.as_json))
