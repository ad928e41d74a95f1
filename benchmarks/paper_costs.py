"""The problems of arXiv 2210.12219 as `Costs`: its models, memories, node counts and random graphs.

A partition is what lies between two of the paper's cut points; computing takes no time, all nodes have the same
memory, and neither the first hop nor the result's is counted. Two tables of costs:

- `theirs`: a tensor has 8 bytes an element, divided by 1.44, times the number of layers that read it. A partition
  takes all its activations (4 bytes an element, none used again) and 1 byte a parameter, and its first segment
  (between two neighbouring cut points) takes nothing.
- `true`: a tensor has 4 bytes an element, once. A partition takes all its activations, and 4 bytes a parameter.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.paper_layers import consumers, cut_points, read_layers
from coordinator.planner.goal import Goal
from coordinator.planner.model import NodeSpec
from coordinator.planner.problem import Costs, Hops, NodeType

Which = Literal["theirs", "true"]
TABLES: tuple[Which, ...] = ("theirs", "true")
CONFIGURATIONS = (
    ("MobileNetV2", 64),
    ("EfficientNetB1", 64),
    ("EfficientNetB1", 128),
    ("ResNet50", 64),
    ("ResNet50", 128),
    ("InceptionResNetV2", 64),
    ("InceptionResNetV2", 128),
    ("InceptionResNetV2", 256),
)
"""Model and MB of each node: those that need more than one partition."""
NODES = (5, 10, 15, 20, 50)
MB = 1024 * 1024
SIDE = 150.0
_ZFP = 1.44
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """A model between its cut points.

    `names`: the layer of each cut point. `bytes[s]` crosses at cut point s, 0 at both ends. `memory[s]` is what
    the segment from s to s+1 takes. `first_is_free`: the first segment of a partition is not counted.
    """

    names: tuple[str, ...]
    bytes: Floats
    memory: Floats
    first_is_free: bool

    @property
    def n(self) -> int:
        """The number of the last cut point."""
        return len(self.names) - 1

    def fits(self, memory_mb: float) -> npt.NDArray[np.bool_]:
        """Which partitions (i, j) a node of so many MB holds."""
        sums = np.concatenate([[0.0], np.cumsum(self.memory)])
        begins = np.append(sums[1:], sums[-1]) if self.first_is_free else sums
        return np.triu(sums[None, :] - begins[:, None] <= memory_mb * MB, k=1)


@functools.cache
def chain(model: str, which: Which) -> Chain:
    """One of `paper_layers.MODELS` with one of the two tables of costs."""
    layers = read_layers(model)
    points, readers = cut_points(layers), consumers(layers)
    theirs = which == "theirs"
    sizes = [layers[p].elements * (8 / _ZFP * readers[p] if theirs else 4.0) for p in points]
    sizes[0] = sizes[-1] = 0.0
    weight = 1 if theirs else 4
    memory = [
        float(sum(4 * layer.elements + weight * layer.parameters for layer in layers[a + 1 : b + 1]))
        for a, b in itertools.pairwise(points)
    ]
    return Chain(tuple(layers[p].name for p in points), np.array(sizes), np.array(memory), theirs)


def places(seed: int, graph: int, nodes: int) -> Floats:
    """Metres, shape (nodes, 2): uniform in a square from 1 to SIDE; the same for the same three numbers."""
    return np.random.default_rng([seed, graph, nodes]).uniform(1.0, SIDE, (nodes, 2))


def link_rates(where: Floats, which: Which) -> Floats:
    """Bytes per second of each pair: log2(1 + 283230 / d^2) Mbit/s at d metres, 0 from a node to itself.

    A Mbit has 2^20 bits in their table, as the sizes that it is compared with have, and 10^6 in the true one.
    """
    squares = ((where[:, None, :] - where[None, :, :]) ** 2).sum(axis=2)
    np.fill_diagonal(squares, 1.0)
    rates: Floats = np.log2(1.0 + 283230.0 / squares) * (MB if which == "theirs" else 1e6) / 8
    np.fill_diagonal(rates, 0.0)
    return rates


def costs_of(model: str, which: Which, memory_mb: float, where: Floats, only: Sequence[int] | None = None) -> Costs:
    """The problem for nodes of `memory_mb` at the given places; `only` leaves just the partition cut at these."""
    line = chain(model, which)
    fits = line.fits(memory_mb)
    if only is not None:
        given = np.zeros_like(fits)
        for arc in itertools.pairwise((0, *only, line.n)):
            given[arc] = True
        fits = fits & given
    nothing = np.zeros((line.n + 1, line.n + 1))
    period = np.where(fits, 0.0, np.inf)
    sums = np.concatenate([[0.0], np.cumsum(line.memory)])
    memory = np.maximum(sums[None, :] - sums[:, None], 0.0)
    steps = np.zeros(line.n)
    types = tuple(
        NodeType(
            spec=NodeSpec(f"n{number}", int(memory_mb * MB), {"all": 1.0}, math.inf, math.inf),
            ids=(f"n{number}",),
            compute=nothing,
            period=period,
            bytes_in=nothing,
            bytes_out=nothing,
            memory=memory,
            steps=steps,
            whole=bool(fits[0, line.n]),
            useful=True,
        )
        for number in range(len(where))
    )
    return Costs(
        n=line.n,
        types=types,
        bytes_in=nothing,
        bytes_out=nothing,
        relayed=nothing,
        memory=memory,
        broker_rate=None,
        slice_pins={},
        max_slices=min(line.n, len(where)),
        hops=Hops(line.bytes, link_rates(where, which)),
        # Only the slowest hop is compared: nothing of it is given for fewer nodes or less latency.
        goal=Goal(within=0.0),
    )


@functools.cache
def published_cuts(model: str, memory_mb: int) -> tuple[int, ...]:
    """The cut points of the partition that the published figures were made with.

    The program behind them kept, for every cut point, the best way to the end that it had found for the smallest
    memory, and did not clear that for larger ones. So the first partition is of the right memory and all that
    follow are of the least.
    """
    line = chain(model, "theirs")
    least = line.fits(min(memory for name, memory in CONFIGURATIONS if name == model))
    ways: dict[int, tuple[float, tuple[int, ...]]] = {line.n: (0.0, ())}
    for start in range(line.n - 1, 0, -1):
        onward = [ways[end] for end in range(start + 1, line.n + 1) if end in ways and least[start, end]]
        if onward:
            best = min(onward)
            ways[start] = (best[0] + float(line.bytes[start]), (start, *best[1]))
    first = line.fits(memory_mb)[0]
    return min(ways[end] for end in range(1, line.n + 1) if end in ways and first[end])[1]
