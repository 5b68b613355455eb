"""How many pages a PDF has, asked of a process of its own: one that crashes PDFium costs that file, not the run."""

from __future__ import annotations

import os
from dataclasses import replace

from omnicap_cli.core.runs.records import MediaRef, Transfer
from omnicap_cli.core.workers.child import ChildDiedError
from omnicap_cli.core.workers.pool import DeathPolicy, Pool
from omnicap_cli.core.workers.pool_child import Work, answering
from omnicap_cli.errors import DecodeError, OmnicapError
from omnicap_cli.media.names import is_url
from omnicap_cli.media.remote.urls import fetch


class PageCounter:
    """Starts its process when it is first asked, and another one after a crash. Safe to ask from several threads."""

    def __init__(self) -> None:
        self._pool = Pool(f"{__name__}:{load_page_counter.__name__}", on_death=DeathPolicy(tries_alone=True))

    def num_pages(self, media: MediaRef, transfer: Transfer) -> int:
        """See `pdf.num_pages`. Raises an ItemError."""
        if is_url(media.path) and media.content is None:  # fetched here, where several threads can wait at once
            media = replace(media, content=fetch(media.path, transfer))
        answer: int | OmnicapError | ChildDiedError = self._pool.ask((_with_whole_path(media), transfer))
        if isinstance(answer, ChildDiedError):
            raise DecodeError(f"it crashed the process that counted its pages ({answer})")
        if isinstance(answer, OmnicapError):
            raise answer
        return answer


def _with_whole_path(media: MediaRef) -> MediaRef:
    """For a process that may have been started in another folder. `..` stays, which may follow a link."""
    return media if is_url(media.path) else replace(media, path=os.path.join(os.getcwd(), media.path))


def load_page_counter(_config: None) -> Work:
    """The target of the pool."""
    return answering(_count_pages)


def _count_pages(task: tuple[MediaRef, Transfer]) -> int | OmnicapError:
    from omnicap_cli.media import pdf
    from omnicap_cli.media.open_media import open_media

    try:
        with open_media(*task) as file:
            return pdf.num_pdf_pages(file)
    except OmnicapError as error:
        return error
    except MemoryError:
        return DecodeError("not enough memory to open it")
