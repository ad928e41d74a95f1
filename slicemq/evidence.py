"""What a client sees of revisions that are compared: frames answered, how fast, and failures. PURE."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_LATENCIES = 200
_REVISIONS = 4


@dataclass
class Figures:
    """Of one revision. Counts are since the client's life began; latencies (seconds) the last ones."""

    answered: int = 0
    failed: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def plain(self) -> dict[str, float]:
        """For the request `evidence`."""
        ordered = sorted(self.latencies)
        mean = sum(ordered) / len(ordered) if ordered else 0.0
        p95 = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)] if ordered else 0.0
        return {
            "answered": self.answered,
            "failed": self.failed,
            "mean_ms": round(1e3 * mean, 3),
            "p95_ms": round(1e3 * p95, 3),
        }


class Evidence:
    """The figures of the latest revisions, at most four; older ones are forgotten."""

    def __init__(self) -> None:
        self._of: dict[str, Figures] = {}

    def answered(self, revision: str, seconds: float) -> None:
        """A frame came back, `seconds` after it was first sent to this revision."""
        figures = self._figures(revision)
        figures.answered += 1
        figures.latencies.append(seconds)

    def failed(self, revision: str) -> None:
        """A frame ended there with an error, or was not answered by its deadline."""
        self._figures(revision).failed += 1

    def plain(self, revisions: Iterable[str]) -> dict[str, dict[str, float]]:
        """The figures of these revisions."""
        return {revision: self._figures(revision).plain() for revision in revisions}

    def _figures(self, revision: str) -> Figures:
        figures = self._of.pop(revision, None) or Figures()
        self._of[revision] = figures
        while len(self._of) > _REVISIONS:
            del self._of[next(iter(self._of))]
        return figures


def difference(one: Mapping[int, npt.NDArray[Any]], other: Mapping[int, npt.NDArray[Any]]) -> float:
    """max |a - b| / max |a| over all outputs (1 where only b is not zero; infinite where a value is not finite)."""
    worst = 0.0
    for index, array in one.items():
        a, b = np.asarray(array, np.complex128), np.asarray(other[index], np.complex128)
        if a.shape != b.shape:
            return math.inf
        if np.array_equal(a, b, equal_nan=True):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            scale, off = float(np.max(np.abs(a), initial=0.0)), float(np.max(np.abs(a - b), initial=0.0))
        if not math.isfinite(scale) or not math.isfinite(off):
            return math.inf
        worst = max(worst, off / scale if scale > 0 else 1.0)
    return worst
