"""Probe frames: a revision has passed when all parts of one frame's result came (rule 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from converters.golden import Golden
from coordinator.actions import PROBES_AT_ONCE, Probe
from coordinator.intents import GoldenCheck
from coordinator.probe import Prober
from slicemq.frames import FrameHeader, decode_frame, encode_frame
from slicemq.messages import Artifact, Bundle, Lane, Route, TensorSpec
from tests.coordinator.site import SPEC_IN, SPEC_OUT, TOPICS

REVISION = "1-0123abcd"
RESULTS = TOPICS.results("faces", "coordinator-1")


class Link:
    """A data link in memory that keeps what is sent."""

    up = True

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.sent: list[tuple[str, bytes]] = []
        self.takes: int | None = None
        self.pending = 0

    def start(self) -> None: ...

    def wait_up(self, timeout: float) -> None: ...

    def stop(self) -> None: ...

    def subscribe(self, topics: Sequence[str]) -> None:
        self.topics |= set(topics)

    def unsubscribe(self, topics: Sequence[str]) -> None:
        self.topics -= set(topics)

    def send(self, topic: str, parts: Sequence[bytes | memoryview], *, timeout: float = 10.0) -> bool:
        if self.takes is not None and len(self.sent) >= self.takes:
            return False
        self.sent.append((topic, b"".join(bytes(part) for part in parts)))
        return True


class Bench:
    """A prober over a link in memory; `passed` is what it told."""

    def __init__(self) -> None:
        self.link, self.passed = Link(), list[tuple[str, str]]()
        self.failed: list[tuple[str, str, str]] = []
        self.prober = Prober(
            self.link,
            TOPICS,
            "coordinator-1",
            lambda *what: self.passed.append(what),
            lambda *what: self.failed.append(what),
        )

    def sent(self) -> FrameHeader:
        return decode_frame(self.link.sent[-1][1]).header

    def answer(self, header: FrameHeader, part: int = 0, parts: int = 2) -> None:
        data = [(SPEC_OUT, np.zeros((1, 2), np.float32))] if not header.error else []
        payload = b"".join(bytes(p) for p in encode_frame(replace(header, part=part, parts=parts), data))
        self.prober.on_frame(RESULTS, payload)


def probe(*specs: TensorSpec, revision: str = REVISION) -> Probe:
    entry = tuple(Bundle(f"b{number}", (spec,)) for number, spec in enumerate(specs))
    return Probe("faces", revision, Route(revision, "active", 1.0, entry, 2), specs)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.prober.start(probe(SPEC_IN, replace(SPEC_IN, index=1, shape=(-1, 4))))
    made.prober.tick(0.0)
    return made


def test_zeros_go_to_every_entry_under_one_number(bench: Bench) -> None:
    assert bench.link.topics == {TOPICS.results("+", "coordinator-1")}
    assert [topic for topic, _ in bench.link.sent] == [TOPICS.data("faces", REVISION, b) for b in ("b0", "b1")]
    frames = [decode_frame(payload) for _, payload in bench.link.sent]
    assert len({(f.header.stream, f.header.sequence) for f in frames}) == 1
    # A slice that keeps state must be able to forget them (rule 6).
    assert all(f.header.probe for f in frames)
    assert frames[1].arrays()[1].shape == (1, 4)
    assert not frames[0].arrays()[0].any()


def test_it_passes_with_all_parts_of_one_frame_only(bench: Bench) -> None:
    first = bench.sent()
    bench.answer(first, 0)
    bench.answer(first, 0)
    bench.prober.tick(1.0)
    second = bench.sent()
    assert second.sequence != first.sequence
    bench.answer(second, 1)
    assert bench.passed == []
    bench.answer(first, 1)
    assert bench.passed == [("faces", REVISION)]


def test_what_is_not_an_answer_to_it_is_left_out(bench: Bench) -> None:
    good = bench.sent()
    for strange in (
        replace(good, stream=good.stream ^ 1),
        replace(good, client="cli-1"),
        replace(good, revision="2-0123abcd"),
        replace(good, error="model", message="it failed"),
    ):
        for part in (0, 1):
            bench.answer(strange, part)
    bench.answer(good, 0, parts=1)
    bench.prober.on_frame(RESULTS, b"noise")
    assert bench.passed == []


def test_it_is_sent_again_more_and_more_seldom(bench: Bench) -> None:
    times = []
    for now in range(1, 60):
        before = len(bench.link.sent)
        bench.prober.tick(float(now))
        if len(bench.link.sent) > before:
            times.append(now)
    assert times == [1, 3, 7, 15, 30, 45]


def test_stop_forgets_what_was_probed(bench: Bench) -> None:
    other = "2-0123abcd"
    bench.prober.start(probe(SPEC_IN, revision=other))
    header = bench.sent()
    bench.prober.stop("faces", REVISION)
    assert bench.link.topics == {TOPICS.results("+", "coordinator-1")}
    for part in (0, 1):
        bench.answer(header, part)
    assert bench.passed == []
    bench.prober.stop("faces", other)
    bench.prober.stop("faces", other)
    before = len(bench.link.sent)
    bench.prober.tick(1e6)
    assert len(bench.link.sent) == before


def test_a_revision_that_cannot_be_probed_does_not_stop_the_others(bench: Bench) -> None:
    bench.prober.start(probe(replace(SPEC_IN, dtype="no such type"), revision="2-0123abcd"))
    bench.prober.start(probe(SPEC_IN, revision="3-0123abcd"))
    bench.prober.tick(0.5)
    assert bench.sent().revision == "3-0123abcd"


def turning(*parts: int) -> Probe:
    """A probe of a revision with a lane for each turn, whose results have so many parts."""
    lanes = tuple(Lane((turn,), (Bundle(f"b{turn}", (SPEC_IN,)),), count) for turn, count in enumerate(parts))
    return Probe("faces", REVISION, Route(REVISION, "active", 1.0, (), 0, len(parts), lanes), (SPEC_IN,))


def test_each_turn_must_be_passed() -> None:
    bench = Bench()
    bench.prober.start(turning(1, 2, 1))
    bench.prober.tick(0.0)
    headers = [decode_frame(payload).header for _, payload in bench.link.sent]
    assert [topic for topic, _ in bench.link.sent] == [TOPICS.data("faces", REVISION, f"b{t}", t) for t in range(3)]
    assert [header.sequence % 3 for header in headers] == [0, 1, 2]
    bench.answer(headers[2], parts=1)
    bench.answer(headers[1], parts=1)  # a lane's results have parts of their own
    bench.answer(headers[1], 0)
    bench.answer(headers[0], parts=1)
    # Only what is missing is sent again.
    bench.prober.tick(1.0)
    (again,) = [decode_frame(payload).header for _, payload in bench.link.sent[3:]]
    assert again.sequence % 3 == 1
    assert again.sequence > headers[2].sequence
    assert bench.passed == []
    bench.answer(headers[1], 1)
    bench.answer(again, 1)
    assert bench.passed == [("faces", REVISION)]


def test_many_turns_are_passed_in_rounds() -> None:
    bench = Bench()
    turns = 2 * PROBES_AT_ONCE + 3
    bench.prober.start(turning(*[1] * turns))
    rounds = []
    for tick in range(4):
        before = len(bench.link.sent)
        bench.prober.tick(tick / 100)
        sent = bench.link.sent[before:]
        rounds.append(len(sent))
        for _, payload in sent:
            bench.answer(decode_frame(payload).header, parts=1)
    assert rounds == [PROBES_AT_ONCE, PROBES_AT_ONCE, 3, 0]
    assert bench.passed == [("faces", REVISION)]


def test_a_full_link_ends_a_round() -> None:
    bench = Bench()
    bench.link.takes = 2
    bench.prober.start(turning(1, 1, 1, 1))
    bench.prober.tick(0.0)
    assert len(bench.link.sent) == 2
    for _, payload in tuple(bench.link.sent):
        bench.answer(decode_frame(payload).header, parts=1)
    bench.link.takes = None
    bench.prober.tick(1.0)
    assert [decode_frame(payload).header.sequence % 4 for _, payload in bench.link.sent] == [0, 1, 2, 3]


GOLDEN = tuple(
    Golden((np.full((1, 4), value, np.float32),), (np.full((1, 2), 2 * value, np.float32),), tolerance)
    for value, tolerance in ((1.0, 0.0), (3.0, 0.5))
)


def golden_bench(frames: int, coarse: float = 0.0) -> Bench:
    bench = Bench()
    check = GoldenCheck(Artifact("a" * 64, 9), len(GOLDEN), 1e-4)
    one = replace(probe(SPEC_IN), route=Route(REVISION, "active", 1.0, (Bundle("b0", (SPEC_IN,)),), 1))
    bench.prober.start(replace(one, outputs=(SPEC_OUT,), golden=check, frames=frames, coarse=coarse), GOLDEN)
    bench.prober.tick(0.0)
    return bench


def give(bench: Bench, header: FrameHeader, value: float) -> None:
    data = [(SPEC_OUT, np.full((1, 2), value, np.float32))]
    payload = b"".join(bytes(part) for part in encode_frame(replace(header, part=0, parts=1), data))
    bench.prober.on_frame(RESULTS, payload)


def test_golden_frames_are_sent_and_pass_when_all_agree() -> None:
    bench = golden_bench(2)
    sent = [decode_frame(payload) for _, payload in bench.link.sent]
    assert [float(frame.arrays()[0][0, 0]) for frame in sent] == [1.0, 3.0]
    give(bench, sent[0].header, 2.0001)
    assert bench.passed == []
    give(bench, sent[1].header, 6.5)
    assert (bench.passed, bench.failed) == ([("faces", REVISION)], [])


@pytest.mark.parametrize("value", [2.01, math.nan])
def test_another_result_fails_and_names_tensor_difference_and_tolerance(value: float) -> None:
    bench = golden_bench(2)
    first = decode_frame(bench.link.sent[0][1]).header
    give(bench, first, value)
    ((name, revision, why),) = bench.failed
    assert (name, revision, bench.passed) == ("faces", REVISION, [])
    assert why.startswith("golden frame: output 'output' differs by")
    assert "at most 0.0001 may be (frame 0)" in why
    give(bench, first, 2.0)
    assert bench.passed == []


@pytest.mark.parametrize(("value", "passes"), [(2.8, True), (3.2, False), (math.nan, False)])
def test_a_coarse_tolerance_lets_pass_and_logs(
    value: float, passes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing else serves, other kernels' results are better than none; wrong ones by far are not."""
    bench = golden_bench(1, coarse=0.5)
    give(bench, bench.sent(), value)
    assert bool(bench.passed) == passes
    assert bool(bench.failed) != passes
    if passes:
        assert "differs by 0.4 from its golden frame, more than 0.0001" in caplog.text


def errs(bench: Bench, header: FrameHeader, message: str = "it failed", part: int = 0) -> None:
    bench.answer(replace(header, error="slice-error", message=message), part)


def test_two_error_frames_of_one_probe_frame_end_it_with_the_slice_s_message(bench: Bench) -> None:
    first = bench.sent()
    errs(bench, first)
    errs(bench, first, part=1)
    assert bench.failed == []
    bench.prober.tick(0.5)
    assert bench.sent() == first
    bench.prober.tick(1.0)
    second = bench.sent()
    assert second.sequence > first.sequence
    errs(bench, second, "gather index out of bounds")
    assert bench.failed == [("faces", REVISION, "probe frame: slice-error: gather index out of bounds")]
    for part in (0, 1):
        bench.answer(second, part)
    assert bench.passed == []


def test_one_error_frame_may_be_of_something_that_passes(bench: Bench) -> None:
    errs(bench, bench.sent())
    bench.prober.tick(1.0)
    for part in (0, 1):
        bench.answer(bench.sent(), part)
    assert (bench.passed, bench.failed) == ([("faces", REVISION)], [])


def test_a_stream_that_is_busy_is_waited_for(bench: Bench) -> None:
    """Rule 6: a lease of a stream runs out by itself."""
    for now in (1.0, 3.0, 7.0, 15.0):
        bench.answer(replace(bench.sent(), error="stream-busy", message="it is leased"))
        bench.prober.tick(now)
    assert bench.failed == []


def test_errors_of_different_turns_count_apart() -> None:
    bench = Bench()
    bench.prober.start(turning(1, 1))
    bench.prober.tick(0.0)
    for _, payload in tuple(bench.link.sent):
        errs(bench, decode_frame(payload).header)
    assert bench.failed == []


def test_after_a_loss_one_golden_frame_is_enough() -> None:
    bench = golden_bench(1)
    assert len(bench.link.sent) == 1
    give(bench, bench.sent(), 2.0)
    assert bench.passed == [("faces", REVISION)]
