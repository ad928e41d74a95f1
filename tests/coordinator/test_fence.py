"""When a coordinator may write (rule 22)."""

from __future__ import annotations

from coordinator.fence import Fence

DEADLINE = 1.5


def test_it_is_open_while_own_beats_come_back() -> None:
    fence = Fence(DEADLINE)
    assert not fence.open(0.0), "not before the first has come back"
    for counter in range(20):
        fence.sent(counter, counter * 0.25)
        fence.heard(counter)
        assert fence.open(counter * 0.25 + 0.2)
    assert not fence.open(100.0)


def test_a_beat_proves_nothing_of_the_time_after_it_was_sent() -> None:
    """One that was stopped for long reads its old beats first: they were sent before others wrote."""
    fence = Fence(DEADLINE)
    fence.sent(1, 0.0)
    fence.sent(2, 0.25)
    fence.heard(1)
    # Stopped for a minute.
    fence.heard(2)
    assert not fence.open(60.0)
    fence.sent(3, 60.1)
    assert not fence.open(60.1)
    fence.heard(3)
    assert fence.open(60.2)


def test_it_closes_before_a_standby_may_write() -> None:
    """A standby waits for one deadline of silence, and decides nothing for another one (rules 20 and 23)."""
    fence = Fence(DEADLINE)
    fence.sent(1, 0.0)
    fence.heard(1)
    assert not fence.open(2 * DEADLINE - 0.25)


def test_beats_of_another_connection_prove_nothing() -> None:
    fence = Fence(DEADLINE)
    fence.sent(1, 0.0)
    fence.heard(1)
    fence.sent(2, 0.1)
    fence.cut_off()
    assert not fence.open(0.1)
    fence.heard(2)
    assert not fence.open(0.2)


def test_what_was_never_sent_proves_nothing() -> None:
    fence = Fence(DEADLINE)
    fence.heard(7)
    assert not fence.open(0.0)
    for counter in range(10_000):
        fence.sent(counter, 0.0)
    fence.heard(0)
    assert not fence.open(0.0), "forgotten long ago"
