"""Many nodes join at once: their empty assignments are few at a time, and nothing that matters waits for them."""

from __future__ import annotations

import pytest

from coordinator.publishing import MOST_EMPTY
from slicemq.messages import Report, SliceReport
from tests.coordinator.site import TOPICS, Board, Site, blueprint, intent

MANY = 3 * MOST_EMPTY + 5


def told(site: Site) -> set[str]:
    """The boards that have an assignment."""
    return {name for name in site.boards if TOPICS.node(name, "assignment") in site.retained}


def crowd() -> Site:
    """A site whose boards have come and obey nothing yet."""
    site = Site(*(Board(f"n{number:03}") for number in range(MANY)), read_back=False)
    site.deaf = set(site.boards)
    site.start()
    return site


@pytest.mark.parametrize("obedient", [True, False])
def test_every_node_is_told_a_few_at_a_time(obedient: bool) -> None:
    """Rules 7 and 15: who obeys makes place for the next at once, who does not after the time for repeating."""
    site = crowd()
    assert len(told(site)) == MOST_EMPTY
    if obedient:
        site.deaf = set()
    for _ in range(8):
        before = told(site)
        site.obey()
        site.wait(0.5 if obedient else site.settings.resend_assignment + 0.25)
        assert len(told(site)) - len(before) <= 2 * MOST_EMPTY
    assert told(site) == set(site.boards)
    assert site.cluster.publishing.waiting is False


def test_slices_do_not_wait_for_empty_assignments() -> None:
    """Rule 1: a revision's assignments go out at once, to whoever they are for."""
    site = crowd()
    last = sorted(site.boards)[-2:]
    assert not told(site) & set(last)
    site.deploy(intent())
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, blueprint(intent(), last)))
    assert set(last) <= told(site)
    assert all(site.retained[TOPICS.node(name, "assignment")].slices for name in last)


def test_a_node_that_runs_what_it_shall_not_is_told_at_once() -> None:
    """Rule 15: an ending is a document, and does not wait where it ends something."""
    site = crowd()
    name = sorted(set(site.boards) - told(site))[-1]
    board = site.boards[name]
    entry = SliceReport("old", "1-00000000", "s0", "ready")
    site.do(site.cluster.on_report(site.now, Report(name, board.epoch, 99, (entry,), None)))
    site.wait(0.5)
    assert name in told(site)
