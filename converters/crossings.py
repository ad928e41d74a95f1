"""Which tensors cross each position of a sequence of steps, without a list for every position (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import overload

# Tensor, and the first and the last position that it crosses.
Span = tuple[int, int, int]


class Crossings(Sequence[tuple[int, ...]]):
    """The tensors that cross each position, sorted; a sequence that is as long as there are positions.

    A tensor that skips thousands of steps crosses thousands of positions, so only where tensors begin and cease
    to cross is kept, and every so often what crosses: going through all takes time in proportion to what comes out,
    one alone about the square root of the number of positions.
    """

    def __init__(self, length: int, spans: Iterable[Span]) -> None:
        self._begin: list[list[int]] = [[] for _ in range(length)]
        self._end: list[list[int]] = [[] for _ in range(length)]
        for tensor, first, last in spans:
            self._begin[first].append(tensor)
            self._end[last].append(tensor)
        self._every = max(1, math.isqrt(length))
        self._marks = [
            frozenset(alive) for position, alive in enumerate(self._walk(0, set())) if not position % self._every
        ]

    def _walk(self, start: int, alive: set[int]) -> Iterator[set[int]]:
        """What crosses each position from `start` on; `alive` is what crosses it besides what begins there."""
        for position in range(start, len(self._begin)):
            alive.update(self._begin[position])
            yield alive
            alive.difference_update(self._end[position])

    def __len__(self) -> int:
        return len(self._begin)

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, ...], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        position = range(len(self))[index]
        mark = position // self._every
        walk = self._walk(mark * self._every, set(self._marks[mark]))
        for _ in range(position - mark * self._every):
            next(walk)
        return tuple(sorted(next(walk)))

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return (tuple(sorted(alive)) for alive in self._walk(0, set()))


def summed(length: int, spans: Iterable[tuple[int, int, int]]) -> tuple[int, ...]:
    """For each position the sum of the values of the spans (value, first, last position) that cover it."""
    steps = [0] * (length + 1)
    for value, first, last in spans:
        steps[first] += value
        steps[last + 1] -= value
    return tuple(accumulate(steps[:length]))
