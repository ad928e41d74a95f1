"""What the baselines share: how they see `Costs`, and what their answers are worth by our cost model (PURE).

The papers cut chains and know no codecs, so the baselines cut at states whose tensors travel as they are.
Whatever a baseline's own model says of its answer, `judged` states the true figures, and refuses what memory,
operators, pins or the goal's limits forbid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import Bound, NoPlanError, Split
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

Mask = npt.NDArray[np.bool_]
Arcs = Sequence[tuple[int, int]]


def nodes_of(costs: Costs) -> list[int]:
    """The type of every node, in the order of `costs.types`."""
    return [number for number, kind in enumerate(costs.types) for _ in kind.ids]


def plain_states(costs: Costs) -> Mask:
    """Whether each state's tensors travel as they are, without a codec."""
    plain = np.ones(costs.n + 1, dtype=bool)
    for number, state in enumerate(costs.states):
        plain[number] = state.codec == "raw" or number in (0, costs.n)
    return plain


def allowed_on(costs: Costs, kind: int) -> Mask:
    """The arcs that a type may run, between plain states."""
    plain = plain_states(costs)
    mask: Mask = np.isfinite(costs.types[kind].period) & plain[:, None] & plain[None, :]
    return np.triu(mask, k=1)


def allowed_everywhere(costs: Costs) -> Mask:
    """The arcs that every type may run: a cluster of nodes that are all as small as the smallest."""
    if not costs.types:
        raise NoPlanError(proved=True)
    mask = allowed_on(costs, 0)
    for kind in range(1, len(costs.types)):
        if costs.types[kind].period is not costs.types[0].period:
            mask &= allowed_on(costs, kind)
    return mask


def steps_done(costs: Costs) -> npt.NDArray[np.int64]:
    """How many steps are done at every state."""
    if not costs.states:
        return np.arange(costs.n + 1)
    return np.array([state.done.bit_count() for state in costs.states])


def later_states(costs: Costs, state: int) -> Mask:
    """The plain states that a slice which begins at `state` can end at, its costs left aside."""
    numbers = np.arange(costs.n + 1)
    if not costs.states:
        return plain_states(costs) & (numbers > state)
    done = costs.states[state].done
    nested = np.array([other.done & done == done and other.done != done for other in costs.states])
    mask: Mask = plain_states(costs) & nested & (numbers > state)
    return mask


def cut_states(costs: Costs) -> Mask:
    """The plain states at which some node may begin or end a slice."""
    mask = np.zeros(costs.n + 1, dtype=bool)
    seen: set[int] = set()
    for number, kind in enumerate(costs.types):
        if id(kind.period) not in seen:
            seen.add(id(kind.period))
            arcs = allowed_on(costs, number)
            mask |= arcs.any(axis=0) | arcs.any(axis=1)
    return mask


def sent(costs: Costs) -> Table:
    """Bytes that each arc hands to later slices: its transfer; 0 for arcs that end the model."""
    if costs.hops is not None:
        table = np.broadcast_to(costs.hops.bytes, (costs.n + 1, costs.n + 1)).copy()
    else:
        table = costs.bytes_out.copy()
    table[:, costs.n] = 0.0
    return table


def bandwidths(costs: Costs) -> Table:
    """Bytes per second from each node to each other one; through a broker, the slower of the two links."""
    kinds = nodes_of(costs)
    if costs.hops is not None:
        found = costs.hops.rates[np.ix_(kinds, kinds)].astype(float)
    else:
        up = np.array([costs.types[k].spec.up for k in kinds])
        down = np.array([costs.types[k].spec.down for k in kinds])
        found = np.minimum(up[:, None], down[None, :])
    np.fill_diagonal(found, 0.0)
    return found


def hop_seconds(costs: Costs, before: int, after: int, state: int) -> float:
    """What the hop between two types takes at a state; 0 through a broker, whose links are in `NodeType.period`."""
    return 0.0 if costs.hops is None else float(costs.hops.seconds(before, after)[state])


def judged(costs: Costs, arcs: Arcs, nodes: Sequence[int]) -> Split:
    """The true figures of arcs on nodes (places in `nodes_of`).

    Raises NoPlanError, not proved, when it is no plan: a node twice, an arc that its node may not run, too many
    slices, a pin that is not kept, or a limit of the goal that is exceeded.
    """
    kinds = nodes_of(costs)
    ids = [node for kind in costs.types for node in kind.ids]
    used = [kinds[node] for node in nodes]
    if len(set(nodes)) < len(nodes) or len(arcs) != len(nodes) or not 0 < len(arcs) <= costs.max_slices:
        raise NoPlanError(proved=False)
    if any(number >= len(used) or used[number] != kind for number, kind in costs.slice_pins.items()):
        raise NoPlanError(proved=False)
    stages = [float(costs.types[k].period[i, j]) for (i, j), k in zip(arcs, used, strict=True)]
    hops = [hop_seconds(costs, a, b, j) for (_, j), a, b in zip(arcs[:-1], used[:-1], used[1:], strict=True)]
    relayed = sum(float(costs.relayed[i, j]) for i, j in arcs) / costs.broker_rate if costs.broker_rate else 0.0
    period = max(*stages, *hops, relayed, 0.0)
    latency = sum(hops)
    for (i, j), k in zip(arcs, used, strict=True):
        kind = costs.types[k]
        latency += float(kind.compute[i, j]) + kind.spec.rtt
        if costs.hops is None or i == 0:
            latency += float(kind.bytes_in[i, j]) / kind.spec.down
        if costs.hops is None or j == costs.n:
            latency += float(kind.bytes_out[i, j]) / kind.spec.up
    energy = sum(costs.types[k].energy_of(i, j) for (i, j), k in zip(arcs, used, strict=True))
    goal = costs.goal
    within = period <= goal.max_period and latency <= goal.max_latency and energy <= goal.max_energy
    if not np.isfinite(period) or not within or (goal.max_nodes is not None and len(arcs) > goal.max_nodes):
        raise NoPlanError(proved=False)
    bound = min(_work_bound(costs), period)
    return Split(
        segments=tuple((int(i), int(j)) for i, j in arcs),
        nodes=tuple(ids[node] for node in nodes),
        period=period,
        latency=latency,
        lower_bound=bound,
        method="heuristic",
        bounds=(Bound(bound, "work"),),
    )


def _work_bound(costs: Costs) -> float:
    """Every step runs somewhere: no period is below the quickest run of a step, or an even share of all.

    0 for other goals than throughput: these methods know nothing about them.
    """
    if costs.goal.objective != "throughput":
        return 0.0
    least = np.stack([kind.steps for kind in costs.types]).min(axis=0)
    most = min(costs.max_slices, len(nodes_of(costs)))
    return max(float(least.max(initial=0.0)), float(least.sum()) / max(most, 1)) * (1 - 1e-9)
