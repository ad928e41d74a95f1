"""Which operators read and write which variables, through whatever subgraph (pure).

A resource tensor stands for the variables whose handles may reach it: through operators, and as an argument of a
subgraph. Where that cannot be told exactly, rather too many variables are named than too few: the users of one
share a slice, so too many cost places to cut, too few would cost the right answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from converters.dataflow import RANDOM_OPERATORS, STATE_WRITERS, Operator, Subgraph, Tensor
from slicemq.errors import ModelError

_READERS = frozenset({"HASHTABLE_FIND", "HASHTABLE_SIZE", "READ_VARIABLE"})
# A variable is listed with each operator that may use it; damaged files must not make that quadratic.
_MAX_LISTED = 200_000

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Effect:
    """What running an operator does to variables; `random`: nor would a second run give the same."""

    reads: frozenset[str] = _NOTHING
    writes: frozenset[str] = _NOTHING
    random: bool = False

    @property
    def touches(self) -> frozenset[str]:
        """All variables that the operator uses."""
        return self.reads | self.writes


def joined(effects: Iterable[Effect]) -> Effect:
    """The effect of running all of them."""
    listed = list(effects)
    if not listed:
        return Effect()
    return Effect(
        _NOTHING.union(*(e.reads for e in listed)),
        _NOTHING.union(*(e.writes for e in listed)),
        any(e.random for e in listed),
    )


def effects(
    subgraphs: Mapping[int, Subgraph], calls: Sequence[Sequence[Sequence[int]]]
) -> dict[int, dict[int, Effect]]:
    """Subgraph -> operator -> its effect. `subgraphs` come callees first, each with its operators in the order in
    which they run; `calls` holds the subgraphs that each operator calls itself, by subgraph and operator.
    """
    handles: dict[int, frozenset[str]] = {}
    for index, subgraph in subgraphs.items():
        own = {op.handle for op in subgraph.operators if op.handle}
        handles[index] = frozenset(own).union(*(handles[target] for row in calls[index] for target in row))
    reaching = _reaching(subgraphs, calls, handles)
    found: dict[int, dict[int, Effect]] = {}
    whole: dict[int, Effect] = {}
    listed = 0
    for index, subgraph in subgraphs.items():
        found[index] = {}
        for op in subgraph.operators:
            one = joined([_own(op, subgraph, reaching[index]), *(whole[c] for c in calls[index][op.index])])
            found[index][op.index] = one
            listed += len(one.reads) + len(one.writes)
            if listed > _MAX_LISTED:
                raise ModelError(f"operator {op.index} ({op.name}): operators use variables in too many ways")
        whole[index] = joined(found[index].values())
    return found


def _reaching(
    subgraphs: Mapping[int, Subgraph],
    calls: Sequence[Sequence[Sequence[int]]],
    handles: Mapping[int, frozenset[str]],
) -> dict[int, dict[int, frozenset[str]]]:
    """Subgraph -> resource tensor -> the variables whose handles may be in it."""
    arguments: dict[int, set[str]] = {}
    found: dict[int, dict[int, frozenset[str]]] = {}
    listed = 0
    for index, subgraph in reversed(list(subgraphs.items())):
        outside = frozenset(arguments.get(index, ()))
        held = {t: outside for t in subgraph.inputs if _is_resource(subgraph.tensors[t])}
        for operator in subgraph.operators:
            given = _NOTHING.union(*(held.get(t, _NOTHING) for t in operator.inputs))
            for target in calls[index][operator.index]:
                arguments.setdefault(target, set()).update(given)
            if operator.handle:
                given = frozenset({operator.handle})
            else:
                given = given.union(*(handles[target] for target in calls[index][operator.index]))
            for tensor in operator.outputs:
                if tensor >= 0 and _is_resource(subgraph.tensors[tensor]):
                    held[tensor] = given
                    listed += len(given)
            if listed > _MAX_LISTED:
                raise ModelError(f"operator {operator.index} ({operator.name}): too many variables reach it")
        found[index] = held
    return found


def _is_resource(tensor: Tensor) -> bool:
    return tensor.dtype == "resource"


def _own(operator: Operator, subgraph: Subgraph, reaching: Mapping[int, frozenset[str]]) -> Effect:
    """What an operator does itself, without the subgraphs that it calls."""
    given = _NOTHING.union(*(reaching.get(t, _NOTHING) for t in operator.inputs))
    reads = writes = _NOTHING
    if operator.name in _READERS:
        reads = given
    elif operator.name in STATE_WRITERS:
        writes = given
    elif not operator.handle:
        reads = writes = given
    kept = frozenset(
        variable_tensor(subgraph, t)
        for t in (*operator.inputs, *operator.outputs)
        if t >= 0 and subgraph.tensors[t].variable
    )
    return Effect(reads | kept, writes | kept, operator.name in RANDOM_OPERATORS)


def variable_tensor(subgraph: Subgraph, tensor: int) -> str:
    """The name of the state that an operator keeps in a tensor."""
    where = f" of subgraph {subgraph.index}" if subgraph.index else ""
    return f"variable tensor {tensor} ({subgraph.tensors[tensor].name}){where}"


def initial_operators(subgraph: Subgraph, wanted: Iterable[str]) -> tuple[int, ...]:
    """The operators of a subgraph of initialisation that give `wanted` variables their first values, in order.

    All of them where one value may depend on another variable (`Subgraph.only_writes`).
    """
    if not subgraph.only_writes:
        return tuple(op.index for op in subgraph.operators)
    variables = set(wanted)
    producer = {t: op.index for op in subgraph.operators for t in op.outputs if t >= 0}
    todo = [op.index for op in subgraph.operators if not variables.isdisjoint(op.state_written)]
    found: set[int] = set()
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo.extend(producer[t] for t in subgraph.operators[index].inputs if t in producer)
    return tuple(sorted(found))
