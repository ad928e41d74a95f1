"""What the converters ask of a TFLite runtime. Who runs them injects it: `edge_node.runtime.open_interpreter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from converters.graph import Graph, Tensor
from slicemq.errors import CutError, ModelError

Array = npt.NDArray[Any]

_WIDE = ("int32", "uint32", "int64", "uint64")
_BOUNDS = (100, 2, 1)


class TensorInfo(Protocol):
    """An input or output of a loaded model; `dtype` is numpy's name."""

    @property
    def dtype(self) -> str:
        """numpy's name of the dtype."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as allocated."""


class Interpreter(Protocol):
    """A loaded model; positions are those of the model's own lists of inputs and outputs."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The inputs in the file's order."""

    def set_input(self, position: int, array: Array) -> None:
        """Copy `array` into an input."""

    def resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Give each input a new shape and allocate again."""

    def invoke(self) -> None:
        """Run the model."""

    def output(self, position: int) -> Array:
        """A copy of an output of the last run."""


Load = Callable[[bytes | Path], Interpreter]


def feed(interpreter: Interpreter, arrays: Sequence[Array]) -> None:
    """Set all inputs; when the shapes are not the allocated ones (they depend on the data), allocate again."""
    if [info.shape for info in interpreter.inputs] != [array.shape for array in arrays]:
        interpreter.resize([array.shape for array in arrays])
    for position, array in enumerate(arrays):
        interpreter.set_input(position, array)


def random_input(tensor: Tensor, rng: np.random.Generator, below: int = 100) -> Array:
    """A random array for an input of the model; unknown dimensions are 1.

    Floats are of a standard normal distribution, integers of at most 16 bits uniform over their range, larger ones
    over 0 to `below` - 1 (they are often indices or counts).
    """
    shape = tuple(max(d, 1) if d < 0 else d for d in tensor.shape)
    if tensor.dtype in ("float16", "float32", "float64"):
        return rng.standard_normal(shape).astype(tensor.dtype)
    if tensor.dtype in ("complex64", "complex128"):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(tensor.dtype)
    if tensor.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if tensor.dtype in ("int8", "uint8", "int16", "uint16"):
        limits = np.iinfo(np.dtype(tensor.dtype))
        return rng.integers(int(limits.min), int(limits.max) + 1, shape).astype(tensor.dtype)
    if tensor.dtype in _WIDE:
        return rng.integers(0, below, shape).astype(tensor.dtype)
    raise CutError(f"input {tensor.index} ({tensor.name}): no random values of type {tensor.dtype}")


def random_inputs(graph: Graph, seed: int) -> dict[int, Array]:
    """Random arrays for all inputs of the model, by tensor index; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return {index: random_input(graph.tensors[index], rng, graph.integers_below) for index in graph.inputs}


def with_bounded_integers(graph: Graph, run: Callable[[Mapping[int, Array]], object]) -> Graph:
    """`graph` with integers in its random inputs that the model takes: an embedding of 50 rows has no row 99.

    run: the model on one frame. Without 32- or 64-bit inputs it is not called. Raises the ModelError of the first
    frame when none is taken.
    """
    if not any(graph.tensors[t].dtype in _WIDE for t in graph.inputs):
        return graph
    first: ModelError | None = None
    for below in _BOUNDS:
        bounded = replace(graph, integers_below=below)
        try:
            run(random_inputs(bounded, seed=0))
        except ModelError as error:
            first = first or error
        else:
            return bounded
    assert first is not None
    raise first
