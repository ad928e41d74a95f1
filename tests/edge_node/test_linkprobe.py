"""The link measurement against simulated store-and-forward links."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_node.linkprobe import DEADLINE, SIZES, LinkProbe
from slicemq.errors import BrokerError


def simulate(
    up: float, down: float, rtt: float, *, lost: bool = False, pauses: tuple[float, ...] = ()
) -> tuple[LinkProbe, float, int]:
    """Run a probe over a link of these rates (bytes/s); gives it with its duration and bytes sent.

    `pauses`: seconds for which the node stands still within each burst of the largest messages.
    """
    still = iter(pauses)
    probe = LinkProbe(0.0)
    now, sent = 0.0, 0
    up_free = down_free = 0.0
    flying: list[float] = []
    sizes = probe.first()
    while not probe.done:
        if SIZES[-1] in sizes:
            now += next(still, 0.0)
        for size in sizes:
            sent += size
            up_free = max(up_free, now) + size / up
            down_free = max(down_free, up_free) + size / down
            if not lost:
                flying.append(down_free + rtt)
        sizes = []
        now = min([*flying[:1], now + 0.05]) if flying else now + 0.05
        if flying and flying[0] <= now:
            flying.pop(0)
            sizes = probe.echo(now)
        probe.tick(now)
    return probe, now, sent


RATES = st.sampled_from([12_500.0, 125_000.0, 1.25e6, 12.5e6, 125e6])


@settings(max_examples=60, deadline=None)
@given(RATES, RATES, st.floats(0.0001, 0.05))
def test_rates_come_out_and_time_and_bytes_are_bounded(one: float, other: float, rtt: float) -> None:
    up, down = min(one, other), max(one, other)
    probe, took, sent = simulate(up, down, rtt)
    assert took <= DEADLINE + 0.06
    assert sent <= 10_000_000
    link = probe.link()
    assert link.rtt == pytest.approx(rtt, rel=0.01)
    assert link.up == pytest.approx(up, rel=0.25)
    # The faster direction hides behind the slower one when they differ much.
    assert up * 0.75 <= link.down <= max(down, 4 * up) * 1.25


def test_a_symmetric_link_is_told_as_such() -> None:
    link = simulate(1e6, 1e6, 0.01)[0].link()
    assert link.up == pytest.approx(1e6, rel=0.05)
    assert link.down == pytest.approx(1e6, rel=0.05)


def test_a_pause_in_some_bursts_does_not_count() -> None:
    link = simulate(125e6, 125e6, 0.0005, pauses=(0.018, 0.0, 0.018, 0.018))[0].link()
    assert link.up == pytest.approx(125e6, rel=0.05)


def test_nothing_comes_back() -> None:
    probe, took, _ = simulate(1e6, 1e6, 0.01, lost=True)
    assert took <= DEADLINE + 0.06
    with pytest.raises(BrokerError, match="no message"):
        probe.link()


def test_a_link_that_passes_pings_only_has_an_upper_bound() -> None:
    link = simulate(500.0, 500.0, 0.01)[0].link()
    assert (link.up, link.down) == (SIZES[0] / DEADLINE, SIZES[0] / DEADLINE)
