"""Frames through a pipeline while faults happen; every result held against the single device's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.client import Pipeline, Result
from slicemq.options import BrokerOptions

Arrays = Sequence[npt.NDArray[Any]]
Reference = Callable[[npt.NDArray[Any]], Arrays]
"""The whole model on one device: its input in, its outputs in the model's order out."""


@dataclass
class Fault:
    """What was done before a frame, and what it cost. Times in seconds since the trial began."""

    what: str
    at: float
    old_revision: str
    new_revision: str = ""
    recovered: float | None = None

    @property
    def cost(self) -> float | None:
        """Seconds from the fault to the first result of a newer revision."""
        return None if self.recovered is None else self.recovered - self.at


@dataclass
class Report:
    """What became of the frames."""

    frames: int
    results: int = 0
    disordered: int = 0
    different: int = 0
    failed: int = 0
    seconds: float = 0.0
    revisions: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    resent: int = 0
    doubles: int = 0

    @property
    def sound(self) -> bool:
        """Whether every frame was answered once, in order, and as a single device would."""
        return self.results == self.frames and not (self.disordered or self.different or self.failed)

    def rate(self) -> float:
        """Frames per second over the stretches without a fault: the inverse of the median time between results."""
        gaps = np.diff(self.arrivals)
        return float(1.0 / np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else 0.0


def single_device(interpreter: Any) -> Reference:
    """The reference that an open interpreter of the whole model gives."""

    def infer(array: npt.NDArray[Any]) -> Arrays:
        interpreter.set_input(0, array)
        interpreter.invoke()
        return [np.array(interpreter.output(i)) for i in range(len(interpreter.outputs))]

    return infer


def run_trial(
    broker: BrokerOptions,
    cluster: str,
    name: str,
    inputs: Sequence[npt.NDArray[Any]],
    frames: int,
    reference: Reference,
    faults: Mapping[int, Callable[[str], str]] | None = None,
    on_result: Callable[[int, Result], None] = lambda number, result: None,
) -> Report:
    """Send `frames` frames, the `inputs` in turn, with a full window.

    `faults` maps a frame's number to what is done just before it is submitted: it gets the revision of the last
    result and returns what it did in words. A result counts as different unless it has the very bits that
    `reference` gives.
    """
    expected = [reference(array) for array in inputs]
    report = Report(frames)
    latest = ""

    def source() -> Any:
        for number in range(frames):
            if faults and number in faults:
                what = faults[number](latest)
                report.faults.append(Fault(what, time.monotonic() - begun, latest))
            yield inputs[number % len(inputs)]

    with Pipeline(name, broker, cluster=cluster) as pipeline:
        begun = time.monotonic()
        for number, result in enumerate(pipeline.map(source(), raise_errors=False)):
            now = time.monotonic() - begun
            report.results += 1
            report.arrivals.append(now)
            report.latencies.append(result.latency)
            report.disordered += result.sequence != number
            if result.error is not None:
                report.failed += 1
                continue
            outputs = list(result.tensors.values())
            report.different += not same_bits(outputs, expected[number % len(inputs)])
            latest = result.revision
            if latest not in report.revisions:
                report.revisions.append(latest)
            for fault in report.faults:
                if fault.recovered is None and result.revision != fault.old_revision:
                    fault.recovered, fault.new_revision = now, result.revision
            on_result(number, result)
        report.seconds = time.monotonic() - begun
        report.resent, report.doubles = pipeline.stats.resent, pipeline.stats.doubles
    return report


def same_bits(got: Arrays, expected: Arrays) -> bool:
    """Whether dtypes, shapes and every bit agree."""
    return len(got) == len(expected) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(got, expected, strict=True)
    )
