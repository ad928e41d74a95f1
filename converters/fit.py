"""Seconds of single parts of a model out of the times of windows of neighbouring parts (pure).

A window's time is taken as the sum of its parts' seconds and one overhead. Windows of several lengths that overlap
give more equations than unknowns. They are solved by least squares of the relative errors, over seconds that are at
least zero: coordinate descent, with a weak pull to a first guess. Longer windows weigh more: a slice is a long one,
and what only long ones pay for (weights that come from memory and not from a cache) belongs to their parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

# How strongly the seconds are pulled to the guess, beside equations of weight 1 and more. Each pull is to what the
# one before it gave: a wrong guess is forgotten, and what the equations leave open stays near it.
_RIDGE = 0.01
_PULLS = 8
_ROUNDS = 400
_CHANGE = 1e-7
# What a clock cannot tell from nothing.
_TICK = 1e-9


@dataclass(frozen=True)
class Window:
    """Parts `first` to `last` (not included), run as one model in `seconds`."""

    first: int
    last: int
    seconds: float


@dataclass(frozen=True)
class Fit:
    """How well the solved seconds give the measured times back.

    windows: how many were measured. median, worst: of |computed - measured| / measured over them.
    whole: (computed - measured) / measured of the longest one.
    """

    windows: int
    median: float
    worst: float
    whole: float


def solve(windows: Sequence[Window], parts: int) -> tuple[Vector, float, Fit]:
    """(seconds of each part, shape [parts]; overhead of a window in seconds; the fit).

    Each part must be in some window. Raises ValueError when one is in none.
    """
    taken = np.array([max(w.seconds, _TICK) for w in windows])
    sizes = np.array([w.last - w.first for w in windows], dtype=np.float64)
    rows = np.zeros((len(windows), parts + 1))
    for row, window in zip(rows, windows, strict=True):
        row[window.first : window.last] = row[parts] = 1.0
    if not rows[:, :parts].any(axis=0).all():
        raise ValueError("a part is in no window")
    overhead = _first_overhead(windows, taken)
    guess = np.append(_first_seconds(windows, np.maximum(taken - overhead, 0.1 * taken), parts), overhead)
    scale = np.append(guess[:parts], 0.5 * taken.min())
    solved = guess
    for _ in range(_PULLS):
        solved = nonnegative(rows, taken, np.sqrt(sizes) / taken, solved, scale)
    errors = rows @ solved / taken - 1.0
    whole = float(errors[int(np.argmax(sizes))])
    fit = Fit(len(windows), float(np.median(np.abs(errors))), float(np.abs(errors).max()), whole)
    return solved[:parts], float(solved[parts]), fit


def nonnegative(
    rows: npt.NDArray[np.float64], wanted: Vector, weights: Vector, guess: Vector, scale: Vector
) -> Vector:
    """The x >= 0 that makes |weights (rows x - wanted)|^2 + ridge |(x - guess) / scale|^2 least.

    Shapes: rows [m, n], wanted and weights [m], guess and scale (positive) [n].
    """
    weighted = rows * scale * weights[:, None]
    gram = weighted.T @ weighted
    gram = gram + _RIDGE * np.eye(len(gram))
    right = weighted.T @ (wanted * weights) + _RIDGE * (guess / scale)
    x = guess / scale
    slope = gram @ x - right
    for _ in range(_ROUNDS):
        largest = 0.0
        for j in range(len(x)):
            change = max(-x[j], -slope[j] / gram[j, j])
            if change:
                x[j] += change
                slope += gram[j] * change
                largest = max(largest, abs(change))
        if largest < _CHANGE:
            break
    return np.asarray(x * scale)


def _first_overhead(windows: Sequence[Window], taken: Vector) -> float:
    """What each further cut adds to the time of the same parts: less than the shortest window takes."""
    sizes = np.array([w.last - w.first for w in windows], dtype=np.float64)
    # Seconds for each part against windows for each part: a line whose slope is the overhead.
    x, y = 1.0 / sizes, taken / sizes
    spread = np.sum(sizes * (x - np.average(x, weights=sizes)) ** 2)
    slope = np.sum(sizes * (x - np.average(x, weights=sizes)) * y) / spread if spread > 0 else 0.0
    return float(np.clip(slope, 0.0, 0.9 * taken.min()))


def _first_seconds(windows: Sequence[Window], taken: Vector, parts: int) -> Vector:
    """Each part's even share of the shortest window that has it."""
    seconds, shortest = np.zeros(parts), np.full(parts, np.inf)
    for window, time in zip(windows, taken, strict=True):
        size = window.last - window.first
        here = slice(window.first, window.last)
        closer = shortest[here] > size
        seconds[here] = np.where(closer, time / size, seconds[here])
        shortest[here] = np.minimum(shortest[here], size)
    return seconds
