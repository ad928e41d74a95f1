"""Where a model can be cut besides between two steps of its order: the down-sets of its dataflow graph (PURE).

A *down-set* is a set of steps that has, with each step, all those that it depends on. Between two of them, one
inside the other, lies a slice; with all down-sets as states, two branches that do not depend on each other can be
slices on two nodes. The down-sets of n steps may be 2^n, so they are looked for in *regions*: the steps between two
neighbouring *separators*, steps that depend on all before them and that all after them depend on. (Every down-set
is one of a region, with all that comes before it.) A region's *branches* are its longest runs in which each step
has one direct successor, which has no other direct predecessor; a skip connection within a run is no direct one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from converters.slicing import legal_positions
from coordinator.planner.problem import State
from slicemq.codecs import CODECS, DTYPES

if TYPE_CHECKING:
    from converters.graph import Graph

PREFIXES = "contiguous-one-per-node"
DAG = "dag-one-per-node"
MAX_STATES = 300
"""States beyond this number are not added. A model that has more steps gets a third of them for its branches."""


@dataclass(frozen=True)
class DownSets:
    """Sets of steps that are done, as bits over places in `graph.steps`, by rising number of steps.

    `whole`: whether all down-sets at which one can cut are among them. They are prefixes only, unless `branches`.
    """

    done: tuple[int, ...]
    whole: bool
    branches: bool


def down_sets(graph: Graph, most: int = MAX_STATES) -> DownSets:
    """The down-sets at which plans may cut `graph`: nothing, all prefixes, and others as far as `most` allows.

    First each region, those with the fewest down-sets first, gives those that are made of whole branches, then, in
    the same order, all of its own. A model that keeps state has its prefixes only.
    """
    n = len(graph.steps)
    everything = (1 << n) - 1
    prefixes = [0, *((1 << position) - 1 for position in legal_positions(graph)), everything]
    known = dict.fromkeys(prefixes)
    if graph.variables:
        return DownSets(tuple(known), whole=not _has_regions(graph), branches=False)
    room = max(most - len(known), most // 3)
    before = ancestors(graph)
    regions = list(_regions(before))
    whole = True
    travels = _Travels(graph)
    left = []
    for coarse in (True, False):
        found = []
        for first, last in regions:
            units = _branches(before, first, last) if coarse else [1 << place for place in range(first, last)]
            sets = _ideals(before, units, (1 << first) - 1, room + last - first + 2)
            if sets is not None:
                found.append([done for done in sets if done not in known and travels.at(done)])
            elif not coarse:
                whole = False
        for extra in sorted(found, key=len):
            if len(extra) <= room:
                room -= len(extra)
                known.update(dict.fromkeys(extra))
            else:
                left.append(coarse)
    ordered = sorted(known, key=lambda done: (done.bit_count(), done))
    return DownSets(tuple(ordered), whole and False not in left, branches=len(known) > len(set(prefixes)))


def states_of(down: DownSets, codecs: Mapping[str, Collection[int]] | None = None) -> tuple[State, ...]:
    """`down` as states, raw ones and, for each of `codecs` (codec -> down-sets where it may be used), its own.

    Nothing and everything are raw: what comes from the client and goes to it is. Empty when they are only prefixes
    and raw, which is what empty states mean.
    """
    inner = set(down.done[1:-1])
    allowed = {codec: inner.intersection(sets) for codec, sets in (codecs or {}).items() if codec != "raw"}
    if not down.branches and not any(allowed.values()):
        return ()
    return tuple(
        State(done, codec)
        for done in down.done
        for codec in sorted(("raw", *(c for c, sets in allowed.items() if done in sets)), key=CODECS.index)
    )


def family_of(states: Sequence[State]) -> str:
    """The family of plans that a bound speaks of when plans are made of these states."""
    is_prefix = all(state.done & (state.done + 1) == 0 for state in states)
    return PREFIXES if is_prefix else DAG


def ancestors(graph: Graph) -> list[int]:
    """For each place in `graph.steps` the places that it depends on, directly or not, as bits."""
    place = {step: number for number, step in enumerate(graph.steps)}
    found: list[int] = []
    for step in graph.steps:
        before = 0
        for tensor in graph.reads[step]:
            maker = place.get(graph.producer.get(tensor, -1))
            if maker is not None:
                before |= found[maker] | 1 << maker
        found.append(before)
    return found


def bits(number: int) -> Iterator[int]:
    """The places of the bits of `number`, rising."""
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


class _Travels:
    """Whether each tensor that crosses at a down-set can travel in a frame."""

    def __init__(self, graph: Graph) -> None:
        place = {step: number for number, step in enumerate(graph.steps)}
        self._bad = []
        for tensor, users in graph.consumers.items():
            maker = place.get(graph.producer.get(tensor, -1))
            stays = graph.tensors[tensor].dtype not in DTYPES or (tensor in graph.prepared and not graph.dynamic)
            if maker is not None and stays:
                self._bad.append((1 << maker, sum(1 << place[user] for user in users)))

    def at(self, done: int) -> bool:
        return not any(done & maker and users & ~done for maker, users in self._bad)


def _has_regions(graph: Graph) -> bool:
    return next(_regions(ancestors(graph)), None) is not None


def _regions(before: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first place, place after the last) of each run of steps that are no separators."""
    n = len(before)
    after = [0] * n
    for place, earlier in enumerate(before):
        for other in bits(earlier):
            after[other] |= 1 << place
    first = 0
    for place in range(n + 1):
        if place == n or (before[place] | after[place]).bit_count() == n - 1:
            if place > first:
                yield first, place
            first = place + 1


def _branches(before: Sequence[int], first: int, last: int) -> list[int]:
    """The branches of a region, as bits; each comes after those that it depends on."""
    inside = (1 << last) - (1 << first)
    direct: dict[int, int] = {}
    followers = dict.fromkeys(range(first, last), 0)
    for place in range(first, last):
        near = before[place] & inside
        for other in bits(near):
            near &= ~before[other]
        direct[place] = near
        for other in bits(near):
            followers[other] += 1
    run_of: dict[int, int] = {}
    runs: list[int] = []
    for place in range(first, last):
        near = direct[place]
        only = near.bit_length() - 1 if near.bit_count() == 1 else -1
        if only >= 0 and followers[only] == 1:
            run_of[place] = run_of[only]
            runs[run_of[place]] |= 1 << place
        else:
            run_of[place] = len(runs)
            runs.append(1 << place)
    return runs


def _ideals(before: Sequence[int], units: Iterable[int], base: int, most: int) -> list[int] | None:
    """The down-sets that are `base` and whole `units`; None when they are more than `most`."""
    needs = []
    for unit in units:
        need = 0
        for place in bits(unit):
            need |= before[place]
        needs.append((unit, need & ~unit))
    seen = {base: None}
    todo = [base]
    while todo:
        done = todo.pop()
        for unit, need in needs:
            if not done & unit and not need & ~done:
                more = done | unit
                if more not in seen:
                    if len(seen) >= most:
                        return None
                    seen[more] = None
                    todo.append(more)
    return list(seen)
