"""Child processes that do not outlive the one that started them, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
# Loaded before the fork: between fork and exec nothing may allocate more than it must.
_libc = ctypes.CDLL(None)


def end_with_parent() -> None:
    """For `preexec_fn`: have Linux send SIGTERM to this process when the thread that started it ends."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Popen from any thread: the child gets SIGTERM when this process ends, not when the calling thread does."""
    return on_starter(
        lambda: subprocess.Popen(list(command), stdin=subprocess.DEVNULL, preexec_fn=end_with_parent, **options)
    )


def on_starter(start: Callable[[], T]) -> T:
    """Do something that starts a process, on the thread that stays as long as this process does."""
    return _starter(os.getpid()).submit(start).result()


@functools.cache
def _starter(process: int) -> ThreadPoolExecutor:
    """The thread that forks for a process: it stays as long as that does, for the kernel watches the thread."""
    return ThreadPoolExecutor(1, "spawn")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until this is over; on another thread than the main one they come there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)
