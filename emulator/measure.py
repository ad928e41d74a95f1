"""One run of a load on a cluster with all that it cost: `drive`, and `Measured`, what it gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from emulator.figures import Answer, Figures, figures
from emulator.load import Asked, Frame, Load, Reference
from emulator.usage import Counted, NodeUse, Reachable, Usage, Works, read_usage


@dataclass(frozen=True)
class Measured:
    """One run: `began` and `ended` (monotonic seconds) bound what is measured; `window` is that of all clients.

    `nodes`, `broker_cpu`, `client_cpu` (seconds) are what was used in between; idle: the machine's idle share. They
    are empty or None for a cluster that does not count.
    """

    began: float
    ended: float
    window: int
    figures: Figures
    answers: tuple[Answer, ...]
    nodes: Mapping[str, NodeUse]
    broker_cpu: float | None = None
    client_cpu: float | None = None
    idle: float | None = None

    @property
    def seconds(self) -> float:
        """How long the measured interval was."""
        return self.ended - self.began

    @property
    def rate(self) -> float:
        """Frames per second: (results in the interval - 1) / (the last's moment - the first's)."""
        return self.figures.rate

    def latency(self, percent: float) -> float:
        """The nearest-rank percentile of the latencies in the interval, in seconds."""
        return self.figures.latency(percent)


def drive(
    where: Reachable,
    name: str,
    asked: Asked,
    *,
    frames: Sequence[Frame] = (),
    reference: Reference | None = None,
    counted: Counted | None = None,
    on_begin: Callable[[float, Load], None] = lambda began, load: None,
) -> Measured:
    """Load the pipeline `name` as `asked` and measure, after the warm-up, until the load is over.

    frames: what is sent in turn (none: four random ones); reference: one device, for a comparison of every bit;
    counted: the cluster again when what its parts use is to be read; on_begin: called with the moment (monotonic)
    at which the measurement begins. Raises SliceMQError when no results come or answers stay out.
    """
    with ExitStack() as stack:
        works = None if counted is None else stack.enter_context(Works(where))
        before: Usage | None = None

        def read_before() -> None:
            nonlocal before
            before = None if counted is None else read_usage(counted, works)

        # A few frames may be over before all is read, so they wait for it. A load of some seconds does not: the
        # pause would empty the pipeline.
        few = asked.frames is not None
        load = Load(where, name, asked, frames, reference, read_before if few else lambda: None)
        began = stack.enter_context(load).start()
        if not few:
            read_before()
        on_begin(began, load)
        ended = load.wait_over()
        after = None if counted is None else read_usage(counted, works)
        answers = load.finish(asked.give_up + 60.0)
        if asked.frames is not None:
            ended = max([answer.arrived for answer in answers], default=ended)
        return _measured(began, ended, load.window, answers, before, after)


def _measured(
    began: float, ended: float, window: int, answers: Sequence[Answer], before: Usage | None, after: Usage | None
) -> Measured:
    found = figures(answers, began, ended)
    if before is None or after is None:
        return Measured(began, ended, window, found, tuple(answers), {})
    processors = os.cpu_count() or 1
    return Measured(
        began=began,
        ended=ended,
        window=window,
        figures=found,
        answers=tuple(answers),
        nodes={n: use - before.nodes[n] for n, use in after.nodes.items() if n in before.nodes},
        broker_cpu=after.broker_cpu - before.broker_cpu,
        client_cpu=after.client_cpu - before.client_cpu,
        idle=(after.idle - before.idle) / (after.at - before.at) / processors,
    )
