"""File permissions that bind root too, for tests of files that may not be read. It starts no process itself."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CAPABILITIES: Final = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_PR_CAPBSET_DROP: Final = 24


def drop_override() -> None:
    """To run in a new process: from its next exec on mode bits hold, even if it is root's. For others nothing changes.

    Where root may not give that right up, it silently keeps it.
    """
    if os.geteuid() == 0:
        for capability in _CAPABILITIES:
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
