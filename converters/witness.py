"""Operators that a slice's file has besides the model's, so that a runtime handles it as it does the whole (pure).

They come in two kinds: two that make a slice *dynamic* (`converters.dynamic`), and *readers* of float16 biases and
weights (`converters.halves`). Tables are in the schema's object API, with `c` its module (`schema.classes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

DYNAMIC_OPERATORS = 2


def codes(c: Any, dynamic: bool, readers: bool) -> list[Any]:
    """The operator codes of the two operators that make dynamic, then the one of readers; version 1 is enough."""
    builtin = c.BuiltinOperator
    found = [builtin.MAXIMUM, builtin.RESHAPE] if dynamic else []
    found += [builtin.SHAPE] if readers else []
    return [c.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code) for code in found]


def dynamic_tensors(c: Any, one: int) -> list[Any]:
    """int32 [1] tensors: the constant 1 (in buffer `one`), a shape computed from it, what is reshaped to that."""
    return [
        _int32(c, 1, f"slicemq/dynamic/{name}", buffer)
        for name, buffer in (("one", one), ("shape", 0), ("reshaped", 0))
    ]


def dynamic_operators(c: Any, first_tensor: int, first_code: int) -> list[Any]:
    """shape = MAXIMUM(one, one); reshaped = RESHAPE(one, shape): no runtime folds the first before it runs."""
    one, shape, reshaped = range(first_tensor, first_tensor + 3)
    return [
        c.OperatorT(opcodeIndex=code, inputs=np.array(inputs, np.int32), outputs=np.array([output], np.int32))
        for code, inputs, output in ((first_code, [one, one], shape), (first_code + 1, [one, shape], reshaped))
    ]


def reader_tensors(c: Any, ranks: Sequence[int]) -> list[Any]:
    """What readers of tensors of `ranks` dimensions make."""
    return [_int32(c, rank, f"slicemq/reader/{number}", 0) for number, rank in enumerate(ranks)]


def reader_operators(c: Any, read: Sequence[int], first_tensor: int, code: int) -> list[Any]:
    """The SHAPE of each tensor of `read`, for nobody: it takes no time, and only that it reads counts."""
    return [
        c.OperatorT(
            opcodeIndex=code,
            inputs=np.array([tensor], np.int32),
            outputs=np.array([output], np.int32),
            builtinOptionsType=c.BuiltinOptions.ShapeOptions,
            builtinOptions=c.ShapeOptionsT(outType=c.TensorType.INT32),
        )
        for output, tensor in enumerate(read, start=first_tensor)
    ]


def _int32(c: Any, size: int, name: str, buffer: int) -> Any:
    return c.TensorT(shape=np.array([size], np.int32), type=c.TensorType.INT32, buffer=buffer, name=name)
