"""Which nodes of a large cluster a plan is made on. PURE.

Planning takes longer with each kind of node, and one pipeline uses few of a thousand. So the planner sees at most
some of them: those that the operator or earlier plans speak of, then in turn the fastest, those with the most free
memory and those with the best link. What the plan says of its bound then holds among these, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from slicemq.messages import Capacity

STEPS = (100, 400)
"""How many nodes are tried at most, and how many when so few have not room enough; then all."""


def chosen_nodes(
    nodes: Sequence[Capacity], most: int, named: Collection[str] = (), busy: Collection[str] = ()
) -> list[Capacity]:
    """At most `most` of `nodes` in their own order; all in `named` are among them.

    Nodes in `busy` compute for other pipelines: they come last in each order.
    """
    if len(nodes) <= most:
        return list(nodes)
    chosen = {node.node for node in nodes if node.node in named}
    orders = [
        sorted(nodes, key=lambda node: (node.node in busy, -_speed(node), -node.memory)),
        sorted(nodes, key=lambda node: (node.node in busy, -node.memory, -_speed(node))),
        sorted(nodes, key=lambda node: (node.node in busy, -min(node.link.up, node.link.down), -_speed(node))),
    ]
    for row in zip(*orders, strict=True):
        for node in row:
            if len(chosen) < most:
                chosen.add(node.node)
    return [node for node in nodes if node.node in chosen]


def limited(reason: str, seen: int, present: int) -> str:
    """A plan's reason, with what its bound does not speak of."""
    note = f"made on {seen} of {present} nodes, chosen beforehand: its bound and its proofs hold among these"
    return f"{reason}; {note}" if reason else note


def _speed(node: Capacity) -> float:
    """The geometric mean of its speeds; 0 for none."""
    logs = [math.log(speed) for speed in node.speeds.values()]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0
