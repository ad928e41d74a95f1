"""What a request may say of the plan that is wanted."""

from __future__ import annotations

import math
from typing import Any

import pytest
import typer

from coordinator.cli.plan_wishes import pairs, wishes
from coordinator.planner.goal import Goal
from coordinator.planner.model import PlanOptions
from coordinator.planner.wishes import options_from_plain
from slicemq.codecs import CODECS
from slicemq.errors import PlanError, UsageError


def test_nothing_said_is_the_default() -> None:
    assert options_from_plain({}) == PlanOptions()
    nothing = dict.fromkeys(("pins", "exclude", "max_slices", "objective", "min_rate", "codecs", "shape"))
    assert options_from_plain(nothing) == PlanOptions()


def test_everything_said() -> None:
    found = options_from_plain(
        {
            "pins": {"s0": "pi-1"},
            "exclude": ["pi-2"],
            "require": {"room": "barn"},
            "headroom": 0.25,
            "max_slices": 4,
            "objective": "nodes",
            "min_rate": 20,
            "max_latency_ms": 150.0,
            "max_nodes": 5,
            "max_energy_j": 2,
            "error_budget": 0.01,
            "within": 0.05,
            "codecs": ["int8", "raw", "int8"],
            "shape": ["pipeline", "copies"],
        }
    )
    assert found.pins == {"s0": "pi-1"}
    assert found.exclude == {"pi-2"}
    assert found.require == {"room": "barn"}
    assert (found.headroom, found.max_slices) == (0.25, 4)
    assert found.goal == Goal("nodes", 0.05, 0.15, 5, 2.0, 0.01, 0.05)
    assert found.codecs == ("raw", "int8")
    assert found.shapes == ("pipeline", "copies")


def test_auto_stands_for_all_codecs_that_the_budget_allows() -> None:
    assert options_from_plain({"codecs": ["auto"], "error_budget": 0.01}).codecs == CODECS
    assert options_from_plain({"codecs": ["auto"]}).codecs == ("raw", "lz4", "lz4s", "zstd")
    assert options_from_plain({"codecs": ["lz4", "auto"]}).codecs == ("raw", "lz4", "lz4s", "zstd")
    with pytest.raises(PlanError, match="int8 changes the results: say by how much"):
        options_from_plain({"codecs": ["auto", "int8"]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pins", ["s0"]),
        ("pins", {"s0": 1}),
        ("exclude", "pi-1"),
        ("exclude", [1]),
        ("require", {"room": True}),
        ("headroom", 1.5),
        ("headroom", -0.1),
        ("max_slices", 0),
        ("max_slices", True),
        ("max_slices", 1.5),
        ("objective", "speed"),
        ("objective", 3),
        ("min_rate", -1),
        ("min_rate", math.nan),
        ("min_rate", math.inf),
        ("min_rate", "20"),
        ("max_latency_ms", True),
        ("max_nodes", "3"),
        ("max_energy_j", []),
        ("error_budget", {}),
        ("within", 2),
        ("codecs", ["gzip"]),
        ("codecs", "raw"),
        ("shape", ["ring"]),
        ("objective", "nodes"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any) -> None:
    with pytest.raises(PlanError, match=f"field {field}: "):
        options_from_plain({field: value})


def test_what_the_command_line_leaves_out_is_not_sent() -> None:
    given: dict[str, Any] = {
        "objective": "throughput",
        "min_rate": None,
        "max_latency": None,
        "max_nodes": None,
        "max_energy": None,
        "error_budget": 0.0,
        "codec": [],
        "shape": [],
        "require": [],
        "headroom": 0.0,
        "data_brokers": "auto",
        "broker_rate": None,
    }
    assert options_from_plain(wishes(**given | {"broker_rate": 80.0})).broker_rate == 10e6
    assert options_from_plain(wishes(**given)).broker_rate is None
    assert options_from_plain(wishes(**given | {"data_brokers": "never"})).data_brokers == "never"
    with pytest.raises(PlanError, match="field data_brokers: expected auto or never, got 'always'"):
        options_from_plain(wishes(**given | {"data_brokers": "always"}))
    assert options_from_plain(wishes(**given)).data_brokers == "auto"
    assert wishes(**given) == {"objective": "throughput"}
    given |= {"max_latency": 20.0, "require": ["room=barn"], "shape": ["copies"], "headroom": 0.5}
    found = options_from_plain(wishes(**given))
    assert found.goal.max_latency == 0.02
    assert (found.require, found.shapes, found.headroom) == ({"room": "barn"}, ("copies",), 0.5)


@pytest.mark.parametrize("words", [["room"], ["=x"], ["room="], ["a=1", "a=2"]])
def test_pairs_that_are_none(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--require "):
        pairs(words, "--require", "LABEL=VALUE")
    assert pairs(["a=1", "a=1", "b=x=y"], "--require", "") == {"a": "1", "b": "x=y"}


def test_the_options_are_options() -> None:
    from coordinator.cli import plan_wishes

    found = [value for name, value in vars(plan_wishes).items() if name.isupper()]
    assert len(found) == 13
    assert all(isinstance(option, typer.models.OptionInfo) and option.help for option in found)
