"""Float16 constants behind a DEQUANTIZE: who else reads them decides how ai_edge_litert computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import ai_edge_litert.schema_py_generated as schema
import numpy as np
import pytest

from converters.graph import read_graph
from converters.halves import witnessed
from converters.runtime import random_inputs
from converters.slicing import groups_at, slice_model
from edge_node.runtime import RUNTIMES
from tests.converters.runner import Runners
from tests.converters.tiny import Tiny, half_weights

_HERE = [name for name in RUNTIMES if importlib.util.find_spec(name)]
_KERNELS = ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]
_WEIGHTS = {"CONV_2D": (8, 3, 3, 8), "DEPTHWISE_CONV_2D": (1, 3, 3, 8), "FULLY_CONNECTED": (8, 64)}
_DATA = {"CONV_2D": (1, 16, 16, 8), "DEPTHWISE_CONV_2D": (1, 16, 16, 8), "FULLY_CONNECTED": (4, 64)}
_MADE = {"CONV_2D": (1, 16, 16, 8), "DEPTHWISE_CONV_2D": (1, 16, 16, 8), "FULLY_CONNECTED": (4, 8)}


@pytest.fixture(scope="module")
def runners() -> Iterator[Runners]:
    started = Runners()
    yield started
    started.close()


def _options(name: str) -> Any:
    if name == "CONV_2D":
        return schema.Conv2DOptionsT(strideW=1, strideH=1, dilationWFactor=1, dilationHFactor=1)
    if name == "DEPTHWISE_CONV_2D":
        return schema.DepthwiseConv2DOptionsT(
            strideW=1, strideH=1, depthMultiplier=1, dilationWFactor=1, dilationHFactor=1
        )
    return schema.FullyConnectedOptionsT()


def _constant(tiny: Tiny, shape: Sequence[int], form: str) -> int:
    """`float32`; `half`: float16 behind a DEQUANTIZE; `int8`: as it is, with a scale for each first index."""
    array = np.random.default_rng(len(tiny.tensors)).standard_normal(shape)
    if form == "float32":
        return tiny.constant(array.astype(np.float32))
    if form == "half":
        half = tiny.constant(array.astype(np.float16))
        return tiny.op("DEQUANTIZE", [half], shape, options=schema.DequantizeOptionsT())
    index = tiny.constant(np.clip(np.round(array * 40), -127, 127).astype(np.int8))
    tiny.tensors[index].quantization = schema.QuantizationParametersT(
        scale=np.full(shape[0], 1 / 40, np.float32), zeroPoint=np.zeros(shape[0], np.int64)
    )
    return index


def _model(kernel: str, forms: tuple[str, str], shared: str, reader: str = "MUL", again: bool = False) -> bytes:
    """An operator with weights and bias of `forms`, and a `reader` of what `shared` names (`weights`, `bias`).

    reader: `dead` for a MUL that no output depends on, `same` for another operator of the kind.
    again: the operator twice, with the weights and the bias of the first.
    """
    tiny = Tiny()
    constants = {
        "weights": _constant(tiny, _WEIGHTS[kernel], forms[0]),
        "bias": _constant(tiny, (8,), forms[1]),
    }
    outputs = []
    for _ in range(1 + again):
        inputs = [tiny.input(_DATA[kernel]), *constants.values()]
        outputs.append(tiny.op(kernel, inputs, _MADE[kernel], options=_options(kernel)))
    if shared:
        shape = _WEIGHTS[kernel] if shared == "weights" else (8,)
        if reader == "same":
            other = {"weights": _constant(tiny, _WEIGHTS[kernel], "float32"), "bias": constants["bias"]}
            inputs = [tiny.input(_DATA[kernel]), *other.values()]
            outputs.append(tiny.op(kernel, inputs, _MADE[kernel], options=_options(kernel)))
        else:
            inputs = [tiny.input(shape), constants[shared]]
            product = tiny.op("MUL", inputs, shape, options=schema.MulOptionsT())
            outputs += [product] if reader == "MUL" else []
    return tiny.build(outputs)


def _difference(runners: Runners, runtime: str, content: bytes, cuts: Sequence[int]) -> str:
    graph = read_graph(content)
    groups = groups_at(graph, cuts)
    slices = slice_model(content, graph, groups)
    return runners.compare(runtime, content, graph, groups, slices, [random_inputs(graph, 1)]).difference


def _read(content: bytes, cuts: Sequence[int]) -> list[list[int]]:
    """What is witnessed in each slice; each must have just as many operators more."""
    graph = read_graph(content)
    found = []
    for piece in slice_model(content, graph, groups_at(graph, cuts)):
        found.append(list(witnessed(graph, piece.operators)))
        added = read_graph(piece.data).operators[len(piece.operators) :]
        assert [op.name for op in added] == ["SHAPE"] * len(found[-1])
    return found


@pytest.mark.parametrize("runtime", _HERE)
@pytest.mark.parametrize("kernel", _KERNELS)
@pytest.mark.parametrize(
    ("forms", "shared"), [(("float32", "half"), "bias"), (("half", "half"), "weights"), (("half", "half"), "bias")]
)
def test_a_slice_without_the_other_reader(
    runners: Runners, runtime: str, kernel: str, forms: tuple[str, str], shared: str
) -> None:
    assert not _difference(runners, runtime, _model(kernel, forms, shared), [1])
    assert not _difference(runners, runtime, _model(kernel, forms, shared, again=True), [1, 2])


@pytest.mark.parametrize("kernel", ["CONV_2D", "FULLY_CONNECTED"])
def test_int8_weights_beside_a_half_bias(runners: Runners, kernel: str) -> None:
    """ai_edge_litert could not even load a slice without the other reader."""
    assert not _difference(runners, "ai_edge_litert", _model(kernel, ("int8", "half"), "bias"), [1])


@pytest.mark.parametrize("kernel", _KERNELS)
def test_the_tensor_that_others_read_too_has_a_witness(kernel: str) -> None:
    content = _model(kernel, ("float32", "half"), "bias")
    graph = read_graph(content)
    bias = graph.operators[graph.steps[0]].inputs[2]
    assert _read(content, [1]) == [[bias], []]


def test_a_reader_on_which_no_output_depends_counts(runners: Runners) -> None:
    content = _model("CONV_2D", ("float32", "half"), "bias", "dead", again=True)
    assert [len(read) for read in _read(content, [1])] == [1, 1]
    assert not _difference(runners, "ai_edge_litert", content, [1])


@pytest.mark.parametrize(
    "content",
    [
        _model("CONV_2D", ("half", "half"), "", again=True),
        _model("CONV_2D", ("float32", "half"), "bias", "same"),
        _model("CONV_2D", ("half", "float32"), "weights"),
        _model("CONV_2D", ("half", "float32"), "bias"),
        _model("FULLY_CONNECTED", ("float32", "float32"), "bias"),
        half_weights(),
    ],
    ids=["nobody else", "the same kind", "weights alone", "a float32 bias", "float32", "shared weights"],
)
def test_no_witness_where_it_makes_no_difference(content: bytes) -> None:
    assert not any(_read(content, [1]))


def test_a_slice_with_another_reader_of_its_own_needs_none() -> None:
    content = _model("CONV_2D", ("float32", "half"), "bias", again=True)
    assert [len(read) for read in _read(content, [1])] == [1, 0]


@pytest.mark.parametrize("runtime", _HERE)
def test_a_witness_beside_the_operators_of_a_dynamic_model(runners: Runners, runtime: str) -> None:
    tiny = Tiny()
    x, y, size = tiny.input((1, 16, 16, 8)), tiny.input((8,)), tiny.input((1,), "INT32")
    bias = _constant(tiny, (8,), "half")
    weights = _constant(tiny, _WEIGHTS["CONV_2D"], "float32")
    conv = tiny.op("CONV_2D", [x, weights, bias], (1, 16, 16, 8), options=_options("CONV_2D"))
    product = tiny.op("MUL", [y, bias], (8,), options=schema.MulOptionsT())
    filled = tiny.op("ADD", [size, size], (1,), options=schema.AddOptionsT(), dtype="INT32")
    shape = tiny.op("MINIMUM", [filled, tiny.constant(np.array([8], np.int32))], (1,), dtype="INT32")
    shaped = tiny.op("MAXIMUM", [shape, tiny.constant(np.array([8], np.int32))], (1,), dtype="INT32")
    turned = tiny.op("RESHAPE", [product, shaped], (8,), options=schema.ReshapeOptionsT())
    content = tiny.build([conv, turned])
    graph = read_graph(content)
    assert graph.dynamic
    groups = groups_at(graph, [1])
    slices = slice_model(content, graph, groups)
    names = [op.name for op in read_graph(slices[0].data).operators]
    assert names == ["DEQUANTIZE", "CONV_2D", "MAXIMUM", "RESHAPE", "SHAPE"]
    assert read_graph(slices[0].data).dynamic
    answers = runners.compare(runtime, content, graph, groups, slices, [random_inputs(graph, 1)])
    assert not answers.difference
