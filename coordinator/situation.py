"""What a plan is made from: the nodes, what is free of them, and what is known of them. PURE.

One function gives it for a plan that is needed now and for one that a loss would need, so that both are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.feedback import Feedback, Subject
from coordinator.intents import Blueprint, Intent, PipelineRecord, Revision
from coordinator.known import Cuts, Known, operators_by_slice
from coordinator.leftovers import Leftovers
from coordinator.membership import Membership
from coordinator.planner.tables.sharing import Usage, planned_rates, together, usage_of_plan
from coordinator.rates import Rates
from slicemq.messages import Capacity, Heartbeat
from slicemq.topics import is_id

_NO_BLUEPRINTS: Mapping[str, Blueprint] = {}
_FACTS = 256


@dataclass(frozen=True)
class Inputs:
    """All that a plan depends on. Equal inputs have equal plans.

    `nodes` are the capacities of the nodes that slices may be placed on, without what changes from life to life;
    `free` is the memory for slices on each.
    """

    intent: Intent
    nodes: tuple[Capacity, ...]
    free: tuple[int, ...]
    avoid: frozenset[str]
    known: Known

    def capacities(self) -> tuple[Capacity, ...]:
        """The nodes' capacities with what is free as their memory."""
        return tuple(replace(capacity, memory=free) for capacity, free in zip(self.nodes, self.free, strict=True))


@dataclass(frozen=True)
class _Facts:
    """What heartbeats of a revision are compared with: (slice, node) -> rate, and slice -> ranges of operators."""

    blueprint: Blueprint
    rates: Mapping[tuple[str, str], float]
    operators: Mapping[str, str]


@dataclass
class Situation:
    """The facts, and what was learnt. `records` is the caller's own mapping, looked at when asked.

    `drained` are the nodes that operators want to be empty: no plan uses them.
    """

    records: Mapping[str, PipelineRecord]
    members: Membership
    drained: set[str] = field(default_factory=set)
    feedback: Feedback = field(default_factory=Feedback)
    rates: Rates = field(default_factory=Rates)
    cuts: Cuts = field(default_factory=Cuts)
    leftovers: Leftovers = field(default_factory=Leftovers)
    _stripped: dict[str, tuple[Capacity, Capacity]] = field(default_factory=dict)
    _known_facts: dict[tuple[str, str], _Facts] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """What was learnt and asked about nodes, in JSON's terms, for the store."""
        return {
            "corrections": self.feedback.plain(),
            "cuts": self.cuts.plain(),
            "drained": sorted(self.drained),
        }

    def load(self, body: Mapping[str, Any]) -> None:
        """Take over what `plain` gave. Raises ValueError for anything else; what is missing was not learnt yet."""
        drained = body.get("drained", [])
        if not isinstance(drained, list) or not all(isinstance(node, str) and is_id(node) for node in drained):
            raise ValueError("drained: expected a list of nodes")
        # First: it is an operator's word, and what follows was only measured.
        self.drained = set(drained)
        self.feedback.load(body.get("corrections", []))
        self.cuts.load(body.get("cuts", {}))

    def inputs(
        self,
        name: str,
        intent: Intent,
        *,
        lost: str | None = None,
        placed: Mapping[str, Blueprint] = _NO_BLUEPRINTS,
        instead: bool = False,
    ) -> Inputs:
        """What a plan of `intent` for the pipeline `name` is made from.

        With `lost`: as it would be without this node, whose revisions would be lost with it, when the pipelines
        of `placed` had new plans already. With `instead`: as it would be without the pipeline's own revisions.
        """
        usable = [
            (node, capacity)
            for node in sorted(self.members.nodes.values(), key=lambda node: node.id)
            if node.id != lost
            and node.id not in self.drained
            and node.usable
            and (capacity := node.current_capacity) is not None
        ]
        taken: dict[str, list[int]] = {}
        usages: list[dict[str, Usage]] = []
        for owner, blueprint, level in self._placements(lost, placed):
            if instead and owner == name:
                continue
            for node_id, items in blueprint.slices.items():
                taken.setdefault(node_id, []).extend(item.memory for item in items)
            if owner != name and level > 0.0:
                usages.append(usage_of_plan(blueprint.plan, level))
        for node, _ in usable:
            taken.setdefault(node.id, []).extend(self.leftovers.taken(self.members.clock, node.id))
        model = intent.model.sha256
        runtimes = {node.id: _runtime(capacity) for node, capacity in usable}
        held = {node.id: self.cuts.held(model, capacity.artifacts) for node, capacity in usable}
        usage = together(usages)
        return Inputs(
            intent,
            tuple(self._strip(capacity, self.members.is_broker_shunned(node.id)) for node, capacity in usable),
            tuple(_free(capacity, taken.get(node.id, [])) for node, capacity in usable),
            frozenset(node.id for node, _ in usable if self.members.is_shunned(node.id)),
            Known(
                self.feedback.corrections(model, runtimes),
                {node: slices for node, slices in held.items() if slices},
                {node: usage[node] for node in runtimes if node in usage},
            ),
        )

    def forget(self, node: str) -> None:
        """Drop all that is known of a node."""
        self.members.nodes.pop(node, None)
        self.feedback.forget(node)
        self.leftovers.reported(node, None)
        self._stripped.pop(node, None)

    def heard(self, now: float, beat: Heartbeat) -> bool:
        """Learn from a heartbeat, before the members take it in; whether something that plans depend on changed."""
        node = self.members.nodes.get(beat.node)
        capacity = node.current_capacity if node is not None else None
        if node is None or capacity is None or node.epoch != beat.epoch:
            return False
        before = {(e.pipeline, e.revision, e.slice): e.frames for e in (node.beat.slices if node.beat else ())}
        keys = {(e.pipeline, e.revision, e.slice): e for e in beat.slices}
        # A call may take longer than the time between two beats.
        moved = {key for key, entry in keys.items() if entry.frames != before.get(key, 0) or entry.waiting > 0}
        changed = False
        for key, entry in keys.items():
            record = self.records.get(entry.pipeline)
            revision = record.revisions.get(entry.revision) if record is not None else None
            if revision is None or revision.phase != "active":
                continue
            facts = self._facts_of(key[:2], revision.blueprint)
            planned = facts.rates.get((key[2], beat.node), 0.0)
            changed |= self.rates.note(now, beat.node, key, entry.frames, planned)
            predicted = revision.blueprint.computing.get(key[2], {}).get(beat.node, 0.0)
            operators = facts.operators.get(key[2])
            if predicted > 0.0 and operators:
                subject = Subject(revision.intent.model.sha256, beat.node, _runtime(capacity), operators)
                alone = not moved - {key}
                cores = capacity.cores if capacity.threads == 1 else 0.0
                changed |= self.feedback.note(
                    now, entry, subject, predicted, alone=alone, epoch=beat.epoch, cores=cores
                )
        return changed

    def factors(self, record: PipelineRecord) -> dict[str, dict[str, float]]:
        """Slice -> node -> the correction that plans would use now, for the running slices that have one."""
        return self.factors_of(record, record.active) if record.active is not None else {}

    def factors_of(self, record: PipelineRecord, revision: Revision) -> dict[str, dict[str, float]]:
        """Slice -> node -> the correction that plans would use now, for a revision's slices that have one."""
        operators = self._facts_of((record.name, revision.id), revision.blueprint).operators
        found: dict[str, dict[str, float]] = {}
        for node in sorted(revision.nodes):
            known = self.members.nodes.get(node)
            capacity = known.current_capacity if known is not None else None
            for _, _, slice_id in revision.keys(node):
                if capacity is None or slice_id not in operators:
                    continue
                subject = Subject(revision.intent.model.sha256, node, _runtime(capacity), operators[slice_id])
                factor = self.feedback.in_use(subject)
                if factor != 1.0:
                    found.setdefault(slice_id, {})[node] = factor
        return found

    def _placements(
        self, lost: str | None, placed: Mapping[str, Blueprint]
    ) -> Iterator[tuple[str, Blueprint, float]]:
        """(pipeline, what is assigned of it, the share of its planned rate: 0 for what ends)."""
        for record in self.records.values():
            if record.removed_at is not None:
                continue
            for revision in record.revisions.values():
                if revision.phase in ("shadow", "canary") and not _serves_without(record, lost):
                    # It goes with the revision that it runs beside.
                    continue
                if revision.phase != "lost" and lost not in revision.nodes:
                    level = 1.0
                    if revision.phase == "active":
                        level = max(
                            self.rates.level(node, key) for node in revision.nodes for key in revision.keys(node)
                        )
                    yield record.name, revision.blueprint, 0.0 if revision.phase == "draining" else level
            if record.name in placed:
                yield record.name, placed[record.name], 1.0

    def _facts_of(self, key: tuple[str, str], blueprint: Blueprint) -> _Facts:
        known = self._known_facts.get(key)
        if known is None or known.blueprint is not blueprint:
            if len(self._known_facts) >= _FACTS:
                self._known_facts.clear()
            known = _Facts(blueprint, planned_rates(blueprint.plan), operators_by_slice(blueprint.plan))
            self._known_facts[key] = known
        return known

    def _strip(self, capacity: Capacity, without_broker: bool) -> Capacity:
        kept = self._stripped.get(capacity.node)
        if kept is None or kept[0] is not capacity:
            kept = (capacity, replace(capacity, epoch="", artifacts=()))
            self._stripped[capacity.node] = kept
        return replace(kept[1], broker="") if without_broker and capacity.broker else kept[1]


def _serves_without(record: PipelineRecord, lost: str | None) -> bool:
    """Whether the pipeline's active revision is there without the node `lost`."""
    active = record.active
    return active is not None and lost not in active.nodes


def _free(capacity: Capacity, taken: list[int]) -> int:
    """Bytes for slices; the capacity leaves room for one idle worker, each slice has its own."""
    return max(0, capacity.memory - sum(taken) - len(taken) * capacity.worker_memory)


def _runtime(capacity: Capacity) -> str:
    return f"{capacity.runtime.name} {capacity.runtime.version}"
