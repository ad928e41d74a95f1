"""Following one deployment on its pipeline's retained documents until it runs or has failed."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from coordinator.cli.course import Course
from slicemq.errors import CoordinatorError
from slicemq.messages import PipelineDocument, PlanDocument, decode
from slicemq.operations import RolloutDocument

if TYPE_CHECKING:
    from rich.progress import Progress

    from coordinator.cli.ask import Caller

logger = logging.getLogger("slicemq.deploy")


class Following:
    """The documents of the pipeline `name`; make it before the request, so that nothing is missed."""

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self._name = name
        self._changed = threading.Condition()
        self._document: PipelineDocument | None = None
        self._course = Course(name)
        self._plan: PlanDocument | None = None
        self.running: str | None = None
        topics = caller.net.topics
        caller.on(topics.pipeline(name), self._on_document)
        caller.on(topics.plan(name), self._on_plan)
        caller.on(topics.rollout(name), self._on_rollouts)

    def until_running(
        self,
        revision: str,
        timeout: float,
        progress: Progress,
        task: Any,
        *,
        model: str | None = None,
        hint: str = "",
    ) -> None:
        """Wait until `revision`, or a later one of `model` (SHA-256), has all frames.

        hint: what to show beside the state. Raises what `Course.settled` raises, and CoordinatorError after
        `timeout` seconds or when the coordinator goes away.
        """
        course = self._course
        course.expect(revision, model)
        deadline = time.monotonic() + timeout
        shown = ""
        while True:
            with self._changed:
                self._changed.wait(0.5)
                settled = course.settled(self._document)
            self._caller.check_coordinator()
            if settled:
                self.running = course.running
                return
            if course.note != shown:
                shown = course.note
                progress.update(task, note=" ".join(filter(None, [shown, hint])))
                logger.info("%s: %s", self._name, shown)
            if time.monotonic() > deadline:
                raise CoordinatorError(
                    f"pipeline {self._name} does not run after {timeout:.0f} s: {course.why_not}"
                )

    def plan(self, revision: str) -> dict[str, Any] | None:
        """The plan of the revision, once its document has come."""
        wanted = self.running or revision
        with self._changed:
            self._changed.wait_for(lambda: self._plan is not None and self._plan.revision == wanted, timeout=5.0)
            return self._plan.plan if self._plan is not None else None

    def _on_document(self, topic: str, payload: bytes) -> None:
        if payload:
            with self._changed:
                self._document = decode(PipelineDocument, payload, topic)
                self._changed.notify_all()

    def _on_rollouts(self, topic: str, payload: bytes) -> None:
        with self._changed:
            self._course.saw(decode(RolloutDocument, payload, topic) if payload else None)
            self._changed.notify_all()

    def _on_plan(self, topic: str, payload: bytes) -> None:
        if payload:
            with self._changed:
                self._plan = decode(PlanDocument, payload, topic)
                self._changed.notify_all()
