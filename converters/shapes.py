"""Shapes that a file gets wrong, found by running the model once.

A tensor whose shape is computed while the model runs has a placeholder in the file (BirdNET: [1, 1, 2] for what is
[1, 140, 2048]). Costs, bytes and the inputs of slices need the true one.
"""

from __future__ import annotations

from converters.flatbuffer import write_slice
from converters.folding import fold_shapes
from converters.graph import Graph, with_shapes
from converters.recompute import with_recomputed
from converters.runtime import Load, feed, random_inputs
from converters.schema import Bytes
from slicemq.codecs import DTYPES


def resolve_shapes(data: Bytes, graph: Graph, load: Load) -> Graph:
    """`graph` with the shapes that the model has on its declared inputs, from one run on random inputs.

    Shapes that the model computes and that are the same for every frame become constants (`converters.folding`).

    Raises what `load` raises, ModelError when the model does not run.
    """
    running = [op for op in graph.operators if not op.constant and not op.dead]
    made = [t for op in running for t in op.outputs if t >= 0]
    seen = [t for t in made if graph.tensors[t].dtype in DTYPES]
    operators = graph.closure(graph.steps)
    inputs = list(dict.fromkeys(graph.inputs))
    arrays = random_inputs(graph, seed=0)
    # One run of the model with every tensor as an output: the runtime then keeps all of them.
    interpreter = load(write_slice(data, _without_unknown_inputs(graph), operators, inputs, seen))
    feed(interpreter, [arrays[t] for t in inputs])
    interpreter.invoke()
    shapes = {t: interpreter.output(position).shape for position, t in enumerate(seen)}
    seen_shapes = {t: shape for t, shape in shapes.items() if shape != graph.tensors[t].shape}
    return with_recomputed(fold_shapes(with_shapes(graph, seen_shapes)))


def _without_unknown_inputs(graph: Graph) -> Graph:
    """An input that the file gives no size in some dimension has size 1 in it, as the random inputs have."""
    shapes = {t: tuple(max(d, 1) if d < 0 else d for d in graph.tensors[t].shape) for t in graph.inputs}
    return with_shapes(graph, {t: s for t, s in shapes.items() if s != graph.tensors[t].shape})
