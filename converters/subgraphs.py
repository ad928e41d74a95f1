"""Which subgraphs an operator calls: the fields of option tables that hold a subgraph's index (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from converters import schema
from converters.schema import Budget, vector
from slicemq.errors import ModelError

# The runtime prepares called subgraphs by recursion.
_MAX_DEPTH = 64
# Each operator lists the subgraphs that it calls through others: damaged files must not make that quadratic.
MAX_CALLED = 200_000
_UNIONS = ("BuiltinOptions", "BuiltinOptions2")


@cache
def _fields() -> dict[tuple[str, int], tuple[str, tuple[str, ...]]]:
    """(union, type of options) -> (name of the table, its fields that hold subgraph indices), from the schema."""
    classes = schema.classes()
    found = {}
    for union in _UNIONS:
        for name, number in vars(getattr(classes, union)).items():
            table = getattr(classes, f"{name}T", None)
            if isinstance(number, int) and number and table is not None:
                fields = tuple(f for f in vars(table()) if "subgraph" in f.lower())
                if fields:
                    found[union, number] = (name, fields)
    return found


def called(operator: Any, budget: Budget, what: str) -> tuple[int, ...]:
    """The subgraphs that an operator of the file calls, as its options list them; () for most."""
    for union in _UNIONS:
        name, fields = _fields().get((union, getattr(operator, f"{union}Type")()), ("", ()))
        raw = getattr(operator, union)() if fields else None
        if raw is None:
            if fields:
                raise ModelError(f"{what}: its options are missing, expected the subgraph that it calls")
            continue
        table = getattr(schema.classes(), name)()
        table.Init(raw.Bytes, raw.Pos)
        found: list[int] = []
        for field in fields:
            getter = field[0].upper() + field[1:]
            if hasattr(table, f"{getter}Length"):
                found.extend(vector(table, getter, budget, what))
            else:
                found.append(getattr(table, getter)())
        return tuple(found)
    return ()


def renumber(options: Any, number: Mapping[int, int]) -> None:
    """Give each field of an options object that holds subgraph indices the new ones."""
    for field in vars(options):
        if "subgraph" in field.lower():
            old = getattr(options, field)
            new = [number[int(i)] for i in old] if hasattr(old, "__len__") else number[old]
            setattr(options, field, new)


def callees(calls: Sequence[set[int]]) -> dict[int, frozenset[int]]:
    """Subgraph -> those that it calls, directly and through others; the keys come callees first, the main one last.

    `calls` holds the direct calls of each subgraph; the keys are those that subgraph 0 needs. Raises ModelError for
    subgraphs that call themselves, and for what a runtime could not follow.
    """
    found: dict[int, frozenset[int]] = {}
    open_ones = [0]
    path = {0}
    todo = {0: sorted(calls[0])}
    total = 0
    while open_ones:
        current = open_ones[-1]
        if todo[current]:
            target = todo[current].pop()
            if target in path:
                raise ModelError(f"subgraph {target} calls itself: a runtime would never end")
            if target not in found:
                open_ones.append(target)
                path.add(target)
                todo[target] = sorted(calls[target])
                if len(open_ones) > _MAX_DEPTH:
                    raise ModelError(f"subgraphs call each other more than {_MAX_DEPTH} deep")
            continue
        found[current] = frozenset(calls[current]).union(*(found[target] for target in calls[current]))
        total += len(found[current])
        if total > MAX_CALLED:
            raise ModelError("subgraphs call each other in too many ways")
        path.discard(open_ones.pop())
    return found
