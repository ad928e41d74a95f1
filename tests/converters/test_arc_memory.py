"""Memory of slices between down-sets: each entry is what `slice_memory` says of its steps."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.models import real_models
from converters.arc_memory import arc_memory, membership
from converters.delegation import RUNTIMES
from converters.graph import Graph, read_graph
from converters.memory import memory_table, slice_memory
from coordinator.planner.tables.states import bits, down_sets
from tests.planner.branching import branching_graph

BUILTIN = ("ADD", "MUL", "RESHAPE", "GATHER", "PRELU")


def expected(graph: Graph, before: int, after: int, runtime: str) -> int:
    if before == after or before & ~after:
        return 0
    return slice_memory(graph, [graph.steps[place] for place in bits(after & ~before)], runtime)


@pytest.mark.parametrize("runtime", [*RUNTIMES, "another"])
def test_every_arc_of_random_models(runtime: str) -> None:
    compared = 0
    for seed in range(24):
        rng = random.Random(seed)
        graph = branching_graph(rng, rng.randint(1, 7))
        names = [rng.choice((op.name, op.name, *BUILTIN)) for op in graph.operators]
        graph = replace(
            graph,
            operators=tuple(replace(op, name=name) for op, name in zip(graph.operators, names, strict=True)),
            tensors=tuple(replace(t, buffer=t.index, weight_bytes=rng.choice((0, 0, 9000))) for t in graph.tensors),
        )
        sets = down_sets(graph, 100).done
        table = arc_memory(graph, sets, runtime)
        assert table.tolist() == [[expected(graph, a, b, runtime) for b in sets] for a in sets]
        compared += int((table > 0).sum())
    assert compared > 1000, "arcs of many models"


@pytest.mark.parametrize("name", ["face-back", "face-short-range"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_real_models(name: str, runtime: str) -> None:
    graph = read_graph(real_models()[name].path.read_bytes())
    sets = down_sets(graph, 120).done
    table = arc_memory(graph, sets, runtime)
    rng = random.Random(7)
    for i, j in rng.sample([(int(i), int(j)) for i, j in np.argwhere(table > 0)], 60):
        assert table[i, j] == expected(graph, sets[i], sets[j], runtime)
    prefixes = [(number, done.bit_length()) for number, done in enumerate(sets) if done & (done + 1) == 0]
    rows, places = map(list, zip(*prefixes, strict=True))
    assert (table[np.ix_(rows, rows)] == memory_table(graph, runtime)[np.ix_(places, places)]).all()


def test_membership() -> None:
    assert membership([0, 0b101, 1 << 9], 10).tolist() == [
        [False] * 10,
        [True, False, True] + [False] * 7,
        [False] * 9 + [True],
    ]
