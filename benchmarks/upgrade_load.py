"""Constant load for `benchmarks.upgrades`: a client that keeps its window full; its answers held against models."""

from __future__ import annotations

import bisect
import itertools
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_node.runtime import open_interpreter
from emulator.trial import same_bits, single_device
from slicemq.client import Pipeline, Result
from slicemq.options import BrokerOptions

Array = npt.NDArray[Any]
FRAMES = 5


@dataclass(frozen=True)
class Answered:
    """How a frame ended: when (monotonic), under which revision, and the models whose answer it is, bit for bit."""

    number: int
    sequence: int
    at: float
    revision: str
    models: frozenset[str]
    error: str = ""


@dataclass
class Judged:
    """What is wrong with the answers; all zero and empty: nothing."""

    submitted: int = 0
    answered: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    mixed: int = 0
    unplaced: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether each frame was answered once, in order, by the one model whose revision the answer names."""
        wrong = self.lost or self.doubled or self.disordered or self.mixed or self.unplaced
        return self.answered > 0 and not wrong


def judge(submitted: int, answers: Sequence[Answered], models: Mapping[str, str]) -> Judged:
    """Hold all answers, in the order in which they came, against the model that should have made each.

    models: the model of each revision. mixed: the bits are of no model at all, or of another one than the
    revision's. unplaced: nobody said which model the revision is of.
    """
    found = Judged(submitted, len(answers))
    seen: set[int] = set()
    expected = 0
    for answer in answers:
        wrong = ""
        if answer.sequence in seen:
            found.doubled, wrong = found.doubled + 1, "doubled"
        elif answer.sequence != expected:
            found.disordered, wrong = found.disordered + 1, f"in place of {expected}"
        seen.add(answer.sequence)
        expected = answer.sequence + 1
        if answer.error:
            found.lost, wrong = found.lost + 1, answer.error
        elif answer.revision not in models:
            found.unplaced, wrong = found.unplaced + 1, f"revision {answer.revision} is of an unknown model"
        elif models[answer.revision] not in answer.models:
            by = ", ".join(sorted(answer.models)) or "no model"
            found.mixed += 1
            wrong = f"{answer.revision} is of {models[answer.revision][:12]}, the bits are of {by}"
        if wrong and len(found.examples) < 10:
            found.examples.append(f"frame {answer.sequence}: {wrong}")
    missing = submitted - len(seen)
    if missing:
        found.examples.append(f"{missing} frame{'s' if missing > 1 else ''} of {submitted} has no answer")
    found.lost += missing
    return found


class Answers:
    """What each model answers to each of the frames that are sent in turn, by one device."""

    def __init__(self, files: Mapping[str, Path], seed: int) -> None:
        self._expected: dict[str, list[Sequence[Array]]] = {}
        self.frames: list[Array] = []
        generator = np.random.default_rng(seed)
        for name, file in files.items():
            interpreter = open_interpreter(file)
            if not self.frames:
                (spec,) = interpreter.inputs
                draws = (generator.uniform(-1, 1, spec.shape) for _ in range(FRAMES))
                self.frames = [draw.astype(spec.dtype) for draw in draws]
            infer = single_device(interpreter)
            self._expected[name] = [infer(frame) for frame in self.frames]

    def expected(self, name: str, number: int) -> Sequence[Array]:
        """What one device gives for frame `number`, in the model's order."""
        return self._expected[name][number % len(self.frames)]

    def by(self, number: int, outputs: Sequence[Array]) -> frozenset[str]:
        """The models that give these very outputs for frame `number`."""
        return frozenset(name for name in self._expected if same_bits(outputs, self.expected(name, number)))


class Constant:
    """A client that keeps its window full until it is left. Leaving it waits for every answer."""

    def __init__(
        self, name: str, broker: BrokerOptions, cluster: str, answers: Answers, rate: float | None
    ) -> None:
        """rate: frames per second at most (None: as many as the window takes)."""
        self._pipeline = Pipeline(name, broker, cluster=cluster)
        self._known = answers
        self._rate = rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="constant", daemon=True)
        self.submitted = 0
        self.answers: list[Answered] = []
        self.error: BaseException | None = None

    def __enter__(self) -> Constant:
        self._pipeline.open()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._thread.join(120.0)
        self._pipeline.close()
        self._thread.join(10.0)

    @property
    def revision(self) -> str:
        """The revision of the last answer."""
        return self.answers[-1].revision if self.answers else ""

    def _source(self) -> Iterator[Array]:
        due = time.monotonic()
        for number in itertools.count():
            if self._rate is not None:
                # What could not be sent in its time is not made up for: else a rate after a gap would be above it.
                due = max(due + 1 / self._rate, time.monotonic())
                self._stopping.wait(due - time.monotonic())
            if self._stopping.is_set():
                return
            self.submitted += 1
            yield self._known.frames[number % len(self._known.frames)]

    def _run(self) -> None:
        try:
            for number, result in enumerate(self._pipeline.map(self._source(), raise_errors=False)):
                self.answers.append(self._judged(number, result))
        except BaseException as error:  # noqa: BLE001 - raised where the load is awaited
            self.error = error

    def _judged(self, number: int, result: Result) -> Answered:
        now = time.monotonic()
        if result.error is not None:
            return Answered(number, result.sequence, now, result.revision, frozenset(), str(result.error))
        models = self._known.by(result.sequence, list(result.tensors.values()))
        return Answered(number, result.sequence, now, result.revision, models)


def rate_between(times: Sequence[float], begin: float, end: float) -> float:
    """Answers per second of an interval; `times` in rising order."""
    count = bisect.bisect_left(times, end) - bisect.bisect_left(times, begin)
    return count / (end - begin) if end > begin else 0.0


def longest_gap(times: Sequence[float], begin: float, end: float) -> float:
    """The longest time without an answer within an interval, in seconds."""
    inside = times[bisect.bisect_left(times, begin) : bisect.bisect_left(times, end)]
    edges = [begin, *inside, end]
    return max(later - earlier for earlier, later in itertools.pairwise(edges))


def median(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")
