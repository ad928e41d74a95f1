"""Running models and slices as the cluster does: each slice gets only what its bundles bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from converters.graph import Graph
from converters.runtime import Array, Interpreter, Load, feed
from converters.slicing import Slice, edges, result_parts
from edge_node.runtime import open_interpreter

load: Load = partial(open_interpreter, runtime="ai_edge_litert")


def run(interpreter: Interpreter, arrays: Sequence[Array], outputs: int) -> list[Array]:
    feed(interpreter, arrays)
    interpreter.invoke()
    return [interpreter.output(position) for position in range(outputs)]


def run_whole(data: bytes, graph: Graph, frame: Mapping[int, Array]) -> dict[int, Array]:
    made = run(load(data), [frame[t] for t in graph.inputs], len(graph.outputs))
    return dict(zip(graph.outputs, made, strict=True))


def run_cluster(
    graph: Graph, groups: Sequence[Sequence[int]], slices: Sequence[Slice], frame: Mapping[int, Array]
) -> dict[int, Array]:
    """The results, with every tensor carried by a bundle: a tensor without one does not arrive."""
    bundles = edges(graph, groups)
    arrived: list[dict[int, Array]] = [{} for _ in slices]
    for bundle in bundles:
        if bundle.source is None:
            for target in bundle.targets:
                arrived[target].update((t, frame[t]) for t in bundle.tensors)
    results: dict[int, Array] = {}
    wanted = dict(result_parts(graph, groups))
    for number, piece in enumerate(slices):
        made = run(load(piece.data), [arrived[number][t] for t in piece.inputs], len(piece.outputs))
        values = dict(zip(piece.outputs, made, strict=True))
        for bundle in bundles:
            if bundle.source == number:
                for target in bundle.targets:
                    arrived[target].update((t, values[t]) for t in bundle.tensors)
        results.update((t, values[t]) for t in wanted.get(number, ()))
    return results


def assert_same(expected: Mapping[int, Array], made: Mapping[int, Array]) -> None:
    assert expected.keys() == made.keys()
    for tensor, array in expected.items():
        assert made[tensor].dtype == array.dtype
        assert made[tensor].shape == array.shape
        assert made[tensor].tobytes() == array.tobytes(), f"tensor {tensor}"
