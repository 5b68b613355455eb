"""How many pages a PDF has, asked of a process of its own: one that crashes PDFium costs that file, not the run."""

from __future__ import annotations

import atexit
import os
import threading
from dataclasses import replace

from omnicap_cli.core.runs.records import MediaRef, Transfer
from omnicap_cli.core.workers.child import Child, ChildDiedError, messages, private_pipes
from omnicap_cli.errors import DecodeError, OmnicapError
from omnicap_cli.media.names import is_url
from omnicap_cli.media.remote.urls import fetch


class PageCounter:
    """Starts its process when it is first asked, and another one after a crash. Safe to ask from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None

    def num_pages(self, media: MediaRef, transfer: Transfer) -> int:
        """See `pdf.num_pages`. Raises an ItemError."""
        if is_url(media.path) and media.content is None:  # fetched here, where several threads can wait at once
            media = replace(media, content=fetch(media.path, transfer))
        with self._lock:
            try:
                answer = self._ask(media, transfer)
            except ChildDiedError:  # of something else, perhaps: this file gets a process of its own
                try:
                    answer = self._ask(media, transfer)
                except ChildDiedError as death:
                    answer = DecodeError(f"it crashed the process that counted its pages ({death})")
        if isinstance(answer, OmnicapError):
            raise answer
        return answer

    def _ask(self, media: MediaRef, transfer: Transfer) -> int | OmnicapError:
        if self._child is None:
            self._child = Child("omnicap_cli.media.page_counter:serve")
            atexit.register(self._child.kill)
        self._child.send((_whole(media), transfer))
        try:
            answer: int | OmnicapError = self._child.receive()
        except ChildDiedError:
            atexit.unregister(self._child.kill)
            self._child = None
            raise
        return answer


def _whole(media: MediaRef) -> MediaRef:
    """With the whole path: the process may have been started in another folder. `..` stays, which may follow a link."""
    return media if is_url(media.path) else replace(media, path=os.path.join(os.getcwd(), media.path))


def serve() -> None:
    """What the process does."""
    from omnicap_cli.media import pdf
    from omnicap_cli.media.open_media import open_media

    incoming, send = private_pipes()
    for media, transfer in messages(incoming):
        try:
            with open_media(media, transfer) as file:
                send(pdf.num_pdf_pages(file))
        except OmnicapError as error:
            send(error)
        except MemoryError:
            send(DecodeError("not enough memory to open it"))
