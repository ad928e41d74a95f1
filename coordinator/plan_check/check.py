"""The whole check of a plan: its file and its costs file in, a report out (PURE)."""

from __future__ import annotations

import hashlib
from collections import Counter

from coordinator.plan_check.bounds import check_bounds
from coordinator.plan_check.carriers import carried
from coordinator.plan_check.figures import GAP, HALF, check_figures, exact_figures
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.others import check_others
from coordinator.plan_check.placement import allowed, nodes_of, place
from coordinator.plan_check.planfile import PlanFile
from coordinator.plan_check.report import Check, Report


def check_plan(plan_text: str | bytes, costs_text: bytes | None) -> Report:
    """Check a plan file's text against its costs file (None: there is none).

    Raises PlanError where one of the files is none at all. What a plan says wrongly is in the report.
    """
    plan = PlanFile(plan_text)
    if costs_text is None:
        return Report(tuple(_alone(plan)))
    ledger = Ledger(costs_text)
    checks = _identity(plan, ledger, costs_text)
    placed, said = place(plan, ledger)
    checks += said
    if placed is None:
        return Report((*checks, Check("figures and bounds", "not checked", "the slices are no plan of this model")))
    checks += allowed(plan, ledger, placed)
    if any(kind is None for _, _, kind in nodes_of(ledger, placed)):
        return Report((*checks, Check("figures and bounds", "not checked", "a node is unknown")))
    moved, said = carried(plan, ledger)
    checks += said
    exact = exact_figures(plan, ledger, placed, moved)
    checks += check_figures(plan, ledger, placed, exact, moved)
    checks += check_bounds(plan, ledger, exact)
    checks += check_others(plan, ledger)
    return Report(tuple(checks))


def _identity(plan: PlanFile, ledger: Ledger, costs_text: bytes) -> list[Check]:
    found = []
    if plan.costs is None:
        found.append(
            Check("costs file", "not checked", "the plan names none; the figures are compared all the same")
        )
    elif hashlib.sha256(costs_text).hexdigest() == plan.costs[1]:
        found.append(Check("costs file", "proved", "it is the one that the plan names"))
    else:
        found.append(Check("costs file", "failed", "its SHA-256 is not the one that the plan names"))
    same = plan.model == ledger.model
    found.append(Check("model", "proved" if same else "failed", plan.model if same else "of another model"))
    wanted = {"throughput": ("period", "throughput")}.get(
        ledger.goal.text("objective"), (ledger.goal.text("objective"),)
    )
    right = plan.objective in wanted
    found.append(Check("objective", "proved" if right else "failed", plan.objective[:40]))
    return found


def _alone(plan: PlanFile) -> list[Check]:
    """What can be said without the costs: whether the file agrees with itself."""
    wrong: list[Check] = []
    periods = plan.objective in ("period", "throughput")
    slowest = max(max(item.compute_ms, item.down_ms, item.up_ms) for item in plan.slices)
    if plan.turns == 1 and plan.window > 1 and plan.period_ms < slowest - 2 * HALF:
        wrong.append(Check("period", "failed", f"a slice alone takes {float(slowest):.4f} ms"))
    if periods and plan.bound_ms > plan.period_ms:
        wrong.append(Check("lower bound", "failed", "it is above the period"))
    elif periods and plan.bound_ms > 0:
        gap, slack = plan.period_ms / plan.bound_ms - 1, 2 * HALF / plan.bound_ms * (1 + plan.gap) + GAP
        if abs(gap - plan.gap) > slack:
            wrong.append(Check("gap", "failed", f"period and bound give {float(gap):.6f}"))
    counts = Counter(operator for item in plan.slices for operator in item.operators)
    twice = sorted(operator for operator, count in counts.items() if count > 1)
    if twice and len(plan.lanes()) == 1:
        wrong.append(Check("steps", "failed", f"operator {twice[0]} is placed twice"))
    seen = {check.name for check in wrong}
    names = (
        "steps",
        "memory",
        "slices' figures",
        "period",
        "latency",
        "energy",
        "gap",
        "lower bound",
        "alternatives",
    )
    return [*wrong, *(Check(name, "not checked", "there are no costs") for name in names if name not in seen)]
