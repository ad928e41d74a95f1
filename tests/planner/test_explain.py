"""What limits a plan, what would lift it, and rate against latency."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.models import real_models
from benchmarks.planner_instances import pairwise, star
from coordinator.cli.app import build
from coordinator.planner import explain
from coordinator.planner.answer import Layout, NoPlanError
from coordinator.planner.goal import Goal
from coordinator.planner.methods.exact import solve
from coordinator.planner.plan import Plan, PlannedSlice, ProfileSource
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.compare import compare

SINGLE = ("one-node", "pipeline")


def plan_of(costs: Costs, layout: Layout) -> Plan:
    """A plan file's figures of a single pipeline."""
    kinds = {node: kind for kind in costs.types for node in kind.ids}
    slices = []
    for number, stage in enumerate(layout.lanes[0]):
        kind = kinds[stage.shares[0].node]
        at = (stage.start, stage.end)
        slices.append(
            PlannedSlice(
                f"s{number}",
                (stage.shares[0].node,),
                tuple(costs.steps_of(*at)),
                0.0,
                1e3 * float(kind.compute[at]),
                0,
                0,
                1e3 * float(kind.down[at]),
                1e3 * float(kind.up[at]),
            )
        )
    return Plan(
        model="ab" * 32,
        objective="throughput",
        period_ms=1e3 * layout.period,
        latency_ms=1e3 * layout.latency,
        lower_bound_ms=1e3 * layout.lower_bound,
        gap=0.0,
        method=layout.method,
        family=layout.family,
        solve_seconds=0.0,
        window=2,
        profile=ProfileSource("", False),
        slices=tuple(slices),
        bundles=(),
    )


def best(costs: Costs) -> float:
    return compare(costs, solve, SINGLE)[0].period


@pytest.mark.parametrize("seed", range(6))
def test_lifts_of_pipelines(seed: int) -> None:
    costs = star(seed, 4, 12, kinds=2)
    layout = compare(costs, solve, SINGLE)[0]
    plan = plan_of(costs, layout)
    found = explain.bottleneck(plan)
    assert math.isclose(found.milliseconds, plan.period_ms, rel_tol=1e-9)
    rows = explain.lifts(costs, plan, best)
    assert all(row.period_ms is None or row.period_ms <= plan.period_ms + 1e-3 for row in rows)
    times = [row.times or 0.0 for row in rows]
    assert times == sorted(times, reverse=True)
    by_change = {row.change: row for row in rows}
    for kind in costs.types:
        more = replace(kind, ids=(*kind.ids, "another"))
        grown = replace(
            costs,
            types=tuple(more if other is kind else other for other in costs.types),
            max_slices=min(costs.n, costs.max_slices + 1),
        )
        row = by_change.get(f"one more node like {kind.ids[0]}")
        assert row is not None
        assert row.period_ms is not None
        assert math.isclose(row.period_ms, min(plan.period_ms, 1e3 * best(grown)), rel_tol=1e-6, abs_tol=1e-4)
    # Twice the links can only help where a link limits.
    links = by_change["all links 2 times as fast"]
    assert links.times is not None
    if found.resource == "compute" and len(plan.slices) == 1:
        assert links.times < 1.001


def test_a_link_that_limits_is_found_and_lifted() -> None:
    costs = star(3, 3, 10, kinds=1)
    slow = tuple(
        explain._stage(
            replace(kind, spec=replace(kind.spec, up=kind.spec.up / 1e4, down=kind.spec.down / 1e4)),
            np.isfinite(kind.period),
        )
        for kind in costs.types
    )
    costs = replace(costs, types=slow)
    plan = plan_of(costs, compare(costs, solve, SINGLE)[0])
    assert explain.bottleneck(plan).resource in ("up", "down")
    rows = {row.change: row for row in explain.lifts(costs, plan, best)}
    assert rows["all links 2 times as fast"].times == pytest.approx(2.0, rel=0.05)
    assert "times the rate" in explain.summary(list(rows.values()))


def test_the_broker_and_one_frame_at_a_time() -> None:
    costs = star(1, 2, 6, kinds=1)
    plan = plan_of(costs, compare(costs, solve, SINGLE)[0])
    slower = replace(plan, period_ms=plan.period_ms * 2)
    assert explain.bottleneck(slower).resource == "broker"
    assert "broker" in explain.words(explain.bottleneck(slower))
    kept = explain.bottleneck(plan, stateful=True)
    assert (kept.resource, kept.milliseconds) == ("one frame at a time", plan.latency_ms)


def test_turns_count_in_what_a_slice_is_busy_with() -> None:
    costs = star(1, 2, 6, kinds=1)
    plan = plan_of(costs, compare(costs, solve, SINGLE)[0])
    item = replace(plan.slices[0], nodes=("a", "b"), turns=((0, 2), (1,)))
    assert explain.busy_ms(replace(plan, turns=3), item) == pytest.approx(item.stage_ms * 2 / 3)
    assert explain.busy_ms(plan, plan.slices[0]) == plan.slices[0].stage_ms


@pytest.mark.parametrize("seed", range(4))
def test_no_point_beats_another(seed: int) -> None:
    costs = star(seed, 4, 10, kinds=2)
    points = explain.pareto(costs, solve)
    quickest = solve(costs)
    calmest = solve(replace(costs, goal=Goal("latency")))
    assert points[0].rate == pytest.approx(1 / quickest.period, rel=2e-3)
    assert points[-1].latency_ms == pytest.approx(1e3 * calmest.latency, rel=2e-3)
    for a, b in itertools.pairwise(points):
        assert a.rate > b.rate
        assert a.latency_ms > b.latency_ms


def test_links_between_pairs() -> None:
    costs = pairwise(2, 4, 8)
    plan = plan_of(costs, compare(costs, solve, SINGLE)[0])
    rows = explain.lifts(costs, plan, best)
    assert any(row.change == "all links 2 times as fast" for row in rows)
    assert not any(row.change.startswith("one more node") for row in rows)


def test_no_plan_after_a_change_is_said() -> None:
    costs = star(0, 2, 6, kinds=1)
    plan = plan_of(costs, compare(costs, solve, SINGLE)[0])

    def none(_: Costs) -> float:
        raise NoPlanError(proved=True)

    rows = explain.lifts(costs, plan, none)
    assert rows
    assert all(row.period_ms is None and row.times is None for row in rows)
    assert "none of the changes" in explain.summary(rows)


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    arguments = ["plan", *map(str, words)]
    with pytest.raises(SystemExit) as ended:
        build(arguments)(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = real_models()["face-back"].path
    if not model.is_file():
        pytest.skip("the face models are not installed")
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(
        '[[node]]\nid = "pi"\ncount = 3\nmemory_mb = 40\nspeed = 0.1\nup_mbps = 50\ndown_mbps = 50\n', "utf-8"
    )
    plan, costs, picture = tmp_path / "plan.json", tmp_path / "costs.json", tmp_path / "plan.png"
    made = ("make", model, "--fleet", fleet, "--profile", "estimate", "-o", plan)
    code, _, error = _run(capsys, *made)
    assert code == 0, error
    code, _, error = _run(capsys, "explain", plan)
    assert code != 0
    assert "it names no costs file" in error
    assert _run(capsys, *made, "--costs", costs)[0] == 0
    code, text, error = _run(capsys, "explain", plan, "--format", "json", "--plot", picture)
    assert code == 0, error
    body: dict[str, Any] = json.loads(text)
    assert body["bottleneck"]["words"]
    assert len(body["lifts"]) >= 6
    assert body["pareto"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    code, text, _ = _run(capsys, "explain", plan)
    assert code == 0
    assert "limited by" in text
    costs.write_text(costs.read_text() + "\n")
    code, _, error = _run(capsys, "explain", plan)
    assert code != 0
    assert "its SHA-256 differs" in error
    code, _, error = _run(capsys, "explain", tmp_path / "none.json")
    assert code == 72
    assert "none.json" in error


def _made(tmp_path: Path, capsys: pytest.CaptureFixture[str], fleet: str, *words: object) -> tuple[Path, Path]:
    model = real_models()["face-back"].path
    if not model.is_file():
        pytest.skip("the face models are not installed")
    given, plan, costs = tmp_path / "fleet.toml", tmp_path / "plan.json", tmp_path / "costs.json"
    given.write_text(fleet, "utf-8")
    made = ("make", model, "--fleet", given, "--profile", "estimate", "-o", plan, "--costs", costs, *words)
    code, _, error = _run(capsys, *made)
    assert code == 0, error
    return plan, costs


def _board(name: str, speed: float, count: int = 1) -> str:
    return (
        f'[[node]]\nid = "{name}"\ncount = {count}\nmemory_mb = 300\nspeed = {speed}\n'
        "up_mbps = 900\ndown_mbps = 900\n"
    )


def test_copies_on_unlike_nodes_work_no_longer_than_the_period(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _ = _made(tmp_path, capsys, _board("slow", 0.1, 2) + _board("fast", 0.5), "--shape", "copies")
    body = json.loads(plan.read_text())
    item = body["slices"][0]
    slowest = max(item["compute_ms"], item["down_ms"], item["up_ms"])
    most = max(len(turns) for turns in item["turns"])
    assert slowest * most / body["turns"] > 1.5 * body["period_ms"]
    assert item["busy_ms"] == pytest.approx(body["period_ms"], abs=1e-3)
    read = Plan.from_json(plan.read_text())
    without = replace(read.slices[0], busy_ms=0.0)
    assert explain.busy_ms(read, without) == read.period_ms
    _, text, _ = _run(capsys, "explain", plan)
    assert "ms a frame on the slowest" in text


def test_links_between_pairs_of_nodes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = _board("pi", 0.1, 3) + '[[link]]\na = "pi-1"\nb = "pi-2"\nmbps = 400\n'
    plan, _ = _made(tmp_path, capsys, fleet, "--shape", "pipeline")
    code, text, error = _run(capsys, "explain", plan, "--format", "json")
    assert code == 0, error
    assert len(json.loads(text)["pareto"]) == 1
    read = Plan.from_json(plan.read_text())
    slower = replace(read, period_ms=read.period_ms * 2)
    assert "hop" in explain.words(explain.bottleneck(slower, links=True))


def test_a_bound_has_the_unit_of_its_objective(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, _ = _made(tmp_path, capsys, _board("pi", 0.1), "--objective", "energy")
    joules = json.loads(plan.read_text())["lower_bound_ms"]
    assert f"energy not below {joules:.4f} J" in _run(capsys, "explain", plan)[1]


def test_damaged_costs_and_unknown_nodes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, costs = _made(tmp_path, capsys, _board("pi", 0.1, 2))
    body = json.loads(costs.read_text())
    other = tmp_path / "other.json"
    changes: list[dict[str, Any]] = [{"broker_rate": -1}, {"nodes": []}]
    changes.append({"nodes": [body["nodes"][0] | {"speed": 0}]})
    for change in changes:
        other.write_text(json.dumps(body | change), "utf-8")
        code, _, error = _run(capsys, "explain", plan, "--costs", other)
        assert code == 20
        assert f"{other}: costs: field {next(iter(change))}" in error
    moved = json.loads(plan.read_text())
    moved["slices"][0]["nodes"][0] = "zz"
    plan.write_text(json.dumps(moved), "utf-8")
    code, _, error = _run(capsys, "explain", plan)
    assert code == 20
    assert "slice s0: the costs file has no node zz" in error
