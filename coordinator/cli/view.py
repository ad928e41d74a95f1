"""What the cluster's retained documents say, read without the coordinator's help."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from coordinator.cli.common import Network
from slicemq.errors import ProtocolError
from slicemq.messages import (
    Assignment,
    Beat,
    Capacity,
    CoordinatorState,
    Heartbeat,
    NodeState,
    PipelineDocument,
    PlanDocument,
    Report,
    decode,
)
from slicemq.operations import RolloutDocument, StandbyState
from slicemq.session import Session

logger = logging.getLogger("slicemq.view")
_CONNECT_SECONDS = 5.0


@dataclass
class View:
    """The cluster at one moment; documents that could not be read are left out, with a warning."""

    coordinator: CoordinatorState | None = None
    coordinator_beats: set[str] = field(default_factory=set)
    states: dict[str, NodeState] = field(default_factory=dict)
    capacities: dict[str, Capacity] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    pipelines: dict[str, PipelineDocument] = field(default_factory=dict)
    plans: dict[str, PlanDocument] = field(default_factory=dict)
    rollouts: dict[str, RolloutDocument] = field(default_factory=dict)
    standbys: dict[str, StandbyState] = field(default_factory=dict)

    @property
    def coordinator_state(self) -> str | None:
        """The coordinator's state; a live word without its beats reads `silent`; None when there never was one."""
        if self.coordinator is None:
            return None
        live = self.coordinator.state in ("starting", "ready")
        heard = self.coordinator.stamp.instance in self.coordinator_beats
        return "silent" if live and not heard else self.coordinator.state

    def state_of(self, node: str) -> str:
        """The node's state; a live word without the heartbeat that belongs to it reads `silent`."""
        state = self.states.get(node)
        if state is None:
            return "unknown"
        if state.state in ("init", "ready", "draining") and node not in self.beats:
            return "silent"
        return state.state

    def draining(self, node: str) -> str | None:
        """Why a node that an operator drains still has slices (empty: none, or they move); None: it is not."""
        assignment = self.assignments.get(node)
        if assignment is not None and assignment.draining:
            return assignment.reason
        return "" if self.state_of(node) == "draining" else None


def read_view(net: Network, listen: float = 1.2) -> View:
    """Read all retained documents, and heartbeats for up to `listen` seconds (until each live node was heard).

    Raises BrokerError.
    """
    topics, view = net.topics, View()
    heard = threading.Condition()

    def on_message(topic: str, payload: bytes, retained: bool) -> None:
        parts = topics.parts(topic)
        if parts[0] == "nodes" and parts[-1] == "heartbeat":
            beat = decode(Heartbeat, payload, topic)
            with heard:
                view.beats[beat.node] = beat
                heard.notify_all()
        elif topic == topics.coordinator_marker:
            with heard:
                view.coordinator_beats.add(decode(Beat, payload, topic).instance)
                heard.notify_all()

    session = Session(net.options, f"cli-{secrets.token_hex(4)}", on_message=on_message)
    session.subscribe(topics.node("+", "heartbeat"), topics.coordinator_marker)
    try:
        session.start()
        session.wait_up(_CONNECT_SECONDS)
        filters = [topics.coordinator, topics.pipeline("+"), topics.plan("+"), topics.rollout("+")]
        filters += [topics.node("+", leaf) for leaf in ("state", "capacity", "report", "assignment")]
        filters.append(topics.standby("+"))
        for topic, payload in sorted(session.snapshot(*filters).items()):
            _take(view, topics.parts(topic), topic, payload)
        live = {node for node, state in view.states.items() if state.state in ("init", "ready", "draining")}
        with heard:
            heard.wait_for(lambda: live <= view.beats.keys() and view.coordinator_state != "silent", listen)
    finally:
        session.stop()
    return view


def _take(view: View, parts: tuple[str, ...], topic: str, payload: bytes) -> None:
    kinds: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
        "state": (NodeState, lambda d: view.states.__setitem__(d.node, d)),
        "capacity": (Capacity, lambda d: view.capacities.__setitem__(d.node, d)),
        "report": (Report, lambda d: view.reports.__setitem__(d.node, d)),
        "assignment": (Assignment, lambda d: view.assignments.__setitem__(d.node, d)),
        "plan": (PlanDocument, lambda d: view.plans.__setitem__(d.name, d)),
        "rollout": (RolloutDocument, lambda d: view.rollouts.__setitem__(d.name, d)),
    }
    try:
        if parts == ("coordinator",):
            view.coordinator = decode(CoordinatorState, payload, topic)
        elif parts[:2] == ("coordinator", "standbys"):
            standby = decode(StandbyState, payload, topic)
            view.standbys[standby.instance] = standby
        elif parts[0] == "pipelines" and len(parts) == 2:
            document = decode(PipelineDocument, payload, topic)
            view.pipelines[document.name] = document
        elif parts[-1] in kinds:
            kind, put = kinds[parts[-1]]
            put(decode(kind, payload, topic))
    except ProtocolError as error:
        logger.warning("%s", error)
