"""Which tensors cross where, against what follows from the definition."""

from __future__ import annotations

import random

from converters.crossings import Crossings, summed
from converters.graph import read_graph
from converters.slicing import legal_positions
from tests.converters.tiny import Tiny, chain


def test_against_the_definition() -> None:
    rng = random.Random(7)
    for length in (1, 2, 3, 10, 97):
        spans = []
        for tensor in range(60):
            first = rng.randrange(length)
            spans.append((tensor, first, rng.randrange(first, length)))
        expected = [tuple(sorted(t for t, a, b in spans if a <= p <= b)) for p in range(length)]
        crossings = Crossings(length, spans)
        assert len(crossings) == length
        assert list(crossings) == expected
        order = list(range(length))
        rng.shuffle(order)
        assert [crossings[p] for p in order] == [expected[p] for p in order]
        assert crossings[-1] == expected[-1]
        assert crossings[1:4] == tuple(expected[1:4])
        sums = summed(length, ((10 * t, a, b) for t, a, b in spans))
        assert sums == tuple(10 * sum(row) for row in expected)


def test_a_fan_of_skips_takes_memory_in_proportion_to_the_model() -> None:
    """Every step's result is read once more at the very end: a list for each position would have millions."""
    tiny = Tiny()
    made = [tiny.input((1,), name="x")]
    for _ in range(3000):
        made.append(tiny.op("TANH", [made[-1]], (1,)))
    graph = read_graph(tiny.build([tiny.op("CONCATENATION", made, (3001,))]))
    assert len(graph.spans) == 3000
    crossings = graph.crossings
    assert sum(len(mark) for mark in crossings._marks) < 100_000
    assert graph.crossing_bytes[2000] == 4 * 2000
    assert crossings[2000] == tuple(sorted(made[1:2001]))
    assert legal_positions(graph) == tuple(range(1, 3001))


def test_positions_of_a_long_chain() -> None:
    graph = read_graph(chain(2000))
    assert legal_positions(graph) == tuple(range(1, 2000))
    assert set(graph.crossing_bytes[1:-1]) == {16}
