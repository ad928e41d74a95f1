"""Which nodes' runtimes can run which operators, and the words for when none can (PURE)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from coordinator.planner.model import NodeSpec, Supports
from slicemq.errors import InsufficientCapacityError

if TYPE_CHECKING:
    from converters.graph import Graph, Operator

Needs = Sequence[Mapping[str, int]]
"""For each operator of the model, what a runtime must take: name -> version (`converters.needs.needs`)."""
_LISTED = 10


def lacking(operators: Mapping[str, int], need: Mapping[str, int]) -> dict[str, int]:
    """What of `need` a runtime of `operators` does not take; nothing when its operators are not known."""
    if not operators:
        return {}
    return {name: version for name, version in need.items() if operators.get(name, 0) < version}


def supports_of(needs: Needs) -> Supports:
    """Whether a node can run an operator, by what the operator needs."""

    def supports(node: NodeSpec, operator: Operator) -> bool:
        return not lacking(node.operators, needs[operator.index])

    return supports


def check_somewhere(graph: Graph, nodes: Sequence[NodeSpec], needs: Needs) -> None:
    """Raise InsufficientCapacityError when some operator that a slice needs runs on none of `nodes`.

    It names the operator, its version, and what the nodes have.
    """
    missing: dict[tuple[str, int], list[int]] = {}
    for index in graph.closure(graph.steps, graph.outputs):
        lacks = [lacking(node.operators, needs[index]) for node in nodes]
        if nodes and all(lacks):
            for name, version in lacks[0].items():
                missing.setdefault((name, version), []).append(index)
    if not missing:
        return
    sentences = []
    for (name, version), indices in list(missing.items())[:_LISTED]:
        where = ", ".join(map(str, indices[:3])) + (f" and {len(indices) - 3} more" if len(indices) > 3 else "")
        plural = "s" if len(indices) > 1 else ""
        sentences.append(f"operator{plural} {where}: {name} in version {version} ({_what_there_is(name, nodes)})")
    raise InsufficientCapacityError(f"no node's runtime can run {'; '.join(sentences)}")


def who_lacks(graph: Graph, nodes: Iterable[NodeSpec], needs: Needs) -> list[str]:
    """For each node that cannot run every operator: its id and what it lacks."""
    found = []
    every = graph.closure(graph.steps, graph.outputs)
    for node in nodes:
        lacks: dict[str, int] = {}
        for index in every:
            for name, version in lacking(node.operators, needs[index]).items():
                lacks[name] = max(version, lacks.get(name, 0))
        if lacks:
            listed = ", ".join(f"{name} in version {version}" for name, version in list(lacks.items())[:_LISTED])
            found.append(f"{node.id} ({node.runtime or 'its runtime'} lacks {listed})")
    return found


def _what_there_is(name: str, nodes: Sequence[NodeSpec]) -> str:
    groups: dict[tuple[str, int], list[str]] = {}
    for node in nodes:
        groups.setdefault((node.runtime or "runtime", node.operators.get(name, 0)), []).append(node.id)
    texts = []
    for (runtime, highest), ids in groups.items():
        listed = ", ".join(ids[:_LISTED]) + (" ..." if len(ids) > _LISTED else "")
        texts.append(f"{listed}: {runtime} {f'takes up to version {highest}' if highest else 'lacks it'}")
    return "; ".join(texts)
