"""Whether a slice, its assignment and the frames that come fit each other: tensors, dtypes, shapes, codecs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from edge_node.runtime import Interpreter
from slicemq import codecs
from slicemq.errors import FrameError, ModelError
from slicemq.frames import WireTensor
from slicemq.messages import Bundle, ResultPart, SliceAssignment, TensorSpec


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


def check_tensors(bundle: Bundle, tensors: Mapping[int, WireTensor]) -> None:
    """Raise FrameError unless a frame holds exactly the bundle's tensors, by whole-model index."""
    for spec in bundle.tensors:
        tensor = tensors.get(spec.index)
        if tensor is None:
            raise _other_tensors(bundle, tensors)
        fits = tensor.shape == spec.shape or _shape_fits(spec.shape, tensor.shape)
        if not fits or tensor.dtype != spec.dtype:
            raise FrameError(
                f"tensor {spec.index} ({spec.name}): {tensor.dtype} {list(tensor.shape)}, "
                f"expected {spec.dtype} {list(spec.shape)}"
            )
    if len(tensors) != len(bundle.tensors):
        raise _other_tensors(bundle, tensors)


def _other_tensors(bundle: Bundle, tensors: Mapping[int, WireTensor]) -> FrameError:
    expected = sorted(spec.index for spec in bundle.tensors)
    return FrameError(f"bundle {bundle.id}: tensors {sorted(tensors)}, expected {expected}")


def _shape_fits(spec: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(spec) == len(shape) and all(want in (-1, size) for want, size in zip(spec, shape, strict=True))


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of a tensor, unknown sizes counted as 1; 0 for a dtype that numpy does not know."""
    try:
        return math.prod(max(1, size) for size in spec.shape) * np.dtype(spec.dtype).itemsize
    except TypeError:
        return 0
