"""A bound by weak duality, from the integers of the certificate, in exact rationals (PURE).

Star: with integers u (a potential for each state), b (the broker), m (slices) and e (errors), every arc (i, j) of a
plan on a node of type k, whose stage is shorter than the claimed period, has ::

    u[j] - u[i]  <=  aim(k, i, j) * scale + price[k] + b * relayed(i, j) + m + e * error(j)

when price[k] >= 0 is the largest excess of any such arc. A plan's arcs lead from state 0 to state n and use each
node once, at most `max_slices` arcs, at most period * rate bytes of the broker and the error budget. Added up::

    u[n] - u[0]  <=  aim(plan) * scale + sum(count * price) + b * period * rate + m * max_slices + e * budget

For the period the aim is 0: where the left side is the larger one, no plan is shorter than the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from coordinator.plan_check.flows import Exact
from coordinator.plan_check.ledger import Ledger
from coordinator.plan_check.reading import Row, listed, whole
from slicemq.errors import PlanError

Aim = Callable[[int, int, int], Exact]
DIGITS = 1 << 2000


@dataclass(frozen=True)
class Duals:
    """The integers of a certificate."""

    potentials: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    ends: tuple[tuple[int, ...], ...]
    broker: int
    slices: int
    error: int
    scale: int


def read(row: Row, ledger: Ledger) -> Duals:
    """The integers, as many as the costs file has states and types. Raises PlanError."""

    def whole_row(value: object, length: int, where: str) -> tuple[int, ...]:
        found = tuple(whole(item, where, -DIGITS, DIGITS) for item in listed(value, where))
        if len(found) != length:
            raise PlanError(f"{where}: {len(found)} numbers, expected {length}")
        return found

    states = len(ledger.states)
    linked = ledger.hop_bytes is not None
    broker, slices, error, scale = (row.whole(name, 0, DIGITS) for name in ("broker", "slices", "error", "scale"))
    starts, ends = (
        tuple(whole_row(line, states, row.at(name)) for line in row.items(name)) for name in ("starts", "ends")
    )
    if len(starts) != len(ends) or len(starts) != (len(ledger.kinds) if linked else 0):
        raise PlanError(f"{row.where}: {len(starts)} rows of starts, expected {len(ledger.kinds) if linked else 0}")
    potentials = whole_row(row["potentials"], 2 if linked else states, row.at("potentials"))
    return Duals(potentials, starts, ends, broker, slices, error, scale)


def room(
    duals: Duals, ledger: Ledger, period: Fraction | None, *, strict: bool, aim: Aim | None = None
) -> Fraction:
    """By how much the left side is larger than the right one without its first term.

    `period` (None: none is given) is what plans must be shorter than, or, with strict False, not longer than.
    """
    most = Fraction(1 << 200) if period is None else period
    left: Exact = duals.potentials[-1] - duals.potentials[0] - duals.slices * ledger.max_slices
    left -= duals.error * ledger.budget
    if duals.broker:
        if period is None or ledger.broker_rate is None:
            raise PlanError("plan: certificate: a price for the broker, which limits nothing here")
        left -= duals.broker * period * ledger.broker_rate
    if ledger.hop_bytes is not None:
        _check_hops(duals, ledger, most, strict)
    for number, kind in enumerate(ledger.kinds):
        starts, ends = duals.potentials, duals.potentials
        if ledger.hop_bytes is not None:
            starts, ends = duals.starts[number], duals.ends[number]
        price: Exact = 0
        for i, row in enumerate(kind.within(most, strict)):
            first = starts[i] + duals.slices
            for j in row:
                excess: Exact = ends[j] - first
                if excess <= price:
                    continue
                if duals.broker:
                    excess -= duals.broker * ledger.flow(i, j).relayed
                if duals.error and j != ledger.n:
                    excess -= duals.error * ledger.states[j].error
                if aim is not None and duals.scale:
                    excess -= duals.scale * aim(number, i, j)
                price = max(price, excess)
        left -= kind.count * price
    return Fraction(left)


def _check_hops(duals: Duals, ledger: Ledger, most: Fraction, strict: bool) -> None:
    """Raises PlanError where a hop that plans may use leads from a lower potential to a higher one."""
    states: Sequence[int] = range(1, ledger.n)
    for a, ends in enumerate(duals.ends):
        if duals.starts[a][0] > duals.potentials[0] or ends[ledger.n] < duals.potentials[1]:
            raise PlanError(f"plan: certificate: the potentials of node {ledger.kinds[a].ids[0]} at the ends")
        for b, starts in enumerate(duals.starts):
            for s in states if a != b else ():
                if starts[s] <= ends[s]:
                    continue
                seconds = ledger.hop(a, b, s)
                if (
                    ledger.states[s].legal
                    and seconds is not None
                    and (seconds < most if strict else seconds <= most)
                ):
                    nodes = f"{ledger.kinds[a].ids[0]} to {ledger.kinds[b].ids[0]}"
                    raise PlanError(f"plan: certificate: the hop from {nodes} at state {s} is not bounded")
