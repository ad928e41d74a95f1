"""Chains of slices against whole models in processes that live on, one for each runtime (they bear no other)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from converters.graph import Graph
from converters.runtime import Array, Interpreter, feed
from converters.slicing import Slice, edges, result_parts
from edge_node.runtime import load_runtime, open_interpreter


@dataclass(frozen=True)
class Answers:
    """difference: the first one in words, empty when there is none. travelled: bytes of each tensor in a bundle."""

    difference: str
    travelled: Mapping[int, int]


def compare(
    whole: bytes,
    graph: Graph,
    groups: Sequence[Sequence[int]],
    slices: Sequence[Slice],
    frames: Sequence[Mapping[int, Array]],
) -> Answers:
    """Run consecutive frames through the whole and, with only what its bundles bring, through each slice."""
    model, chain = open_interpreter(whole), [open_interpreter(piece.data) for piece in slices]
    bundles, wanted = edges(graph, groups), dict(result_parts(graph, groups))
    travelled: dict[int, int] = {}
    for number, frame in enumerate(frames):
        expected = dict(
            zip(graph.outputs, _run(model, [frame[t] for t in graph.inputs], graph.outputs), strict=True)
        )
        arrived: list[dict[int, Array]] = [{} for _ in slices]
        made: dict[int, Array] = {}
        for source, values in _sources(frame, chain, slices, arrived):
            for bundle in bundles:
                if bundle.source == source:
                    travelled.update((t, values[t].nbytes) for t in bundle.tensors)
                    for target in bundle.targets:
                        arrived[target].update((t, values[t]) for t in bundle.tensors)
            made.update((t, values[t]) for t in wanted.get(-1 if source is None else source, ()))
        if made.keys() != expected.keys():
            return Answers(f"frame {number}: outputs {sorted(made)}, expected {sorted(expected)}", travelled)
        for tensor, array in expected.items():
            other = made[tensor]
            if (other.dtype, other.shape, other.tobytes()) != (array.dtype, array.shape, array.tobytes()):
                return Answers(f"frame {number}, tensor {tensor}: {other!r}, expected {array!r}", travelled)
    return Answers("", travelled)


def _sources(
    frame: Mapping[int, Array],
    chain: Sequence[Interpreter],
    slices: Sequence[Slice],
    arrived: Sequence[Mapping[int, Array]],
) -> Iterator[tuple[int | None, Mapping[int, Array]]]:
    """(None, the client's tensors), then (number, what the slice makes) of each slice in turn."""
    yield None, frame
    for number, (interpreter, piece) in enumerate(zip(chain, slices, strict=True)):
        arrays = [arrived[number][t] for t in piece.inputs]
        yield number, dict(zip(piece.outputs, _run(interpreter, arrays, piece.outputs), strict=True))


def _run(interpreter: Interpreter, arrays: Sequence[Array], outputs: Sequence[int]) -> list[Array]:
    feed(interpreter, arrays)
    interpreter.invoke()
    return [interpreter.output(position) for position in range(len(outputs))]


class Runners:
    """One process for each runtime, started when it is first needed."""

    def __init__(self) -> None:
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def compare(
        self,
        runtime: str,
        whole: bytes,
        graph: Graph,
        groups: Sequence[Sequence[int]],
        slices: Sequence[Slice],
        frames: Sequence[Mapping[int, Array]],
    ) -> Answers:
        """`compare` in the process of `runtime`. Raises BrokenProcessPool when the runtime crashes."""
        pool = self._pools.get(runtime)
        if pool is None:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(1, context, initializer=load_runtime, initargs=(runtime,))
            self._pools[runtime] = pool
        future = pool.submit(compare, whole, graph, groups, slices, frames)
        try:
            return future.result()
        except Exception:
            self._pools.pop(runtime).shutdown()
            raise

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown()
