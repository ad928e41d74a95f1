"""Predicted against measured: what running slices really take, and corrections for later plans. PURE.

A worker's heartbeat gives the mean time of its last calls of the interpreter. A *sample* is such a mean after
enough frames that no sample has seen, taken while the slice has had its node to itself and has not idled: what
shares a node is counted by `planner.tables.sharing`, and a cold cache or a clock that was lowered says nothing of a
slice under load. The correction is the median of the latest samples over the prediction by the profile and the
node's speeds alone.

A correction changes plans, so noise must not: it is adopted when the samples agree with each other and the
factor differs by more than `ADOPT` from the one that plans use.
"""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.known import Correction, mean_factor, operators_of
from coordinator.membership import SliceKey
from slicemq.messages import SliceBeat

WARM_FRAMES = 40
"""A slice's first frames are not looked at: the mean in its heartbeat speaks of its last 32 frames."""
SAMPLE_FRAMES = 8
"""A sample has so many frames that none before it has seen."""
MIN_SAMPLES = 5
SAMPLES = 15
"""A median is taken of so many samples at most; with fewer than MIN_SAMPLES there is none."""
LOAD = 0.1
"""A slice is under load when it computed for at least this share of the time since its last sample."""
AGREE = 0.1
"""Samples agree when the middle half of them lies within this share of their median."""
ADOPT = 0.05
"""A correction is adopted when it differs by more than this share from the one in use."""
LEAST, MOST = 0.25, 4.0
AGENT = 0.005
"""What a node's agent takes of a core; a node with less than one core takes it off its speeds, too."""
_PER_NODE = 8
_PLACES = 1024
_NOTHING: Mapping[tuple[str, str], float] = {}
_TRACKS = 8192


@dataclass(frozen=True)
class Subject:
    """What a figure speaks of: some operators (as ranges) of a model on a node in one version of its runtime."""

    model: str
    node: str
    runtime: str
    operators: str


@dataclass
class _Track:
    """One running slice: its counters at the last sample, and its samples in seconds."""

    frames: int
    since: float
    alone: bool = True
    samples: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))


class Feedback:
    """Samples of running slices, and the corrections in use. Memory is bounded."""

    def __init__(self) -> None:
        self._tracks: OrderedDict[tuple[str, SliceKey], _Track] = OrderedDict()
        # (model, node) -> (runtime, operators) -> factor; the latest last in both.
        self._factors: OrderedDict[tuple[str, str], OrderedDict[tuple[str, str], float]] = OrderedDict()

    def note(
        self,
        now: float,
        beat: SliceBeat,
        subject: Subject,
        predicted: float,
        *,
        alone: bool,
        epoch: str,
        cores: float = 1.0,
    ) -> bool:
        """Take in one slice's heartbeat; whether a correction was adopted.

        `predicted`: seconds of one call by the profile and the node's speeds, without any correction.
        `alone`: no other slice of the node has computed since its last heartbeat. `epoch`: the node's life.
        `cores`: what its interpreter's thread has of a core; 0 when there are several threads.
        """
        key = (epoch, (beat.pipeline, beat.revision, beat.slice))
        track = self._tracks.get(key)
        if track is None or beat.frames < track.frames:
            self._tracks[key] = _Track(beat.frames, now)
            while len(self._tracks) > _TRACKS:
                self._tracks.popitem(last=False)
            return False
        track.alone &= alone
        fresh = beat.frames - track.frames
        if fresh < SAMPLE_FRAMES:
            return False
        seconds = _call_seconds(beat, cores)
        busy = fresh * seconds >= LOAD * (now - track.since)
        counts = track.alone and busy and beat.frames >= WARM_FRAMES and seconds > 0.0
        track.frames, track.since, track.alone = beat.frames, now, True
        if not counts or predicted <= 0.0:
            return False
        track.samples.append(seconds)
        self._tracks.move_to_end(key)
        return self._consider(subject, track, predicted)

    def corrections(self, model: str, runtimes: dict[str, str]) -> tuple[Correction, ...]:
        """The corrections in use for a model on some nodes (node -> its runtime), the latest last."""
        return tuple(
            Correction(node, runtime, operators, factor)
            for node, runtime in sorted(runtimes.items())
            for (version, operators), factor in self._known(model, node).items()
            if version == runtime
        )

    def in_use(self, subject: Subject) -> float:
        """What plans correct these operators by on this node now."""
        own = self._known(subject.model, subject.node).get((subject.runtime, subject.operators))
        if own is not None:
            return own
        return mean_factor(self.corrections(subject.model, {subject.node: subject.runtime}))

    def forget(self, node: str) -> None:
        """Drop the corrections of a node."""
        for place in [place for place in self._factors if place[1] == node]:
            del self._factors[place]

    def plain(self) -> list[Any]:
        """The corrections in JSON's terms, for the store."""
        return [
            [*place, *what, factor] for place, factors in self._factors.items() for what, factor in factors.items()
        ]

    def load(self, body: Any) -> None:
        """Take over what `plain` gave. Raises ValueError for anything else."""
        if not isinstance(body, list):
            raise ValueError("corrections: expected a list")
        for row in body:
            texts = isinstance(row, list) and len(row) == 5 and all(isinstance(text, str) for text in row[:4])
            if not texts or not isinstance(row[4], float) or not LEAST <= row[4] <= MOST:
                raise ValueError("corrections: expected rows of model, node, runtime, operators and a factor")
            operators_of(row[3])
            self._put(Subject(*row[:4]), row[4])

    def _known(self, model: str, node: str) -> Mapping[tuple[str, str], float]:
        return self._factors.get((model, node)) or _NOTHING

    def _consider(self, subject: Subject, track: _Track, predicted: float) -> bool:
        samples = sorted(track.samples)
        if len(samples) < MIN_SAMPLES:
            return False
        middle = statistics.median(samples)
        quarter = len(samples) // 4
        if samples[-1 - quarter] - samples[quarter] > AGREE * middle:
            return False
        factor = min(MOST, max(LEAST, middle / predicted))
        if abs(math.log(factor / self.in_use(subject))) <= math.log1p(ADOPT):
            return False
        self._put(subject, round(factor, 4))
        return True

    def _put(self, subject: Subject, factor: float) -> None:
        place, what = (subject.model, subject.node), (subject.runtime, subject.operators)
        factors = self._factors.setdefault(place, OrderedDict())
        factors[what] = factor
        factors.move_to_end(what)
        self._factors.move_to_end(place)
        while len(factors) > _PER_NODE:
            factors.popitem(last=False)
        while len(self._factors) > _PLACES:
            self._factors.popitem(last=False)


def _call_seconds(beat: SliceBeat, cores: float) -> float:
    """What a call takes by the clock when nothing but its own share of a core stops it.

    Under a quota the clock alone deceives: a call may fit into one burst, and what waits for the next one is then
    something else, or nothing is. Nodes before 1.2 tell no processor time.
    """
    if beat.invoke_cpu_ms > 0.0 and cores > 0.0:
        own = cores if cores >= 1.0 else max(0.1 * cores, cores - AGENT)
        return beat.invoke_cpu_ms / 1e3 / min(1.0, own)
    return beat.invoke_ms / 1e3
