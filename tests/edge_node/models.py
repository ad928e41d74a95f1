"""Small models for the tests, built with the calibration models' builder."""

from __future__ import annotations

from collections.abc import Callable

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_node.calibration.make import Builder


def add_model(version: int = 1) -> bytes:
    """input [1, 4] + [1, 2, 3, 4], the ADD operator in the given version."""
    model = Builder((1, 4))
    values = model.constant("values", np.array([1, 2, 3, 4], np.float32))
    options = {"options_type": schema.BuiltinOptions.AddOptions, "options": schema.AddOptionsT()}
    model.add(schema.BuiltinOperator.ADD, (1, 4), values, **options)
    return _changed(model.finish(), lambda tree: _set_version(tree, version))


def custom_model(name: str) -> bytes:
    """One custom operator that no runtime has."""

    def change(tree: schema.ModelT) -> None:
        code = tree.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name
        tree.subgraphs[0].operators[0].builtinOptionsType = 0
        tree.subgraphs[0].operators[0].builtinOptions = None

    return _changed(add_model(), change)


def reshape_model() -> bytes:
    """Reshapes float32 [1, 4] to [3, 1]: loads nowhere, or fails when it runs."""
    model = Builder((1, 4))
    shape = model.constant("shape", np.array([3, 1], np.int32))
    model.add(schema.BuiltinOperator.RESHAPE, (3, 1), shape)
    return model.finish()


def gather_model() -> bytes:
    """Takes element `input` (int32, one index) of four values: an index of 9 makes `invoke` fail."""
    model = Builder((1,))
    values = model.constant("values", np.array([1, 2, 3, 4], np.float32))
    model.add(schema.BuiltinOperator.GATHER, (1,))

    def change(tree: schema.ModelT) -> None:
        graph = tree.subgraphs[0]
        graph.tensors[0].type = schema.TensorType.INT32
        graph.operators[0].inputs = [values, 0]
        options = schema.GatherOptionsT()
        graph.operators[0].builtinOptionsType = schema.BuiltinOptions.GatherOptions
        graph.operators[0].builtinOptions = options

    return _changed(model.finish(), change)


def add_two_model() -> bytes:
    """The sum of two inputs of float32 [1, 4]."""

    def change(tree: schema.ModelT) -> None:
        graph = tree.subgraphs[0]
        constant = graph.operators[0].inputs[1]
        graph.tensors[constant].shape = [1, 4]
        graph.tensors[constant].buffer = 0
        graph.inputs = [0, constant]

    return _changed(add_model(), change)


def accumulator_model(start: float = 100.0, stages: int = 1) -> bytes:
    """Stateful: gives its input float32 [1, 4] plus a resource variable, and keeps the sum in it.

    The variable begins at `start` (CALL_ONCE runs a second subgraph that assigns it). With more `stages` each
    adds the sum of the one before it to a variable of its own.
    """

    def change(tree: schema.ModelT) -> None:
        code = {}
        for name in ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"):
            entry = schema.OperatorCodeT()
            entry.builtinCode = getattr(schema.BuiltinOperator, name)
            entry.deprecatedBuiltinCode = min(entry.builtinCode, 127)
            entry.version = 1
            tree.operatorCodes.append(entry)
            code[name] = len(tree.operatorCodes) - 1
        graph = tree.subgraphs[0]
        add = graph.operators[0]
        buffer = graph.tensors[add.inputs[1]].buffer
        tree.buffers[buffer].data = np.full(4, start, np.float32).view(np.uint8)
        first = schema.SubGraphT()
        first.name, first.tensors, first.inputs, first.outputs, first.operators = "init", [], [], [], []
        value = _tensor(first, "value", (1, 4), "FLOAT32", buffer)
        once = schema.CallOnceOptionsT()
        once.initSubgraphIndex = 1
        graph.operators = [_operator(code["CALL_ONCE"], [], [], "CallOnceOptions", once)]

        def handle(where: schema.SubGraphT, stage: int) -> int:
            options = schema.VarHandleOptionsT()
            options.container, options.sharedName = "", f"sum{stage}"
            made = _tensor(where, f"handle{stage}", (), "RESOURCE")
            where.operators.append(_operator(code["VAR_HANDLE"], [], [made], "VarHandleOptions", options))
            return made

        def assign(where: schema.SubGraphT, place: int, what: int) -> None:
            options = schema.AssignVariableOptionsT()
            where.operators.append(
                _operator(code["ASSIGN_VARIABLE"], [place, what], [], "AssignVariableOptions", options)
            )

        given = 0
        for stage in range(stages):
            assign(first, handle(first, stage), value)
            place = handle(graph, stage)
            read = _tensor(graph, f"read{stage}", (1, 4), "FLOAT32")
            total = _tensor(graph, f"sum{stage}", (1, 4), "FLOAT32")
            reading = schema.ReadVariableOptionsT()
            graph.operators.append(
                _operator(code["READ_VARIABLE"], [place], [read], "ReadVariableOptions", reading)
            )
            graph.operators.append(
                _operator(add.opcodeIndex, [given, read], [total], "AddOptions", schema.AddOptionsT())
            )
            assign(graph, place, total)
            given = total
        graph.outputs = [given]
        tree.subgraphs.append(first)

    return _changed(add_model(), change)


def svdf_model() -> bytes:
    """Stateful: SVDF float32 [1, 4] -> [1, 2] over the last three frames, kept in a variable tensor."""
    model = Builder((1, 4))
    weights = model.constant("weights", np.arange(8, dtype=np.float32).reshape(2, 4))
    times = model.constant("times", np.array([[1, 10, 100], [3, 30, 300]], np.float32))
    model.add(schema.BuiltinOperator.SVDF, (1, 2), weights, times)

    def change(tree: schema.ModelT) -> None:
        graph = tree.subgraphs[0]
        state = _tensor(graph, "state", (1, 6), "FLOAT32")
        graph.tensors[state].isVariable = True
        options = schema.SVDFOptionsT()
        options.rank = 1
        operator = graph.operators[0]
        operator.inputs = [0, weights, times, -1, state]
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.SVDFOptions, options

    return _changed(model.finish(), change)


def open_add_model() -> bytes:
    """input [1, ?] plus itself: a row of any length."""

    def change(tree: schema.ModelT) -> None:
        graph = tree.subgraphs[0]
        for tensor in (graph.tensors[0], graph.tensors[graph.outputs[0]]):
            tensor.shape, tensor.shapeSignature = [1, 1], [1, -1]
        graph.operators[0].inputs = [0, 0]

    return _changed(add_model(), change)


def scalar_add_model() -> bytes:
    """input [] plus itself: one number without dimensions."""

    def change(tree: schema.ModelT) -> None:
        graph = tree.subgraphs[0]
        for tensor in (graph.tensors[0], graph.tensors[graph.outputs[0]]):
            tensor.shape = []
        graph.operators[0].inputs = [0, 0]

    return _changed(add_model(), change)


def _tensor(graph: schema.SubGraphT, name: str, shape: tuple[int, ...], kind: str, buffer: int = 0) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
    tensor.type = getattr(schema.TensorType, kind)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(code: int, inputs: list[int], outputs: list[int], kind: str, options: object) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
    return operator


def _set_version(tree: schema.ModelT, version: int) -> None:
    tree.operatorCodes[0].version = version


def _changed(data: bytes, change: Callable[[schema.ModelT], None]) -> bytes:
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
