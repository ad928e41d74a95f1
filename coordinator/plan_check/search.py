"""Is there a plan below a limit? An exhaustive search, exact, and given up beyond a stated budget (PURE).

First everything but nodes and times is left aside: for each choice of nodes (how many of each type; with links
between nodes also which is the last) the set of states that it reaches, as bits. Where that finds no plan, there is
none. Else sums (bytes of the broker, errors, latency, joules) are looked at without the nodes, by shortest paths,
and in the end everything together: for each state and choice of nodes all sums of which none is at least as good in
all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from coordinator.plan_check.flows import Exact
from coordinator.plan_check.ledger import Ledger

Verdict = Literal["none", "some", "unknown"]
BUDGET = 6_000_000
"""How many steps the whole search may take; about ten seconds."""


@dataclass(frozen=True)
class Sum:
    """What a plan adds up over its arcs, with `hops` over its hops too, and how much that may be."""

    of_arc: Callable[[int, int, int], Exact]
    most: Fraction
    strict: bool
    hops: bool = False

    def passes(self, value: Exact) -> bool:
        """Whether a plan of this sum is over the limit."""
        return value >= self.most if self.strict else value > self.most


class _SpentError(Exception):
    """The budget is used up."""


class Search:
    """One question: is there a plan with stages and hops within `period`, these sums, at most so many slices?"""

    def __init__(self, ledger: Ledger, period: Fraction, strict: bool, sums: list[Sum], slices: int) -> None:
        self._ledger = ledger
        self._sums = [Sum(_kept(one.of_arc), one.most, one.strict, one.hops) for one in sums]
        self._slices = min(slices, ledger.max_slices)
        self._left = BUDGET
        self._period, self._strict = period, strict
        self._open = [kind.within(period, strict) for kind in ledger.kinds]
        pinned = {ledger.kind_of[node] for node in ledger.slice_pins.values()}
        self._pins = {number: ledger.kind_of[node] for number, node in ledger.slice_pins.items()}
        self._free = [k for k in range(len(ledger.kinds)) if k not in pinned]
        self._linked = ledger.hop_bytes is not None

    def run(self) -> Verdict:
        """Whether there is one."""
        try:
            if not self._reaches():
                return "none"
            if not self._sums:
                return "some"
            if any(one.passes(self._least(one)) for one in self._sums if not one.hops):
                return "none"
            return "some" if self._labels() else "none"
        except _SpentError:
            return "unknown"

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _SpentError

    def _groups(self) -> tuple[list[list[int]], list[int], dict[int, int]]:
        """Rows of bits by group, members of each, and type -> group: types of the same arcs are one group."""
        rows: list[list[int]] = []
        counts: list[int] = []
        group_of: dict[int, int] = {}
        known: dict[tuple[object, ...], int] = {}
        for number, ends in enumerate(self._open):
            bits = [sum(1 << j for j in row) for row in ends]
            own: tuple[object, ...] = (number,) if self._linked or number not in self._free else ()
            key = (*bits, own)
            if key not in known:
                known[key] = len(rows)
                rows.append(bits)
                counts.append(0)
            group_of[number] = known[key]
            counts[known[key]] += self._ledger.kinds[number].count
        return rows, counts, group_of

    def _reaches(self) -> bool:
        """Whether the last state is reached, sums left aside."""
        rows, counts, group_of = self._groups()
        place, radix = 1, []
        for count in counts:
            radix.append(place)
            place *= count + 1
        free = sorted({group_of[k] for k in self._free})
        pins = {number: group_of[k] for number, k in self._pins.items()}
        hops = self._hop_bits(group_of)
        goal, needed = 1 << self._ledger.n, max(self._pins, default=-1) + 1
        reached: dict[tuple[int, int], int] = {(0, -1): 1}
        fresh = dict(reached)
        for level in range(self._slices):
            following: dict[tuple[int, int], int] = {}
            choices = [pins[level]] if level in pins else free
            for (code, last), bits in fresh.items():
                ends = self._followed(bits, rows, choices) if not self._linked else {}
                for group in choices:
                    if code // radix[group] % (counts[group] + 1) == counts[group]:
                        continue
                    if self._linked:
                        starts = bits if last < 0 else bits & hops[last, group]
                        ends = self._followed(starts, rows, [group])
                    if ends[group]:
                        key = code + radix[group], group if self._linked else -1
                        following[key] = following.get(key, 0) | ends[group]
            if level + 1 >= needed and any(bits & goal for bits in following.values()):
                return True
            fresh = {}
            everything: dict[tuple[int, int], int] = {}
            for (code, last), bits in following.items():
                self._spend(len(counts))
                known = 0
                if not self._pins:
                    for group, value in enumerate(radix):
                        if code // value % (counts[group] + 1) and not (self._linked and group == last):
                            known |= reached.get((code - value, last), 0)
                everything[code, last] = bits | known
                if bits & ~known:
                    fresh[code, last] = bits & ~known
            reached = everything
            if not fresh:
                return False
        return False

    def _followed(self, bits: int, rows: list[list[int]], choices: list[int]) -> dict[int, int]:
        """Group -> the states behind one arc from these."""
        found = dict.fromkeys(choices, 0)
        while bits:
            low = bits & -bits
            bits ^= low
            i = low.bit_length() - 1
            self._spend(len(choices))
            for group in choices:
                found[group] |= rows[group][i]
        return found

    def _hop_bits(self, group_of: dict[int, int]) -> dict[tuple[int, int], int]:
        """(group, group) -> the states at which a hop between them is short enough; each group is one node."""
        if not self._linked:
            return {}
        found = {}
        for a, first in group_of.items():
            for b, second in group_of.items():
                self._spend(self._ledger.n)
                found[first, second] = sum(
                    1 << s for s in range(self._ledger.n + 1) if a != b and self._short(self._ledger.hop(a, b, s))
                )
        return found

    def _short(self, seconds: Fraction | None) -> bool:
        return seconds is not None and (seconds < self._period if self._strict else seconds <= self._period)

    def _least(self, one: Sum) -> Exact:
        """The least sum over any path, each arc on any node."""
        best: list[Exact | None] = [0, *(None for _ in range(self._ledger.n))]
        for i in range(self._ledger.n):
            begun = best[i]
            if begun is None:
                continue
            for k, row in enumerate(self._open):
                for j in row[i]:
                    self._spend(2)
                    value = begun + one.of_arc(k, i, j)
                    known = best[j]
                    if known is None or value < known:
                        best[j] = value
        return best[-1] if best[-1] is not None else one.most + 1

    def _labels(self) -> bool:
        """Whether the last state is reached with all sums within their limits."""
        ledger = self._ledger
        place, radix = 1, []
        for kind in ledger.kinds:
            radix.append(place)
            place *= kind.count + 1
        needed = max(self._pins, default=-1) + 1
        Label = tuple[Exact, ...]  # noqa: N806 - a type
        todo: list[dict[tuple[int, int, int], list[Label]]] = [{} for _ in range(ledger.n + 1)]
        todo[0][0, -1, 0] = [tuple(0 for _ in self._sums)]
        for i in range(ledger.n):
            for (code, last, level), labels in todo[i].items():
                if level >= self._slices:
                    continue
                for k in [self._pins[level]] if level in self._pins else self._free:
                    if code // radix[k] % (ledger.kinds[k].count + 1) == ledger.kinds[k].count:
                        continue
                    hop: Exact | None = ledger.hop(last, k, i) if self._linked and last >= 0 else 0
                    if hop is None or (last >= 0 and self._linked and not self._short(Fraction(hop))):
                        continue
                    for j in self._open[k][i]:
                        costs = [one.of_arc(k, i, j) + (hop if one.hops else 0) for one in self._sums]
                        key = code + radix[k], k if self._linked else -1, level + 1
                        for label in labels:
                            self._spend(4)
                            after = tuple(a + b for a, b in zip(label, costs, strict=True))
                            if any(one.passes(a) for one, a in zip(self._sums, after, strict=True)):
                                continue
                            if j == ledger.n:
                                if level + 1 >= needed:
                                    return True
                                continue
                            self._keep(todo[j].setdefault(key, []), after)
        return False

    def _keep(self, kept: list[tuple[Exact, ...]], new: tuple[Exact, ...]) -> None:
        self._spend(len(kept))
        if any(all(a <= b for a, b in zip(old, new, strict=True)) for old in kept):
            return
        kept[:] = [old for old in kept if not all(a <= b for a, b in zip(new, old, strict=True))]
        kept.append(new)


def _kept(function: Callable[[int, int, int], Exact]) -> Callable[[int, int, int], Exact]:
    known: dict[tuple[int, int, int], Exact] = {}

    def of_arc(k: int, i: int, j: int) -> Exact:
        if (k, i, j) not in known:
            known[k, i, j] = function(k, i, j)
        return known[k, i, j]

    return of_arc
