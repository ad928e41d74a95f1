"""What the operators of a model ask of a runtime, as slices hold them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from converters import schema
from converters.dataflow import Graph
from converters.lowering import lowest_version
from converters.schema import damage_as_model_error


def needs(data: schema.Bytes, graph: Graph) -> tuple[dict[str, int], ...]:
    """For each operator of `graph`, what a runtime must take to run it as slices hold it: name -> version.

    Operators in the subgraphs that it calls are among them. `graph` must be of `data`; raises ModelError for
    bytes that do not hold together.
    """
    with damage_as_model_error("model"):
        model = schema.root(data)
        main = model.Subgraphs(0)
        called = {number: _all_of(model, graph, number) for number in graph.subgraphs}
        return tuple(
            merged(
                (
                    {row.name: lowest_version(model, main, main.Operators(row.index))},
                    *(called[number] for number in row.subgraphs),
                )
            )
            for row in graph.operators
        )


def merged(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The highest version of each operator in any of `tables`."""
    found: dict[str, int] = {}
    for table in tables:
        for name, version in table.items():
            found[name] = max(version, found.get(name, 0))
    return found


def _all_of(model: Any, graph: Graph, number: int) -> dict[str, int]:
    subgraph = model.Subgraphs(number)
    rows = graph.subgraphs[number].operators
    return merged({row.name: lowest_version(model, subgraph, subgraph.Operators(row.index))} for row in rows)
