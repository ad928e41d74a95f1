"""Random planning problems, made as tables without a model: for benchmarks and for comparison with brute force.

Large ones (`star`, `pairwise`) are chains of units. Work and weights of a unit are random within a factor of
five, and weights grow with depth; what crosses falls in five steps, and a sixth of the cuts has six times as
much. Boards compute at 3 to 25 GFLOP/s on links of 5 to 900 Mbit/s. Memory: the chain is cut at random into as
many runs as there are nodes (two thirds of the units at most), and each node holds 1.2 to 1.3 times one of
these runs, so together they hold 1.2 to 1.3 times the model (more where there are more nodes than runs), and a
plan exists.

Small ones (`small`) are chains or dataflow graphs with skip connections of up to 8 units on up to 6 nodes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.planner.goal import Goal
from coordinator.planner.model import NodeSpec
from coordinator.planner.problem import Costs, Hops, NodeType, State
from coordinator.planner.tables.segments import Table

FLOAT_BYTES = 4.0
SPIKE = 6.0


@dataclass(frozen=True)
class Chain:
    """Units of a model: GFLOP and bytes of weights of each; what crosses at each of the positions, in bytes."""

    work: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    crosses: npt.NDArray[np.float64]


def chain(rng: random.Random, units: int) -> Chain:
    """A chain of `units`, about 8 GFLOP and 100 MB in all."""
    work = np.array([rng.uniform(1.0, 5.0) for _ in range(units)])
    depth = np.linspace(1.0, 4.0, units)
    weights = np.array([rng.uniform(1.0, 5.0) for _ in range(units)]) * depth
    crosses = np.array(
        [1.6e6 / 2.0 ** (5 * p // (units + 1)) * (SPIKE if rng.random() < 1 / 6 else 1.0) for p in range(units + 1)]
    )
    crosses[0], crosses[-1] = 6e5, 4e3
    return Chain(work * 8.0 / work.sum(), weights * 1e8 / weights.sum(), np.rint(crosses))


def star(seed: int, nodes: int, units: int, kinds: int | None = None, goal: Goal | None = None) -> Costs:
    """A chain on boards that all differ (or are of `kinds` kinds) behind a broker that is not what limits."""
    rng = random.Random(f"star {seed} {nodes} {units}")
    model = chain(rng, units)
    specs = _boards(rng, model, nodes, kinds or nodes)
    into, out, results = _chain_traffic(model.crosses)
    return _costs(model, specs, into, out, results, goal or Goal())


def pairwise(seed: int, nodes: int, units: int, goal: Goal | None = None) -> Costs:
    """A chain on boards that all differ, with a rate of its own between each two of them (the same both ways)."""
    rng = random.Random(f"pairwise {seed} {nodes} {units}")
    model = chain(rng, units)
    specs = _boards(rng, model, nodes, nodes)
    into, out, results = _chain_traffic(model.crosses)
    into[1:], out[:, :-1] = 0.0, 0.0
    costs = _costs(model, specs, into, out, results, goal or Goal(), merge=False)
    return _with_hops(costs, _pair_rates(rng, nodes), model.crosses)


def small(
    seed: int,
    *,
    binding: bool | None = None,
    broker: bool | None = None,
    hops: bool = False,
    graph: bool | None = None,
    errors: bool | None = None,
    goal: Goal | None = None,
) -> Costs:
    """Up to 6 nodes and 8 units, for comparison with all plans; what is None is drawn.

    `binding`: memory is so scarce that there may be no plan. `broker`: its rate may be what limits. `graph`:
    units with skip connections, states are its down-sets; `errors`: two codecs at each cut, of which one adds
    to the error of the results; give a goal with a budget. `hops`: pairwise links, every node a type.
    """
    rng = random.Random(f"small {seed}")

    def drawn(given: bool | None, share: float) -> bool:
        chance = rng.random() < share
        return chance if given is None else given

    binding, broker = drawn(binding, 0.5), drawn(broker, 0.3)
    graph, errors = drawn(graph, 0.4), drawn(errors, 0.2)
    units, nodes = rng.randint(1, 6 if graph else 8), rng.randint(1, 6)
    users = [_users(rng, u, units, graph) for u in range(units)]
    sizes = [float(rng.choice((1, 4, 10, 60)) * rng.randint(300, 1000)) for _ in range(units)]
    states = _states(users, units, errors) if graph or errors else ()
    done = [state.done for state in states] or [(1 << p) - 1 for p in range(units + 1)]
    share = [0.5 if states and state.codec == "f16" else 1.0 for state in states] or [1.0] * len(done)
    n = len(done) - 1
    into, out, results = np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1)), np.zeros((n + 1, n + 1))
    for i in range(n):
        for j in range(i + 1, n + 1):
            mine = done[j] & ~done[i]
            if done[i] & ~done[j] or not mine:
                continue
            taken = [u for u in range(units) if done[i] >> u & 1 and users[u] & mine]
            given = [u for u in range(units) if mine >> u & 1 and users[u] & ~done[j]]
            into[i, j] = round(share[i] * sum(sizes[u] for u in taken)) + (900.0 if mine & 1 else 0.0)
            results[i, j] = 100.0 if mine >> (units - 1) & 1 else 0.0
            out[i, j] = round(share[j] * sum(sizes[u] for u in given)) + results[i, j]
    if hops:
        into[1:], out[:, :-1], results[:, :-1] = 0.0, 0.0, 0.0
    model = Chain(
        np.array([rng.uniform(0.01, 0.05) for _ in range(units)]),
        np.array([float(rng.randint(1_000, 1_000_000)) for _ in range(units)]),
        np.array(sizes),
    )
    specs = _small_boards(rng, float(model.weights.sum()), nodes, binding)
    made = _costs(model, specs, into, out, results, goal or Goal(), merge=not hops, states=states)
    rate = rng.choice((2e5, 1e6, 4e6)) if broker and not hops else None
    lossy = np.array([0.01 * rng.randint(1, 4) if s.codec == "f16" else 0.0 for s in states]) if errors else None
    limit = rng.randint(1, nodes) if rng.random() < 0.2 else nodes
    found = Costs(
        n=n,
        types=made.types,
        bytes_in=into,
        bytes_out=out,
        relayed=into + results,
        memory=made.memory,
        broker_rate=rate,
        slice_pins={},
        max_slices=min(limit, n),
        states=states,
        errors=lossy,
        goal=made.goal,
    )
    if not hops:
        return found
    crossing = np.array(
        [
            share[s] * sum(sizes[u] for u in range(units) if done[s] >> u & 1 and users[u] & ~done[s])
            for s in range(n + 1)
        ]
    )
    return _with_hops(found, _pair_rates(rng, nodes), crossing)


def _users(rng: random.Random, unit: int, units: int, graph: bool) -> int:
    """Which units read what `unit` makes, as bits."""
    later = range(unit + 1, units)
    if not later:
        return 0
    following = 1 << (unit + 1)
    if not graph:
        return following | (1 << rng.choice(later) if rng.random() < 0.25 else 0)
    chosen = sum(1 << u for u in later if rng.random() < 0.3)
    return chosen or 1 << rng.choice(later)


def _states(users: Sequence[int], units: int, two_codecs: bool) -> tuple[State, ...]:
    """All down-sets of the graph in an order in which arcs go forward; inner ones with each codec."""
    needs = [sum(1 << p for p in range(u) if users[p] >> u & 1) for u in range(units)]
    sets = [
        done for done in range(1 << units) if all(not done >> u & 1 or needs[u] & ~done == 0 for u in range(units))
    ]
    found: list[State] = []
    for done in sorted(sets, key=lambda done: (bin(done).count("1"), done)):
        inner = two_codecs and 0 < done < (1 << units) - 1
        found += [State(done, codec) for codec in (("raw", "f16") if inner else ("raw",))]
    return tuple(found)


def _boards(rng: random.Random, model: Chain, nodes: int, kinds: int) -> list[NodeSpec]:
    units = len(model.work)
    runs = max(1, min(nodes, 2 * units // 3))
    cuts = sorted(rng.sample(range(1, units), runs - 1))
    sums = np.concatenate([[0.0], np.cumsum(model.weights)])
    held = np.diff(sums[[0, *cuts, units]]) + _buffers(model)
    room = [float(held[k % runs]) * rng.uniform(1.2, 1.3) for k in range(nodes)]
    rng.shuffle(room)
    if kinds < nodes:
        # Equal nodes need equal memory: each kind has the most that any of its nodes would have.
        room = [max(room[kind::kinds]) for kind in range(kinds)]
    rows = [
        (
            int(room[k]),
            {"all": rng.uniform(3.0, 25.0)},
            5e6 / 8 * 180 ** rng.random(),
            5e6 / 8 * 180 ** rng.random(),
            0.001 * rng.randint(1, 20),
            rng.uniform(1.0, 8.0),
        )
        for k in range(kinds)
    ]
    return [
        NodeSpec(f"n{k}", memory, speeds, up, down, rtt, watts=watts, joules_per_byte=2e-8)
        for k, (memory, speeds, up, down, rtt, watts) in ((k, rows[k % kinds]) for k in range(nodes))
    ]


def _small_boards(rng: random.Random, whole: float, nodes: int, binding: bool) -> list[NodeSpec]:
    kinds = [
        (
            int(whole * (rng.uniform(0.15, 1.0) if binding else 10.0) + 1e5),
            {"all": rng.choice((1.0, 2.0, rng.uniform(0.5, 4.0)))},
            rng.choice((1e6, 5e6, 12.5e6)),
            rng.choice((1e6, 5e6, 12.5e6)),
            rng.choice((0.0, 0.002)),
            rng.choice((1.0, 3.0, 9.0)),
        )
        for _ in range(nodes if rng.random() < 0.5 else rng.randint(1, nodes))
    ]
    chosen = [rng.choice(kinds) for _ in range(nodes)]
    return [
        NodeSpec(f"n{k}", memory, speeds, up, down, rtt, watts=watts, joules_per_byte=1e-7)
        for k, (memory, speeds, up, down, rtt, watts) in enumerate(chosen)
    ]


def _pair_rates(rng: random.Random, nodes: int) -> Table:
    rates = np.full((nodes, nodes), 5e6 / 8)
    for a in range(nodes):
        for b in range(a + 1, nodes):
            rates[a, b] = rates[b, a] = 5e6 / 8 * 180 ** rng.random()
    return rates


def _chain_traffic(crosses: npt.NDArray[np.float64]) -> tuple[Table, Table, Table]:
    n = len(crosses) - 1
    into = np.repeat(crosses[:, None], n + 1, axis=1)
    out = np.repeat(crosses[None, :], n + 1, axis=0)
    results = np.zeros((n + 1, n + 1))
    results[:, n] = crosses[n]
    return into, out, results


def _buffers(model: Chain) -> float:
    return FLOAT_BYTES * 2e5 / len(model.work)


def _costs(
    model: Chain,
    specs: Sequence[NodeSpec],
    into: Table,
    out: Table,
    results: Table,
    goal: Goal,
    *,
    merge: bool = True,
    states: tuple[State, ...] = (),
) -> Costs:
    """Tables of everything; `merge`: equal nodes are one type."""
    n, units = len(into) - 1, len(model.work)
    done = [state.done for state in states] or [(1 << p) - 1 for p in range(units + 1)]
    inside = np.array([[done_ >> u & 1 for u in range(units)] for done_ in done], dtype=np.float64)
    work, weights = inside @ model.work, inside @ model.weights
    # An arc leads to a proper superset of what is done.
    lacks = (inside[:, None, :] > inside[None, :, :]).any(axis=2)
    size = inside.sum(axis=1)
    arcs = ~lacks & (size[None, :] > size[:, None])
    amount = work[None, :] - work[:, None]
    memory = weights[None, :] - weights[:, None] + _buffers(model)
    groups: dict[tuple[object, ...], list[NodeSpec]] = {}
    for number, spec in enumerate(specs):
        groups.setdefault((spec.kind(), 0 if merge else number), []).append(spec)
    types = []
    for members in groups.values():
        spec = members[0]
        compute = amount / spec.speeds["all"] + 0.0005
        fits = arcs & (memory <= spec.memory)
        slowest = np.maximum(compute, np.maximum(into / spec.down, out / spec.up))
        types.append(
            NodeType(
                spec=spec,
                ids=tuple(member.id for member in members),
                compute=compute,
                period=np.where(fits, slowest, np.inf),
                bytes_in=into,
                bytes_out=out,
                memory=memory,
                steps=model.work / spec.speeds["all"],
                whole=bool(fits[0, n]),
                useful=bool(fits.any()),
            )
        )
    return Costs(
        n=n,
        types=tuple(types),
        bytes_in=into,
        bytes_out=out,
        relayed=into + results,
        memory=memory,
        broker_rate=None,
        slice_pins={},
        max_slices=min(n, len(specs)),
        states=states,
        goal=goal,
    )


def _with_hops(costs: Costs, rates: Table, crosses: npt.NDArray[np.float64]) -> Costs:
    bytes_ = crosses.copy()
    bytes_[0] = bytes_[-1] = 0.0
    return Costs(
        n=costs.n,
        types=costs.types,
        bytes_in=costs.bytes_in,
        bytes_out=costs.bytes_out,
        relayed=costs.relayed,
        memory=costs.memory,
        broker_rate=None,
        slice_pins={},
        max_slices=costs.max_slices,
        states=costs.states,
        hops=Hops(bytes_, rates),
        errors=costs.errors,
        goal=costs.goal,
    )
