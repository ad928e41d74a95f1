"""Several losses at once, and losses while something changes: what is told, and that the end is the same."""

from __future__ import annotations

import itertools

import pytest

from tests.coordinator.site import Board, Site, intent

NODES = ("n1", "n2", "n3", "n4", "n5")


@pytest.fixture
def site() -> Site:
    made = Site(*(Board(name) for name in NODES))
    made.start()
    return made


def settle(site: Site) -> str:
    """Answer whatever is planned with a chain over two nodes that live, until a revision is active."""
    for _ in range(20):
        record = site.record()
        if record.job is not None:
            site.plan(*[node.node for node in site.jobs[-1].nodes][:2])
        site.obey()
        site.pass_probes()
        active = record.active
        if active is not None and all(site.boards[name].running for name in active.nodes):
            return active.id
        site.wait(1.0)
    raise AssertionError(f"nothing is active: {site.record().status}")


@pytest.mark.parametrize("by_will", [True, False])
@pytest.mark.parametrize("dead", list(itertools.combinations(NODES, 2)), ids="-".join)
def test_two_nodes_at_once(site: Site, dead: tuple[str, str], by_will: bool) -> None:
    first = site.run("n1", "n2")
    site.foresee()
    for name in dead:
        site.die(name, by_will=by_will)
    site.wait(2.0)
    last = settle(site)
    if {"n1", "n2"} & set(dead):
        assert last != first
        assert site.routes()[first] == "lost"
    else:
        assert last == first
    assert sum(state == "active" for state in site.routes().values()) == 1


@pytest.mark.parametrize("moment", ["planning", "preparing", "probing", "draining"])
@pytest.mark.parametrize("dead", ["n1", "n2", "n3"])
def test_a_loss_while_a_newer_revision_is_on_its_way(site: Site, moment: str, dead: str) -> None:
    """n1 and n2 serve, n2 and n3 shall."""
    site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    if moment != "planning":
        site.plan("n2", "n3")
    if moment in ("probing", "draining"):
        site.obey()
    if moment == "draining":
        site.pass_probes()
    site.die(dead)
    settle(site)
    site.wait(35.0)
    settle(site)
    assert site.record().intent is not None
    states = site.routes()
    assert sum(state == "active" for state in states.values()) == 1
    assert "draining" not in states.values()
    active = site.record().active
    assert active is not None
    assert active.intent.model == intent(model="m2").model, "what was asked for is what runs in the end"


def test_the_stand_in_is_lost_while_it_prepares(site: Site) -> None:
    site.run("n1", "n2")
    site.foresee()
    site.die("n2")
    coming = site.record().coming
    assert coming is not None
    for name in sorted(coming.nodes - {"n1"}):
        site.die(name)
    assert site.record().revisions.get(coming.id) is None
    last = settle(site)
    assert last.partition("-")[0] > coming.id.partition("-")[0], "no number is used twice (rule 1)"


def test_all_but_one_are_lost_one_after_the_other(site: Site) -> None:
    site.run("n1", "n2")
    numbers = []
    for name in ("n1", "n2", "n3", "n4"):
        site.die(name)
        if name == "n4":
            site.plan("n5")
            site.obey()
            site.pass_probes()
        numbers.append(int(settle(site).partition("-")[0]))
        site.foresee(1)
    assert numbers == sorted(numbers)
    active = site.record().active
    assert active is not None
    assert active.nodes == {"n5"}


def test_a_node_that_comes_and_goes_is_left_out_of_plans_longer_each_time(site: Site) -> None:
    members = site.cluster.members
    site.run("n2", "n3")
    pauses = []
    for loss in range(1, 7):
        site.die("n1")
        site.wait(1.0)
        site.boot("n1")
        shunned = 0
        while members.is_shunned("n1"):
            site.wait(5.0)
            shunned += 5
        pauses.append(shunned)
        assert (shunned > 0) == (loss >= 3)
    assert pauses[2] < pauses[3] < pauses[4] < pauses[5]
    site.wait(1500.0)
    site.die("n1")
    site.wait(1.0)
    assert not members.is_shunned("n1"), "after a long calm it counts as any other"
    assert site.routes() != {}


def test_a_will_after_which_the_node_speaks_again_costs_nothing(site: Site) -> None:
    """Its connection only blinked: the same life publishes its state before the coordinator's next beat is back."""
    revision = site.run("n1", "n2")
    board = site.boards["n2"]
    site.do(site.cluster.on_node_state(site.now, board.state("lost")))
    site.do(site.cluster.on_node_state(site.now, board.state("ready")))
    site.wait(2.0)
    assert site.routes() == {revision: "active"}
