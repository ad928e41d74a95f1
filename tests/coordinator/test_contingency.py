"""Plans made ahead: what they are made from, when they are used, and that they are what planning would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.actions import MakePlan, PlanAhead
from coordinator.contingency import AGAIN_AT_MOST, AGAIN_SECONDS, LOOK_SECONDS, MOST, Unmade
from slicemq.messages import PlanDocument
from tests.coordinator.site import MB, TOPICS, Board, Site, blueprint, capacity, intent


@pytest.fixture
def site() -> Site:
    """Four boards, all heard and ready, and a coordinator that has begun to decide."""
    made = Site(*(Board(f"n{k}") for k in range(1, 5)))
    made.start()
    return made


def same(plan: MakePlan, other: MakePlan) -> bool:
    """Whether two jobs ask for the same plan."""
    return replace(plan, job=0) == replace(other, job=0)


def planning(site: Site, name: str = "faces") -> dict[str, Any]:
    document = site.retained[TOPICS.plan(name)]
    assert isinstance(document, PlanDocument)
    return document.planning


def test_in_idle_time_a_plan_is_made_for_each_loss_one_at_a_time(site: Site) -> None:
    site.run("n1", "n2")
    assert site.ahead == [], "not before nothing has changed for a moment"
    assert planning(site)["contingencies"] == {"ready": 0, "wanted": 2}
    site.wait(2.0)
    assert [action.lost for action in site.ahead] == ["n1"]
    assert [node.node for node in site.ahead[0].plan.nodes] == ["n2", "n3", "n4"]
    assert site.ahead[0].plan.client is None
    site.plan_ahead("n2", "n3")
    assert [action.lost for action in site.ahead] == ["n1", "n2"]
    assert planning(site)["contingencies"] == {"ready": 1, "wanted": 2}
    site.plan_ahead("n1", "n3")
    assert planning(site)["contingencies"] == {"ready": 2, "wanted": 2}
    site.wait(3 * LOOK_SECONDS)
    assert len(site.ahead) == 2, "what is ready is not made again"
    assert len(site.jobs) == 1, "and nothing that runs is planned again"


def test_a_loss_is_answered_at_once_from_the_plan_that_is_ready(site: Site) -> None:
    site.run("n1", "n2")
    site.foresee()
    site.die("n2")
    assert len(site.jobs) == 1, "nobody had to plan"
    assert site.assigned("n1")[0].startswith("2-"), "the assignments are out with the loss"
    assert site.assigned("n3")[0].startswith("2-")
    assert planning(site)["prepared_for"] == "n2"
    coming = site.record().coming
    assert coming is not None
    assert coming.prepared_for == "n2"
    site.obey()
    site.pass_probes()
    assert site.routes()[coming.id] == "active"
    assert planning(site)["prepared_for"] == "n2"


def test_the_word_of_a_prepared_plan_survives_a_restart(site: Site) -> None:
    site.run("n1", "n2")
    site.foresee()
    site.die("n2")
    site.obey()
    site.pass_probes()
    site.restart_coordinator()
    active = site.record().active
    assert active is not None
    assert active.prepared_for == "n2"


def test_a_plan_is_used_once(site: Site) -> None:
    """A prepared plan that fails is not tried again."""
    site.run("n1", "n2")
    site.foresee()
    site.die("n2")
    site.obey("n3", to="loading")
    site.report("n3", "s1", "failed", "no memory")
    site.wait(4.0)
    assert len(site.jobs) == 2


@pytest.mark.parametrize("change", ["node comes", "memory", "node goes", "shunned", "other pipeline"])
def test_what_changes_the_inputs_makes_a_plan_useless_and_it_is_made_again(site: Site, change: str) -> None:
    site.run("n1", "n2")
    site.foresee()
    assert len(site.ahead) == 2
    n3 = site.boards["n3"]
    match change:
        case "node comes":
            site.boards["n5"] = Board("n5")
            site.boot("n5")
        case "memory":
            site.do(site.cluster.on_capacity(site.now, capacity("n3", n3.epoch, 50 * MB)))
        case "node goes":
            site.die("n4")
        case "shunned":
            site.cluster.members.shun("n3")
        case "other pipeline":
            site.run("n3", name="birds")
    jobs = len(site.jobs)
    site.die("n2")
    assert len(site.jobs) == jobs + 1, "planned anew"
    site.plan("n1", "n3") if change != "node goes" else site.plan("n1")
    site.obey()
    site.pass_probes()
    ahead = len(site.ahead)
    site.foresee()
    assert len(site.ahead) > ahead


def test_a_plan_stays_ready_while_nodes_fetch_files(site: Site) -> None:
    """The files that come to its stand-ins are its own."""
    site.run("n1", "n2")
    site.foresee()
    n3 = site.boards["n3"]
    mine = site.record().revisions[next(iter(site.routes()))].blueprint.slices["n1"][0].artifact.sha256
    site.do(site.cluster.on_capacity(site.now, replace(capacity("n3", n3.epoch, n3.memory), artifacts=(mine,))))
    ahead = len(site.ahead)
    site.wait(15.0)
    assert len(site.ahead) == ahead
    jobs = len(site.jobs)
    site.die("n2")
    assert len(site.jobs) == jobs
    assert site.record().coming is not None


def test_files_of_other_models_change_nothing(site: Site) -> None:
    site.run("n1", "n2")
    site.foresee()
    board = site.boards["n3"]
    strange = replace(capacity("n3", board.epoch, board.memory), artifacts=("a" * 64,))
    site.do(site.cluster.on_capacity(site.now, strange))
    site.wait(3 * LOOK_SECONDS)
    assert len(site.ahead) == 2
    site.die("n2")
    assert len(site.jobs) == 1


def test_nothing_is_made_ahead_while_something_is_planned_or_changes(site: Site) -> None:
    site.run("n1", "n2")
    site.deploy(intent("birds"))
    site.wait(20.0)
    assert site.ahead == [], "a request is planned"
    site.plan("n3")
    site.wait(20.0)
    assert site.ahead == [], "its nodes fetch their slices"
    site.obey()
    site.wait(5.0)
    assert site.ahead == [], "its probe is on its way"
    site.pass_probes()
    site.wait(2.0)
    assert len(site.ahead) == 1
    site.deploy(intent(model="m2"))
    assert len(site.jobs) == 3, "a request does not wait for a plan ahead"
    site.not_ahead(Unmade.GIVEN_UP)
    site.wait(20.0)
    assert len(site.ahead) == 1
    site.bring_up("n1", "n2")
    site.wait(0.5)
    site.foresee()
    assert len(site.ahead) == 1, "the old revision drains"
    site.wait(2.0)
    site.foresee()
    assert len(site.ahead) == 4


def test_a_plan_that_was_given_up_is_made_later(site: Site) -> None:
    site.run("n1", "n2")
    site.wait(2.0)
    site.not_ahead(Unmade.GIVEN_UP)
    assert len(site.ahead) == 1
    site.wait(2.0)
    assert [action.lost for action in site.ahead] == ["n1", "n1"]
    site.do(site.cluster.on_foreseen(site.now, 999, blueprint(site.ahead[-1].plan.intent, ["n2"])))
    assert planning(site)["contingencies"]["ready"] == 0, "a job that nobody began counts for nothing"


def test_where_no_plan_exists_the_loss_is_planned_for_its_reason(site: Site) -> None:
    site.run("n1", "n2", rebalance=False)
    site.wait(2.0)
    site.plan_ahead()
    site.plan_ahead()
    assert planning(site)["contingencies"] == {"ready": 0, "wanted": 2}
    site.wait(3 * LOOK_SECONDS)
    assert len(site.ahead) == 2, "it is not tried again while nothing changes"
    site.die("n1")
    site.short("need more")
    assert "need more" in site.document().reason


def test_a_plan_that_failed_is_tried_again_later_each_time(site: Site) -> None:
    """Meanwhile the other losses have their turn."""
    site.run("n1", "n2", rebalance=False)
    site.wait(2.0)
    site.not_ahead(Unmade.FAILED)
    assert [action.lost for action in site.ahead] == ["n1", "n2"]
    site.plan_ahead("n1", "n3")
    assert len(site.ahead) == 2
    for failures in range(4):
        begun = len(site.ahead)
        pause = AGAIN_SECONDS * 2**failures
        site.wait(pause - 1.0)
        assert len(site.ahead) == begun
        site.wait(1.5 + LOOK_SECONDS)
        assert [action.lost for action in site.ahead[begun:]] == ["n1"]
        site.not_ahead(Unmade.FAILED)
    site.wait(AGAIN_SECONDS * 2**4 + LOOK_SECONDS)
    site.plan_ahead("n2", "n3")
    assert planning(site)["contingencies"] == {"ready": 2, "wanted": 2}


def test_what_failed_is_tried_at_once_from_other_inputs(site: Site) -> None:
    site.run("n1", "n2", rebalance=False)
    site.wait(2.0)
    for _ in range(3):
        site.not_ahead(Unmade.FAILED)
        site.plan_ahead("n1", "n3")
        site.wait(AGAIN_AT_MOST + LOOK_SECONDS)
        assert site.ahead[-1].lost == "n1"
    site.not_ahead(Unmade.FAILED)
    site.die("n4")
    site.wait(2.0)
    assert site.ahead[-1].lost == "n1"
    assert [node.node for node in site.ahead[-1].plan.nodes] == ["n2", "n3"]


def test_two_pipelines_on_one_node_are_both_answered_at_once(site: Site) -> None:
    """The second one's plan counts what the first one's takes."""
    site.run("n1", "n2")
    site.run("n2", "n3", name="birds")
    site.foresee()
    assert [(a.plan.intent.name, a.lost) for a in site.ahead] == [
        ("faces", "n1"),
        ("faces", "n2"),
        ("birds", "n2"),
        ("birds", "n3"),
    ]
    site.die("n2")
    assert len(site.jobs) == 2
    assert {site.record(name).coming is not None for name in ("faces", "birds")} == {True}
    assert len(site.assigned("n1")) == 2


def test_an_undeployed_pipeline_needs_no_plans(site: Site) -> None:
    site.run("n1", "n2")
    site.foresee()
    assert site.cluster.contingencies.artifacts()
    site.undeploy("faces")
    site.wait(2.0)
    assert site.cluster.contingencies.artifacts() == set()


def test_their_number_is_bounded() -> None:
    boards = [Board(f"n{k:03}") for k in range(MOST + 10)]
    site = Site(*boards, read_back=False)
    site.start()
    site.run(*[board.name for board in boards])
    site.foresee()
    assert len(site.ahead) == MOST
    assert planning(site)["contingencies"] == {"ready": MOST, "wanted": MOST}


chains = st.lists(st.sampled_from(("n1", "n2", "n3", "n4")), min_size=1, max_size=3, unique=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    placed=st.lists(chains, min_size=1, max_size=3),
    prepared=st.booleans(),
    memory=st.lists(st.integers(40, 200), min_size=4, max_size=4),
    lost=st.sampled_from(("n1", "n2", "n3", "n4")),
    by_will=st.booleans(),
)
def test_a_plan_ahead_asks_for_what_the_loss_asks_for(
    placed: list[list[str]], prepared: bool, memory: list[int], lost: str, by_will: bool
) -> None:
    """Whatever runs: the job that a loss brings is one that was foreseen, or it is answered already."""
    site = Site(*(Board(f"n{k}", size * MB) for k, size in enumerate(memory, 1)), read_back=False)
    site.start()
    for number, nodes in enumerate(placed):
        site.run(*nodes, name=f"p{number}")
    site.wait(1.5)
    while site.cluster.contingencies.under_way:
        others = [node.node for node in site.ahead[-1].plan.nodes][:2]
        site.plan_ahead(*others) if prepared else site.plan_ahead()
    struck = [f"p{number}" for number, nodes in enumerate(placed) if lost in nodes]
    foreseen = [action for action in site.ahead if action.lost == lost]
    assert [action.plan.intent.name for action in foreseen] == struck
    jobs = len(site.jobs)
    site.die(lost, by_will=by_will)
    if not by_will:
        site.wait(3.0)
    if prepared:
        assert len(site.jobs) == jobs
        assert all(site.record(name).coming is not None for name in struck)
        return
    for number, name in enumerate(struck[:1]):
        assert site.jobs[jobs + number].intent.name == name
        assert same(site.jobs[jobs + number], foreseen[number].plan)


def test_blueprints_of_a_plan_ahead_keep_their_files() -> None:
    site = Site(Board("n1"), Board("n2"))
    site.start()
    site.run("n1")
    site.wait(2.0)
    site.plan_ahead("n2")
    expected = blueprint(intent(), ["n2"]).slices["n2"][0].artifact.sha256
    assert site.cluster.contingencies.artifacts() == {expected}
    assert isinstance(site.ahead[0], PlanAhead)
