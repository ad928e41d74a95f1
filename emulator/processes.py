"""Child processes that do not outlive the one that started them, however it ends."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
# Loaded before the fork: between fork and exec nothing may allocate more than it must.
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """For `preexec_fn`: have Linux send SIGTERM to this process when the thread that started it ends."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
