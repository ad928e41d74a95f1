"""Who takes which frame: shares of frames as turns of a cycle (PURE).

A plan repeats a cycle of T turns. A *lane* is a complete pipeline that serves some of the turns, a *stage* of it is
one node or several that divide the lane's turns. A node that serves t of T turns and takes c seconds for a frame
needs t*c/T seconds per frame of the plan; the period is the largest of these, or what the broker needs. For a given
T the best counts come from giving each turn to the lane (and in it to the node) whose time is least with it: the
counts for T+1 are those for T and one more, so all T up to a limit cost no more than the largest.

The turns of a count are spread as evenly as whole turns can be: before every turn, a taker of w = t/T has had
floor or ceil of w times the turns so far. Such an order always exists (Tijdeman, "The chairman assignment problem",
Discrete Mathematics 32, 1980; Steiner and Yeomans, Management Science 39, 1993), and the earliest deadline first
finds it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MOST_TURNS = 64
"""The longest cycle that the planner makes: every turn has topics of its own."""

Stages = Sequence[Sequence[float]]
"""For each stage of a lane, the seconds of a frame on each of its nodes."""


@dataclass(frozen=True)
class Counts:
    """How many of `turns` turns each lane takes, and in each lane and stage each node. `period` is in seconds."""

    turns: int
    lanes: tuple[int, ...]
    nodes: tuple[tuple[tuple[int, ...], ...], ...]
    period: float


def count_turns(
    lanes: Sequence[Stages],
    relayed: Sequence[float] = (),
    rate: float | None = None,
    most: int = MOST_TURNS,
    within: float = 0.0,
) -> Counts:
    """The counts of the least period of all cycles of at most `most` turns.

    `lanes[l][s][k]` is the seconds of a frame on node k of stage s of lane l, finite and at least 0; `relayed[l]`
    the bytes that the broker delivers for a frame of lane l, of `rate` per second. Of the cycles whose period is
    at most 1 + `within` times the least, the shortest one is taken. A lane or a node may get no turn.
    """
    # Every float is a whole number of some unit 1/2^k, and sums of whole numbers are exact and fast.
    unit = max((s.as_integer_ratio()[1] for lane in lanes for stage in lane for s in stage), default=1)
    # Lanes of equal nodes have equal stages, and are often many.
    known = {stages: _Lane(stages, unit, most) for stages in {_plain(stages) for stages in lanes}}
    rising = [known[_plain(stages)] for stages in lanes]
    asked = tuple(relayed) if rate is not None else ()
    in_units = Fraction(rate) / unit if rate is not None else None
    found = []
    for turns, counts in enumerate(_each_cycle(rising, most), start=1):
        if asked and in_units is not None:
            counts = _for_broker(rising, counts, turns, asked, in_units)
        found.append((_period(rising, counts, turns, asked, in_units), turns, counts))
    least = min(period for period, _, _ in found)
    period, turns, counts = next(row for row in found if row[0] <= least * (1 + Fraction(within)))
    nodes = tuple(lane.split(count) for lane, count in zip(rising, counts, strict=True))
    return Counts(turns, counts, nodes, float(period / unit))


def interleave(counts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """For each taker its turns, as many as its count says, spread evenly over a cycle of sum(counts) turns."""
    total = sum(counts)
    jobs: list[tuple[int, int, int]] = []
    for taker, count in enumerate(counts):
        for number in range(count):
            first, last = number * total // count, -(-(number + 1) * total // count) - 1
            jobs.append((first, last, taker))
    jobs.sort()
    taken: list[list[int]] = [[] for _ in counts]
    ready: list[tuple[int, int]] = []
    place = 0
    for turn in range(total):
        while place < len(jobs) and jobs[place][0] <= turn:
            heapq.heappush(ready, (jobs[place][1], jobs[place][2]))
            place += 1
        taken[heapq.heappop(ready)[1]].append(turn)
    return tuple(tuple(turns) for turns in taken)


def assign(counts: Counts) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]:
    """For each lane, stage and node the turns that it serves: lanes are interleaved, and in each lane its nodes."""
    return tuple(
        tuple(
            tuple(tuple(own[index] for index in served) for served in interleave(stage))
            if own
            else tuple(() for _ in stage)
            for stage in lane
        )
        for own, lane in zip(interleave(counts.lanes), counts.nodes, strict=True)
    )


class _Lane:
    """What a lane's slowest node needs for 0, 1, ... turns of a cycle, exactly: in units of 1/`unit` s."""

    def __init__(self, stages: Stages, unit: int, most: int) -> None:
        self._orders = [_order([_units(seconds, unit) for seconds in stage], most) for stage in stages]
        self._sizes = [len(stage) for stage in stages]
        self.needs = [0]
        for turn in range(most):
            self.needs.append(max(self.needs[-1], *(order[turn][0] for order in self._orders)))

    def split(self, count: int) -> tuple[tuple[int, ...], ...]:
        """For each stage how many of the lane's turns each node takes."""
        found = []
        for order, size in zip(self._orders, self._sizes, strict=True):
            taken = [0] * size
            for _, node in order[:count]:
                taken[node] += 1
            found.append(tuple(taken))
        return tuple(found)


def _plain(stages: Stages) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(stage) for stage in stages)


def _units(seconds: float, unit: int) -> int:
    above, below = seconds.as_integer_ratio()
    return above * (unit // below)


def _order(seconds: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Turn by turn, the node whose time is least with one turn more, and that time."""
    if len(seconds) == 1:
        return [(turn * seconds[0], 0) for turn in range(1, most + 1)]
    heap = [(value, k) for k, value in enumerate(seconds)]
    heapq.heapify(heap)
    found = []
    for _ in range(most):
        need, k = heap[0]
        found.append((need, k))
        heapq.heapreplace(heap, (need + seconds[k], k))
    return found


def _each_cycle(lanes: Sequence[_Lane], most: int) -> list[tuple[int, ...]]:
    counts = [0] * len(lanes)
    heap = [(lane.needs[1], number) for number, lane in enumerate(lanes)]
    heapq.heapify(heap)
    found = []
    for turn in range(most):
        _, number = heap[0]
        counts[number] += 1
        found.append(tuple(counts))
        if turn + 1 < most:
            heapq.heapreplace(heap, (lanes[number].needs[counts[number] + 1], number))
    return found


def _period(
    lanes: Sequence[_Lane], counts: Sequence[int], turns: int, relayed: Sequence[float], rate: Fraction | None
) -> Fraction:
    """In units, as `rate` is bytes per unit."""
    need = Fraction(max(lane.needs[count] for lane, count in zip(lanes, counts, strict=True)))
    if relayed and rate is not None:
        need = max(need, _bytes(counts, relayed) / rate)
    return need / turns


def _bytes(counts: Sequence[int], relayed: Sequence[float]) -> Fraction:
    return sum((count * Fraction(size) for count, size in zip(counts, relayed, strict=True)), Fraction(0))


def _for_broker(
    lanes: Sequence[_Lane], counts: tuple[int, ...], turns: int, relayed: Sequence[float], rate: Fraction
) -> tuple[int, ...]:
    """The best counts of a cycle whose broker needs longer than its nodes: lanes of few bytes take more turns."""
    if len(set(relayed)) == 1 or _bytes(counts, relayed) / rate <= max(
        lane.needs[count] for lane, count in zip(lanes, counts, strict=True)
    ):
        return counts
    order = sorted(range(len(lanes)), key=lambda number: relayed[number])

    def at(need: int) -> tuple[int, ...]:
        """The counts of the fewest bytes when no lane may need longer; enough turns are known to fit."""
        left, filled = turns, [0] * len(lanes)
        for number in order:
            filled[number] = min(left, sum(1 for other in lanes[number].needs[1 : turns + 1] if other <= need))
            left -= filled[number]
        return tuple(filled)

    least = max(lane.needs[count] for lane, count in zip(lanes, counts, strict=True))
    values = sorted({need for lane in lanes for need in lane.needs[1 : turns + 1] if need >= least})
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if _bytes(at(values[middle]), relayed) / rate <= values[middle]:
            high = middle
        else:
            low = middle + 1
    tried = [at(values[place]) for place in {max(low - 1, 0), low}]
    return min(tried, key=lambda trial: _period(lanes, trial, turns, relayed, rate))
