"""The planner against all plans: random small problems, each solved by the planner and by trying everything.

    python -m benchmarks.planner_exactness [--count N] [--seed N] [--format text|json] [--resume FILE]

Up to 6 nodes and 8 units (5 and 5 for replicated stages); memory binds in every second problem. Kinds: contiguous
slices behind a broker (some with pinned slices), a broker whose rate may be what limits, links between pairs of
nodes, sets of steps as states, codecs with an error budget, other objectives and limits, whole-model copies and
replicated stages. Brute force is plain Python over computing seconds, bytes, rates and memory, and shares nothing
with the planner. A problem differs when

- there is a plan and the planner finds none, or there is none and it finds one, or its plan is none;
- the plan's objective is above the best one by more than the share that the goal leaves free;
- the planner's bound is above the best objective;
- a plan found by counting has a bound below the best objective, by more than that share;
- the planner raises anything else.

The exit code is 1 when any problem differs. With `--resume` the state is kept in FILE and a second run goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.planner_instances import small
from coordinator.planner.answer import Layout, NoPlanError, Split
from coordinator.planner.goal import Goal
from coordinator.planner.methods.exact import solve
from coordinator.planner.problem import Costs
from coordinator.planner.shapes.copies import copies
from coordinator.planner.shapes.replicas import replicas, with_bound

KINDS = ("star", "broker", "pairwise", "graph", "codecs", "goals", "copies", "replicas")
FLOATS = 1e-9
TURNS = 64
SAVE_EVERY = 200


@dataclass
class Kind:
    """What was seen of one kind of problems. `worst` is the largest share that a plan was above the best."""

    problems: int = 0
    binding: int = 0
    without_plan: int = 0
    bound_is_best: int = 0
    worst: float = 0.0
    planner_seconds: float = 0.0
    brute_seconds: float = 0.0


@dataclass
class State:
    """Where the run is: problems `seed` to `seed + done - 1` have been looked at."""

    seed: int
    done: int = 0
    kinds: dict[str, Kind] = field(default_factory=lambda: {name: Kind() for name in KINDS})
    differences: list[str] = field(default_factory=list)


def problem(seed: int) -> tuple[str, bool, Costs]:
    """The kind of a problem, whether memory binds, and its costs."""
    kind, binding = KINDS[seed % len(KINDS)], bool(seed // len(KINDS) % 2)
    rng = random.Random(f"exactness {seed}")
    within = rng.choice((0.0, 1e-3))
    if kind == "pairwise":
        return kind, binding, small(seed, binding=binding, hops=True, graph=rng.random() < 0.3, errors=False)
    if kind == "graph":
        return kind, binding, small(seed, binding=binding, graph=True, errors=False, goal=Goal(within=within))
    if kind == "codecs":
        goal = Goal(within=within, error_budget=rng.choice((0.0, 0.02, 0.05, 1.0)))
        return kind, binding, small(seed, binding=binding, errors=True, graph=rng.random() < 0.3, goal=goal)
    if kind == "replicas":
        tried = (small(seed + 1_000_000 * k, binding=binding, graph=False, errors=False) for k in range(1000))
        return kind, binding, next(c for c in tried if c.n <= 5 and sum(t.count for t in c.types) <= 5)
    broker = rng.random() < 0.3 if kind in ("goals", "copies") else kind == "broker"
    costs = small(seed, binding=binding, broker=broker, graph=False, errors=False, goal=Goal(within=within))
    if kind == "goals":
        return kind, binding, replace(costs, goal=_goal(rng, costs, within))
    if kind == "star" and rng.random() < 0.2:
        single = [k for k, each in enumerate(costs.types) if each.count == 1]
        if single:
            costs = replace(costs, slice_pins={rng.randrange(costs.max_slices): rng.choice(single)})
    return kind, binding, costs


def _goal(rng: random.Random, costs: Costs, within: float) -> Goal:
    """Another objective, or limits beside the period; near what plans have, so that some leave none."""
    plans = [brute(replace(costs, goal=Goal(objective=name))) for name in ("throughput", "latency", "energy")]
    found = [each[1] for each in plans if each is not None]
    if not found:
        return Goal(objective="latency", within=within)

    def near(place: int) -> float:
        return rng.choice((0.99, 1.0, 1.2, 2.0)) * rng.choice(found)[place] if rng.random() < 0.5 else math.inf

    return Goal(
        objective=rng.choice(("throughput", "latency", "nodes", "energy")),
        max_period=near(0),
        max_latency=near(1),
        max_energy=near(2),
        max_nodes=rng.choice((None, None, 1, 2, 3)),
        within=within,
    )


Figures = tuple[float, float, float, int]
"""Period, latency, energy, nodes."""


class Plans:
    """All plans of a problem, by the definitions: an arc on a node, then one on another node, to the end."""

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        steps = [state.done for state in costs.states] or [(1 << place) - 1 for place in range(costs.n + 1)]
        self.nodes = [(k, node) for k, kind in enumerate(costs.types) for node in kind.ids]
        self.arcs: dict[tuple[int, int], list[tuple[int, float, float, float]]] = {}
        rate = costs.broker_rate
        self.relayed = {
            (i, j): float(costs.relayed[i, j]) / rate if rate else 0.0
            for i in range(costs.n)
            for j in range(i + 1, costs.n + 1)
        }
        for k, kind in enumerate(costs.types):
            spec = kind.spec
            for i in range(costs.n):
                for j in range(i + 1, costs.n + 1):
                    if steps[i] & ~steps[j] or steps[i] == steps[j] or kind.memory[i, j] > spec.memory:
                        continue
                    into, out = float(kind.bytes_in[i, j]), float(kind.bytes_out[i, j])
                    compute, links = float(kind.compute[i, j]), (into / spec.down, out / spec.up)
                    energy = compute * spec.watts + (into + out) * spec.joules_per_byte
                    latency = compute + sum(links) + spec.rtt
                    self.arcs.setdefault((k, i), []).append((j, max(compute, *links), latency, energy))

    def hop(self, a: int, b: int, state: int) -> float:
        """Seconds from a node of type a to one of type b."""
        hops = self.costs.hops
        if hops is None or hops.bytes[state] == 0:
            return 0.0
        return float(hops.bytes[state]) / float(hops.rates[a, b]) if hops.rates[a, b] > 0 else math.inf

    def value(self, figures: Figures) -> float:
        """What the goal makes least."""
        period, latency, energy, nodes = figures
        return {"latency": latency, "energy": energy, "nodes": float(nodes)}.get(self.costs.goal.objective, period)

    def keeps(self, figures: Figures) -> bool:
        """Whether the goal's limits hold."""
        goal = self.costs.goal
        most = (goal.max_period, goal.max_latency, goal.max_energy, goal.max_nodes or math.inf)
        return all(value <= limit * (1 + FLOATS) for value, limit in zip(figures, most, strict=True))

    def best(self) -> tuple[float, Figures] | None:
        """The least objective of all plans that keep the limits, and that plan's figures."""
        self._best: tuple[float, Figures] | None = None
        left = [kind.count for kind in self.costs.types]
        self._follow(0, -1, left, (0.0, 0.0, 0.0, 0), 0.0, 0.0)
        return self._best

    def _follow(
        self, state: int, last: int, left: list[int], so_far: Figures, relayed: float, error: float
    ) -> None:
        costs = self.costs
        period = max(so_far[0], relayed)
        figures = (period, *so_far[1:])
        # What a plan has so far only grows: no plan is lost.
        if not self.keeps(figures) or (self._best is not None and self.value(figures) >= self._best[0]):
            return
        if state == costs.n:
            if all(number < figures[3] for number in costs.slice_pins):
                self._best = self.value(figures), figures
            return
        number = figures[3]
        if number >= costs.max_slices:
            return
        pinned = costs.slice_pins.get(number)
        for k in range(len(costs.types)):
            if not left[k] or (pinned is not None and k != pinned):
                continue
            hop = self.hop(last, k, state) if last >= 0 else 0.0
            left[k] -= 1
            for end, stage, latency, energy in self.arcs.get((k, state), ()):
                worse = error + (float(costs.errors[end]) if costs.errors is not None and end < costs.n else 0.0)
                if worse > costs.goal.error_budget * (1 + FLOATS) + 1e-15:
                    continue
                after = (
                    max(so_far[0], stage, hop),
                    so_far[1] + latency + hop,
                    so_far[2] + energy,
                    number + 1,
                )
                self._follow(end, k, left, after, relayed + self.relayed[state, end], worse)
            left[k] += 1

    def of(self, split: Split) -> Figures | None:
        """The figures of a planner's plan; None: it is no plan."""
        costs, kind_of = self.costs, {node: k for k, node in self.nodes}
        figures: Figures = (0.0, 0.0, 0.0, 0)
        state, last, relayed, error = 0, -1, 0.0, 0.0
        if len(set(split.nodes)) != len(split.nodes) or len(split.segments) > costs.max_slices:
            return None
        if any(number >= len(split.nodes) for number in costs.slice_pins):
            return None
        for number, ((i, j), node) in enumerate(zip(split.segments, split.nodes, strict=True)):
            k = kind_of[node]
            row = next((row for row in self.arcs.get((k, i), ()) if row[0] == j), None)
            if row is None or i != state or costs.slice_pins.get(number, k) != k:
                return None
            hop = self.hop(last, k, i) if last >= 0 else 0.0
            period, latency, energy, _ = figures
            figures = max(period, row[1], hop), latency + row[2] + hop, energy + row[3], number + 1
            relayed += self.relayed[i, j]
            error += float(costs.errors[j]) if costs.errors is not None and j < costs.n else 0.0
            state, last = j, k
        figures = (max(figures[0], relayed), *figures[1:])
        whole = state == costs.n and error <= costs.goal.error_budget * (1 + FLOATS) + 1e-15
        return figures if whole and self.keeps(figures) else None

    def copies(self) -> float | None:
        """The least period of whole-model copies with cycles of at most TURNS turns."""
        seconds = []
        for k, kind in enumerate(self.costs.types):
            seconds += [stage for j, stage, _, _ in self.arcs.get((k, 0), ()) if j == self.costs.n] * kind.count
        if not seconds:
            return None
        shares = (
            sorted(turn * value / turns for value in seconds for turn in range(1, turns + 1))[turns - 1]
            for turns in range(1, TURNS + 1)
        )
        return max(min(shares), self.relayed[0, self.costs.n])

    def replicated(self) -> float | None:
        """The least period of pipelines whose stages have any nodes in any shares of frames, whole turns or not."""
        found = [self._shared(path) for path in self._paths(0)]
        return min((period for period in found if math.isfinite(period)), default=None)

    def _paths(self, state: int) -> Iterator[list[tuple[int, int]]]:
        if state == self.costs.n:
            yield []
            return
        for end in range(state + 1, self.costs.n + 1):
            for rest in self._paths(end):
                yield [(state, end), *rest]

    def _shared(self, path: list[tuple[int, int]]) -> float:
        if len(path) > min(self.costs.max_slices, len(self.nodes)):
            return math.inf
        tables = []
        for i, j in path:
            stage_of = {k: [s for end, s, _, _ in self.arcs.get((k, i), ()) if end == j] for k, _ in self.nodes}
            tables.append([1 / stage_of[k][0] if stage_of[k] else 0.0 for k, _ in self.nodes])
        broker = sum(self.relayed[arc] for arc in path)
        best = math.inf
        for choice in range(len(path) ** len(self.nodes)):
            rates = [0.0] * len(path)
            for node in range(len(self.nodes)):
                choice, stage = divmod(choice, len(path))
                rates[stage] += tables[stage][node]
            if all(rates):
                best = min(best, max(max(1 / rate for rate in rates), broker))
        return best


def brute(costs: Costs) -> tuple[float, Figures] | None:
    """The least objective of all plans and its figures; None: there is no plan."""
    return Plans(costs).best()


def compare(seed: int, state: State) -> None:
    """Solve one problem twice and note what is to be noted."""
    try:
        _compare(seed, state)
    except Exception as error:  # noqa: BLE001 - whatever the planner raises is a difference, and the run goes on
        state.differences.append(f"seed {seed}: {type(error).__name__}: {error}")


def _compare(seed: int, state: State) -> None:
    name, binding, costs = problem(seed)
    kind = state.kinds[name]
    kind.problems += 1
    kind.binding += binding
    where = f"seed {seed} ({name})"
    plans = Plans(costs)
    if name in ("copies", "replicas"):
        _compare_shares(name, where, kind, plans, state.differences)
        return
    begun = time.process_time()
    best = plans.best()
    kind.brute_seconds += time.process_time() - begun
    begun = time.process_time()
    try:
        found: Split | None = solve(costs)
    except NoPlanError as error:
        found = None
        if not error.proved:
            state.differences.append(f"{where}: the planner does not know whether there is a plan")
    kind.planner_seconds += time.process_time() - begun
    if best is None or found is None:
        kind.without_plan += best is None
        if (best is None) != (found is None):
            state.differences.append(f"{where}: best {best}, found {found}")
        return
    figures = plans.of(found)
    if figures is None:
        state.differences.append(f"{where}: {found} is no plan")
        return
    least, value, bound = best[0], plans.value(figures), found.lower_bound
    kind.worst = max(kind.worst, value / least - 1)
    kind.bound_is_best += bound >= least * (1 - FLOATS)
    if value > least * (1 + costs.goal.within + FLOATS):
        state.differences.append(f"{where}: {value} found, {least} is possible")
    if bound > least * (1 + FLOATS):
        state.differences.append(f"{where}: bound {bound}, {least} is possible")
    if found.method == "exact-counts" and bound < least * (1 - costs.goal.within - FLOATS):
        state.differences.append(f"{where}: bound {bound} by counting, {least} is the best")
    for figure, mine, what in ((found.period, figures[0], "period"), (found.latency, figures[1], "latency")):
        if not math.isclose(figure, mine, rel_tol=1e-9):
            state.differences.append(f"{where}: {what} {figure}, it is {mine}")


def _compare_shares(name: str, where: str, kind: Kind, plans: Plans, differences: list[str]) -> None:
    costs = plans.costs
    begun = time.process_time()
    best = plans.copies() if name == "copies" else plans.replicated()
    kind.brute_seconds += time.process_time() - begun
    begun = time.process_time()
    try:
        found: Layout | None = copies(costs) if name == "copies" else with_bound(costs, replicas(costs))
    except NoPlanError:
        found = None
    kind.planner_seconds += time.process_time() - begun
    if best is None or found is None:
        kind.without_plan += best is None
        if (best is None) != (found is None):
            differences.append(f"{where}: best {best}, found {found}")
        return
    kind.worst = max(kind.worst, found.period / best - 1)
    kind.bound_is_best += found.lower_bound >= best * (1 - 1e-6)
    if found.lower_bound > best * (1 + FLOATS):
        differences.append(f"{where}: bound {found.lower_bound}, {best} is possible")
    if found.period < best * (1 - FLOATS):
        differences.append(f"{where}: period {found.period}, {best} is the best there is")
    if name == "copies" and found.period > best * (1 + costs.goal.within + FLOATS):
        differences.append(f"{where}: period {found.period}, {best} is possible")


def main() -> int:
    """Run; the exit code is 1 when anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--resume", type=Path)
    given = parser.parse_args()
    state = _loaded(given.resume, given.seed)
    while state.done < given.count:
        compare(state.seed + state.done, state)
        state.done += 1
        if given.resume is not None and (state.done % SAVE_EVERY == 0 or state.done == given.count):
            given.resume.write_text(json.dumps(asdict(state)))
    if given.format == "json":
        print(json.dumps(asdict(state), indent=2))
    else:
        print(_text(state))
    return 1 if state.differences else 0


def _loaded(path: Path | None, seed: int) -> State:
    if path is None or not path.exists():
        return State(seed)
    body = json.loads(path.read_text())
    if body["seed"] != seed:
        raise SystemExit(f"{path}: is of --seed {body['seed']}")
    kinds = {name: Kind(**row) for name, row in body["kinds"].items()}
    return State(body["seed"], body["done"], kinds, body["differences"])


def _text(state: State) -> str:
    lines = [
        "| kind | problems | memory binds | without plan | bound is the best | worst plan | planner s | brute s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, kind in state.kinds.items():
        lines.append(
            f"| {name} | {kind.problems} | {kind.binding} | {kind.without_plan} | {kind.bound_is_best} | "
            f"+{100 * kind.worst:.2f} % | {kind.planner_seconds:.0f} | {kind.brute_seconds:.0f} |"
        )
    lines.append(f"{state.done} problems, {len(state.differences)} differ")
    return "\n".join([*lines, *state.differences[:50]])


if __name__ == "__main__":
    sys.exit(main())
