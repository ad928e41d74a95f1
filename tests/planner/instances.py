"""Random models and fleets, and an oracle that tries every plan; written from the definitions, without tables."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

from converters.classes import class_of
from converters.graph import Graph, Operator, Tensor
from converters.profile import Profile
from coordinator.planner.model import Fleet, NodeSpec, Overheads
from coordinator.planner.tables.segments import FRAME_BYTES, wire_bytes

NAMES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD")


def make_graph(
    operators: Sequence[tuple[str, Sequence[int], Sequence[int], bool]],
    nbytes: Sequence[int],
    inputs: Sequence[int],
    outputs: Sequence[int],
    weights: Sequence[int] | None = None,
) -> Graph:
    """A graph from (name, inputs, outputs, constant) rows and the tensors' sizes."""
    constants = {t for _, _, outs, constant in operators if constant for t in outs}
    return Graph(
        sha256="ab" * 32,
        size=1000,
        description="made by a test",
        tensors=tuple(
            Tensor(
                index=t,
                name=f"t{t}",
                dtype="float32",
                shape=(1, size // 4),
                signature=(1, size // 4),
                nbytes=size,
                constant=t in constants,
                weight_bytes=0,
                buffer=0,
            )
            for t, size in enumerate(nbytes)
        ),
        operators=tuple(
            Operator(
                index=number,
                name=name,
                version=1,
                inputs=tuple(ins),
                outputs=tuple(outs),
                intermediates=(),
                constant=constant,
                dead=False,
                macs=1000,
                weight_bytes=weights[number] if weights else 0,
            )
            for number, (name, ins, outs, constant) in enumerate(operators)
        ),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        steps=tuple(number for number, row in enumerate(operators) if not row[3]),
    )


def random_graph(rng: random.Random, steps: int) -> Graph:
    """Skip connections, one or two inputs and outputs, and constant operators with one or more consumers."""
    tensors = rng.choice((1, 1, 2))
    inputs = list(range(tensors))
    made, constants = list(inputs), []
    rows: list[tuple[str, Sequence[int], Sequence[int], bool]] = []
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 2)):
            rows.append(("DEQUANTIZE", (-1,), (tensors,), True))
            constants.append(tensors)
            tensors += 1
    for step in range(steps):
        ins = {made[-1]} if step else set(inputs)
        if rng.random() < 0.4:
            ins.add(rng.choice(made))
        if constants and rng.random() < 0.5:
            ins.add(rng.choice(constants))
        outs = list(range(tensors, tensors + rng.choice((1, 1, 1, 2))))
        tensors += len(outs)
        rows.append((rng.choice(NAMES), sorted(ins), outs, False))
        made += outs
    outputs = [made[-1]] + ([rng.choice(made[len(inputs) :])] if rng.random() < 0.3 else [])
    sizes = [4 * rng.choice((100, 1000, 10_000, 50_000)) for _ in range(tensors)]
    weights = [rng.randint(0, 1_000_000) for _ in rows]
    return make_graph(rows, sizes, inputs, sorted(set(outputs)), weights)


def random_profile(rng: random.Random, graph: Graph) -> Profile:
    return Profile(
        seconds={
            operator.index: rng.choice((0.001, 0.004, 0.01)) * rng.uniform(0.5, 2) for operator in graph.operators
        },
        runtime="test 1.0",
        measured=True,
        overhead=0.0005,
    )


def random_fleet(rng: random.Random, nodes: int, memory: int, broker: float | None = None) -> Fleet:
    kinds = [
        NodeSpec(
            id="kind",
            memory=int(memory * rng.uniform(0.6, 1.6)),
            speeds={"conv": rng.uniform(0.3, 2), "depthwise": rng.uniform(0.3, 2), "dense": rng.uniform(0.3, 2)}
            if rng.random() < 0.7
            else {"all": rng.choice((0.5, 1.0))},
            up=rng.choice((1e6, 5e6, 12.5e6)),
            down=rng.choice((1e6, 5e6, 12.5e6)),
            rtt=rng.choice((0.0, 0.002)),
        )
        for _ in range(rng.randint(1, nodes))
    ]
    specs = []
    for number in range(nodes):
        kind = rng.choice(kinds)
        specs.append(NodeSpec(f"n{number}", kind.memory, kind.speeds, kind.up, kind.down, kind.rtt, kind.runtime))
    return Fleet(tuple(specs), broker)


def weights_memory(graph: Graph, group: Iterable[int]) -> int:
    """A stand-in for the memory formula: weights and the largest tensor touched."""
    largest = max(
        (
            graph.tensors[t].nbytes
            for o in group
            for t in (*graph.operators[o].inputs, *graph.operators[o].outputs)
            if t >= 0
        ),
        default=0,
    )
    return sum(graph.operators[o].weight_bytes for o in group) + largest


class Oracle:
    """Stage figures straight from the definitions."""

    def __init__(self, graph: Graph, profile: Profile, overheads: Overheads) -> None:
        self.graph, self.profile, self.overheads = graph, profile, overheads
        self.constants = {t: o.index for o in graph.operators if o.constant for t in o.outputs}

    def stage(self, i: int, j: int) -> tuple[list[int], set[int], set[int], set[int]]:
        """Steps, tensors in, tensors to other slices, results."""
        graph = self.graph
        steps = [graph.operators[index] for index in graph.steps[i:j]]
        later = [graph.operators[index] for index in graph.steps[j:]]
        made = {t for o in steps for t in o.outputs}
        taken = {t for o in steps for t in o.inputs if t >= 0 and t not in self.constants} - made
        given = made & {t for o in later for t in o.inputs}
        return [o.index for o in steps], taken, given, made & set(graph.outputs)

    def times(self, i: int, j: int, node: NodeSpec) -> tuple[float, float, float, float]:
        """Compute, down and up seconds, and the bytes that the broker delivers."""
        operators, taken, given, results = self.stage(i, j)
        tensors = self.graph.tensors
        into = sum(wire_bytes(tensors[t]) for t in taken) + FRAME_BYTES * bool(taken)
        answer = sum(wire_bytes(tensors[t]) for t in results) + FRAME_BYTES * bool(results)
        out = sum(wire_bytes(tensors[t]) for t in given) + FRAME_BYTES * bool(given) + answer
        compute = sum(
            self.overheads.computing
            * self.profile.seconds[o]
            / node.speed(class_of(self.graph, self.graph.operators[o]))
            for o in operators
        )
        cost = self.overheads
        moving = cost.message * (bool(into) + bool(out)) + cost.receive_per_byte * into + cost.send_per_byte * out
        compute += (self.profile.overhead + moving) / node.mean_speed
        return compute, into / node.down, out / node.up, into + answer

    def plans(self, fleet: Fleet) -> Iterator[tuple[tuple[int, ...], tuple[NodeSpec, ...]]]:
        """All cuts (positions from 0 to n) with all orders of nodes."""
        n = len(self.graph.steps)
        for slices in range(1, min(n, len(fleet.nodes)) + 1):
            for inner in itertools.combinations(range(1, n), slices - 1):
                for nodes in itertools.permutations(fleet.nodes, slices):
                    yield (0, *inner, n), nodes
