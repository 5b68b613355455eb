"""`omnicap caption`: pictures and PDF pages to text."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from omnicap_cli.commands.options import (
    AsJson,
    Debug,
    NoColor,
    OptionsFile,
    Quiet,
    Verbose,
    forms,
    make_console,
    number_or,
    option,
)

_ENGINE, _GENERATION, _MEDIA = "Engine", "Generation", "Pictures and pages"
_RUN, _OUTPUT = "Errors and repeats", "Output"


class Fingerprint(str, Enum):
    """How a changed file is known."""

    stat = "stat"
    content = "content"


def _types(incomplete: str) -> list[str]:
    from omnicap_cli.core.prompts.catalogue import Catalogue

    return [name for name in (*Catalogue.load().types, "auto") if name.startswith(incomplete)]


def _styles(context: typer.Context, incomplete: str) -> list[str]:
    from omnicap_cli.core.prompts.catalogue import Catalogue

    kinds = Catalogue.load().types
    styles = kinds[context.params["type"]].styles if context.params.get("type") in kinds else {}
    return [name for name in (*styles, "all") if name.startswith(incomplete)]


def _languages(incomplete: str) -> list[str]:
    return [name for name in ("en", "zh", "all") if name.startswith(incomplete)]


def _engines(incomplete: str) -> list[str]:
    from omnicap_cli.engines.registry import ENGINES

    return [name for name in ("auto", *(name for name in ENGINES if ENGINES[name].here)) if name.startswith(incomplete)]


def caption(
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
            "--type",
            help="What the pictures show, see `omnicap prompts list`; auto: the model sorts them.",
            autocompletion=_types,
        ),
    ] = "natural",
    style: Annotated[
        str | None,
        option(
            "-s",
            "--style",
            help="Kind of answer: NAME, NAME,NAME or all. Default: the type's first.",
            autocompletion=_styles,
        ),
    ] = None,
    lang: Annotated[str, option("-l", "--lang", help="en, zh or all.", autocompletion=_languages)] = "en",
    prompt: Annotated[
        str | None,
        option("--prompt", help="Ask this instead of the style's question; {column} is filled from a manifest."),
    ] = None,
    system: Annotated[str | None, option("--system", help="Use this instead of the style's system text.")] = None,
    prompts: Annotated[
        Path | None, option("--prompts", help="TOML file of prompts, merged over the built-in ones.")
    ] = None,
    engine: Annotated[
        str, option("--engine", help="auto, or an engine's name.", panel=_ENGINE, autocompletion=_engines)
    ] = "auto",
    model: Annotated[str | None, option("--model", help="Model folder or hub id.", panel=_ENGINE)] = None,
    revision: Annotated[
        str | None, option("--revision", help="Branch, tag or commit of a hub id.", panel=_ENGINE)
    ] = None,
    device: Annotated[str, option("--device", help="auto, cpu, cuda, cuda:N or mps.", panel=_ENGINE)] = "auto",
    dtype: Annotated[
        str, option("--dtype", help="auto, float32, bfloat16 or float16; auto fits the device.", panel=_ENGINE)
    ] = "auto",
    attn: Annotated[str, option("--attn", help="auto, sdpa, flash_attention_2 or eager.", panel=_ENGINE)] = "auto",
    quantize: Annotated[
        str | None, option("--quantize", help="4bit or 8bit weights, with bitsandbytes on CUDA.", panel=_ENGINE)
    ] = None,
    gpus: Annotated[
        str | None, option("--gpus", help="Share the work among N GPUs, or all. Default: one model.", panel=_ENGINE)
    ] = None,
    batch_size: Annotated[
        str, option("--batch-size", help="Captions made together at most; auto fits the memory.", panel=_ENGINE)
    ] = "auto",
    workers: Annotated[
        int | None, option("--workers", help="Processes that share the cores. Default: the engine's.", panel=_ENGINE)
    ] = None,
    preset: Annotated[
        str | None, option("--preset", help="paper: sample as the published script does.", panel=_GENERATION)
    ] = None,
    max_new_tokens: Annotated[
        int | None, option("--max-new-tokens", help="Tokens of a caption. Default: 2048.", panel=_GENERATION)
    ] = None,
    temperature: Annotated[
        float | None, option("--temperature", help="Draw tokens by chance. Default: greedy.", panel=_GENERATION)
    ] = None,
    top_p: Annotated[
        float | None, option("--top-p", help="Draw from the likeliest that add up to this.", panel=_GENERATION)
    ] = None,
    top_k: Annotated[int | None, option("--top-k", help="Draw from so many.", panel=_GENERATION)] = None,
    repetition_penalty: Annotated[
        float | None, option("--repetition-penalty", help="Make used tokens less likely; 1 is off.", panel=_GENERATION)
    ] = None,
    seed: Annotated[int, option("--seed", help="Other draws for another seed.", panel=_GENERATION)] = 0,
    retry_loops: Annotated[
        bool, option("--retry-loops", help="Draw a caption that repeats itself once more.", panel=_GENERATION)
    ] = False,
    dpi: Annotated[int, option("--dpi", help="Resolution at which PDF pages are rendered.", panel=_MEDIA)] = 150,
    min_pixels: Annotated[int | None, option("--min-pixels", help="Enlarge smaller pictures.", panel=_MEDIA)] = None,
    max_pixels: Annotated[int | None, option("--max-pixels", help="Shrink larger pictures.", panel=_MEDIA)] = None,
    max_decode_pixels: Annotated[
        int, option("--max-decode-pixels", help="Refuse to decode more: a guard for memory.", panel=_MEDIA)
    ] = 178_956_970,
    image_key: Annotated[
        str, option("--image-key", help="Column of a manifest that has the path or the picture.", panel=_MEDIA)
    ] = "image",
    image_root: Annotated[
        str | None,
        option("--image-root", help="Folder of a manifest's relative paths. Default: the manifest's.", panel=_MEDIA),
    ] = None,
    null: Annotated[bool, option("-0", "--null", help="Paths on stdin end with NUL.", panel=_MEDIA)] = False,
    limit: Annotated[int | None, option("--limit", help="Only the first N items.", panel=_MEDIA)] = None,
    shard: Annotated[
        str | None, option("--shard", help="Only part I of N, as I/N, I from 0; archives stay whole.", panel=_MEDIA)
    ] = None,
    timeout: Annotated[
        float, option("--timeout", help="Seconds to wait for a server, at each step.", panel=_MEDIA)
    ] = 30.0,
    retries: Annotated[int, option("--retries", help="Further attempts at a URL.", panel=_MEDIA)] = 3,
    max_file_bytes: Annotated[
        int, option("--max-file-bytes", help="Refuse larger files from URLs and archives.", panel=_MEDIA)
    ] = 268_435_456,
    fingerprint: Annotated[
        Fingerprint, option("--fingerprint", help="Know a changed file by size and time, or by its bytes.", panel=_RUN)
    ] = Fingerprint.stat,
    retry_failed: Annotated[bool, option("--retry-failed", help="Try recorded errors again.", panel=_RUN)] = False,
    fail_fast: Annotated[bool, option("--fail-fast", help="Stop once an item failed.", panel=_RUN)] = False,
    max_error_rate: Annotated[
        float | None,
        option("--max-error-rate", help="Stop when a larger share has failed (0 to 1), of at least 20.", panel=_RUN),
    ] = None,
    dry_run: Annotated[bool, option("--dry-run", help="Count what a run would do; run nothing.", panel=_RUN)] = False,
    output: Annotated[
        str | None,
        option(
            "-o",
            "--output",
            help="File or folder of results; its suffix tells the form. {shard} is the part's number.",
            panel=_OUTPUT,
            metavar="PATH",
        ),
    ] = None,
    format: Annotated[
        str | None,
        option("--format", help="Form of the output: see `omnicap convert`.", panel=_OUTPUT, autocompletion=forms),
    ] = None,
    overwrite: Annotated[bool, option("--overwrite", help="Begin the output anew.", panel=_OUTPUT)] = False,
    unordered: Annotated[bool, option("--unordered", help="stdout: results as they come.", panel=_OUTPUT)] = False,
    as_json: AsJson = False,
    _options: OptionsFile = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
    no_color: NoColor = False,
    _debug: Debug = False,
) -> None:
    """Caption pictures and PDF pages, or transcribe them with --type ocr.

    Run it again to go on where it stopped: what is in the output is not done twice.
    """
    from omnicap_cli.core.runs.pipeline import Policy
    from omnicap_cli.core.runs.records import Settings, Transfer
    from omnicap_cli.core.runs.shard import Shard
    from omnicap_cli.engines.generation import Generation, with_preset
    from omnicap_cli.engines.registry import DeviceOptions, EngineOptions
    from omnicap_cli.jobs.captioning import SHARD_MARK, CaptionConfig, CaptionRun
    from omnicap_cli.terminal.console import open_stdin
    from omnicap_cli.terminal.views import show_plan, show_record

    console = make_console(quiet=quiet, verbose=verbose, no_color=no_color)
    part = None if shard is None else Shard.parse(shard)
    if part and output:
        output = output.replace(SHARD_MARK, str(part.index))
    chosen = with_preset(
        preset,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    limits = {name: chosen.pop(name, None) for name in ("min_pixels", "max_pixels")}
    transfer = Transfer(timeout_seconds=timeout, num_retries=retries, max_bytes=max_file_bytes)
    config = CaptionConfig(
        inputs=tuple(inputs),
        type=type,
        styles=tuple(filter(None, (style or "").split(","))),
        lang=lang,
        prompt=prompt,
        system=system,
        prompts=prompts,
        engine=engine,
        engine_options=EngineOptions(
            model=model,
            revision=revision,
            devices=DeviceOptions(
                device=device,
                dtype=dtype,
                attn=attn,
                quantize=quantize,
                gpus="all" if gpus == "all" else number_or("all", "--gpus", gpus),
            ),
            batch_size=number_or("auto", "--batch-size", batch_size),
            workers=workers,
            generation=Generation(**chosen, seed=seed, retry_loops=retry_loops),
        ),
        settings=Settings(
            dpi=dpi,
            **limits,
            max_decode_pixels=max_decode_pixels,
            transfer=transfer,
        ),
        policy=Policy(retry_failed=retry_failed, fail_fast=fail_fast, max_error_rate=max_error_rate),
        output=None if output == "-" else output,
        format=format,
        overwrite=overwrite,
        unordered=unordered,
        fingerprint=fingerprint.value,
        image_key=image_key,
        image_root=image_root,
        null=null,
        limit=limit,
        shard=part,
    )
    if "-" in inputs and sys.stdin.isatty():
        console.info("reading paths from the terminal, one a line; Ctrl-D ends them")
    run = CaptionRun(config, console, open_stdin() if "-" in inputs else None)
    if dry_run:
        show_plan(console, run.dry_run(), as_json=as_json)
    else:
        raise typer.Exit(run.run(show_record(console, as_json=as_json)))
