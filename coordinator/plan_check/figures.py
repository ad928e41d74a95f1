"""The plan's figures computed again from steps, tensors and rates (PURE).

A figure of the file is right when it is within half a unit of its last digit of the exact value, and a share of
10^-9 for the floating-point sums behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from coordinator.plan_check.carriers import Carried
from coordinator.plan_check.flows import Exact
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.placement import FLOATS, Placed, Stage
from coordinator.plan_check.planfile import CLIENT, PlanFile
from coordinator.plan_check.report import Check

HALF = Fraction(5, 100_000)
"""Half a unit of the last digit of times in a plan file, in milliseconds."""
GAP = Fraction(1, 10**6)
NOTHING = Carried()
"""Every bundle is on the main broker."""
METHODS = ("exact-counts", "milp", "routes", "heuristic")


@dataclass(frozen=True)
class Figures:
    """A plan's exact figures: seconds, seconds, joules, nodes."""

    period: Fraction
    latency: Fraction
    energy: Fraction
    nodes: int

    def of(self, objective: str) -> Fraction:
        """What the objective makes least."""
        if objective == "nodes":
            return Fraction(self.nodes)
        return {"latency": self.latency, "energy": self.energy}.get(objective, self.period)


def close(milliseconds: Fraction, seconds: Exact) -> bool:
    """Whether a time of the file is this one."""
    exact = seconds * 1000
    return abs(milliseconds - exact) <= HALF + exact * FLOATS


def exact_figures(plan: PlanFile, ledger: Ledger, placed: Placed, carried: Carried = NOTHING) -> Figures:
    """The figures of a plan whose every node is known."""
    busiest = max(
        (Fraction(seconds * share) for seconds, share in _shares(plan, ledger, placed, carried)),
        default=Fraction(0),
    )
    relayed: Exact = 0
    energy: Exact = 0
    latencies = []
    for stages, lane in zip(placed, plan.lanes(), strict=True):
        share = Fraction(len(lane.turns), plan.turns)
        relayed += share * sum(ledger.flow(stage.start, stage.end).relayed for stage in stages)
        names = {stage.slice.id: stage for stage in stages}
        hops = [hop for hop in carried.hops if hop.target in names and hop.source in names]
        relayed -= share * sum(hop.size for hop in hops)
        for turn in lane.turns:
            latency: Exact = 0
            before: int | None = None
            for stage in stages:
                number = _kind(ledger, stage, turn)
                kind, start, end = ledger.kinds[number], stage.start, stage.end
                extra = carried.work(ledger, stage.slice.id, number)
                latency += kind.latency(start, end) + extra
                if before is not None:
                    latency += ledger.hop(before, number, start) or 0
                before = number
                energy += Fraction(kind.energy(start, end) + extra * kind.watts) / plan.turns
            for hop in hops:
                sender = ledger.kinds[_kind(ledger, names[hop.source], turn)]
                latency -= sender.once(ledger.kinds[_kind(ledger, names[hop.target], turn)], hop.size)
            latencies.append(Fraction(latency))
    period = max(busiest, relayed / ledger.broker_rate) if ledger.broker_rate is not None else busiest
    latency = max(latencies)
    nodes = {node for stages in placed for stage in stages for node in stage.slice.nodes}
    return Figures(latency if ledger.stateful else Fraction(period), latency, Fraction(energy), len(nodes))


def _kind(ledger: Ledger, stage: Stage, turn: int) -> int:
    node = next(node for node, own in zip(stage.slice.nodes, stage.slice.turns, strict=True) if turn in own)
    return ledger.kind_of[node]


def _shares(plan: PlanFile, ledger: Ledger, placed: Placed, carried: Carried) -> Iterator[tuple[Exact, Fraction]]:
    """For each node the seconds of a frame, and the share of the frames that it gets."""
    for stages in placed:
        for place, stage in enumerate(stages):
            for node, own in zip(stage.slice.nodes, stage.slice.turns, strict=True):
                number = ledger.kind_of[node]
                kind = ledger.kinds[number]
                seconds: Exact = kind.stage(stage.start, stage.end) or 0
                if extra := carried.work(ledger, stage.slice.id, number):
                    seconds = max(seconds, kind.compute(stage.start, stage.end) + extra)
                for turn in own if ledger.hop_bytes is not None else ():
                    if place:
                        seconds = max(
                            seconds, ledger.hop(_kind(ledger, stages[place - 1], turn), number, stage.start) or 0
                        )
                    if place + 1 < len(stages):
                        seconds = max(
                            seconds, ledger.hop(number, _kind(ledger, stages[place + 1], turn), stage.end) or 0
                        )
                yield seconds, Fraction(len(own), plan.turns)


def check_figures(
    plan: PlanFile, ledger: Ledger, placed: Placed, exact: Figures, carried: Carried = NOTHING
) -> list[Check]:
    """Slices, period, latency, energy, window, gap, limits."""
    found = [_slices(ledger, placed, carried), _links(plan, ledger, placed)]
    for name, given, value in (
        ("period", plan.period_ms, exact.period),
        ("latency", plan.latency_ms, exact.latency),
    ):
        text = f"{float(value) * 1e3:.4f} ms"
        right = close(given, value)
        found.append(Check(name, "proved", text) if right else _wrong(name, f"{float(given):.4f} ms", text))
    if not plan.energy:
        found.append(Check("energy", "not checked", "the plan states none"))
    else:
        right = abs(plan.energy - exact.energy) <= Fraction(1, 10**6) + exact.energy * Fraction(1, 10**6)
        text = f"{float(exact.energy):.6f} J"
        found.append(
            Check("energy", "proved", text) if right else _wrong("energy", f"{float(plan.energy):.6f} J", text)
        )
    found.append(_window(plan, ledger, exact))
    found.append(_gap(plan, exact))
    return [*found, _method(plan, ledger), _limits(ledger, exact)]


def _wrong(name: str, given: str, exact: str) -> Check:
    return Check(name, "failed", f"the plan says {given}, the costs file gives {exact}")


def _slices(ledger: Ledger, placed: Placed, carried: Carried) -> Check:
    wrong = []
    for stages in placed:
        for stage in stages:
            item = stage.slice
            kinds = [ledger.kinds[ledger.kind_of[node]] for node in item.nodes]
            times = [
                (
                    kind.compute(stage.start, stage.end) + kind.relaying(carried.relays.get(item.id, 0)),
                    kind.down(stage.start, stage.end),
                    kind.up(stage.start, stage.end),
                )
                for kind in kinds
            ]
            slowest = max(max(row) for row in times)
            most = tuple(max(row[part] for row in times) for part in range(3))
            given = (item.compute_ms, item.down_ms, item.up_ms)
            able = [most, *(row for row in times if max(row) == slowest)]
            if not any(all(close(*pair) for pair in zip(given, row, strict=True)) for row in able):
                said = ", ".join(f"{float(value) * 1e3:.4f}" for value in able[-1])
                wrong.append(f"slice {item.id}: compute, down and up are {said} ms")
            memory = max(kind.memory(stage.start, stage.end) or 0 for kind in kinds) / Fraction(1000)
            # Rounded up to kilobytes.
            if not memory - FLOATS <= item.memory_mb * 1000 < memory + 1 + Fraction(1, 1000):
                wrong.append(f"slice {item.id} takes {float(memory) / 1e3:.3f} MB")
    return Check("slices' figures", "failed" if wrong else "proved", "; ".join(wrong[:5]) or "computed again")


def _links(plan: PlanFile, ledger: Ledger, placed: Placed) -> Check:
    """Every slice gets what it needs, from whom makes it; every bundle has the bytes of its tensors."""
    wrong = []
    need: dict[str, set[int]] = {}
    maker: dict[tuple[str, int], str] = {}
    for stages in placed:
        lane = {stage.slice.id for stage in stages}
        for stage in stages:
            steps = ledger.states[stage.end].done & ~ledger.states[stage.start].done
            read: set[int] = set()
            for step in range(ledger.steps):
                if steps >> step & 1:
                    read.update(ledger.reads[step])
                    for t in ledger.makes[step]:
                        maker.update(dict.fromkeys(((other, t) for other in lane), stage.slice.id))
            need[stage.slice.id] = {t for t in read if t not in ledger.maker or not steps >> ledger.maker[t] & 1}
    got: dict[str, set[int]] = {item.id: set() for item in plan.slices}
    into, out = dict.fromkeys(got, 0), dict.fromkeys(got, 0)
    results: set[tuple[str, int]] = set()
    for bundle in plan.bundles:
        if len(set(bundle.tensors)) != len(bundle.tensors) or not all(t in ledger.sizes for t in bundle.tensors):
            wrong.append(f"bundle {bundle.id}: its tensors are not those of the costs file")
            continue
        coded = ledger.coded.get(bundle.codec, {})
        size = ledger.frame + sum(
            coded[t].bytes
            if t in coded and bundle.source != CLIENT and CLIENT not in bundle.targets
            else ledger.sizes[t]
            for t in bundle.tensors
        )
        if bundle.bytes != size and not (bundle.codec != "raw" and bundle.bytes == ledger.size(bundle.tensors)):
            wrong.append(f"bundle {bundle.id} has {size} bytes")
        for target in bundle.targets:
            if target == CLIENT:
                results.update((bundle.source, t) for t in bundle.tensors)
            elif target not in got:
                wrong.append(f"bundle {bundle.id} goes to {target}, which is no slice")
            else:
                got[target].update(bundle.tensors)
                into[target] += bundle.bytes
                if any(maker.get((target, t), CLIENT) != bundle.source for t in bundle.tensors):
                    wrong.append(f"bundle {bundle.id} does not come from whom makes its tensors")
        if bundle.source in out:
            out[bundle.source] += bundle.bytes
    for item in plan.slices:
        if got[item.id] != need[item.id]:
            wrong.append(
                f"slice {item.id}: bundles bring {len(got[item.id])} tensors, it needs {len(need[item.id])}"
            )
        if (item.bytes_in, item.bytes_out) != (into[item.id], out[item.id]):
            wrong.append(f"slice {item.id}: bundles have {into[item.id]} bytes in and {out[item.id]} out")
    wanted = {
        (maker[stages[0].slice.id, t], t)
        for stages in placed
        for t in ledger.outputs
        if (stages[0].slice.id, t) in maker
    }
    if wanted != results:
        wrong.append("the bundles to the client are not the model's outputs")
    return Check("bundles", "failed" if wrong else "proved", "; ".join(wrong[:5]) or "what each slice needs, once")


def _window(plan: PlanFile, ledger: Ledger, exact: Figures) -> Check:
    if ledger.stateful or exact.period <= 0:
        least = most = 1 if ledger.stateful else 2
    else:
        ratio = Fraction(95, 100) * exact.latency / exact.period
        least, most = (math.ceil(ratio + slack) + 1 for slack in (-Fraction(1, 10**8), Fraction(1, 10**8)))
    if least <= plan.window <= most:
        return Check("window", "proved", f"{plan.window} frames")
    return _wrong("window", str(plan.window), str(least))


def _gap(plan: PlanFile, exact: Figures) -> Check:
    value, bound = exact.of(plan.objective), plan.bound_ms
    if plan.objective not in ("nodes", "energy"):
        value *= 1000
    if bound <= 0:
        return Check("gap", "not checked", "there is no lower bound")
    gap = max(Fraction(0), value / bound - 1)
    slack = GAP + HALF / bound * (1 + gap) + gap * FLOATS
    if abs(plan.gap - gap) <= slack:
        return Check("gap", "proved", f"{float(gap):.6f}")
    return _wrong("gap", f"{float(plan.gap):.6f}", f"{float(gap):.6f}")


def _method(plan: PlanFile, ledger: Ledger) -> Check:
    """Methods that end with the best leave no gap but the share that the goal leaves free."""
    if plan.method not in METHODS:
        return Check("method", "failed", f"{plan.method[:40]} is none")
    within = ledger.goal.real("within") if ledger.goal.has("within") else Fraction(0)
    if plan.method in ("exact-counts", "routes") and plan.bound_ms > 0 and plan.gap > within + 4 * GAP:
        return Check("method", "failed", f"{plan.method} with a gap of {float(plan.gap):.6f}")
    return Check("method", "proved", plan.method)


def _limits(ledger: Ledger, exact: Figures) -> Check:
    goal, broken = ledger.goal, []
    for name, value in (
        ("max_period", exact.period),
        ("max_latency", exact.latency),
        ("max_energy", exact.energy),
        ("max_nodes", Fraction(exact.nodes)),
    ):
        if goal.has(name) and value > goal.real(name) * (1 + FLOATS):
            broken.append(f"{name} is {float(goal.real(name)):.6g}, the plan has {float(value):.6g}")
    return Check("limits", "failed" if broken else "proved", "; ".join(broken) or "kept")
