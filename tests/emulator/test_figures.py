"""Rates, percentiles and faults from what each frame did, by hand."""

from __future__ import annotations

import math

import pytest

from emulator.figures import Answer, figures, percentile, throughput
from emulator.usage import NodeUse, Tally, idle_seconds
from slicemq.messages import Heartbeat, SliceBeat


def _answer(number: int, arrived: float, latency: float = 0.1, client: int = 0, **more: object) -> Answer:
    known: dict[str, object] = {"revision": "1-aaaaaaaa", "attempts": 1, **more}
    return Answer(client, number, arrived - latency, arrived, latency, **known)  # type: ignore[arg-type]


def test_the_rate_is_of_the_results_in_the_interval() -> None:
    # 5 results in [10, 12]: the first at 10.0, the last at 11.6: 4 frames in 1.6 s.
    answers = [_answer(n, 9.6 + 0.4 * n, latency=0.1 * (n + 1)) for n in range(8)]
    found = figures(answers, 10.0, 12.0)
    assert (found.frames, found.submitted, found.answered) == (6, 8, 8)
    assert found.seconds == pytest.approx(2.0)
    assert found.rate == pytest.approx(2.5)
    assert found.latencies == pytest.approx((0.2, 0.3, 0.4, 0.5, 0.6, 0.7))
    assert found.sound


def test_faults_are_counted_and_failed_frames_are_in_no_rate() -> None:
    answers = [
        _answer(0, 1.0, equal=True),
        _answer(1, 2.0, error="gave-up", revision=""),
        _answer(2, 3.0, equal=False, attempts=3),
        _answer(0, 1.5, client=1, revision="2-bbbbbbbb"),
        _answer(0, 4.0, client=1),
    ]
    found = figures(answers, 0.0, 10.0)
    assert (found.submitted, found.answered, found.failed) == (5, 4, 1)
    assert (found.compared, found.different, found.disordered, found.sent_again) == (2, 1, 1, 2)
    assert found.frames == 4
    assert found.rate == pytest.approx(1.0)
    assert found.revisions == ("1-aaaaaaaa", "2-bbbbbbbb")
    assert not found.sound


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_frames_have_no_rate(count: int) -> None:
    assert figures([_answer(n, 1.0 + n) for n in range(count)], 0.0, 9.0).rate == 0.0


@pytest.mark.parametrize(("percent", "expected"), [(50, 5.0), (90, 9.0), (95, 10.0), (99, 10.0), (0, 1.0)])
def test_percentiles_are_of_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 11)], percent) == expected


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(percentile([], 50))


def test_throughput_counts_in_bins() -> None:
    assert throughput([0.1, 0.2, 1.9, 5.0], 0.0, 2.0, 4) == [(0.25, 4.0), (0.75, 0.0), (1.25, 0.0), (1.75, 2.0)]


def _beat(frames: int, invoke: float, node: str = "a", epoch: str = "e1") -> Heartbeat:
    one = SliceBeat("p", "1-aaaaaaaa", "s0", "up", frames=frames, invoke_ms=invoke, invoke_cpu_ms=invoke / 2)
    return Heartbeat(node, epoch, 1, 0.0, 0, (one,))


def test_heartbeats_add_up_from_the_first_one_seen() -> None:
    tally = Tally()
    for beat in (_beat(10, 5.0), _beat(14, 10.0), _beat(14, 10.0), _beat(16, 20.0), _beat(7, 1.0, "b")):
        tally.add(beat)
    assert tally.nodes["a"].frames == 6
    assert tally.nodes["a"].invoke == pytest.approx(4 * 0.010 + 2 * 0.020)
    assert tally.nodes["a"].invoke_cpu == pytest.approx(0.04)
    assert tally.nodes["b"].frames == 0


def test_a_worker_that_began_again_counts_from_nothing() -> None:
    tally = Tally()
    for beat in (_beat(10, 5.0), _beat(3, 5.0), _beat(8, 5.0, epoch="e2"), _beat(9, 5.0, epoch="e2")):
        tally.add(beat)
    assert tally.nodes["a"].frames == 3 + 1


def test_use_between_two_moments_is_a_difference() -> None:
    assert NodeUse(3.0, 20.0, 10.0, 2.0, 1.0, 9) - NodeUse(1.0, 5.0, 4.0, 0.5, 0.5, 4) == NodeUse(
        2.0, 15.0, 6.0, 1.5, 0.5, 5
    )


def test_idle_time_is_read_from_the_system() -> None:
    assert idle_seconds("cpu  1 2 3 400 50 6 7\ncpu0 1 1 1 1 1 1\n") == pytest.approx(4.5)
    assert math.isnan(idle_seconds("intr 1 2\n"))
