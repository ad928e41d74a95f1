"""The checker: good plans hold, every damaged number is found, and no file makes it fail in another way."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordinator.plan_check.check import check_plan
from coordinator.plan_check.report import Report
from coordinator.planner.books.write import text_of
from slicemq.errors import PlanError, SliceMQError
from tests.plan_check.cases import several

PIPELINES = several(15, shapes=("pipeline",))
CUT = several(6, slices=2, shapes=("pipeline",))
SHARED = [case for shape in ("copies", "replicas", "parallel") for case in several(3, shapes=(shape,))]
GOOD = [*PIPELINES, *SHARED]


def checked(plan: dict[str, Any], books: dict[str, Any], named: bool = True) -> Report:
    text = text_of(books).encode()
    if named:
        plan = {**plan, "costs": {"file": "costs.json", "sha256": hashlib.sha256(text).hexdigest()}}
    return check_plan(json.dumps(plan), text)


def test_good_plans_hold() -> None:
    for case in PIPELINES:
        report = checked(case.plan, case.books)
        wrong = [check for check in report.checks if check.word != "proved"]
        assert all(check.name.startswith("alternative") and check.word == "not checked" for check in wrong), wrong
        assert {"period", "latency", "memory", "bundles", "lower bound", "gap"} <= {c.name for c in report.checks}


def test_plans_that_share_frames_hold() -> None:
    proved = 0
    for case in SHARED:
        report = checked(case.plan, case.books)
        assert not report.failed
        assert all(
            c.word == "proved" or "bound" in c.name or c.name.startswith("alternative") for c in report.checks
        )
        proved += next(check.word for check in report.checks if check.name == "lower bound") == "proved"
    assert proved > len(SHARED) // 2
    assert any(case.plan["turns"] > 1 for case in SHARED)


def _scaled(key: str, factor: float) -> Any:
    def damage(plan: dict[str, Any], _: dict[str, Any]) -> None:
        plan[key] = plan[key] * factor

    return damage


def _named(key: str, value: Any) -> Any:
    def damage(plan: dict[str, Any], _: dict[str, Any]) -> None:
        plan[key] = value

    return damage


def _slice(key: str, factor: float) -> Any:
    def damage(plan: dict[str, Any], _: dict[str, Any]) -> None:
        plan["slices"][0][key] = type(plan["slices"][0][key])(plan["slices"][0][key] * factor)

    return damage


def _move_operator(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["slices"][1]["operators"].insert(0, plan["slices"][0]["operators"].pop())


def _swap_nodes(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["slices"][1]["nodes"] = plan["slices"][0]["nodes"]


def _unknown_node(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["slices"][0]["nodes"] = ["nobody"]


def _drop_operator(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["slices"][1]["operators"].pop()


def _twice(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["slices"][1]["operators"].append(plan["slices"][0]["operators"][0])


def _reversed(plan: dict[str, Any], _: dict[str, Any]) -> None:
    one, other = plan["slices"][0]["operators"], plan["slices"][1]["operators"]
    plan["slices"][0]["operators"], plan["slices"][1]["operators"] = other, one


def _bound(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["period_ms"] *= 1.5
    plan["lower_bound_ms"] *= 1.5


def _turns(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["turns"] = 2
    plan["slices"][0]["turns"] = [[0]]


def _window(plan: dict[str, Any], _: dict[str, Any]) -> None:
    plan["window"] += 1


def _bundle(key: str, value: Any) -> Any:
    def damage(plan: dict[str, Any], _: dict[str, Any]) -> None:
        row = plan["bundles"][0]
        row[key] = value if not callable(value) else value(row[key])

    return damage


def _node(key: str, change: Any) -> Any:
    """Another number for the nodes that the plan uses."""

    def damage(plan: dict[str, Any], books: dict[str, Any]) -> None:
        used = {node for item in plan["slices"] for node in item["nodes"]}
        for row in books["nodes"]:
            if used & set(row["ids"]):
                row[key] = change(row[key])

    return damage


def _books(key: str, value: Any) -> Any:
    def damage(plan: dict[str, Any], books: dict[str, Any]) -> None:
        books[key] = value(plan, books) if callable(value) else value

    return damage


def _one_node(plan: dict[str, Any], _: dict[str, Any]) -> None:
    row = plan["alternatives"][0]
    if row["period_ms"] is None:
        row.update(nodes=plan["slices"][0]["nodes"], period_ms=1.0, latency_ms=1.0)
    else:
        row["period_ms"] *= 1.1


DAMAGES = {
    "period": _scaled("period_ms", 0.99),
    "latency": _scaled("latency_ms", 1.001),
    "energy": _scaled("energy_j", 0.9),
    "a bound above the plan": _bound,
    "a bound that is too high": _scaled("lower_bound_ms", 1.0021),
    "window": _window,
    "compute": _slice("compute_ms", 1.01),
    "memory of a slice": _slice("memory_mb", 0.9),
    "bytes of a slice": _slice("bytes_in", 1.1),
    "operator moved": _move_operator,
    "operator dropped": _drop_operator,
    "operator twice": _twice,
    "slices reversed": _reversed,
    "node twice": _swap_nodes,
    "unknown node": _unknown_node,
    "turns": _turns,
    "bundle's bytes": _bundle("bytes", lambda value: value + 1),
    "bundle's tensors": _bundle("tensors", []),
    "bundle's source": _bundle("from", "s1"),
    "bundle's target": _bundle("to", ["s1"]),
    "codec of a bundle": _bundle("codec", "f16"),
    "family that there is not": _named("family", "pipelines"),
    "family of one slice": _named("family", "whole-model-copies"),
    "method that there is not": _named("method", "exact"),
    "an error that no cut makes": _named("error", {"budget": 0.1, "estimated": 0.01, "measured": None}),
    "model": _books("model", "cd" * 32),
    "excluded": _books("excluded", lambda plan, _: plan["slices"][0]["nodes"]),
    "pinned elsewhere": _books(
        "slice_pins",
        lambda plan, books: [
            [0, next(n for r in books["nodes"] for n in r["ids"] if n not in plan["slices"][0]["nodes"])]
        ],
    ),
    "fewer slices": _books("max_slices", lambda plan, _: len(plan["slices"]) - 1),
    "memory of the nodes": _node("memory_limit", lambda _: 1),
    "memory that is not there": _node("memory", lambda _: 1),
    "speed": _node("speed", lambda value: value * 0.5),
    "steps": _node("steps", lambda row: [value * 1.01 for value in row]),
    "downlink": _node("down", lambda value: value * 0.5),
    "round trip": _node("rtt", lambda value: value + 0.01),
    "operators": _node("cannot_run", lambda _: [0]),
    "alternative": _one_node,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found(name: str) -> None:
    for case in CUT:
        plan, books = copy.deepcopy(case.plan), copy.deepcopy(case.books)
        DAMAGES[name](plan, books)
        try:
            found = bool(checked(plan, books).failed)
        except PlanError:
            found = True
        assert found, name


def test_the_gap_must_be_that_of_period_and_bound() -> None:
    plan = copy.deepcopy(CUT[0].plan)
    plan["gap"] += 0.001
    assert [check.name for check in checked(plan, CUT[0].books).failed] == ["gap"]


def test_an_exact_method_leaves_no_gap() -> None:
    plan = copy.deepcopy(CUT[0].plan)
    plan["lower_bound_ms"] = round(plan["lower_bound_ms"] * 0.8, 4)
    plan["gap"] = round(plan["period_ms"] / plan["lower_bound_ms"] - 1, 6)
    plan["method"] = "exact-counts"
    assert [check.name for check in checked(plan, CUT[0].books).failed] == ["method"]


def test_several_pipelines_are_not_one_with_replicated_stages() -> None:
    plans = [case for case in SHARED if case.plan["family"] == "parallel-pipelines"]
    assert plans
    for case in plans:
        failed = checked({**case.plan, "family": "replicated-stages"}, case.books).failed
        assert "family" in [check.name for check in failed]


def test_a_lower_bound_that_is_lower_than_it_could_be_is_still_one() -> None:
    case = CUT[0]
    plan = copy.deepcopy(case.plan)
    plan["lower_bound_ms"] = round(plan["lower_bound_ms"] * 0.8, 4)
    plan["gap"] = round(plan["period_ms"] / plan["lower_bound_ms"] - 1, 6)
    plan["method"] = "heuristic"
    assert not checked(plan, case.books).failed


def test_another_costs_file_than_the_plan_names() -> None:
    case = CUT[0]
    plan = {**case.plan, "costs": {"file": "costs.json", "sha256": "0" * 64}}
    assert [check.name for check in checked(plan, case.books, named=False).failed] == ["costs file"]
    report = checked(case.plan, case.books, named=False)
    assert [(c.name, c.word) for c in report.checks if c.word != "proved"][:1] == [("costs file", "not checked")]


def test_without_costs_only_the_file_itself_is_looked_at() -> None:
    case = CUT[0]
    report = check_plan(json.dumps(case.plan), None)
    assert not report.failed
    assert all(check.word == "not checked" for check in report.checks)
    for name in ("period", "a bound above the plan", "operator twice"):
        plan = copy.deepcopy(case.plan)
        DAMAGES[name](plan, {})
        if name == "period":
            plan["period_ms"] *= 0.5
        if name == "a bound above the plan":
            plan["period_ms"] /= 1.5
        assert check_plan(json.dumps(plan), None).failed, name


def test_no_file_makes_it_raise_anything_but_our_errors() -> None:
    rng = random.Random(7)
    refused = failed = 0
    for number in range(500):
        case = GOOD[number % len(GOOD)]
        plan, books = copy.deepcopy(case.plan), copy.deepcopy(case.books)
        for _ in range(rng.randint(1, 3)):
            _damage(rng.choice((plan, books)), rng)
        try:
            failed += bool(check_plan(json.dumps(plan), json.dumps(books).encode()).failed)
        except SliceMQError:
            refused += 1
    assert refused > 100
    assert failed > 20


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"format": 1e999}', "[" * 100_000, '{"a": 1' + "0" * 700 + "}"]
)
def test_what_is_no_plan(text: str) -> None:
    for plan, costs in ((text, b"{}"), (json.dumps(GOOD[0].plan), text.encode())):
        with pytest.raises(SliceMQError):
            check_plan(plan, costs)


def test_it_shares_no_code_with_the_planner() -> None:
    code = (
        "import sys, coordinator.plan_check.check;"
        "others = ('coordinator.planner', 'numpy', 'scipy', 'converters');"
        "print(*[name for name in sys.modules if name.startswith(others)])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == []


def _damage(body: Any, rng: random.Random) -> None:
    while True:
        keys = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(body[key], (dict, list)) or rng.random() < 0.15:
            body[key] = rng.choice([None, -1, 0, 1, "x", [], {}, [[]], 1e300, 1e-300, True, 10**30, "raw", 0.5])
            return
        body = body[key]
