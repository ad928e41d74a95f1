"""States of plans: down-sets, their families, and the costs of arcs between them, against the definitions."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.models import real_models
from converters.codec_errors import CodecMeasures
from converters.dataflow import Variable
from converters.graph import read_graph
from converters.memory import slice_memory
from converters.slicing import legal_positions, parts
from coordinator.planner.cost import build_costs
from coordinator.planner.make import make_plan
from coordinator.planner.model import Fleet, NodeSpec, Overheads, PlanOptions
from coordinator.planner.problem import State
from coordinator.planner.tables.codec_costs import COSTS, changes, codec_sets, crossing, packed_bytes
from coordinator.planner.tables.memory import memory_by_runtime, segment_memory, state_memory
from coordinator.planner.tables.segments import FRAME_BYTES, wire_bytes
from coordinator.planner.tables.state_tables import prefix_tables, state_tables
from coordinator.planner.tables.states import DAG, PREFIXES, bits, down_sets, family_of, states_of
from slicemq.errors import InsufficientCapacityError, PlanError
from tests.planner.branching import branching_graph, is_down_set, parallel, random_path, skipping, stage
from tests.planner.instances import random_fleet, random_graph, random_profile, weights_memory

EVERY = 10**6
CODECS = ("raw", "lz4", "f16", "int8")


@pytest.mark.parametrize(
    ("lengths", "count"),
    # Between fork and join each branch is done up to some step; besides there are nothing, and everything.
    [([3], 3 + 3), ([1, 1], 4 + 2), ([2, 3], 12 + 2), ([1, 2, 3, 2], 72 + 2), ([1] * 6, 64 + 2)],
)
def test_down_sets_of_parallel_branches(lengths: list[int], count: int) -> None:
    found = down_sets(parallel(lengths), EVERY)
    assert len(found.done) == count
    assert found.whole
    assert found.branches == (len(lengths) > 1)


def test_down_sets_are_all_that_there_are() -> None:
    branched = 0
    for seed in range(60):
        rng = random.Random(seed)
        graph = branching_graph(rng, rng.randint(1, 9))
        found = down_sets(graph, EVERY)
        expected = {done for done in range(1 << len(graph.steps)) if is_down_set(graph, done)}
        assert set(found.done) == expected
        assert found.whole
        assert list(found.done) == sorted(found.done, key=lambda done: (done.bit_count(), done))
        branched += found.branches
    assert branched > 40


def test_what_cannot_travel_crosses_at_no_state() -> None:
    refused = 0
    for seed in range(30):
        rng = random.Random(seed)
        graph = branching_graph(rng, 8)
        stuck = graph.operators[rng.randrange(7)].outputs[0]
        tensors = tuple(replace(t, dtype="resource") if t.index == stuck else t for t in graph.tensors)
        whole, graph = down_sets(graph, EVERY), replace(graph, tensors=tensors)
        found = down_sets(graph, EVERY)
        assert set(found.done) == {done for done in whole.done if stuck not in crossing(graph, done)}
        refused += len(whole.done) - len(found.done)
    assert refused > 30


def test_beyond_the_cap_there_are_prefixes_and_whole_branches() -> None:
    graph = parallel([10, 10, 10])
    found = down_sets(graph, 60)
    assert not found.whole
    assert found.branches
    prefixes = {0, *((1 << p) - 1 for p in legal_positions(graph)), (1 << 32) - 1}
    first, second, third = (((1 << 10) - 1) << 1 + 10 * k for k in range(3))
    whole = {1 | sum(some) for k in range(4) for some in itertools.combinations((first, second, third), k)}
    assert set(found.done) == prefixes | whole
    assert len(down_sets(graph, 3000).done) == 11**3 + 2
    assert down_sets(parallel([1] * 40), 60).done == down_sets(parallel([1] * 40), 10).done, "2^40: prefixes only"
    assert not down_sets(parallel([1] * 40), 60).branches


def test_a_model_that_keeps_state_is_cut_at_prefixes() -> None:
    graph = replace(parallel([2, 2]), variables=(Variable("v", (1, 2)),))
    found = down_sets(graph, EVERY)
    assert not found.branches
    assert not found.whole
    assert states_of(found) == ()
    assert (1 << 2) - 1 not in found.done, "both users of the variable are in one slice"


def test_families() -> None:
    chain, branches = down_sets(parallel([4])), down_sets(parallel([2, 2]))
    assert states_of(chain) == ()
    coded = states_of(chain, {"f16": chain.done[:3]})
    assert [state.codec for state in coded] == ["raw", *("raw", "f16") * 2, *["raw"] * 4]
    assert family_of(()) == family_of(coded) == PREFIXES
    assert family_of(states_of(branches)) == DAG


def test_tables_of_raw_prefixes_are_those_of_segments() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        graph = random_graph(rng, rng.randint(1, 12))
        n = len(graph.steps)
        expected = prefix_tables(graph)
        found = state_tables(graph, [State((1 << k) - 1) for k in range(n + 1)])
        assert (found.possible == expected.possible).all()
        arcs = expected.possible
        for name in ("bytes_in", "bytes_out", "results", "codec_seconds"):
            assert (getattr(found, name)[arcs] == getattr(expected, name)[arcs]).all(), name
        values = np.array([rng.random() for _ in range(n)])
        places = [p for p in range(n) if rng.random() < 0.3]
        assert np.allclose(found.total(values), expected.total(values))
        assert (found.any_of(places) == expected.any_of(places))[arcs].all()


def test_tables_equal_the_definitions() -> None:
    arcs = refused = 0
    for seed in range(25):
        rng = random.Random(seed)
        graph = branching_graph(rng, rng.randint(2, 7), integers=0.3)
        ratios = {"lz4": {t.index: rng.uniform(0.2, 1.0) for t in graph.tensors if rng.random() < 0.6}}
        down = down_sets(graph, EVERY)
        inner = {codec: [done for done in down.done if rng.random() < 0.4] for codec in CODECS[1:]}
        states = states_of(down, inner) or tuple(State(done) for done in down.done)
        found = state_tables(graph, states, ratios)
        for (i, a), (j, b) in itertools.permutations(enumerate(states), 2):
            taken, given, results = stage(graph, a.done, b.done)
            proper = a.done != b.done and a.done & ~b.done == 0
            kept = all(
                a.codec == b.codec or not (changes(graph.tensors[t], a.codec) or changes(graph.tensors[t], b.codec))
                for t in skipping(graph, a.done, b.done)
            )
            assert found.possible[i, j] == (proper and kept and bool(taken))
            refused += proper and not kept
            if not found.possible[i, j]:
                continue
            arcs += 1
            tensor = graph.tensors.__getitem__
            mine = {t: "raw" if t in graph.inputs else a.codec for t in taken}
            into = FRAME_BYTES + sum(packed_bytes(tensor(t), codec, ratios) for t, codec in mine.items())
            answer = sum(wire_bytes(tensor(t)) for t in results) + FRAME_BYTES * bool(results)
            out = sum(packed_bytes(tensor(t), b.codec, ratios) for t in given) + FRAME_BYTES * bool(given)
            assert found.bytes_in[i, j] == into
            assert found.results[i, j] == answer
            assert found.bytes_out[i, j] == out + answer
            spent = sum(COSTS[b.codec].encode * tensor(t).nbytes for t in given if changes(tensor(t), b.codec))
            spent += sum(COSTS[c].decode * tensor(t).nbytes for t, c in mine.items() if changes(tensor(t), c))
            assert found.codec_seconds[i, j] == pytest.approx(spent, rel=1e-9, abs=1e-18)
    assert arcs > 2000
    assert refused > 200


def test_along_a_plan_each_tensor_has_one_codec() -> None:
    """The bytes of arcs, which know two states each, are those of a plan in which the maker chose the codec."""
    plans = with_codecs = 0
    for seed in range(60):
        rng = random.Random(seed)
        graph = branching_graph(rng, rng.randint(4, 9), integers=0.2)
        down = down_sets(graph, EVERY)
        states = states_of(down, dict.fromkeys(CODECS[1:], down.done))
        if not states:
            continue
        found = state_tables(graph, states)
        for _ in range(10):
            path = random_path(rng, states, found.possible.tolist())
            if path is None:
                continue
            sent: dict[int, str] = {}
            for i, j in itertools.pairwise(path):
                taken, given, _ = stage(graph, states[i].done, states[j].done)
                into = FRAME_BYTES + sum(packed_bytes(graph.tensors[t], sent.get(t, "raw")) for t in taken)
                assert found.bytes_in[i, j] == into
                sent.update(dict.fromkeys(given, states[j].codec))
            plans += 1
            with_codecs += len({states[k].codec for k in path}) > 1
    assert plans > 200
    assert with_codecs > 100


def test_arcs_are_sound_groups_of_operators() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        graph = branching_graph(rng, rng.randint(2, 9))
        down = down_sets(graph, EVERY)
        states = tuple(State(done) for done in down.done)
        path = random_path(rng, states, state_tables(graph, states).possible.tolist())
        assert path is not None, "without codecs every state is on the way"
        groups = [
            [graph.steps[place] for place in bits(states[j].done & ~states[i].done)]
            for i, j in itertools.pairwise(path)
        ]
        assert len(parts(graph, groups)) == len(path) - 1


def test_memory_of_arcs() -> None:
    graph = branching_graph(random.Random(3), 7)
    states = tuple(State(done) for done in down_sets(graph, EVERY).done)
    states = (*states[:2], replace(states[2], codec="f16"), *states[2:])
    by_call = state_memory(graph, states, lambda g, group: slice_memory(g, group))
    assert (by_call > 0).any()
    assert (state_memory(graph, states) == by_call).all()
    nodes = [NodeSpec("a", 1, {}, 1.0, 1.0, runtime="tflite_runtime"), NodeSpec("b", 1, {}, 1.0, 1.0)]
    tables = memory_by_runtime(graph, nodes, states=states)
    assert (tables[""] == np.maximum(by_call, tables["tflite_runtime"])).all()


def test_costs_of_states() -> None:
    rng = random.Random(11)
    graph = parallel([2, 2])
    down = down_sets(graph, EVERY)
    branch = next(done for done in down.done if done.bit_count() == 3)
    measures = CodecMeasures({}, {"int8": {branch: 0.01, 1: 0.5}})
    states = states_of(down, {"int8": (branch, 1)})
    old, new = random_fleet(rng, 1, 10**9).nodes[0], random_fleet(rng, 1, 10**9).nodes[0]
    fleet = Fleet((replace(old, id="old"), replace(new, id="new", codecs=("raw", "int8"))))
    memory = {"": state_memory(graph, states, weights_memory)}
    profile = random_profile(rng, graph)
    costs = build_costs(graph, profile, fleet, memory, PlanOptions(pins={"1-2": "old"}), None, states, measures)
    assert costs.n == len(states) - 1
    assert costs.states == states
    assert costs.max_slices == 2
    assert costs.errors is not None
    known = {("int8", branch): 0.01, ("int8", 1): 0.5}
    assert costs.errors.tolist() == [known.get((state.codec, state.done), 0.0) for state in states]
    arcs, counted = state_tables(graph, states), Overheads()
    for kind in costs.types:
        for i, j in np.argwhere(arcs.possible):
            coded = "int8" in (states[i].codec, states[j].codec)
            pinned = not {1, 2}.isdisjoint(costs.steps_of(i, j))
            runs = (kind.ids[0] == "old" or not pinned) and (kind.ids[0] == "new" or not coded)
            assert np.isfinite(kind.period[i, j]) == runs
            spent = sum(kind.steps[place] for place in costs.steps_of(i, j))
            moved = 2 * counted.message
            moved += counted.receive_per_byte * arcs.bytes_in[i, j] + counted.send_per_byte * arcs.bytes_out[i, j]
            spent += (profile.overhead + moved + arcs.codec_seconds[i, j]) / kind.spec.mean_speed
            assert kind.compute[i, j] == pytest.approx(spent)
        assert not np.isfinite(kind.period[~arcs.possible]).any()
        assert kind.whole


def test_labels_that_nodes_must_have() -> None:
    graph = parallel([2])
    base = random_fleet(random.Random(0), 1, 10**9).nodes[0]
    fleet = Fleet(tuple(replace(base, id=name, labels={"room": name[0]}) for name in ("a1", "a2", "b1")))
    profile, memory = random_profile(random.Random(0), graph), segment_memory(graph, weights_memory)

    def used(options: PlanOptions) -> set[str]:
        return {node for kind in build_costs(graph, profile, fleet, memory, options).types for node in kind.ids}

    assert used(PlanOptions(require={"room": "a"})) == {"a1", "a2"}
    assert used(PlanOptions(require={"room": "a"}, exclude=frozenset({"a1"}))) == {"a2"}
    for options, names in (
        (PlanOptions(require={"room": "c"}), "require room=c: no node has this label"),
        (PlanOptions(require={"floor": "a"}), "require floor=a: no node has this label"),
        (PlanOptions(require={"room": "a"}, pins={"s0": "b1"}), "pin to node b1: it lacks a label"),
    ):
        with pytest.raises(PlanError, match=names):
            build_costs(graph, profile, fleet, memory, options)
    small = replace(base, id="c1", labels={"room": "c"}, memory=1)
    with pytest.raises(InsufficientCapacityError, match=r"1 node has .* Left out: a1 \(without room=c, .*, b1 \("):
        make_plan(
            graph,
            profile,
            Fleet((*fleet.nodes, small)),
            memory=weights_memory,
            options=PlanOptions(require={"room": "c"}),
        )


def test_codecs_are_used_where_they_were_measured_and_save() -> None:
    graph = parallel([3])
    down = down_sets(graph)
    measures = CodecMeasures({"lz4": {t.index: 0.5 for t in graph.tensors}}, {"f16": {1: 0.001, 3: 0.2}})
    options = PlanOptions(codecs=CODECS)
    assert codec_sets(graph, down, options, None) == {}
    assert codec_sets(graph, down, PlanOptions(), measures) == {}
    lossless = codec_sets(graph, down, options, measures)
    assert set(lossless) == {"lz4"}
    assert lossless["lz4"] == down.done[1:-1]
    allowed = replace(options, goal=replace(options.goal, error_budget=0.01))
    assert codec_sets(graph, down, allowed, measures)["f16"] == (1,)
    nothing = CodecMeasures({}, measures.errors)
    assert set(codec_sets(graph, down, allowed, nothing)) == {"f16"}, "lz4 was not measured"
    whole = replace(graph, tensors=tuple(replace(t, dtype="int8") for t in graph.tensors))
    assert set(codec_sets(whole, down, allowed, measures)) == {"lz4"}, "f16 leaves int8 as it is"


def test_a_real_model_has_branches() -> None:
    graph = read_graph(real_models()["face-back"].path.read_bytes())
    found = down_sets(graph)
    assert found.branches
    assert found.whole
    assert len(found.done) > len(graph.steps) + 1
    states = states_of(found)
    beside = [
        (i, j)
        for i, j in np.argwhere(state_tables(graph, states).possible)
        if family_of([states[j]]) == DAG and (states[j].done & ~states[i].done).bit_count() > 1
    ]
    assert beside
