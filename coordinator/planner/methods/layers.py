"""Pinned slices for methods that know nothing of them: states that count slices (PURE)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordinator.planner.methods.reach import Segments
from coordinator.planner.problem import Costs, NodeType
from coordinator.planner.tables.segments import Table

MOST_STATES = 700
"""Above so many states the tables would be too large."""


def layered(costs: Costs) -> Costs | None:
    """The same problem without slice pins; None when it would have too many states.

    State s after l slices is number l * (n + 1) + s; in the last layer slices are not counted any more. An arc
    from a layer with a pin is there on the pinned type only, and the pinned types run nothing else.
    """
    layers, width = max(costs.slice_pins, default=-1) + 1, costs.n + 1
    last = (layers + 1) * width - 1
    if last > MOST_STATES:
        return None
    pinned = set(costs.slice_pins.values())

    def spread(table: Table, fill: float, kind: int | None = None) -> Table:
        wide = np.full((last + 1, last + 1), fill)
        for layer in range(layers + 1):
            forced = costs.slice_pins.get(layer)
            if kind is not None and (forced != kind if forced is not None else kind in pinned):
                continue
            following = min(layer + 1, layers)
            rows = slice(layer * width, (layer + 1) * width)
            columns = slice(following * width, (following + 1) * width)
            wide[rows, columns] = np.where(np.tri(width, dtype=bool), fill, table)
        return wide

    def kind_of(number: int, kind: NodeType) -> NodeType:
        return replace(
            kind,
            compute=spread(kind.compute, 0.0),
            period=spread(kind.period, np.inf, number),
            bytes_in=spread(kind.bytes_in, 0.0),
            bytes_out=spread(kind.bytes_out, 0.0),
            memory=spread(kind.memory, 0.0),
            moves=None if kind.moves is None else spread(kind.moves, 0.0),
            saved=None if kind.saved is None else spread(kind.saved, 0.0),
        )

    errors = None if costs.errors is None else np.tile(costs.errors, layers + 1)
    return replace(
        costs,
        n=last,
        types=tuple(kind_of(number, kind) for number, kind in enumerate(costs.types)),
        bytes_in=spread(costs.bytes_in, 0.0),
        bytes_out=spread(costs.bytes_out, 0.0),
        relayed=spread(costs.relayed, 0.0),
        memory=spread(costs.memory, 0.0),
        slice_pins={},
        states=(),
        errors=errors,
    )


def unlayered(costs: Costs, segments: Segments) -> Segments:
    """A plan of the layered problem as one of `costs`."""
    width = costs.n + 1
    return [(i % width, j % width, k) for i, j, k in segments]
