"""One child process that runs jobs, one at a time, and may die at any moment."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from coordinator.parent import die_with
from slicemq.errors import CoordinatorError


class Child:
    """Started by the first job, and again after it died. May be used from several threads."""

    def __init__(self, nice: int = 0) -> None:
        """`nice`: by how much its processes give way to others (os.nice)."""
        self._nice = nice
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin a job. Its future raises BrokenProcessPool when the child dies with it.

        Raises OSError when no process can be started, CoordinatorError after an end for good.
        """
        with self._lock:
            if self._stopped:
                raise CoordinatorError("the coordinator stops")
            if self._pool is None:
                self._pool = self._new_pool()
            try:
                return self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                # The child died while it was idle or did something else: no fault of this job.
                self._pool = self._new_pool()
                return self._pool.submit(function, *arguments)
            except OSError:
                # A pool without a process keeps the job, and would run it before the next one.
                self._pool = None
                raise

    def forget(self) -> None:
        """The child has died: the next job starts another."""
        with self._lock:
            self._pool = None

    def end(self, *, for_good: bool = False) -> None:
        """Kill the child with all that it started; its job's future raises BrokenProcessPool."""
        with self._lock:
            self._stopped |= for_good
            pool, self._pool = self._pool, None
        if pool is None:
            return
        children = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for child in children:
            # Its group too: what it started to measure this machine would go on for seconds.
            if child.pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            child.kill()

    @property
    def pid(self) -> int | None:
        """The running child's process id."""
        with self._lock:
            processes = self._pool._processes if self._pool is not None else None
        return next(iter(processes), None) if processes else None

    @property
    def broken(self) -> bool:
        """Whether the child has died and nothing was asked of it since."""
        with self._lock:
            return self._pool is not None and bool(self._pool._broken)

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, context, _obey_parent, (os.getpid(), self._nice))


def _obey_parent(parent: int, nice: int) -> None:
    """Leave Ctrl-C to the coordinator, do not outlive it, and lead the group of all that is started from here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    die_with(parent)
    os.nice(nice)
