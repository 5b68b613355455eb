"""Options that commands share, in groups: `takes_groups` gives a command those that its parameters name.

A field is both what the command line shows, under the field's name, and what the command is given. Groups become
configuration objects, and know nothing of how a run goes.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from omnicap_cli.commands.completions import complete_engine, complete_format, complete_language, complete_style
from omnicap_cli.commands.options import DEBUG_VARIABLE, number_or, option, read_options_file
from omnicap_cli.core.files.words import printable
from omnicap_cli.terminal.console import Console

if TYPE_CHECKING:
    from omnicap_cli.core.runs.pipeline import Policy
    from omnicap_cli.core.runs.records import Settings
    from omnicap_cli.core.runs.shard import Shard
    from omnicap_cli.engines.generation import Generation
    from omnicap_cli.engines.registry import EngineOptions

_engine = functools.partial(option, panel="Engine")
_generation = functools.partial(option, panel="Generation")
_media = functools.partial(option, panel="Pictures and pages")
_run = functools.partial(option, panel="Errors and repeats")
_output = functools.partial(option, panel="Output")


PromptsFile = Annotated[Path | None, option(help="TOML file of prompts, merged over the built-in ones.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFlags:
    """What is asked of each item, beside its type."""

    style: Annotated[
        str | None,
        option(
            "-s",
            help="Kind of answer: NAME, NAME,NAME or all. Default: the type's first.",
            autocompletion=complete_style,
        ),
    ] = None
    lang: Annotated[str, option("-l", help="en, zh or all.", autocompletion=complete_language)] = "en"
    prompt: Annotated[
        str | None, option(help="Ask this instead of the style's question; {column} is filled from a manifest.")
    ] = None
    system: Annotated[str | None, option(help="Use this instead of the style's system text.")] = None
    prompts: PromptsFile = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFlags:
    """How text is generated."""

    preset: Annotated[str | None, _generation(help="paper: sample as the published script does.")] = None
    max_new_tokens: Annotated[int | None, _generation(help="Tokens of a caption. Default: 2048.")] = None
    temperature: Annotated[float | None, _generation(help="Draw tokens by chance. Default: greedy.")] = None
    top_p: Annotated[float | None, _generation(help="Draw from the likeliest that add up to this.")] = None
    top_k: Annotated[int | None, _generation(help="Draw from so many.")] = None
    repetition_penalty: Annotated[float | None, _generation(help="Make used tokens less likely; 1 is off.")] = None
    seed: Annotated[int, _generation(help="Other draws for another seed.")] = 0
    retry_loops: Annotated[bool, _generation(help="Draw a caption that repeats itself once more.")] = False

    def generation(self) -> Generation:
        """What is given, over what the preset has. Raises OptionError."""
        from omnicap_cli.engines.generation import Generation, with_preset

        names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty")
        chosen = with_preset(self.preset, **{name: getattr(self, name) for name in names})
        decided = {name: chosen[name] for name in names if name in chosen}
        return Generation(**decided, seed=self.seed, retry_loops=self.retry_loops)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFlags:
    """What answers, and where it runs."""

    engine: Annotated[str, _engine(help="auto, or an engine's name.", autocompletion=complete_engine)] = "auto"
    model: Annotated[str | None, _engine(help="Model folder or hub id.")] = None
    revision: Annotated[str | None, _engine(help="Branch, tag or commit of a hub id.")] = None
    device: Annotated[str, _engine(help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    dtype: Annotated[str, _engine(help="auto, float32, bfloat16 or float16; auto fits the device.")] = "auto"
    attn: Annotated[str, _engine(help="auto, sdpa, flash_attention_2 or eager.")] = "auto"
    quantize: Annotated[str | None, _engine(help="4bit or 8bit weights, with bitsandbytes on CUDA.")] = None
    gpus: Annotated[str | None, _engine(help="Share the work among N GPUs, or all. Default: one model.")] = None
    batch_size: Annotated[str, _engine(help="Captions made together at most; auto fits the memory.")] = "auto"
    workers: Annotated[int | None, _engine(help="Processes that share the cores. Default: the engine's.")] = None

    def options(self, generation: GenerationFlags) -> EngineOptions:
        """What an engine is made with. Raises OptionError."""
        from omnicap_cli.engines.registry import DeviceOptions, EngineOptions

        return EngineOptions(
            model=self.model,
            revision=self.revision,
            devices=DeviceOptions(
                device=self.device,
                dtype=self.dtype,
                attn=self.attn,
                quantize=self.quantize,
                gpus="all" if self.gpus == "all" else number_or("all", "--gpus", self.gpus),
            ),
            batch_size=number_or("auto", "--batch-size", self.batch_size),
            workers=self.workers,
            generation=generation.generation(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFlags:
    """Which items are taken, and how their pixels are read."""

    dpi: Annotated[int, _media(help="Resolution at which PDF pages are rendered.")] = 150
    min_pixels: Annotated[int | None, _media(help="Enlarge smaller pictures.")] = None
    max_pixels: Annotated[int | None, _media(help="Shrink larger pictures.")] = None
    max_decode_pixels: Annotated[int, _media(help="Refuse to decode more: a guard for memory.")] = 178_956_970
    image_key: Annotated[str, _media(help="Column of a manifest that has the path or the picture.")] = "image"
    image_root: Annotated[
        str | None, _media(help="Folder of a manifest's relative paths. Default: the manifest's.")
    ] = None
    null: Annotated[bool, _media("-0", help="Paths on stdin end with NUL.")] = False
    limit: Annotated[int | None, _media(help="Only the first N items.")] = None
    shard: Annotated[str | None, _media(help="Only part I of N, as I/N, I from 0; archives stay whole.")] = None
    timeout: Annotated[float, _media(help="Seconds to wait for a server, at each step.")] = 30.0
    retries: Annotated[int, _media(help="Further attempts at a URL.")] = 3
    max_file_bytes: Annotated[int, _media(help="Refuse larger files from URLs and archives.")] = 268_435_456

    def settings(self, preset: str | None = None) -> Settings:
        """What decides the pixels; limits that aren't given are those of the preset. Raises OptionError."""
        from omnicap_cli.core.runs.records import Settings, Transfer
        from omnicap_cli.engines.generation import with_preset

        limits = with_preset(preset, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        return Settings(
            dpi=self.dpi,
            min_pixels=limits.get("min_pixels"),
            max_pixels=limits.get("max_pixels"),
            max_decode_pixels=self.max_decode_pixels,
            transfer=Transfer(timeout_seconds=self.timeout, num_retries=self.retries, max_bytes=self.max_file_bytes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """What a run does about errors, and about what was done before."""

    fingerprint: Annotated[
        Literal["stat", "content"], _run(help="Know a changed file by size and time, or by its bytes.")
    ] = "stat"
    retry_failed: Annotated[bool, _run(help="Try recorded errors again.")] = False
    fail_fast: Annotated[bool, _run(help="Stop once an item failed.")] = False
    max_error_rate: Annotated[
        float | None, _run(help="Stop when a larger share has failed (0 to 1), of at least 20.")
    ] = None
    dry_run: Annotated[bool, _run(help="Count what a run would do; run nothing.")] = False

    def policy(self) -> Policy:
        """What the pipeline is told about errors. Raises OptionError."""
        from omnicap_cli.core.runs.pipeline import Policy

        return Policy(retry_failed=self.retry_failed, fail_fast=self.fail_fast, max_error_rate=self.max_error_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFlags:
    """Where the results of a run go, and in which form."""

    output: Annotated[
        str | None,
        _output(
            "-o",
            help="File or folder of results; its suffix tells the form. {shard} is the part's number.",
            metavar="PATH",
        ),
    ] = None
    format: Annotated[
        str | None, _output(help="Form of the output: see `omnicap convert`.", autocompletion=complete_format)
    ] = None
    overwrite: Annotated[bool, _output(help="Begin the output anew.")] = False
    unordered: Annotated[bool, _output(help="stdout: results as they come.")] = False

    def target(self, shard: Shard | None) -> str | None:
        """The output, with the number of the part in its name; None for the standard output."""
        from omnicap_cli.jobs.captioning import SHARD_MARK

        if self.output is None or self.output == "-":
            return None
        return self.output.replace(SHARD_MARK, str(shard.index)) if shard else self.output


def _set_debug(wanted: bool) -> None:
    """The processes that this one starts shall know it too."""
    if wanted:
        os.environ[DEBUG_VARIABLE] = "1"
    else:
        os.environ.pop(DEBUG_VARIABLE, None)  # it may be set to 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonFlags:
    """What every command takes, unless it says `without`."""

    as_json: Annotated[bool, option("--json", help="JSON on stdout, on a terminal too.")] = False
    options: Annotated[
        Path | None,
        option(
            help="YAML file with values for options; flags and OMNICAP_ variables win.",
            is_eager=True,
            callback=read_options_file,
            metavar="FILE",
        ),
    ] = None
    quiet: Annotated[bool, option("-q", help="Only errors on stderr.")] = False
    verbose: Annotated[int, option("-v", help="Say more; twice for everything.", count=True)] = 0
    no_color: Annotated[bool, option(help="No colours; the variable NO_COLOR does the same.")] = False
    debug: Annotated[bool, option(help="Tracebacks, and what libraries print.", callback=_set_debug)] = False

    @property
    def console(self) -> Console:
        """What the command speaks through."""
        return Console(level=0 if self.quiet else 1 + self.verbose, no_color=self.no_color)

    def warn(self, message: str) -> None:
        """A warning with names of files in it, which may hold anything."""
        self.console.warning(printable(message))
