"""Measures of codecs are kept for what they were measured with, and measured anew for anything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.codec_errors import CodecMeasures, chain_error
from converters.graph import read_graph
from converters.profile import estimate
from coordinator import codec_notes
from coordinator.codec_notes import error_of_plan, measures_of
from coordinator.planner import make_plan
from coordinator.planner.model import Fleet, NodeSpec, PlanOptions
from coordinator.planner.plan import Plan
from tests.converters.machine import load
from tests.converters.tiny import diamond

DATA = diamond()
GRAPH = read_graph(DATA)


def test_measures_are_kept_for_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[int] = []

    def measure(*_: Any, **__: Any) -> CodecMeasures:
        times.append(len(times))
        return CodecMeasures({"lz4": {1: float(len(times))}}, {})

    monkeypatch.setattr(codec_notes, "measure_codecs", measure)

    def asked(
        runtime: str = "r 1", sets: tuple[int, ...] = (1,), names: tuple[str, ...] = ("lz4",), **rest: Any
    ) -> float:
        return measures_of(DATA, GRAPH, load, runtime, tmp_path, sets, names, **rest).ratios["lz4"][1]

    samples = [{0: np.ones((1, 4), np.float32)}]
    others: list[dict[str, Any]] = [
        {},
        {"runtime": "r 2"},
        {"sets": (1, 3)},
        {"names": ("lz4", "f16")},
        {"samples": samples},
        {"samples": [{0: np.zeros((1, 4), np.float32)}]},
        {"seconds": 1.0},
    ]
    first = [asked(**other) for other in others]
    assert first == [float(k) for k in range(1, 8)]
    assert [asked(**other) for other in others] == first
    assert asked(fresh=True) == 8.0
    assert asked() == 8.0
    for path in tmp_path.iterdir():
        path.write_text("{}")
    assert asked() == 9.0, "a damaged file counts as none"


def _plan(codecs: dict[str, str]) -> Plan:
    fleet = Fleet(tuple(NodeSpec(f"n{k}", 10**9, {"all": 1e-6}, 1e9, 1e9) for k in range(3)))
    plan = make_plan(
        GRAPH, estimate(GRAPH), fleet, options=PlanOptions(pins={"0-0": "n0", "1-2": "n1", "3-4": "n2"})
    )
    assert [item.operators for item in plan.slices] == [(0,), (1, 2), (3, 4)]
    bundles = tuple(replace(bundle, codec=codecs.get(bundle.source, "raw")) for bundle in plan.bundles)
    return replace(plan, bundles=bundles)


def test_the_error_of_a_plan_is_that_of_its_chain() -> None:
    groups = [(0,), (1, 2), (3, 4)]
    plan = _plan({"s0": "int8", "s1": "f16"})
    expected = chain_error(DATA, GRAPH, load, groups, ["int8", "f16", "raw"])
    assert error_of_plan(DATA, GRAPH, load, plan) == expected > 0
    frames = [{0: np.zeros((1, 4), np.float32)}]
    given = chain_error(DATA, GRAPH, load, groups, ["int8", "f16", "raw"], frames)
    assert error_of_plan(DATA, GRAPH, load, plan, frames) == given != expected
    assert error_of_plan(DATA, GRAPH, load, _plan({"client": "int8"})) > 0
    assert error_of_plan(DATA, GRAPH, load, _plan({"s2": "int8"})) == 0.0, "results as they are made"


def test_a_plan_without_losses_is_not_run() -> None:
    def never(_: object) -> Any:
        raise AssertionError("loaded")

    assert error_of_plan(DATA, GRAPH, never, _plan({"s0": "lz4"})) == 0.0
