"""A bound on plans in which frames are shared out, over nodes of a stage or over pipelines, by prices (PURE).

Take a period P and prices w[k] of a node of type k and b of a byte that the broker delivers, none negative. A node
on an arc of c seconds takes at most the share min(1, P / c) of all frames, so that it covers its price when each
share pays w[k] * max(1, c / P). Every frame goes from state 0 to state n and pays at least the cheapest path; all
nodes and the broker are worth sum(count * w) + b * P * rate. Where the path costs more, no plan of period P exists.

Of one pipeline (`groups`) all frames pass each of its arcs on one group of nodes: they pay at least what the
cheapest nodes together take, each no more than its share.

Any prices prove; good ones are looked for in floating point, by weights that grow with what the cheapest paths use,
and the last step is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from coordinator.plan_check.flows import Exact
from coordinator.plan_check.ledger import Ledger

ROUNDS = 150
CELLS = 20_000_000
"""How many prices of arcs the search for prices may look at."""
Arc = tuple[int, int, list[tuple[int, float]]]


def proves(ledger: Ledger, period: Fraction, groups: bool) -> bool:
    """Whether prices were found that prove that no plan has a period of `period` seconds or less.

    `groups`: of one pipeline with replicated stages; else of any number of pipelines.
    """
    # Often the broker alone is what limits.
    if ledger.broker_rate is not None and _exactly(ledger, period, [0.0] * len(ledger.kinds), 1.0, groups):
        return True
    arcs = _arcs(ledger)
    counts = [kind.count for kind in ledger.kinds]
    target = float(period)
    cells = sum(len(kinds) for _, _, kinds in arcs) + 1
    weights = [0.0] * len(counts)
    rate = None if ledger.broker_rate is None else float(ledger.broker_rate) * target
    broker = 0.0
    best: tuple[float, list[float], float] = (0.0, [], 0.0)
    for number in range(max(1, min(ROUNDS, CELLS // cells))):
        top = max(*weights, broker) if rate is not None else max(weights)
        shares = [math.exp(weight - top) for weight in weights]
        prices = [share / count for share, count in zip(shares, counts, strict=True)]
        byte = math.exp(broker - top) / rate if rate is not None and number else 0.0
        worth = sum(shares) + (byte * rate if rate is not None else 0.0)
        length, path = _cheapest(ledger, arcs, prices, byte, target, groups)
        if length / worth > best[0]:
            best = length / worth, prices, byte
            if best[0] > 1 and _exactly(ledger, period, prices, byte, groups):
                return True
        step = 3.0 / math.sqrt(number + 1)
        used = [0.0] * len(counts)
        for place in path:
            i, j, kinds = arcs[place]
            for k, share in _filled(ledger, kinds, prices, target, groups)[1]:
                used[k] += share / counts[k]
            if rate is not None:
                broker += step * float(ledger.flow(i, j).relayed) / rate
        weights = [weight + step * use for weight, use in zip(weights, used, strict=True)]
    return False


def _arcs(ledger: Ledger) -> list[Arc]:
    """The arcs that some type may run with the types and their seconds, by the state where they begin."""
    found = []
    for i, row in enumerate(ledger.ends):
        for j in row:
            kinds = [(k, float(kind.stage(i, j) or 0)) for k, kind in enumerate(ledger.kinds) if kind.may(i, j)]
            if kinds:
                found.append((i, j, kinds))
    return found


def _filled(
    ledger: Ledger, kinds: Sequence[tuple[int, Any]], prices: Sequence[Any], period: Any, groups: bool
) -> tuple[Any, list[tuple[int, Any]]]:
    """What all frames pay at least for an arc, and how many nodes of which type they take; None where none can."""
    one = period / period
    able = [(prices[k] * max(one, seconds / period), k, max(one, seconds / period)) for k, seconds in kinds]
    if not groups:
        paid, k, slower = min(able)
        return paid, [(k, slower)]
    left = one
    total = one - one
    taken = []
    for paid, k, slower in sorted(able):
        share = min(left, ledger.kinds[k].count / slower)
        total += share * paid
        left -= share
        taken.append((k, share * slower))
        if left <= 0:
            return total, taken
    return None, taken


def _cheapest(
    ledger: Ledger, arcs: Sequence[Arc], prices: Sequence[float], byte: float, period: float, groups: bool
) -> tuple[float, list[int]]:
    """The length of the cheapest path and the places of its arcs; infinite and none when there is no path."""
    best = [math.inf] * (ledger.n + 1)
    came = [-1] * (ledger.n + 1)
    best[0] = 0.0
    for place, (i, j, kinds) in enumerate(arcs):
        if best[i] == math.inf:
            continue
        paid = _filled(ledger, kinds, prices, period, groups)[0]
        if paid is None:
            continue
        length = best[i] + paid + (byte * float(ledger.flow(i, j).relayed) if byte else 0.0)
        if length < best[j]:
            best[j], came[j] = length, place
    path: list[int] = []
    state = ledger.n
    while state and came[state] >= 0:
        path.append(came[state])
        state = arcs[came[state]][0]
    return best[-1], path[::-1]


def _exactly(ledger: Ledger, period: Fraction, prices: Sequence[float], byte: float, groups: bool) -> bool:
    """The proof itself, in rationals."""
    worth = sum((Fraction(w) * kind.count for w, kind in zip(prices, ledger.kinds, strict=True)), Fraction(0))
    if ledger.broker_rate is not None:
        worth += Fraction(byte) * period * ledger.broker_rate
    exact = [Fraction(price) for price in prices]
    best: list[Exact | None] = [0, *(None for _ in range(ledger.n))]
    for i, row in enumerate(ledger.ends):
        begun = best[i]
        if begun is None:
            continue
        for j in row:
            kinds = [(k, Fraction(kind.stage(i, j) or 0)) for k, kind in enumerate(ledger.kinds) if kind.may(i, j)]
            paid = _filled(ledger, kinds, exact, period, groups)[0] if kinds else None
            if paid is not None:
                length = begun + paid + (Fraction(byte) * ledger.flow(i, j).relayed if byte else 0)
                known = best[j]
                if known is None or length < known:
                    best[j] = length
    return best[-1] is None or best[-1] > worth
