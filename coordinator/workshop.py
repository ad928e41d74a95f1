"""The shell around planning jobs: fetches the model, runs the job in a child process, probes the broker's limit."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from coordinator import planning
from coordinator.actions import MakePlan
from coordinator.downloads import Exchange
from coordinator.intents import Blueprint
from coordinator.parent import die_with
from coordinator.planning import PlanningJob, Tools
from slicemq.errors import ArtifactError, CoordinatorError, ModelError, OversizeError, SliceMQError

logger = logging.getLogger("slicemq.coordinator.planning")

Planned = Callable[[int, Blueprint], None]
Failed = Callable[[int, SliceMQError], None]
ProbeSize = Callable[[int], bool]
"""Whether the broker carries a message of so many bytes."""


class Workshop:
    """Runs one planning job at a time and tells the outcome by a callback, from its own thread."""

    def __init__(
        self,
        folder: Path,
        tools: Tools,
        exchange: Exchange,
        probe_size: ProbeSize,
        planned: Planned,
        failed: Failed,
    ) -> None:
        self._folder = folder
        self._tools = tools
        self._exchange = exchange
        self._probe_size = probe_size
        self._planned = planned
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="planning")
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._carried = 0
        self._stopped = False

    def warm_up(self) -> None:
        """Start the child and let it measure this machine, before the first job asks."""
        self._thread.submit(self._warm_up)

    def make(self, action: MakePlan) -> None:
        """Begin a job."""
        self._thread.submit(self._run, action)

    def stop(self) -> None:
        """Drop what waits and end the child."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._stopped = True
            pool, self._pool = self._pool, None
        if pool is not None:
            children = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                # Its group too: what it started to measure this machine would go on for seconds.
                if child.pid is not None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(child.pid, signal.SIGKILL)
                child.kill()

    def _warm_up(self) -> None:
        try:
            self._child(planning.reference_speeds, self._tools, self._folder).result()
        except Exception as error:  # noqa: BLE001 - planning itself will say what is wrong
            if not self._stopped:
                logger.warning("measuring this machine failed: %s", error)

    def _run(self, action: MakePlan) -> None:
        try:
            self._planned(action.job, self._make(action))
        except SliceMQError as error:
            if self._stopped:
                return
            logger.warning("%s: no plan: %s", action.intent.name, error)
            self._failed(action.job, error)
        except Exception as error:
            logger.exception("%s: planning failed", action.intent.name)
            self._failed(action.job, SliceMQError(f"planning failed: {error}"))

    def _make(self, action: MakePlan) -> Blueprint:
        model = action.intent.model
        try:
            # Nobody offers the model unless a client is deploying it just now: do not wait long for a stranger.
            self._exchange.fetch(model, patience=15.0 if action.client is not None else 3.0)
        except ArtifactError as error:
            raise CoordinatorError(
                f"the model {model.sha256[:12]} is not in the coordinator's store and nobody sent it ({error}); "
                "deploy it again"
            ) from error
        job = PlanningJob(
            action.intent, action.nodes, action.avoid, self._folder, self._tools, action.client is not None
        )
        try:
            made: Blueprint = self._child(planning.run, job).result()
        except BrokenProcessPool as error:
            with self._lock:
                self._pool = None
            raise ModelError(
                f"the process that read, measured and cut the model {model.sha256[:12]} died; "
                "try --profile estimate, and 'slicemq model verify' on the file"
            ) from error
        self._check_size(made)
        return made

    def _check_size(self, made: Blueprint) -> None:
        if not made.plan["bundles"]:
            return
        largest = max((bundle for bundle in made.plan["bundles"]), key=lambda bundle: int(bundle["bytes"]))
        nbytes = int(largest["bytes"])
        if nbytes <= self._carried:
            return
        if not self._probe_size(nbytes):
            raise OversizeError(
                f"the broker does not carry a message of {nbytes} bytes (bundle {largest['id']}): raise its limit "
                "(message_size_limit of mosquitto, see docs/reference/broker-settings.md)"
            )
        self._carried = nbytes

    def _child(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with self._lock:
            if self._stopped:
                raise CoordinatorError("the coordinator stops")
            if self._pool is None:
                self._pool = self._new_pool()
            try:
                return self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                # The child died while it was idle or measured this machine: no fault of this job.
                self._pool = self._new_pool()
                return self._pool.submit(function, *arguments)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _obey_parent, (os.getpid(),))


def _obey_parent(parent: int) -> None:
    """Leave Ctrl-C to the coordinator, do not outlive it, and lead the group of all that is started from here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    die_with(parent)
