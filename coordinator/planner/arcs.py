"""What follows from a model's steps and tensors for every arc between two states: the books' arithmetic (PURE).

A state is a set of steps that are done; an arc (i, j) is the steps of j that are not in i. Tables have shape
(N, N) for N states, indexed [i, j], and mean something where `Primitives.arcs` says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.planner.segments import Table

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Primitives:
    """Sets of done steps (bits) by state, the legal states, and which tensors each step reads and makes.

    `sizes` are bytes on the wire by tensor; `inputs` and `outputs` are the model's tensors.
    """

    sets: tuple[int, ...]
    legal: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    makes: tuple[tuple[int, ...], ...]
    sizes: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def steps(self) -> int:
        """How many steps the model has."""
        return len(self.reads)

    @cached_property
    def maker(self) -> dict[int, int]:
        """Tensor -> the step that makes it."""
        return {t: step for step, row in enumerate(self.makes) for t in row}

    @cached_property
    def users(self) -> dict[int, tuple[int, ...]]:
        """Tensor -> the steps that read it."""
        found: dict[int, list[int]] = {}
        for step, row in enumerate(self.reads):
            for t in dict.fromkeys(row):
                found.setdefault(t, []).append(step)
        return {t: tuple(steps) for t, steps in found.items()}

    @cached_property
    def arcs(self) -> Mask:
        """Where an arc is one: both states are legal and it has at least one step."""
        count = len(self.sets)
        inside = np.zeros((count, count), dtype=bool)
        legal = list(self.legal)
        if all(done == (1 << number) - 1 for number, done in enumerate(self.sets)):
            inside[np.ix_(legal, legal)] = True
            return np.asarray(np.triu(inside, k=1))
        for a in legal:
            first = self.sets[a]
            inside[a, [b for b in legal if b > a and self.sets[b] != first and first & ~self.sets[b] == 0]] = True
        return inside

    def done(self, steps: Sequence[int] | Collection[int]) -> npt.NDArray[np.intp]:
        """How many of `steps` are done in each state."""
        return np.array([sum(done >> step & 1 for step in steps) for done in self.sets], dtype=np.intp)

    def touching(self, steps: Collection[int]) -> Mask:
        """Which arcs have at least one of `steps`."""
        counts = self.done(steps)
        return np.asarray(counts[None, :] > counts[:, None])

    def crossing(self, done: int) -> tuple[int, ...]:
        """The tensors that the steps of `done` make and others read."""
        return tuple(
            sorted(
                t
                for t, steps in self.users.items()
                if t in self.maker and done >> self.maker[t] & 1 and not all(done >> step & 1 for step in steps)
            )
        )

    def traffic(self, frame_bytes: int) -> tuple[Table, Table, Table]:
        """Bytes in, bytes out and bytes that the broker delivers because of each arc, all tensors as they are.

        In: every tensor that an arc reads and does not make, once. Out: every tensor that it makes and other steps
        read, once, and in a message of its own its part of the results. A message has `frame_bytes` besides.
        """
        count = len(self.sets)
        into, out, answer = (np.zeros((count, count)) for _ in range(3))
        for t, size in self.sizes.items():
            users = self.users.get(t, ())
            used = self.touching(users)
            made = self.touching([self.maker[t]]) if t in self.maker else np.zeros_like(used)
            into += size * (used & ~made)
            later = self.done(users) < len(users)
            out += size * (made & later[None, :])
            if t in self.outputs:
                answer += size * made
        into, out, answer = (np.where(table > 0, table + frame_bytes, 0.0) for table in (into, out, answer))
        return into, out + answer, into + answer


def follows(primitives: Primitives, seconds: npt.NDArray[np.float64]) -> Table:
    """The sum of `seconds` (one number a step) over each arc."""
    sums = np.zeros(len(primitives.sets))
    for number, done in enumerate(primitives.sets):
        total = 0.0
        for step, value in enumerate(seconds.tolist()):
            if done >> step & 1:
                total += value
        sums[number] = total
    return np.ascontiguousarray(sums[None, :] - sums[:, None])


def rows_of(table: npt.NDArray[Any], arcs: Mask) -> list[list[float | int | None]]:
    """The values at arcs, a row for each state from which arcs go; null for what is not finite."""
    rows: list[list[float | int | None]] = []
    for number in np.flatnonzero(arcs.any(axis=1)):
        values = table[number][arcs[number]]
        rows.append([plain_number(value) for value in values.tolist()])
    return rows


def table_of(rows: Sequence[Sequence[float | None]], arcs: Mask, outside: float = 0.0) -> Table:
    """The reverse of `rows_of`; `outside` elsewhere. Raises ValueError where rows do not fit the arcs."""
    table = np.full(arcs.shape, outside)
    starts = np.flatnonzero(arcs.any(axis=1))
    if len(rows) != len(starts):
        raise ValueError(f"{len(rows)} rows, expected {len(starts)}")
    for number, row in zip(starts, rows, strict=True):
        if len(row) != int(arcs[number].sum()):
            raise ValueError(f"a row of {len(row)} numbers, expected {int(arcs[number].sum())}")
        table[number][arcs[number]] = [np.inf if value is None else float(value) for value in row]
    return table


def plain_number(value: float) -> float | int | None:
    """A number as the books write it: whole ones without a point, what is not finite as null."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1 << 53 else float(value)
