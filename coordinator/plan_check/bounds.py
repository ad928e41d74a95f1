"""The bounds of a certificate: proved again, taken at the planner's word, or found to be wrong (PURE).

A bound of value v is proved when no plan of the family has an objective below v * (1 - 10^-9): the planner adds
floating-point numbers, the check does not. The plan's lower_bound_ms may lie above a proved value by half a unit of
its last digit, because it is rounded.
"""

from __future__ import annotations

import math
from fractions import Fraction

from coordinator.plan_check import duals, shares
from coordinator.plan_check.figures import HALF, Figures
from coordinator.plan_check.flows import Exact
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.placement import FLOATS
from coordinator.plan_check.planfile import PlanFile, Proof
from coordinator.plan_check.report import Check
from coordinator.plan_check.search import Search, Sum, Verdict
from slicemq.errors import PlanError

PIPELINES = ("contiguous-one-per-node", "dag-one-per-node")
COPIES = "whole-model-copies"
SHARED = ("replicated-stages", "parallel-pipelines", "whole-model-copies")
NEVER = Fraction(1 << 200)
TIMES = ("period", "throughput", "latency")


def check_bounds(plan: PlanFile, ledger: Ledger, exact: Figures) -> list[Check]:
    """A line for each bound of the certificate and one for the plan's lower bound."""
    unit = 1000 if plan.objective in TIMES else 1
    claimed = plan.bound_ms / unit
    slack = HALF / unit if unit == 1000 else HALF
    over_any = any(bundle.broker for bundle in plan.bundles)
    proofs = plan.certificate or [Proof(max(Fraction(0), claimed - slack), "", None, over_any)]
    any_brokers = ledger.with_any_brokers() if any(proof.data_brokers for proof in proofs) else ledger
    found = [
        _check(plan, any_brokers if proof.data_brokers else ledger, proof, exact, over_any) for proof in proofs
    ]
    reached = {
        check.word: max(p.value for p, c in zip(proofs, found, strict=True) if c.word == check.word)
        for check in found
    }
    text = f"{float(plan.bound_ms):.4f}{' ms' if unit == 1000 else ''}"
    if claimed - slack > exact.of(plan.objective) * (1 + FLOATS):
        return [*found, Check("lower bound", "failed", f"{text} is above the plan's own figure")]
    for word in ("proved", "solver-asserted", "not checked"):
        if word in reached and claimed - slack <= reached[word] * (1 + FLOATS):
            return [*found, Check("lower bound", word, text)]
    return [*found, Check("lower bound", "failed", f"{text}: no bound of the certificate that holds is so high")]


def _check(plan: PlanFile, ledger: Ledger, proof: Proof, exact: Figures, over_any: bool) -> Check:
    name = f"bound {float(proof.value):.9g}{f' ({proof.proof})' if proof.proof else ''}"
    if over_any and not proof.data_brokers:
        return Check(name, "failed", "it speaks of plans on the main broker only, the plan has data brokers")
    if proof.value > exact.of(plan.objective) * (1 + FLOATS) + (HALF / 1000 if not plan.certificate else 0):
        return Check(name, "failed", "the plan itself is below it")
    if proof.value <= 0:
        return Check(name, "proved", "nothing is below 0")
    if plan.family not in PIPELINES:
        return _other_family(plan, ledger, name, proof)
    if proof.proof == "lp-duals" and proof.duals is not None:
        return _by_duals(plan, ledger, name, proof.value, duals.read(proof.duals, ledger))
    if proof.proof == "work" and proof.value * (1 - FLOATS) <= _work(ledger) and plan.objective in TIMES:
        return Check(name, "proved", "the work of all steps on all nodes takes as long")
    verdict = search(plan, ledger, proof.value)
    if verdict == "none":
        return Check(name, "proved", "a search through all plans finds none below it")
    if verdict == "some":
        return Check(name, "failed", "a search finds a plan below it")
    return Check(name, "solver-asserted", "the search through all plans was given up at its budget")


def _by_duals(plan: PlanFile, ledger: Ledger, name: str, value: Fraction, given: duals.Duals) -> Check:
    limit = value * (1 - FLOATS)
    cap = ledger.goal.real("max_period") * (1 + FLOATS) if ledger.goal.has("max_period") else None
    try:
        if plan.objective in ("period", "throughput"):
            left = duals.room(given, ledger, limit, strict=True)
            # With a price for the broker a plan that is shorter than the limit has something left over.
            holds = left > 0 or (left == 0 and given.broker > 0)
        elif ledger.hop_bytes is not None:
            return Check(name, "solver-asserted", "with links between nodes only periods have proofs by duals")
        else:
            left = duals.room(given, ledger, cap, strict=False, aim=_aim(plan, ledger))
            least = Fraction(left, given.scale) if given.scale else (NEVER if left > 0 else Fraction(0))
            holds = (math.ceil(least * (1 - FLOATS)) if plan.objective == "nodes" else least) >= limit
    except PlanError as error:
        return Check(name, "failed", str(error))
    if holds:
        return Check(name, "proved", "by weak duality, in exact rationals")
    return Check(name, "failed", "the duals of the certificate do not prove it")


def _aim(plan: PlanFile, ledger: Ledger) -> duals.Aim:
    def of(k: int, i: int, j: int) -> Exact:
        kind = ledger.kinds[k]
        if plan.objective == "nodes":
            return 1
        if plan.objective == "energy":
            return kind.energy(i, j)
        return kind.latency(i, j)

    return of


def search(plan: PlanFile, ledger: Ledger, value: Fraction) -> Verdict:
    """Whether some plan of the family (a pipeline, a node for each slice) has an objective below `value`."""
    goal, limit = ledger.goal, value * (1 - FLOATS)
    most = {
        name: goal.real(f"max_{name}") * (1 + FLOATS) if goal.has(f"max_{name}") else None
        for name in ("period", "latency", "energy")
    }
    strict = plan.objective in ("period", "throughput")
    period = limit if strict else most["period"] or NEVER
    slices = goal.whole("max_nodes", 1) if goal.has("max_nodes") else ledger.max_slices
    sums = []
    if ledger.broker_rate is not None and period < NEVER:
        sums.append(Sum(lambda _, i, j: ledger.flow(i, j).relayed, period * ledger.broker_rate, strict))
    if any(state.error for state in ledger.states):
        budget = ledger.budget * (1 + FLOATS)
        sums.append(Sum(lambda _, i, j: ledger.states[j].error if j < ledger.n else 0, budget, strict=False))

    def latency(k: int, i: int, j: int) -> Exact:
        return ledger.kinds[k].latency(i, j)

    def energy(k: int, i: int, j: int) -> Exact:
        return ledger.kinds[k].energy(i, j)

    if plan.objective == "latency":
        sums.append(Sum(latency, limit, strict=True, hops=True))
    elif most["latency"] is not None:
        sums.append(Sum(latency, most["latency"], strict=False, hops=True))
    if plan.objective == "energy":
        sums.append(Sum(energy, limit, strict=True))
    elif most["energy"] is not None:
        sums.append(Sum(energy, most["energy"], strict=False))
    if plan.objective == "nodes":
        slices = min(slices, math.ceil(limit) - 1)
    return Search(ledger, period, strict, sums, slices).run() if slices > 0 else "none"


def _work(ledger: Ledger) -> Fraction:
    """No pipeline is shorter: each node does at most so much of the steps' weights in a second, all together all.

    Any weights prove a bound; these are the geometric means of the steps' seconds over types, to a double's digits.
    """
    weights = []
    for step in range(ledger.steps):
        seconds = [float(kind.seconds[step]) for kind in ledger.kinds]
        least = min(seconds)
        mean = math.exp(sum(map(math.log, seconds)) / len(seconds)) if least > 0 else 0.0
        weights.append(Fraction(mean))
    rates = Fraction(0)
    for kind in ledger.kinds:
        each = [w / s for w, s in zip(weights, kind.seconds, strict=True) if w > 0]
        rates += kind.count * max(each, default=Fraction(0))
    return sum(weights, Fraction(0)) / rates if rates > 0 else Fraction(0)


def _other_family(plan: PlanFile, ledger: Ledger, name: str, proof: Proof) -> Check:
    if plan.family in (COPIES, "one-node") and plan.objective in ("period", "throughput"):
        value = copies_bound(ledger, one=plan.family != COPIES)
        if value is not None and proof.value * (1 - FLOATS) <= value:
            return Check(name, "proved", "computed again from the nodes that can run the whole model")
        return Check(name, "failed", f"computed again it is {float(value or 0) * 1e3:.4f} ms")
    if plan.family in (COPIES, "one-node") and plan.objective in ("latency", "energy", "nodes"):
        if proof.value * (1 - FLOATS) <= _whole(plan, ledger):
            return Check(name, "proved", "computed again from the nodes that can run the whole model")
    elif plan.family in SHARED and ledger.hop_bytes is None:
        groups = plan.family == "replicated-stages"
        if plan.objective == "period" and shares.proves(ledger, proof.value * (1 - FLOATS), groups):
            return Check(name, "proved", "by prices of nodes, in exact rationals")
        if plan.objective in ("latency", "energy") and proof.value * (1 - FLOATS) <= _least_of_paths(plan, ledger):
            return Check(name, "proved", "no path through the model is below it")
    return Check(name, "solver-asserted", f"no other proof was found for {plan.family}")


def _whole(plan: PlanFile, ledger: Ledger) -> Exact:
    """The least latency or energy of the whole model on a node, or the fewest nodes within the period."""
    able = [k for k, kind in enumerate(ledger.kinds) if ledger.n in ledger.columns[0] and kind.may(0, ledger.n)]
    if plan.objective != "nodes":
        aim = _aim(plan, ledger)
        return min((aim(k, 0, ledger.n) for k in able), default=0)
    most = ledger.goal.real("max_period") * (1 + FLOATS) if ledger.goal.has("max_period") else NEVER
    rates = sorted(
        (
            1 / max(Fraction(ledger.kinds[k].stage(0, ledger.n) or 0), 1 / NEVER)
            for k in able
            for _ in ledger.kinds[k].ids
        ),
        reverse=True,
    )
    return next((count for count in range(1, len(rates) + 1) if sum(rates[:count], Fraction(0)) * most >= 1), 0)


def _least_of_paths(plan: PlanFile, ledger: Ledger) -> Exact:
    """The least latency or energy of a path from nothing done to all done, each arc where it is least."""
    aim = _aim(plan, ledger)
    best: list[Exact | None] = [0, *(None for _ in range(ledger.n))]
    for i, row in enumerate(ledger.ends):
        begun = best[i]
        for j in row if begun is not None else ():
            values = [aim(k, i, j) for k, kind in enumerate(ledger.kinds) if kind.may(i, j)]
            if begun is not None and values:
                known = best[j]
                best[j] = begun + min(values) if known is None else min(known, begun + min(values))
    return best[-1] or 0


def copies_bound(ledger: Ledger, one: bool = False) -> Fraction | None:
    """The least period of whole-model copies for any shares of frames, or on one node; None: no node can."""
    goal, seconds = ledger.goal, []
    for kind in ledger.kinds:
        if ledger.n in ledger.columns[0] and kind.may(0, ledger.n):
            latency = kind.latency(0, ledger.n)
            if not goal.has("max_latency") or latency <= goal.real("max_latency") * (1 + FLOATS):
                stage = latency if ledger.stateful else kind.stage(0, ledger.n)
                seconds += [Fraction(stage or 0)] * kind.count
    if not seconds:
        return None
    seconds.sort()
    most = goal.whole("max_nodes", 1) if goal.has("max_nodes") else len(seconds)
    chosen = seconds[: 1 if one else most]
    period = 1 / sum((1 / value for value in chosen), Fraction(0)) if chosen[0] > 0 else Fraction(0)
    if ledger.broker_rate is not None:
        period = max(period, Fraction(ledger.flow(0, ledger.n).relayed) / ledger.broker_rate)
    return period
