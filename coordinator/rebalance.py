"""When a running pipeline is worth moving: nodes came back, or stages take other times than planned. PURE.

In idle time, after all plans for losses are ready, a pipeline is planned again when what plans are made from
(`Situation.inputs`) has been the same for `STABLE` seconds and was not compared yet. On a busy node corrections
change a little all the time: `STEADY` of that counts as the same, and `GAIN` as news since the last comparison. The
plan is adopted when it is better than what runs by `GAIN` at least, by the objective that the operator chose; what
runs is judged by the figures of its plan, with the corrections that the new plan was made with in place of its own.
A move costs transfers and cold caches, so a pipeline moves at most once in `PAUSE` seconds.

A pipeline with a plan file moves only back to it, once all its nodes are there. The option `rebalance` (false)
forbids all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.intents import Blueprint, PipelineRecord, Revision
from coordinator.known import similar
from coordinator.situation import Inputs, Situation

OPTION = "rebalance"
GAIN = 0.10
"""A plan is adopted when the one that runs is worse by this share of it at least."""
STEADY = 0.2
"""Facts are the same while no correction differs by more than this share."""
STABLE = 30.0
PAUSE = 180.0
LOOK = 5.0
_WORDS = {"throughput": "frames/s", "latency": "ms", "nodes": "nodes", "energy": "J"}

Factors = Mapping[str, Mapping[str, float]]
"""Slice -> node -> correction; what is not there is 1."""


@dataclass(frozen=True)
class Wanted:
    """A plan to compare what runs with; `factors`: the corrections of what runs that it is made with."""

    pipeline: str
    revision: str
    inputs: Inputs
    factors: Factors


@dataclass(frozen=True)
class Move:
    """A plan to adopt, and why."""

    pipeline: str
    blueprint: Blueprint
    why: str


@dataclass
class Rebalance:
    """What was compared, and when. Kept for pipelines that there are, so bounded as they are."""

    due: float = -math.inf
    under_way: dict[int, Wanted] = field(default_factory=dict)
    _seen: dict[str, tuple[Inputs, float]] = field(default_factory=dict)
    _compared: dict[str, tuple[str, Inputs]] = field(default_factory=dict)
    _moved: dict[str, float] = field(default_factory=dict)

    def look(self, now: float, situation: Situation) -> Wanted | None:
        """The next plan to compare with, if it is time and there is one."""
        if self.under_way or now < self.due:
            return None
        self.due = now + LOOK
        for name in (self._seen.keys() | self._compared.keys() | self._moved.keys()) - situation.records.keys():
            self._seen.pop(name, None)
            self._compared.pop(name, None)
            self._moved.pop(name, None)
        for record in situation.records.values():
            revision = movable(record)
            if revision is None or record.intent is None or now < self._moved.get(record.name, -math.inf) + PAUSE:
                continue
            inputs = situation.inputs(record.name, record.intent)
            if record.intent.plan is not None and not _may_go_back(record.intent.plan, revision, inputs):
                continue
            known = self._seen.get(record.name)
            if known is None or not _alike(known[0], inputs, STEADY):
                self._seen[record.name] = (inputs, now)
                continue
            compared = self._compared.get(record.name)
            news = compared is None or compared[0] != revision.id or not _alike(compared[1], inputs, GAIN)
            if now - known[1] >= STABLE and news:
                self._seen[record.name] = (inputs, now)
                return Wanted(record.name, revision.id, inputs, situation.factors(record))
        return None

    def begin(self, job: int, wanted: Wanted) -> None:
        """A plan is being made."""
        self.under_way[job] = wanted

    def unmade(self, job: int, *, again: bool) -> None:
        """A job ended without a plan; `again`: it was only interrupted."""
        wanted = self.under_way.pop(job, None)
        if wanted is not None and not again:
            self._compared[wanted.pipeline] = (wanted.revision, wanted.inputs)

    def made(self, now: float, job: int, blueprint: Blueprint, situation: Situation) -> Move | None:
        """A job ended; the move to it, if that is worth it and nothing has changed since."""
        wanted = self.under_way.pop(job, None)
        record = situation.records.get(wanted.pipeline) if wanted is not None else None
        revision = movable(record) if record is not None else None
        if wanted is None or record is None or revision is None or revision.id != wanted.revision:
            return None
        intent = wanted.inputs.intent
        if record.intent != intent or not _alike(situation.inputs(record.name, intent), wanted.inputs, STEADY):
            return None
        self._compared[record.name] = (revision.id, wanted.inputs)
        if blueprint.digest == revision.blueprint.digest:
            return None
        if intent.plan is not None:
            why = "the nodes of its plan file are back"
        else:
            goal = str(intent.options.get("objective") or "throughput")
            why = gain(revision, blueprint, wanted.factors, goal)
        if not why:
            return None
        self._moved[record.name] = now
        return Move(record.name, blueprint, why)


def _alike(one: Inputs, other: Inputs, share: float) -> bool:
    """Whether the facts are the same but for corrections, and those within `share`."""
    bare, others = (replace(inputs, known=replace(inputs.known, corrections=())) for inputs in (one, other))
    return bare == others and similar(one.known.corrections, other.known.corrections, share)


def movable(record: PipelineRecord) -> Revision | None:
    """The revision that serves, if nothing else of the pipeline is wanted, planned or on its way."""
    busy = record.job is not None or record.wish is not None or record.removed_at is not None
    if busy or record.intent is None or record.intent.options.get(OPTION, True) is False:
        return None
    others = [revision for revision in record.revisions.values() if revision.phase not in ("active", "lost")]
    return record.active if not others and len(record.in_phase("active")) == 1 else None


def gain(running: Revision, made: Blueprint, factors: Factors, goal: str = "throughput") -> str:
    """Why `made` is better by enough; empty: it is not. `factors` are the corrections that it was made with."""
    now = value(running.blueprint.plan, goal, drifts(running, factors))
    then = value(made.plan, goal)
    if not 0.0 < then < math.inf or not 0.0 < now < math.inf or now < then * (1.0 + GAIN):
        return ""
    shown = [1e3 / one if goal == "throughput" else one for one in (now, then)]
    return f"rebalanced: {shown[1]:.3g} {_WORDS.get(goal, '')} planned, {shown[0]:.3g} before"


def drifts(running: Revision, factors: Factors) -> dict[tuple[str, str], float]:
    """(slice, node) -> by what its time differs from what its plan was made with."""
    places = {(key[2], node) for node in running.nodes for key in running.keys(node)}
    found = {}
    for slice_id, node in places:
        today = factors.get(slice_id, {}).get(node, 1.0)
        then = running.factors.get(slice_id, {}).get(node, 1.0)
        if today != then and then > 0:
            found[slice_id, node] = today / then
    return found


_NO_DRIFT: Mapping[tuple[str, str], float] = {}


def value(plan: Mapping[str, Any], goal: str, drift: Mapping[tuple[str, str], float] = _NO_DRIFT) -> float:
    """What a plan costs by its goal, lower is better: milliseconds, nodes or joules; not finite: not known."""
    rows = [row for row in _list(plan.get("slices")) if isinstance(row, Mapping)]
    if goal == "nodes":
        return float(len({node for row in rows for node in _list(row.get("nodes"))}))
    if goal == "energy":
        return _number(plan.get("energy_j"))
    if goal == "latency":
        later = sum(_number(row.get("compute_ms"), 0.0) * (_worst(row, drift) - 1.0) for row in rows)
        return _number(plan.get("latency_ms")) + later
    period, before, after = _number(plan.get("period_ms")), _busiest(plan, rows), _busiest(plan, rows, drift)
    return period * after / before if before > 0 else period


def _worst(row: Mapping[str, Any], drift: Mapping[tuple[str, str], float]) -> float:
    return max((drift.get((str(row.get("id")), str(node)), 1.0) for node in _list(row.get("nodes"))), default=1.0)


def _busiest(
    plan: Mapping[str, Any], rows: list[Mapping[str, Any]], drift: Mapping[tuple[str, str], float] = _NO_DRIFT
) -> float:
    """How long the busiest part of any node works for one frame on average, in milliseconds."""
    turns = max(1.0, _number(plan.get("turns"), 1.0))
    computing: dict[str, float] = {}
    down: dict[str, float] = {}
    up: dict[str, float] = {}
    for row in rows:
        served = _list(row.get("turns"))
        for place, node in enumerate(map(str, _list(row.get("nodes")))):
            share = len(_list(served[place])) / turns if place < len(served) else 1.0
            factor = drift.get((str(row.get("id")), node), 1.0)
            for sums, field_, times in (
                (computing, "compute_ms", factor),
                (down, "down_ms", 1.0),
                (up, "up_ms", 1.0),
            ):
                sums[node] = sums.get(node, 0.0) + share * times * _number(row.get(field_), 0.0)
    return max((*computing.values(), *down.values(), *up.values()), default=0.0)


def _may_go_back(plan: Mapping[str, Any], running: Revision, inputs: Inputs) -> bool:
    """Whether all nodes of a plan file are there, and what runs is another plan."""
    named = {str(node) for row in _list(plan.get("slices")) for node in _list(row.get("nodes"))}
    return named <= {capacity.node for capacity in inputs.nodes} and named != running.nodes


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any, default: float = math.inf) -> float:
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if sound else default
