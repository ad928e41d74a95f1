"""The open books: what a plan was made of, written and read back."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from converters.graph import Graph
from converters.profile import Profile
from coordinator.planner import make_plan
from coordinator.planner.books.read import costs_from_books, costs_from_text
from coordinator.planner.books.write import books, text_of
from coordinator.planner.methods.split import split
from coordinator.planner.model import PlanOptions
from coordinator.planner.problem import Costs, Hops, State
from slicemq.errors import PlanError
from tests.planner.instances import random_fleet, random_graph, random_profile, weights_memory


def case(seed: int) -> tuple[Graph, Profile, Costs, PlanOptions] | None:
    """A random problem that has a plan; every second one with scarce memory, some with pins."""
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(1, 7))
    profile = random_profile(rng, graph)
    whole, nodes = weights_memory(graph, list(graph.steps)), rng.randint(1, 4)
    memory = whole // rng.randint(1, nodes) if seed % 2 else 10 * whole + 1
    fleet = random_fleet(rng, nodes, memory, rng.choice((None, 1e6)))
    first, last = fleet.nodes[0].id, fleet.nodes[-1].id
    pins = [{}, {"s0": first}, {f"{graph.steps[0]}-{graph.steps[0]}": last}][seed % 3]
    options = PlanOptions(pins=pins, headroom=rng.choice((0.0, 0.1)))
    kept: list[Costs] = []
    try:
        make_plan(graph, profile, fleet, memory=weights_memory, options=options, record=kept.append)
    except PlanError:
        return None
    return graph, profile, kept[0], options


def same(one: Costs, other: Costs) -> None:
    assert [kind.ids for kind in one.types] == [kind.ids for kind in other.types]
    for a, b in zip(one.types, other.types, strict=True):
        allowed = np.isfinite(a.period)
        assert np.array_equal(allowed, np.isfinite(b.period))
        assert np.array_equal(a.period[allowed], b.period[allowed])
        for name in ("compute", "down", "up", "latency", "memory"):
            assert np.array_equal(getattr(a, name)[allowed], getattr(b, name)[allowed]), name
        assert (a.whole, a.useful) == (b.whole, b.useful)
    for name in ("n", "broker_rate", "slice_pins", "max_slices", "states", "goal"):
        assert getattr(one, name) == getattr(other, name)


def test_what_is_read_gives_the_same_plan() -> None:
    seen = 0
    for seed in range(90):
        found = case(seed)
        if found is None:
            continue
        graph, profile, costs, options = found
        text = text_of(books(graph, profile, costs, options))
        assert text == text_of(books(graph, profile, costs, options))
        again = costs_from_text(text)
        same(costs, again)
        assert split(again) == split(costs)
        for row in json.loads(text)["nodes"]:
            tables = (row[name] for name in ("compute", "traffic", "stage", "allowed"))
            assert all(table is None for table in tables), "what follows from other numbers is not there"
        seen += 1
    assert seen > 50


def test_tables_that_do_not_follow_are_written_out() -> None:
    graph, profile, costs, options = case_with(3)
    kind = costs.types[0]
    odd = replace(
        kind,
        compute=kind.compute * np.linspace(1, 2, costs.n + 1)[None, :],
        bytes_in=kind.bytes_in / 2,
        period=np.where(np.isfinite(kind.period), kind.period * 3, np.inf),
        moves=kind.memory + 1,
    )
    changed = replace(costs, types=(odd, *costs.types[1:]), relayed=costs.relayed + 1)
    body = books(graph, profile, changed, options)
    row = body["nodes"][0]
    assert None not in (row["compute"], row["traffic"], row["stage"], row["moves_table"], body["traffic"])
    again = costs_from_text(text_of(body))
    same(changed, again)
    moves = again.types[0].moves
    assert moves is not None
    assert odd.moves is not None
    arcs = np.isfinite(kind.period)
    assert np.array_equal(moves[arcs], odd.moves[arcs])


def test_arcs_that_no_rule_forbids() -> None:
    graph, profile, costs, options = case_with(2)
    kind = costs.types[0]
    period = kind.period.copy()
    period[0, 1] = np.inf
    changed = replace(costs, types=(replace(kind, period=period), *costs.types[1:]))
    body = books(graph, profile, changed, options)
    same(changed, costs_from_text(text_of(body)))


def test_sets_of_steps_errors_and_links() -> None:
    graph, profile, costs, options = case_with(4)
    states = tuple(State((1 << done) - 1, "f16" if 0 < done < costs.n else "raw") for done in range(costs.n + 1))
    hops = Hops(np.arange(costs.n + 1) * 10.0, np.full((len(costs.types),) * 2, 1e6))
    changed = replace(costs, states=states, errors=np.arange(costs.n + 1) / 100, hops=hops)
    again = costs_from_text(text_of(books(graph, profile, changed, options)))
    same(changed, again)
    assert again.hops is not None
    assert np.array_equal(again.hops.bytes, hops.bytes)
    assert np.array_equal(again.hops.rates, hops.rates)
    assert again.errors is not None
    assert changed.errors is not None
    assert np.array_equal(again.errors, changed.errors)


def case_with(steps: int) -> tuple[Graph, Profile, Costs, PlanOptions]:
    """A problem of at least so many steps, without pins."""
    for seed in range(0, 1000, 6):
        found = case(seed)
        if found is not None and found[2].n >= steps and len(found[2].types) > 1:
            return found
    raise AssertionError("no such case")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "field format"),
        ('{"format": 2}', "field format"),
        ('{"format": 1}', "not a costs file"),
        ('{"format": NaN}', "NaN is not a number"),
    ],
)
def test_what_is_no_costs_file(text: str, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        costs_from_text(text)


def test_damaged_books_end_in_plan_errors() -> None:
    graph, profile, costs, options = case_with(3)
    body = json.loads(text_of(books(graph, profile, costs, options)))
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        damaged = json.loads(json.dumps(body))
        _damage(damaged, rng)
        try:
            costs_from_books(damaged)
        except PlanError:
            refused += 1
    assert refused > 30


def _damage(body: Any, rng: random.Random) -> None:
    while True:
        keys = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(body[key], (dict, list)) or rng.random() < 0.2:
            body[key] = rng.choice([None, -1, "x", [], {}, 1e300, True])
            return
        body = body[key]
