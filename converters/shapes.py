"""Shapes that a file gets wrong or leaves open, found by running the model.

A tensor whose shape is computed while the model runs has a placeholder in the file (BirdNET: [1, 1, 2] for what is
[1, 140, 2048]). Costs, bytes and the inputs of slices need the true one. And where a size depends on what is in the
frame (WHERE, UNIQUE, an IF with results of two shapes), whoever takes the tensor must know that it may come in any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from converters.flatbuffer import write_slice
from converters.folding import fold_shapes, known_and_fixed
from converters.graph import Graph, with_shapes
from converters.recompute import with_recomputed
from converters.runtime import Array, Interpreter, Load, feed, random_inputs, with_bounded_integers
from converters.schema import Bytes
from converters.slicing import Part, groups_at, legal_positions, parts
from slicemq.codecs import DTYPES
from slicemq.errors import ModelError, UnsupportedOperatorError

Shape = tuple[int, ...]
# A slice that is run to see shapes stays well below the 2 GB that a flatbuffer takes.
PIECE_BYTES = 1 << 30
# The largest remaining length of a packet (MQTT 3.1.1, section 2.2.3).
_MAX_FRAME_BYTES = 268_435_455


def resolve_shapes(data: Bytes, graph: Graph, load: Load, shapes: Mapping[int, Shape] | None = None) -> Graph:
    """`graph` with the shapes that the model has on its declared inputs, from a run on random inputs.

    A dimension of an input that the file leaves without a size has size 1. `shapes` gives inputs (by tensor index)
    other sizes where their signatures leave them open. Tensors whose sizes depend on the frame get `varying`
    dimensions: those that the signature leaves open, and those that differ between a few random frames.

    Shapes that the model computes and that are the same for every frame become constants (`converters.folding`).

    Raises what `load` raises, ModelError when the model does not run or cannot have `shapes`.
    """
    graph = with_input_shapes(graph, shapes or {})
    nbytes = sum(graph.tensors[t].nbytes for t in dict.fromkeys(graph.inputs))
    if nbytes > _MAX_FRAME_BYTES:
        raise ModelError(
            f"a frame's inputs take {nbytes} bytes: an MQTT message carries at most {_MAX_FRAME_BYTES}"
        )
    try:
        runner = _Runner(data, graph, load)
        graph = with_bounded_integers(graph, runner.run)
        seen = runner.run(random_inputs(graph, seed=0))
    except ModelError as error:
        raise _with_hint(graph, error, shapes or {}) from error
    changed = {t: shape for t, shape in seen.items() if shape != graph.tensors[t].shape}
    known, fixed = known_and_fixed(with_shapes(graph, changed))
    loose = [t for t in seen if t not in fixed and t not in known]
    varying = _varying(graph, runner, loose, seen) if loose else {}
    resolved = with_shapes(graph, changed)
    tensors = tuple(replace(t, varying=varying.get(t.index, ())) for t in resolved.tensors)
    return with_recomputed(fold_shapes(replace(resolved, tensors=tensors)))


def with_input_shapes(graph: Graph, shapes: Mapping[int, Shape]) -> Graph:
    """`graph` with the shapes that a frame's inputs have: `shapes`, else the declared ones with 1 for open sizes.

    The model is not run. Raises ModelError when it cannot have `shapes`, or takes a dtype that cannot travel.
    """
    for index in graph.inputs:
        if graph.tensors[index].dtype not in DTYPES:
            tensor = graph.tensors[index]
            raise ModelError(f"input {index} ({tensor.name}) is of type {tensor.dtype}, which cannot travel")
    return with_shapes(graph, _input_shapes(graph, shapes))


def named_shapes(graph: Graph, given: Mapping[str, Sequence[int]]) -> dict[int, Shape]:
    """Shapes of inputs by tensor index, from shapes by the input's name (its own or the signature's) or index.

    Raises ModelError for what is no input of the model, or is given twice.
    """
    found: dict[int, Shape] = {}
    for name, shape in given.items():
        known = {t for t in graph.inputs if name in (graph.public_name(t), graph.tensors[t].name, str(t))}
        if len(known) != 1:
            listed = ", ".join(f"{graph.public_name(t)} ({t})" for t in dict.fromkeys(graph.inputs))
            raise ModelError(f"input {name!r}: expected one of {listed}")
        index = known.pop()
        if index in found:
            raise ModelError(f"input {index} ({graph.public_name(index)}): a size is given twice")
        found[index] = tuple(shape)
    return found


def _input_shapes(graph: Graph, wanted: Mapping[int, Shape]) -> dict[int, Shape]:
    """The shapes of the inputs that are not the file's."""
    for index, shape in wanted.items():
        if index not in graph.inputs:
            raise ModelError(f"tensor {index} is no input of the model: its inputs are {list(graph.inputs)}")
        tensor = graph.tensors[index]
        rows = zip(shape, tensor.shape, tensor.signature, strict=False)
        fits = len(shape) == len(tensor.shape) == len(tensor.signature)
        if not fits or any(size < 1 or (size != old and -1 not in (old, free)) for size, old, free in rows):
            open_sizes = [
                old if free != -1 else "?" for old, free in zip(tensor.shape, tensor.signature, strict=False)
            ]
            raise ModelError(
                f"input {index} ({graph.public_name(index)}): shape {list(shape)}, expected {tensor.dtype} "
                f"[{', '.join(map(str, open_sizes))}]"
            )
    found = {t: tuple(1 if d < 0 else d for d in graph.tensors[t].shape) for t in graph.inputs}
    found.update(wanted)
    return {t: shape for t, shape in found.items() if shape != graph.tensors[t].shape}


def _with_hint(graph: Graph, error: ModelError, given: Mapping[int, Shape]) -> ModelError:
    """Small declared sizes, where a model leaves them open, are the commonest reason why it does not run."""
    loose = [t for t in dict.fromkeys(graph.inputs) if -1 in graph.tensors[t].signature]
    if not loose or isinstance(error, UnsupportedOperatorError):
        return error
    listed = ", ".join(f"{graph.public_name(t)} {list(graph.tensors[t].shape)}" for t in loose)
    whose = "were given" if given else "it declares"
    return ModelError(
        f"{error}; the model leaves sizes of its inputs open, and may not run with those that {whose} "
        f"({listed}): give others"
    )


class _Runner:
    """The model with every tensor as an output, so that the runtime keeps all of them; a large one in pieces."""

    def __init__(self, data: Bytes, graph: Graph, load: Load) -> None:
        pieces = [Part(graph.closure(graph.steps), tuple(dict.fromkeys(graph.inputs)), ())]
        if sum(graph.operators[step].weight_bytes for step in graph.steps) > PIECE_BYTES:
            pieces = parts(graph, groups_at(graph, _light_positions(graph)))
        self.pieces: list[tuple[Interpreter, Sequence[int], Sequence[int]]] = []
        for piece in pieces:
            made = [t for i in piece.operators for t in graph.operators[i].outputs if t >= 0]
            gives = [t for t in made if graph.tensors[t].dtype in DTYPES and not graph.tensors[t].constant]
            interpreter = load(write_slice(data, graph, piece.operators, piece.inputs, gives))
            self.pieces.append((interpreter, piece.inputs, gives))

    def run(self, arrays: Mapping[int, Array]) -> dict[int, Shape]:
        """The shapes of all tensors that steps make from one frame."""
        values = dict(arrays)
        shapes: dict[int, Shape] = {}
        for interpreter, takes, gives in self.pieces:
            feed(interpreter, [values[t] for t in takes])
            interpreter.invoke()
            for place, tensor in enumerate(gives):
                array = interpreter.output(place)
                shapes[tensor] = array.shape
                if len(self.pieces) > 1:
                    values[tensor] = array
        return shapes


def _light_positions(graph: Graph) -> list[int]:
    """Places to cut so that no piece has much more than `PIECE_BYTES` of weights."""
    legal = set(legal_positions(graph))
    found, weight = [], 0
    for position, step in enumerate(graph.steps, start=1):
        weight += graph.operators[step].weight_bytes
        if weight > PIECE_BYTES and position in legal:
            found.append(position)
            weight = 0
    return found


def _varying(
    graph: Graph, runner: _Runner, loose: Sequence[int], seen: Mapping[int, Shape]
) -> dict[int, tuple[int, ...]]:
    """The dimensions of the `loose` tensors whose sizes depend on what is in a frame."""
    frames = [random_inputs(graph, seed) for seed in (1, 2)]
    frames.append({t: np.zeros_like(array) for t, array in frames[0].items()})
    samples = [seen]
    for frame in frames:
        # What a model cannot take at random says nothing about shapes.
        with contextlib.suppress(ModelError):
            samples.append(runner.run(frame))
    found = {}
    for index in loose:
        tensor, shape = graph.tensors[index], seen[index]
        others = [sample[index] for sample in samples]
        if len(tensor.signature) == len(shape):
            others.append(
                tuple(size if free >= 0 else -1 for size, free in zip(shape, tensor.signature, strict=True))
            )
            others.append(tensor.shape)
        same_rank = [other for other in others if len(other) == len(shape)]
        dims = tuple(i for i, size in enumerate(shape) if any(other[i] != size for other in same_rank))
        if dims:
            found[index] = dims
    return found
