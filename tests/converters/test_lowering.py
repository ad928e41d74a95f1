"""Lowered versions: the rules, what slices hold, and that both runtimes give what the operator always gave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.models import real_models
from converters.dataflow import DTYPES
from converters.graph import read_graph
from converters.lowering import _RULES, Operand, lower
from converters.needs import needs
from converters.slicing import slice_model
from tests.converters.machine import load, run
from tests.converters.tiny import Tiny
from tests.runtimes import EACH_RUNTIME

F, I8, I16, I32, BOOL = (Operand(dtype, (1, 2, 2, 4)) for dtype in ("float32", "int8", "int16", "int32", "bool"))
FILTER, FILTER8 = Operand("float32", (8, 1, 1, 4)), Operand("int8", (8, 1, 1, 4), 1, 0.1, True)
CHANNELS = Operand("int8", (8, 1, 1, 4), 8, 0.1, True)
ROWS8, ROWS = Operand("int8", (8, 4), 1, 0.1, True), Operand("int8", (8, 4), 8, 0.1, True)
QUANT = Operand("int8", (1, 4), 1, 0.5, True)
DEEP = Operand("float32", (1, 1, 1, 2, 2))


@pytest.mark.parametrize(
    ("name", "version", "options", "inputs", "outputs", "expected"),
    [
        ("FULLY_CONNECTED", 12, {}, [F, F, F], [F], 1),
        ("FULLY_CONNECTED", 12, {"keepNumDims": True}, [F, F, F], [F], 5),
        ("FULLY_CONNECTED", 12, {}, [F, F], [F], 6),
        ("FULLY_CONNECTED", 12, {"asymmetricQuantizeInputs": True}, [F, ROWS8, F], [F], 9),
        ("FULLY_CONNECTED", 12, {}, [F, ROWS8, Operand()], [F], 3),
        ("FULLY_CONNECTED", 12, {}, [I8, ROWS8, I32], [I8], 4),
        # A scale for each row means something else: the runtime must know it.
        ("FULLY_CONNECTED", 12, {}, [F, ROWS, F], [F], 12),
        ("FULLY_CONNECTED", 12, {"quantizedBiasType": 4}, [F, F, F], [F], 12),
        ("FULLY_CONNECTED", 12, {}, [I16, ROWS8, I32], [I16], 12),
        # Newer than the rules: it may allow what they do not know.
        ("FULLY_CONNECTED", 14, {}, [F, F, F], [F], 14),
        ("CONV_2D", 8, {}, [F, FILTER, F], [F], 1),
        ("CONV_2D", 8, {}, [F, FILTER8, F], [F], 2),
        ("CONV_2D", 8, {}, [F, CHANNELS, F], [F], 5),
        ("CONV_2D", 8, {}, [I8, CHANNELS, I32], [I8], 3),
        ("CONV_2D", 8, {}, [Operand("float32", (1, 2, 2, 8)), FILTER, F], [F], 6),
        ("CONV_2D", 8, {}, [Operand("float32", ()), FILTER, F], [F], 8),
        ("CONV_2D", 8, {}, [I16, CHANNELS, I32], [I16], 8),
        ("DEPTHWISE_CONV_2D", 6, {"dilationWFactor": 2, "dilationHFactor": 1}, [F, FILTER, F], [F], 2),
        ("DEPTHWISE_CONV_2D", 6, {}, [F, FILTER, F], [F], 1),
        ("ADD", 5, {}, [F, F], [F], 1),
        ("ADD", 2, {}, [I32, I32], [I32], 1),
        ("ADD", 6, {}, [F, F], [F], 6),
        ("ADD", 4, {}, [I16, I16], [I16], 4),
        ("MUL", 7, {}, [QUANT, QUANT], [QUANT], 2),
        ("MUL", 7, {}, [QUANT, QUANT], [Operand("int8", (1, 4), 1, 0.1, True)], 3),
        ("SUB", 5, {}, [F, DEEP], [F], 3),
        ("SUB", 5, {}, [F, F], [F], 1),
        ("TRANSPOSE", 6, {}, [DEEP, I32], [DEEP], 4),
        ("TRANSPOSE", 6, {}, [Operand("float32"), I32], [F], 6),
        ("STRIDED_SLICE", 8, {"newAxisMask": 1}, [F, I32, I32, I32], [F], 6),
        ("STRIDED_SLICE", 8, {"offset": True}, [F, I32, I32, I32], [F], 8),
        ("RESIZE_BILINEAR", 4, {"halfPixelCenters": True}, [F, I32], [F], 3),
        ("DEQUANTIZE", 6, {}, [Operand("float16", (4,))], [F], 3),
        ("DEQUANTIZE", 6, {}, [Operand("int8", (4,), 4, 0.1, True)], [F], 5),
        ("CAST", 7, {}, [F], [I32], 7),
        ("CAST", 5, {}, [F], [I8], 3),
        ("SELECT", 3, {}, [BOOL, F, F], [F], 1),
        # The file of an old converter: never raised, whatever the rules say.
        ("DEQUANTIZE", 2, {}, [Operand("float16", (4,))], [F], 2),
        ("RESHAPE", 3, {}, [F, I32], [F], 3),
        ("TFLite_Detection_PostProcess", 3, {}, [F, F, F], [F], 3),
        ("ADD", 5, {}, [], [], 5),
    ],
)
def test_the_lowest_version_that_means_the_same(
    name: str, version: int, options: dict[str, Any], inputs: list[Operand], outputs: list[Operand], expected: int
) -> None:
    assert lower(name, version, options, inputs, outputs) == expected


OPERANDS = st.lists(
    st.builds(
        Operand,
        st.sampled_from(["", *(name for name, _ in DTYPES.values())]),
        st.lists(st.integers(-1, 9), max_size=6).map(tuple),
        st.integers(0, 9),
        st.floats(0, 2),
        st.booleans(),
        st.booleans(),
    ),
    max_size=5,
)


@given(st.sampled_from([*_RULES, "RESHAPE"]), st.integers(1, 20), OPERANDS, OPERANDS)
def test_a_version_is_never_raised_and_lowering_twice_changes_nothing(
    name: str, version: int, inputs: list[Operand], outputs: list[Operand]
) -> None:
    lowest = lower(name, version, {}, inputs, outputs)
    assert 1 <= lowest <= version
    assert lower(name, lowest, {}, inputs, outputs) == lowest


def versions(data: bytes) -> dict[str, int]:
    """Operator -> its version in a file."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    codes = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0)).operatorCodes
    return {names[code.builtinCode]: code.version for code in codes}


def two_layers() -> bytes:
    """x -> dense (a scale per row) -> tanh -> dense (float weights): one version for both, as converters write."""
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    rng = np.random.default_rng(3)
    rows = tiny.tensor(
        (4, 4),
        "INT8",
        buffer=tiny.buffer(rng.integers(-127, 128, (4, 4), np.int8).tobytes()),
        scale=(0.1, 0.2, 0.3, 0.4),
    )
    weights = tiny.constant(rng.standard_normal((4, 4)).astype(np.float32))
    options = schema.FullyConnectedOptionsT(asymmetricQuantizeInputs=True)
    a = tiny.op("FULLY_CONNECTED", [x, rows, -1], options=options, version=12)
    b = tiny.op("TANH", [a], version=3)
    c = tiny.op("FULLY_CONNECTED", [b, weights, -1], options=schema.FullyConnectedOptionsT(), version=12)
    tiny.operators[2].opcodeIndex = tiny.operators[0].opcodeIndex
    del tiny.codes[2]
    return tiny.build([c])


def test_each_slice_has_the_lowest_versions_of_its_own_operators_and_the_bits_of_the_whole() -> None:
    data = two_layers()
    graph = read_graph(data)
    first, second = slice_model(data, graph, [[0], [1, 2]])
    assert versions(first.data) == {"FULLY_CONNECTED": 12}
    assert versions(second.data) == {"TANH": 1, "FULLY_CONNECTED": 1}
    assert needs(data, graph) == ({"FULLY_CONNECTED": 12}, {"TANH": 1}, {"FULLY_CONNECTED": 1})
    (both,) = slice_model(data, graph, [[0, 1, 2]])
    assert versions(both.data) == {"FULLY_CONNECTED": 12, "TANH": 1}
    frame = np.random.default_rng(4).standard_normal((1, 4)).astype(np.float32)
    (whole,) = run(load(data), [frame], 1)
    (middle,) = run(load(first.data), [frame], 1)
    (made,) = run(load(second.data), [middle], 1)
    assert made.tobytes() == whole.tobytes()
    assert run(load(both.data), [frame], 1)[0].tobytes() == whole.tobytes()


LOADS = """
import sys
from edge_node.runtime import open_interpreter
from slicemq.errors import UnsupportedOperatorError
for file in sys.argv[2:]:
    try:
        open_interpreter(file, runtime=sys.argv[1]).warm_up()
        print("runs")
    except UnsupportedOperatorError as error:
        print(error)
"""


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_a_lowered_slice_runs_on_every_runtime_and_what_cannot_be_lowered_is_named(
    runtime: str, tmp_path: Path
) -> None:
    data = two_layers()
    files = [tmp_path / "whole.tflite", tmp_path / "s0.tflite", tmp_path / "s1.tflite"]
    contents = [data, *(piece.data for piece in slice_model(data, read_graph(data), [[0], [1, 2]]))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LOADS, runtime, *map(str, files)], capture_output=True, text=True, check=True
    )
    said = done.stdout.splitlines()
    assert said[2] == "runs"
    for line in said[:2]:
        if runtime == "tflite_runtime":
            assert line.endswith("lacks operator FULLY_CONNECTED in version 12")
        else:
            assert line == "runs"


def test_operators_in_called_subgraphs_count_for_their_caller() -> None:
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    flag = tiny.constant(np.array([True]))
    branches = []
    for name in ("then", "else"):
        number, branch = tiny.subgraph(name)
        inside = branch.input((1, 4))
        weights = branch.constant(np.eye(4, dtype=np.float32))
        options = schema.FullyConnectedOptionsT(keepNumDims=name == "else")
        branch.outputs = [branch.op("FULLY_CONNECTED", [inside, weights, -1], options=options, version=9)]
        branches.append(number)
    options = schema.IfOptionsT(thenSubgraphIndex=branches[0], elseSubgraphIndex=branches[1])
    y = tiny.op("IF", [flag, x], options=options)
    data = tiny.build([y])
    graph = read_graph(data)
    assert needs(data, graph) == ({"IF": 1, "FULLY_CONNECTED": 5},)
    (piece,) = slice_model(data, graph, [[0]])
    assert versions(piece.data) == {"IF": 1, "FULLY_CONNECTED": 5}


@pytest.mark.parametrize("name", ["face-full-range", "birdnet", "basic-pitch", "wake-okay-nabu", "iris-landmark"])
def test_the_rules_give_the_versions_that_converters_gave(name: str) -> None:
    """A converter writes the highest version that any operator of a kind needs: the rules must find the same."""
    model = real_models()[name]
    if not model.path.is_file():
        pytest.skip(model.hint)
    data = model.path.read_bytes()
    graph = read_graph(data)
    tables = [graph.operators, *(subgraph.operators for subgraph in graph.subgraphs.values())]
    in_file: dict[str, int] = {}
    for operator in (row for table in tables for row in table):
        in_file[operator.name] = max(operator.version, in_file.get(operator.name, 0))
    lowered: dict[str, int] = {}
    for row in needs(data, graph):
        for kind, version in row.items():
            lowered[kind] = max(version, lowered.get(kind, 0))
    assert {kind: lowered[kind] for kind in lowered} == {kind: in_file[kind] for kind in lowered}
