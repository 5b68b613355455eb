"""Models of the Hugging Face hub, through its own library: cache, token, mirror and offline mode are that one's.

It fetches files, and puts what can go wrong into words. What is in the files it doesn't know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from omnicap_cli.core.models.library_logs import libraries_quiet
from omnicap_cli.core.models.machine import missing_extra
from omnicap_cli.errors import EngineError, OmnicapError, OptionError

# What a model is made of, at the top of its repository. Never *.bin, *.pt or *.py: they could run code.
_SMALL: Final = ("*.json", "*.txt", "*.model", "*.jinja")
_WANTED: Final = (*_SMALL, "*.safetensors")
_UNWANTED: Final = ("*/*", "consolidated*")  # other forms of the same weights
_LOG_IN: Final = "log in with `hf auth login`, or set HF_TOKEN"


def fetch_config(repo: str, revision: str | None) -> Path:
    """config.json of a model, in the cache; its folder is named by the commit.

    Raises OptionError where there is no such model or revision, EngineError where it can't be had.
    """
    with _explaining_errors(repo, revision), libraries_quiet():
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo, "config.json", revision=revision))


def fetch_model(repo: str, commit: str, announce: Callable[[int], None] | None) -> Path:
    """The folder in the cache with all files that a model is loaded from, fetched where they aren't there.

    `announce` hears how many bytes will be, before. Raises EngineError where they can't be had; without a network, what
    the cache has is taken, whole or not.
    """
    if announce and (num_bytes := _num_bytes_to_fetch(repo, commit)):
        announce(num_bytes)
    with _explaining_errors(repo, commit), libraries_quiet():
        return Path(_snapshot(repo, commit))


def fetch_processor(repo: str, commit: str) -> Path:
    """The same without the weights: a few megabytes."""
    with _explaining_errors(repo, commit), libraries_quiet():
        return Path(_snapshot(repo, commit, wanted=_SMALL))


def _num_bytes_to_fetch(repo: str, commit: str) -> int:
    with _explaining_errors(repo, commit), libraries_quiet():
        from huggingface_hub.errors import DryRunError

        try:
            files = _snapshot(repo, commit, dry_run=True)
        except DryRunError:  # without a network
            return 0
        return sum(file.file_size or 0 for file in files if file.will_download)


def _snapshot(repo: str, commit: str, *, wanted: Sequence[str] = _WANTED, dry_run: bool = False) -> Any:
    """The folder, or with `dry_run` a list of files and their sizes."""
    from huggingface_hub import snapshot_download

    return snapshot_download(
        repo, revision=commit, allow_patterns=list(wanted), ignore_patterns=list(_UNWANTED), dry_run=dry_run
    )


@contextlib.contextmanager
def _explaining_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Errors of the library as ours."""
    try:
        import huggingface_hub  # noqa: F401  what is not installed is no error of the hub
    except ImportError as error:
        raise missing_extra("huggingface_hub") from error
    try:
        yield
    except Exception as error:  # of the disk, of the hub, or of whichever HTTP library is beneath
        raise _explain_error(repo, revision, error) from error


def _explain_error(repo: str, revision: str | None, error: Exception) -> OmnicapError:
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return OptionError("--model", repo, "is no folder here, and no hub id either", hint=str(error))
    if isinstance(error, errors.GatedRepoError):
        hint = f"Ask for access at https://huggingface.co/{repo}, then {_LOG_IN}."
        return EngineError(f"{repo} is gated: its owner decides who may download it", hint=hint)
    if isinstance(error, errors.RepositoryNotFoundError):
        problem = "is no folder here, and the hub has no such model, or hides it"
        return OptionError("--model", repo, problem, hint=f"Check the spelling. If it is private, {_LOG_IN}.")
    if isinstance(error, errors.RevisionNotFoundError):
        return OptionError("--revision", revision or "main", f"is no branch, tag or commit of {repo}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_cached_error(repo, revision, error)
    if isinstance(error, errors.EntryNotFoundError):
        what = f"{repo} has no config.json, so it is no model that transformers saved"
        return EngineError(what, hint="Adapters (LoRA), GGUF files and datasets can't be used as a --model.")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused_by_hub(repo, error)
    reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
    hint = "Run it again: what was fetched is kept. HF_HOME says where; is there room, and may it be written?"
    return EngineError(f"{repo} can't be fetched: {reason}", hint=hint)


def _not_cached_error(repo: str, revision: str | None, error: Exception) -> OmnicapError:
    """The cache has it not, and the hub wasn't reached, or wasn't even asked."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return _refused_by_hub(repo, cause)
    offline = isinstance(cause, OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE
    why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} can't be reached"
    command = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    return EngineError(
        f"{repo} is no folder here and not in the cache ({constants.HF_HUB_CACHE}), and {why}",
        hint=f"Where there is a network: {command} --local-dir FOLDER; copy that folder here, and pass --model FOLDER.",
    )


def _refused_by_hub(repo: str, error: Exception) -> EngineError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    answer = f"the hub answered {status}" if status else "the hub refused"
    hint = f"If it is private or gated, {_LOG_IN}." if status in (401, 403) else "Try again later."
    return EngineError(f"{repo} can't be fetched: {answer}", hint=hint)
