"""What the coordinator hears: topics and payloads checked and turned into events of the core. PURE."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from converters.samples import MOST_BYTES
from coordinator.actions import Action
from coordinator.asked import ROLLOUT_ACTIONS, RolloutAction
from coordinator.cluster import Cluster
from coordinator.gate import policy_from_plain, read_testimony
from coordinator.intents import Intent
from coordinator.upkeep import VERBS as UPKEEP
from slicemq.errors import CoordinatorError, ProtocolError, SliceMQError
from slicemq.messages import (
    MAX_DOCUMENT_BYTES,
    Artifact,
    Beat,
    Capacity,
    CoordinatorState,
    Heartbeat,
    NodeState,
    Report,
    Request,
    from_plain,
)
from slicemq.quickdoc import decode_quickly
from slicemq.topics import Topics, is_id, is_revision

# What a retained document may be kept as before the coordinator starts; a hostile cluster cannot grow it further.
_MAX_RETAINED = 20_000
Decode = Callable[[type[Any], Any, str], Any]
_LONGEST_PIN = 64
_VERBS = ("deploy", "undeploy", "rollout", "attach", "detach", "pin", *UPKEEP)


class OutrankedError(CoordinatorError):
    """Another coordinator has this one's place: this one stops writing (protocol rule 22)."""


class Inbox:
    """Reads what comes on the control session; every method raises ProtocolError for what is malformed."""

    def __init__(self, topics: Topics, cluster: Cluster, instance: str, decode: Decode = decode_quickly) -> None:
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
            topics.rollout("+"),
            topics.request("+", "+"),
            topics.coordinator,
            topics.coordinator_marker,
            topics.mirror,
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
        """Hand one message to the core. Raises OutrankedError when another coordinator has this one's place."""
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
        if len(parts) == 2 and parts[1] == "marker":
            self._beat(self._decode(Beat, payload, topic))
            return self._cluster.on_own_beat(now) if self.is_own_beat(topic, payload) else []
        if len(parts) == 2 and parts[1] == "mirror":
            self._stamped(payload)
            return []
        if len(parts) != 1:
            return []
        state = self._decode(CoordinatorState, payload, topic)
        self._cluster.saw_term(state.stamp.term)
        if not retained and state.state == "ready":
            self._yield_to(state.stamp.term, state.stamp.instance)
        return []

    def _beat(self, beat: Beat) -> None:
        """Of two that start the higher instance gives way; else who coordinates with the higher term stays."""
        if beat.instance == self._instance:
            return
        who, cluster = beat.instance[:8], self._topics.cluster
        if self._cluster.started:
            if beat.term > 0:
                self._yield_to(beat.term, beat.instance)
            return
        hint = "start this one with --standby to have it take over when that one is lost"
        if beat.term > 0:
            raise OutrankedError(f"another coordinator ({who}) is active in cluster {cluster}: {hint}")
        if beat.instance < self._instance:
            raise OutrankedError(f"another coordinator ({who}) is starting in cluster {cluster}: {hint}")

    def _yield_to(self, term: int, instance: str) -> None:
        if self._cluster.started and (term, instance) > (self._cluster.term, self._instance):
            raise OutrankedError(
                f"coordinator {instance[:8]} has taken over cluster {self._topics.cluster} with term {term}"
            )

    def _stamped(self, payload: bytes) -> None:
        """A coordinators' document: its stamp says whether another one took over (rules 21 and 22)."""
        # Most that comes is the echo of what this one wrote.
        own = isinstance(payload, bytes) and self._instance.encode() in payload
        found = stamp_of(payload) if isinstance(payload, bytes) and not own else None
        if found is not None:
            self._cluster.saw_term(found[0])
            self._yield_to(*found)

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
        self._stamped(payload)
        if self._cluster.started:
            # Also one that comes live: who lost this place may have had it on its way (rule 17).
            return self._cluster.on_foreign(now, topic)
        if retained and len(self.retained) < _MAX_RETAINED:
            self.retained[topic] = payload
        return []

    def _request(self, now: float, client: str, verb: str, topic: str, payload: bytes) -> Iterable[Action]:
        if not is_id(client):
            raise ProtocolError(f"{topic}: {client[:80]!r} is not a client id")
        if not self._cluster.started:
            return []
        request = self._decode(Request, payload, topic)
        if verb == "evidence":
            return self._cluster.on_evidence(now, read_testimony(client, request.body, topic))
        try:
            return self._asked(now, client, verb, topic, request)
        except SliceMQError as error:
            return self._cluster.on_refused(client, request.transaction, error)

    def _asked(self, now: float, client: str, verb: str, topic: str, request: Request) -> Iterable[Action]:
        body, transaction = request.body, request.transaction
        if verb == "deploy":
            intent, policy = _intent(body, topic), None
            if body.get("rollout") is not None:
                policy = policy_from_plain(body["rollout"], f"{topic}: field rollout")
            return self._cluster.on_deploy(now, client, transaction, intent, policy)
        if verb == "rollout":
            action, to = _rollout(body, topic)
            return self._cluster.on_rollout(now, client, transaction, _name(body, "name", topic), action, to)
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


def stamp_of(payload: bytes) -> tuple[int, str] | None:
    """(term, instance) of a coordinator's document; None where there is no stamp that can be read."""
    if len(payload) > MAX_DOCUMENT_BYTES:
        return None
    try:
        stamp = json.loads(payload)["stamp"]
        term, instance = stamp["term"], stamp["instance"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    sound = type(term) is int and 0 <= term < 1 << 63 and isinstance(instance, str)
    return (term, instance) if sound else None


def _intent(body: dict[str, Any], topic: str) -> Intent:
    name = _name(body, "name", topic)
    plan, options = body.get("plan"), body.get("options", {})
    if plan is not None and not isinstance(plan, dict):
        raise ProtocolError(f"{topic}: field plan: expected an object")
    if not isinstance(options, dict):
        raise ProtocolError(f"{topic}: field options: expected an object")
    model = from_plain(Artifact, body.get("model"), f"{topic}: field model")
    return Intent(name, model, plan, options, _file(body, "calibration", topic), _file(body, "golden", topic))


def _file(body: dict[str, Any], field: str, topic: str) -> Artifact | None:
    if body.get(field) is None:
        return None
    file = from_plain(Artifact, body[field], f"{topic}: field {field}")
    if file.size > MOST_BYTES:
        raise ProtocolError(f"{topic}: field {field}: {file.size} bytes, expected at most {MOST_BYTES}")
    return file


def _rollout(body: dict[str, Any], topic: str) -> tuple[RolloutAction, str]:
    action, to = body.get("action"), body.get("to")
    if action not in ROLLOUT_ACTIONS:
        raise ProtocolError(
            f"{topic}: field action: expected one of {', '.join(ROLLOUT_ACTIONS)}, got {str(action)[:80]!r}"
        )
    if to is not None and (action != "rollback" or not isinstance(to, str) or not is_revision(to)):
        raise ProtocolError(f"{topic}: field to: expected a revision, <n>-<8 hex>, and for a rollback only")
    return action, to or ""


def _name(body: dict[str, Any], field: str, topic: str, what: str = "a pipeline's id") -> str:
    name = body.get(field)
    if not isinstance(name, str) or not is_id(name):
        raise ProtocolError(f"{topic}: field {field}: expected {what}, got {str(name)[:80]!r}")
    return name
