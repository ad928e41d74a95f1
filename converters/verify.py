"""Does the chain of slices give what the whole model gives, bit for bit, in one runtime?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters import schema
from converters.flatbuffer import write_slice
from converters.graph import Graph
from converters.runtime import Array, Interpreter, Load, feed, with_bounded_integers
from converters.schema import Bytes, damage_as_model_error
from converters.slicing import Slice
from slicemq.errors import InputError, ModelError

Frame = tuple[str, Mapping[int, Array]]


@dataclass(frozen=True)
class Link:
    """One slice of a chain: `inputs` and `outputs` are whole-model tensors in the order of the file's own."""

    id: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    model: bytes | Path


@dataclass(frozen=True)
class Difference:
    """The first tensor, in the order of the slices, that is not what the whole model makes on one frame."""

    frame: str
    slice: str
    tensor: int
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.frame}: slice {self.slice}, tensor {self.tensor} ({self.name}): {self.detail}"


@dataclass(frozen=True)
class VerifyReport:
    """`tensors` counts the outputs that were compared over all frames."""

    frames: int
    tensors: int
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differed."""
        return not self.differences


def link(piece: Slice) -> Link:
    """The chain's link of a slice in memory."""
    return Link(piece.id, piece.inputs, piece.outputs, piece.data)


def verify_chain(
    whole: Bytes,
    graph: Graph,
    chain: Sequence[Link],
    load: Load,
    frames: Iterable[Frame],
    *,
    path: Path | None = None,
) -> VerifyReport:
    """Run each frame (its name, arrays by tensor index) through the whole model and through the chain, in order and
    on one set of interpreters, so that state goes from frame to frame as it does in a pipeline.

    Outputs are equal when dtype, shape and every byte are: so NaN equals the same NaN, and 0.0 is not -0.0. `graph`
    is the whole's; with `path` the whole is loaded from its file. A file that no runtime could run as it is, since
    its operators are not sorted or it declares other sizes of inputs, is written anew first. Raises what `load`
    raises, ModelError for a chain that does not fit together, InputError for a frame that does not fit the model.
    """
    model = load_whole(whole, graph, load, path)
    links = [(item, _open(item, load)) for item in chain]
    outputs = list(dict.fromkeys(graph.outputs))
    count, compared, differences = 0, 0, []
    before: list[Mapping[int, Array]] = []  # what a stateful model must be fed again to be where it was
    for name, arrays in frames:
        missing = [t for t in graph.inputs if t not in arrays]
        if missing:
            raise InputError(f"{name}: input {missing[0]} ({graph.tensors[missing[0]].name}) is missing")
        feed(model, [arrays[t] for t in graph.inputs])
        model.invoke()
        expected = {t: model.output(graph.outputs.index(t)) for t in outputs}
        made = _run(graph, links, arrays)
        compared += len(outputs)
        count += 1
        if any(_difference(expected[t], made[t]) for t in outputs):
            differences.append(_locate(whole, graph, chain, load, before, (name, arrays), expected, made))
        if graph.stateful:
            before.append(arrays)
    return VerifyReport(count, compared, tuple(differences))


def bounded(whole: Bytes, graph: Graph, load: Load, path: Path | None = None) -> Graph:
    """`graph` with random inputs that the whole model takes; arguments and errors are those of `verify_chain`."""

    def run(frame: Mapping[int, Array]) -> None:
        model = load_whole(whole, graph, load, path)
        feed(model, [frame[t] for t in graph.inputs])
        model.invoke()

    return with_bounded_integers(graph, run)


def load_whole(whole: Bytes, graph: Graph, load: Load, path: Path | None) -> Interpreter:
    """The whole model in an interpreter; arguments are those of `verify_chain`."""
    if graph.is_sorted and _has_shapes(whole, graph):
        return load(path if path is not None else bytes(whole))
    return load(write_slice(whole, graph, graph.closure(graph.steps, graph.outputs), graph.inputs, graph.outputs))


def _has_shapes(whole: Bytes, graph: Graph) -> bool:
    """Whether the file declares the sizes of inputs that `graph` has."""
    with damage_as_model_error("model"):
        table = schema.root(whole).Subgraphs(0)
        shapes = {t: table.Tensors(t).ShapeAsNumpy() for t in graph.inputs if graph.tensors[t].shape}
        return all(tuple(np.ravel(shape)) == graph.tensors[t].shape for t, shape in shapes.items())


def _open(item: Link, load: Load) -> Interpreter:
    interpreter = load(item.model)
    if len(interpreter.inputs) != len(item.inputs):
        raise ModelError(f"slice {item.id}: {len(interpreter.inputs)} inputs, expected {len(item.inputs)}")
    return interpreter


def _run(graph: Graph, links: Sequence[tuple[Link, Interpreter]], arrays: Mapping[int, Array]) -> dict[int, Array]:
    """All tensors that the slices hand on, by index, and the frame's own."""
    values = dict(arrays)
    for item, interpreter in links:
        absent = [t for t in item.inputs if t not in values]
        if absent:
            raise ModelError(f"slice {item.id} reads tensor {absent[0]}, which no slice before it makes")
        feed(interpreter, [values[t] for t in item.inputs])
        interpreter.invoke()
        try:
            values.update((t, interpreter.output(position)) for position, t in enumerate(item.outputs))
        except IndexError as error:
            raise ModelError(f"slice {item.id}: fewer outputs than the {len(item.outputs)} expected") from error
    absent = [t for t in graph.outputs if t not in values]
    if absent:
        raise ModelError(f"no slice makes the model's output {absent[0]} ({graph.tensors[absent[0]].name})")
    return values


def _difference(expected: Array, made: Array) -> str:
    """What differs, in words; empty when nothing does."""
    if expected.dtype != made.dtype or expected.shape != made.shape:
        return f"{made.dtype} {list(made.shape)}, the whole model makes {expected.dtype} {list(expected.shape)}"
    if expected.dtype == object:
        return "" if expected.tolist() == made.tolist() else "other strings"
    if expected.tobytes() == made.tobytes():
        return ""
    width = max(expected.dtype.itemsize, 1)
    bits = [np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(-1, width) for a in (expected, made)]
    differing = int((bits[0] != bits[1]).any(axis=1).sum())
    text = f"{differing} of {expected.size} elements differ"
    if expected.dtype.kind in "fiu":
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(expected.astype(np.float64) - made.astype(np.float64))
        text += f", by up to {float(np.nanmax(gap, initial=0.0)):.3g}"
    return text


def _locate(
    whole: Bytes,
    graph: Graph,
    chain: Sequence[Link],
    load: Load,
    before: Sequence[Mapping[int, Array]],
    frame: Frame,
    expected: Mapping[int, Array],
    made: Mapping[int, Array],
) -> Difference:
    """The first differing tensor: the whole model once more, with the tensors that cross as outputs too.

    `before` are the frames that brought a stateful model to where it was.
    """
    name, arrays = frame
    order = [(item.id, t) for item in chain for t in item.outputs]
    traced = list(dict.fromkeys(t for _, t in order))
    operators = graph.closure(graph.steps, graph.outputs)
    inputs = list(dict.fromkeys(graph.inputs))
    tracer = load(write_slice(whole, graph, operators, inputs, traced))
    for earlier in (*before, arrays):
        feed(tracer, [earlier[t] for t in inputs])
        tracer.invoke()
    # More outputs may change how the runtime fuses operators, so the model's own outputs keep their first values.
    reference = {**{t: tracer.output(position) for position, t in enumerate(traced)}, **expected}
    for slice_id, tensor in order:
        detail = _difference(reference[tensor], made[tensor])
        if detail:
            return Difference(name, slice_id, tensor, graph.tensors[tensor].name, detail)
    raise AssertionError("an output differs, so one of the slices' tensors does")
