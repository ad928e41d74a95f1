"""What no plan can be better than, whatever its cuts: arithmetic on steps and on the client's traffic (PURE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import wire_bytes

if TYPE_CHECKING:
    from converters.graph import Graph


def floor(graph: Graph, costs: Costs, single: bool) -> float:
    """What no plan's objective is below, whatever its cuts and codecs; `costs` are those of prefixes."""
    n, types = costs.n, costs.types
    steps = np.stack([kind.steps for kind in types])
    extra = np.array([float(kind.compute[0, n]) for kind in types]) - steps.sum(axis=1)
    if costs.goal.objective == "nodes":
        return 1.0
    if costs.goal.objective == "latency":
        down = float(costs.bytes_in[0, n]) / max(kind.spec.free_down for kind in types)
        up = float(costs.bytes_out[0, n]) / max(kind.spec.free_up for kind in types)
        rtt = min(kind.spec.rtt for kind in types)
        return float(steps.min(axis=0).sum() + extra.min()) + down + up + rtt
    if costs.goal.objective == "energy":
        watts = np.array([kind.spec.watts for kind in types])
        moved = float(costs.bytes_in[0, n] + costs.bytes_out[0, n])
        joules = min(kind.spec.joules_per_byte for kind in types) * moved
        return float((steps * watts[:, None]).min(axis=0).sum() + (extra * watts).min()) + joules
    found = [_work(costs, steps, extra)]
    if costs.broker_rate:
        found.append(float(costs.relayed[0, n]) / costs.broker_rate)
    if single:
        found.append(float(steps.min(axis=0).max()))
        fastest = max(kind.spec.free_down for kind in types), max(kind.spec.free_up for kind in types)
        sides = [t for t in graph.inputs if graph.consumers.get(t)], graph.outputs
        for rate, tensors in zip(fastest, sides, strict=True):
            found += [wire_bytes(graph.tensors[t]) / rate for t in tensors]
    return max(found)


def _work(costs: Costs, steps: npt.NDArray[np.float64], extra: npt.NDArray[np.float64]) -> float:
    """Each node works at most the whole period: with prices on its seconds, all the work costs at most the period.

    Any prices whose sum over the nodes is 1 do; these are as for steps that suit all nodes in the same way.
    """
    counts = np.array([kind.count for kind in costs.types], dtype=np.float64)
    totals = np.maximum(steps.sum(axis=1) + extra, 1e-12)
    prices = 1.0 / totals
    prices /= float(prices @ counts)
    return float((steps * prices[:, None]).min(axis=0).sum() + (extra * prices).min())
