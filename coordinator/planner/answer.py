"""What a planning method answers: the arcs and their nodes, and what is known about the best (PURE)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Method = Literal["exact-counts", "milp", "routes", "heuristic"]
"""How the plan was found. The first three end with the best one's value as their bound, up to the stated gap."""
Proof = Literal["lp-duals", "counts", "routes", "work", "branch-and-bound"]
"""How a bound is known. `lp-duals` carries numbers that prove it; `branch-and-bound` is the solver's word."""


@dataclass(frozen=True)
class Duals:
    """Integers that prove a bound by weak duality; all of them share one unknown scale.

    Star: for every arc (i, j) that type k can run within the claimed period, ::

        potentials[j] - potentials[i] <= aim[k][i, j] * scale + price[k] + broker * relayed[i, j]
                                         + slices + error * errors[j]

    with price[k] >= 0 the least number that makes it so. A plan's arcs lead from state 0 to state n, so their sum
    says ::

        potentials[n] - potentials[0] <= aim of the plan * scale + sum of count[k] * price[k]
                                         + broker * period * rate + slices * max_slices + error * budget

    Where the left side is larger with aim 0, no plan of that period exists.

    With hops each type has a potential where an arc begins (`starts[k][i]`) and where it ends (`ends[k][j]`). An
    arc asks ends[k][j] - starts[k][i] <= the same right side; a hop within the period from type a to type b at
    state s asks starts[b][s] <= ends[a][s]. `potentials` has two entries then: what starts[k][0] and ends[k][n] are
    for every k.
    """

    potentials: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...] = ()
    ends: tuple[tuple[int, ...], ...] = ()
    broker: int = 0
    slices: int = 0
    error: int = 0
    scale: int = 0


@dataclass(frozen=True)
class Bound:
    """No plan of the family has a smaller objective than `value` (seconds, joules or nodes, as the goal says).

    With `data_brokers` that is so too for plans whose bundles travel over data brokers; without, only for those
    that have all on the main broker.
    """

    value: float
    proof: Proof
    duals: Duals | None = None
    data_brokers: bool = False


class NoPlanError(Exception):
    """No plan exists (`proved`), or none was found."""

    def __init__(self, proved: bool) -> None:
        super().__init__("no plan exists" if proved else "no plan was found")
        self.proved = proved


@dataclass(frozen=True)
class Split:
    """Arcs in order with the id of the node of each, and what is known about the best.

    Every plan of the family (arcs of the given states, at most one per node) has an objective of at least
    `lower_bound`: a period in seconds unless the goal is another. `bounds` are the proofs, the highest last.
    """

    segments: tuple[tuple[int, int], ...]
    nodes: tuple[str, ...]
    period: float
    latency: float
    lower_bound: float
    method: Method
    bounds: tuple[Bound, ...] = ()


@dataclass(frozen=True)
class Share:
    """One node's part of a stage: the turns that it serves."""

    node: str
    turns: tuple[int, ...]


@dataclass(frozen=True)
class StageChoice:
    """The arc (start, end) on one node or on several in turn."""

    start: int
    end: int
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Layout:
    """A plan of any shape. A frame of sequence number q takes turn q mod `turns`.

    `lanes` are complete pipelines side by side, each a list of stages in order; every turn is served by one lane,
    and in it by one node of each stage. A single pipeline is one lane whose shares all have turns (0,). `reason`
    says why the layout is what it is, or, with no lanes, why there is none. `carriers` maps the bundles that do not
    travel over the main broker to the node whose data broker has them; the bundles are `layout_bundles`'s.
    """

    family: str
    lanes: tuple[tuple[StageChoice, ...], ...] = ()
    turns: int = 1
    period: float = 0.0
    latency: float = 0.0
    lower_bound: float = 0.0
    method: Method = "heuristic"
    bounds: tuple[Bound, ...] = ()
    reason: str = ""
    energy: float = field(default=0.0)
    carriers: Mapping[str, str] = field(default_factory=dict)
