"""Which subgraphs, operators and tensors of a model a slice's file holds (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from converters.dataflow import Graph, Subgraph, Tensor
from converters.state import initial_operators


@dataclass(frozen=True)
class Selection:
    """One subgraph of a slice, by the model's indices; `rows` are all tensors of the model's subgraph `source`."""

    source: int
    rows: Sequence[Tensor]
    operators: tuple[int, ...]
    tensors: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def selections(
    graph: Graph, operators: Sequence[int], inputs: Sequence[int], outputs: Sequence[int]
) -> list[Selection]:
    """The subgraphs of a slice of `operators`: its own first, then those that they call, each once.

    Called subgraphs are kept whole, but those of initialisation give first values only to what the slice holds.
    """
    needed = {*inputs, *outputs}
    whole: set[int] = set()
    initial: set[int] = set()
    for index in operators:
        operator = graph.operators[index]
        needed.update((*operator.inputs, *operator.outputs, *operator.intermediates))
        prunable = operator.initialises and all(graph.subgraphs[k].only_writes for k in operator.subgraphs)
        (initial if prunable else whole).update(operator.subgraphs)
    needed.discard(-1)
    main = Selection(0, graph.tensors, tuple(operators), tuple(sorted(needed)), tuple(inputs), tuple(outputs))
    variables = graph.held(operators)[0] if initial else frozenset()
    return [
        main,
        *(
            _pruned(graph.subgraphs[k], initial_operators(graph.subgraphs[k], variables))
            if k not in whole
            else _whole(graph.subgraphs[k])
            for k in sorted(whole | initial)
        ),
    ]


def _whole(subgraph: Subgraph) -> Selection:
    return Selection(
        subgraph.index,
        subgraph.tensors,
        tuple(range(len(subgraph.operators))),
        tuple(range(len(subgraph.tensors))),
        subgraph.inputs,
        subgraph.outputs,
    )


def _pruned(subgraph: Subgraph, operators: Iterable[int]) -> Selection:
    kept = tuple(operators)
    needed = {*subgraph.inputs, *subgraph.outputs}
    for index in kept:
        operator = subgraph.operators[index]
        needed.update((*operator.inputs, *operator.outputs, *operator.intermediates))
    needed.discard(-1)
    tensors = tuple(sorted(needed))
    return Selection(subgraph.index, subgraph.tensors, kept, tensors, subgraph.inputs, subgraph.outputs)
