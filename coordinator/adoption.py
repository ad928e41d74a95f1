"""Running pipelines rebuilt from retained documents, for a coordinator whose store was lost. PURE."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision
from coordinator.rollout import end
from slicemq.errors import ProtocolError
from slicemq.messages import Assignment, PipelineDocument, PlanDocument, SliceAssignment, TensorSpec, decode
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.coordinator.adoption")
_DRAIN_SECONDS = 30.0


def adopt_running(topics: Topics, retained: Mapping[str, bytes], now: float) -> list[PipelineRecord]:
    """A record for each pipeline whose active revision stands whole in the retained documents.

    Its plan, its nodes' assignments and its own document say all that a blueprint holds. What cannot be read is
    left out (it is cleared later as unknown).
    """
    assignments = _assignments(topics, retained)
    records = []
    for topic, payload in retained.items():
        parts = _parts(topics, topic)
        if len(parts) != 2 or parts[0] != "pipelines":
            continue
        try:
            document = decode(PipelineDocument, payload, topic)
            plan_topic = topics.plan(parts[1])
            plan = decode(PlanDocument, retained.get(plan_topic, b""), plan_topic)
            _check_owner(topic, "name", parts[1], document.name)
            _check_owner(plan_topic, "name", parts[1], plan.name)
            seconds = _stage_seconds(plan.plan, plan_topic)
        except ProtocolError as error:
            logger.warning("not taken over: %s", error)
            continue
        record = _record(document, plan, seconds, assignments, now)
        if record is not None:
            records.append(record)
    return records


def assignments_seen(topics: Topics, retained: Mapping[str, bytes]) -> list[Assignment]:
    """The assignments that stand there; what cannot be read is left out."""
    found = []
    for topic, payload in retained.items():
        parts = _parts(topics, topic)
        if len(parts) == 3 and parts[0] == "nodes" and parts[2] == "assignment":
            try:
                document = decode(Assignment, payload, topic)
                _check_owner(topic, "node", parts[1], document.node)
                found.append(document)
            except ProtocolError as error:
                logger.warning("not taken over: %s", error)
    return found


def numbers_seen(topics: Topics, retained: Mapping[str, bytes]) -> dict[str, int]:
    """Pipeline -> the highest revision number in its document and in assignments; what cannot be read has none."""
    found: dict[str, int] = {}
    for items in _assignments(topics, retained).values():
        for item in items:
            found[item.pipeline] = max(found.get(item.pipeline, 0), _number(item.revision))
    for topic, payload in retained.items():
        parts = _parts(topics, topic)
        if len(parts) == 2 and parts[0] == "pipelines":
            try:
                routes = decode(PipelineDocument, payload, topic).routes
            except ProtocolError:
                continue
            found[parts[1]] = max([found.get(parts[1], 0), *(_number(route.revision) for route in routes)])
    return found


def note_numbers(
    records: dict[str, PipelineRecord], topics: Topics, retained: Mapping[str, bytes], now: float
) -> None:
    """Let no number that stands in the documents be used again (rule 1), whether its pipeline is known or not."""
    for name, number in numbers_seen(topics, retained).items():
        record = records.setdefault(name, PipelineRecord(name, removed_at=now))
        record.highest = max(record.highest, number)


def catch_up(stored: PipelineRecord, seen: PipelineRecord, unix: float) -> bool:
    """Bring a record of a store that is older than the retained documents up to them; whether it was older.

    A standby's store may lack the last moments of the coordinator before it. `seen` is what `adopt_running` found:
    what clients send to stays active, and a canary that the store has not heard of is lost. `unix`: the Unix time
    at which a rollout that had come to that counts as promoted.
    """
    active = seen.active
    # A number is stored when it begins to prepare: then the documents may be a flip, or a canary, ahead.
    next_ = stored.highest + (stored.removed_at is not None)
    canaries = {
        one.id: one for one in seen.in_phase("lost") if one.id not in stored.revisions and _number(one.id) >= next_
    }
    stored.revisions |= canaries
    flipped = active is not None and _number(active.id) == next_
    if active is None or active.id in stored.revisions or (seen.highest <= stored.highest and not flipped):
        stored.highest = max(stored.highest, *map(_number, canaries), 0)
        return bool(canaries)
    stored.resend = max(stored.resend, seen.resend)
    stored.removed_at = None
    for old in stored.in_phase("active"):
        old.phase, old.since, old.deadline = "draining", active.since, active.since + _DRAIN_SECONDS
    known = [
        intent for intent in (stored.wish.intent if stored.wish else None, stored.intent) if intent is not None
    ]
    intent = next((one for one in known if one.model == active.intent.model), active.intent)
    if stored.wish is not None and stored.wish.intent is intent:
        stored.wish = None
    active.intent = stored.intent = intent
    stored.revisions[active.id] = active
    stored.face, stored.status = seen.face, ""
    if stored.rollout is not None and stored.rollout.intent == intent:
        stored.rollout = replace(stored.rollout, revision=active.id)
        end(stored, "promoted", "it served when another coordinator took over", unix, active.since)
    return True


def _number(revision: str) -> int:
    return int(revision.partition("-")[0])


def _assignments(topics: Topics, retained: Mapping[str, bytes]) -> dict[str, tuple[SliceAssignment, ...]]:
    return {document.node: document.slices for document in assignments_seen(topics, retained)}


def _parts(topics: Topics, topic: str) -> tuple[str, ...]:
    """The topic's levels; none for a topic of another cluster, which amqtt may send unasked."""
    try:
        return topics.parts(topic)
    except ProtocolError:
        return ()


def _check_owner(topic: str, field: str, expected: str, got: str) -> None:
    if got != expected:
        raise ProtocolError(f"{topic}: field {field}: expected {expected!r}, got {got[:80]!r}")


def _stage_seconds(plan: Mapping[str, Any], topic: str) -> dict[str, float]:
    """What each slice adds to the period, as a blueprint made by planning has it."""
    entries = plan.get("slices")
    if not isinstance(entries, list):
        raise ProtocolError(f"{topic}: field plan.slices: expected a list")
    seconds = {}
    for number, entry in enumerate(entries):
        where = f"{topic}: field plan.slices[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise ProtocolError(f"{where}: expected an object with an id")
        times = [entry.get(key, 0.0) for key in ("compute_ms", "down_ms", "up_ms")]
        if not all(isinstance(t, (int, float)) and not isinstance(t, bool) and 0 <= t < 1e12 for t in times):
            raise ProtocolError(f"{where}: compute_ms, down_ms, up_ms: expected milliseconds")
        seconds[entry["id"]] = max(times) / 1e3
    return seconds


def _turns(entry: Mapping[str, Any], of: int) -> list[int] | None:
    """The turns that the nodes of a planned slice serve together; None where they cannot be read."""
    shares = entry.get("turns") or [range(of)]
    if not isinstance(shares, list) or not all(isinstance(share, (list, range)) for share in shares):
        return None
    turns = [turn for share in shares for turn in share]
    return sorted(turns) if all(isinstance(turn, int) for turn in turns) else None


def _record(
    document: PipelineDocument,
    plan: PlanDocument,
    seconds: dict[str, float],
    assignments: Mapping[str, tuple[SliceAssignment, ...]],
    now: float,
) -> PipelineRecord | None:
    # Of two, the lighter is a canary: whoever judged it is gone.
    serving = sorted((r for r in document.routes if r.state == "active"), key=lambda route: -route.weight)
    active = serving[0] if serving else None
    if document.state == "removed" or active is None or plan.revision != active.revision:
        return None
    slices = {
        node: tuple(i for i in items if (i.pipeline, i.revision) == (document.name, active.revision))
        for node, items in assignments.items()
    }
    slices = {node: items for node, items in slices.items() if items}
    served: dict[str, list[int]] = {}
    for item in (item for items in slices.values() for item in items):
        if item.of != active.turns:
            return None
        served[item.slice] = sorted([*served.get(item.slice, []), *item.turns])
    # A replica whose assignment is not there would leave its turns without an answer.
    if not slices or served != {entry["id"]: _turns(entry, active.turns) for entry in plan.plan["slices"]}:
        return None
    made = Blueprint(
        digest=active.revision.partition("-")[2],
        plan=plan.plan,
        slices=slices,
        route=active,
        inputs=_indexed(document.inputs, active.inputs),
        outputs=_indexed(document.outputs, active.outputs),
        spec=document.spec,
        window=document.window,
        stage_seconds=seconds,
        stateful=document.stateful,
    )
    intent = Intent(document.name, plan.model)
    revision = Revision(active.revision, intent, made, "active", since=now, deadline=math.inf)
    seen = [route.revision for route in document.routes]
    seen += [i.revision for items in assignments.values() for i in items if i.pipeline == document.name]
    highest = max(map(_number, seen))
    record = PipelineRecord(document.name, intent, highest, {revision.id: revision}, face=made)
    for canary in serving[1:]:
        # Its clients are to know that what they sent there is lost.
        gone = replace(made, digest=canary.revision.partition("-")[2], slices={}, route=canary)
        record.revisions[canary.revision] = Revision(canary.revision, intent, gone, "lost", since=now)
    record.resend = document.resend
    return record


def _indexed(specs: Sequence[TensorSpec], indices: Sequence[int]) -> tuple[TensorSpec, ...]:
    """The document's tensors by their indices in the revision's model; as they are where it says none."""
    if len(indices) != len(specs):
        return tuple(specs)
    return tuple(replace(spec, index=index) for spec, index in zip(specs, indices, strict=True))
