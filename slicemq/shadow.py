"""Copies of frames for a revision that is only compared: their answers are never handed out (rule 3). PURE.

| state of a copy | event                        | then                                   |
| --------------- | ---------------------------- | -------------------------------------- |
| sent            | its own answer               | waits for the frame's                  |
|                 | the frame's answer           | waits for its own                      |
|                 | an error frame, age, the end | counted as failed, forgotten           |
|                 | of the frame without answer  |                                        |
| half            | the other answer             | compared, counted, forgotten           |

A copy costs the pipeline what a frame costs. So few are on their way at once, and a frame that finds no place
has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from slicemq.evidence import Figures, difference
from slicemq.frames import FrameHeader
from slicemq.messages import Route, TensorSpec
from slicemq.parts import Parts, Tensors

MOST_COPIES = 16
MOST_SECONDS = 30.0


@dataclass
class _Copy:
    parts: Parts
    frame: Tensors | None = None
    own: Tensors | None = None


class Shadow:
    """The copies that one client sent to one route."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self._figures = Figures()
        self._sent = 0
        self._compared = 0
        self._worst = 0.0
        self._sum = 0.0
        self._copies: dict[int, _Copy] = {}

    @property
    def room(self) -> bool:
        """Whether another copy may be sent."""
        return len(self._copies) < MOST_COPIES

    def sent(self, now: float, sequence: int, outputs: tuple[int, ...]) -> None:
        """A copy of the frame goes out; `outputs` are the indices of its outputs in the route's model."""
        self._sent += 1
        self._copies[sequence] = _Copy(Parts(now, self.route.lane(sequence).parts, outputs))

    def waits(self, sequence: int) -> bool:
        """Whether a copy of this frame is on its way."""
        return sequence in self._copies

    def specs(self, sequence: int, outputs: Sequence[TensorSpec]) -> dict[int, TensorSpec]:
        """What the tensors of this copy's answer must be; empty when there is no such copy."""
        copy = self._copies.get(sequence)
        return copy.parts.specs(outputs) if copy is not None and copy.own is None else {}

    def result(
        self,
        now: float,
        header: FrameHeader,
        tensors: Mapping[int, npt.NDArray[Any]],
        outputs: Sequence[TensorSpec],
    ) -> None:
        """A part of a copy's answer, or its error frame."""
        copy = self._copies.get(header.sequence)
        if copy is None or copy.own is not None:
            return
        if header.error:
            self._fail(header.sequence)
            return
        joined = copy.parts.add(header.part, header.parts, tensors, outputs)
        if joined == "tensors":
            self._fail(header.sequence)
        elif isinstance(joined, dict):
            self._figures.answered += 1
            self._figures.latencies.append(now - copy.parts.first)
            copy.own = joined
            self._compare(header.sequence, copy)

    def answered(self, sequence: int, tensors: Tensors) -> None:
        """The frame itself was answered."""
        copy = self._copies.get(sequence)
        if copy is not None:
            copy.frame = tensors
            self._compare(sequence, copy)

    def ended(self, sequence: int) -> None:
        """The frame itself ended without an answer: there is nothing to compare with."""
        self._copies.pop(sequence, None)

    def expire(self, now: float) -> None:
        """Give up the copies that are too old."""
        for sequence, copy in list(self._copies.items()):
            if now - copy.parts.first < MOST_SECONDS:
                return
            if copy.own is None:
                self._fail(sequence)
            else:
                del self._copies[sequence]

    def plain(self) -> dict[str, Any]:
        """For the request `evidence`."""
        figures = self._figures.plain()
        return {
            "revision": self.route.revision,
            "sent": self._sent,
            "compared": self._compared,
            "failed": self._figures.failed,
            "worst": min(self._worst, 1e9),
            "mean_difference": min(self._sum / self._compared if self._compared else 0.0, 1e9),
            "mean_ms": figures["mean_ms"],
            "p95_ms": figures["p95_ms"],
        }

    def _fail(self, sequence: int) -> None:
        del self._copies[sequence]
        self._figures.failed += 1

    def _compare(self, sequence: int, copy: _Copy) -> None:
        if copy.frame is None or copy.own is None:
            return
        del self._copies[sequence]
        off = difference(copy.frame, copy.own)
        self._compared += 1
        self._sum += off
        self._worst = max(self._worst, off)
