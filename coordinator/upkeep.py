"""What operators ask about nodes: to be drained, to serve again, to be forgotten; and pins of slices. PURE.

A node that is drained serves on until its slices run elsewhere; nothing is placed on it until it is undrained,
whatever happens to it or to the coordinator. Pins are options of a pipeline's intent, so a pin is a deploy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordinator.intents import Intent, PipelineRecord
from coordinator.membership import Membership
from coordinator.planner.model import PlanOptions
from coordinator.situation import Situation
from slicemq.errors import PipelineError, RequestRefusedError
from slicemq.topics import is_id

_NAMED_AT_MOST = 20


def drain(situation: Situation, node: str) -> dict[str, Any]:
    """Mark a node as drained; the answer's body. Raises RequestRefusedError for an unknown node."""
    check_known(situation, node)
    situation.drained.add(node)
    return {"node": node, "pipelines": served_by(situation.records, node)}


def undrain(situation: Situation, node: str) -> dict[str, Any]:
    """Let slices be placed on a node again; the answer's body. Raises RequestRefusedError for an unknown node."""
    if node not in situation.drained:
        check_known(situation, node)
    situation.drained.discard(node)
    return {"node": node}


def forget(situation: Situation, node: str) -> dict[str, Any]:
    """Drop all that is known of a dead node; the answer's body.

    Raises RequestRefusedError for an unknown node, and for one that is alive.
    """
    if node not in situation.drained:
        check_known(situation, node)
    known = situation.members.nodes.get(node)
    if known is not None and known.alive:
        raise RequestRefusedError(
            f"node {node} is alive ({known.state}): stop it first, or 'slicemq node drain {node}' to empty it"
        )
    situation.drained.discard(node)
    situation.forget(node)
    return {"node": node}


VERBS = {"drain": drain, "undrain": undrain, "forget": forget}


def pinned(record: PipelineRecord, slice_id: str, node: str, situation: Situation) -> Intent:
    """The pipeline's newest intent with a slice, or a range of operators, pinned to a node (empty: to none).

    Raises PipelineError where nothing runs, RequestRefusedError for a node that is unknown or away and where there
    is nothing to pin or unpin, PlanError for what is neither a slice nor a range.
    """
    intent = newest_intent(record)
    if intent is None or record.removed_at is not None:
        raise PipelineError(f"no pipeline is called {record.name!r}")
    if intent.plan is not None:
        raise RequestRefusedError(
            f"pipeline {record.name} runs by a plan file, which says where slices go: deploy it without one to pin"
        )
    before = intent.options.get("pins")
    pins = dict(before) if isinstance(before, Mapping) else {}
    if node:
        check_known(situation, node)
        known = situation.members.nodes[node]
        if not known.alive:
            raise RequestRefusedError(f"node {node} is {known.state}: start it before a slice is pinned there")
        options = PlanOptions(pins={slice_id: node})
        options.slice_pins()
        options.range_pins()
        pins[slice_id] = node
    elif pins.pop(slice_id, None) is None:
        raise RequestRefusedError(
            f"pipeline {record.name} has no pin of {slice_id[:80]!r}; it has {_listed(sorted(pins)) or 'none'}"
        )
    options_body = {key: value for key, value in intent.options.items() if key != "pins"}
    return replace(intent, options={**options_body, "pins": pins} if pins else options_body)


def newest_intent(record: PipelineRecord) -> Intent | None:
    """What was asked for last of what is planned, prepared or served."""
    for wish in (record.wish, record.job_wish):
        if wish is not None:
            return wish.intent
    if record.rollout is not None:
        return record.rollout.intent
    return record.coming.intent if record.coming is not None else record.intent


def served_by(records: Mapping[str, PipelineRecord], node: str) -> list[str]:
    """The pipelines that have, or prepare, slices on a node."""
    return sorted(
        record.name
        for record in records.values()
        if record.removed_at is None
        and any(revision.phase != "lost" and node in revision.nodes for revision in record.revisions.values())
    )


def staying(records: Mapping[str, PipelineRecord], drained: set[str]) -> dict[str, str]:
    """For each drained node why it still has slices; empty where it has none, or they are on their way."""
    found = dict.fromkeys(sorted(drained), "")
    for record in records.values():
        active = record.active
        if record.removed_at is None and active is not None and record.stays:
            for node in active.nodes & drained:
                found[node] = "; ".join(filter(None, (found[node], f"{record.name}: {record.stays}")))
    return found


def unknown_nodes(intent: Intent, members: Membership) -> list[str]:
    """The nodes that a deploy leaves out and that the cluster does not have, a few of them: slips of the pen."""
    exclude = intent.options.get("exclude")
    named = [node for node in exclude if isinstance(node, str)] if isinstance(exclude, (list, tuple)) else []
    return [node[:80] for node in dict.fromkeys(named) if node not in members.nodes][:_NAMED_AT_MOST]


def check_known(situation: Situation, node: str) -> None:
    """Raise RequestRefusedError, naming the known ones, unless a node is known."""
    if is_id(node) and node in situation.members.nodes:
        return
    known = sorted(situation.members.nodes)
    raise RequestRefusedError(
        f"no node is called {node[:80]!r}; the cluster has {_listed(known) if known else 'no nodes'}"
    )


def no_pipeline(records: Mapping[str, PipelineRecord], name: str) -> str:
    """What is said where no pipeline has this name: it, and those that there are."""
    there = sorted(one.name for one in records.values() if one.removed_at is None)
    return f"no pipeline is called {name[:80]!r}; there are: {_listed(there) or 'none'}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
