"""One pipeline whose stages may each be served by several nodes in turn (PURE).

A stage on nodes that take c seconds for a frame does sum of 1/c frames per second when frames go in turn in
proportion to 1/c. For equal nodes the cuts are found exactly; for unlike ones by local search over orders of nodes
(`groups.py`), and, when seconds are given for it, by the mixed-integer program: y[a] says that arc a is a stage,
x[k, a] how many nodes of type k serve it, ::

    the chosen arcs are a path from state 0 to state n
    sum over a of x[k, a] <= count of k
    sum over k of min(1, P / c[k, a]) * x[k, a] >= y[a]
    sum over a of relayed[a] * y[a] <= P * the broker's rate

asked at periods P between the bound and the best plan. The bound comes from prices on nodes (`prices.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from coordinator.planner.answer import Bound, Layout, Method, NoPlanError, Split
from coordinator.planner.methods import solver
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.drafts import Lane, Stage, affordable, best_of, lay_out, value
from coordinator.planner.shapes.groups import cut, lane_of, rate_table, settle, some_states
from coordinator.planner.shapes.prices import Arcs, family_bound, highest_proof

FAMILY = "replicated-stages"
CELLS = 25_000_000
"""How much the search over orders may look at; deterministic, unlike a time limit."""
ORDERS = 60
"""How many orders of the nodes are tried at most."""
STATES = 48
"""Between how many states stages are looked for when there are more."""
PRICE_CELLS = 40_000_000
EQUAL_CELLS = 100_000_000
EXACT = 1e-6
CLOSE = 1e-3
"""The program is not asked once plan and bound are so close."""
QUESTIONS = 8
"""How many periods the program is asked for; each may take its part of the time."""


def replicas(costs: Costs, base: Split | None = None, cells: int = CELLS, seconds: float = 0.0) -> Layout:
    """The best pipeline with replicated stages that was found; its bound is by `with_bound`.

    `base` is a single pipeline to begin with. `seconds`: how long the mixed-integer program may take (0: it is not
    asked; it needs SciPy). Raises NoPlanError when none was found.
    """
    if costs.hops is not None or costs.slice_pins or not costs.types or costs.n == 0:
        raise NoPlanError(proved=False)
    lanes: list[Lane] = []
    if base is not None:
        kind_of = {node: k for k, kind in enumerate(costs.types) for node in kind.ids}
        lanes.append(tuple(Stage(i, j, (kind_of[n],)) for (i, j), n in zip(base.segments, base.nodes, strict=True)))
    variants = affordable(costs)
    for variant in variants:
        lanes += _searched(variant, lanes[0] if lanes else None, cells // len(variants))
    layouts = [lay_out(costs, FAMILY, [lane]) for lane in dict.fromkeys(lanes)]
    best = best_of(costs, layouts)
    if seconds > 0 and solver.available() and costs.goal.objective == "throughput":
        best = _by_program(costs, best, seconds)
    if best is None:
        raise NoPlanError(proved=False)
    return best


def with_bound(costs: Costs, layout: Layout, cells: int = PRICE_CELLS) -> Layout:
    """The layout with the highest bound of its family that prices, or for equal nodes the cuts, prove."""
    reached = value(costs.goal, layout)
    bound = family_bound(costs, "groups", layout.period, cells)
    found = [*layout.bounds, Bound(min(bound, reached), "work")]
    if costs.goal.objective == "throughput" and len(costs.types) == 1:
        exact = _of_equal_nodes(costs)
        found.append(Bound(min(exact, reached), "counts"))
    found.sort(key=lambda known: known.value)
    best = found[-1].value
    method: Method = "exact-counts" if reached <= best * (1 + EXACT) else layout.method
    return replace(layout, lower_bound=best, method=method, bounds=tuple(found))


def _of_equal_nodes(costs: Costs) -> float:
    """The least period of replicated stages on equal nodes when shares need not be whole turns."""
    rates = rate_table(costs, range(costs.n + 1))
    if rates.size * costs.types[0].count ** 2 > EQUAL_CELLS:
        return 0.0
    return cut(rates, [0] * costs.types[0].count, costs.max_slices).period(costs.types[0].count)


def _searched(costs: Costs, base: Lane | None, cells: int) -> list[Lane]:
    """The lanes that local search over the nodes' order finds, the best one and what led to it."""
    nodes = [k for k, kind in enumerate(costs.types) for _ in kind.ids]
    used = [] if base is None else [k for stage in base for k in stage.kinds]
    always = [] if base is None else [stage.start for stage in base]
    states = some_states(costs, STATES, always)
    rates = rate_table(costs, states)
    speed = rates.mean(axis=(1, 2))
    most = min(costs.max_slices, len(nodes))
    price = len(nodes) ** 2 * len(states) ** 2 // 2
    left = min(max(1, cells // max(price, 1)), ORDERS)
    by_memory = sorted(nodes, key=lambda k: (costs.types[k].spec.memory, speed[k], k))
    by_speed = sorted(nodes, key=lambda k: (-speed[k], k))
    starts = [_filled_up(used, nodes), by_speed, by_memory, by_speed[::-1], by_memory[::-1]]
    if len(costs.types) == 1:
        starts, left = [nodes], 1
    found: list[Lane] = []
    best, kept = math.inf, starts[0]
    for number in range(left):
        order = starts[number] if number < len(starts) else _shaken(kept, number)
        period, order, cuts = settle(rates, order, most)
        if not math.isfinite(period) or period >= best * (1 - 1e-9):
            continue
        best, kept = period, order
        sizes = range(1, len(nodes) + 1) if _counts_nodes(costs) else [len(nodes)]
        found += [lane_of(states, cuts.stages(size), order) for size in sizes if math.isfinite(cuts.period(size))]
    return found


def _counts_nodes(costs: Costs) -> bool:
    goal = costs.goal
    return goal.objective != "throughput" or goal.max_nodes is not None or math.isfinite(goal.max_energy)


def _filled_up(used: Sequence[int], nodes: Sequence[int]) -> list[int]:
    """The nodes in use, in their order, and after them the others."""
    left = list(nodes)
    for kind in used:
        left.remove(kind)
    return [*used, *left]


def _shaken(order: Sequence[int], number: int) -> list[int]:
    """The order with a few nodes in other places; others for every number, the same ones in every run."""
    shaken, size, draw = list(order), len(order), number
    for _ in range(1 + number % 3):
        # A linear congruential generator (Knuth's MMIX constants): its high digits look random enough.
        draw = (6364136223846793005 * draw + 1442695040888963407) % (1 << 64)
        a, b = (draw >> 40) % size, (draw >> 16) % size
        if draw >> 63:
            shaken[a], shaken[b] = shaken[b], shaken[a]
        else:
            shaken.insert(b, shaken.pop(a))
    return shaken


def _by_program(costs: Costs, best: Layout | None, seconds: float) -> Layout | None:
    """A better layout by the program, if it finds one, with the bound of the questions that it answers with no."""
    low = highest_proof(costs, "groups", math.inf if best is None else best.period).period
    high = math.inf if best is None else best.period
    if not math.isfinite(low) or low <= 0:
        return best
    ask, asserted = low * 1.3 if best is None else math.sqrt(low * high), 0.0
    for _ in range(QUESTIONS):
        if high <= low * (1 + CLOSE):
            break
        lane, refused = _ask(costs, ask, seconds / QUESTIONS)
        if lane is not None:
            found = best_of(costs, [lay_out(costs, FAMILY, [lane]), *([] if best is None else [best])])
            best = found or best
            high = min(high, ask)
        elif refused:
            low = asserted = ask
        else:
            low = ask
        ask = ask * 1.3 if math.isinf(high) else math.sqrt(low * high)
    if best is not None and asserted > 0:
        best = replace(best, bounds=(Bound(min(asserted, best.period), "branch-and-bound"),))
    return best


def _ask(costs: Costs, period: float, seconds: float) -> tuple[Lane | None, bool]:
    """Stages of this period, or whether the solver says that there are none."""
    arcs = Arcs(costs)
    kinds, ways = np.nonzero(np.isfinite(arcs.seconds))
    share = np.minimum(1.0, period / np.maximum(arcs.seconds[kinds, ways], 1e-12))
    types, count, members = len(costs.types), len(arcs.starts), len(kinds)
    arc, member = np.arange(count), count + np.arange(members)
    inner = arcs.starts > 0
    first_type = costs.n
    first_arc = first_type + types
    last = first_arc + count
    rate = costs.broker_rate
    rows = [arcs.ends - 1, arcs.starts[inner] - 1, first_type + kinds, first_arc + ways, first_arc + arc]
    columns = [arc, arc[inner], member, member, arc]
    values = [np.ones(count), -np.ones(int(inner.sum())), np.ones(members), share, -np.ones(count)]
    flow = np.append(np.zeros(costs.n - 1), 1.0)
    low = np.concatenate([flow, np.full(types, -np.inf), np.zeros(count), [-np.inf]])
    counts = [float(kind.count) for kind in costs.types]
    high = np.concatenate([flow, counts, np.full(count, np.inf), [float(costs.max_slices)]])
    rows.append(np.full(count, last))
    columns.append(arc)
    values.append(np.ones(count))
    if rate is not None:
        rows.append(np.full(count, last + 1))
        columns.append(arc)
        values.append(arcs.relayed / rate)
        low, high = np.append(low, -np.inf), np.append(high, period)
    program = solver.Program(
        aim=np.zeros(count + members),
        rows=np.concatenate(rows),
        columns=np.concatenate(columns),
        values=np.concatenate(values),
        low=low,
        high=high,
        upper=np.concatenate([np.ones(count), [counts[k] for k in kinds]]),
    )
    found = solver.milp(program, np.ones(count + members, dtype=bool), seconds)
    if found.x is None:
        return None, found.ended and math.isinf(found.bound)
    chosen = np.rint(found.x[:count]).astype(int)
    stages = []
    for way in np.flatnonzero(chosen):
        here = np.flatnonzero(ways == way)
        many = np.rint(found.x[count + here]).astype(int)
        group = tuple(int(k) for k, times in zip(kinds[here], many, strict=True) for _ in range(times))
        stages.append(Stage(int(arcs.starts[way]), int(arcs.ends[way]), group))
    return tuple(sorted(stages, key=lambda stage: stage.start)), False
