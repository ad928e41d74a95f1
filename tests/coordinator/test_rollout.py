"""Rollouts: canary and shadow beside what serves, judged, promoted or rolled back with the reason; never a gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.actions import COARSE
from coordinator.gate import Policy, read_testimony
from coordinator.rollout import MOST_KEPT, MOST_TRIES
from slicemq.errors import ModelError
from slicemq.messages import Artifact, PipelineDocument, Response
from slicemq.operations import RolloutDocument, RolloutEntry
from tests.coordinator.site import SPEC_OUT, TOPICS, Board, Site, blueprint, intent, sha

CANARY = Policy(canary=0.2)
SHADOW = Policy(shadow=1.0, max_difference=0.01)
BOTH = Policy(canary=0.2, shadow=0.5)


@pytest.fixture
def site() -> Site:
    made = Site(*(Board(f"n{number}") for number in range(1, 7)))
    made.start()
    return made


def begin(site: Site, policy: Policy | None = CANARY, model: str = "m2", nodes: tuple[str, ...] = ("n3",)) -> str:
    """Deploy `model` and bring its revision as far as its probe; its id."""
    site.deploy(intent(model=model), policy=policy)
    site.plan(*nodes)
    site.obey()
    site.pass_probes()
    site.obey()
    return max(site.record().revisions, key=lambda name: int(name.partition("-")[0]))


def rollouts(site: Site) -> RolloutDocument:
    found = site.retained[TOPICS.rollout("faces")]
    assert isinstance(found, RolloutDocument)
    return found


def current(site: Site) -> RolloutEntry:
    found = rollouts(site).current
    assert found is not None
    return found


def last(site: Site) -> RolloutEntry:
    assert rollouts(site).current is None
    return rollouts(site).history[-1]


def weights(site: Site) -> dict[str, float]:
    return {route.revision: route.weight for route in site.document().routes if route.state == "active"}


def say(site: Site, old: str, new: str, *, answered: int = 200, failed: int = 0, p95: float = 10.0) -> None:
    """A client's evidence, of a canary and of a shadow alike."""
    figures: dict[str, Any] = {old: {"answered": 900, "failed": 0, "p95_ms": 10.0}}
    shadow = None
    if site.document().shadow is not None:
        shadow = {"revision": new, "sent": answered, "compared": answered, "failed": failed, "p95_ms": p95}
    else:
        figures[new] = {"answered": answered, "failed": failed, "p95_ms": p95}
    body = {"pipeline": "faces", "figures": figures, "shadow": shadow}
    site.do(site.cluster.on_evidence(site.now, read_testimony("cam-1", body, "evidence")))


def ask(site: Site, action: Any, to: str = "") -> Response:
    site.transactions += 1
    site.do(site.cluster.on_rollout(site.now, "cli", f"t{site.transactions}", "faces", action, to))
    return site.answers[-1]


def test_without_a_policy_it_flips_after_its_probe_and_is_recorded(site: Site) -> None:
    first = site.run("n1", "n2")
    second = begin(site, None)
    assert weights(site) == {second: 1.0}
    one, two = rollouts(site).history
    assert (one.revision, one.state, one.before) == (first, "promoted", "")
    assert (two.revision, two.state, two.before, two.fraction) == (second, "promoted", first, 1.0)
    assert two.ended >= two.begun > 0


def test_a_healthy_canary_is_promoted(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site)
    assert weights(site) == {old: 0.8, new: 0.2}
    assert current(site).state == "canary"
    assert site.document().model == intent().model.sha256
    site.wait(9.0)
    say(site, old, new)
    assert weights(site) == {old: 0.8, new: 0.2}
    site.wait(2.0)
    assert weights(site) == {new: 1.0}
    assert site.routes()[old] == "draining"
    assert (last(site).state, last(site).revision, last(site).before) == ("promoted", new, old)
    assert last(site).evidence["answered"] == 200.0
    assert site.document().model == intent(model="m2").model.sha256


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"failed": 5}, "5 of 205 frames failed"),
        ({"p95": 25.0}, "2.5 times the 10 ms"),
    ],
)
def test_an_unhealthy_canary_is_rolled_back_with_the_reason(site: Site, told: dict[str, Any], reason: str) -> None:
    old = site.run("n1", "n2")
    new = begin(site)
    say(site, old, new, **told)
    site.wait(0.1)
    assert weights(site) == {old: 1.0}
    assert site.routes()[new] == "lost"
    assert site.assigned("n3") == []
    assert last(site).state == "rolled-back"
    assert reason in last(site).reason
    assert reason in site.document().reason
    # The revision that served goes on serving; nothing is planned.
    site.wait(100.0)
    assert site.routes() == {old: "active"}
    assert len(site.jobs) == 2


def test_errors_that_the_nodes_count_roll_it_back_without_a_client(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site)
    site.boards["n3"].beats[("faces", new, "s0")] = {"frames": 3, "errors": 9}
    site.wait(0.5)
    assert weights(site) == {old: 1.0}
    assert "9 of 12 frames with an error" in last(site).reason


def test_a_shadow_answers_nothing_and_a_canary_follows_it(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site, BOTH)
    shadow = site.document().shadow
    assert shadow is not None
    assert (shadow.revision, shadow.weight, weights(site)) == (new, 0.5, {old: 1.0})
    say(site, old, new)
    site.wait(11.0)
    assert site.document().shadow is None
    assert weights(site) == {old: 0.8, new: 0.2}
    # What the shadow answered says nothing of the canary.
    site.wait(11.0)
    assert current(site).state == "canary"
    say(site, old, new)
    site.wait(0.1)
    assert last(site).state == "promoted"


def test_a_shadow_that_is_given_up_leaves_no_route(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site, SHADOW)
    say(site, old, new, failed=9)
    site.wait(0.1)
    assert site.document().shadow is None
    assert site.routes() == {old: "active"}
    assert (last(site).state, site.assigned("n3")) == ("rolled-back", [])


def test_without_evidence_the_deadline_ends_it(site: Site) -> None:
    old = site.run("n1", "n2")
    begin(site, replace(CANARY, deadline=60.0))
    site.wait(59.0)
    assert current(site).state == "canary"
    site.wait(2.0)
    assert weights(site) == {old: 1.0}
    assert last(site).reason == "it took longer than 60 s (canary, waits: has 0 of 100 frames)"


def test_planning_and_preparing_have_the_deadline_too(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=replace(CANARY, deadline=60.0))
    site.wait(61.0)
    assert "planning took longer than 60 s" in site.answers[-1].error
    assert (last(site).state, last(site).revision) == ("refused", "")
    job = site.jobs[-1]
    site.do(site.cluster.on_planned(site.now, job.job, blueprint(job.intent, ["n3"])))
    assert weights(site) == {old: 1.0}
    assert site.record().coming is None
    site.deploy(intent(model="m2"), policy=replace(CANARY, deadline=60.0))
    site.plan("n3")
    site.wait(61.0)
    assert (last(site).state, last(site).reason) == ("rolled-back", "it took longer than 60 s (preparing)")
    assert (weights(site), site.assigned("n3")) == ({old: 1.0}, [])


def test_manual_promotion_waits_for_it_without_a_deadline(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site, replace(CANARY, promote="manual", deadline=60.0))
    say(site, old, new)
    site.wait(100.0)
    assert weights(site) == {old: 0.8, new: 0.2}
    assert "waits for `rollout promote`" in current(site).reason
    assert ask(site, "promote").body == {"name": "faces", "revision": new, "state": "promoted"}
    assert weights(site) == {new: 1.0}


def test_a_canary_that_waits_for_promotion_is_still_judged(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site, replace(CANARY, promote="manual"))
    say(site, old, new)
    site.wait(20.0)
    say(site, old, new, failed=50)
    site.wait(0.1)
    assert (weights(site), last(site).state) == ({old: 1.0}, "rolled-back")


def test_pause_holds_the_step_but_not_the_gate(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site)
    assert ask(site, "pause").body["state"] == "canary"
    say(site, old, new)
    site.wait(1000.0)
    assert (current(site).state, current(site).paused) == ("canary", True)
    assert ask(site, "resume").body["state"] == "canary"
    assert last(site).state == "promoted"
    again = begin(site, model="m3", nodes=("n4",))
    ask(site, "pause")
    say(site, new, again, failed=50)
    site.wait(0.1)
    assert (weights(site), last(site).state) == ({new: 1.0}, "rolled-back")


@pytest.mark.parametrize(("policy", "word"), [(CANARY, "canary"), (None, "promoted")])
def test_a_pause_before_the_first_step_waits_with_a_ready_revision(
    site: Site, policy: Policy | None, word: str
) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=policy)
    site.plan("n3")
    ask(site, "pause")
    site.obey()
    site.pass_probes()
    site.wait(700.0)
    assert weights(site) == {old: 1.0}
    assert site.record().coming is not None
    assert ask(site, "resume").body["state"] == word
    assert not site.probing


def test_promote_before_the_probe_leaves_the_steps_out(site: Site) -> None:
    site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=BOTH)
    site.plan("n3")
    assert ask(site, "promote").body["state"] == "preparing"
    site.obey()
    assert len(weights(site)) == 1
    site.pass_probes()
    assert last(site).state == "promoted"
    assert "by request" in last(site).reason


def test_rollback_by_request_ends_what_is_under_way(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site)
    assert ask(site, "rollback").body == {"name": "faces", "revision": old, "state": "rolled-back"}
    assert weights(site) == {old: 1.0}
    assert site.routes()[new] == "lost"


def test_rollback_of_what_was_promoted_is_a_deploy_under_a_higher_number(site: Site) -> None:
    """Rule 1: n is never used again, rollback included."""
    first = site.run("n1", "n2")
    second = begin(site, None)
    ask(site, "rollback")
    site.plan("n1", "n2")
    assert site.answers[-1].body["state"] == "preparing"
    third = site.answers[-1].body["revision"]
    site.obey()
    site.pass_probes()
    assert int(third.partition("-")[0]) == 3
    assert site.document().model == intent().model.sha256
    assert last(site).reason == "rollback to what served before"
    ask(site, "rollback", second)
    site.plan("n3")
    site.obey()
    site.pass_probes()
    assert site.document().model == intent(model="m2").model.sha256
    assert [entry.before for entry in rollouts(site).history] == ["", first, second, third]


def test_rollback_of_a_deploy_that_waits_for_its_plan(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=CANARY)
    assert ask(site, "rollback").body["state"] == "rolled-back"
    assert any("asked for by an operator" in answer.error for answer in site.answers)
    site.plan("n3")
    assert weights(site) == {old: 1.0}
    assert site.record().coming is None


@pytest.mark.parametrize(
    ("action", "to", "text"),
    [
        ("pause", "", "no rollout of 'faces' is under way"),
        ("resume", "", "no rollout of 'faces' is under way"),
        ("promote", "", "no rollout of 'faces' is under way"),
        ("rollback", "", "nothing that ran before in 'faces' is known"),
        ("rollback", "9-00000000", "revision 9-00000000 of 'faces' is not known; it can go back to: none"),
    ],
)
def test_what_cannot_be_done_is_refused(site: Site, action: str, to: str, text: str) -> None:
    site.run("n1", "n2")
    answer = ask(site, action, to)
    assert (answer.exit_code, text in answer.error) == (41, True), answer
    site.do(site.cluster.on_rollout(site.now, "cli", "ghost", "ghost", "pause"))
    assert site.answers[-1].exit_code == 61


def test_a_newer_rollout_supersedes_an_older_one(site: Site) -> None:
    old = site.run("n1", "n2")
    second = begin(site)
    site.deploy(intent(model="m3"), policy=CANARY)
    # Nothing ends before the newer one has its plan: it may have none.
    assert weights(site) == {old: 0.8, second: 0.2}
    site.plan("n4")
    assert site.routes() == {old: "active", second: "lost"}
    assert rollouts(site).history[-1].state == "superseded"
    site.obey()
    site.pass_probes()
    assert list(weights(site).values()) == [0.8, 0.2]


def test_a_refused_plan_leaves_the_older_rollout_alone(site: Site) -> None:
    old = site.run("n1", "n2")
    second = begin(site)
    site.deploy(intent(model="m3"), policy=CANARY)
    site.do(site.cluster.on_plan_failed(site.now, site.jobs[-1].job, ModelError("damaged")))
    assert weights(site) == {old: 0.8, second: 0.2}
    assert (rollouts(site).history[-1].state, rollouts(site).history[-1].reason) == ("refused", "damaged")
    assert current(site).revision == second


def test_what_serves_deployed_again_ends_the_rollout(site: Site) -> None:
    old = site.run("n1", "n2")
    begin(site)
    site.deploy(intent())
    site.plan("n1", "n2")
    assert site.answers[-1].body["unchanged"]
    assert (weights(site), last(site).state) == ({old: 1.0}, "superseded")


def test_undeploy_ends_it_and_clears_its_document(site: Site) -> None:
    site.run("n1", "n2")
    begin(site)
    site.undeploy("faces")
    assert last(site).state == "superseded"
    site.wait(60.0)
    assert TOPICS.rollout("faces") not in site.retained


def test_a_loss_of_what_served_rolls_the_canary_back_and_is_replaced(site: Site) -> None:
    old = site.run("n1", "n2")
    new = begin(site)
    site.die("n1")
    assert site.routes() == {old: "lost", new: "lost"}
    assert "node n1 was lost" in last(site).reason
    assert site.jobs[-1].intent == intent()
    site.bring_up("n2", "n4")


def test_a_loss_that_takes_both_rolls_back_and_replaces_what_served(site: Site) -> None:
    site.run("n1", "n2")
    begin(site, nodes=("n2",))
    site.die("n2")
    assert last(site).state == "rolled-back"
    assert site.jobs[-1].intent == intent()


def test_a_loss_of_the_canarys_node_prepares_it_again_a_few_times(site: Site) -> None:
    old = site.run("n1", "n2")
    revision = begin(site)
    for number in range(MOST_TRIES - 1):
        site.die(f"n{3 + number}")
        assert weights(site) == {old: 1.0}
        assert site.routes()[revision] == "lost"
        assert (current(site).state, current(site).fraction) == ("planning", 0.0)
        site.plan(f"n{4 + number}")
        site.obey()
        site.pass_probes()
        revision = current(site).revision
        assert weights(site)[revision] == 0.2
    site.die(f"n{2 + MOST_TRIES}")
    assert (last(site).state, weights(site)) == ("rolled-back", {old: 1.0})
    assert last(site).reason == f"node n5 was lost (prepared {MOST_TRIES} times)"
    site.wait(30.0)
    assert site.record().coming is None
    assert site.record().job is None


def test_a_canarys_slice_that_fails_rolls_it_back(site: Site) -> None:
    old = site.run("n1", "n2")
    begin(site)
    site.report("n3", "s0", "failed", "a bad operator")
    assert (weights(site), last(site).state) == ({old: 1.0}, "rolled-back")
    assert "a bad operator" in last(site).reason


def test_wrong_golden_results_never_flip(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"))
    site.plan("n3")
    site.obey()
    ((name, revision),) = site.probing
    site.do(site.cluster.on_probe_failed(site.now, name, revision, "output differs by 0.5, at most 0.0001 may be"))
    assert not site.probing
    assert (weights(site), last(site).state) == ({old: 1.0}, "rolled-back")
    assert "differs by 0.5" in last(site).reason
    site.do(site.cluster.on_probed(site.now, name, revision))
    site.wait(60.0)
    assert weights(site) == {old: 1.0}
    assert site.record().coming is None
    assert len(site.jobs) == 2


def test_a_first_deploy_with_wrong_golden_results_is_refused(site: Site) -> None:
    site.deploy(intent())
    site.plan("n1")
    site.obey()
    ((name, revision),) = site.probing
    site.do(site.cluster.on_probe_failed(site.now, name, revision, "it differs"))
    assert last(site).state == "refused"
    assert (site.document().state, "it differs" in site.document().reason) == ("paused", True)
    site.wait(60.0)
    assert len(site.jobs) == 1
    assert site.assigned("n1") == []
    assert site.run("n1", "n2").startswith("2-")


def test_a_replacement_with_wrong_golden_results_is_tried_on_other_nodes(site: Site) -> None:
    site.run("n1", "n2")
    site.die("n1")
    site.plan("n2", "n3")
    site.obey()
    ((name, revision),) = site.probing
    site.do(site.cluster.on_probe_failed(site.now, name, revision, "it differs"))
    site.wait(10.0)
    assert site.jobs[-1].avoid >= {"n2", "n3"}
    site.bring_up("n4", "n5")


def coarse(site: Site) -> float:
    assert len(site.probing) == 1
    return site.probes[-1].coarse


def test_results_may_differ_by_more_only_where_the_same_model_served_and_nothing_does(site: Site) -> None:
    """Rule 11 has a pipeline stand still for results that are wrong, and not for those of other kernels."""
    site.deploy(intent())
    site.plan("n1", "n2")
    site.obey()
    assert coarse(site) == 0.0
    site.pass_probes()
    site.obey()
    site.die("n1")
    site.plan("n2", "n3")
    site.obey()
    assert coarse(site) == COARSE
    site.pass_probes()
    site.obey()
    site.deploy(intent(model="m2"))
    site.plan("n4")
    site.obey()
    assert coarse(site) == 0.0


def test_a_move_from_a_drained_node_is_held_to_the_whole_tolerance(site: Site) -> None:
    old = site.run("n1", "n2")
    site.do(site.cluster.on_upkeep(site.now, "cli", "t90", "drain", "n1"))
    site.plan("n2", "n3")
    site.obey()
    assert coarse(site) == 0.0
    ((name, revision),) = site.probing
    site.do(site.cluster.on_probe_failed(site.now, name, revision, "golden frame: it differs"))
    assert weights(site) == {old: 1.0}


def test_a_probe_that_ends_with_errors_abandons_at_once_with_the_slice_s_words(site: Site) -> None:
    old = site.run("n1", "n2")
    begun = site.now
    site.deploy(intent(model="m2"))
    site.plan("n3")
    site.obey()
    ((name, revision),) = site.probing
    why = "probe frame: slice-error: gather index out of bounds"
    site.do(site.cluster.on_probe_failed(site.now, name, revision, why))
    assert (weights(site), last(site).state, last(site).reason) == ({old: 1.0}, "rolled-back", why)
    assert site.now - begun < 10.0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda made: replace(made, spec=sha("other"), outputs=(replace(SPEC_OUT, shape=(1, 3)),)),
            "outputs differ",
        ),
        (lambda made: replace(made, stateful=True, window=1), "keeps state"),
    ],
)
def test_where_no_canary_is_possible_it_goes_without_and_says_so(
    site: Site, change: Callable[[Any], Any], text: str
) -> None:
    site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=CANARY)
    job = site.jobs[-1]
    site.do(site.cluster.on_planned(site.now, job.job, change(blueprint(job.intent, ["n3"]))))
    site.obey()
    site.pass_probes()
    assert last(site).state == "promoted"
    assert text in last(site).reason


def test_a_model_with_other_indices_says_which_stand_for_the_documents(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=CANARY)
    job = site.jobs[-1]
    made = replace(blueprint(job.intent, ["n3"]), outputs=(replace(SPEC_OUT, index=30),))
    site.do(site.cluster.on_planned(site.now, job.job, made))
    site.obey()
    site.pass_probes()

    def indices(document: PipelineDocument) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        return {route.revision: (route.inputs, route.outputs) for route in document.routes}

    new = current(site).revision
    assert indices(site.document()) == {old: ((), ()), new: ((0,), (30,))}
    ask(site, "promote")
    assert [spec.index for spec in site.document().outputs] == [30]
    assert indices(site.document()) == {old: ((0,), (9,)), new: ((), ())}


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("policy", [CANARY, SHADOW])
def test_a_step_survives_the_coordinator(site: Site, policy: Policy, paused: bool) -> None:
    """Rule 24: what was decided is stored before it is published."""
    old = site.run("n1", "n2")
    new = begin(site, policy)
    if paused:
        ask(site, "pause")
    document = replace(site.document(), stamp=site.document().stamp)
    restart(site)
    assert (site.document().routes, site.document().shadow) == (document.routes, document.shadow)
    assert (current(site).revision, current(site).paused) == (new, paused)
    say(site, old, new)
    site.wait(11.0)
    if paused:
        assert current(site).state in ("canary", "shadow")
        ask(site, "resume")
    assert (weights(site), last(site).state) == ({new: 1.0}, "promoted")
    assert last(site).before == old


def test_what_prepared_is_prepared_again_after_a_restart_and_keeps_its_policy(site: Site) -> None:
    old = site.run("n1", "n2")
    site.deploy(intent(model="m2"), policy=CANARY)
    site.plan("n3")
    site.obey()
    restart(site)
    assert site.jobs[-1].intent == intent(model="m2")
    site.plan("n4")
    site.obey()
    site.pass_probes()
    assert current(site).state == "canary"
    assert sorted(weights(site).values()) == [0.2, 0.8]
    assert weights(site)[old] == 0.8


def test_the_history_survives_and_is_bounded(site: Site) -> None:
    for number in range(MOST_KEPT + 5):
        site.deploy(intent(model=f"m{number}"))
        site.bring_up("n1", "n2")
        site.wait(4.0)
    before = rollouts(site).history
    assert len(before) == MOST_KEPT
    restart(site)
    assert rollouts(site).history == before
    ask(site, "rollback")
    assert site.jobs[-1].intent == intent(model=f"m{MOST_KEPT + 3}")


def test_models_of_the_history_are_kept_as_far_as_there_is_room(site: Site) -> None:
    from coordinator.intents import files_in_use

    for number in range(5):
        wanted = replace(intent(), model=Artifact(sha(f"large {number}"), 900_000_000))
        site.deploy(wanted)
        site.bring_up("n1", "n2")
        site.wait(4.0)
    used = files_in_use(site.cluster.records.values())
    assert [sha(f"large {number}") in used for number in range(5)] == [False, False, False, True, True]


def restart(site: Site) -> None:
    """A new coordinator starts from the store and hears the boards."""
    site.restart_coordinator()
    from tests.coordinator.site import capacity

    for board in site.boards.values():
        site.do(site.cluster.on_node_state(site.now, board.state()))
        site.do(site.cluster.on_capacity(site.now, capacity(board.name, board.epoch)))
        site.do(site.cluster.on_report(site.now, board.report()))
        site.do(site.cluster.on_heartbeat(site.now, board.beat()))
    site.do(site.cluster.start(site.now))
