"""Moving a pipeline that runs where that is worth it, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator import rebalance
from coordinator.contingency import Unmade
from coordinator.feedback import Subject
from coordinator.intents import Blueprint, Revision
from tests.coordinator.site import TOPICS, Board, Site, blueprint, intent


def plan(*rows: tuple[str, float], **more: Any) -> dict[str, Any]:
    """A plan of a chain: (node, milliseconds of computing) for each slice."""
    slices = [
        {"id": f"s{k}", "nodes": [node], "operators": [k], "compute_ms": ms, "down_ms": 1.0, "up_ms": 1.0}
        for k, (node, ms) in enumerate(rows)
    ]
    times = [ms for _, ms in rows]
    return {"slices": slices, "period_ms": max(times), "latency_ms": sum(times) + 5.0, "energy_j": 2.0, **more}


def made(*rows: tuple[str, float], wanted: Any = None, **more: Any) -> Blueprint:
    """A blueprint with that plan."""
    return replace(blueprint(wanted or intent(), [node for node, _ in rows]), plan=plan(*rows, **more))


def run(site: Site, *rows: tuple[str, float], **options: Any) -> str:
    """Deploy, and bring a chain up; its revision."""
    site.deploy(intent(**options))
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, made(*rows, wanted=intent(**options))))
    site.obey()
    site.pass_probes()
    site.obey()
    active = site.record().active
    assert active is not None
    return active.id


def idle(site: Site, seconds: float) -> None:
    """Time passes; plans for losses are made at once."""
    for _ in range(round(seconds / 0.5)):
        site.wait(0.5)
        while site.cluster.contingencies.under_way:
            site.not_ahead(Unmade.NONE)


def compared(site: Site, *rows: tuple[str, float], **more: Any) -> None:
    """The plan to compare with is made."""
    action = site.ahead[-1]
    assert action.lost == ""
    assert action.plan.job in site.cluster.rebalance.under_way
    wanted = action.plan.intent
    site.do(site.cluster.on_foreseen(site.now, action.plan.job, made(*rows, wanted=wanted, **more)))


@pytest.fixture
def site() -> Site:
    """Two boards, and a third that can be plugged in."""
    site = Site(Board("n1"), Board("n2"))
    site.start()
    return site


def test_a_node_that_joins_is_used_when_that_is_worth_it(site: Site) -> None:
    old = run(site, ("n1", 30.0), ("n2", 30.0))
    site.boards["n3"] = Board("n3")
    site.boot("n3")
    idle(site, rebalance.STABLE - 5.0)
    assert not site.cluster.rebalance.under_way, "it may go again"
    idle(site, 15.0)
    assert [node.node for node in site.ahead[-1].plan.nodes] == ["n1", "n2", "n3"]
    compared(site, ("n1", 20.0), ("n2", 20.0), ("n3", 20.0))
    assert site.routes() == {old: "active"}, "prepared beside"
    site.obey()
    site.pass_probes()
    new = next(name for name, state in site.routes().items() if state == "active")
    assert new.startswith("2-")
    assert site.retained[TOPICS.plan("faces")].planning["moved"] == "rebalanced: 50 frames/s planned, 33.3 before"


def test_a_small_gain_moves_nothing_and_the_same_inputs_are_compared_once(site: Site) -> None:
    old = run(site, ("n1", 30.0), ("n2", 30.0))
    idle(site, rebalance.STABLE + 10.0)
    compared(site, ("n2", 28.0), ("n1", 28.0))
    jobs = len(site.ahead)
    idle(site, 60.0)
    assert all(action.lost for action in site.ahead[jobs:])
    assert site.routes() == {old: "active"}
    assert site.record().highest == 1


def test_stages_that_drift_move_slices(site: Site) -> None:
    """By measured times: the plan that runs is judged by the corrections of today."""
    run(site, ("n1", 20.0), ("n2", 20.0))
    idle(site, rebalance.STABLE + 10.0)
    compared(site, ("n1", 20.0), ("n2", 20.0))
    subject = Subject(intent().model.sha256, "n2", "ai_edge_litert 2", "1")
    site.cluster.situation.feedback._put(subject, 2.0)
    idle(site, rebalance.STABLE + 10.0)
    compared(site, ("n2", 30.0), ("n1", 29.0))
    coming = site.record().coming
    assert coming is not None
    assert coming.why == "rebalanced: 33.3 frames/s planned, 25 before"


def test_corrections_that_change_a_little_all_the_time_neither_hinder_nor_repeat_it(site: Site) -> None:
    run(site, ("n1", 20.0), ("n2", 20.0))
    busy = Subject(intent().model.sha256, "n1", "ai_edge_litert 2", "0")

    def flutter(seconds: float) -> int:
        before = len(site.ahead)
        for number in range(round(seconds / 10.0)):
            site.cluster.situation.feedback._put(busy, (1.05, 1.15, 1.1)[number % 3])
            idle(site, 10.0)
            if site.cluster.rebalance.under_way:
                compared(site, ("n1", 20.0), ("n2", 20.0))
        return sum(not action.lost for action in site.ahead[before:])

    assert flutter(90.0) == 1
    site.cluster.situation.feedback._put(replace(busy, node="n2", operators="1"), 2.0)
    assert flutter(90.0) == 1


def test_a_pipeline_moves_once_in_a_while(site: Site) -> None:
    run(site, ("n1", 30.0), ("n2", 30.0))
    idle(site, rebalance.STABLE + 10.0)
    compared(site, ("n2", 10.0), ("n1", 10.0))
    site.obey()
    site.pass_probes()
    assert site.record().highest == 2
    begun = site.now
    jobs = len(site.ahead)
    while all(action.lost for action in site.ahead[jobs:]):
        idle(site, 5.0)
    assert site.now - begun >= rebalance.PAUSE - 1.0


def test_a_request_interrupts_it_and_takes_its_place(site: Site) -> None:
    run(site, ("n1", 30.0), ("n2", 30.0))
    idle(site, rebalance.STABLE + 10.0)
    site.deploy(intent(model="m2"))
    site.not_ahead(Unmade.GIVEN_UP)
    assert not site.cluster.rebalance.under_way
    site.bring_up("n1")
    assert site.document().model == intent(model="m2").model.sha256


@pytest.mark.parametrize("event", ["deploy", "loss", "another node"])
def test_a_plan_that_time_has_overtaken_is_not_adopted(site: Site, event: str) -> None:
    run(site, ("n1", 30.0), ("n2", 30.0))
    idle(site, rebalance.STABLE + 10.0)
    action = site.ahead[-1]
    if event == "deploy":
        site.deploy(intent(model="m2"))
    elif event == "loss":
        site.die("n2")
    else:
        site.boards["n3"] = Board("n3")
        site.boot("n3")
    highest = site.record().highest
    site.do(site.cluster.on_foreseen(site.now, action.plan.job, made(("n2", 10.0), ("n1", 10.0))))
    assert site.record().highest == highest


def test_an_intent_may_forbid_it(site: Site) -> None:
    run(site, ("n1", 30.0), ("n2", 30.0), rebalance=False)
    idle(site, rebalance.STABLE + 30.0)
    assert all(action.lost for action in site.ahead)


def test_a_pipeline_with_a_plan_file_only_goes_back_to_it(site: Site) -> None:
    file = plan(("n1", 30.0), ("n3", 30.0))
    wanted = replace(intent(), plan=file)
    site.deploy(wanted)
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, made(("n1", 30.0), ("n2", 30.0), wanted=wanted)))
    site.obey()
    site.pass_probes()
    idle(site, rebalance.STABLE + 20.0)
    assert all(action.lost for action in site.ahead), "n3 is not here"
    site.boards["n3"] = Board("n3")
    site.boot("n3")
    idle(site, rebalance.STABLE + 10.0)
    compared(site, ("n1", 30.0), ("n3", 30.0))
    coming = site.record().coming
    assert coming is not None
    assert coming.why == "the nodes of its plan file are back"


ROWS = [
    ("throughput", {}, 30.0),
    ("throughput", {("s0", "n1"): 2.0}, 60.0),
    ("throughput", {("s1", "n2"): 2.0}, 40.0),
    ("throughput", {("s0", "n1"): 0.5}, 20.0),
    ("latency", {("s1", "n2"): 1.5}, 65.0),
    ("nodes", {("s1", "n2"): 9.0}, 2.0),
    ("energy", {("s1", "n2"): 9.0}, 2.0),
]


@pytest.mark.parametrize(("goal", "drift", "expected"), ROWS)
def test_what_a_plan_costs_today(goal: str, drift: dict[tuple[str, str], float], expected: float) -> None:
    assert rebalance.value(plan(("n1", 30.0), ("n2", 20.0)), goal, drift) == pytest.approx(expected)


def test_replicas_share_what_drifts() -> None:
    """Two nodes that take a stage in turn: one of them twice as slow as planned."""
    body = plan(("n1", 30.0))
    body |= {"turns": 2, "period_ms": 15.0}
    body["slices"][0] |= {"nodes": ["n1", "n2"], "turns": [[0], [1]]}
    assert rebalance.value(body, "throughput") == pytest.approx(15.0)
    assert rebalance.value(body, "throughput", {("s0", "n2"): 2.0}) == pytest.approx(30.0)


@pytest.mark.parametrize("body", [{}, {"slices": 3}, {"slices": [{"nodes": 5}], "period_ms": True}])
def test_a_plan_without_figures_is_compared_with_nothing(body: dict[str, Any]) -> None:
    running = Revision("1-00000000", intent(), replace(blueprint(intent(), ["n1"]), plan=body))
    assert rebalance.gain(running, made(("n1", 1.0)), {}) == ""
    assert rebalance.gain(Revision("1-00000000", intent(), made(("n1", 1.0))), running.blueprint, {}) == ""
