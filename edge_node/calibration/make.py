"""Makes the calibration models next to this file: `python -m edge_node.calibration.make`.

Each stands for one class of operators (`converters.classes`): `conv`, `depthwise`, `dense`, `elementwise`,
`function` and `moving` in float32; `-int8` with quantised activations and weights; `-hybrid` with quantised
weights only; `-dynamic` with shapes that the model learns while it runs, for which runtimes have other kernels. All
operators are in the first version that has the type, so that old runtimes load them. Operators of a model share one
set of weights, which keeps the files small. The weights preserve the size of what flows through them: values that
shrink to denormal numbers or grow to infinity would be computed at another speed.

Needs the TFLite schema of ai-edge-litert, which a coordinator has and a node need not have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

_CODES = schema.BuiltinOperator
_OPTIONS = schema.BuiltinOptions


_FLOAT, _INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
_TYPES = {"float32": _FLOAT, "int32": schema.TensorType.INT32, "int8": _INT8}
_ACTIVATION_SCALE = 1 / 32
_WEIGHT_SCALE = 1 / 128


class Builder:
    """A TFLite model of one chain of operators, put together operator by operator.

    int8: activations are int8, of scale 1/32. dynamic: a shape is computed while the model runs.
    """

    def __init__(self, shape: tuple[int, ...], *, int8: bool = False, dynamic: bool = False) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = "SliceMQ calibration"
        self._model.operatorCodes = []
        self._model.buffers = [schema.BufferT()]
        self._graph = schema.SubGraphT()
        self._graph.tensors = []
        self._graph.operators = []
        self._codes: dict[tuple[int, int], int] = {}
        self._int8, self._dynamic = int8, dynamic
        self.shape = shape
        self.last = self._activation("input", shape, _ACTIVATION_SCALE, 0)
        self._graph.inputs = [self.last]

    def constant(
        self, name: str, values: npt.NDArray[Any], *, scales: list[float] | None = None, axis: int = 0
    ) -> int:
        """Add a constant (float32, int32, int8) with scales for the places along `axis`; gives its tensor index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        number = len(self._model.buffers) - 1
        index = self._tensor(name, values.shape, buffer=number, kind=_TYPES[values.dtype.name])
        if scales is not None:
            self._quantize(index, scales, [0] * len(scales), axis)
        return index

    def add(
        self,
        code: int,
        shape: tuple[int, ...],
        *constants: int,
        options_type: int = 0,
        options: Any = None,
        version: int = 1,
        quantization: tuple[float, int] = (_ACTIVATION_SCALE, 0),
    ) -> None:
        """Append an operator that takes the last tensor and `constants` and makes one of `shape`.

        quantization: scale and zero point of what it makes, where activations are int8.
        """
        inputs = [self.last, *constants]
        self.last = self._activation(f"t{len(self._graph.operators)}", shape, *quantization)
        self._append(code, version, inputs, self.last, options_type, options)
        self.shape = shape

    def finish(self) -> bytes:
        """The model's bytes; its output is the last tensor."""
        if self._dynamic:
            # As in slices of such models (`converters.flatbuffer`): no runtime folds the first before it runs.
            one = self.constant("one", np.ones(1, np.int32))
            size = self._tensor("size", (1,), kind=schema.TensorType.INT32)
            reshaped = self._tensor("reshaped", (1,), kind=schema.TensorType.INT32)
            self._append(_CODES.MAXIMUM, 1, [one, one], size, 0, None)
            self._append(_CODES.RESHAPE, 1, [one, size], reshaped, 0, None)
        self._graph.outputs = [self.last]
        self._model.subgraphs = [self._graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _append(
        self, code: int, version: int, inputs: list[int], output: int, options_type: int, options: Any
    ) -> None:
        if (code, version) not in self._codes:
            self._codes[code, version] = len(self._model.operatorCodes)
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code
            entry.version = version
            self._model.operatorCodes.append(entry)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._codes[code, version]
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self._graph.operators.append(operator)

    def _activation(self, name: str, shape: tuple[int, ...], scale: float, zero: int) -> int:
        index = self._tensor(name, shape, kind=_INT8 if self._int8 else _FLOAT)
        if self._int8:
            self._quantize(index, [scale], [zero], 0)
        return index

    def _quantize(self, index: int, scales: list[float], zeros: list[int], axis: int) -> None:
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = scales, zeros
        quantization.quantizedDimension = axis
        self._graph.tensors[index].quantization = quantization

    def _tensor(self, name: str, shape: tuple[int, ...], *, buffer: int = 0, kind: int = 0) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, list(shape), buffer, kind
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def _random(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def _weights(
    model: Builder, name: str, values: npt.NDArray[np.float32], regime: str, axis: int = 0, each: bool = True
) -> int:
    """Weights in float32, or in int8 with one scale for each place along `axis` (`each`) or one for all."""
    if regime not in ("int8", "hybrid"):
        return model.constant(name, values)
    rounded = np.clip(np.round(values / _WEIGHT_SCALE), -127, 127).astype(np.int8)
    return model.constant(name, rounded, scales=[_WEIGHT_SCALE] * (values.shape[axis] if each else 1), axis=axis)


def _bias(model: Builder, name: str, size: int, regime: str, each: bool = True) -> int:
    if regime != "int8":
        return model.constant(name, np.zeros(size, np.float32))
    scales = [_ACTIVATION_SCALE * _WEIGHT_SCALE] * (size if each else 1)
    return model.constant(name, np.zeros(size, np.int32), scales=scales)


def _model(shape: tuple[int, ...], regime: str) -> Builder:
    return Builder(shape, int8=regime == "int8", dynamic=regime == "dynamic")


def conv(regime: str = "") -> bytes:
    """3x3 (24 to 24), 1x1 (24 to 96) and 1x1 (96 to 24) convolutions of 28x28, twice: 15 million multiply-adds."""
    model = _model((1, 28, 28, 24), regime)
    layers: list[tuple[int, int, int]] = []
    for size, inner, outer in ((3, 24, 24), (1, 24, 96), (1, 96, 24)):
        scale = np.float32((3 / (size * size * inner)) ** 0.5)
        values = _random(len(layers), outer, size, size, inner) * scale
        # tflite_runtime 2.14 answers zeros for hybrid convolutions with a scale for each output.
        weights = _weights(model, f"weights{len(layers)}", values, regime, each=regime != "hybrid")
        layers.append((weights, _bias(model, f"bias{len(layers)}", outer, regime), outer))
    for weights, bias, outer in layers * 2:
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        model.add(
            _CODES.CONV_2D,
            (1, 28, 28, outer),
            weights,
            bias,
            options_type=_OPTIONS.Conv2DOptions,
            options=options,
            version={"int8": 3, "hybrid": 2}.get(regime, 1),
        )
    return model.finish()


def depthwise(regime: str = "") -> bytes:
    """Four 3x3 depthwise convolutions of 1x48x48x32: 2.7 million multiply-adds."""
    model = _model((1, 48, 48, 32), regime)
    weights = _weights(model, "weights", _random(2, 1, 3, 3, 32) * np.float32((3 / 9) ** 0.5), regime, axis=3)
    bias = _bias(model, "bias", 32, regime)
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
            version={"int8": 3, "hybrid": 6}.get(regime, 1),
        )
    return model.finish()


def dense(regime: str = "") -> bytes:
    """64 fully connected layers of 96x96 on one row: 0.6 million multiply-adds over 2.4 MB of packed weights."""
    model = _model((1, 96), regime)
    # An orthogonal matrix: the length of the row stays the same through all layers.
    orthogonal, _ = np.linalg.qr(np.random.RandomState(3).normal(size=(96, 96)))
    # Fully connected layers with a scale for each output came years after those with one for all.
    weights = _weights(model, "weights", orthogonal.astype(np.float32), regime, each=False)
    bias = _bias(model, "bias", 96, regime, each=False)
    for _ in range(64):
        options = schema.FullyConnectedOptionsT()
        model.add(
            _CODES.FULLY_CONNECTED,
            model.shape,
            weights,
            bias,
            options_type=_OPTIONS.FullyConnectedOptions,
            options=options,
            version={"int8": 4, "hybrid": 3}.get(regime, 1),
        )
    return model.finish()


def elementwise(regime: str = "") -> bytes:
    """ADD of a tensor to itself, MUL by a constant, MUL by itself, twice, on 1x48x48x32: 0.4 million elements."""
    model = _model((1, 48, 48, 32), regime)
    values = _weights(
        model, "values", np.abs(_random(4, 32)) * np.float32(0.3) + np.float32(0.35), regime, each=False
    )
    version = 2 if regime == "int8" else 1
    for _ in range(2):
        add, mul = schema.AddOptionsT(), schema.MulOptionsT()
        model.add(
            _CODES.ADD, model.shape, model.last, options_type=_OPTIONS.AddOptions, options=add, version=version
        )
        for other in (values, None):
            factor = model.last if other is None else other
            model.add(
                _CODES.MUL, model.shape, factor, options_type=_OPTIONS.MulOptions, options=mul, version=version
            )
    return model.finish()


def function(regime: str = "") -> bytes:
    """LOGISTIC, TANH and HARD_SWISH, twice, on 1x48x48x32: 0.4 million elements written."""
    model = _model((1, 48, 48, 32), regime)
    for _ in range(2):
        options = schema.HardSwishOptionsT()
        model.add(_CODES.LOGISTIC, model.shape)
        model.add(_CODES.TANH, model.shape)
        model.add(_CODES.HARD_SWISH, model.shape, options_type=_OPTIONS.HardSwishOptions, options=options)
    return model.finish()


def moving(regime: str = "") -> bytes:
    """PAD, STRIDED_SLICE and TRANSPOSE of 1x48x48x32, twice: 1.8 MB written."""
    model = _model((1, 48, 48, 32), regime)
    pads = model.constant("pads", np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32))
    begin = model.constant("begin", np.array([0, 1, 1, 0], np.int32))
    end = model.constant("end", np.array([1, 49, 49, 32], np.int32))
    steps = model.constant("steps", np.ones(4, np.int32))
    order = model.constant("order", np.array([0, 2, 1, 3], np.int32))
    for _ in range(2):
        model.add(_CODES.PAD, (1, 50, 50, 32), pads, options_type=_OPTIONS.PadOptions, options=schema.PadOptionsT())
        model.add(
            _CODES.STRIDED_SLICE,
            (1, 48, 48, 32),
            begin,
            end,
            steps,
            options_type=_OPTIONS.StridedSliceOptions,
            options=schema.StridedSliceOptionsT(),
        )
        model.add(
            _CODES.TRANSPOSE,
            (1, 48, 48, 32),
            order,
            options_type=_OPTIONS.TransposeOptions,
            options=schema.TransposeOptionsT(),
        )
    return model.finish()


_KINDS: dict[str, tuple[Callable[[str], bytes], tuple[str, ...]]] = {
    "conv": (conv, ("", "int8", "hybrid", "dynamic")),
    "depthwise": (depthwise, ("", "int8", "hybrid", "dynamic")),
    "dense": (dense, ("", "int8", "hybrid", "dynamic")),
    "elementwise": (elementwise, ("", "int8", "dynamic")),
    "function": (function, ("", "dynamic")),
    "moving": (moving, ("",)),
}
MODELS: dict[str, Callable[[], bytes]] = {
    f"{kind}-{regime}" if regime else kind: partial(build, regime)
    for kind, (build, regimes) in _KINDS.items()
    for regime in regimes
}


def main() -> None:
    """Write the models next to this file."""
    for name, build in MODELS.items():
        Path(__file__).with_name(f"{name}.tflite").write_bytes(build())


if __name__ == "__main__":
    main()
