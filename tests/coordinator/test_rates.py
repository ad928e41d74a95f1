"""Measured rates in quarters of the planned one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.rates import WINDOW, WINDOWS, Rates

KEY = ("p", "1-a", "s0")


class Slice:
    """A slice that runs at some share of its planned 100 frames a second."""

    def __init__(self) -> None:
        self.rates = Rates()
        self.now = 0.0
        self.frames = 0
        self.rates.note(0.0, "n1", KEY, 0, 100.0)

    def windows(self, *shares: float) -> int:
        """One window at each share; how often the level changed."""
        changes = 0
        for share in shares:
            self.now += WINDOW
            self.frames += round(100 * WINDOW * share)
            changes += self.rates.note(self.now, "n1", KEY, self.frames, 100.0)
        return changes

    @property
    def level(self) -> float:
        return self.rates.level("n1", KEY)


@pytest.mark.parametrize(
    ("share", "level"), [(0.0, 0.25), (0.1, 0.25), (0.3, 0.5), (0.6, 0.75), (0.7, 1.0), (0.9, 1.0), (1.3, 1.0)]
)
def test_the_level_is_the_quarter_above_the_rate(share: float, level: float) -> None:
    made = Slice()
    made.windows(*[share] * (WINDOWS - 1))
    assert made.level == 1.0, "not before a minute"
    made.windows(share)
    assert made.level == level


def test_slices_that_no_plan_has_push_nothing_out() -> None:
    made = Slice()
    made.windows(*[0.1] * WINDOWS)
    for number in range(10_000):
        made.rates.note(made.now, "n2", ("p", "1-a", f"x{number}"), 1, 0.0)
    assert made.level == 0.25


def test_a_pause_changes_nothing_and_a_burst_counts_at_once() -> None:
    made = Slice()
    assert made.windows(*[1.0] * WINDOWS, *[0.0] * (WINDOWS - 1), 1.0, *[0.0] * (WINDOWS - 1)) == 0
    assert made.windows(0.0) == 1
    assert made.level == 0.25
    assert made.windows(0.95) == 1
    assert made.level == 1.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-0.04, 0.04), min_size=20, max_size=40), st.sampled_from((0.2, 0.25, 0.5, 0.72, 0.75, 1.0))
)
def test_noise_changes_a_level_at_most_once_for_each_quarter(noise: list[float], share: float) -> None:
    """Around any rate, and around a border of two levels above all: there is no going to and fro."""
    made = Slice()
    assert made.windows(*[share + wave for wave in noise]) <= 2
    assert made.windows(*[share + wave for wave in noise]) <= 1


def test_a_counter_that_starts_again_and_what_is_not_known() -> None:
    made = Slice()
    assert made.rates.level("n2", KEY) == 1.0
    made.windows(*[0.1] * WINDOWS)
    assert made.level == 0.25
    made.frames = -(10**9)
    made.windows(0.1)
    assert made.level == 1.0
    assert not made.rates.note(1e6, "n1", KEY, 10, 0.0), "nothing was planned"
