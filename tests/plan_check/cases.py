"""Plans with their books for the checker: made by the planner, and certificates made by hand from tables."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from converters.graph import Graph
from converters.profile import Profile
from coordinator.planner import make_plan
from coordinator.planner.books.write import books
from coordinator.planner.model import PlanOptions
from coordinator.planner.problem import Costs
from slicemq.errors import PlanError
from tests.planner.instances import random_fleet, random_graph, random_profile, weights_memory


@dataclass(frozen=True)
class Case:
    """A plan's document, its books' document and what they were made of."""

    graph: Graph
    profile: Profile
    options: PlanOptions
    costs: Costs
    plan: dict[str, Any]
    books: dict[str, Any]


def made(seed: int, shapes: tuple[str, ...] | None) -> Case | None:
    """A random plan by the planner; every second one with scarce memory, some with pins or a slow broker."""
    rng = random.Random(seed)
    graph = random_graph(rng, rng.randint(2, 7))
    profile = random_profile(rng, graph)
    whole, nodes = weights_memory(graph, list(graph.steps)), rng.randint(2, 5)
    memory = whole // rng.randint(1, nodes) if seed % 2 else 10 * whole + 1
    fleet = random_fleet(rng, nodes, memory, rng.choice((None, 1e6)))
    pins = [{}, {"s0": fleet.nodes[0].id}, {f"{graph.steps[0]}-{graph.steps[0]}": fleet.nodes[-1].id}][seed % 3]
    options = PlanOptions(
        pins=pins, headroom=rng.choice((0.0, 0.1)), max_slices=rng.choice((None, None, 3)), shapes=shapes
    )
    kept: list[Costs] = []
    try:
        plan = make_plan(graph, profile, fleet, memory=weights_memory, options=options, record=kept.append)
    except PlanError:
        return None
    return Case(graph, profile, options, kept[0], plan.to_plain(), books(graph, profile, kept[0], options))


def several(count: int, slices: int = 1, shapes: tuple[str, ...] | None = None) -> list[Case]:
    """So many random plans, each with at least so many slices."""
    found: list[Case] = []
    seed = 0
    while len(found) < count:
        case = made(seed, shapes)
        if case is not None and len(case.plan["slices"]) >= slices:
            found.append(case)
        seed += 1
    return found
