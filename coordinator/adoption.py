"""Running pipelines rebuilt from retained documents, for a coordinator whose store was lost. PURE."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision
from slicemq.errors import ProtocolError
from slicemq.messages import Assignment, PipelineDocument, PlanDocument, SliceAssignment, decode
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.coordinator.adoption")


def adopt_running(topics: Topics, retained: Mapping[str, bytes], now: float) -> list[PipelineRecord]:
    """A record for each pipeline whose active revision stands whole in the retained documents.

    Its plan, its nodes' assignments and its own document say all that a blueprint holds. What cannot be read is
    left out (it is cleared later as unknown).
    """
    assignments = _assignments(topics, retained)
    records = []
    for topic, payload in retained.items():
        parts = topics.parts(topic)
        if len(parts) != 2 or parts[0] != "pipelines":
            continue
        try:
            document = decode(PipelineDocument, payload, topic)
            plan_topic = topics.plan(parts[1])
            plan = decode(PlanDocument, retained.get(plan_topic, b""), plan_topic)
        except ProtocolError as error:
            logger.warning("not taken over: %s", error)
            continue
        record = _record(document, plan, assignments, now)
        if record is not None:
            records.append(record)
    return records


def _assignments(topics: Topics, retained: Mapping[str, bytes]) -> dict[str, tuple[SliceAssignment, ...]]:
    found: dict[str, tuple[SliceAssignment, ...]] = {}
    for topic, payload in retained.items():
        parts = topics.parts(topic)
        if len(parts) == 3 and parts[2] == "assignment":
            try:
                found[parts[1]] = decode(Assignment, payload, topic).slices
            except ProtocolError as error:
                logger.warning("not taken over: %s", error)
    return found


def _record(
    document: PipelineDocument,
    plan: PlanDocument,
    assignments: Mapping[str, tuple[SliceAssignment, ...]],
    now: float,
) -> PipelineRecord | None:
    active = next((route for route in document.routes if route.state == "active"), None)
    if document.state == "removed" or active is None or plan.revision != active.revision:
        return None
    slices = {
        node: tuple(i for i in items if (i.pipeline, i.revision) == (document.name, active.revision))
        for node, items in assignments.items()
    }
    slices = {node: items for node, items in slices.items() if items}
    planned = plan.plan.get("slices")
    if not isinstance(planned, list) or not slices:
        return None
    seconds = {
        str(entry.get("id")): float(entry.get("compute_ms", 0.0)) / 1e3
        for entry in planned
        if isinstance(entry, dict)
    }
    if {item.slice for items in slices.values() for item in items} != set(seconds):
        return None
    made = Blueprint(
        digest=active.revision.partition("-")[2],
        plan=plan.plan,
        slices=slices,
        route=active,
        inputs=document.inputs,
        outputs=document.outputs,
        spec=document.spec,
        window=document.window,
        stage_seconds=seconds,
    )
    intent = Intent(document.name, plan.model)
    revision = Revision(active.revision, intent, made, "active", since=now, deadline=math.inf)
    seen = [route.revision for route in document.routes]
    seen += [i.revision for items in assignments.values() for i in items if i.pipeline == document.name]
    highest = max(int(name.partition("-")[0]) for name in seen)
    record = PipelineRecord(document.name, intent, highest, {revision.id: revision}, face=made)
    record.resend = document.resend
    return record
