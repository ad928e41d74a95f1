"""Whether a slice, its assignment and the frames that come fit each other: tensors, dtypes, shapes, codecs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_node.runtime import Interpreter
from slicemq import codecs
from slicemq.errors import FrameError, ModelError
from slicemq.messages import Bundle, ResultPart, SliceAssignment, TensorSpec

_DTYPES = {name: np.dtype(name) for name in codecs.DTYPES}


def check_fit(assignment: SliceAssignment, interpreter: Interpreter) -> None:
    """Raise ModelError unless the slice's inputs and outputs are those of the assignment, each in one bundle."""
    sent: list[Bundle | ResultPart] = [
        *assignment.outputs,
        *([assignment.result] if assignment.result is not None else []),
    ]
    for codec in {one.codec for one in (*assignment.inputs, *sent)} - set(codecs.available()):
        raise ModelError(f"assignment: codec {codec!r}: this node has {', '.join(codecs.available())}")
    inputs = [spec for bundle in assignment.inputs for spec in bundle.tensors]
    _check_inputs(assignment.takes, interpreter, {spec.index: spec for spec in inputs})
    if len({spec.index for spec in inputs}) != len(inputs):
        raise ModelError("assignment: a tensor comes in two input bundles")
    missing = sorted({spec.index for one in sent for spec in one.tensors} - set(assignment.gives))
    if missing:
        raise ModelError(f"assignment: the slice does not make tensors {missing} that it shall send")
    if len(assignment.gives) != len(interpreter.outputs):
        raise ModelError(
            f"assignment: outputs: {len(assignment.gives)} tensors, the slice has {len(interpreter.outputs)}"
        )


def _check_inputs(indices: Sequence[int], interpreter: Interpreter, specs: dict[int, TensorSpec]) -> None:
    """Whether the inputs come in bundles with the right dtype; shapes that the file leaves open are set."""
    if len(indices) != len(interpreter.inputs):
        raise ModelError(f"assignment: inputs: {len(indices)} tensors, the slice has {len(interpreter.inputs)}")
    shapes = []
    for index, info in zip(indices, interpreter.inputs, strict=True):
        spec = specs.get(index)
        if spec is None:
            raise ModelError(f"assignment: inputs: tensor {index} comes in no bundle")
        if spec.dtype != info.dtype:
            raise ModelError(
                f"assignment: inputs: tensor {index} ({spec.name}) is {spec.dtype} {list(spec.shape)}, "
                f"the slice has {info.dtype} {list(info.shape)}"
            )
        fits = _shape_fits(spec.shape, info.shape)
        shapes.append(info.shape if fits else tuple(1 if size == -1 else size for size in spec.shape))
    # The shape of a tensor in the middle of a model may be known only by running it: the assignment says it.
    if shapes != [info.shape for info in interpreter.inputs]:
        interpreter.resize(shapes)


def check_tensors(bundle: Bundle, arrays: Mapping[int, npt.NDArray[Any]]) -> None:
    """Raise FrameError unless a frame holds exactly the bundle's tensors, by whole-model index."""
    for spec in bundle.tensors:
        array = arrays.get(spec.index)
        if array is None:
            raise _other_tensors(bundle, arrays)
        if (array.shape != spec.shape and not _shape_fits(spec.shape, array.shape)) or not _has_dtype(spec, array):
            raise FrameError(
                f"tensor {spec.index} ({spec.name}): {array.dtype.name} {list(array.shape)}, "
                f"expected {spec.dtype} {list(spec.shape)}"
            )
    if len(arrays) != len(bundle.tensors):
        raise _other_tensors(bundle, arrays)


def _other_tensors(bundle: Bundle, arrays: Mapping[int, npt.NDArray[Any]]) -> FrameError:
    expected = sorted(spec.index for spec in bundle.tensors)
    return FrameError(f"bundle {bundle.id}: tensors {sorted(arrays)}, expected {expected}")


def _has_dtype(spec: TensorSpec, array: npt.NDArray[Any]) -> bool:
    # To ask a dtype for its name takes ten times longer than to compare it.
    return array.dtype == _DTYPES.get(spec.dtype) or array.dtype.name == spec.dtype


def _shape_fits(spec: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(spec) == len(shape) and all(want in (-1, size) for want, size in zip(spec, shape, strict=True))


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor, unknown sizes counted as 1; 0 for a dtype that numpy does not know."""
    try:
        return math.prod(max(1, size) for size in spec.shape) * np.dtype(spec.dtype).itemsize
    except TypeError:
        return 0
