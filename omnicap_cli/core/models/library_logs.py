"""Libraries that write to the terminal by themselves, kept silent while they are at work for us."""

from __future__ import annotations

import contextlib
import importlib
import logging
import logging.handlers
import sys
import warnings
from collections.abc import Iterator
from typing import Final

_LOGGERS: Final = ("transformers", "huggingface_hub", "accelerate", "bitsandbytes", "torch")


@contextlib.contextmanager
def libraries_quiet() -> Iterator[list[logging.LogRecord]]:
    """No log lines and no progress bars of Hugging Face's libraries and torch; what they log is in the list.

    Their warnings are silenced for good: filters belong to the whole process, and taking one back could take one of
    another thread with it.
    """
    warnings.filterwarnings("ignore", module=rf"({'|'.join(_LOGGERS)})\b")
    collector = logging.handlers.BufferingHandler(sys.maxsize)
    with contextlib.ExitStack() as stack:
        importlib.import_module("huggingface_hub.utils.logging")  # it sets up its logger when it is loaded
        _stop_progress_bars(stack)
        for name in _LOGGERS:
            stack.enter_context(_logging_to(collector, logging.getLogger(name)))
        yield collector.buffer


@contextlib.contextmanager
def _logging_to(handler: logging.Handler, logger: logging.Logger) -> Iterator[None]:
    handlers, propagates = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = handlers, propagates


def _stop_progress_bars(stack: contextlib.ExitStack) -> None:
    """Until `stack` ends; a user's HF_HUB_DISABLE_PROGRESS_BARS has the last word."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not are_progress_bars_disabled():
        disable_progress_bars()
        stack.callback(enable_progress_bars)
    if "transformers" in sys.modules:  # else it isn't at work, and it takes long to load
        from transformers.utils import logging as progress

        if progress.is_progress_bar_enabled():
            progress.disable_progress_bar()
            stack.callback(progress.enable_progress_bar)
