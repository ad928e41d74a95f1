"""Making room for a revision that does not fit beside the one that serves (rule 13)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.actions import Publish
from coordinator.gate import Policy
from slicemq.errors import InsufficientCapacityError
from slicemq.messages import Capacity, PipelineDocument
from tests.coordinator.site import MB, TOPICS, Board, Site, blueprint, capacity, intent


@pytest.fixture
def site() -> Site:
    """Two boards on which one revision fits, but not two; and m1 serves."""
    made = Site(Board("n1", 40 * MB), Board("n2", 40 * MB))
    made.start()
    made.run("n1", "n2")
    return made


def holds(site: Site, node: str, *files: str) -> None:
    """A node tells what its cache holds."""
    board = site.boards[node]
    told: Capacity = replace(capacity(node, board.epoch, board.memory), artifacts=files)
    site.do(site.cluster.on_capacity(site.now, told))


def no_room(site: Site, model: str = "m2", policy: Policy | None = None) -> str:
    """A deploy that does not fit beside, and fits in the place of what serves; the revision that waits."""
    site.deploy(intent(model=model), policy=policy)
    first = site.jobs[-1]
    assert [node.memory for node in first.nodes] == [10 * MB, 10 * MB]
    site.do(site.cluster.on_plan_failed(site.now, first.job, InsufficientCapacityError("needs 20 MB, 10 MB free")))
    second = site.jobs[-1]
    assert second.job != first.job
    assert [node.memory for node in second.nodes] == [40 * MB, 40 * MB], "as if its own memory were free"
    site.plan("n1", "n2")
    coming = site.record().coming
    assert coming is not None
    assert coming.phase == "waiting"
    assert site.answers[-1].body["revision"] == coming.id
    return coming.id


def fetched(site: Site, model: str = "m2") -> None:
    """Both caches hold the files of the model's slices."""
    made = blueprint(intent(model=model), ("n1", "n2"))
    for node, items in made.slices.items():
        assert site.assignment(node).prefetch == tuple(item.artifact for item in items)
        holds(site, node, *(item.artifact.sha256 for item in items))


def told(site: Site) -> list[str]:
    """The reasons in all documents of the pipeline so far."""
    documents = [action.document for action in site.log if isinstance(action, Publish)]
    return [document.reason for document in documents if isinstance(document, PipelineDocument)]


def emptied(site: Site) -> None:
    """The old revision has answered what it had, and left the assignments."""
    site.wait(site.settings.room_quiet + 0.5)
    assert site.assigned("n1") == []


def test_files_first_then_pause_unload_load_probe_flip(site: Site) -> None:
    """Rule 13."""
    old = site.document().routes[0].revision
    new = no_room(site)
    assert site.routes() == {old: "active"}, "it serves while files are fetched"
    assert site.document().state == "running"
    assert "making room" in site.document().reason
    assert "needs 20 MB, 10 MB free" in site.document().reason
    assert site.assigned("n1") == [f"{old}/s0"]

    fetched(site)
    site.wait(0.25)
    assert site.document().state == "paused"
    assert site.document().reason.startswith(f"making room: {new} (n1, n2) takes the place of what served (n1, n2)")
    assert site.routes() == {old: "draining"}, "what is on its way is answered first (rule 14)"
    assert site.assigned("n1") == [f"{old}/s0"]

    site.deaf |= {"n1", "n2"}
    site.wait(site.settings.room_quiet + 0.5)
    assert site.routes() == {old: "lost"}, "clients send again what it still held"
    assert site.assigned("n1") == site.assigned("n2") == []
    site.wait(3.0)
    assert site.assigned("n1") == [], "memory is free only when reports say so (rule 12)"
    site.deaf.clear()
    site.obey("n1")
    assert site.assigned("n1") == []
    site.obey("n2")
    assert site.assigned("n1") == [f"{new}/s0"]
    assert site.probing == set()

    site.obey()
    assert site.document().state == "paused", "rule 11: a probe frame first"
    site.pass_probes()
    assert site.document().state == "running"
    assert site.routes() == {old: "lost", new: "active"}
    assert site.document().reason == ""
    assert site.record().room is None
    site.wait(site.settings.lost_shown + 1.0)
    assert site.routes() == {new: "active"}
    assert site.assignment("n1").prefetch == ()


def test_a_busy_revision_is_emptied_until_its_time_is_over(site: Site) -> None:
    """Rules 13 and 14."""
    old = site.document().routes[0].revision
    no_room(site)
    fetched(site)
    key = next(iter(site.boards["n1"].states))
    begun, frames = site.now, 0
    while site.assigned("n1"):
        frames += 1
        site.boards["n1"].beats[key] = {"frames": frames}
        site.wait(0.25)
        assert site.now - begun < site.settings.drain_most + 2.0
    assert site.now - begun >= site.settings.drain_most - 0.5
    assert site.routes() == {old: "lost"}


def test_no_pause_waits_for_files_without_end(site: Site) -> None:
    """Rule 13: each step has a deadline."""
    no_room(site)
    site.wait(site.settings.room_fetch - 1.0)
    assert site.document().state == "running"
    site.wait(2.0)
    assert site.document().state == "paused"


def test_nodes_that_know_no_fetching_ahead_are_not_waited_for(site: Site) -> None:
    for name, board in site.boards.items():
        old = replace(capacity(name, board.epoch, board.memory), protocol="1.3")
        site.do(site.cluster.on_capacity(site.now, old))
    no_room(site)
    site.wait(0.25)
    assert site.document().state == "paused"


@pytest.mark.parametrize("fault", ["a slice fails", "a deadline passes", "it is not unloaded"])
def test_the_old_plan_returns_under_another_number(site: Site, fault: str) -> None:
    """Rule 13: on failure the old plan returns under a new n."""
    old = site.document().routes[0].revision
    new = no_room(site)
    fetched(site)
    site.wait(0.25)
    if fault == "it is not unloaded":
        site.deaf.add("n2")
        site.wait(site.settings.room_quiet + site.settings.unload_most + 1.0)
        assert any("n2 still held slices after 30 s; what served before returns" in text for text in told(site))
        site.deaf.clear()
    else:
        emptied(site)
        site.obey()
        site.obey(to="loading")
        if fault == "a slice fails":
            site.report("n2", "s1", "failed", "out of memory")
            assert any("out of memory; what served before returns" in text for text in told(site))
        else:
            for name in site.boards:
                site.boards[name].states = dict.fromkeys(site.boards[name].states, "loading")
                site.do(site.cluster.on_report(site.now, site.boards[name].report()))
            site.deaf |= {"n1", "n2"}
            site.wait(site.settings.prepare_most + 1.0)
            site.deaf.clear()
    jobs = len(site.jobs)
    back = site.record().coming
    assert back is not None
    assert back.id == f"3-{old.partition('-')[2]}"
    assert back.intent == intent()
    assert new not in site.record().revisions
    site.obey()
    site.obey()
    site.pass_probes()
    assert len(site.jobs) == jobs, "no planning in between"
    assert site.routes() == {old: "lost", back.id: "active"}
    assert site.document().model == intent().model.sha256
    assert site.record().room is None


def test_a_node_lost_meanwhile_ends_it_and_what_served_is_planned_for_the_rest(site: Site) -> None:
    """Rule 13."""
    no_room(site)
    fetched(site)
    site.wait(0.25)
    emptied(site)
    site.die("n2")
    assert site.record().room is None
    job = site.jobs[-1]
    assert job.intent == intent()
    assert [node.node for node in job.nodes] == ["n1"]


@pytest.mark.parametrize("step", ["emptying", "unloading"])
def test_a_plan_that_returns_takes_the_place_of_what_is_emptied(step: str) -> None:
    """Rules 12 and 13: both do not fit, and what drains is the very revision whose plan returns."""
    site = Site(Board("n1", 40 * MB), Board("n2", 40 * MB), Board("n3", 40 * MB))
    site.start()
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    lacking = InsufficientCapacityError("needs 20 MB on n2, 10 MB free")
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, lacking))
    site.plan("n2", "n3")
    made = blueprint(intent(model="m2"), ("n2", "n3"))
    for node, items in made.slices.items():
        holds(site, node, *(item.artifact.sha256 for item in items))
    site.wait(0.25)
    if step == "unloading":
        site.deaf |= {"n1", "n2"}
        site.wait(site.settings.room_quiet + 0.5)
    room, jobs = site.record().room, len(site.jobs)
    assert room is not None
    assert room.step == step
    site.die("n3")
    back = site.record().coming
    assert back is not None
    assert back.id == f"3-{old.partition('-')[2]}"
    assert len(site.jobs) == jobs, "no planning in between"
    assert site.record().room is None
    assert site.routes() == {old: "lost"}
    assert site.assigned("n1") == [f"{back.id}/s0"], "its place, and not beside it"
    assert site.assigned("n2") == [f"{back.id}/s1"]
    site.deaf.clear()
    site.obey()
    site.obey()
    site.pass_probes()
    assert site.routes() == {old: "lost", back.id: "active"}


def test_what_drains_gives_its_place_where_what_served_was_lost_while_it_was_planned() -> None:
    """Rules 12 and 13: the plan counts the memory of all the pipeline's revisions as free."""
    site = Site(Board("n1", 70 * MB), Board("n2", 70 * MB))
    site.start()
    first = site.run("n1")
    site.deploy(intent(model="m2"))
    site.plan("n2")
    site.obey()
    site.pass_probes()
    second = site.record().active
    assert second is not None
    assert site.routes() == {first: "draining", second.id: "active"}
    site.deploy(intent(model="m3"))
    lacking = InsufficientCapacityError("needs 70 MB on n1, 40 MB free")
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, lacking))
    site.report("n2", "s0", "failed", "out of memory")
    assert site.routes() == {first: "draining", second.id: "lost"}
    site.plan("n1")
    third = site.record().coming
    assert third is not None
    assert site.record().room is None, "nothing serves that could return"
    assert site.routes() == {first: "lost", second.id: "lost"}, "clients send again what it still held"
    assert site.assigned("n1") == [f"{third.id}/s0"], "not beside it"
    assert site.assigned("n2") == []
    site.obey()
    site.pass_probes()
    assert site.routes() == {first: "lost", second.id: "lost", third.id: "active"}


def test_a_node_lost_while_files_are_fetched_is_replaced(site: Site) -> None:
    no_room(site)
    site.die("n2")
    assert site.record().room is None
    assert site.jobs[-1].intent == intent()


def test_a_newer_deploy_takes_the_place_of_what_waits(site: Site) -> None:
    old = site.document().routes[0].revision
    new = no_room(site)
    fetched(site)
    site.deploy(intent(model="m3"))
    site.wait(2.0)
    assert site.routes() == {old: "active"}, "no pause before it is known whether the newer one needs it"
    site.plan("n1")
    assert site.record().room is None
    assert new not in site.record().revisions
    site.obey()
    site.pass_probes()
    assert site.document().model == intent(model="m3").model.sha256


def test_what_does_not_fit_without_the_old_one_either_is_refused(site: Site) -> None:
    old = site.document().routes[0].revision
    site.deploy(intent(model="m2"))
    site.short("needs 200 MB")
    assert site.answers[-1].exit_code == InsufficientCapacityError.exit_code
    assert site.routes() == {old: "active"}
    assert site.record().room is None


def test_an_intent_may_forbid_the_pause(site: Site) -> None:
    site.deploy(intent(model="m2", make_room=False))
    jobs = len(site.jobs)
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, InsufficientCapacityError("needs 20 MB")))
    assert len(site.jobs) == jobs
    assert site.answers[-1].error == "needs 20 MB"


def test_a_drained_node_is_left_by_making_room_where_nothing_else_does(site: Site) -> None:
    """Rule 13 for a drain."""
    old = site.document().routes[0].revision
    site.do(site.cluster.on_upkeep(site.now, "cli", "d1", "drain", "n2"))
    first = site.jobs[-1].job
    site.do(site.cluster.on_plan_failed(site.now, first, InsufficientCapacityError("needs 40 MB, 10 MB free")))
    assert [(node.node, node.memory) for node in site.jobs[-1].nodes] == [("n1", 40 * MB)]
    site.plan("n1")
    assert site.record().coming is not None
    holds(site, "n1", *(file.sha256 for file in site.assignment("n1").prefetch))
    site.wait(0.25)
    emptied(site)
    site.obey()
    site.obey()
    site.pass_probes()
    assert site.assignment("n2").slices == ()
    assert list(site.routes().values()) == ["lost", "active"]
    assert old in site.routes()


def test_a_coordinator_that_restarts_meanwhile_goes_on(site: Site) -> None:
    """Rules 13 and 24: the deploy was answered, so it is not forgotten."""
    no_room(site)
    fetched(site)
    site.wait(0.25)
    assert site.document().state == "paused"
    site.restart_coordinator()
    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state()))
        site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch, board.memory)))
        site.do(site.cluster.on_report(site.now, board.report()))
        site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.start(site.now))
    site.wait(site.settings.drain_most + 1.0)
    site.obey()
    for _ in range(8):
        site.wait(1.0)
        if site.jobs and site.jobs[-1].intent == intent(model="m2"):
            break
        site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, InsufficientCapacityError("still there")))
    assert site.jobs[-1].intent == intent(model="m2")
    site.bring_up("n1", "n2")
    assert site.document().model == intent(model="m2").model.sha256
    assert TOPICS.pipeline("faces") in site.retained


def ended(site: Site) -> tuple[str, str]:
    """State and reason of the rollout that ended last."""
    last = site.record().history[-1]
    return last.state, last.reason


def finish(site: Site) -> None:
    """What served returns."""
    site.deaf.clear()
    for _ in range(3):
        site.obey()
        site.pass_probes()
    assert site.document().state == "running"
    assert site.document().model == intent().model.sha256


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("it is not unloaded", "n2 still held slices after 30 s"),
        ("a slice fails", "slice s1 failed on n2: out of memory"),
        ("golden frames differ", "output differs by 0.5"),
    ],
)
@pytest.mark.parametrize("policy", [None, Policy(canary=0.1, shadow=0.1)])
def test_the_history_says_why_room_was_made_in_vain(
    site: Site, fault: str, text: str, policy: Policy | None
) -> None:
    """Rule 13, with golden frames and a rollout by policy: back to the old plan, and the reason stays."""
    new = no_room(site, policy=policy)
    fetched(site)
    site.wait(0.25)
    if fault == "it is not unloaded":
        site.deaf.add("n2")
        site.wait(site.settings.room_quiet + site.settings.unload_most + 1.0)
    else:
        emptied(site)
        site.obey()
        if fault == "a slice fails":
            site.obey(to="loading")
            site.report("n2", "s1", "failed", "out of memory")
        else:
            site.obey()
            assert site.probing == {("faces", new)}
            site.do(site.cluster.on_probe_failed(site.now, "faces", new, "output differs by 0.5"))
            assert not site.probing
    state, reason = ended(site)
    assert state == "rolled-back"
    assert text in reason
    assert new not in site.record().revisions
    finish(site)


def test_a_policy_goes_without_canary_where_nothing_serves_beside_it(site: Site) -> None:
    """Rule 13: what served was unloaded, so there is nothing to compare with, and the history says so."""
    new = no_room(site, policy=Policy(canary=0.1, shadow=0.1))
    fetched(site)
    site.wait(0.25)
    emptied(site)
    for _ in range(2):
        site.obey()
    assert site.probing == {("faces", new)}
    site.pass_probes()
    assert site.routes()[new] == "active"
    state, reason = ended(site)
    assert state == "promoted"
    assert "nothing served beside it" in reason
