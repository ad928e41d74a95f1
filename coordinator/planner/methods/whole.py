"""Questions to the solver in whole numbers: is there a plan within a period, and which costs least (PURE)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coordinator.planner.methods import solver
from coordinator.planner.methods.flow import Arcs, Flow
from coordinator.planner.methods.reach import Segments
from coordinator.planner.tables.segments import Table

MOST_ARCS = 40_000
"""With more arcs than this, only those that the bound's program generated are asked about."""


@dataclass(frozen=True)
class Asked:
    """`segments` is the best plan found; `bound` holds for all plans by the solver's word, infinite: there is none.

    `ended`: the search was not cut off.
    """

    segments: Segments | None
    bound: float
    ended: bool


def ask(flow: Flow, period: float, aim: tuple[Table, ...] | None, seconds: float, gap: float = 0.0) -> Asked:
    """A plan within `period` (and the flow's limits) of the least `aim`, or any plan when there is no aim."""
    arcs = useful(flow, period)
    every = len(arcs) <= MOST_ARCS
    if not every:
        arcs = flow.pool.of(flow.pool.values(tuple(kind.period for kind in flow.costs.types)) <= period)
    if not len(arcs):
        return Asked(None, math.inf if every else -math.inf, ended=every)
    values = np.zeros(len(arcs)) if aim is None else arcs.values(aim)
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    program = flow.program(arcs, period, values / scale, None)
    answer = solver.milp(program, np.ones(len(program.aim), dtype=bool), seconds, gap)
    bound = answer.bound * scale if every else -math.inf
    if answer.x is None:
        return Asked(None, bound, ended=answer.ended and every)
    return Asked(_path(flow, arcs, answer.x[:-1]), bound, ended=answer.ended and every)


def useful(flow: Flow, period: float) -> Arcs:
    """The arcs within `period` that are on some path from the first state to the last."""
    arcs, n = flow.arcs(period), flow.costs.n
    steps = np.zeros((n + 1, n + 1), dtype=bool)
    steps[arcs.starts, arcs.ends] = True
    ahead, behind = np.zeros(n + 1, dtype=bool), np.zeros(n + 1, dtype=bool)
    ahead[0] = behind[n] = True
    for s in range(n):
        if ahead[s]:
            ahead |= steps[s]
    for s in range(n, 0, -1):
        if behind[s]:
            behind |= steps[:, s]
    return arcs.of(ahead[arcs.starts] & behind[arcs.ends])


def _path(flow: Flow, arcs: Arcs, x: Table) -> Segments | None:
    """The plan that a solution is; None when it is none (the solver's tolerances)."""
    chosen = np.flatnonzero(x > 0.5)
    order = chosen[np.argsort(arcs.starts[chosen], kind="stable")]
    segments = [(int(arcs.starts[a]), int(arcs.ends[a]), int(arcs.kinds[a])) for a in order]
    at = 0
    for start, end, _ in segments:
        if start != at:
            return None
        at = end
    return segments if at == flow.costs.n else None
