"""What plans are told of nodes: ranges of operators, files that nodes hold, and the fleet with all of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.known import Correction, Cuts, Known, informed, operators_of, ranges, similar
from coordinator.planner.model import Fleet, NodeSpec
from coordinator.planner.tables.sharing import Usage
from tests.coordinator.site import blueprint, intent

MODEL = "a" * 64


@given(st.sets(st.integers(0, 5000)))
def test_ranges_and_back(operators: set[int]) -> None:
    assert operators_of(ranges(operators)) == tuple(sorted(operators))


@pytest.mark.parametrize("text", ["3-1", "5,4", "1,1", "-3", "x", "1-", "0-9999999999", "1,,2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"ranges of operators|invalid literal"):
        operators_of(text)


def test_files_of_made_plans_are_known_by_model() -> None:
    cuts = Cuts()
    made = blueprint(intent(), ["n1", "n2"])
    cuts.learn(MODEL, made)
    files = [items[0].artifact.sha256 for items in made.slices.values()]
    assert cuts.held(MODEL, [*files, "f" * 64]) == ("0", "1")
    assert cuts.held(MODEL, files[1:]) == ("1",)
    assert cuts.held("b" * 64, files) == ()
    other = Cuts()
    other.load(json.loads(json.dumps(cuts.plain())))
    assert other.held(MODEL, files) == ("0", "1")


def test_files_are_bounded_by_model_and_in_each() -> None:
    cuts = Cuts()
    cuts.load({MODEL: {f"{k:064x}": str(k) for k in range(3000)}})
    assert len(cuts.plain()[MODEL]) == 256
    for number in range(100):
        cuts.load({f"{number:064x}": {"f" * 64: "1"}})
    assert len(cuts.plain()) == 32


@pytest.mark.parametrize("body", [[], {"m": 3}, {"m": {"h": 3}}, {"m": {"h": "4-2"}}])
def test_what_is_not_a_map_of_files_is_refused(body: object) -> None:
    with pytest.raises(ValueError, match=r"cuts|ranges of operators"):
        Cuts().load(body)


def test_a_fleet_is_told_what_is_known() -> None:
    fleet = Fleet(tuple(NodeSpec(name, 1, {"all": 1.0}, 1e6, 1e6) for name in ("n1", "n2", "n3")), 5e6)
    known = Known(
        (Correction("n1", "r", "0-3", 4.0), Correction("n1", "r", "2-5", 1.0), Correction("gone", "r", "0", 2.0)),
        {"n2": ("0-2", "7")},
        {"n3": Usage(0.4, 1e5, 2e5, 1), "gone": Usage(1, 1, 1, 1)},
    )
    told = informed(fleet, known)
    assert told.broker_rate == 5e6
    n1, n2, n3 = told.nodes
    assert n1.corrections == {0: 4.0, 1: 4.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, "the latest counts"
    assert n1.correction == pytest.approx(2.0)
    assert n1.slowdown(0) == 4.0
    assert n1.slowdown(9) == pytest.approx(2.0)
    assert n2.held == {(0, 1, 2), (7,)}
    assert (n3.busy, n3.busy_up, n3.busy_down) == (0.4, 1e5, 2e5)
    assert n3.slowdown(0) == pytest.approx(1 / 0.6)
    assert informed(fleet, Known()) == fleet


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, True),
        ({"0-3": 1.0}, {"0-3": 1.09}, True),
        ({"0-3": 1.09}, {"0-3": 1.0}, True),
        ({"0-3": 1.0}, {"0-3": 1.2}, False),
        ({}, {"0-3": 1.05}, True),
        ({}, {"0-3": 2.0}, False),
        # Those that were not measured take the mean of the others.
        ({"0-1": 4.0}, {"0-1": 4.0, "2": 4.1}, True),
        ({"0-1": 4.0}, {"0-1": 4.0, "2": 1.0}, False),
        # The latest counts.
        ({"0-9": 1.0, "0-4": 3.0}, {"0-4": 3.0, "0-9": 1.0}, False),
    ],
)
def test_corrections_that_differ_a_little(
    before: dict[str, float], after: dict[str, float], expected: bool
) -> None:
    one, other = (
        [Correction("n1", "r", operators, factor) for operators, factor in factors.items()]
        for factors in (before, after)
    )
    assert similar(one, other, 0.1) is expected
    assert similar(one, [Correction("n2", "r", "9", 1.0), *other], 0.1) is expected
