"""Memory of slices that nodes still list (rule 12)."""

from __future__ import annotations

import pytest

from coordinator.leftovers import GRACE, UNKNOWN, Leftovers
from coordinator.situation import Situation
from slicemq.messages import Report, SliceReport
from tests.coordinator.site import MB, TOPICS, Board, Site, blueprint, capacity, intent


@pytest.fixture
def site() -> Site:
    """Three boards, all heard and ready, and a coordinator that has begun to decide."""
    made = Site(Board("n1"), Board("n2"), Board("n3"))
    made.start()
    return made


def free(site: Site, node: str) -> int:
    """The memory that a plan may use of a node."""
    inputs = site.cluster.situation.inputs("faces", intent())
    return dict(zip([one.node for one in inputs.nodes], inputs.free, strict=True))[node]


def test_what_a_node_does_not_unload_in_time_takes_memory_until_its_report_lacks_it(site: Site) -> None:
    """Rule 12."""
    site.run("n1", "n2")
    assert free(site, "n2") == 70 * MB, "a slice of 20 MB and its worker of 10"
    site.deploy(intent(model="m2"))
    site.bring_up("n1")
    site.deaf.add("n2")
    site.wait(site.settings.drain_quiet + 0.5)
    assert site.assigned("n2") == []
    assert free(site, "n2") == 100 * MB, "it was told to stop, and loads nothing before that is done"
    site.wait(GRACE + 0.5)
    assert free(site, "n2") == 70 * MB
    site.deaf.clear()
    site.obey("n2")
    assert free(site, "n2") == 100 * MB


def test_a_wish_that_waits_for_that_memory_is_planned_when_it_is_free(site: Site) -> None:
    """Rule 12."""
    site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.bring_up("n1")
    site.deaf.add("n2")
    site.wait(site.settings.drain_quiet + 0.5)
    jobs = len(site.jobs)
    site.record().needs_nodes = True
    site.deaf.clear()
    site.obey("n2")
    assert not site.record().needs_nodes
    assert len(site.jobs) == jobs


def test_a_plan_made_ahead_holds_while_the_lost_revision_is_unloaded(site: Site) -> None:
    """Rule 12 does not make a loss wait: the nodes load what is new when what was lost is gone."""
    site.run("n1", "n2")
    site.foresee()
    jobs = len(site.jobs)
    site.deaf |= {"n1", "n3"}
    site.die("n2")
    assert len(site.jobs) == jobs, "the plan was ready"
    assert site.record().coming is not None


def test_a_new_life_or_another_assignment_of_the_slice_ends_it() -> None:
    items = blueprint(intent(), ["n1"]).slices["n1"]
    key = SliceReport(items[0].pipeline, items[0].revision, items[0].slice, "ready")
    report = Report("n1", "life", 1, (key,))
    left = Leftovers()
    left.assigned(0.0, "n1", items, (), report)
    assert left.taken(GRACE, "n1") == []
    assert left.taken(GRACE + 0.1, "n1") == [20 * MB]
    left.assigned(1.0, "n1", (), items, report)
    assert left.taken(99.0, "n1") == []
    left.assigned(0.0, "n1", items, (), report)
    assert not left.reported("n1", report)
    assert left.reported("n1", None)
    assert left.taken(99.0, "n1") == []
    left.assigned(0.0, "n1", items, (), None)
    assert left.taken(99.0, "n1") == [], "what is not listed takes no memory"


def test_a_forgotten_node_leaves_nothing(site: Site) -> None:
    situation: Situation = site.cluster.situation
    site.run("n1", "n2")
    site.deaf.add("n2")
    site.undeploy("faces")
    assert situation.leftovers._nodes
    site.die("n2")
    situation.forget("n2")
    site.obey()
    assert not situation.leftovers._nodes


def heard(site: Site) -> None:
    """A coordinator that has been started again hears all boards, and begins."""
    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state()))
        site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch, board.memory)))
        site.do(site.cluster.on_report(site.now, board.report()))
        site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.start(site.now))


@pytest.mark.parametrize("when", ["it is in the old assignment", "it was told to stop already", "nobody knows it"])
def test_a_coordinator_that_restarts_counts_what_nodes_do_not_unload(site: Site, when: str) -> None:
    """Rule 12: also what an earlier coordinator told a node to run, or to stop."""
    site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.plan("n1", "n2", "n3")
    site.obey("n2")
    site.obey("n3")
    assert len(site.boards["n2"].states) == 2, "both revisions are loaded there"
    site.deaf.add("n2")
    if when != "it is in the old assignment":
        site.report("n3", "s2", "failed", "no such operator")
        assert len(site.assignment("n2").slices) == 1
    if when == "nobody knows it":
        del site.retained[TOPICS.node("n2", "assignment")]
    site.restart_coordinator()
    heard(site)
    site.wait(GRACE + 0.5)
    known = when == "it is in the old assignment"
    assert free(site, "n2") == (40 * MB if known else 0), "its size is known, or nothing is placed there"
    site.deaf.clear()
    site.obey("n2")
    assert free(site, "n2") == 70 * MB


def test_what_was_lost_before_a_restart_takes_its_own_memory_only(site: Site) -> None:
    """Rule 12: a lost revision stands in the store with its sizes."""
    site.run("n1", "n2")
    site.deaf.add("n2")
    site.die("n1")
    assert site.assigned("n2") == []
    site.restart_coordinator()
    heard(site)
    site.wait(GRACE + 0.5)
    assert free(site, "n2") == 70 * MB


def test_the_first_assignment_finds_slices_that_nobody_asked_for() -> None:
    items = blueprint(intent(), ["n1"]).slices["n1"]
    report = Report("n1", "life", 1, (SliceReport(items[0].pipeline, items[0].revision, items[0].slice, "ready"),))
    left = Leftovers()
    left.assigned(0.0, "n1", (), (), report, first=True)
    assert left.taken(GRACE, "n1") == []
    assert left.taken(GRACE + 0.1, "n1") == [UNKNOWN]
    left = Leftovers()
    left.assigned(0.0, "n1", (), items, report, first=True)
    assert left.taken(99.0, "n1") == [], "it is asked for"
