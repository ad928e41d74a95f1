"""The alternatives of a plan, as far as their figures follow from what the plan file says of them (PURE)."""

from __future__ import annotations

from fractions import Fraction

from coordinator.plan_check.bounds import COPIES
from coordinator.plan_check.figures import HALF, close
from coordinator.plan_check.kinds import Kind
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.placement import FLOATS
from coordinator.plan_check.planfile import MAX_TURNS, Other, PlanFile
from coordinator.plan_check.report import Check


def check_others(plan: PlanFile, ledger: Ledger) -> list[Check]:
    """A line for each alternative."""
    found = []
    for other in plan.others:
        name = f"alternative {other.family}"
        if other.family not in ("one-node", COPIES):
            found.append(Check(name, "not checked", "the plan file has its nodes and figures only"))
        elif other.period_ms is None:
            able = [kind.ids[0] for kind in ledger.kinds if _can(ledger, kind)]
            wrong = f"{able[0]} can run the whole model" if able else ""
            said = "no node can run the whole model"
            if wrong and any(ledger.goal.has(n) for n in ("max_period", "max_latency", "max_energy", "max_nodes")):
                found.append(Check(name, "not checked", "the goal has limits that it may not keep"))
            else:
                found.append(Check(name, "failed" if wrong else "proved", wrong or said))
        else:
            wrong = _wrong(ledger, other)
            found.append(Check(name, "failed" if wrong else "proved", wrong or f"{float(other.period_ms):.4f} ms"))
    return found


def _can(ledger: Ledger, kind: Kind) -> bool:
    """Whether a node of this type can run the whole model, pins left aside."""
    memory = kind.memory(0, ledger.n) if ledger.n in ledger.columns[0] else None
    return memory is not None and memory <= kind.memory_limit and not kind.cannot


def _latency(ledger: Ledger, kind: Kind) -> Fraction:
    return Fraction(kind.latency(0, ledger.n))


def _stage(ledger: Ledger, kind: Kind) -> Fraction:
    n = ledger.n
    return Fraction(max(kind.compute(0, n), kind.down(0, n), kind.up(0, n)))


def _wrong(ledger: Ledger, other: Other) -> str:
    unknown = [node for node in other.nodes if node not in ledger.kind_of]
    if unknown or not other.nodes or len(set(other.nodes)) != len(other.nodes):
        return f"expected nodes of the costs file, got {', '.join(other.nodes)[:200]}"
    kinds = [ledger.kinds[ledger.kind_of[node]] for node in other.nodes]
    for node, kind in zip(other.nodes, kinds, strict=True):
        if not _can(ledger, kind):
            return f"{node} cannot run the whole model"
    relayed = Fraction(ledger.flow(0, ledger.n).relayed) / ledger.broker_rate if ledger.broker_rate else Fraction(0)
    period, latency = other.period_ms or Fraction(0), max(_latency(ledger, kind) for kind in kinds)
    if other.latency_ms is None or not close(other.latency_ms, latency):
        return f"its latency is {float(latency) * 1e3:.4f} ms"
    if other.family == "one-node" and len(kinds) == 1:
        exact = latency if ledger.stateful else max(_stage(ledger, kinds[0]), relayed)
        return "" if close(period, exact) else f"its period is {float(exact) * 1e3:.4f} ms"
    seconds = [_stage(ledger, kind) for kind in kinds]
    most = (period + HALF) / 1000 * (1 + FLOATS)
    if most < relayed:
        return f"its period is at least {float(relayed) * 1e3:.4f} ms"
    for turns in range(1, MAX_TURNS + 1):
        if sum(turns if value == 0 else int(most * turns / value) for value in seconds) >= turns:
            return ""
    return "no shares of frames give its period"
