"""Scenarios of a cluster's life, driven through the pure core; `Site` checks the invariants after every event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.actions import Clear, Persist, Publish, Respond
from coordinator.intents import files_in_use
from coordinator.membership import LINK_GRACE, RECONNECT_GRACE
from coordinator.rollout import MOST_KEPT
from coordinator.settings import Settings
from slicemq.errors import InsufficientCapacityError, ModelError
from slicemq.messages import Artifact, Heartbeat, Stamp
from tests.coordinator.site import MB, TOPICS, Board, Site, blueprint, capacity, intent, sha


@pytest.fixture
def site() -> Site:
    """Three boards, all heard and ready, and a coordinator that has begun to decide."""
    made = Site(Board("n1"), Board("n2"), Board("n3"))
    made.start()
    return made


# -- the way of a deploy -----------------------------------------------------------------------------------


def test_deploy_plans_prepares_probes_and_flips(site: Site) -> None:
    site.deploy(intent())
    job = site.jobs[-1]
    assert [node.node for node in job.nodes] == ["n1", "n2", "n3"]
    assert job.client == "cli"
    assert TOPICS.pipeline("faces") not in site.retained

    site.plan("n1", "n2")
    assert site.answers[-1].body["unchanged"] is False
    revision = site.answers[-1].body["revision"]
    assert revision.startswith("1-")
    assert site.assigned("n1") == [f"{revision}/s0"]
    assert site.assigned("n2") == [f"{revision}/s1"]
    assert site.assigned("n3") == []
    assert site.document().state == "paused"
    assert site.routes() == {}

    site.obey("n1")
    assert "waiting for s1 on n2" in site.document().reason
    assert site.probing == set()
    site.obey("n2")
    assert site.probing == {("faces", revision)}
    assert site.document().state == "paused", "rule 11: no flip before a probe frame came out"

    site.pass_probes()
    assert site.document().state == "running"
    assert site.routes() == {revision: "active"}
    assert site.document().routes[0].weight == 1.0
    assert site.probing == set(), "probing stops with the flip"
    assert site.retained[TOPICS.plan("faces")].revision == revision


def test_redeploy_of_another_model_drains_the_old_revision(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    assert site.routes() == {old: "active"}
    new = site.bring_up("n2", "n3")
    assert site.routes() == {old: "draining", new: "active"}
    assert site.document().model == intent(model="m2").model.sha256
    assert site.assigned("n1") == [f"{old}/s0"], "a draining slice still runs"
    site.wait(site.settings.drain_quiet + 0.5)
    assert site.routes() == {new: "active"}
    assert site.assigned("n1") == []


def test_draining_lasts_while_frames_move_and_no_longer_than_its_limit(site: Site) -> None:
    """Rule 14."""
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    new = site.bring_up("n2", "n3")
    begun = site.now
    key = next(key for key in site.boards["n1"].states if key[1] == old)
    frames = 0
    while old in site.routes():
        frames += 1
        site.boards["n1"].beats[key] = {"frames": frames}
        site.wait(0.25)
        assert site.now - begun < site.settings.drain_most + 1
    assert site.now - begun >= site.settings.drain_most - 0.5
    assert site.routes() == {new: "active"}


def test_draining_waits_for_a_frame_that_takes_long(site: Site) -> None:
    """Rule 14: a slow stage holds a frame for longer than the quiet time."""
    old = site.run("n1", "n2")
    key = next(key for key in site.boards["n1"].states if key[1] == old)
    site.deploy(intent(model="m2"))
    site.bring_up("n2", "n3")
    for age in range(1, 8):
        site.boards["n1"].beats[key] = {"waiting": float(age)}
        site.wait(1.0)
    assert site.routes()[old] == "draining"
    site.boards["n1"].beats[key] = {"frames": 1}
    site.wait(site.settings.drain_quiet + 0.5)
    assert old not in site.routes()


def test_another_pipelines_frames_do_not_keep_a_draining_revision(site: Site) -> None:
    """Two pipelines of one model may have revisions of one name."""
    old = site.run("n1")
    site.deploy(intent("birds"))
    bp = blueprint(intent("birds"), ["n1"])
    same = site.record().revisions[old].blueprint.digest
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, replace(bp, digest=same)))
    site.obey()
    site.pass_probes()
    assert [revision.id for revision in site.record("birds").in_phase("active")] == [old]
    site.deploy(intent(model="m2"))
    site.bring_up("n2")
    for frames in range(1, 14):
        site.boards["n1"].beats["birds", old, "s0"] = {"frames": frames}
        site.wait(0.25)
    assert old not in site.routes()


def test_redeploy_that_plans_the_same_changes_nothing(site: Site) -> None:
    revision = site.run("n1", "n2")
    site.deploy(intent())
    site.plan("n1", "n2")
    assert site.answers[-1].body == {"name": "faces", "revision": revision, "unchanged": True}
    assert site.routes() == {revision: "active"}


def test_plans_after_a_loss_and_ahead_are_made_with_the_calibration_set(site: Site) -> None:
    wanted = replace(intent(), calibration=Artifact(sha("typical"), 7))
    site.deploy(wanted)
    site.bring_up("n1", "n2")
    site.wait(2.0)
    assert site.ahead[0].plan.intent.calibration == wanted.calibration
    site.die("n2")
    assert site.jobs[-1].client is None
    assert site.jobs[-1].intent.calibration == wanted.calibration
    site.bring_up("n1", "n3")
    site.restart_coordinator()
    kept = site.record().intent
    assert kept is not None
    assert kept.calibration == wanted.calibration


def test_files_are_in_use_from_the_request_for_as_long_as_one_may_go_back_to_them(site: Site) -> None:
    def used() -> set[str]:
        return files_in_use(site.cluster.records.values())

    first, second = (replace(intent(model=m), calibration=Artifact(sha(f"typical {m}"), 7)) for m in ("m1", "m2"))
    assert first.calibration is not None
    assert second.calibration is not None
    files = {"first": {first.model.sha256, first.calibration.sha256}}
    files["second"] = {second.model.sha256, second.calibration.sha256}
    site.deploy(first)
    assert used() == files["first"]
    site.bring_up("n1", "n2")
    slices = {item.artifact.sha256 for items in blueprint(first, ["n1", "n2"]).slices.values() for item in items}
    assert used() == files["first"] | slices
    site.deploy(second)
    assert used() == files["first"] | slices | files["second"]
    site.bring_up("n1")
    site.wait(40.0)
    assert list(site.record().revisions.values()) == [site.record().active]
    assert files["second"] < used()
    assert files["first"] < used()
    assert not slices & used()
    for number in range(MOST_KEPT + 1):
        site.deploy(intent(model=f"other {number}"))
        site.bring_up("n1")
        site.wait(40.0)
    assert not (files["first"] | files["second"]) & used()


def test_the_same_plan_measured_on_other_inputs_states_their_error(site: Site) -> None:
    """And a request without a calibration set keeps none."""
    wanted = replace(intent(), calibration=Artifact(sha("typical"), 7))
    stated: list[dict[str, Any]] = [
        {"measured": 0.5, "samples": "calibration"},
        {"measured": 0.1, "samples": "noise"},
    ]
    revision = site.run("n1", "n2")
    for one, error in zip((wanted, intent()), stated, strict=True):
        site.deploy(one)
        job = site.jobs[-1]
        made = blueprint(job.intent, ["n1", "n2"])
        actions = site.cluster.on_planned(site.now, job.job, replace(made, plan={**made.plan, "error": error}))
        kinds = [type(action) for action in actions]
        assert kinds[0] is Persist
        assert kinds.index(Respond) > kinds.index(Publish), "whoever asks reads the plan's document next"
        site.do(actions)
        assert site.answers[-1].body == {"name": "faces", "revision": revision, "unchanged": True}
        document = site.retained[TOPICS.plan("faces")]
        assert document.revision == revision
        assert document.plan == {**made.plan, "error": error}
        record = site.record()
        assert record.active is not None
        assert record.intent == record.active.intent == one


def test_redeploy_of_what_runs_cancels_what_prepares(site: Site) -> None:
    revision = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    site.obey()
    assert len(site.probing) == 1
    site.deploy(intent())
    site.plan("n1", "n2")
    assert site.answers[-1].body["unchanged"] is True
    assert site.probing == set()
    assert site.assigned("n3") == []
    site.wait(1.0)
    assert site.routes() == {revision: "active"}


def test_redeploy_of_what_prepares_is_answered_at_once(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1", "n2")
    revision = site.answers[-1].body["revision"]
    jobs = len(site.jobs)
    site.deploy(intent())
    assert site.answers[-1].body["revision"] == revision
    assert len(site.jobs) == jobs


def test_newer_deploy_takes_the_place_of_one_that_is_planned(site: Site) -> None:
    first = site.deploy(intent(model="m1"))
    stale = site.jobs[-1].job
    site.deploy(intent(model="m2"))
    assert (site.answers[-1].transaction, site.answers[-1].exit_code) == (first, 41)
    assert site.cluster.on_planned(site.now, stale, blueprint(intent(model="m1"), ["n1"])) == []
    assert site.record().revisions == {}
    site.bring_up("n1")
    assert site.document().model == intent(model="m2").model.sha256


def test_newer_deploy_stays_the_newest_when_the_one_before_it_is_abandoned_meanwhile(site: Site) -> None:
    """Rule 12: what loses a node while a newer plan is made is not wished for again."""
    site.run("n1")
    site.deploy(intent(model="m2"))
    site.plan("n1", "n2")
    site.deploy(intent(model="m3"))
    site.die("n2")
    newest = site.bring_up("n1", "n3")
    site.wait(10)
    assert site.document().model == intent(model="m3").model.sha256
    assert site.jobs[-1].intent == intent(model="m3")
    assert site.routes()[newest] == "active"


def test_newer_deploy_takes_the_place_of_one_that_prepares(site: Site) -> None:
    site.deploy(intent(model="m1"))
    site.plan("n1", "n2")
    site.deploy(intent(model="m2"))
    second = site.bring_up("n2", "n3")
    assert second.startswith("2-")
    assert site.routes() == {second: "active"}
    assert site.assigned("n1") == []


def test_repeats_of_a_transaction_are_harmless(site: Site) -> None:
    """Rule 24."""
    site.deploy(intent(), "t-one")
    jobs = len(site.jobs)
    site.deploy(intent(), "t-one")
    assert len(site.jobs) == jobs
    assert site.answers == []
    site.plan("n1")
    answer = site.answers[-1]
    site.deploy(intent(), "t-one")
    assert site.answers[-1] == answer
    assert len(site.answers) == 2
    assert len(site.jobs) == jobs
    site.do(site.cluster.on_undeploy(site.now, "cli", "t-two", "faces"))
    site.do(site.cluster.on_undeploy(site.now, "cli", "t-two", "faces"))
    assert [a.error for a in site.answers[-2:]] == ["", ""]


def test_deploy_that_cannot_be_planned_leaves_nothing(site: Site) -> None:
    site.deploy(intent())
    site.short("need 9 MB")
    assert (site.answers[-1].error, site.answers[-1].exit_code) == ("need 9 MB", 21)
    assert "faces" not in site.cluster.records
    assert TOPICS.pipeline("faces") not in site.retained
    site.wait(5)
    assert len(site.jobs) == 1


def test_redeploy_that_cannot_be_planned_leaves_what_runs(site: Site) -> None:
    revision = site.run("n1")
    site.deploy(intent(model="bad"))
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, ModelError("damaged")))
    assert site.answers[-1].exit_code == 10
    site.wait(5)
    assert site.routes() == {revision: "active"}
    assert len(site.jobs) == 2


def test_undeploy_says_removed_then_clears(site: Site) -> None:
    """Rule 15."""
    site.run("n1", "n2")
    site.undeploy("faces")
    assert site.answers[-1].error == ""
    assert (site.document().state, site.routes()) == ("removed", {})
    assert site.assigned("n1") == site.assigned("n2") == []
    assert TOPICS.plan("faces") not in site.retained
    site.wait(site.settings.removed_shown + 1)
    assert TOPICS.pipeline("faces") not in site.retained
    site.undeploy("faces")
    assert site.answers[-1].exit_code == 61


@pytest.mark.parametrize("when", ["planning", "preparing", "probing"])
def test_undeploy_on_the_way(site: Site, when: str) -> None:
    site.deploy(intent())
    job = site.jobs[-1].job
    if when != "planning":
        site.plan("n1", "n2")
    if when == "probing":
        site.obey()
    site.undeploy("faces")
    assert site.probing == set()
    assert site.cluster.on_planned(site.now, job, blueprint(intent(), ["n1"])) == []
    site.wait(1)
    for node in ("n1", "n2"):
        assert site.assigned(node) == []


@pytest.mark.parametrize("wait", [1.0, 100.0])
def test_no_revision_number_is_used_twice(site: Site, wait: float) -> None:
    """Rule 1: not after an undeploy, nor after a failed deploy, nor after the record is gone."""
    assert site.run("n1").startswith("1-")
    site.undeploy("faces")
    site.wait(wait)
    site.deploy(intent())
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, ModelError("no")))
    site.wait(wait)
    assert site.run("n1").startswith("2-")
    site.undeploy("faces")
    site.wait(wait)
    site.restart_coordinator()
    site.start()
    assert site.run("n1").startswith("3-")


# -- death -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_will", [True, False])
def test_death_of_a_node_leads_to_a_new_revision_on_the_others(site: Site, by_will: bool) -> None:
    old = site.run("n1", "n2")
    jobs = len(site.jobs)
    site.die("n2", by_will=by_will)
    if not by_will:
        site.wait(1.0)
        assert site.routes() == {old: "active"}
        site.wait(1.0)
    assert site.routes() == {old: "lost"}
    assert site.document().state == "paused"
    assert "n2 was lost" in site.document().reason
    assert len(site.jobs) == jobs + 1
    assert [node.node for node in site.jobs[-1].nodes] == ["n1", "n3"]
    assert site.assigned("n1") == [], "slices of a lost revision leave the assignments"
    new = site.bring_up("n1", "n3")
    assert site.routes() == {old: "lost", new: "active"}
    site.wait(site.settings.lost_shown + 1)
    assert site.routes() == {new: "active"}


def test_a_clean_stop_counts_like_a_death_but_says_stopped(site: Site) -> None:
    site.run("n1", "n2")
    site.do(site.cluster.on_node_state(site.now, site.boards["n2"].state("disconnected")))
    assert "n2 has stopped" in site.record().status
    assert site.cluster.members.node("n2").state == "disconnected"


def test_death_while_preparing_plans_again(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1", "n2")
    site.die("n1")
    assert [node.node for node in site.jobs[-1].nodes] == ["n2", "n3"]
    assert site.bring_up("n2", "n3").startswith("2-")


def test_death_while_probing_stops_the_probe(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1", "n2")
    site.obey()
    assert site.probing
    site.die("n2")
    assert site.probing == set()
    site.bring_up("n1", "n3")


def test_death_of_a_draining_revisions_node_makes_its_route_lost(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    new = site.bring_up("n2", "n3")
    site.die("n1")
    assert site.routes() == {old: "lost", new: "active"}


def test_death_during_a_rollout_keeps_the_wish(site: Site) -> None:
    old = site.run("n1")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    site.die("n3")
    assert site.routes() == {old: "active"}
    assert site.jobs[-1].intent == intent(model="m2")
    site.short("need more")
    assert site.routes() == {old: "active"}
    jobs = len(site.jobs)
    site.wait(10)
    assert len(site.jobs) == jobs, "nothing has changed that would help"
    site.boot("n3")
    site.wait(5)
    assert site.jobs[-1].intent == intent(model="m2")
    site.bring_up("n2", "n3")
    assert site.document().model == intent(model="m2").model.sha256


def test_what_was_accepted_is_tried_again_when_what_served_before_serves_again(site: Site) -> None:
    """Rule 24: an accepted deploy is not forgotten when there is no room for it while nothing serves."""
    site.run("n1")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    site.die("n1")
    site.die("n2")
    short = InsufficientCapacityError("need more")
    assert site.jobs[-1].intent == intent(model="m2")
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, short))
    assert site.jobs[-1].intent == intent(), "what served before may fit"
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, short))
    jobs = len(site.jobs)
    site.wait(10)
    assert len(site.jobs) == jobs, "nothing has changed that would help"
    site.boot("n1")
    assert site.jobs[-1].intent == intent(model="m2"), "the newer one has the first try"
    for _ in range(2):
        # Twice, because the node became ready while the first one was made.
        site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, short))
    site.bring_up("n1")
    assert site.document().model == intent().model.sha256
    assert site.jobs[-1].intent == intent(model="m2")
    site.bring_up("n3")
    assert site.document().model == intent(model="m2").model.sha256


def test_rollout_that_fails_while_nothing_serves_goes_back_to_what_served(site: Site) -> None:
    """Rule 13: the old plan returns under a new n."""
    site.run("n1")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    site.obey(to="loading")
    site.die("n1")
    assert site.document().state == "paused"
    site.report("n2", "s0", "failed", "operator is not supported")
    site.wait(site.settings.retry_after + 1)
    assert site.jobs[-1].intent == intent()
    assert site.bring_up("n2").startswith("3-")
    assert site.document().model == intent().model.sha256


def test_paused_for_want_of_memory_until_a_node_returns(site: Site) -> None:
    site.run("n1", "n2")
    site.die("n2")
    site.short("need 40, have 20")
    assert site.document().state == "paused"
    assert site.document().reason == "need 40, have 20"
    jobs = len(site.jobs)
    site.wait(20)
    assert len(site.jobs) == jobs
    site.boot("n2")
    site.wait(5)
    assert len(site.jobs) == jobs + 1
    site.bring_up("n1", "n2")
    assert site.document().state == "running"


def test_paused_for_want_of_memory_until_another_pipeline_goes(site: Site) -> None:
    site.run("n1", name="birds")
    site.run("n1", "n2")
    site.die("n2")
    site.short("need 40, have 20")
    site.wait(20)
    jobs = len(site.jobs)
    site.undeploy("birds")
    site.wait(5)
    assert len(site.jobs) == jobs + 1
    site.bring_up("n1")


def test_planning_that_fails_otherwise_is_tried_again_later(site: Site) -> None:
    site.run("n1", "n2")
    site.die("n2")
    jobs = len(site.jobs)
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, ModelError("the child died")))
    site.wait(site.settings.retry_after - 0.5)
    assert len(site.jobs) == jobs
    site.wait(1)
    assert len(site.jobs) == jobs + 1


# -- who is alive ------------------------------------------------------------------------------------------


def test_a_late_will_of_another_epoch_is_ignored(site: Site) -> None:
    """Rule 16."""
    revision = site.run("n1", "n2")
    late = replace(site.boards["n1"].state("lost"), epoch="an-earlier-life")
    site.do(site.cluster.on_node_state(site.now, late))
    site.wait(1)
    assert site.routes() == {revision: "active"}


def test_a_straggling_heartbeat_does_not_revive_the_dead(site: Site) -> None:
    site.run("n1", "n2")
    straggler = site.boards["n2"].beat()
    site.die("n2")
    site.do(site.cluster.on_heartbeat(site.now, straggler))
    assert not site.cluster.members.node("n2").alive


def test_a_will_after_a_short_cut_is_taken_back_by_the_same_life(site: Site) -> None:
    site.die("n2")
    assert not site.cluster.members.node("n2").alive
    site.boards["n2"].running = True
    site.do(site.cluster.on_node_state(site.now, site.boards["n2"].state("ready")))
    site.wait(0.5)
    assert site.cluster.members.node("n2").usable


def test_a_second_node_with_the_same_id_changes_nothing(site: Site) -> None:
    revision = site.run("n1", "n2")
    twin = Heartbeat("n1", "the-twins-epoch", 1, 0.0, 0)
    for _ in range(8):
        site.wait(0.25)
        site.do(site.cluster.on_heartbeat(site.now, twin))
    assert site.routes() == {revision: "active"}
    assert site.cluster.members.node("n1").epoch == site.boards["n1"].epoch


def test_a_node_that_restarts_fast_is_a_new_life_without_the_old_slices(site: Site) -> None:
    old = site.run("n1", "n2")
    site.boards["n1"].running = False
    site.boot("n1")
    assert site.routes() == {old: "active"}, "nothing has said that the first life is over"
    site.wait(2)
    assert site.routes()[old] == "lost"
    site.bring_up("n1", "n2")


def test_the_coordinators_own_pause_kills_nobody(site: Site) -> None:
    """Rule 20: stopped for 10 s; what the broker kept comes at once afterwards."""
    revision = site.run("n1", "n2")
    site.now += 10.0
    site.do(site.cluster.tick(site.now))
    site.do(site.cluster.on_own_beat(site.now))
    site.wait(1)
    assert site.routes() == {revision: "active"}
    assert all(node.alive for node in site.cluster.members.nodes.values())


def test_a_broker_that_hangs_kills_nobody(site: Site) -> None:
    """Rule 20: nothing comes, the coordinator's own beats neither."""
    revision = site.run("n1", "n2")
    site.wait(60, beats=False, heartbeats=False)
    site.wait(2)
    assert site.routes() == {revision: "active"}


def test_nodes_get_time_to_come_back_after_a_lost_connection(site: Site) -> None:
    revision = site.run("n1", "n2")
    site.cluster.on_disconnected()
    site.wait(3, beats=False, heartbeats=False)
    site.wait(RECONNECT_GRACE, heartbeats=False)
    assert site.routes() == {revision: "active"}
    site.wait(2)
    assert site.routes() == {revision: "active"}
    site.die("n2", by_will=False)
    site.wait(2)
    assert site.routes() == {revision: "lost"}, "one that was heard again has no grace any more"


def test_nodes_that_do_not_come_back_after_a_lost_connection_are_lost(site: Site) -> None:
    site.run("n1", "n2")
    site.cluster.on_disconnected()
    site.boards["n2"].running = False
    site.wait(RECONNECT_GRACE + 2)
    assert not site.cluster.members.node("n2").alive
    assert site.cluster.members.node("n1").alive


# -- slices that do not work although their node lives -----------------------------------------------------


def test_a_failed_slice_loses_the_revision_and_its_node_is_avoided(site: Site) -> None:
    site.run("n1", "n2")
    site.report("n2", "s1", "failed", "crashed twice")
    assert "slice s1 failed on n2: crashed twice" in site.document().reason
    assert site.jobs[-1].avoid == frozenset({"n2"})
    assert "n2" in {node.node for node in site.jobs[-1].nodes}


def test_a_hanging_slice_loses_the_revision(site: Site) -> None:
    """Rule 19."""
    revision = site.run("n1", "n2")
    for age in range(1, 9):
        site.boards["n2"].beats["faces", revision, "s1"] = {"frames": 3, "waiting": age * 0.25}
        site.wait(0.25)
    assert site.routes() == {revision: "lost"}
    assert "s1 on n2: a frame waits" in site.document().reason


def test_a_slow_stage_may_take_ten_times_its_plan(site: Site) -> None:
    """Rule 19: the limit follows the stage's predicted time."""
    site.deploy(intent())
    site.plan("n1", "n2", stage=1.0)
    site.obey()
    site.pass_probes()
    revision = next(iter(site.routes()))
    for age in range(1, 38):
        site.boards["n2"].beats["faces", revision, "s1"] = {"frames": 3, "waiting": age * 0.25}
        site.wait(0.25)
    assert site.routes() == {revision: "active"}
    site.wait(1.5)
    assert site.routes() == {revision: "lost"}


@pytest.mark.parametrize("field", ["frames", "errors"])
def test_a_slice_under_load_that_ends_frames_does_not_hang(site: Site, field: str) -> None:
    revision = site.run("n1", "n2")
    for count in range(1, 30):
        site.boards["n2"].beats["faces", revision, "s1"] = {field: count, "waiting": 1.0, "queued": 5}
        site.wait(0.5)
    assert site.routes() == {revision: "active"}


def test_a_data_link_that_stays_down_loses_the_revision(site: Site) -> None:
    """Rule 19."""
    revision = site.run("n1", "n2")
    key = ("faces", revision, "s0")
    site.boards["n1"].beats[key] = {"link": "down"}
    site.wait(LINK_GRACE - 1)
    site.boards["n1"].beats[key] = {"link": "up"}
    site.wait(1)
    assert site.routes() == {revision: "active"}
    site.boards["n1"].beats[key] = {"link": "down"}
    site.wait(LINK_GRACE + 1)
    assert site.routes() == {revision: "lost"}
    assert "data link is down" in site.document().reason


def test_a_workers_restart_raises_resend(site: Site) -> None:
    revision = site.run("n1", "n2")
    before = site.document().resend
    site.report("n1", "s0", "loading")
    site.wait(3)
    assert site.document().resend == before
    site.report("n1", "s0", "ready")
    assert site.document().resend == before + 1
    assert site.routes() == {revision: "active"}


def test_a_worker_that_does_not_come_back_loses_the_revision(site: Site) -> None:
    revision = site.run("n1", "n2")
    site.report("n1", "s0", "loading")
    site.wait(site.settings.unready_grace + 1)
    assert site.routes()[revision] == "lost"
    assert "not ready" in site.document().reason
    assert site.jobs[-1].avoid == frozenset({"n1"})


# -- deadlines ---------------------------------------------------------------------------------------------


def test_preparing_has_a_deadline(site: Site) -> None:
    """Rule 12."""
    site.deploy(intent())
    site.plan("n1", "n2")
    site.obey("n1")
    site.wait(site.settings.prepare_most + 1)
    assert "preparing took longer" in site.record().status
    assert "(n2)" in site.record().status
    assert site.assigned("n1") == site.assigned("n2") == []
    site.wait(site.settings.retry_after)
    assert site.jobs[-1].avoid == frozenset({"n2"})


def test_probing_has_a_deadline(site: Site) -> None:
    """Rules 11 and 12."""
    site.deploy(intent())
    site.plan("n1", "n2")
    site.obey()
    site.wait(site.settings.probe_most + 1)
    assert "probing took longer" in site.record().status
    assert site.probing == set()
    assert site.assigned("n1") == []
    site.wait(site.settings.retry_after)
    site.bring_up("n1", "n2")


def test_a_failed_rollout_leaves_the_old_revision_alone(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    site.obey(to="loading")
    site.report("n3", "s1", "failed", "no memory")
    assert site.routes() == {old: "active"}
    assert site.assigned("n3") == []
    jobs = len(site.jobs)
    site.wait(20)
    assert len(site.jobs) == jobs
    assert site.document().model == intent().model.sha256


def test_a_probe_answer_that_comes_late_changes_nothing(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1")
    site.obey()
    revision = next(iter(site.record().revisions))
    site.die("n1")
    assert site.cluster.on_probed(site.now, "faces", revision) == []
    assert site.cluster.on_probed(site.now, "nobody", revision) == []
    assert site.routes() == {}
    assert site.document().state == "paused"
    assert "n1 was lost" in site.document().reason, "what was accepted stays to be seen"


# -- memory ------------------------------------------------------------------------------------------------


def test_memory_of_assigned_slices_is_not_offered_twice(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1", "n2", memory=30 * MB)
    site.deploy(intent("birds"))
    assert {node.node: node.memory // MB for node in site.jobs[-1].nodes} == {"n1": 60, "n2": 60, "n3": 100}


def test_memory_of_a_draining_revision_counts_and_of_a_lost_one_does_not(site: Site) -> None:
    site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.bring_up("n2", "n3")
    site.deploy(intent("birds"))
    assert {node.node: node.memory // MB for node in site.jobs[-1].nodes} == {"n1": 70, "n2": 40, "n3": 70}
    site.undeploy("birds")
    site.die("n3")
    free = {node.node: node.memory // MB for node in site.jobs[-1].nodes}
    assert free == {"n1": 70, "n2": 70}


def test_free_memory_is_never_negative(site: Site) -> None:
    site.run("n1")
    board = site.boards["n1"]
    site.do(site.cluster.on_capacity(site.now, capacity("n1", board.epoch, memory=5 * MB)))
    site.deploy(intent("birds"))
    assert {node.node: node.memory // MB for node in site.jobs[-1].nodes}["n1"] == 0


def test_two_pipelines_are_planned_one_after_the_other(site: Site) -> None:
    """Else both would be given the same free memory."""
    site.deploy(intent("birds"))
    site.deploy(intent("faces"))
    assert len(site.jobs) == 1
    site.plan("n1", memory=50 * MB)
    assert len(site.jobs) == 2
    assert {node.node: node.memory // MB for node in site.jobs[-1].nodes}["n1"] == 40


def test_draining_and_unready_nodes_are_not_planned_on(site: Site) -> None:
    revision = site.run("n1")
    site.do(site.cluster.on_node_state(site.now, site.boards["n1"].state("draining")))
    site.boards["n2"].life += 1
    site.do(site.cluster.on_node_state(site.now, site.boards["n3"].state("init")))
    site.deploy(intent("birds"))
    assert [node.node for node in site.jobs[-1].nodes] == ["n2"]
    assert site.routes() == {revision: "active"}


# -- documents ---------------------------------------------------------------------------------------------


def test_an_assignment_is_sent_again_until_the_node_has_seen_it(site: Site) -> None:
    """Rule 7."""
    site.obey()
    site.wait(3)
    site.log.clear()
    site.wait(3)
    topic = TOPICS.node("n1", "assignment")
    assert not [a for a in site.log if isinstance(a, Publish)]
    site.deaf.add("n1")
    site.deploy(intent())
    site.plan("n1")
    stamp = site.assignment("n1").stamp
    site.log.clear()
    site.wait(3.5)
    again = [a for a in site.log if isinstance(a, Publish) and a.topic == topic]
    assert len(again) == 3
    assert {a.document.stamp for a in again} == {stamp}
    site.deaf.clear()
    site.obey()
    site.log.clear()
    site.wait(3)
    assert not [a for a in site.log if isinstance(a, Publish) and a.topic == topic]


def test_foreign_documents_are_cleared_or_ended(site: Site) -> None:
    """Rules 15 and 17."""
    assert site.cluster.on_foreign(site.now, TOPICS.pipeline("ghost")) == [Clear(TOPICS.pipeline("ghost"))]
    assert site.cluster.on_foreign(site.now, TOPICS.plan("ghost")) == [Clear(TOPICS.plan("ghost"))]
    bad = TOPICS.node("Not An Id", "assignment")
    assert site.cluster.on_foreign(site.now, bad) == [Clear(bad)]
    site.do(site.cluster.on_foreign(site.now, TOPICS.node("ghost", "assignment")))
    assert site.assigned("ghost") == []
    site.wait(site.settings.removed_shown + 2)
    assert TOPICS.node("ghost", "assignment") not in site.retained
    site.run("n1")
    assert site.cluster.on_foreign(site.now, TOPICS.pipeline("faces")) == []


def test_nothing_foreign_is_touched_before_the_start() -> None:
    """Rule 23."""
    site = Site(Board("n1"))
    assert site.cluster.on_foreign(site.now, TOPICS.pipeline("ghost")) == []
    site.boot("n1")
    assert site.retained == {}
    site.do(site.cluster.start(site.now))
    assert site.assigned("n1") == []


def test_an_absent_nodes_empty_assignment_is_cleared_and_comes_back_with_it(site: Site) -> None:
    """Rule 15."""
    site.die("n3")
    site.wait(site.settings.removed_shown + 2)
    assert TOPICS.node("n3", "assignment") not in site.retained
    site.boot("n3")
    assert site.assigned("n3") == []
    site.die("n3")
    site.wait(site.settings.removed_shown - 1)
    site.boot("n3")
    site.run("n3")
    site.wait(site.settings.removed_shown + 2)
    assert len(site.assigned("n3")) == 1


def test_a_stale_empty_assignment_does_not_hide_a_new_one(site: Site) -> None:
    """A plan may name a node just when its empty assignment is due to be cleared."""
    site.do(site.cluster.on_foreign(site.now, TOPICS.node("n9", "assignment")))
    site.deploy(intent())
    site.wait(0.5)
    site.now += site.settings.removed_shown + 5
    site.plan("n9", "n1")
    site.wait(1)


def test_clients_share_the_window(site: Site) -> None:
    site.run("n1")
    assert site.document().clients == 1
    for client in ("c1", "c2", "c2"):
        site.do(site.cluster.on_attach(site.now, client, "faces", True))
    assert site.document().clients == 2
    site.do(site.cluster.on_attach(site.now, "c1", "faces", False))
    assert site.document().clients == 1
    site.do(site.cluster.on_attach(site.now, "c3", "faces", True))
    site.wait(site.settings.client_expires + 1)
    assert site.document().clients == 1
    assert site.cluster.on_attach(site.now, "c1", "nobody", True) == []


def test_store_before_publish(site: Site) -> None:
    """Rule 24: in each batch, what is stored comes first."""
    site.run("n1", "n2")
    site.die("n1")
    batch = site.cluster.on_planned(site.now, site.jobs[-1].job, blueprint(intent(), ["n2"]))
    assert isinstance(batch[0], Persist)
    assert any(isinstance(action, Publish) for action in batch)
    site.do(batch)


# -- coordinators ------------------------------------------------------------------------------------------


def test_restart_takes_up_what_runs_with_a_higher_term(site: Site) -> None:
    revision = site.run("n1", "n2")
    term = site.document().stamp.term
    site.restart_coordinator()
    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state()))
        site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch)))
        site.do(site.cluster.on_report(site.now, board.report()))
        site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.on_own_beat(site.now))
    assert not [a for a in site.cluster.tick(site.now) if isinstance(a, Publish)]
    site.do(site.cluster.start(site.now))
    assert site.routes() == {revision: "active"}
    assert site.document().stamp.term == term + 1
    assert site.jobs == []
    site.wait(3)
    assert site.routes() == {revision: "active"}


def test_restart_after_a_death_in_between(site: Site) -> None:
    old = site.run("n1", "n2")
    site.boards["n2"].running = False
    site.restart_coordinator()
    for board in site.boards.values():
        if board.running:
            site.do(site.cluster.on_node_state(site.now, board.state()))
            site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch)))
            site.do(site.cluster.on_report(site.now, board.report()))
            site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.start(site.now))
    assert site.routes() == {old: "lost"}
    assert site.assigned("n2") == [], "the absent node's assignment ends explicitly"
    site.bring_up("n1", "n3")


def test_the_term_exceeds_every_term_seen_before_the_start() -> None:
    """Rule 21."""
    site = Site(Board("n1"))
    site.cluster.saw_term(41)
    site.do(site.cluster.on_heartbeat(site.now, Heartbeat("n1", "e", 1, 0, 0, (), Stamp(50, "x", 3))))
    site.do(site.cluster.start(site.now))
    assert site.cluster.term == 51
    site.cluster.saw_term(99)
    assert site.cluster.term == 51


def test_settings_are_the_callers() -> None:
    site = Site(Board("n1"), settings=Settings(prepare_most=10.0))
    site.start()
    site.deploy(intent())
    site.plan("n1")
    site.wait(11)
    assert "took longer" in site.record().status


def test_restart_does_not_forget_an_accepted_rollout(site: Site) -> None:
    """Rule 24: the deploy was answered, so it must come about."""
    old = site.run("n1")
    site.deploy(intent(model="m2"))
    site.plan("n2", "n3")
    assert site.answers[-1].error == ""
    site.restart_coordinator()
    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state()))
        site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch)))
        site.do(site.cluster.on_report(site.now, board.report()))
        site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.start(site.now))
    assert site.routes() == {old: "active"}
    assert site.assigned("n2") == []
    new = site.bring_up("n2", "n3")
    assert new.startswith("3-")
    assert site.document().model == intent(model="m2").model.sha256
