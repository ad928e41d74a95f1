"""How many multiply-adds an operator takes, from the shapes of its tensors (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = tuple[int, ...] | None


def elements(shape: Shape) -> int:
    """Elements of a tensor; an unknown dimension counts as 1, a left-out tensor as 0."""
    return 0 if shape is None else math.prod(max(d, 1) if d < 0 else d for d in shape)


def multiply_adds(name: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Multiply-adds of one run of operator `name`; 0 for operators that only move or map elements.

    Shapes as TFLite lays them out: CONV_2D weights [out, height, width, in], DEPTHWISE_CONV_2D [1, height, width,
    channels], FULLY_CONNECTED [out, in], TRANSPOSE_CONV (shape, weights [out, height, width, in], data).
    """
    if len(inputs) < 2 or not outputs:
        return 0
    made, weights = elements(outputs[0]), inputs[1]
    if weights is None:
        return 0
    if name in ("CONV_2D", "FULLY_CONNECTED"):
        return made * elements(weights[1:])
    if name == "DEPTHWISE_CONV_2D":
        return made * elements(weights[1:3])
    if name == "CONV_3D":
        return made * elements(weights[:4])
    if name in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE") and len(inputs) > 2:
        channels = weights[-1] if weights else 1
        return elements(inputs[2]) * elements(weights) // max(channels, 1)
    if name == "BATCH_MATMUL" and made and outputs[0] is not None:
        # [b, m, k] x [b, k, n], either one possibly transposed: |left| |right| / |out| = b k^2.
        batch = elements(outputs[0][:-2])
        depth = elements(inputs[0]) * elements(weights) // max(made * batch, 1)
        return made * math.isqrt(depth)
    if name.endswith(("LSTM", "RNN")):
        return sum(elements(shape) for shape in inputs[1:])
    return 0
