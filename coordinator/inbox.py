"""What the coordinator hears: topics and payloads checked and turned into events of the core. PURE."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from converters.samples import MOST_BYTES
from coordinator.actions import Action
from coordinator.cluster import Cluster
from coordinator.intents import Intent
from coordinator.upkeep import VERBS as UPKEEP
from slicemq.errors import CoordinatorError, ProtocolError, SliceMQError
from slicemq.messages import (
    Artifact,
    Beat,
    Capacity,
    CoordinatorState,
    Heartbeat,
    NodeState,
    Report,
    Request,
    decode,
    from_plain,
)
from slicemq.topics import Topics, is_id

# What a retained document may be kept as before the coordinator starts; a hostile cluster cannot grow it further.
_MAX_RETAINED = 20_000
Decode = Callable[[type[Any], Any, str], Any]
_LONGEST_PIN = 64
_VERBS = ("deploy", "undeploy", "attach", "detach", "pin", *UPKEEP)


class Inbox:
    """Reads what comes on the control session; every method raises ProtocolError for what is malformed."""

    def __init__(self, topics: Topics, cluster: Cluster, instance: str, decode: Decode = decode) -> None:
        """`decode` reads a payload; another one lets documents come as the objects that they are."""
        self._decode = decode
        self._topics = topics
        self._cluster = cluster
        self._instance = instance
        self.retained: dict[str, bytes] = {}

    @property
    def filters(self) -> tuple[str, ...]:
        """What the control session must be subscribed to."""
        topics = self._topics
        nodes = (topics.node("+", leaf) for leaf in ("state", "capacity", "heartbeat", "report", "assignment"))
        return (
            *nodes,
            topics.pipeline("+"),
            topics.plan("+"),
            topics.request("+", "+"),
            topics.coordinator,
            topics.coordinator_marker,
        )

    def is_own_beat(self, topic: str, payload: bytes) -> bool:
        """Whether this is a marker that this coordinator itself published."""
        if topic != self._topics.coordinator_marker:
            return False
        beat: Beat = self._decode(Beat, payload, topic)
        return beat.instance == self._instance

    def forget_retained(self) -> None:
        """Drop what was kept for the start."""
        self.retained.clear()

    def read(self, now: float, topic: str, payload: bytes, retained: bool) -> Iterable[Action]:
        """Hand one message to the core. Raises CoordinatorError when another coordinator shows itself."""
        parts = self._topics.parts(topic)
        if not payload:
            return []
        if parts[0] == "coordinator":
            return self._coordinator(now, parts, topic, payload, retained)
        if parts[0] == "nodes" and len(parts) == 3:
            return self._node(now, parts, topic, payload, retained)
        if parts[0] == "pipelines":
            return self._own_kind(now, topic, payload, retained)
        if parts[0] == "requests" and len(parts) == 3:
            return self._request(now, parts[1], parts[2], topic, payload)
        return []

    def _coordinator(
        self, now: float, parts: tuple[str, ...], topic: str, payload: bytes, retained: bool
    ) -> Iterable[Action]:
        if len(parts) == 2:
            beat = self._decode(Beat, payload, topic)
            if beat.instance == self._instance:
                return self._cluster.on_own_beat(now)
            if not self._cluster.started:
                raise CoordinatorError(
                    f"another coordinator ({beat.instance[:8]}) is active in cluster {self._topics.cluster}"
                )
            return []
        state = self._decode(CoordinatorState, payload, topic)
        self._cluster.saw_term(state.stamp.term)
        if (
            state.stamp.instance != self._instance
            and not retained
            and state.state == "ready"
            and self._outranked(state)
        ):
            raise CoordinatorError(
                f"coordinator {state.stamp.instance[:8]} has taken over cluster {self._topics.cluster} "
                f"with term {state.stamp.term}"
            )
        return []

    def _outranked(self, state: CoordinatorState) -> bool:
        mine = (self._cluster.term, self._instance)
        return (
            self._cluster.started
            and state.stamp.instance != self._instance
            and (state.stamp.term, state.stamp.instance) > mine
        )

    def _node(
        self, now: float, parts: tuple[str, ...], topic: str, payload: bytes, retained: bool
    ) -> Iterable[Action]:
        _, name, leaf = parts
        kinds: dict[str, type[Any]] = {
            "state": NodeState,
            "capacity": Capacity,
            "heartbeat": Heartbeat,
            "report": Report,
        }
        if leaf == "assignment":
            return self._own_kind(now, topic, payload, retained)
        if leaf not in kinds:
            return []
        document = self._decode(kinds[leaf], payload, topic)
        if document.node != name:
            raise ProtocolError(f"{topic}: field node: expected {name!r}, got {document.node[:80]!r}")
        match document:
            case NodeState():
                return self._cluster.on_node_state(now, document)
            case Capacity():
                return self._cluster.on_capacity(now, document)
            case Heartbeat():
                return self._cluster.on_heartbeat(now, document)
            case _:
                return self._cluster.on_report(now, document)

    def _own_kind(self, now: float, topic: str, payload: bytes, retained: bool) -> Iterable[Action]:
        """A document that only coordinators write: kept for the start, or cleared when it is not known."""
        if self._cluster.started:
            return self._cluster.on_foreign(now, topic) if retained else []
        if retained and len(self.retained) < _MAX_RETAINED:
            self.retained[topic] = payload
        return []

    def _request(self, now: float, client: str, verb: str, topic: str, payload: bytes) -> Iterable[Action]:
        if not is_id(client):
            raise ProtocolError(f"{topic}: {client[:80]!r} is not a client id")
        if not self._cluster.started:
            return []
        request = self._decode(Request, payload, topic)
        try:
            return self._asked(now, client, verb, topic, request)
        except SliceMQError as error:
            return self._cluster.on_refused(client, request.transaction, error)

    def _asked(self, now: float, client: str, verb: str, topic: str, request: Request) -> Iterable[Action]:
        body, transaction = request.body, request.transaction
        if verb == "deploy":
            intent = _intent(body, topic)
            return self._cluster.on_deploy(now, client, transaction, intent)
        if verb == "undeploy":
            return self._cluster.on_undeploy(now, client, transaction, _name(body, "name", topic))
        if verb in ("attach", "detach"):
            return self._cluster.on_attach(now, client, _name(body, "pipeline", topic), verb == "attach")
        if verb in UPKEEP:
            return self._cluster.on_upkeep(
                now, client, transaction, verb, _name(body, "node", topic, "a node's id")
            )
        if verb == "pin":
            name, slice_id = _name(body, "pipeline", topic), body.get("slice")
            if not isinstance(slice_id, str) or not 0 < len(slice_id) <= _LONGEST_PIN:
                raise ProtocolError(f"{topic}: field slice: expected a slice, or a range of operators")
            node = "" if body.get("node", "") == "" else _name(body, "node", topic, "a node's id, or nothing")
            return self._cluster.on_pin(now, client, transaction, name, slice_id, node)
        raise ProtocolError(f"{topic}: verb {verb[:80]!r}: expected one of {', '.join(_VERBS)}")


def _intent(body: dict[str, Any], topic: str) -> Intent:
    name = _name(body, "name", topic)
    plan, options = body.get("plan"), body.get("options", {})
    if plan is not None and not isinstance(plan, dict):
        raise ProtocolError(f"{topic}: field plan: expected an object")
    if not isinstance(options, dict):
        raise ProtocolError(f"{topic}: field options: expected an object")
    model = from_plain(Artifact, body.get("model"), f"{topic}: field model")
    calibration = None
    if body.get("calibration") is not None:
        calibration = from_plain(Artifact, body["calibration"], f"{topic}: field calibration")
        if calibration.size > MOST_BYTES:
            raise ProtocolError(
                f"{topic}: field calibration: {calibration.size} bytes, expected at most {MOST_BYTES}"
            )
    return Intent(name, model, plan, options, calibration)


def _name(body: dict[str, Any], field: str, topic: str, what: str = "a pipeline's id") -> str:
    name = body.get(field)
    if not isinstance(name, str) or not is_id(name):
        raise ProtocolError(f"{topic}: field {field}: expected {what}, got {str(name)[:80]!r}")
    return name
