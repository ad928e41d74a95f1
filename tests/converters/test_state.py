"""State: all users of a variable share a slice, its initialisation goes with them, and frames follow each other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.graph import Graph, read_graph
from converters.runtime import random_inputs
from converters.slicing import groups_at, legal_positions, parts, slice_model
from converters.verify import link, verify_chain
from slicemq.errors import CutError, ModelError
from tests.converters import flows
from tests.converters.chains import run_chains
from tests.converters.machine import load
from tests.converters.tiny import Tiny
from tests.runtimes import EACH_RUNTIME


def _names(graph: Graph) -> list[str]:
    return [graph.operators[i].name for i in graph.steps]


def _held(data: bytes) -> set[str]:
    """The variables that the initialisation of a slice's file writes."""
    graph = read_graph(data)
    return {v for subgraph in graph.subgraphs.values() for op in subgraph.operators for v in op.state_written}


def test_users_of_a_variable_belong_together() -> None:
    graph = read_graph(flows.streams())
    assert graph.stateful
    assert [variable.name for variable in graph.variables] == ["variable 'a'", "variable 'b'", "variable 'c'"]
    assert _names(graph) == ["TANH", "READ_VARIABLE", "ADD", "ASSIGN_VARIABLE"] * 3 + ["TANH"]
    assert [tuple(graph.place[i] for i in steps) for steps in graph.together] == [
        tuple(graph.place[i] for i in variable.steps) for variable in graph.variables
    ]
    # Not between READ_VARIABLE and ASSIGN_VARIABLE, whose handles are no tensors that cross.
    assert legal_positions(graph) == (1, 4, 5, 8, 9, 12)
    assert graph.stateful_steps == {step for variable in graph.variables for step in variable.steps}


def test_a_variable_in_two_slices_is_refused_by_name() -> None:
    graph = read_graph(flows.streams())
    with pytest.raises(CutError, match=r"variable 'b' keeps its value between frames and is used in groups 0, 1"):
        parts(graph, groups_at(graph, [7]))


def test_each_slice_initialises_its_own_variables_only() -> None:
    data = flows.streams()
    graph = read_graph(data)
    pieces = slice_model(data, graph, groups_at(graph, [4, 8]))
    assert [_held(piece.data) for piece in pieces] == [{"variable 'a'"}, {"variable 'b'"}, {"variable 'c'"}]
    assert all(len(piece.data) < len(data) for piece in pieces)
    # A slice without a variable has no other subgraph at all.
    last = slice_model(data, graph, groups_at(graph, [12]))[1]
    assert not read_graph(last.data).subgraphs


def test_reads_and_writes_move_next_to_each_other_in_their_own_order() -> None:
    """All variables read first and written last: in the file's order no cut would be possible."""
    graph = read_graph(flows.streams(shuffled=True))
    assert _names(graph) == ["TANH", "READ_VARIABLE", "ADD", "ASSIGN_VARIABLE"] * 3 + ["TANH"]
    assert graph.steps != tuple(sorted(graph.steps))
    assert graph.is_sorted
    assert legal_positions(graph) == (1, 4, 5, 8, 9, 12)


def test_what_only_the_next_frame_reads_is_alive() -> None:
    data = flows.counter_behind()
    graph = read_graph(data)
    assert _names(graph).count("ASSIGN_VARIABLE") == 1  # that of `unused` is dead
    assert [variable.name for variable in graph.variables] == ["variable 'v'"]
    (piece,) = slice_model(data, graph, [graph.steps])
    assert _held(piece.data) == {"variable 'v'"}
    interpreter = load(piece.data)
    made = []
    for _ in range(3):
        interpreter.set_input(0, np.zeros((1, 4), np.float32))
        interpreter.invoke()
        made.append(float(interpreter.output(0)[0, 0]))
    assert np.allclose(made, np.tanh([0, 1, 2]))


def test_variables_that_nothing_writes_are_constants_of_each_slice() -> None:
    data = flows.frozen_variables()
    graph = read_graph(data)
    assert not graph.stateful
    assert _names(graph) == ["BATCH_MATMUL"] * 3
    assert legal_positions(graph) == (1, 2)
    pieces = slice_model(data, graph, groups_at(graph, [1, 2]))
    assert [_held(piece.data) for piece in pieces] == [
        {"variable 'weights'"},
        {"variable 'weights'"},
        {"variable 'others'"},
    ]


def test_variable_tensors() -> None:
    graph = read_graph(flows.lstm())
    assert _names(graph) == ["UNIDIRECTIONAL_SEQUENCE_LSTM", "TANH"] * 2
    assert [variable.steps for variable in graph.variables] == [(0,), (0,), (2,), (2,)]
    assert graph.together == ()
    assert legal_positions(graph) == (1, 2, 3)
    shared = read_graph(flows.shared_state())
    assert shared.together == ((0, 2),)
    assert legal_positions(shared) == (3,)
    with pytest.raises(CutError, match=r"variable tensor 1 \(t1\) keeps its value"):
        parts(shared, groups_at(shared, [1]))


def test_state_inside_a_branch() -> None:
    graph = read_graph(flows.stateful_branch())
    (variable,) = graph.variables
    assert [graph.operators[i].name for i in variable.steps] == ["IF", "READ_VARIABLE"]
    assert legal_positions(graph) == (1, 2, 3)


def test_a_handle_that_is_an_argument_of_a_loop() -> None:
    """The body writes a variable whose handle only its caller makes."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    handle = tiny.handle("v", container="room")
    tiny.assign(handle, tiny.op("TANH", [x]))
    number, body = tiny.subgraph("body")
    given = body.input((), "RESOURCE")
    body.assign(given, body.constant(np.ones((1, 4), np.float32)))
    tiny.op("CALL", [handle], outputs=[], options=schema.CallOptionsT(subgraph=number))
    graph = read_graph(tiny.build([tiny.op("RELU", [tiny.read(handle)])]))
    assert [v.name for v in graph.variables] == ["variable 'v' in container 'room'"]
    assert [graph.operators[i].name for i in graph.variables[0].steps] == [
        "ASSIGN_VARIABLE",
        "CALL",
        "READ_VARIABLE",
    ]


def test_hash_tables_that_are_filled_once_are_copied() -> None:
    graph = read_graph(flows.lookup())
    assert not graph.stateful
    assert _names(graph) == ["TANH", "ARG_MAX", "HASHTABLE_FIND", "HASHTABLE_FIND", "TANH"]
    # The words between the two tables are strings, which cannot travel.
    assert legal_positions(graph) == (1, 2, 4)
    with pytest.raises(CutError, match=r"\(word\) would cross a cut, and string cannot travel"):
        parts(graph, groups_at(graph, [3]))
    data = flows.lookup()
    first = slice_model(data, graph, groups_at(graph, [2]))[1]
    assert _held(first.data) == {"hash table 1", "hash table 2"}


def test_a_table_that_is_filled_by_frames_is_state() -> None:
    tiny = Tiny()
    key = tiny.input((1,), "INT64")
    options = schema.HashtableOptionsT(tableId=3, keyDtype=4, valueDtype=4)
    table = tiny.op("HASHTABLE", [], (1,), dtype="RESOURCE", options=options)
    tiny.op("HASHTABLE_IMPORT", [table, key, key], outputs=[])
    found = tiny.op("HASHTABLE_FIND", [table, key, key], (1,), dtype="INT64")
    graph = read_graph(tiny.build([found]))
    assert [variable.name for variable in graph.variables] == ["hash table 3"]
    assert len(graph.together) == 1


def test_state_that_does_not_hold_together_is_refused() -> None:
    tiny = Tiny()
    tiny.tensors.append(
        schema.TensorT(shape=np.array([1], np.int32), name="v", isVariable=True, buffer=tiny.buffer(bytes(4)))
    )
    with pytest.raises(ModelError, match=r"tensor 0 \(v\): a variable tensor with data of its own"):
        read_graph(tiny.build([0]))
    tiny = Tiny()
    tiny.op("VAR_HANDLE", [], (), dtype="RESOURCE")
    with pytest.raises(ModelError, match=r"operator 0 \(VAR_HANDLE\): its options are missing"):
        read_graph(tiny.build([tiny.op("READ_VARIABLE", [0])]))


def test_a_difference_in_a_later_frame_is_found_where_it_arises() -> None:
    """The whole's initial value of `b` is changed: the tracer must go through all frames to say where."""
    data = flows.streams()
    graph = read_graph(data)
    pieces = slice_model(data, graph, groups_at(graph, [4, 8]))
    other = flows.streams(("a", "b", "c")).replace(
        np.full(4, 2 / 8, np.float32).tobytes(), np.full(4, 3 / 8, np.float32).tobytes()
    )
    assert other != data
    frames = [(f"frame {i}", random_inputs(graph, i)) for i in range(3)]
    same = verify_chain(data, graph, [link(piece) for piece in pieces], load, frames)
    assert (same.frames, same.equal) == (3, True)
    report = verify_chain(other, read_graph(other), [link(piece) for piece in pieces], load, frames)
    assert [difference.slice for difference in report.differences] == ["s1", "s1", "s1"]


_STATEFUL = {
    "streams": flows.streams(),
    "shuffled": flows.streams(shuffled=True),
    "counter": flows.counter_behind(),
    "frozen": flows.frozen_variables(),
    "lstm": flows.lstm(),
    "shared": flows.shared_state(),
    "branch": flows.stateful_branch(),
    "lookup": flows.lookup(),
}


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_slices_keep_state_as_the_whole_does(runtime: str) -> None:
    for name, outcome in zip(_STATEFUL, run_chains(runtime, list(_STATEFUL.values()), frames=8), strict=True):
        assert (outcome.error, outcome.differences) == ("", ()), name
        assert outcome.chains >= 2, name


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_real_streaming_models(runtime: str) -> None:
    """The wake words of pymicro-wakeword: bit-equal over 50 consecutive frames, state intact."""
    package = importlib.util.find_spec("pymicro_wakeword")
    if package is None or package.origin is None:
        pytest.skip("the package pymicro-wakeword is not installed (make models)")
    paths = sorted((Path(package.origin).parent / "models").glob("*.tflite"))
    assert paths
    outcomes = run_chains(runtime, [path.read_bytes() for path in paths], frames=50, most=9)
    for path, outcome in zip(paths, outcomes, strict=True):
        assert (outcome.error, outcome.differences) == ("", ()), path.name
        assert len(outcome.legal) >= 15, path.name
        assert outcome.chains == 10, path.name
