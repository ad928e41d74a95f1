"""What arcs cost on nodes of one type: memory, seconds, joules; exactly (PURE)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from fractions import Fraction
from typing import TYPE_CHECKING

from coordinator.plan_check.flows import Exact, Flow
from coordinator.plan_check.reading import Row, table
from slicemq.errors import PlanError

if TYPE_CHECKING:
    from coordinator.plan_check.ledger import Ledger

Rows = list[list[Exact | None]]


class Kind:
    """Nodes that differ in nothing but their id."""

    def __init__(self, ledger: Ledger, row: Row, memories: Sequence[Rows]) -> None:
        self._ledger = ledger
        self.ids = tuple(row.texts("ids"))
        if not self.ids:
            raise PlanError(f"{row.at('ids')}: expected at least one")
        self.memory_bytes = row.real("memory")
        self.memory_limit = row.real("memory_limit")
        self._memory = memories[row.whole("memory_table", 0, len(memories) - 1)]
        self._speed, self._down, self._up = (row.real(name, above=0) for name in ("speed", "down", "up"))
        self.rtt, self.watts, self.per_byte = (row.real(name) for name in ("rtt", "watts", "joules_per_byte"))
        self.seconds = row.reals("steps")
        if len(self.seconds) != ledger.steps:
            raise PlanError(f"{row.at('steps')}: {len(self.seconds)} numbers, expected {ledger.steps}")
        self.cannot = _bits(row.wholes("cannot_run", 0, ledger.steps - 1))
        self.pinned = _bits(row.wholes("pinned_elsewhere", 0, ledger.steps - 1))
        self._refused = self.cannot | self.pinned
        self.codecs = frozenset(("raw", *row.texts("codecs")))
        self.tables = {
            name: table(row[name], row.at(name), ledger.lengths)
            for name in ("compute", "stage", "allowed")
            if row.has(name)
        }
        self._own = None
        if row.has("traffic"):
            own = row.row("traffic")
            self._own = [table(own[name], own.at(name), ledger.lengths) for name in ("in", "out")]
        # Everything that computing consists of, times the speed and a power of two that makes it whole.
        parts = [ledger.call, ledger.message, *ledger.per_byte, *(value * self._speed for value in self.seconds)]
        self._scale = max(part.denominator for part in parts)
        self._call, self._message, self._receive, self._send, *steps = (int(part * self._scale) for part in parts)
        self._work = [_sum(state.done, steps) for state in ledger.states]

    @property
    def count(self) -> int:
        """How many nodes there are."""
        return len(self.ids)

    def flow(self, i: int, j: int) -> Flow:
        """The bytes of an arc on this node."""
        flow = self._ledger.flow(i, j)
        if self._own is None:
            return flow
        into, out = (self._cell(rows, i, j) or 0 for rows in self._own)
        return Flow(into, out, flow.relayed, flow.codec)

    def memory(self, i: int, j: int) -> Exact | None:
        """Bytes beyond an idle worker; None: no number."""
        return self._cell(self._memory, i, j)

    def may(self, i: int, j: int) -> bool:
        """Whether an arc may run here: memory, operators, pins."""
        memory = self.memory(i, j)
        steps = self._ledger.states[j].done & ~self._ledger.states[i].done
        if memory is None or memory > self.memory_limit or steps & self._refused or not self._codes(i, j):
            return False
        return "allowed" not in self.tables or bool(self._cell(self.tables["allowed"], i, j))

    def refusal(self, i: int, j: int) -> str:
        """Why an arc may not run here, or nothing."""
        memory, steps = self.memory(i, j), self._ledger.states[j].done & ~self._ledger.states[i].done
        if memory is None or memory > self.memory_limit:
            return f"takes {_mb(memory)} MB, {_mb(self.memory_limit)} MB may be used"
        if steps & self.cannot:
            return "has a step that the node cannot run"
        if steps & self.pinned:
            return "has a step that is pinned to another node"
        if not self._codes(i, j):
            return "needs a codec that the node lacks"
        return "" if self.may(i, j) else "is not allowed there"

    def compute(self, i: int, j: int) -> Exact:
        """Seconds of computing, overheads included."""
        if "compute" in self.tables:
            return self._cell(self.tables["compute"], i, j) or 0
        return Fraction(self._numerator(i, j)) / (self._scale * self._speed)

    def down(self, i: int, j: int) -> Fraction:
        """Seconds of receiving."""
        return self.flow(i, j).into / self._down

    def up(self, i: int, j: int) -> Fraction:
        """Seconds of sending."""
        return self.flow(i, j).out / self._up

    def latency(self, i: int, j: int) -> Exact:
        """Seconds that a frame spends in an arc: computing, receiving, sending, and the round trip."""
        seconds = self.compute(i, j) + self.down(i, j) + self.up(i, j) + self.rtt
        if not self._ledger.relaxed:
            return seconds
        flow = self._ledger.flow(i, j)
        results = flow.relayed - (0 if i else flow.into)
        between = (flow.into / self._down if i else 0) + max(flow.out - results, 0) / self._up
        return seconds - between / 2

    def relaying(self, size: Exact) -> Fraction:
        """Seconds that a data broker on the board takes for so many bytes."""
        return Fraction(size) * self._ledger.relaying / self._speed

    def once(self, receiver: Kind, size: Exact) -> Fraction:
        """Seconds that are saved when bytes go up here and down at the receiver at the same time."""
        return Fraction(size) / max(self._up, receiver._down)

    def of(self, ledger: Ledger) -> Kind:
        """The same nodes in another costs file."""
        other = copy(self)
        other._ledger = ledger
        return other

    def stage(self, i: int, j: int) -> Exact | None:
        """Seconds of the stage, the longest of the three; with links between nodes, of the client's traffic."""
        if "stage" in self.tables:
            return self._cell(self.tables["stage"], i, j)
        down, up = self.down(i, j), self.up(i, j)
        if self._ledger.hop_bytes is not None:
            down, up = down if i == 0 else Fraction(0), up if j == self._ledger.n else Fraction(0)
        return max(self.compute(i, j), down, up)

    def energy(self, i: int, j: int) -> Exact:
        """Joules: computing, receiving and sending."""
        flow = self.flow(i, j)
        return self.compute(i, j) * self.watts + (flow.into + flow.out) * self.per_byte

    def within(self, limit: Fraction, strict: bool) -> list[list[int]]:
        """For each state the ends of the arcs that may run here and whose stage takes less than `limit` seconds.

        With strict False those that take just as long are there too.
        """
        if "stage" in self.tables or "compute" in self.tables:
            return [[j for j in row if self._open(i, j, limit, strict)] for i, row in enumerate(self._ledger.ends)]
        ledger, scale = self._ledger, self._speed * self._scale
        work, into, out = (
            _Limit(limit * scale, strict),
            _Limit(limit * self._down, strict),
            _Limit(limit * self._up, strict),
        )
        linked, last = ledger.hop_bytes is not None, ledger.n
        found: list[list[int]] = []
        for i, row in enumerate(ledger.ends):
            mine = []
            for j in row:
                if not self.may(i, j) or not work.has(self._numerator(i, j)):
                    continue
                flow = self.flow(i, j)
                if (into.has(flow.into) or (linked and i)) and (out.has(flow.out) or (linked and j != last)):
                    mine.append(j)
            found.append(mine)
        return found

    def _codes(self, i: int, j: int) -> bool:
        states = self._ledger.states
        return states[i].codec in self.codecs and states[j].codec in self.codecs

    def _open(self, i: int, j: int, limit: Fraction, strict: bool) -> bool:
        stage = self.stage(i, j)
        return stage is not None and (stage < limit if strict else stage <= limit) and self.may(i, j)

    def _numerator(self, i: int, j: int) -> Exact:
        flow = self.flow(i, j)
        messages = (flow.into > 0) + (flow.out > 0)
        moved = self._receive * flow.into + self._send * flow.out + flow.codec * self._scale
        hops = self._ledger.hop_bytes
        if hops is not None:
            # What crosses between two slices is read and written all the same.
            messages += (hops[i] > 0) + (hops[j] > 0)
            moved += self._receive * hops[i] + self._send * hops[j]
        return self._work[j] - self._work[i] + self._call + self._message * messages + moved

    def _cell(self, rows: Rows, i: int, j: int) -> Exact | None:
        return rows[self._ledger.row_of[i]][self._ledger.columns[i][j]]


class _Limit:
    """Numbers below a limit, or up to it; whole ones are compared with a whole one, which is much faster."""

    def __init__(self, limit: Fraction, strict: bool) -> None:
        self._limit, self._strict = limit, strict
        self._whole = math.ceil(limit) - 1 if strict else math.floor(limit)

    def has(self, value: Exact) -> bool:
        if isinstance(value, int):
            return value <= self._whole
        return value < self._limit if self._strict else value <= self._limit


def _bits(places: Sequence[int]) -> int:
    return sum(1 << place for place in set(places))


def _sum(done: int, values: Sequence[int]) -> int:
    return sum(value for place, value in enumerate(values) if done >> place & 1)


def _mb(value: Exact | None) -> str:
    return "no known number of" if value is None else f"{float(value) / 1e6:.3f}"
