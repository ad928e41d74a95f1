"""Which subgraphs, operators and tensors of a model a slice's file holds (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from converters.dataflow import Graph, Subgraph, Tensor
from converters.state import initial_operators

# In place of a subgraph that the slice has no use for: one with nothing but the operators that make it dynamic.
WITNESS = -1


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

    Called subgraphs are kept whole and in the file's order, but those of initialisation give first values only to
    what the slice holds.
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
    found = [main]
    for k in sorted(whole | initial):
        if k > graph.undelegated > 0 and graph.undelegated not in whole and found[-1].source <= graph.undelegated:
            found.append(Selection(WITNESS, (), (), (), (), ()))
        pruned = None if k in whole else initial_operators(graph.subgraphs[k], variables)
        found.append(_whole(graph.subgraphs[k]) if pruned is None else _pruned(graph.subgraphs[k], pruned))
    return found


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
