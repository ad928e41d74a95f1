"""A planning job counts what is known of the nodes, and predicts what heartbeats are compared with."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.classes import class_of
from converters.samples import pack
from coordinator import planning
from coordinator.artifacts import ArtifactStore
from coordinator.intents import Blueprint
from coordinator.known import Correction, Known
from coordinator.planner import make_plan
from coordinator.planner.model import Fleet, NodeSpec, Overheads
from coordinator.planner.tables.sharing import Usage
from coordinator.planning import REPLACEMENT_WITHIN, PlanningJob, computing_of, run
from slicemq.codecs import is_lossless
from slicemq.errors import InputError, StoreError
from slicemq.messages import Artifact
from tests.converters.tiny import Tiny
from tests.planner.instances import random_graph, random_profile, weights_memory
from tests.planner.test_operators import job

EVERYTHING: dict[str, int] = {}


def told(folder: Path, known: Known, *, asked: bool = True) -> PlanningJob:
    """A job on two equal nodes of which something is known."""
    return replace(job(folder, EVERYTHING, EVERYTHING), known=known, asked=asked)


@pytest.mark.parametrize("slow", ["pi-1", "pi-2"])
@pytest.mark.parametrize("why", ["measured", "others"])
def test_a_plan_goes_where_the_node_is_faster_by_what_is_known(tmp_path: Path, slow: str, why: str) -> None:
    known = (
        Known((Correction(slow, "r", "0", 3.0),)) if why == "measured" else Known(usage={slow: Usage(1, 0, 0, 1)})
    )
    made = run(told(tmp_path, known))
    free = {"pi-1": "pi-2", "pi-2": "pi-1"}[slow]
    times = {node: row["compute_ms"] for row in made.plan["slices"] for node in row["nodes"]}
    assert free in times
    assert times[free] == max(times.values())


def test_a_pin_stands_above_what_failed_lately_on_its_node(tmp_path: Path) -> None:
    given = told(tmp_path, Known())
    pinned = replace(given.intent, options={**given.intent.options, "pins": {"s0": "pi-1"}})
    made = run(replace(given, intent=pinned, avoid=frozenset({"pi-1"})))
    assert made.plan["slices"][0]["nodes"] == ["pi-1"]


def test_an_estimate_predicts_nothing_that_is_compared(tmp_path: Path) -> None:
    assert run(told(tmp_path, Known())).computing == {}


def test_predictions_are_the_profile_by_the_nodes_speeds_alone() -> None:
    """Neither corrections nor what others use is in them: corrections would be corrected again and again."""
    rng = random.Random(11)
    graph = random_graph(rng, 9)
    profile = replace(random_profile(rng, graph), overhead=1e-4)
    spec = NodeSpec("a", 10**9, {"conv": 2.0, "dense": 0.5}, 1e6, 1e6)
    for known in (spec, replace(spec, corrections={0: 3.0}, correction=2.0, busy=0.5)):
        fleet = Fleet((known,))
        plan = make_plan(graph, profile, fleet, memory=weights_memory)
        expected = sum(
            profile.seconds[step] / spec.speed(class_of(graph, graph.operators[step])) for step in graph.steps
        )
        assert computing_of(plan, graph, profile, fleet) == {
            "s0": {"a": pytest.approx(Overheads().computing * expected + 1e-4 / spec.mean_speed, abs=1e-9)}
        }


@pytest.mark.parametrize(
    ("asked", "held", "wide"),
    [(True, True, False), (False, True, True), (False, False, False), (True, False, False)],
)
def test_only_what_replaces_a_lost_plan_may_be_worse_to_ship_less(
    tmp_path: Path, asked: bool, held: bool, wide: bool
) -> None:
    made = told(tmp_path, Known(held={"pi-1": ("0-1",)} if held else {}), asked=asked)
    options = planning._for_present(planning.plan_options({}), made)
    assert (options.goal.within == REPLACEMENT_WITHIN) == wide


def outliers(size: int = 20_000) -> bytes:
    """tanh(-x): where one element of x is far larger than all others, few steps are left for these."""
    tiny = Tiny()
    x = tiny.input((1, size), name="x")
    return tiny.build([tiny.op("TANH", [tiny.op("NEG", [x], (1, size))], (1, size))])


def calibrated(folder: Path, content: bytes | None, *, asked: bool = True) -> PlanningJob:
    """A job that must cut `outliers`, with a calibration set of this content (None: it is not in the store)."""
    made = job(folder, EVERYTHING, EVERYTHING, data=outliers())
    options = {
        "profile": "estimate",
        "shape": ["pipeline"],
        "pins": {"0-0": "pi-1", "1-1": "pi-2"},
        "codecs": ["raw", "int16", "int8", "zstd"],
        "error_budget": 0.05,
        "broker_mbps": 1.0,
    }
    store = ArtifactStore(folder / "artifacts")
    calibration = Artifact("c" * 64, 9) if content is None else store.put(content)
    wanted = replace(made.intent, options=options, calibration=calibration)
    nodes = tuple(replace(node, codecs=("raw", "int16", "int8", "zstd")) for node in made.nodes)
    return replace(made, intent=wanted, asked=asked, nodes=nodes)


def typical() -> bytes:
    frame = np.random.default_rng(4).standard_normal((1, 20_000)).astype(np.float32)
    frame[0, 7] = 1000.0
    return pack([{0: frame}, {0: frame[:, ::-1]}])


def sent(made: Blueprint) -> str:
    """The codec between the two slices."""
    (codec,) = (row["codec"] for row in made.plan["bundles"] if row["from"] == "s0")
    return str(codec)


@pytest.mark.parametrize("asked", [True, False])
def test_codecs_are_measured_on_the_calibration_set(tmp_path: Path, asked: bool) -> None:
    wanted = calibrated(tmp_path, typical(), asked=asked)
    noisy = run(replace(wanted, intent=replace(wanted.intent, calibration=None)))
    made = run(wanted)
    assert (sent(noisy), sent(made)) == ("int8", "int16")
    assert noisy.plan["error"]["samples"] == "noise"
    assert made.plan["error"]["samples"] == "calibration"
    assert 0 < noisy.plan["error"]["measured"] <= 0.05
    assert 0 < made.plan["error"]["measured"] <= 0.05
    # What was measured on one is not taken for the other.
    assert (
        run(replace(wanted, intent=replace(wanted.intent, calibration=None))).plan["error"] == noisy.plan["error"]
    )


@pytest.mark.parametrize(("content", "text"), [(None, "No such file"), (b"no set", "samples: ")])
def test_a_set_that_cannot_be_used_is_refused_and_a_lost_plan_is_replaced_without_losses(
    tmp_path: Path, content: bytes | None, text: str
) -> None:
    with pytest.raises((InputError, StoreError), match=text):
        run(calibrated(tmp_path, content))
    made = run(calibrated(tmp_path, content, asked=False))
    assert made.plan["error"] is None
    assert is_lossless(sent(made))
