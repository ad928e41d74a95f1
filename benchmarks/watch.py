"""What a cluster's documents say of a pipeline, with the moments at which they came: `Watch`."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from slicemq.errors import ProtocolError
from slicemq.messages import Assignment, CoordinatorState, NodeState, PipelineDocument, PlanDocument, Report, decode
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """A document and when it came (monotonic seconds)."""

    at: float
    document: Any


class Watch:
    """A context manager: a session that listens to all control documents of the pipeline `name`."""

    def __init__(self, broker: BrokerOptions, cluster: str, name: str) -> None:
        self._topics = Topics(cluster)
        self._name = name
        self._lock = threading.Condition()
        self.seen: list[Seen] = []
        self.pipeline: PipelineDocument | None = None
        self.plan: PlanDocument | None = None
        self.coordinator = ""
        self.states: dict[str, str] = {}
        self._session = Session(broker, f"watch-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> Watch:
        topics = self._topics
        self._session.subscribe(topics.coordinator, topics.pipeline(self._name), topics.plan(self._name))
        self._session.subscribe(*(topics.node("+", leaf) for leaf in ("state", "assignment", "report")))
        self._session.start()
        self._session.wait_up(_CONNECT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.stop()

    @property
    def running(self) -> bool:
        """Whether the pipeline has an active route, as far as is known here."""
        pipeline = self.pipeline
        return pipeline is not None and pipeline.state == "running"

    @property
    def words(self) -> str:
        """The pipeline's state and reason."""
        pipeline = self.pipeline
        return "no document" if pipeline is None else f"{pipeline.state} {pipeline.reason}".strip()

    @property
    def holders(self) -> list[str]:
        """The nodes of the newest plan, in the order of its slices."""
        plan = self.plan
        return [] if plan is None else [node for entry in plan.plan["slices"] for node in entry["nodes"]]

    def since(self, at: float) -> list[Seen]:
        """What came from that moment on."""
        with self._lock:
            return [seen for seen in self.seen if seen.at >= at]

    def forget(self) -> None:
        """Drop what was seen so far."""
        with self._lock:
            self.seen.clear()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        now = time.monotonic()
        if not payload:
            return
        parts = self._topics.parts(topic)
        try:
            with self._lock:
                self._note(now, parts, payload, topic)
        except ProtocolError:
            return

    def _note(self, now: float, parts: tuple[str, ...], payload: bytes, topic: str) -> None:
        document: Any
        if parts[0] == "coordinator":
            document = decode(CoordinatorState, payload, topic)
            self.coordinator = document.state
        elif parts[0] == "pipelines" and len(parts) == 2:
            self.pipeline = document = decode(PipelineDocument, payload, topic)
        elif parts[0] == "pipelines":
            self.plan = document = decode(PlanDocument, payload, topic)
        elif parts[2] == "state":
            document = decode(NodeState, payload, topic)
            self.states[document.node] = document.state
        else:
            document = decode(Assignment if parts[2] == "assignment" else Report, payload, topic)
        self.seen.append(Seen(now, document))
