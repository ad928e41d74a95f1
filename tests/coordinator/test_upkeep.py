"""Draining, pinning and forgetting nodes, driven through the pure core."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.actions import Clear
from coordinator.feedback import Subject
from slicemq.errors import ModelError, PipelineError, PlanError, RequestRefusedError
from slicemq.messages import Response
from tests.coordinator.site import TOPICS, Board, Site, intent


@pytest.fixture
def site() -> Site:
    """Three boards, all heard and ready, and a coordinator that has begun to decide."""
    made = Site(Board("n1"), Board("n2"), Board("n3"))
    made.start()
    return made


def ask(site: Site, verb: str, node: str, transaction: str = "") -> Response:
    """Ask for a node's upkeep; the answer."""
    site.transactions += 1
    name = transaction or f"u{site.transactions}"
    site.do(site.cluster.on_upkeep(site.now, "cli", name, verb, node))
    return site.answers[-1]


def pin(site: Site, slice_id: str, node: str) -> Response | None:
    """Ask for a pin; the answer, if there is one before the plan."""
    site.transactions += 1
    before = len(site.answers)
    site.do(site.cluster.on_pin(site.now, "cli", f"p{site.transactions}", "faces", slice_id, node))
    return site.answers[-1] if len(site.answers) > before else None


# -- drain -------------------------------------------------------------------------------------------------


def test_a_drained_node_is_left_by_a_revision_prepared_beside_the_old_one(site: Site) -> None:
    old = site.run("n1", "n2")
    answer = ask(site, "drain", "n2")
    assert answer.error == ""
    assert answer.body == {"node": "n2", "pipelines": ["faces"]}
    job = site.jobs[-1]
    assert [node.node for node in job.nodes] == ["n1", "n3"]
    assert site.routes() == {old: "active"}, "it serves meanwhile"
    assert site.assignment("n2").draining
    new = site.bring_up("n1", "n3")
    assert site.routes() == {old: "draining", new: "active"}
    site.wait(site.settings.drain_quiet + 0.5)
    assert site.assignment("n2").slices == ()
    assert site.assignment("n2").draining
    assert site.record().intent == intent()
    jobs = len(site.jobs)
    site.wait(5.0)
    assert len(site.jobs) == jobs


def test_nothing_is_placed_on_a_drained_node_until_it_is_undrained(site: Site) -> None:
    ask(site, "drain", "n2")
    site.deploy(intent())
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3"]
    site.bring_up("n1", "n3")
    site.foresee()
    assert all("n2" not in [node.node for node in one.plan.nodes] for one in site.ahead)
    ask(site, "undrain", "n2")
    assert not site.assignment("n2").draining
    site.deploy(intent(model="m2"))
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n2", "n3"]


def test_draining_outlasts_the_coordinator_and_the_node(site: Site) -> None:
    """Rule 24: what was answered is stored."""
    old = site.run("n1", "n2")
    ask(site, "drain", "n2")
    learnt = site.cluster.situation.plain()
    site.restart_coordinator()
    site.cluster.situation.load(learnt)
    for board in site.boards.values():
        site.boot(board.name)
    site.do(site.cluster.start(site.now))
    assert site.routes() == {old: "active"}
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3"]
    site.bring_up("n1", "n3")
    site.die("n2")
    site.wait(40.0)
    assert site.assignment("n2").draining, "whoever lists nodes sees the mark of a dead one"
    site.boot("n2")
    site.wait(5.0)
    assert site.assignment("n2").slices == ()


def test_a_node_that_nothing_can_replace_serves_on_and_says_why(site: Site) -> None:
    old = site.run("n1", "n2")
    ask(site, "drain", "n2")
    site.short("needs 20 MB more")
    assert site.routes() == {old: "active"}
    assert site.assignment("n2").draining
    assert site.assignment("n2").reason == (
        "faces: node n2 is drained, and no plan does without it: needs 20 MB more"
    )
    assert "needs 20 MB more" in site.document().reason
    jobs = len(site.jobs)
    site.wait(10.0)
    assert len(site.jobs) == jobs, "the same nodes are not asked twice"
    site.boards["n4"] = Board("n4")
    site.boot("n4")
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3"], "n4 was heard, and is not ready yet"
    site.short("needs 20 MB more")
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3", "n4"]
    site.bring_up("n1", "n4")
    assert site.assignment("n2").reason == ""
    assert site.document().reason == ""


def test_undraining_takes_the_reason_away(site: Site) -> None:
    old = site.run("n1", "n2")
    ask(site, "drain", "n2")
    site.short("needs more")
    ask(site, "undrain", "n2")
    assert site.document().reason == ""
    assert not site.assignment("n2").draining
    assert site.routes() == {old: "active"}


def test_a_move_that_fails_for_another_reason_is_tried_again_later(site: Site) -> None:
    site.run("n1", "n2")
    ask(site, "drain", "n2")
    jobs = len(site.jobs)
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, ModelError("damaged")))
    site.wait(site.settings.move_again - 1.0)
    assert len(site.jobs) == jobs
    site.wait(2.0)
    assert len(site.jobs) == jobs + 1


def test_a_node_lost_while_it_is_left_is_replaced_as_any(site: Site) -> None:
    site.run("n1", "n2")
    ask(site, "drain", "n2")
    site.plan("n1", "n3")
    site.die("n3")
    assert [node.node for node in site.jobs[-1].nodes] == ["n1"], "the move goes on without it"
    site.die("n2")
    site.plan("n1")
    site.obey()
    site.pass_probes()
    assert site.document().state == "running"


def test_a_pipeline_whose_wish_waits_for_nodes_still_leaves_a_drained_one(site: Site) -> None:
    site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    site.die("n3")
    site.short("needs more")
    assert site.record().wish is not None
    ask(site, "drain", "n2")
    site.short("needs more")
    job = site.jobs[-1]
    assert job.intent == intent()
    assert [node.node for node in job.nodes] == ["n1"]
    site.plan("n1")
    site.obey()
    site.pass_probes()
    assert site.record().active is not None
    assert site.record().wish is not None


@pytest.mark.parametrize("verb", ["drain", "undrain", "forget"])
def test_an_unknown_node_is_refused_with_the_known_ones(site: Site, verb: str) -> None:
    answer = ask(site, verb, "nowhere")
    assert answer.exit_code == RequestRefusedError.exit_code
    assert answer.error == "no node is called 'nowhere'; the cluster has n1, n2, n3"


def test_to_drain_twice_changes_nothing_and_a_repeat_is_answered_again(site: Site) -> None:
    """Rule 24."""
    site.run("n1", "n2")
    first = ask(site, "drain", "n2", "same")
    jobs = len(site.jobs)
    assert ask(site, "drain", "n2", "same") == first
    assert ask(site, "drain", "n2").body == first.body
    assert len(site.jobs) == jobs


# -- pin ---------------------------------------------------------------------------------------------------


def test_a_pin_is_another_intent_and_a_new_revision(site: Site) -> None:
    old = site.run("n1", "n2", objective="latency")
    assert pin(site, "s1", "n3") is None, "answered when its plan is made"
    assert site.jobs[-1].intent == intent(objective="latency", pins={"s1": "n3"})
    assert site.jobs[-1].client == "cli"
    new = site.bring_up("n1", "n3")
    assert site.answers[-1].body == {"name": "faces", "revision": new, "unchanged": False}
    assert site.routes() == {old: "draining", new: "active"}
    pin(site, "10-20", "n1")
    assert site.jobs[-1].intent.options["pins"] == {"s1": "n3", "10-20": "n1"}
    pin(site, "s1", "")
    assert site.jobs[-1].intent.options["pins"] == {"10-20": "n1"}, "of what was asked for last"


def test_a_pin_to_a_node_that_is_away_is_refused(site: Site) -> None:
    site.run("n1", "n2")
    site.die("n3")
    answer = pin(site, "s1", "n3")
    assert answer is not None
    assert answer.exit_code == RequestRefusedError.exit_code
    assert answer.error == "node n3 is lost: start it before a slice is pinned there"


def test_an_unknown_pipeline_is_refused_with_the_known_ones(site: Site) -> None:
    site.run("n1", "n2")
    site.do(site.cluster.on_undeploy(site.now, "cli", "x1", "face"))
    site.do(site.cluster.on_rollout(site.now, "cli", "x2", "face", "pause"))
    site.do(site.cluster.on_pin(site.now, "cli", "x3", "face", "s0", "n1"))
    for answer in site.answers[-3:]:
        assert answer.exit_code == PipelineError.exit_code
        assert answer.error == "no pipeline is called 'face'; there are: faces"


def test_the_last_pin_leaves_the_options_as_they_were(site: Site) -> None:
    site.run("n1", "n2")
    pin(site, "s1", "n3")
    site.bring_up("n1", "n3")
    pin(site, "s1", "")
    assert site.jobs[-1].intent == intent()


@pytest.mark.parametrize(
    ("slice_id", "node", "error", "text"),
    [
        ("s1", "nowhere", RequestRefusedError, "no node is called 'nowhere'"),
        ("last", "n1", PlanError, "expected a slice such as s0, or a range"),
        ("9-3", "n1", PlanError, "ends before it starts"),
        ("s1", "", RequestRefusedError, "has no pin of 's1'; it has none"),
    ],
)
def test_a_wrong_pin_is_refused(site: Site, slice_id: str, node: str, error: Any, text: str) -> None:
    site.run("n1", "n2")
    answer = pin(site, slice_id, node)
    assert answer is not None
    assert answer.exit_code == error.exit_code
    assert text in answer.error


def test_a_pipeline_that_is_not_there_cannot_be_pinned(site: Site) -> None:
    answer = pin(site, "s0", "n1")
    assert answer is not None
    assert answer.exit_code == PipelineError.exit_code


# -- forget ------------------------------------------------------------------------------------------------


def test_a_dead_node_is_forgotten_with_its_topics(site: Site) -> None:
    site.run("n1", "n2")
    subject = Subject(intent().model.sha256, "n2", "ai_edge_litert 2", "0-3")
    site.cluster.situation.feedback._put(subject, 1.5)
    ask(site, "drain", "n2")
    site.die("n2")
    site.bring_up("n1", "n3")
    begun = len(site.log)
    assert ask(site, "forget", "n2").body == {"node": "n2"}
    cleared = {action.topic for action in site.log[begun:] if isinstance(action, Clear)}
    assert cleared == {TOPICS.node("n2", leaf) for leaf in ("state", "capacity", "report", "assignment")}
    assert "n2" not in site.cluster.members.nodes
    assert site.cluster.situation.drained == set()
    assert site.cluster.situation.feedback.in_use(subject) == 1.0
    site.boot("n2")
    site.deploy(intent("birds"))
    assert "n2" in [node.node for node in site.jobs[-1].nodes], "it may come back as any newcomer"


def test_a_living_node_is_not_forgotten(site: Site) -> None:
    answer = ask(site, "forget", "n2")
    assert answer.exit_code == RequestRefusedError.exit_code
    assert "node n2 is alive (ready)" in answer.error
    assert "n2" in site.cluster.members.nodes


def fresh(site: Site, term: int) -> None:
    """Another coordinator, whose store knows nothing but a term, finds what stands on the broker."""
    site.stored.clear()
    site.stored_term = term
    site.restart_coordinator()
    for board in site.boards.values():
        site.boot(board.name)
    site.do(site.cluster.start(site.now))


def test_a_drained_node_stays_so_when_the_store_is_lost(site: Site) -> None:
    """The mark stands in the node's assignment, too."""
    ask(site, "drain", "n2")
    term = site.stored_term
    fresh(site, 0)
    assert site.stored_term >= 1
    assert site.cluster.situation.drained == {"n2"}
    assert site.assignment("n2").draining
    site.deploy(intent("birds"))
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3"]
    assert term >= 1


def test_a_store_that_knows_better_is_not_overruled(site: Site) -> None:
    """Rule 24: undrained and stored, but not published before the coordinator died."""
    ask(site, "drain", "n2")
    fresh(site, site.stored_term)
    assert site.cluster.situation.drained == set()
    assert not site.assignment("n2").draining


@pytest.mark.parametrize(
    ("exclude", "unknown"),
    [
        ([], None),
        (["n1"], None),
        (["n9", "n1", "n9"], ["n9"]),
        (["x" * 500], ["x" * 80]),
        ("n9", None),
        ([7], None),
    ],
)
def test_a_deploy_tells_which_nodes_it_leaves_out_in_vain(site: Site, exclude: Any, unknown: Any) -> None:
    site.deploy(intent(exclude=exclude))
    site.plan("n2")
    assert site.answers[-1].body.get("unknown_nodes") == unknown
