"""Prices turned into integers that prove a bound, and the proof gone through again (PURE).

What is verified here is the inequality that `answer.Duals` states. Tables are floats; the price of each type is
rounded up by more than what floating point can lose, and the sums are exact rationals, so whatever is said to be
proved holds for the tables as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coordinator.planner.answer import Duals
from coordinator.planner.problem import Costs
from coordinator.planner.tables.segments import Table

if TYPE_CHECKING:
    from coordinator.planner.methods.flow import Prices

SCALE = 1 << 50
"""The largest potential: it and all differences are exact in floating point."""
_ULPS = 16 * 2.0**-52


@dataclass(frozen=True)
class Rows:
    """What limits plans besides flow and nodes, and which of it can bind."""

    n: int
    relayed: Table
    broker_rate: float | None
    max_slices: int
    slices_bind: bool
    errors: npt.NDArray[np.float64]
    budget: float

    @classmethod
    def of(cls, costs: Costs) -> Rows:
        """The rows of a problem."""
        errors = (
            np.zeros(costs.n + 1) if costs.errors is None else np.asarray(costs.errors, dtype=np.float64).copy()
        )
        errors[-1] = 0.0
        nodes = sum(kind.count for kind in costs.types)
        return cls(
            n=costs.n,
            relayed=costs.relayed,
            broker_rate=costs.broker_rate,
            max_slices=costs.max_slices,
            slices_bind=costs.max_slices < min(nodes, costs.n),
            errors=errors,
            budget=costs.goal.error_budget,
        )

    @property
    def lossless_only(self) -> bool:
        """Whether there are lossy cuts and none may be used."""
        return self.budget <= 0 and bool((self.errors > 0).any())

    @property
    def error_binds(self) -> bool:
        """Whether lossy cuts may be used, but not all of them."""
        return self.budget > 0 and float(self.errors.sum()) > self.budget

    def whole(self, prices: Prices, forward: Table, scale: float, aim_scale: int) -> Duals:
        """The prices times `scale` in integers, with the distances `forward` from state 0 as potentials."""
        reached = np.isfinite(forward)
        if not reached[-1]:
            # Nothing that is reachable leads on: a step at the border is a proof without any price.
            steps = np.where(reached, 0, SCALE)
            return Duals(tuple(int(p) for p in steps), error=self._forbidding(SCALE), scale=aim_scale)
        clipped = np.minimum(np.where(reached, forward, np.inf), forward[-1])
        potentials = np.floor(clipped * scale)
        error = self._forbidding(float(np.ptp(potentials))) if self.lossless_only else round(prices.error * scale)
        return Duals(
            tuple(int(p) for p in potentials),
            broker=round(prices.broker * scale),
            slices=round(prices.slices * scale),
            error=error,
            scale=aim_scale,
        )

    def _forbidding(self, largest: float) -> int:
        """A price of errors at which no lossy cut gains anything."""
        if not self.lossless_only:
            return 0
        return math.ceil(largest / float(self.errors[self.errors > 0].min()) * (1 + 1e-9)) + 1

    def gain(self, duals: Duals, aim: Table | None = None) -> Table:
        """By how much each arc's potentials differ beyond what it pays, rounded up: its type must pay that."""
        potentials = np.array(duals.potentials, dtype=np.float64)
        gain = potentials[None, :] - potentials[:, None] - float(duals.slices)
        largest = 2 * float(np.abs(potentials).max()) + duals.slices
        if duals.broker:
            paid = float(duals.broker) * self.relayed
            gain -= paid
            largest += float(paid.max(initial=0.0))
        if duals.error:
            lossy = float(duals.error) * self.errors
            gain -= lossy[None, :]
            largest += float(lossy.max(initial=0.0))
        if aim is not None and duals.scale:
            with np.errstate(invalid="ignore"):
                paid = float(duals.scale) * aim
            gain = gain - paid
            largest += float(paid[np.isfinite(paid)].max(initial=0.0))
        rounded: Table = gain + _ULPS * largest
        return rounded

    def room(self, duals: Duals) -> float:
        """What is left of the difference of the ends for types and broker."""
        return float(self._room(duals))

    def _room(self, duals: Duals) -> Fraction:
        ends = duals.potentials[-1] - duals.potentials[0] - duals.slices * self.max_slices
        return Fraction(ends) - duals.error * Fraction(max(self.budget, 0.0))


def proves(costs: Costs, rows: Rows, duals: Duals, period: float, *, closed: bool = False) -> bool:
    """Whether no plan has a smaller period; with `closed`, whether none has that period either."""
    gain = rows.gain(duals)
    room = rows._room(duals)
    for kind in costs.types:
        mask = kind.period <= period if closed else kind.period < period
        room -= kind.count * Fraction(max(0.0, float(gain[mask & np.isfinite(kind.period)].max(initial=0.0))))
    if duals.broker and rows.broker_rate is not None:
        room -= duals.broker * Fraction(period) * Fraction(rows.broker_rate)
    return room > 0


def bound_of(costs: Costs, rows: Rows, duals: Duals, period: float, aim: Sequence[Table]) -> float:
    """No plan within `period` has a smaller sum of `aim[type]` over its arcs."""
    if duals.scale <= 0:
        return -math.inf
    room = rows._room(duals)
    for kind, table in zip(costs.types, aim, strict=True):
        mask = (kind.period <= period) & np.isfinite(kind.period)
        room -= kind.count * Fraction(max(0.0, float(rows.gain(duals, table)[mask].max(initial=0.0))))
    if duals.broker and rows.broker_rate is not None:
        room -= duals.broker * Fraction(period) * Fraction(rows.broker_rate)
    value = room / duals.scale
    found = float(value)
    return found if Fraction(found) <= value else math.nextafter(found, -math.inf)
