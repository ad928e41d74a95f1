"""Errors of codecs: measured at cuts and along chains, and written down."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest

from benchmarks.models import real_models
from converters.codec_errors import (
    CodecMeasures,
    chain_error,
    from_plain,
    measure_codecs,
    relative,
    through,
    to_plain,
)
from converters.graph import Graph, read_graph
from converters.runtime import Array, random_inputs
from converters.schema import Bytes
from converters.slicing import groups_at
from coordinator.planner.goal import Goal
from coordinator.planner.model import PlanOptions
from coordinator.planner.tables.codec_costs import candidates, codec_sets, crossing
from coordinator.planner.tables.state_tables import state_tables
from coordinator.planner.tables.states import DAG, bits, down_sets, family_of, states_of
from slicemq.codecs import available, packed_size, worst_error
from tests.converters.machine import load
from tests.converters.tiny import chain, diamond
from tests.planner.branching import random_path

CODECS = ("raw", "lz4", "f16", "int8")
LOSSY = ("f16", "int8")
CODECS_OF_ZFP = ("zfp2", "zfp3", "zfp4")


def test_errors_of_cuts_are_those_of_chains_cut_there() -> None:
    data = diamond()
    graph = read_graph(data)
    sets = down_sets(graph).done[1:-1]
    found = measure_codecs(data, graph, load, sets, CODECS)
    assert set(found.errors) == {"f16", "int8"}
    assert set(found.errors["f16"]) == set(sets)
    for name, done in itertools.product(found.errors, sets):
        groups = [[s for p, s in enumerate(graph.steps) if bool(done >> p & 1) == side] for side in (True, False)]
        error = chain_error(data, graph, load, groups, [name, "raw"])
        assert error == pytest.approx(found.errors[name][done], rel=1e-6)
        assert 0 < error < {"f16": 1e-3, "int8": 1e-2}[name]
    assert found.ratios.keys() == {"lz4"}
    assert set(found.ratios["lz4"]) == {t for done in sets for t in crossing(graph, done)}


def test_branches_on_nodes_of_their_own_give_what_the_whole_gives() -> None:
    data, graph = _real("face-short-range")
    sets = down_sets(graph).done
    branch = next(done for done in sets if done & (done + 1))
    before = max((done for done in sets if done & ~branch == 0 and done != branch), key=int.bit_count)
    after = min((d for d in sets if branch & ~d == 0 and d & (d + 1) == 0 and d != branch), key=int.bit_count)
    bounds = (0, before, branch, after, sets[-1])
    groups = [[graph.steps[place] for place in bits(b & ~a)] for a, b in itertools.pairwise(bounds)]
    assert chain_error(data, graph, load, groups, ["raw"] * 4) == 0.0
    assert chain_error(data, graph, load, groups, ["lz4"] * 4) == 0.0
    inner = bounds[1:-1]
    measured = measure_codecs(data, graph, load, inner, CODECS)
    for name, rows in measured.errors.items():
        error = chain_error(data, graph, load, groups, [name] * 4)
        assert 0 < error <= 2 * sum(rows.values()), "the sum is an estimate"


def test_plans_with_branches_and_codecs_err_about_as_much_as_their_cuts() -> None:
    data, graph = _real("face-short-range")
    down = down_sets(graph)
    some = [*candidates(graph, down, 8), *[d for d in down.done if d & (d + 1)][::20]]
    measures = measure_codecs(data, graph, load, some, CODECS)
    options = PlanOptions(codecs=CODECS, goal=Goal(error_budget=0.1))
    states = states_of(down, codec_sets(graph, down, options, measures))
    possible = state_tables(graph, states, measures.ratios).possible.tolist()
    rng = random.Random(2)
    coded = branched = 0
    for _ in range(12):
        path = random_path(rng, states, possible)
        assert path is not None
        groups = [
            [graph.steps[place] for place in bits(states[j].done & ~states[i].done)]
            for i, j in itertools.pairwise(path)
        ]
        names = [states[j].codec for j in path[1:]]
        promised = sum(measures.errors[states[j].codec][states[j].done] for j in path if states[j].codec in LOSSY)
        assert chain_error(data, graph, load, groups, names) <= 2 * promised, "the sum is an estimate"
        coded += promised > 0
        branched += family_of([states[j] for j in path]) == DAG
    assert coded > 5
    assert branched > 5


def test_a_codec_that_changes_nothing_has_no_error() -> None:
    data = real_models()["wake-alexa"].path.read_bytes()
    graph = read_graph(data)
    assert graph.stateful
    done = down_sets(graph).done[1]
    found = measure_codecs(data, graph, load, [done], CODECS)
    assert found.errors == {}, "errors would depend on the frames before"
    assert found.ratios
    # All its tensors are int8, which the lossy codecs leave as they are.
    groups = [[s for p, s in enumerate(graph.steps) if bool(done >> p & 1) == side] for side in (True, False)]
    frames = [random_inputs(graph, seed) for seed in range(3)]
    assert chain_error(data, graph, load, groups, ["int8", "raw"], frames) == 0.0


def test_slow_codecs_are_left_out_where_quick_ones_do_as_well() -> None:
    data, graph = _real("face-short-range")
    sets = candidates(graph, down_sets(graph), 2)
    slow = [name for name in CODECS_OF_ZFP if name in available()]
    assert slow, "the zfp extra is installed for the tests"
    found = measure_codecs(data, graph, load, sets, [*slow, "lz4s", "zstd"])
    assert found.ratios.keys() == {*slow, "lz4s", "zstd"}
    assert {name: set(rows) for name, rows in found.errors.items()} == {name: set(sets) for name in slow}
    assert all(0 < error < 0.1 for rows in found.errors.values() for error in rows.values())
    both = measure_codecs(data, graph, load, sets, [*slow, "int8", "int16"])
    assert both.errors["int8"].keys() == both.errors["int16"].keys() == set(sets)
    for done in sets:
        tensors = [graph.tensors[t] for t in crossing(graph, done)]
        for name in slow:
            size = sum(both.ratios[name][t.index] * t.nbytes for t in tensors)
            quick = [q for q in ("int8", "int16") if worst_error(q) <= worst_error(name)]
            useful = all(size < sum(packed_size(q, "float32", t.shape) or 0 for t in tensors) for q in quick)
            assert (done in both.errors[name]) == useful


def test_what_does_not_fit_into_the_time_is_left_out() -> None:
    data = chain(8)
    graph = read_graph(data)
    sets = [(1 << k) - 1 for k in range(1, 8)]
    ticks = itertools.count()
    found = measure_codecs(data, graph, load, sets, ["f16"], seconds=3.5, clock=lambda: float(next(ticks)))
    assert list(found.errors["f16"]) == [sets[0], sets[4], sets[2]], "spread over the model"
    assert found.ratios == {}
    nothing = measure_codecs(data, graph, load, [], ["f16"])
    assert nothing == CodecMeasures()


def test_more_frames_are_looked_at_when_every_place_was(monkeypatch: pytest.MonkeyPatch) -> None:
    data = diamond()
    graph = read_graph(data)
    sets = down_sets(graph).done[1:-1]
    frames = [random_inputs(graph, seed) for seed in range(4)]

    def measured(samples: list[dict[int, Array]], places: float = math.inf) -> dict[int, float]:
        ticks = itertools.count()
        found = measure_codecs(
            data, graph, load, sets, ["int8"], samples=samples, seconds=places, clock=lambda: float(next(ticks))
        )
        return dict(found.errors["int8"])

    first, rest = measured(frames[:2]), measured(frames[2:])
    assert measured(frames) == {done: max(first[done], rest[done]) for done in sets}
    assert measured(frames, 0.5 + 2 * len(sets)) == first, (
        "quick ones and slow ones at every place: then time is up"
    )
    assert first != measured(frames)


def test_given_samples_are_used() -> None:
    data = diamond()
    graph = read_graph(data)
    zeros = {0: np.zeros((1, 4), np.float32)}
    sets = [0b1]
    # tanh(0) = 0 is a constant tensor, of which no codec loses anything.
    assert measure_codecs(data, graph, load, sets, ["int8"], samples=[zeros]).errors == {"int8": {0b1: 0.0}}
    assert measure_codecs(data, graph, load, sets, ["int8"]).errors["int8"][0b1] > 0
    assert chain_error(data, graph, load, groups_at(graph, [1]), ["int8", "raw"], [zeros]) == 0.0


@pytest.mark.parametrize(
    ("expected", "found", "error"),
    [
        ([1.0, -2.0], [1.0, -2.0], 0.0),
        ([1.0, -2.0], [1.5, -2.0], 0.25),
        ([np.nan, np.inf, 4.0], [np.nan, np.inf, 3.0], 0.25),
        ([np.nan, 4.0], [1.0, 4.0], math.inf),
        ([np.inf, 4.0], [1.0, 4.0], math.inf),
        ([0.0], [1e-9], math.inf),
        ([0.0], [-0.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_relative(expected: list[float], found: list[float], error: float) -> None:
    assert relative(np.array(expected, np.float32), np.array(found, np.float32)) == error


def test_relative_of_other_kinds() -> None:
    one = np.array([1, 200], np.uint8)
    assert relative(one, np.array([1, 100], np.uint8)) == 0.5
    assert relative(one, one.astype(np.int16)) == math.inf
    assert relative(one, one.reshape(2, 1)) == math.inf
    assert relative(np.array([1 + 1j]), np.array([1 - 1j])) == pytest.approx(math.sqrt(2))
    words = np.array([b"a"], object)
    assert relative(words, words.copy()) == 0.0
    assert relative(words, np.array([b"b"], object)) == math.inf


def test_through_keeps_what_is_not_float32() -> None:
    for dtype in (np.int32, np.int8, object):
        array = np.array([1, 2, 3]).astype(dtype)
        assert through("int8", array).tolist() == [1, 2, 3]


def test_measures_are_written_and_read() -> None:
    measures = CodecMeasures({"lz4": {3: 0.5}}, {"f16": {1 << 400: 1e-4}, "int8": {5: math.inf}})
    found = from_plain(json.loads(json.dumps(to_plain(measures), allow_nan=False)))
    assert found == CodecMeasures({"lz4": {3: 0.5}}, {"f16": {1 << 400: 1e-4}, "int8": {}})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (None, "expected an object with errors, ratios"),
        ({"ratios": {}}, "expected an object with errors, ratios"),
        ({"ratios": [], "errors": {}}, "ratios: expected an object"),
        ({"ratios": {"lz4": {"1": -1}}, "errors": {}}, "ratios lz4 1: expected a number, at least 0, got -1"),
        ({"ratios": {"zip": {}}, "errors": {}}, "ratios: expected an object, codec"),
        ({"ratios": {"lz4": []}, "errors": {}}, "ratios lz4: expected an object"),
        ({"ratios": {"lz4": {"x": 1}}, "errors": {}}, "invalid literal"),
        ({"ratios": {}, "errors": {"zip": {}}}, "errors: expected an object, lossy codec"),
        ({"ratios": {}, "errors": {"int8": {"1": True}}}, "errors int8 1: expected a number"),
    ],
)
def test_damaged_measures_are_refused(body: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        from_plain(body)


def test_candidates_are_spread_and_have_the_fewest_bytes() -> None:
    _, graph = _real("face-short-range")
    down = down_sets(graph)
    found = candidates(graph, down, 10)
    assert len(found) <= 10
    assert set(found) <= set(down.done[1:-1])
    every = -(-len(down.done[1:-1]) // 10)
    for number, done in enumerate(found):
        stretch = down.done[1:-1][number * every : (number + 1) * every]
        sizes = [sum(graph.tensors[t].nbytes for t in crossing(graph, one)) for one in stretch]
        assert sizes[stretch.index(done)] == min(sizes)


def _real(name: str) -> tuple[Bytes, Graph]:
    data = real_models()[name].path.read_bytes()
    return data, read_graph(data)
