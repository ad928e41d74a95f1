"""Corrections from heartbeats: which samples count, when a correction is adopted, and what never adopts one."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.feedback import (
    ADOPT,
    AGENT,
    LEAST,
    MIN_SAMPLES,
    MOST,
    SAMPLE_FRAMES,
    WARM_FRAMES,
    Feedback,
    Subject,
)
from coordinator.known import Correction
from slicemq.messages import SliceBeat

SUBJECT = Subject("m" * 64, "n1", "litert 2", "0-9")
PREDICTED = 0.02


class Worker:
    """A slice that computes frame after frame; `beats` says so."""

    def __init__(self, feedback: Feedback, subject: Subject = SUBJECT, slice_id: str = "s0") -> None:
        self.feedback = feedback
        self.subject = subject
        self.slice_id = slice_id
        self.now = 100.0
        self.frames = 0
        self.epoch = "life-1"

    def beats(self, *seconds: float, fresh: int = SAMPLE_FRAMES, pause: float = 1.0, alone: bool = True) -> int:
        """One heartbeat for each mean time, `fresh` frames apart; how often a correction was adopted."""
        adopted = 0
        for mean in seconds:
            self.frames += fresh
            # `pause`: time passed over time computed.
            self.now += fresh * mean * pause
            beat = SliceBeat("p", "1-a", self.slice_id, "up", frames=self.frames, invoke_ms=1e3 * mean)
            adopted += self.feedback.note(self.now, beat, self.subject, PREDICTED, alone=alone, epoch=self.epoch)
        return adopted

    def warm(self) -> Worker:
        """Past the frames that are not looked at."""
        while self.frames <= WARM_FRAMES:
            self.beats(PREDICTED)
        self.feedback.__init__()  # type: ignore[misc]
        self.beats(PREDICTED)
        return self

    @property
    def factor(self) -> float:
        return self.feedback.in_use(self.subject)


@pytest.fixture
def worker() -> Worker:
    return Worker(Feedback()).warm()


def test_a_steady_difference_is_adopted_once_there_are_enough_samples(worker: Worker) -> None:
    assert worker.beats(*[0.03] * (MIN_SAMPLES - 1)) == 0
    assert worker.factor == 1.0
    assert worker.beats(0.03) == 1
    assert worker.factor == 1.5
    assert worker.beats(*[0.03] * 50) == 0, "what is in use is not adopted again"
    known = worker.feedback.corrections(SUBJECT.model, {"n1": "litert 2", "n2": "litert 2"})
    assert known == (Correction("n1", "litert 2", "0-9", 1.5),)
    assert worker.feedback.corrections(SUBJECT.model, {"n1": "litert 3"}) == (), "another version may differ"
    assert worker.feedback.corrections("other", {"n1": "litert 2"}) == ()


@pytest.mark.parametrize(("measured", "factor"), [(0.5, MOST), (0.0001, LEAST), (0.07, 3.5), (0.01, 0.5)])
def test_a_correction_is_bounded(worker: Worker, measured: float, factor: float) -> None:
    worker.beats(*[measured] * MIN_SAMPLES)
    assert worker.factor == pytest.approx(factor)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), noise=st.floats(0.0, 1.0))
def test_noise_around_the_prediction_never_adopts(seed: int, noise: float) -> None:
    """Means that stay within the share, and means that do not agree with each other."""
    rng, worker = random.Random(seed), Worker(Feedback()).warm()
    quiet = [PREDICTED * (1 + rng.uniform(-1, 1) * ADOPT * 0.85) for _ in range(60)]
    assert worker.beats(*quiet) == 0
    wild = Worker(Feedback()).warm()
    # In turns far above and far below: the middle half is wider than what counts as agreeing.
    spread = [PREDICTED * ((1.4 + noise) if k % 2 else (0.7 - 0.3 * noise)) for k in range(60)]
    assert wild.beats(*spread) == 0
    assert worker.factor == wild.factor == 1.0


def test_a_few_outliers_do_not_matter(worker: Worker) -> None:
    assert worker.beats(0.03, 0.9, 0.03, 0.03, 0.0301, 0.03, 0.031, 0.03) == 1
    assert worker.factor == pytest.approx(1.5, rel=0.04)


def test_an_adopted_one_moves_only_when_the_truth_does(worker: Worker) -> None:
    worker.beats(*[0.03] * 10)
    assert worker.beats(*[0.0335, 0.027] * 20) == 0
    assert worker.beats(*[0.045] * 20) >= 1
    assert worker.factor == pytest.approx(2.25)


@pytest.mark.parametrize("why", ["others compute too", "idle", "too few frames", "cold"])
def test_what_is_no_sample(worker: Worker, why: str) -> None:
    match why:
        case "others compute too":
            assert worker.beats(*[0.03] * 30, alone=False) == 0
            worker.beats(0.03)
            assert worker.beats(*[0.03] * (MIN_SAMPLES - 1)) == 1, "alone again, it counts"
        case "idle":
            assert worker.beats(*[0.03] * 30, pause=20.0) == 0
        case "too few frames":
            assert worker.beats(*[0.03] * (MIN_SAMPLES * 2), fresh=1) == 0
        case "cold":
            worker.epoch, worker.frames = "life-2", 0
            assert worker.beats(*[0.03] * 9, fresh=SAMPLE_FRAMES // 2) == 0


def test_a_slice_that_starts_again_counts_from_there(worker: Worker) -> None:
    worker.beats(*[0.03] * (MIN_SAMPLES - 1))
    worker.frames = 0
    assert worker.beats(*[0.03] * MIN_SAMPLES) == 0


def test_operators_that_were_not_measured_take_the_geometric_mean_of_the_nodes_slices() -> None:
    feedback = Feedback()
    for operators, seconds in (("0-9", 0.06), ("10-19", 0.015)):
        worker = Worker(feedback, Subject(SUBJECT.model, "n1", "litert 2", operators), operators)
        worker.beats(*[seconds] * (MIN_SAMPLES + 1 + WARM_FRAMES // SAMPLE_FRAMES))
    assert feedback.in_use(Subject(SUBJECT.model, "n1", "litert 2", "20-30")) == pytest.approx(1.5)
    assert feedback.in_use(Subject(SUBJECT.model, "n2", "litert 2", "0-9")) == 1.0


def test_a_slice_as_predicted_is_adopted_beside_one_that_is_not() -> None:
    """Else the other one's factor would stand for it too."""
    feedback = Feedback()
    count = MIN_SAMPLES + 1 + WARM_FRAMES // SAMPLE_FRAMES
    good = Worker(feedback, Subject(SUBJECT.model, "n1", "litert 2", "10-19"), "s1")
    bad = Worker(feedback, Subject(SUBJECT.model, "n1", "litert 2", "0-9"), "s0")
    assert good.beats(*[PREDICTED] * count) == 0
    assert bad.beats(*[0.06] * count) == 1
    assert good.factor == 3.0
    assert good.beats(PREDICTED) == 1
    assert good.factor == 1.0


def test_it_is_stored_and_bounded() -> None:
    feedback = Feedback()
    for number in range(30):
        worker = Worker(feedback, Subject(SUBJECT.model, "n1", "litert 2", str(number)), f"s{number}")
        worker.beats(*[0.05 * 3.0 ** (number % 2)] * (MIN_SAMPLES + 1 + WARM_FRAMES // SAMPLE_FRAMES))
    kept = feedback.corrections(SUBJECT.model, {"n1": "litert 2"})
    assert 0 < len(kept) <= 8
    other = Feedback()
    other.load(json.loads(json.dumps(feedback.plain())))
    assert other.corrections(SUBJECT.model, {"n1": "litert 2"}) == kept


@pytest.mark.parametrize(
    "body",
    [
        {},
        3,
        [3],
        [["m", "n", "r", "0-3"]],
        [["m", "n", "r", "0-3", "1.5"]],
        [["m", "n", "r", "0-3", 9.0]],
        [["m", "n", "r", "0-3", float("nan")]],
        [["m", "n", "r", "3-0", 1.5]],
        [["m", "n", "r", "a", 1.5]],
        [["m", "n", 7, "1", 1.5]],
    ],
)
def test_what_is_not_a_list_of_corrections_is_refused(body: object) -> None:
    with pytest.raises(ValueError, match=r"corrections|ranges|invalid literal"):
        Feedback().load(body)


@pytest.mark.parametrize(
    ("cpu", "cores", "factor"),
    [((0.2 - AGENT) * PREDICTED * 2, 0.2, 2.0), (2 * PREDICTED, 4.0, 2.0), (0.5, 0.0, None), (0.0, 0.2, None)],
)
def test_a_quota_counts_by_processor_time(cpu: float, cores: float, factor: float | None) -> None:
    feedback, frames, now = Feedback(), 0, 100.0
    for _ in range(40):
        frames, now = frames + SAMPLE_FRAMES, now + SAMPLE_FRAMES * PREDICTED
        beat = SliceBeat("p", "1-a", "s0", "up", frames=frames, invoke_ms=1e3 * PREDICTED, invoke_cpu_ms=1e3 * cpu)
        feedback.note(now, beat, SUBJECT, PREDICTED, alone=True, epoch="life", cores=cores)
    # Where processor time says nothing, the clock does: as predicted.
    assert feedback.in_use(SUBJECT) == pytest.approx(1.0 if factor is None else factor)
