"""`omnicap caption`: pictures and PDF pages to text. It knows which options there are, and not how a run goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from omnicap_cli.commands.completions import complete_type
from omnicap_cli.commands.groups import (
    CommonFlags,
    EngineFlags,
    GenerationFlags,
    MediaFlags,
    OutputFlags,
    PromptFlags,
    RunFlags,
)
from omnicap_cli.commands.options import option, takes_groups

if TYPE_CHECKING:
    from omnicap_cli.jobs.captioning import CaptionConfig


@takes_groups()
def caption(
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Image files, PDFs, folders, quoted globs, manifests (.jsonl .json .csv .tsv .parquet), tar archives, "
            "URLs, or - for paths (or JSONL) on stdin.",
        ),
    ],
    type: Annotated[
        str,
        option(
            "-t",
            help="What the pictures show, see `omnicap prompts list`; auto: the model sorts them.",
            autocompletion=complete_type,
        ),
    ] = "natural",
    asked: PromptFlags,
    engine: EngineFlags,
    generation: GenerationFlags,
    media: MediaFlags,
    run: RunFlags,
    output: OutputFlags,
    common: CommonFlags,
) -> None:
    """Caption pictures and PDF pages, or transcribe them with --type ocr.

    Run it again to go on where it stopped: what is in the output is not done twice.
    """
    from omnicap_cli.jobs.captioning import CaptionRun
    from omnicap_cli.terminal.console import open_stdin
    from omnicap_cli.terminal.views import show_plan, show_record

    config = caption_config(inputs, type, asked, engine, generation, media, run, output)
    console = common.console
    if "-" in inputs and sys.stdin.isatty():
        console.info("reading paths from the terminal, one a line; Ctrl-D ends them")
    job = CaptionRun(config, console, open_stdin() if "-" in inputs else None)
    if run.dry_run:
        show_plan(console, job.dry_run(), as_json=common.as_json)
    else:
        raise typer.Exit(job.run(show_record(console, as_json=common.as_json)))


def caption_config(
    inputs: list[str],
    type: str,
    asked: PromptFlags,
    engine: EngineFlags,
    generation: GenerationFlags,
    media: MediaFlags,
    run: RunFlags,
    output: OutputFlags,
) -> CaptionConfig:
    """What the options mean together. Raises OptionError and UsageError."""
    from omnicap_cli.core.runs.shard import Shard
    from omnicap_cli.jobs.captioning import CaptionConfig

    shard = None if media.shard is None else Shard.parse(media.shard)
    return CaptionConfig(
        inputs=tuple(inputs),
        type=type,
        styles=tuple(filter(None, (asked.style or "").split(","))),
        lang=asked.lang,
        prompt=asked.prompt,
        system=asked.system,
        prompts=asked.prompts,
        engine=engine.engine,
        engine_options=engine.options(generation),
        settings=media.settings(generation.preset),
        policy=run.policy(),
        output=output.target(shard),
        format=output.format,
        overwrite=output.overwrite,
        unordered=output.unordered,
        fingerprint=run.fingerprint,
        image_key=media.image_key,
        image_root=media.image_root,
        null=media.null,
        limit=media.limit,
        shard=shard,
    )
