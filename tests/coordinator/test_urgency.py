"""A loss does not wait for planning that is less urgent, or that counts on what is lost."""

from __future__ import annotations

import pytest

from coordinator.actions import Respond
from tests.coordinator.site import Board, Site, blueprint, intent


@pytest.fixture
def site() -> Site:
    """Three boards, all heard and ready, and a coordinator that has begun to decide."""
    made = Site(Board("n1"), Board("n2"), Board("n3"))
    made.start()
    return made


def test_a_loss_is_planned_before_a_deploy_that_is_being_planned(site: Site) -> None:
    """And the deploy is answered after it, once (rule 24)."""
    site.run("n1", "n2")
    site.deploy(intent("birds"))
    given_up = site.jobs[-1]
    site.die("n2")
    urgent = site.jobs[-1]
    assert urgent.intent.name == "faces"
    answers = sum(isinstance(action, Respond) for action in site.log)
    site.do(site.cluster.on_planned(site.now, given_up.job, blueprint(given_up.intent, ["n1", "n2"])))
    assert site.record("birds").revisions == {}, "it counts on a node that is lost"
    assert sum(isinstance(action, Respond) for action in site.log) == answers
    site.plan("n1", "n3")
    assert site.record().coming is not None
    assert site.jobs[-1].intent.name == "birds"
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3"]
    site.plan("n1")
    assert site.answers[-1].body["name"] == "birds"


def test_two_losses_wait_for_one_another(site: Site) -> None:
    site.run("n1", "n2")
    site.run("n2", name="birds")
    site.die("n2")
    assert [record.job is not None for record in site.cluster.records.values()] == [True, False]
    site.plan("n1", "n3")
    assert site.jobs[-1].intent.name == "birds"


def test_a_plan_that_counts_on_a_node_lost_meanwhile_is_made_anew(site: Site) -> None:
    """Several losses: the second one does not wait for a plan that is worth nothing."""
    site.run("n1", "n2")
    site.die("n2")
    first = site.jobs[-1]
    assert [node.node for node in first.nodes] == ["n1", "n3"]
    site.die("n3")
    second = site.jobs[-1]
    assert second.job != first.job
    assert [node.node for node in second.nodes] == ["n1"]
    site.do(site.cluster.on_planned(site.now, first.job, blueprint(first.intent, ["n1", "n3"])))
    assert site.record().coming is None
    site.plan("n1")
    assert site.record().coming is not None
