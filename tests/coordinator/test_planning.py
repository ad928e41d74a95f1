"""A planning job counts what is known of the nodes, and predicts what heartbeats are compared with."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from converters.classes import class_of
from coordinator import planning
from coordinator.known import Correction, Known
from coordinator.planner import make_plan
from coordinator.planner.model import Fleet, NodeSpec, Overheads
from coordinator.planner.tables.sharing import Usage
from coordinator.planning import REPLACEMENT_WITHIN, PlanningJob, computing_of, run
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
