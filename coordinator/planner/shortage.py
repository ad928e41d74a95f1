"""Why there is no plan, in words and megabytes (PURE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from converters.slicing import legal_positions
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from slicemq.errors import InsufficientCapacityError, PlanError

if TYPE_CHECKING:
    from converters.graph import Graph
    from coordinator.planner.problem import Costs


def shortage(
    graph: Graph, fleet: Fleet, options: PlanOptions, costs: Costs | None, lacks: Sequence[str] = ()
) -> InsufficientCapacityError:
    """The error that says what is needed, what there is, and which nodes were left out and why.

    `costs` are those of prefixes; None when no node may be used at all. `lacks` names nodes that cannot run every
    operator.
    """
    out = {node.id: why for node in fleet.nodes if (why := _why_left_out(node, options))}
    excluded = [f"{node.id} ({out[node.id]}, {_mb(node.memory)})" for node in fleet.nodes if node.id in out]
    left_out = f" Left out: {', '.join(excluded)}." if excluded else ""
    if costs is None:
        return InsufficientCapacityError(f"no node may be used: the fleet has {len(fleet.nodes)}.{left_out}")
    usable = [node for node in fleet.nodes if node.id not in out]
    share = 1.0 - options.headroom
    largest = max(usable, key=lambda node: node.memory)
    position = max(range(costs.n), key=lambda p: costs.memory[p, p + 1])
    operator = graph.operators[graph.steps[position]]
    single = float(costs.memory[position, position + 1])
    sentences = [
        f"not enough capacity: the model in one slice needs {_mb(costs.memory[0, costs.n])}",
        f"{len(usable)} node{'s have' if len(usable) != 1 else ' has'} "
        f"{_mb(sum(node.memory for node in usable) * share)} free together",
        f"the largest single operator ({operator.index}, {operator.name}) needs {_mb(single)}, "
        f"the largest node ({largest.id}) has {_mb(largest.memory * share)} free",
    ]
    if len(usable) < costs.n:
        least = _least_largest(graph, costs, len(usable))
        sentences.insert(1, f"cut into at most {len(usable)} slices, the largest one needs at least {_mb(least)}")
    useless = [f"{node.id} ({why})" for node in usable if (why := _why_useless(node, costs, share))]
    if useless:
        sentences.append(f"of no use: {', '.join(useless[:20])}")
    if lacks:
        sentences.append(f"not for every operator: {', '.join(lacks[:20])}")
    return InsufficientCapacityError("; ".join(sentences) + "." + left_out)


def without_wishes(options: PlanOptions) -> PlanOptions | None:
    """The options without pins and without a limit on slices; None when there are none."""
    if not options.pins and options.max_slices is None:
        return None
    return replace(options, pins={}, max_slices=None)


def wishes_forbid(options: PlanOptions) -> PlanError:
    """The error for pins or a limit on slices that leave no plan."""
    wishes = [f"pin {key}={node}" for key, node in options.pins.items()]
    if options.max_slices is not None:
        wishes.append(f"at most {options.max_slices} slices")
    return PlanError(f"no plan fulfils {', '.join(wishes)}; without them there is one")


def _least_largest(graph: Graph, costs: Costs, slices: int) -> float:
    """The least memory of the largest slice, over all cuts into at most `slices`."""
    legal = np.full(costs.n + 1, np.inf)
    legal[[0, *legal_positions(graph), costs.n]] = 0.0
    table = np.where(np.tri(costs.n + 1, dtype=bool), np.inf, costs.memory) + legal[None, :]
    reached = np.where(np.arange(costs.n + 1) == 0, 0.0, np.inf)
    for _ in range(slices):
        reached = np.minimum(reached, np.maximum(reached[:, None], table).min(axis=0))
    return float(reached[costs.n])


def _why_left_out(node: NodeSpec, options: PlanOptions) -> str:
    if node.id in options.exclude:
        return "excluded"
    lacking = [f"{key}={value}" for key, value in options.require.items() if node.labels.get(key) != value]
    return f"without {', '.join(lacking)}" if lacking else ""


def _why_useless(node: NodeSpec, costs: Costs, share: float) -> str:
    kind = next(kind for kind in costs.types if node.id in kind.ids)
    smallest = min(float(kind.memory[p, p + 1]) for p in range(costs.n))
    if smallest > node.memory * share:
        return f"{_mb(node.memory * share)} free, the smallest operator needs {_mb(smallest)}"
    return "" if kind.useful else "its runtime or memory suits no part of the model"


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"
