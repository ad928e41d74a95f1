"""What frames took, from what each of them did: rate, latencies, faults. PURE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Answer:
    """How one frame ended. `submitted` and `arrived` are seconds on the monotonic clock, `latency` seconds.

    revision: which one answered; attempts: how often it was sent; error: why there is no result (empty: there is);
    equal: whether the result has the very bits of one device's (None: not compared).
    """

    client: int
    sequence: int
    submitted: float
    arrived: float
    latency: float
    revision: str
    attempts: int
    error: str = ""
    equal: bool | None = None


@dataclass(frozen=True)
class Figures:
    """All frames, and those of the measured interval: `frames`, `rate` (frames/s), `latencies` (s, ascending)."""

    submitted: int
    answered: int
    failed: int
    different: int
    compared: int
    disordered: int
    sent_again: int
    frames: int
    seconds: float
    rate: float
    latencies: tuple[float, ...]
    revisions: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every frame was answered, in its client's order, and (where compared) as one device would."""
        return not (self.failed or self.different or self.disordered) and self.answered == self.submitted

    def latency(self, percent: float) -> float:
        """The nearest-rank percentile in seconds; NaN without a frame."""
        return percentile(self.latencies, percent)

    def to_dict(self) -> dict[str, Any]:
        """As the report has it: latencies as percentiles in ms."""
        return {
            "submitted": self.submitted,
            "answered": self.answered,
            "failed": self.failed,
            "compared": self.compared,
            "different": self.different,
            "disordered": self.disordered,
            "sent_again": self.sent_again,
            "frames": self.frames,
            "seconds": self.seconds,
            "rate": self.rate,
            "latency_ms": {f"p{percent}": 1e3 * self.latency(percent) for percent in PERCENTILES},
            "revisions": list(self.revisions),
        }


def figures(answers: Sequence[Answer], began: float, ended: float) -> Figures:
    """The figures of `answers` (each client's in its order), measured over the results from `began` to `ended`.

    The rate is (results in the interval - 1) / (the last's moment - the first's); 0 with fewer than two.
    """
    inside = sorted((a for a in answers if not a.error and began <= a.arrived <= ended), key=lambda a: a.arrived)
    span = inside[-1].arrived - inside[0].arrived if inside else 0.0
    good = [answer for answer in answers if not answer.error]
    return Figures(
        submitted=len(answers),
        answered=len(good),
        failed=len(answers) - len(good),
        different=sum(answer.equal is False for answer in answers),
        compared=sum(answer.equal is not None for answer in answers),
        disordered=_disordered(answers),
        sent_again=sum(max(0, answer.attempts - 1) for answer in answers),
        frames=len(inside),
        seconds=span,
        rate=(len(inside) - 1) / span if span > 0 else 0.0,
        latencies=tuple(sorted(answer.latency for answer in inside)),
        revisions=tuple(dict.fromkeys(a.revision for a in sorted(good, key=lambda a: a.arrived))),
    )


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN of nothing."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(percent / 100 * len(ascending)) - 1)]


def throughput(arrivals: Sequence[float], began: float, ended: float, bins: int) -> list[tuple[float, float]]:
    """(middle of the bin in seconds after `began`, frames per second) over equal bins."""
    width = (ended - began) / bins
    counts = [0] * bins
    for at in arrivals:
        place = math.floor((at - began) / width)
        if 0 <= place < bins:
            counts[place] += 1
    return [((place + 0.5) * width, count / width) for place, count in enumerate(counts)]


def _disordered(answers: Sequence[Answer]) -> int:
    last: dict[int, int] = {}
    wrong = 0
    for answer in answers:
        wrong += answer.sequence <= last.get(answer.client, -1)
        last[answer.client] = max(answer.sequence, last.get(answer.client, -1))
    return wrong
