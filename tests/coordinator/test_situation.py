"""What a planning job is told of the nodes: what was measured, what others use, and which files they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.feedback import MIN_SAMPLES, SAMPLE_FRAMES, WARM_FRAMES
from coordinator.intents import Blueprint, Intent
from coordinator.known import Correction, Known
from coordinator.planner.tables.sharing import Usage
from coordinator.rates import WINDOWS
from slicemq.messages import PlanDocument
from tests.coordinator.site import TOPICS, Board, Site, blueprint, capacity, intent

PERIOD = 0.04


def planned(wanted: Intent, *nodes: str, measured: bool = True) -> Blueprint:
    """A chain whose slices each take half of the period, with predictions of their calls."""
    made = blueprint(wanted, nodes)
    rows = [
        {**row, "operators": [10 * k, 10 * k + 1], "compute_ms": 20.0, "bytes_in": 1000, "bytes_out": 500}
        for k, row in enumerate(made.plan["slices"])
    ]
    computing = {row["id"]: {row["nodes"][0]: 0.02} for row in rows} if measured else {}
    return replace(made, plan={"period_ms": 1e3 * PERIOD, "slices": rows}, computing=computing)


@pytest.fixture
def site() -> Site:
    made = Site(*(Board(f"n{k}") for k in range(1, 4)))
    made.start()
    return made


def run(site: Site, *nodes: str, name: str = "faces", **options: Any) -> str:
    """Deploy a pipeline and bring it to active; returns its revision."""
    site.deploy(intent(name))
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, planned(intent(name), *nodes, **options)))
    site.obey()
    site.pass_probes()
    site.obey()
    active = site.record(name).active
    assert active is not None
    return active.id


def work(site: Site, *keys: tuple[str, str, str], seconds: float, rate: float = 1.0, lasting: float = 20.0) -> None:
    """Let slices compute for some time: each call takes `seconds`, at `rate` of the planned one."""
    steps = round(lasting / 0.25)
    for _ in range(steps):
        for key in keys:
            for board in site.boards.values():
                if key in board.states:
                    frames = board.beats.get(key, {}).get("frames", 0.0) + 0.25 * rate / PERIOD
                    board.beats[key] = {"frames": frames, "invoke_ms": 1e3 * seconds}
        whole = {
            board.name: {key: {**beat, "frames": int(beat["frames"])} for key, beat in board.beats.items()}
            for board in site.boards.values()
        }
        kept = {board.name: board.beats for board in site.boards.values()}
        for board in site.boards.values():
            board.beats = whole[board.name]
        site.wait(0.25)
        for board in site.boards.values():
            board.beats = kept[board.name]


def known(site: Site, name: str = "birds") -> Known:
    """What a job for another pipeline (of the same model) would be told now."""
    return site.cluster.situation.inputs(name, intent(name)).known


def test_measured_times_correct_later_plans_and_move_nothing(site: Site) -> None:
    revision = run(site, "n1", "n2")
    work(site, ("faces", revision, "s0"), seconds=0.03)
    assert known(site).corrections == (Correction("n1", "ai_edge_litert 2", "0-1", 1.5),)
    document = site.retained[TOPICS.plan("faces")]
    assert isinstance(document, PlanDocument)
    assert document.planning["corrections"] == {"s0": {"n1": 1.5}}
    assert site.routes() == {revision: "active"}
    assert len(site.jobs) == 1, "a healthy pipeline is not planned again"
    assert site.cluster.situation.plain()["corrections"], "and it is stored"
    site.deploy(intent("birds", "m2"))
    assert site.jobs[-1].known.corrections == (), "they are of one model"


def test_a_correction_makes_the_plans_ahead_anew(site: Site) -> None:
    revision = run(site, "n1", "n2")
    site.foresee()
    assert len(site.ahead) == 2
    work(site, ("faces", revision, "s0"), seconds=0.03)
    site.foresee()
    assert [action.lost for action in site.ahead] == ["n1", "n2", "n2"], "without n1 its correction says nothing"
    assert site.ahead[-1].plan.known.corrections[0].factor == 1.5
    site.die("n2")
    assert len(site.jobs) == 1


def test_an_estimate_is_not_corrected(site: Site) -> None:
    revision = run(site, "n1", "n2", measured=False)
    work(site, ("faces", revision, "s0"), seconds=0.03)
    assert known(site).corrections == ()


def test_two_slices_that_compute_on_one_node_teach_nothing(site: Site) -> None:
    """What they take from each other is counted as use of the node, and would else be counted twice."""
    faces, birds = run(site, "n1"), run(site, "n1", name="birds")
    work(site, ("faces", faces, "s0"), ("birds", birds, "s0"), seconds=0.03)
    assert known(site).corrections == ()
    work(site, ("faces", faces, "s0"), seconds=0.03)
    assert [correction.node for correction in known(site).corrections] == ["n1"]


def test_a_slice_beside_a_call_that_lasts_longer_than_a_beat_teaches_nothing(site: Site) -> None:
    faces, birds = run(site, "n1"), run(site, "n1", name="birds")
    site.boards["n1"].beats["birds", birds, "s0"] = {"frames": 7, "waiting": 2.0}
    work(site, ("faces", faces, "s0"), seconds=0.03)
    assert known(site).corrections == ()


def test_heartbeats_of_another_life_teach_nothing(site: Site) -> None:
    revision = run(site, "n1")
    board = site.boards["n1"]
    key = ("faces", revision, "s0")
    for count in range(1, 60):
        board.beats[key] = {"frames": count * SAMPLE_FRAMES, "invoke_ms": 30.0}
        beat = replace(board.beat(), epoch="a-straggler")
        site.now += 0.25
        site.do(site.cluster.on_heartbeat(site.now, beat))
    assert known(site).corrections == ()
    assert MIN_SAMPLES * SAMPLE_FRAMES + WARM_FRAMES < 59 * SAMPLE_FRAMES


def test_other_pipelines_use_their_planned_rate_and_less_when_they_are_measured_at_less(site: Site) -> None:
    run(site, "n3", name="own")
    revision = run(site, "n1", "n2")
    full = Usage(pytest.approx(0.5), pytest.approx(12_500), pytest.approx(25_000), 1)  # type: ignore[arg-type]
    assert known(site, "own").usage == {"n1": full, "n2": full}
    assert known(site, "faces").usage["n3"].pipelines == 1
    assert "n1" not in known(site, "faces").usage, "a pipeline does not stand in its own way"
    keys = [("faces", revision, name) for name in ("s0", "s1")]
    work(site, *keys, seconds=0.02, rate=0.2, lasting=10.0 * (WINDOWS + 1))
    assert known(site, "own").usage["n1"].computing == pytest.approx(0.125)
    work(site, *keys, seconds=0.02, lasting=11.0)
    assert known(site, "own").usage["n1"] == full


def test_what_prepares_counts_and_what_ends_does_not(site: Site) -> None:
    run(site, "n3", name="own")
    run(site, "n1")
    site.deploy(intent(model="m2"))
    site.do(site.cluster.on_planned(site.now, site.jobs[-1].job, planned(intent(model="m2"), "n2")))
    assert set(known(site, "own").usage) == {"n1", "n2"}
    site.obey()
    site.pass_probes()
    assert set(known(site, "own").usage) == {"n2"}, "the old revision drains"


def test_nodes_that_have_files_of_the_model_are_named(site: Site) -> None:
    run(site, "n1", "n2")
    files = [items[0].artifact.sha256 for items in planned(intent(), "n1", "n2").slices.values()]
    for name, mine in (("n1", files[:1]), ("n3", [*files, "f" * 64])):
        board = site.boards[name]
        site.do(site.cluster.on_capacity(site.now, replace(capacity(name, board.epoch), artifacts=tuple(mine))))
    assert known(site).held == {"n1": ("0-1",), "n3": ("0-1", "10-11")}
    site.die("n2")
    job = site.jobs[-1]
    assert job.known.held == {"n1": ("0-1",), "n3": ("0-1", "10-11")}
    assert all(node.artifacts == () for node in job.nodes)


def test_a_node_with_another_runtime_is_not_corrected(site: Site) -> None:
    revision = run(site, "n1")
    work(site, ("faces", revision, "s0"), seconds=0.03)
    board = site.boards["n1"]
    newer = capacity("n1", board.epoch)
    newer = replace(newer, runtime=replace(newer.runtime, version="3"))
    site.do(site.cluster.on_capacity(site.now, newer))
    assert known(site).corrections == ()
