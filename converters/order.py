"""An order in which a model's operators can run (pure).

The file's order is kept as far as possible: of the operators that may run, the first in the file comes next. Two
things move one. Some files are not sorted. And a file may read all its variables first and write them last: nearly
every cut would then part a variable from itself. So what depends on state but on no input moves down to where it is
used, and what only serves to write state moves up to where its value is known. The order in which one variable is
read and written stays the file's.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from converters.dataflow import Operator, Tensor
from slicemq.errors import ModelError

# Variable -> its users in the file's order, and whether each may write it.
Users: TypeAlias = "Mapping[str, Sequence[tuple[int, bool]]]"


def data_order(tensors: Sequence[Tensor], operators: Sequence[Operator]) -> tuple[int, ...]:
    """The operators (by index) sorted so that each comes after those that make what it reads.

    Raises ModelError for operators that wait for each other.
    """
    return _sorted(operators, _sources(tensors, operators), range(len(operators)))


def run_order(
    tensors: Sequence[Tensor],
    operators: Sequence[Operator],
    inputs: Sequence[int],
    outputs: Sequence[int],
    users: Users,
) -> tuple[int, ...]:
    """`data_order` of a model with these inputs and outputs that also keeps the order of all uses of a variable."""
    sources = _sources(tensors, operators)
    before = [list(row) for row in sources]
    for row in users.values():
        _keep_order(row, before)
    place = _sorted(operators, before, range(len(operators)))
    return _sorted(operators, before, _wishes(operators, before, sources, place, set(inputs), set(outputs), users))


def _sources(tensors: Sequence[Tensor], operators: Sequence[Operator]) -> list[list[int]]:
    """Operator -> those that make what it reads."""
    producer = {t: op.index for op in operators for t in op.outputs if t >= 0 and not tensors[t].variable}
    return [
        list(dict.fromkeys(producer[t] for t in (*op.inputs, *op.intermediates) if t in producer))
        for op in operators
    ]


def _keep_order(users: Sequence[tuple[int, bool]], before: Sequence[list[int]]) -> None:
    """Each write of a variable comes after the uses before it, each read after the write before it."""
    written = -1
    since: list[int] = []
    for index, writes in users:
        before[index].extend(since if writes else ())
        if written >= 0:
            before[index].append(written)
        if writes:
            written, since = index, []
        else:
            since.append(index)


def _sorted(operators: Sequence[Operator], before: Sequence[Sequence[int]], wish: Sequence[int]) -> tuple[int, ...]:
    """Kahn's algorithm: of the operators that may run, the one with the least wish comes next."""
    after: list[list[int]] = [[] for _ in operators]
    waits = [len(row) for row in before]
    for index, row in enumerate(before):
        for source in row:
            after[source].append(index)
    ready = [(wish[index], index) for index, count in enumerate(waits) if not count]
    heapq.heapify(ready)
    found = []
    while ready:
        _, index = heapq.heappop(ready)
        found.append(index)
        for target in after[index]:
            waits[target] -= 1
            if not waits[target]:
                heapq.heappush(ready, (wish[target], target))
    if len(found) < len(operators):
        stuck = operators[next(index for index, count in enumerate(waits) if count)]
        raise ModelError(f"operator {stuck.index} ({stuck.name}) waits for its own result: operators form a ring")
    return tuple(found)


def _wishes(
    operators: Sequence[Operator],
    before: Sequence[Sequence[int]],
    sources: Sequence[Sequence[int]],
    order: Sequence[int],
    inputs: set[int],
    outputs: set[int],
    users: Users,
) -> list[int]:
    """Where each operator would like to be: at its place in `order`, unless it only serves state."""
    fed: set[int] = set()
    for index in order:
        if inputs.intersection(operators[index].inputs) or not fed.isdisjoint(sources[index]):
            fed.add(index)
    after: list[list[int]] = [[] for _ in operators]
    targets: list[list[int]] = [[] for _ in operators]
    for index in order:
        for source in before[index]:
            after[source].append(index)
        for source in sources[index]:
            targets[source].append(index)
    writers = {index for row in users.values() for index, writes in row if writes}
    early: set[int] = set()
    for index in reversed(order):
        ends_here = index in writers and not operators[index].outputs
        leads_there = targets[index] and early.issuperset(targets[index])
        if index in fed and (ends_here or leads_there) and outputs.isdisjoint(operators[index].outputs):
            early.add(index)
    wish = [0] * len(operators)
    for place, index in enumerate(order):
        wish[index] = place
    for index in reversed(order):
        if index not in fed and after[index] and operators[index].outputs:
            wish[index] = min(wish[target] for target in after[index])
    for index in order:
        if index in early:
            wish[index] = max((wish[source] for source in before[index]), default=wish[index])
    return wish
