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


def _set_version(tree: schema.ModelT, version: int) -> None:
    tree.operatorCodes[0].version = version


def _changed(data: bytes, change: Callable[[schema.ModelT], None]) -> bytes:
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    change(tree)
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())
