"""What other pipelines use of a node, and what is left of it for one more (PURE).

A pipeline at full rate computes every slice once a period, so a slice takes the share compute / period of its
node and moves its bytes once a period. Nobody owns a node: one more pipeline beside k others gets at least the
share 1 / (k + 1) of what it computes and of each link, however much the others would take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.planner.model import Fleet, NodeSpec

_MOST_RATE = 1e9
"""Frames per second; a plan that states more than this would make sums that are no numbers."""


@dataclass(frozen=True)
class Usage:
    """What some pipelines use of one node.

    computing: share of its time (may exceed 1 when they ask for more than there is). sent, received: bytes per
    second on its links. pipelines: how many they are.
    """

    computing: float = 0.0
    sent: float = 0.0
    received: float = 0.0
    pipelines: int = 0


def planned_rates(plan: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(slice, node) -> frames per second that it computes there when the pipeline runs as planned; 0: not known."""
    period = _number(plan.get("period_ms")) / 1e3
    turns = _number(plan.get("turns")) or 1.0
    found: dict[tuple[str, str], float] = {}
    for row in _rows(plan.get("slices")):
        nodes, served = _list(row.get("nodes")), _list(row.get("turns"))
        for place, node in enumerate(nodes):
            share = len(_list(served[place])) / turns if place < len(served) else 1.0
            found[str(row.get("id")), str(node)] = min(share / period, _MOST_RATE) if period > 0 else 0.0
    return found


def usage_of_plan(plan: Mapping[str, Any], level: float = 1.0) -> dict[str, Usage]:
    """Node -> what the pipeline of a plan file's content uses there, at `level` (0 to 1) of its planned rate.

    A plan without times (or one that is not a plan) uses nothing that is known: its nodes count as shared only.
    """
    rates, found = planned_rates(plan), dict[str, Usage]()
    for row in _rows(plan.get("slices")):
        for node in map(str, _list(row.get("nodes"))):
            frames = level * rates[str(row.get("id")), node]
            before = found.get(node, Usage())
            found[node] = Usage(
                before.computing + frames * _number(row.get("compute_ms")) / 1e3,
                before.sent + frames * _number(row.get("bytes_out")),
                before.received + frames * _number(row.get("bytes_in")),
                1,
            )
    return found


def together(usages: Iterable[Mapping[str, Usage]]) -> dict[str, Usage]:
    """Node -> what several pipelines use there together."""
    found: dict[str, Usage] = {}
    for usage in usages:
        for node, more in usage.items():
            before = found.get(node, Usage())
            found[node] = Usage(
                before.computing + more.computing,
                before.sent + more.sent,
                before.received + more.received,
                before.pipelines + more.pipelines,
            )
    return found


def beside(spec: NodeSpec, usage: Usage) -> NodeSpec:
    """The node as one more pipeline sees it beside those of `usage`."""
    most = usage.pipelines / (usage.pipelines + 1.0)
    return replace(
        spec,
        busy=min(usage.computing, most),
        busy_up=min(usage.sent, most * spec.up),
        busy_down=min(usage.received, most * spec.down),
    )


def shared(fleet: Fleet, usage: Mapping[str, Usage]) -> Fleet:
    """The fleet as one more pipeline sees it."""
    nodes = (beside(spec, usage[spec.id]) if spec.id in usage else spec for spec in fleet.nodes)
    return replace(fleet, nodes=tuple(nodes))


def _rows(value: Any) -> list[Mapping[str, Any]]:
    return [row for row in _list(value) if isinstance(row, Mapping)]


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _number(value: Any) -> float:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if whole and 0 <= value < 1e15 else 0.0
