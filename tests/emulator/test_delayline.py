"""The delay line: order, least delay, its limit and its ends, by tables and by random feeding."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.delayline import LEAST_HOLD, Delay, DelayLine


def _line(delay: float, jitter: float = 0.0, hold: int = LEAST_HOLD, draws: tuple[float, ...] = ()) -> DelayLine:
    source = iter(draws)
    return DelayLine(Delay(delay, jitter), hold, lambda: next(source))


def _take(line: DelayLine, now: float) -> bytes:
    """All that may leave at `now`."""
    out = b""
    while isinstance(chunk := line.first(now), memoryview):
        out += chunk
        line.took(len(chunk))
    return out


def test_bytes_leave_after_the_delay_and_not_before() -> None:
    line = _line(0.5)
    line.push(1.0, b"ab")
    assert line.next_due == 1.5
    assert line.first(1.49) is None
    assert _take(line, 1.5) == b"ab"
    assert line.next_due is None


def test_jitter_adds_what_is_drawn_and_nothing_overtakes() -> None:
    line = _line(1.0, 0.5, draws=(0.8, 0.0))
    line.push(0.0, b"slow")
    line.push(0.1, b"fast")
    assert line.next_due == pytest.approx(1.4)
    assert _take(line, 1.39) == b""
    assert _take(line, 1.4) == b"slowfast"


def test_a_shorter_delay_lets_nothing_overtake() -> None:
    line = _line(2.0)
    line.push(0.0, b"a")
    line.delay = Delay(0.0)
    line.push(0.5, b"b")
    assert _take(line, 1.9) == b""
    assert _take(line, 2.0) == b"ab"


def test_the_end_travels_behind_the_bytes() -> None:
    line = _line(1.0)
    line.push(0.0, b"a")
    line.end(0.5, "eof")
    line.end(0.6, "reset")
    assert _take(line, 1.2) == b"a"
    assert line.first(1.2) is None
    assert line.first(1.5) == "eof"
    line.took_ending()
    assert line.first(9.0) is None


def test_a_part_of_a_chunk_may_leave() -> None:
    line = _line(0.0)
    line.push(0.0, b"abcd")
    line.took(3)
    assert line.held == 1
    assert _take(line, 0.0) == b"d"


def test_it_is_full_at_its_limit() -> None:
    line = _line(1.0, hold=3)
    full = [line.full]
    for chunk in (b"ab", b"cd"):
        line.push(0.0, chunk)
        full.append(line.full)
    assert _take(line, 1.0) == b"abcd"
    assert [*full, line.full] == [False, False, True, False]


@pytest.mark.parametrize(
    ("delay", "rate", "hold"), [(0.0, 125e6, 4_000_000), (0.1, 125e6, 25_000_000), (0.005, 2.5e6, 4_000_000)]
)
def test_the_limit_is_twice_what_the_link_holds(delay: float, rate: float, hold: int) -> None:
    assert Delay(delay).hold(rate) == hold


@given(
    st.lists(st.tuples(st.floats(0, 0.2), st.binary(min_size=1, max_size=5)), max_size=30),
    st.floats(0, 0.5),
    st.floats(0, 0.5),
    st.integers(0, 99),
)
def test_order_and_least_delay_hold_for_any_feeding(
    feed: list[tuple[float, bytes]], delay: float, jitter: float, seed: int
) -> None:
    line = DelayLine(Delay(delay, jitter), LEAST_HOLD, random.Random(seed).random)
    now, out = 0.0, b""
    pushed: list[tuple[float, bytes]] = []
    for wait, chunk in feed:
        now += wait
        line.push(now, chunk)
        pushed.append((now, chunk))
    sent = 0
    while (due := line.next_due) is not None:
        got = line.first(due)
        assert isinstance(got, memoryview)
        at, _ = pushed[sent]
        assert at + delay <= due
        assert due <= now + delay + jitter
        out += got
        line.took(len(got))
        sent += 1
    assert out == b"".join(chunk for _, chunk in pushed)
    assert line.held == 0
