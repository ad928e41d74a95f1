"""What a broker's end and return look like to the coordinator's core: wills of the living, links that come back."""

from __future__ import annotations

import pytest

from coordinator.actions import Listen
from coordinator.membership import RECONNECT_GRACE
from tests.coordinator.site import Board, Site


@pytest.fixture
def site() -> Site:
    found = Site(Board("n1"), Board("n2"), Board("n3"))
    found.start()
    return found


def willed(site: Site, *names: str) -> None:
    for name in names:
        site.do(site.cluster.on_node_state(site.now, site.boards[name].state("lost")))


def test_wills_of_a_broker_that_ends_kill_nobody(site: Site) -> None:
    """Rules 16 and 20: it publishes the wills of all its sessions before it cuts the coordinator off."""
    revision = site.run("n1", "n2")
    willed(site, "n1", "n2", "n3")
    site.cluster.on_disconnected()
    site.wait(2, beats=False, heartbeats=False)
    assert site.routes() == {revision: "active"}
    # It has kept the wills, and gives them to whoever subscribes before the nodes are back.
    willed(site, "n1", "n2", "n3")
    site.wait(1, heartbeats=False)
    willed(site, "n3")
    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state("ready")))
    site.wait(8)
    assert site.routes() == {revision: "active"}
    assert all(node.usable for node in site.cluster.members.nodes.values())


def test_a_will_counts_with_the_next_beat_that_comes_back(site: Site) -> None:
    revision = site.run("n1", "n2")
    willed(site, "n1")
    assert isinstance(site.log[-1], Listen)
    assert site.routes() == {revision: "active"}
    site.do(site.cluster.on_own_beat(site.now))
    assert site.routes() == {revision: "lost"}


def test_a_will_that_is_taken_back_before_the_beat_does_not_count(site: Site) -> None:
    revision = site.run("n1", "n2")
    willed(site, "n1")
    site.do(site.cluster.on_node_state(site.now, site.boards["n1"].state("ready")))
    site.wait(1)
    assert site.routes() == {revision: "active"}


def test_a_node_that_died_with_the_broker_is_lost_by_its_silence(site: Site) -> None:
    revision = site.run("n1", "n2")
    site.cluster.on_disconnected()
    site.boards["n1"].running = False
    site.wait(1, beats=False, heartbeats=False)
    willed(site, "n1")
    site.wait(1)
    assert site.routes() == {revision: "active"}
    site.wait(RECONNECT_GRACE + 2)
    assert site.routes()[revision] == "lost"


def test_a_node_that_began_anew_while_the_broker_was_away_is_no_loss(site: Site) -> None:
    """Rule 16: the newest heartbeat decides, and nothing waits for the silence of the life before."""
    revision = site.run("n1", "n2")
    resend = site.document().resend
    site.cluster.on_disconnected()
    site.wait(1, beats=False, heartbeats=False)
    site.do(site.cluster.on_own_beat(site.now))
    site.boot("n1")
    assert site.cluster.members.node("n1").epoch == site.boards["n1"].epoch
    site.obey()
    site.wait(RECONNECT_GRACE + 3)
    assert site.routes() == {revision: "active"}
    assert site.document().resend > resend


def links(site: Site, name: str, state: str) -> None:
    board = site.boards[name]
    board.beats = {key: {"link": state} for key in board.states}


def test_links_that_come_back_raise_resend(site: Site) -> None:
    """Rule 8: what a client sent while a slice's link was down met no subscriber, and the client cannot know."""
    revision = site.run("n1", "n2")
    before = site.document().resend
    links(site, "n1", "down")
    links(site, "n2", "down")
    site.wait(1)
    links(site, "n1", "up")
    site.wait(1)
    assert site.document().resend == before
    links(site, "n2", "up")
    site.wait(1)
    assert site.document().resend == before + 1
    site.wait(5)
    assert site.document().resend == before + 1
    assert site.routes() == {revision: "active"}


def test_a_broker_that_is_back_raises_resend_once_all_nodes_are_heard(site: Site) -> None:
    """Rule 8."""
    site.run("n1", "n2")
    before = site.document().resend
    site.cluster.on_disconnected()
    site.wait(1, beats=False, heartbeats=False)
    site.boards["n2"].running = False
    site.wait(2)
    assert site.document().resend == before
    site.boards["n2"].running = True
    site.wait(1)
    assert site.document().resend == before + 1
