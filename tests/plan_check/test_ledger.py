"""The checker's numbers against the planner's tables: sets of steps, codecs, links between pairs of nodes."""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from converters.codec_errors import CodecMeasures
from converters.graph import Graph
from converters.profile import Profile
from coordinator.plan_check.check import check_plan
from coordinator.plan_check.ledger import Ledger
from coordinator.planner import make_plan
from coordinator.planner.books.read import costs_from_text
from coordinator.planner.books.write import books, text_of
from coordinator.planner.cost import build_costs
from coordinator.planner.goal import Goal
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.problem import Costs
from coordinator.planner.tables.memory import memory_by_runtime
from coordinator.planner.tables.states import down_sets, states_of
from slicemq.errors import PlanError
from tests.planner.instances import make_graph, random_fleet, random_graph, random_profile, weights_memory


def branching(rng: random.Random) -> Graph:
    """Two branches of two steps each between a first and a last one."""
    rows = [
        ("CONV_2D", (0,), (1,), False),
        ("CONV_2D", (1,), (2,), False),
        ("DEPTHWISE_CONV_2D", (2,), (3,), False),
        ("CONV_2D", (1,), (4,), False),
        ("FULLY_CONNECTED", (4,), (5,), False),
        ("ADD", (3, 5), (6,), False),
    ]
    sizes = [4 * rng.choice((1000, 10_000, 50_000)) for _ in range(7)]
    return make_graph(rows, sizes, (0,), (6,), [rng.randint(0, 10**6) for _ in rows])


def problem(seed: int, codecs: bool, links: bool) -> tuple[Costs, bytes]:
    rng = random.Random(seed)
    graph = branching(rng) if seed % 2 else random_graph(rng, 5)
    profile, fleet = random_profile(rng, graph), random_fleet(rng, 3, 10**9, None)
    names = ("raw", "lz4", "f16", "int8")
    nodes = tuple(
        replace(node, codecs=names if rng.random() < 0.7 else ("raw",), busy=rng.choice((0.0, 0.3)), busy_up=1e4)
        for node in fleet.nodes
    )
    pairs = {(a.id, b.id): rng.uniform(1e5, 1e7) for a in nodes for b in nodes if a is not b}
    fleet = Fleet(nodes, None, pairs if links else {})
    options = PlanOptions(codecs=names if codecs else ("raw",), goal=Goal(error_budget=0.1))
    down = down_sets(graph)
    ratios = {"lz4": {t.index: rng.uniform(0.3, 0.9) for t in graph.tensors}}
    every = dict.fromkeys(names[1:], down.done[1:-1]) if codecs else {}
    measures = CodecMeasures(ratios, {n: {d: rng.uniform(0, 0.05) for d in down.done} for n in ("f16", "int8")})
    states = states_of(down, every)
    memory = {"": np.full((len(states) or len(graph.steps) + 1,) * 2, 1000.0)}
    costs = build_costs(graph, profile, fleet, memory, options, None, states, measures)
    return costs, text_of(books(graph, profile, costs, options, ratios)).encode()


@pytest.mark.parametrize(("codecs", "links"), [(False, False), (True, False), (False, True), (True, True)])
def test_every_arc_costs_what_the_planner_took(codecs: bool, links: bool) -> None:
    for seed in range(6):
        costs, text = problem(seed, codecs, links)
        body = json.loads(text)
        tables = [body["traffic"]] + [
            row[t] for row in body["nodes"] for t in ("compute", "stage", "allowed", "traffic")
        ]
        assert all(table is None for table in tables), "all follows from steps and tensors"
        ledger = Ledger(text)
        for kind, mine in zip(costs.types, ledger.kinds, strict=True):
            for i in range(costs.n + 1):
                for j in range(i + 1, costs.n + 1):
                    here = j in ledger.ends[i] and mine.may(i, j)
                    assert here == math.isfinite(kind.period[i, j])
                    if here:
                        assert math.isclose(float(mine.stage(i, j) or 0), kind.period[i, j], rel_tol=1e-9)
                        assert math.isclose(float(mine.energy(i, j)), kind.energy[i, j], rel_tol=1e-9)
                        assert mine.flow(i, j).relayed == costs.relayed[i, j]
            limit = 1.000001 * float(np.median(kind.period[np.isfinite(kind.period)]))
            opened = mine.within(Fraction(limit), strict=False)
            assert opened == [
                [j for j in range(costs.n + 1) if kind.period[i, j] <= limit] for i in range(costs.n + 1)
            ]
        again = costs_from_text(text)
        for kind, other in zip(costs.types, again.types, strict=True):
            assert np.allclose(kind.period, other.period, rtol=1e-12)
        assert costs.hops is None or np.array_equal(costs.hops.bytes, again.hops.bytes)  # type: ignore[union-attr]


def linked_plan(seed: int) -> tuple[dict[str, Any], bytes] | None:
    """A plan over pairwise links with its certificate, and its books."""
    rng = random.Random(seed)
    graph = random_graph(rng, 8)
    profile, fleet = random_profile(rng, graph), random_fleet(rng, 6, weights_memory(graph, graph.steps) // 2, None)
    pairs = {(a.id, b.id): rng.uniform(1e5, 1e7) for a in fleet.nodes for b in fleet.nodes if a is not b}
    kept: list[Costs] = []
    options = PlanOptions(shapes=("pipeline",))
    try:
        plan = make_plan(
            graph,
            profile,
            Fleet(fleet.nodes, None, pairs),
            memory=weights_memory,
            options=options,
            record=kept.append,
        )
    except PlanError:
        return None
    text = text_of(books(graph, profile, kept[0], options)).encode()
    body = plan.to_plain()
    body["costs"] = {"file": "costs.json", "sha256": hashlib.sha256(text).hexdigest()}
    if not body["certificate"]:
        from coordinator.planner.pairs.pairwise import solve

        body["certificate"] = json.loads(json.dumps([asdict(bound) for bound in solve(kept[0]).bounds]))
    return body, text


def test_plans_over_links_between_pairs_hold() -> None:
    seen = 0
    for seed in range(12):
        found = linked_plan(seed)
        if found is None:
            continue
        plan, text = found
        report = check_plan(json.dumps(plan), text)
        assert not report.failed
        bounds = [check for check in report.checks if "bound" in check.name]
        assert all(check.word == "proved" for check in bounds)
        plan["certificate"][-1]["value"] *= 1.01
        plan["lower_bound_ms"] *= 1.01
        plan["period_ms"] *= 1.01
        assert check_plan(json.dumps(plan), text).failed
        seen += 1
    assert seen > 3


def test_segments_of_memory_are_read_by_runtime() -> None:
    rng = random.Random(3)
    graph = random_graph(rng, 4)
    fleet = random_fleet(rng, 2, 10**9)
    nodes = tuple(
        replace(n, runtime=r) for n, r in zip(fleet.nodes, ("ai_edge_litert", "tflite_runtime"), strict=True)
    )
    options = PlanOptions()
    profile = random_profile(rng, graph)
    costs = build_costs(graph, profile, Fleet(nodes), memory_by_runtime(graph, nodes), options)
    ledger = Ledger(text_of(books(graph, profile, costs, options)))
    found = {kind.ids[0]: kind.memory(0, ledger.n) for kind in ledger.kinds}
    assert found == {kind.ids[0]: float(kind.memory[0, costs.n]) for kind in costs.types}
    assert len(set(found.values())) == 2


def test_what_lossy_cuts_err_is_added_up_again() -> None:
    graph = make_graph(
        [("CONV_2D", (0,), (1,), False), ("CONV_2D", (1,), (2,), False)],
        [4000, 400_000, 400],
        (0,),
        (2,),
        [10**6] * 2,
    )
    profile = Profile({0: 0.005, 1: 0.005}, "test", measured=True, overhead=0.0)
    nodes = tuple(NodeSpec(f"n{k}", 1_500_000, {"all": 1.0}, 1e7, 1e7, codecs=("raw", "int8")) for k in range(2))
    options = PlanOptions(codecs=("raw", "int8"), goal=Goal(error_budget=0.1), shapes=("pipeline",))
    measures = CodecMeasures({}, {"int8": {1: 0.0312345678}})
    kept: list[Costs] = []
    plan = make_plan(
        graph,
        profile,
        Fleet(nodes, None),
        memory=weights_memory,
        options=options,
        measures=measures,
        record=kept.append,
    ).to_plain()
    assert plan["error"]["estimated"] == 0.0312346
    text = text_of(books(graph, profile, kept[0], options))
    assert not check_plan(json.dumps({**plan, "costs": None}), text.encode()).failed
    for error in (None, {**plan["error"], "estimated": 0.0312}):
        failed = check_plan(json.dumps({**plan, "error": error}), text.encode()).failed
        assert [check.name for check in failed] == ["errors"]
