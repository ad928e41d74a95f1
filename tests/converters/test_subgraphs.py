"""Operators that call subgraphs: these come along whole and renumbered, shared ones once, damaged ones never."""

from __future__ import annotations

from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.graph import read_graph
from converters.slicing import groups_at, legal_positions, slice_model
from slicemq.errors import ModelError
from tests.converters import flows
from tests.converters.chains import run_chains
from tests.converters.tiny import Tiny
from tests.runtimes import EACH_RUNTIME


def test_called_subgraphs_come_along_renumbered() -> None:
    data = flows.loop(before="static")
    graph = read_graph(data)
    (step,) = [op for op in graph.operators if op.name == "WHILE"]
    assert step.subgraphs == (2, 3)
    assert set(graph.subgraphs) == {2, 3}  # nothing calls subgraph 1
    assert legal_positions(graph) == (1, 2)
    first, middle, last = (read_graph(piece.data) for piece in slice_model(data, graph, groups_at(graph, [1, 2])))
    assert not first.subgraphs
    assert not last.subgraphs
    assert [(s.name, len(s.operators)) for s in middle.subgraphs.values()] == [("cond", 1), ("body", 2)]
    assert [op.subgraphs for op in middle.operators] == [(1, 2)]
    for index in (1, 2):
        kept, old = middle.subgraphs[index], graph.subgraphs[index + 1]
        assert [t.name for t in kept.tensors] == [t.name for t in old.tensors]
        assert [(op.name, op.inputs, op.outputs) for op in kept.operators] == [
            (op.name, op.inputs, op.outputs) for op in old.operators
        ]


def test_shared_and_nested_subgraphs_are_written_once() -> None:
    data = flows.branches("nested")
    graph = read_graph(data)
    calls = [op.subgraphs for op in graph.operators if op.name == "IF"]
    assert calls == [(1, 2, 3), (1, 2, 3)]
    (whole,) = slice_model(data, graph, [graph.steps])
    assert len(read_graph(whole.data).subgraphs) == 3
    pieces = slice_model(data, graph, groups_at(graph, [4]))
    assert [len(read_graph(piece.data).subgraphs) for piece in pieces] == [3, 3]


def test_weights_and_work_of_called_subgraphs_count_for_the_caller() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    number, body = tiny.subgraph("body")
    shared = body.buffer(np.zeros((4, 4), np.float32).tobytes())
    first, second = (body.tensor((4, 4), buffer=shared) for _ in range(2))
    value = body.input((1, 4))
    body.outputs = [body.dense(body.dense(value, first), second)]
    weights = tiny.tensor((4, 4), buffer=shared)
    y = tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=number))
    graph = read_graph(tiny.build([tiny.dense(y, weights)]))
    assert [(op.macs, op.weight_bytes) for op in graph.operators] == [(32, 64), (16, 64)]
    data = tiny.build([graph.outputs[0]])
    (piece,) = slice_model(data, graph, [graph.steps])
    assert piece.data.count(np.zeros((4, 4), np.float32).tobytes()) == 1


def test_every_table_of_options_with_a_subgraph_is_known() -> None:
    """Each one that the installed schema has; `called` finds them by the names of their fields."""
    options: list[Any] = [
        schema.CallOptionsT(subgraph=1),
        schema.IfOptionsT(thenSubgraphIndex=1, elseSubgraphIndex=2),
        schema.WhileOptionsT(condSubgraphIndex=1, bodySubgraphIndex=2),
        schema.CallOnceOptionsT(initSubgraphIndex=1),
        schema.StablehloReduceOptionsT(bodySubgraphIndex=1),
        schema.StablehloReduceWindowOptionsT(bodySubgraphIndex=1),
        schema.StablehloSortOptionsT(comparatorSubgraphIndex=1),
        schema.StablehloScatterOptionsT(updateComputationSubgraphIndex=1),
        schema.StablehloWhileOptionsT(condSubgraphIndex=1, bodySubgraphIndex=2),
        schema.StableHLOCompositeOptionsT(name="c", decompositionSubgraphIndex=2),
        schema.StablehloCaseOptionsT(branchSubgraphIndices=[2, 1]),
    ]
    fields = {
        f"{name}.{field}"
        for name, table in vars(schema).items()
        if name.endswith("OptionsT")
        for field in vars(table())
        if "subgraph" in field.lower()
    }
    assert fields == {
        f"{type(one).__name__}.{field}" for one in options for field in vars(one) if "subgraph" in field.lower()
    }
    for one in options:
        tiny = Tiny()
        x = tiny.input((1, 4))
        for _ in range(3):
            _, other = tiny.subgraph("other")
            other.outputs = [other.op("TANH", [other.input((1, 4))])]
        wanted = tuple(
            sorted({int(i) for f, v in vars(one).items() if "subgraph" in f.lower() for i in np.ravel(v)})
        )
        y = tiny.op("TANH", [tiny.op("CUSTOM_CALLER", [x], options=one)])
        graph = read_graph(tiny.build([y]))
        assert graph.operators[0].subgraphs == wanted, one
        piece = slice_model(tiny.build([y]), graph, [graph.steps])[0]
        again = read_graph(piece.data)
        assert again.operators[0].subgraphs == tuple(range(1, len(wanted) + 1)), one
        assert len(again.subgraphs) == len(wanted), one


def _refuse(tiny: Tiny, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_graph(tiny.build([0]))


def test_refuses_calls_that_do_not_hold_together() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=7))
    _refuse(tiny, r"operator 0 \(CALL\) calls subgraph 7, the model has 1")
    tiny = Tiny()
    tiny.op("STABLEHLO_COMPOSITE", [tiny.input((1, 4))], options=schema.StableHLOCompositeOptionsT())
    _refuse(tiny, "subgraph 0 calls itself")
    tiny = Tiny()
    tiny.op("WHILE", [tiny.input((1, 4))])
    _refuse(tiny, r"operator 0 \(WHILE\): its options are missing, expected the subgraph that it calls")
    tiny = Tiny()
    x = tiny.input((1, 4))
    first, one = tiny.subgraph("one")
    second, two = tiny.subgraph("two")
    one.outputs = [one.op("CALL", [one.input((1, 4))], options=schema.CallOptionsT(subgraph=second))]
    two.outputs = [two.op("CALL", [two.input((1, 4))], options=schema.CallOptionsT(subgraph=first))]
    tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=first))
    _refuse(tiny, "subgraph 1 calls itself: a runtime would never end")


def test_refuses_deep_and_endless_nesting() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4))
    tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=1))
    for i in range(1, 100):
        _, sub = tiny.subgraph(f"s{i}")
        given = sub.input((1, 4))
        if i < 99:
            given = sub.op("CALL", [given], options=schema.CallOptionsT(subgraph=i + 1))
        sub.outputs = [given]
    _refuse(tiny, "more than 64 deep")


def test_called_subgraphs_are_checked_as_strictly() -> None:
    def called() -> tuple[Tiny, Tiny]:
        tiny = Tiny()
        x = tiny.input((1, 4))
        number, sub = tiny.subgraph("sub")
        tiny.op("CALL", [x], options=schema.CallOptionsT(subgraph=number))
        return tiny, sub

    tiny, sub = called()
    sub.outputs = [sub.op("TANH", [99])]
    _refuse(tiny, r"subgraph 1: operator 0 \(TANH\): tensor 99 does not exist")
    tiny, sub = called()
    sub.outputs = [77]
    _refuse(tiny, "subgraph 1's outputs: tensor 77 does not exist")
    tiny, sub = called()
    late = sub.tensor((1, 4))
    sub.outputs = [sub.op("TANH", [late])]
    sub.op("TANH", [sub.input((1, 4))], outputs=[late])
    _refuse(tiny, r"subgraph 1: operator 0 \(TANH\) reads tensor 0 \(t0\) before it is made")
    tiny, sub = called()
    sub.tensor((2, 4), buffer=sub.buffer(bytes(16)))
    _refuse(tiny, r"subgraph 1: tensor 0 \(t0\): float32 \[2, 4\] takes 32 bytes, its buffer has 16")
    tiny, sub = called()
    x = sub.input((1, 4))
    sub.op("TANH", [sub.op("TANH", [x])], outputs=[x])
    _refuse(tiny, r"subgraph 1: tensor 0 \(t0\) is an input and has a value of its own")


_FLOWS = {
    "loop": flows.loop(),
    "loop without a round": flows.loop(rounds=0),
    "dynamic loop": flows.loop("dynamic"),
    "growing loop": flows.loop("growing"),
    "idle subgraph": flows.loop(before="static"),
    "idle dynamic subgraph": flows.loop(before="dynamic"),
    "branches": flows.branches(),
    "dynamic branches": flows.branches("dynamic"),
    "branches of other shapes": flows.branches("different"),
    "nested branches": flows.branches("nested"),
}


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_slices_that_call_subgraphs_give_what_the_whole_gives(runtime: str) -> None:
    for name, outcome in zip(_FLOWS, run_chains(runtime, list(_FLOWS.values()), frames=5), strict=True):
        assert (outcome.error, outcome.differences) == ("", ()), name
        assert outcome.chains >= 4, name
