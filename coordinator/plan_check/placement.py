"""Whether a plan may be what it is: steps, cuts, nodes, memory, pins, limits (PURE)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from coordinator.plan_check.kinds import Kind
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.planfile import CLIENT, PlanFile, Slice
from coordinator.plan_check.report import Check

ONE_TURN = ("contiguous-one-per-node", "dag-one-per-node", "one-node")
FAMILIES = (*ONE_TURN, "whole-model-copies", "replicated-stages", "parallel-pipelines")
FLOATS = Fraction(1, 10**9)
"""The share by which figures may be off because the planner adds floating-point numbers."""

DIGITS = Fraction(1, 10**5)
"""The share by which a plan's error may be off: it is written with six digits."""


@dataclass(frozen=True)
class Stage:
    """A slice as an arc of the costs file."""

    slice: Slice
    start: int
    end: int


Placed = list[list[Stage]]
"""For each lane its stages in order."""


def place(plan: PlanFile, ledger: Ledger) -> tuple[Placed | None, list[Check]]:
    """The plan's slices as arcs (None where they are none), and what is to be said about them."""
    failures: list[Check] = []

    def fail(name: str, text: str) -> None:
        failures.append(Check(name, "failed", text))

    lanes = plan.lanes()
    served = [turn for lane in lanes for turn in lane.turns]
    if sorted(served) != list(range(plan.turns)):
        fail("turns", f"expected each of {plan.turns} turns to be served by one pipeline")
    for item in plan.slices:
        own = [turn for turns in item.turns for turn in turns]
        if len(own) != len(set(own)) or not all(item.turns):
            fail("turns", f"slice {item.id}: expected each turn on one node, and a turn for each node")
    if any(bundle.source == CLIENT and bundle.codec != "raw" for bundle in plan.bundles):
        fail("cuts", "a bundle from the client has a codec")
    placed: Placed = []
    for lane in lanes:
        stages: list[Stage] = []
        done, state = 0, 0
        for item in lane.slices:
            steps = 0
            for operator in item.operators:
                step = ledger.operators.get(operator)
                if step is None:
                    fail("steps", f"slice {item.id}: operator {operator} is no step of the model")
                elif (steps | done) >> step & 1:
                    fail("steps", f"slice {item.id}: operator {operator} is placed twice")
                else:
                    steps |= 1 << step
            for step in range(ledger.steps):
                if steps >> step & 1:
                    lacking = [t for t in ledger.reads[step] if not _there(ledger, t, steps | done)]
                    if lacking:
                        fail("order", f"slice {item.id} reads tensor {lacking[0]}, which no earlier slice makes")
            for together in ledger.together:
                if steps & together and together & ~steps:
                    fail("state", f"slice {item.id} has some, not all of the steps that share the model's state")
            if ledger.stateful and len(item.nodes) > 1:
                fail("state", f"slice {item.id} has {len(item.nodes)} nodes, but the model keeps state")
            done |= steps
            end = _state(plan, ledger, item, done)
            if end is not None and (wrong := _other_codec(plan, item, ledger.states[end].codec)):
                fail("cuts", wrong)
            if end is None:
                fail("cuts", f"behind slice {item.id} the model cannot be cut")
            elif not failures and end not in ledger.columns[state]:
                fail("cuts", f"slice {item.id} is no arc between two states of the costs file")
            if not failures and end is not None:
                stages.append(Stage(item, state, end))
                state = end
        if done != (1 << ledger.steps) - 1:
            missing = next(op for op, step in ledger.operators.items() if not done >> step & 1)
            fail("steps", f"operator {missing} is in no slice of a turn")
        placed.append(stages)
    if failures:
        return None, failures
    texts = {
        "turns": f"each of {plan.turns} turns is served once",
        "steps": f"each of {ledger.steps} steps is computed once for each frame",
        "order": "no slice reads what no earlier one makes",
        "cuts": "the costs file allows a cut behind every slice",
        "state": "steps that share state are in one slice" if ledger.stateful else "the model keeps no state",
    }
    return placed, [Check(name, "proved", text) for name, text in texts.items()]


def _there(ledger: Ledger, tensor: int, done: int) -> bool:
    maker = ledger.maker.get(tensor)
    return maker is None or bool(done >> maker & 1)


def _state(plan: PlanFile, ledger: Ledger, item: Slice, done: int) -> int | None:
    """The state behind a slice; of several with the same steps the one whose codec its bundles have."""
    found = {s.codec: number for number, s in enumerate(ledger.states) if s.done == done and s.legal}
    if len(found) > 1:
        codecs = {b.codec for b in plan.bundles if b.source == item.id and CLIENT not in b.targets} or {"raw"}
        return found.get(codecs.pop()) if len(codecs) == 1 else None
    return next(iter(found.values()), None)


def _other_codec(plan: PlanFile, item: Slice, codec: str) -> str:
    """Which bundle of a slice has another codec than the state behind it; the client's are raw."""
    for bundle in plan.bundles:
        if bundle.source == item.id and bundle.codec != ("raw" if CLIENT in bundle.targets else codec):
            return f"bundle {bundle.id} has the codec {bundle.codec[:40]}, the costs file {codec}"
    return ""


def _no_such_shape(family: str, placed: Placed) -> str:
    """Why a plan of these slices is not of the family that its bound speaks of."""
    if family not in FAMILIES:
        return f"{family[:80]} is no family of plans"
    if family == "replicated-stages" and len(placed) != 1:
        return f"plans of the family {family} are one pipeline"
    if family == "whole-model-copies" and any(len(stages) != 1 for stages in placed):
        return f"plans of the family {family} have the whole model in each slice"
    return ""


def allowed(plan: PlanFile, ledger: Ledger, placed: Placed) -> list[Check]:
    """The family, nodes, memory, operators, pins, exclusions, the number of slices and the error budget."""
    wrong: dict[str, list[str]] = {
        name: [] for name in ("family", "nodes", "memory", "operators", "pins", "exclusions", "slices", "errors")
    }
    if mismatch := _no_such_shape(plan.family, placed):
        wrong["family"].append(mismatch)
    used: dict[str, str] = {}
    for stage, node, kind in nodes_of(ledger, placed):
        item = stage.slice
        if node in ledger.excluded:
            wrong["exclusions"].append(f"slice {item.id} is on {node}, which is excluded")
        if kind is None:
            wrong["nodes"].append(f"slice {item.id}: the costs file has no node {node}")
            continue
        if used.setdefault(node, item.id) != item.id or item.nodes.count(node) > 1:
            wrong["nodes"].append(f"node {node} has slice {used[node]} and slice {item.id}")
        refusal = kind.refusal(stage.start, stage.end)
        if refusal:
            name = "memory" if refusal.startswith("takes") else "pins" if "pinned" in refusal else "operators"
            wrong[name].append(f"slice {item.id} on {node} {refusal}")
        if kind.memory_limit > kind.memory_bytes * (1 - ledger.headroom) * (1 + FLOATS):
            wrong["memory"].append(f"node {node}: more of its memory may be used than it has")
    single = plan.family in ONE_TURN
    if single and (plan.turns != 1 or any(len(item.nodes) > 1 for item in plan.slices)):
        wrong["nodes"].append(f"plans of the family {plan.family} have one turn, and one node for each slice")
    if plan.family == "one-node" and len(plan.slices) != 1:
        wrong["slices"].append("plans of the family one-node have one slice")
    most = Fraction(0)
    for stages in placed:
        for number, stage in enumerate(stages):
            pinned = ledger.slice_pins.get(number)
            if pinned is not None and stage.slice.nodes != (pinned,):
                wrong["pins"].append(f"slice {stage.slice.id} is pinned to {pinned}")
            for first, last, node in ledger.step_pins:
                inside = ledger.states[stage.end].done & ~ledger.states[stage.start].done
                if inside & ((1 << last + 1) - (1 << first)) and stage.slice.nodes != (node,):
                    wrong["pins"].append(f"slice {stage.slice.id} has steps that are pinned to {node}")
        if any(number >= len(stages) for number in ledger.slice_pins):
            wrong["pins"].append(
                f"slice {max(ledger.slice_pins)} is pinned, but a pipeline has {len(stages)} slices"
            )
        if len(stages) > ledger.max_slices:
            wrong["slices"].append(f"{len(stages)} slices in a pipeline, {ledger.max_slices} are allowed")
        error = sum((ledger.states[stage.end].error for stage in stages[:-1]), Fraction(0))
        most = max(most, error)
        if error > ledger.budget * (1 + FLOATS):
            wrong["errors"].append(
                f"the cuts' errors are {float(error):.4g} together, allowed {float(ledger.budget):.4g}"
            )
    if abs((plan.error or 0) - most) > most * DIGITS:
        wrong["errors"].append(
            f"the plan says {float(plan.error or 0):.4g}, the cuts' errors are {float(most):.4g}"
        )
    said = {
        "family": plan.family,
        "nodes": "each node has one slice at most",
        "memory": "each slice fits the memory that may be used",
        "operators": "each node can run its slice",
        "pins": "kept" if ledger.slice_pins or ledger.step_pins else "there are none",
        "exclusions": "kept" if ledger.excluded else "there are none",
        "slices": f"at most {ledger.max_slices} in a pipeline",
        "errors": f"at most {float(ledger.budget):.4g}",
    }
    return [
        Check(name, "failed" if texts else "proved", "; ".join(texts[:5]) or said[name])
        for name, texts in wrong.items()
    ]


def nodes_of(ledger: Ledger, placed: Placed) -> Iterator[tuple[Stage, str, Kind | None]]:
    """Every node of every slice, with its type (None: the costs file does not have it)."""
    for stages in placed:
        for stage in stages:
            for node in stage.slice.nodes:
                number = ledger.kind_of.get(node)
                yield stage, node, None if number is None else ledger.kinds[number]
