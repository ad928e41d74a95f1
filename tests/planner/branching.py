"""Random models with branches, and their down-sets and arcs straight from the definitions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from converters.graph import Graph
from coordinator.planner.problem import State
from tests.planner.instances import NAMES, make_graph


def branching_graph(rng: random.Random, steps: int, integers: float = 0.0) -> Graph:
    """Each step reads one or two earlier tensors; what nobody reads is an output. Some tensors may be int32."""
    inputs = list(range(rng.choice((1, 1, 2))))
    made, rows = list(inputs), []
    for _ in range(steps):
        ins = {made[-1]} if rng.random() < 0.5 else {rng.choice(made)}
        if rng.random() < 0.4:
            ins.add(rng.choice(made))
        outs = list(range(made[-1] + 1, made[-1] + 1 + rng.choice((1, 1, 1, 2))))
        rows.append((rng.choice(NAMES), sorted(ins), outs, False))
        made += outs
    read = {t for _, ins, _, _ in rows for t in ins}
    outputs = [t for t in made[len(inputs) :] if t not in read]
    outputs += [t for t in made[len(inputs) :] if t in read and rng.random() < 0.1]
    sizes = [4 * rng.choice((100, 1000, 10_000, 50_000)) for _ in made]
    weights = [rng.randint(0, 1_000_000) for _ in rows]
    graph = make_graph(rows, sizes, inputs, sorted(outputs), weights)
    kinds = [replace(t, dtype="int32") if rng.random() < integers else t for t in graph.tensors]
    return replace(graph, tensors=tuple(kinds))


def parallel(lengths: Sequence[int]) -> Graph:
    """fork -> branches of these lengths -> join."""
    rows: list[tuple[str, Sequence[int], Sequence[int], bool]] = [("CONV_2D", (0,), (1,), False)]
    tensors, ends = 2, []
    for length in lengths:
        last = 1
        for _ in range(length):
            rows.append(("CONV_2D", (last,), (tensors,), False))
            last, tensors = tensors, tensors + 1
        ends.append(last)
    rows.append(("ADD", tuple(ends), (tensors,), False))
    return make_graph(rows, [4000] * (tensors + 1), (0,), (tensors,))


def is_down_set(graph: Graph, done: int) -> bool:
    """Whether each step of `done` reads only what steps of `done` make."""
    return all(
        graph.producer.get(tensor) is None or done >> graph.steps.index(graph.producer[tensor]) & 1
        for place, step in enumerate(graph.steps)
        if done >> place & 1
        for tensor in graph.operators[step].inputs
    )


def stage(graph: Graph, before: int, after: int) -> tuple[set[int], set[int], set[int]]:
    """Tensors in, tensors to other slices, results of the arc between two down-sets."""
    inside = [graph.operators[s] for p, s in enumerate(graph.steps) if (after & ~before) >> p & 1]
    outside = [graph.operators[s] for p, s in enumerate(graph.steps) if not (after & ~before) >> p & 1]
    made = {t for o in inside for t in o.outputs}
    taken = {t for o in inside for t in o.inputs} - made
    return taken, made & {t for o in outside for t in o.inputs}, made & set(graph.outputs)


def skipping(graph: Graph, before: int, after: int) -> set[int]:
    """Tensors that are made before the arc and read after it."""
    first = [graph.operators[s] for p, s in enumerate(graph.steps) if before >> p & 1]
    last = [graph.operators[s] for p, s in enumerate(graph.steps) if not after >> p & 1]
    return {t for o in first for t in o.outputs} & {t for o in last for t in o.inputs}


def random_path(
    rng: random.Random, states: Sequence[State], possible: Sequence[Sequence[bool]]
) -> list[int] | None:
    """Numbers of states of a random plan from the first to the last; None when the walk ends elsewhere."""
    path = [0]
    while path[-1] < len(states) - 1:
        onward = [j for j in range(path[-1] + 1, len(states)) if possible[path[-1]][j]]
        if not onward:
            return None
        path.append(rng.choice(onward[: rng.choice((3, 10, len(onward)))]))
    return path
