"""The shell around planning jobs: fetches the model, runs the job in a child, probes the broker's limit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from coordinator import planning
from coordinator.actions import MakePlan, PlanAhead
from coordinator.children import Child
from coordinator.contingency import Unmade
from coordinator.downloads import Exchange
from coordinator.intents import Blueprint
from coordinator.planning import PlanningJob, Tools
from slicemq.errors import ArtifactError, CoordinatorError, ModelError, OversizeError, PlanError, SliceMQError

logger = logging.getLogger("slicemq.coordinator.planning")

Planned = Callable[[int, Blueprint], None]
Failed = Callable[[int, SliceMQError], None]
Foreseen = Callable[[int, Blueprint | Unmade], None]
"""A plan made ahead, or why there is none."""
ProbeSize = Callable[[int], bool]
"""Whether the broker carries a message of so many bytes."""

_NICE = 10
# Its memory is free again then, and starting it anew takes no time that anybody waits for.
_REST_SECONDS = 15.0


class Workshop:
    """Runs one planning job at a time and tells the outcome by a callback, from its own thread.

    Beside it, in idle time, one job at a time that makes a plan ahead.
    """

    def __init__(
        self,
        folder: Path,
        tools: Tools,
        exchange: Exchange,
        probe_size: ProbeSize,
        planned: Planned,
        failed: Failed,
        foreseen: Foreseen,
    ) -> None:
        self._folder = folder
        self._tools = tools
        self._exchange = exchange
        self._probe_size = probe_size
        self._planned = planned
        self._failed = failed
        self._foreseen = foreseen
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="planning")
        # The kernel ends a child with the thread that started it, so this one lives as long as its child may.
        self._ahead_thread = ThreadPoolExecutor(1, thread_name_prefix="planning-ahead")
        self._child = Child()
        self._ahead = Child(nice=_NICE)
        self._lock = threading.Lock()
        self._urgent = 0
        self._made = 0
        self._ahead_works = False
        self._rest: threading.Timer | None = None
        self._carried = 0
        self._stopped = False

    def warm_up(self) -> None:
        """Start the child and let it measure this machine, before the first job asks."""
        self._thread.submit(self._warm_up)

    def make(self, action: MakePlan) -> None:
        """Begin a job. A plan that is being made ahead is given up: its process ends.

        A job that replaces what was lost does not wait for another one: it takes the process of plans ahead.
        """
        with self._lock:
            self._urgent += 1
            self._made += 1
            beside = self._urgent > 1 and action.client is None
            if self._ahead_works or self._urgent == 1:
                self._ahead.end()
        if beside:
            self._ahead_thread.submit(self._run, action, self._ahead)
        else:
            self._thread.submit(self._run, action, self._child)

    def make_ahead(self, action: PlanAhead) -> None:
        """Begin a job that nobody waits for, in a process of its own that gives way to all others."""
        self._ahead_thread.submit(self._run_ahead, action)

    def stop(self) -> None:
        """Drop what waits and end the children."""
        self._stopped = True
        for thread in (self._thread, self._ahead_thread):
            thread.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._rest is not None:
                self._rest.cancel()
        for child in (self._child, self._ahead):
            child.end(for_good=True)

    def _warm_up(self) -> None:
        try:
            self._child.submit(planning.reference_speeds, self._tools, self._folder).result()
        except Exception as error:  # noqa: BLE001 - planning itself will say what is wrong
            if not self._stopped:
                logger.warning("measuring this machine failed: %s", error)

    def _run(self, action: MakePlan, child: Child) -> None:
        try:
            self._planned(action.job, self._make(action, child))
        except SliceMQError as error:
            if self._stopped:
                return
            logger.warning("%s: no plan: %s", action.intent.name, error)
            self._failed(action.job, error)
        except Exception as error:
            logger.exception("%s: planning failed", action.intent.name)
            self._failed(action.job, SliceMQError(f"planning failed: {error}"))
        finally:
            with self._lock:
                self._urgent -= 1

    def _run_ahead(self, action: PlanAhead) -> None:
        outcome: Blueprint | Unmade = Unmade.FAILED
        try:
            outcome = self._make_ahead(action)
        finally:
            with self._lock:
                self._ahead_works = False
            self._rest_later()
            self._foreseen(action.plan.job, outcome)

    def _make_ahead(self, action: PlanAhead) -> Blueprint | Unmade:
        name, begun = action.plan.intent.name, self._made
        purpose = f"for the loss of node {action.lost}" if action.lost else "to compare what runs with"
        try:
            with self._lock:
                begun = self._made
                if self._urgent:
                    return Unmade.GIVEN_UP
                self._ahead_works = True
                future = self._ahead.submit(planning.run, self._job(action.plan))
            made: Blueprint = future.result()
            self._check_size(made)
        except Exception as error:  # noqa: BLE001 - a real loss will say it again, to those who wait
            if self._made != begun or self._stopped:
                return Unmade.GIVEN_UP
            if isinstance(error, BrokenProcessPool):
                self._ahead.forget()
            none = isinstance(error, (PlanError, ModelError))
            later = "" if none else "; it is tried again"
            logger.info("%s: no plan %s: %s%s", name, purpose, error, later)
            return Unmade.NONE if none else Unmade.FAILED
        logger.info("%s: a plan %s is ready", name, purpose)
        return made

    def _rest_later(self) -> None:
        """Let the process end that makes plans ahead when there was nothing to make for a while."""
        with self._lock:
            if self._rest is not None:
                self._rest.cancel()
            if self._stopped:
                return
            self._rest = threading.Timer(_REST_SECONDS, self._rest_now)
            self._rest.daemon = True
            self._rest.start()

    def _rest_now(self) -> None:
        with self._lock:
            # A job may have begun since the timer was set.
            if not self._ahead_works and not self._urgent:
                self._ahead.end()

    def _job(self, action: MakePlan) -> PlanningJob:
        asked = action.client is not None
        return PlanningJob(
            action.intent, action.nodes, action.avoid, self._folder, self._tools, asked, action.known
        )

    def _make(self, action: MakePlan, child: Child) -> Blueprint:
        model = action.intent.model
        try:
            # Nobody offers the model unless a client is deploying it just now: do not wait long for a stranger.
            self._exchange.fetch(model, patience=15.0 if action.client is not None else 3.0)
        except ArtifactError as error:
            raise CoordinatorError(
                f"the model {model.sha256[:12]} is not in the coordinator's store and nobody sent it ({error}); "
                "deploy it again"
            ) from error
        self._fetch_frames(action)
        try:
            made: Blueprint = child.submit(planning.run, self._job(action)).result()
        except BrokenProcessPool as error:
            child.forget()
            raise ModelError(
                f"the process that read, measured and cut the model {model.sha256[:12]} died; "
                "try --profile estimate, and 'slicemq model verify' on the file"
            ) from error
        self._check_size(made)
        return made

    def _fetch_frames(self, action: MakePlan) -> None:
        """Bring calibration set and golden frames; a plan that nobody asks for can do without."""
        intent = action.intent
        for what, file in (("calibration set", intent.calibration), ("golden file", intent.golden)):
            if file is None:
                continue
            try:
                self._exchange.fetch(file, patience=15.0 if action.client is not None else 3.0)
            except ArtifactError as error:
                if action.client is not None:
                    raise CoordinatorError(
                        f"the {what} {file.sha256[:12]} is not in the coordinator's store and nobody "
                        f"sent it ({error}); deploy it again"
                    ) from error

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
