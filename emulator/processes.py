"""Child processes that do not outlive the one that started them, however it ends."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_PR_SET_PDEATHSIG = 1
# Loaded before the fork: between fork and exec nothing may allocate more than it must.
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """For `preexec_fn`: have Linux send SIGTERM to this process when the thread that started it ends."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Popen from any thread: the child gets SIGTERM when this process ends, not when the calling thread does."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(list(command), stdin=subprocess.DEVNULL, preexec_fn=end_with_parent, **options)

    return _starter(os.getpid()).submit(start).result()


@functools.cache
def _starter(process: int) -> ThreadPoolExecutor:
    """The thread that forks for a process: it stays as long as that does, for the kernel watches the thread."""
    return ThreadPoolExecutor(1, "spawn")
