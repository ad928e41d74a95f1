"""SEIFER's placement, arXiv 2210.12219: least summed transfers, then k-path matching by colour coding (PURE).

As described: the sizes of the transfers fall into C classes of equal width. From the highest class down, each
longest run of consecutive hops of that class is matched with a simple path of as many hops through nodes that are
free, keeping to the nodes already fixed at its ends. A binary search over the links' bandwidths, the fastest
first, finds the fastest subgraph that still has such a path. A path of k vertices is looked for by colour coding:
int(10 e^k) random colourings with the colours 1 to 1.3 k, of which only subsets of the colours 1 to k are looked
at.

Completed here: k counts the vertices that are not fixed yet; a run is looked for with at most MOST_COLOURINGS
colourings at each bandwidth and at most MOST_VERTICES vertices. A run for which no path is found is a failure of
the whole trial, which is reported as such.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines.common import Mask, bandwidths, judged, sent
from coordinator.planner.baselines.min_sum import partition
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

CLASSES = 20
"""C: how many classes the transfers fall into. The paper tries 2, 5, 8, 11, 14, 17 and 20."""
MOST_COLOURINGS = 1000
"""The most colourings that are tried for a path at one bandwidth."""
MOST_VERTICES = 10
"""The most vertices of a path that is looked for: the work doubles with each."""
_BATCH = 100


def seifer(costs: Costs, *, seed: int = 0, classes: int = CLASSES, colourings: int = MOST_COLOURINGS) -> Split:
    """One trial; raises NoPlanError when there is no partition or a run of hops finds no path."""
    arcs = partition(costs)
    table = sent(costs)
    transfers = [float(table[arc]) for arc in arcs[:-1]]
    return judged(costs, arcs, _Matching(bandwidths(costs), transfers, classes, colourings, seed).run())


def classes_of(transfers: list[float], count: int) -> list[int]:
    """The class of each transfer, 0 to count-1, by bins of equal width between the smallest and the largest."""
    low, high = min(transfers), max(transfers)
    if high <= low:
        return [0] * len(transfers)
    return [min(count - 1, int((size - low) / (high - low) * count)) for size in transfers]


def runs_of(classes: list[int], wanted: int) -> list[tuple[int, int]]:
    """The maximal runs [first hop, last hop] of a class, the longest first."""
    runs: list[tuple[int, int]] = []
    for hop, found in enumerate(classes):
        if found != wanted:
            continue
        if runs and runs[-1][1] == hop - 1:
            runs[-1] = (runs[-1][0], hop)
        else:
            runs.append((hop, hop))
    return sorted(runs, key=lambda run: run[0] - run[1])


class _Matching:
    def __init__(self, rates: Table, transfers: list[float], classes: int, colourings: int, seed: int) -> None:
        self._rates = rates
        self._classes = classes_of(transfers, classes) if transfers else []
        self._colourings = colourings
        self._rng = np.random.default_rng(seed)
        self._places: list[int | None] = [None] * (len(transfers) + 1)

    def run(self) -> list[int]:
        """The node of each slice."""
        for wanted in sorted(set(self._classes), reverse=True):
            for first, last in runs_of(self._classes, wanted):
                self._match(first, last + 1)
        if self._places == [None]:
            return [0]
        return [place for place in self._places if place is not None]

    def _match(self, first: int, last: int) -> None:
        """Fix the nodes of the slices `first` to `last`, whose hops are one run."""
        start, end = self._places[first], self._places[last]
        inner = last - first + 1 - (start is not None) - (end is not None)
        if inner == 0:
            return
        free = np.array([node not in self._places for node in range(len(self._rates))])
        if inner > min(MOST_VERTICES, int(free.sum())):
            raise NoPlanError(proved=False)
        values = np.unique(self._rates[self._rates > 0])[::-1]
        best: list[int] | None = None
        low, high = -1, len(values)
        while high - low > 1:
            middle = (low + high) // 2
            found = self._path(self._rates >= values[middle], free, start, end, inner)
            if found is None:
                low = middle
            else:
                best, high = found, middle
        if best is None:
            raise NoPlanError(proved=False)
        begin = first + (start is not None)
        self._places[begin : begin + inner] = best

    def _path(self, links: Mask, free: Mask, start: int | None, end: int | None, inner: int) -> list[int] | None:
        """A simple path of `inner` free nodes, next to the fixed ends, or None if no colouring shows one."""
        nodes = np.flatnonzero(free)
        among = links[np.ix_(nodes, nodes)]
        first = np.ones(len(nodes), dtype=bool) if start is None else links[start, nodes]
        last = np.ones(len(nodes), dtype=bool) if end is None else links[nodes, end]
        left = min(self._colourings, int(10 * math.exp(inner)))
        while left > 0:
            batch = min(left, _BATCH)
            left -= batch
            colours = self._rng.integers(0, max(inner, int(1.3 * inner)), size=(batch, len(nodes)))
            found = colourful_path(among, first, last, colours, inner)
            if found is not None:
                return [int(nodes[place]) for place in found]
        return None


def colourful_path(
    links: Mask, first: Mask, last: Mask, colours: npt.NDArray[np.int64], length: int
) -> list[int] | None:
    """A path of `length` vertices whose colours are 0 to length-1, each once, in any of the colourings (rows).

    first, last: the vertices that it may begin and end with. The dynamic program goes over subsets of colours:
    which vertices end a path that has exactly these.
    """
    step = links.astype(np.float32)
    whole = (1 << length) - 1
    reached: dict[int, Mask] = {1 << c: (colours == c) & first for c in range(length)}
    for subset in range(1, whole):
        if subset not in reached:
            continue
        onward = reached[subset].astype(np.float32) @ step > 0
        for colour in range(length):
            bit = 1 << colour
            if not subset & bit:
                ends = onward & (colours == colour)
                reached[subset | bit] = reached[subset | bit] | ends if subset | bit in reached else ends
    rows, ends = np.nonzero(reached[whole] & last)
    if not len(rows):
        return None
    row, path, subset = int(rows[0]), [int(ends[0])], whole
    while len(path) < length:
        subset &= ~(1 << int(colours[row, path[-1]]))
        path.append(int(np.flatnonzero(reached[subset][row] & links[:, path[-1]])[0]))
    return path[::-1]
