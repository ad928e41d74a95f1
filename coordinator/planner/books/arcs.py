"""What follows from a model's steps and tensors for every arc between two states: the books' arithmetic (PURE).

A state is a set of steps that are done and a codec; an arc (i, j) is the steps of j that are not in i. What an arc
sends to other slices has the codec of state j, what it gets from them that of state i; what comes from the client
or goes to it is raw. Tables have shape (N, N) for N states, indexed [i, j], and mean something where
`Primitives.arcs` says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator.planner.tables.segments import Table

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coded:
    """A tensor in a codec: bytes on the wire, seconds of encoding and of decoding."""

    bytes: int
    encode: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class Arcs:
    """What each arc moves: bytes in, bytes out, bytes that the broker delivers, seconds of codecs."""

    into: Table
    out: Table
    relayed: Table
    codec_seconds: Table


@dataclass(frozen=True)
class Primitives:
    """Sets of done steps (bits) and codecs by state, the legal states, and which tensors each step reads and makes.

    `sizes` are bytes on the wire by tensor, `coded` by codec and tensor (those that it changes) its bytes, and the
    seconds of encoding and decoding on the profile's machine. `inputs` and `outputs` are the model's tensors.
    `prefixes`: whether state s is the first s steps, raw. `linked`: slices hand everything straight to the
    next one, so that only the first slice gets the client's inputs, and only the last one sends it results.
    """

    sets: tuple[int, ...]
    legal: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    makes: tuple[tuple[int, ...], ...]
    sizes: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    codecs: tuple[str, ...]
    coded: Mapping[str, Mapping[int, Coded]]
    prefixes: bool
    linked: bool = False

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
        """Where an arc is one: both states are legal, and it has at least one step. Between states with codecs,
        nothing that the two codecs treat differently skips it, and it receives something.
        """
        count = len(self.sets)
        inside = np.zeros((count, count), dtype=bool)
        legal = list(self.legal)
        if self.prefixes:
            inside[np.ix_(legal, legal)] = True
            return np.asarray(np.triu(inside, k=1))
        for a in legal:
            first = self.sets[a]
            inside[a, [b for b in legal if b > a and self.sets[b] != first and first & ~self.sets[b] == 0]] = True
        at = np.array(self.codecs)
        for t, users in self.users.items():
            changing = np.array([t in self.coded.get(codec, {}) for codec in self.codecs])
            if t in self.maker and changing.any():
                skips = (self.done([self.maker[t]]) > 0)[:, None] & (self.done(users) < len(users))[None, :]
                inside &= ~(skips & (at[:, None] != at[None, :]) & (changing[:, None] | changing[None, :]))
        return inside & (replace(self, linked=False).traffic(0).into > 0)

    @cached_property
    def inside(self) -> Mask:
        """Whether each state has each step done; shape (states, steps)."""
        size = -(-self.steps // 8)
        packed = b"".join(done.to_bytes(size, "little") for done in self.sets)
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
        return np.ascontiguousarray(bits.reshape(len(self.sets), 8 * size)[:, : self.steps]).astype(bool)

    def done(self, steps: Collection[int]) -> npt.NDArray[np.intp]:
        """How many of `steps` are done in each state."""
        return np.asarray(self.inside[:, sorted(steps)].sum(axis=1, dtype=np.intp))

    def covered(self, arcs: Mask) -> npt.NDArray[np.bool_]:
        """Which steps are in at least one of these arcs."""
        ends = arcs.astype(np.float32) @ self.inside.astype(np.float32)
        return np.asarray(((ends > 0) & ~self.inside).any(axis=0))

    def coding(self, codecs: Collection[str]) -> Mask:
        """Which arcs need no other codecs than these and raw."""
        has = np.array([codec == "raw" or codec in codecs for codec in self.codecs])
        return np.asarray(has[:, None] & has[None, :])

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

    def traffic(self, frame_bytes: int) -> Arcs:
        """What each arc moves.

        In: every tensor that an arc reads and does not make, once. Out: every tensor that it makes and other steps
        read, once, and in a message of its own its part of the results. A message has `frame_bytes` besides.
        """
        open_, made = self._still_open, self._made
        taken, sent, results = _Products(len(self.sets)), _Products(len(self.sets)), _Products(len(self.sets))
        encoding, decoding = _Products(len(self.sets)), _Products(len(self.sets))
        for t, size in self.sizes.items():
            coded = [self.coded.get(codec, {}).get(t) or Coded(size) for codec in self.codecs]
            sizes, encode, decode = (
                np.array([float(getattr(one, name)) for one in coded]) for name in ("bytes", "encode", "decode")
            )
            there = made[t] if t in self.maker else np.ones(len(self.sets))
            counts = self.done(self.users.get(t, ()))
            for level in np.unique(counts)[:-1]:
                before, after = (counts == level) * there, (counts > level).astype(np.float64)
                taken.add(before * (sizes if t in self.maker else size), after)
                if t in self.maker and decode.any():
                    decoding.add(before * decode, after)
            if t not in self.maker:
                continue
            sent.add(1.0 - made[t], made[t] * open_[t] * sizes)
            if encode.any():
                encoding.add(1.0 - made[t], made[t] * open_[t] * encode)
            if t in self.outputs:
                results.add(1.0 - made[t], made[t] * size)
        if self.linked:
            return self._client_only(frame_bytes, encoding.sum() + decoding.sum())
        into, out, answer = (
            np.where(table > 0.5, np.rint(table) + frame_bytes, 0.0)
            for table in (taken.sum(), sent.sum(), results.sum())
        )
        return Arcs(into, out + answer, into + answer, encoding.sum() + decoding.sum())

    def _client_only(self, frame_bytes: int, codec_seconds: Table) -> Arcs:
        into, results = np.zeros_like(codec_seconds), np.zeros_like(codec_seconds)
        into[0, 1:] = frame_bytes + sum(self.sizes[t] for t in set(self.inputs) if t in self.users)
        results[:-1, -1] = frame_bytes + sum(self.sizes[t] for t in set(self.outputs))
        return Arcs(into, results, into + results, codec_seconds)

    @cached_property
    def _made(self) -> dict[int, npt.NDArray[np.float64]]:
        return {t: self.inside[:, step].astype(np.float64) for t, step in self.maker.items()}

    @cached_property
    def _still_open(self) -> dict[int, Mask]:
        """Whether some user of a tensor is not done, by state."""
        users = {t: self.users.get(t, ()) for t in self.maker}
        return {t: np.asarray(self.done(steps) < len(steps)) for t, steps in users.items()}

    def work(self, seconds: npt.NDArray[np.float64]) -> Table:
        """The sum of `seconds` (one number a step) over each arc."""
        sums = self.inside @ seconds
        return np.asarray(sums[None, :] - sums[:, None])


class _Products:
    """A sum of products of a factor for the state where an arc begins and one for the state where it ends."""

    def __init__(self, states: int) -> None:
        self._states = states
        self._before: list[npt.NDArray[np.float64]] = []
        self._after: list[npt.NDArray[np.float64]] = []

    def add(self, before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> None:
        """One more product."""
        self._before.append(before)
        self._after.append(after)

    def sum(self) -> Table:
        """The sum at every arc. Whole numbers are added exactly."""
        if not self._before:
            return np.zeros((self._states, self._states))
        return np.asarray(np.stack(self._before, axis=1) @ np.stack(self._after))


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
