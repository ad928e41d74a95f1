"""Models with one interface for `benchmarks.upgrades`: with other answers, slower, or larger than the original.

All are written from an original .tflite through the schema's own classes; tensors keep their indices and names, so
that a client may stay when one follows another.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from converters import schema
from slicemq.errors import ModelError

_HEAD_BYTES = 1 << 16


def with_other_weights(original: Path, factor: float) -> bytes:
    """The model with the weights of its first convolution times `factor`: all that it answers changes."""
    c = schema.classes()
    model = _unpacked(original)
    graph = model.subgraphs[0]
    makers = {t: operator for operator in graph.operators for t in operator.outputs}
    first = next(o for o in graph.operators if _code(model, o) == c.BuiltinOperator.CONV_2D)
    constant = int(first.inputs[1])
    while constant in makers:
        constant = int(makers[constant].inputs[0])
    tensor = graph.tensors[constant]
    kinds = {c.TensorType.FLOAT32: np.float32, c.TensorType.FLOAT16: np.float16}
    if tensor.type not in kinds:
        raise ModelError(f"{original}: the weights of its first convolution are no floats")
    buffer = model.buffers[tensor.buffer]
    weights = np.asarray(buffer.data, np.uint8).tobytes()
    scaled = np.frombuffer(weights, kinds[tensor.type]) * kinds[tensor.type](factor)
    buffer.data = np.frombuffer(scaled.astype(kinds[tensor.type]).tobytes(), np.uint8)
    return _packed(model)


def with_detour(original: Path, channels: int, *, side: int = 1, times: int = 0) -> bytes:
    """The model behind convolutions that hand its picture on as it is: the same answers, bit for bit.

    The picture goes through `channels` channels (height x width x channels x 4 bytes that its arena must hold), and
    `times` more convolutions of side x side from all to all of them, which take time and change nothing.
    """
    c = schema.classes()
    model = _unpacked(original)
    graph = model.subgraphs[0]
    (source,) = (int(t) for t in graph.inputs)
    picture = graph.tensors[source]
    _, height, width, depth = (int(size) for size in picture.shape)
    steps = [(depth, channels, 1), *[(channels, channels, side)] * times, (channels, depth, 1)]
    code = next(
        number
        for number, one in enumerate(model.operatorCodes)
        if max(one.builtinCode, one.deprecatedBuiltinCode) == c.BuiltinOperator.CONV_2D
    )
    readers = list(graph.operators)
    operators, before = [], source
    for number, (taken, given, kernel) in enumerate(steps):
        weights = _identity(taken, given, kernel)
        inputs = [
            before,
            _constant(model, f"detour/{number}/weights", weights),
            _constant(model, f"detour/{number}/bias", np.zeros(given, np.float32)),
        ]
        output = _tensor(model, f"detour/{number}", (1, height, width, given), 0)
        operators.append(_convolution(code, inputs, output))
        before = output
    for operator in readers:
        operator.inputs = np.array([before if int(t) == source else int(t) for t in operator.inputs], np.int32)
    graph.operators = [*operators, *readers]
    return _packed(model)


def _identity(taken: int, given: int, kernel: int) -> Any:
    """Weights (out, height, width, in) that hand channel k on as channel k."""
    weights = np.zeros((given, kernel, kernel, taken), np.float32)
    for channel in range(min(taken, given)):
        weights[channel, kernel // 2, kernel // 2, channel] = 1.0
    return weights


def _convolution(code: int, inputs: Iterable[int], output: int) -> Any:
    c = schema.classes()
    options = c.Conv2DOptionsT()
    options.padding = c.Padding.SAME
    options.strideW = options.strideH = options.dilationWFactor = options.dilationHFactor = 1
    operator = c.OperatorT()
    operator.opcodeIndex = code
    operator.inputs = np.array(list(inputs), np.int32)
    operator.outputs = np.array([output], np.int32)
    operator.builtinOptionsType = c.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = options
    return operator


def _constant(model: Any, name: str, array: Any) -> int:
    buffer = schema.classes().BufferT()
    buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return _tensor(model, name, array.shape, len(model.buffers) - 1)


def _tensor(model: Any, name: str, shape: Iterable[int], buffer: int) -> int:
    c = schema.classes()
    tensor = c.TensorT()
    tensor.name = name
    tensor.shape = np.array(list(shape), np.int32)
    tensor.type = c.TensorType.FLOAT32
    tensor.buffer = buffer
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _unpacked(path: Path) -> Any:
    return schema.classes().ModelT.InitFromObj(schema.root(path.read_bytes()))


def _packed(model: Any) -> bytes:
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = schema.builder(size + size // 2 + _HEAD_BYTES)
    builder.Finish(model.Pack(builder), schema.IDENTIFIER)
    return bytes(builder.Output())
