"""Makes the calibration models next to this file: `python -m edge_node.calibration.make`.

Each stands for one operator class: `conv`, `depthwise`, `dense`, `elementwise`. All operators are in their
first version, so that every runtime since 2017 loads them; operators of a model share one set of weights,
which keeps the files small. The weights preserve the size of what flows through them: values that shrink
to denormal numbers or grow to infinity would be computed at another speed.

Needs the TFLite schema of ai-edge-litert, which a coordinator has and a node need not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

_CODES = schema.BuiltinOperator
_OPTIONS = schema.BuiltinOptions


class Builder:
    """A TFLite model of one chain of operators, put together operator by operator."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = "SliceMQ calibration"
        self._model.operatorCodes = []
        self._model.buffers = [schema.BufferT()]
        self._graph = schema.SubGraphT()
        self._graph.tensors = []
        self._graph.operators = []
        self._codes: dict[int, int] = {}
        self.shape = shape
        self._last = self._tensor("input", shape)
        self._graph.inputs = [self._last]

    def constant(self, name: str, values: npt.NDArray[Any]) -> int:
        """Add a constant (float32 or int32); gives its tensor index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        number = len(self._model.buffers) - 1
        kind = schema.TensorType.INT32 if values.dtype == np.int32 else schema.TensorType.FLOAT32
        return self._tensor(name, values.shape, buffer=number, kind=kind)

    def add(
        self, code: int, shape: tuple[int, ...], *constants: int, options_type: int = 0, options: Any = None
    ) -> None:
        """Append an operator that takes the last tensor and `constants` and makes one of `shape`."""
        if code not in self._codes:
            self._codes[code] = len(self._model.operatorCodes)
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code
            entry.version = 1
            self._model.operatorCodes.append(entry)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes[code]
        operator.inputs = [self._last, *constants]
        self._last = self._tensor(f"t{len(self._graph.operators)}", shape)
        operator.outputs = [self._last]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self._graph.operators.append(operator)
        self.shape = shape

    def finish(self) -> bytes:
        """The model's bytes; its output is the last tensor."""
        self._graph.outputs = [self._last]
        self._model.subgraphs = [self._graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _tensor(self, name: str, shape: tuple[int, ...], *, buffer: int = 0, kind: int = 0) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, list(shape), buffer, kind
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def _random(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def conv() -> bytes:
    """3x3 (24 to 24), 1x1 (24 to 96) and 1x1 (96 to 24) convolutions of 28x28, twice: 15 million multiply-adds."""
    model = Builder((1, 28, 28, 24))
    layers: list[tuple[int, int, int]] = []
    for size, inner, outer in ((3, 24, 24), (1, 24, 96), (1, 96, 24)):
        scale = np.float32((3 / (size * size * inner)) ** 0.5)
        weights = model.constant(f"weights{len(layers)}", _random(len(layers), outer, size, size, inner) * scale)
        layers.append((weights, model.constant(f"bias{len(layers)}", np.zeros(outer, np.float32)), outer))
    for weights, bias, outer in layers * 2:
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        model.add(
            _CODES.CONV_2D, (1, 28, 28, outer), weights, bias, options_type=_OPTIONS.Conv2DOptions, options=options
        )
    return model.finish()


def depthwise() -> bytes:
    """Four 3x3 depthwise convolutions of 1x48x48x32: 2.7 million multiply-adds."""
    model = Builder((1, 48, 48, 32))
    weights = model.constant("weights", _random(2, 1, 3, 3, 32) * np.float32((3 / 9) ** 0.5))
    bias = model.constant("bias", np.zeros(32, np.float32))
    for _ in range(4):
        options = schema.DepthwiseConv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.depthMultiplier = options.dilationHFactor = options.dilationWFactor = 1
        model.add(
            _CODES.DEPTHWISE_CONV_2D,
            model.shape,
            weights,
            bias,
            options_type=_OPTIONS.DepthwiseConv2DOptions,
            options=options,
        )
    return model.finish()


def dense() -> bytes:
    """64 fully connected layers of 96x96 on one row: 0.6 million multiply-adds over 2.4 MB of packed weights."""
    model = Builder((1, 96))
    # An orthogonal matrix: the length of the row stays the same through all layers.
    orthogonal, _ = np.linalg.qr(np.random.RandomState(3).normal(size=(96, 96)))
    weights = model.constant("weights", orthogonal.astype(np.float32))
    bias = model.constant("bias", np.zeros(96, np.float32))
    for _ in range(64):
        options = schema.FullyConnectedOptionsT()
        model.add(
            _CODES.FULLY_CONNECTED,
            model.shape,
            weights,
            bias,
            options_type=_OPTIONS.FullyConnectedOptions,
            options=options,
        )
    return model.finish()


def elementwise() -> bytes:
    """ADD, MUL, RELU6 and LOGISTIC, twice, on 1x48x48x32: 0.6 million elements written."""
    model = Builder((1, 48, 48, 32))
    values = model.constant("values", np.abs(_random(4, 32)) + np.float32(0.5))
    for _ in range(2):
        model.add(_CODES.ADD, model.shape, values, options_type=_OPTIONS.AddOptions, options=schema.AddOptionsT())
        model.add(_CODES.MUL, model.shape, values, options_type=_OPTIONS.MulOptions, options=schema.MulOptionsT())
        model.add(_CODES.RELU6, model.shape)
        model.add(_CODES.LOGISTIC, model.shape)
    return model.finish()


MODELS = {"conv": conv, "depthwise": depthwise, "dense": dense, "elementwise": elementwise}


def main() -> None:
    """Write the models next to this file."""
    for name, build in MODELS.items():
        Path(__file__).with_name(f"{name}.tflite").write_bytes(build())


if __name__ == "__main__":
    main()
