"""The runs behind `benchmarks.placement_paper`: one task each, and a file of finished ones to resume from."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.models import ROOT
from benchmarks.paper_costs import Which, costs_of, places, published_cuts
from coordinator.planner.answer import NoPlanError, Split
from coordinator.planner.baselines import BASELINES
from coordinator.planner.baselines.common import hop_seconds
from coordinator.planner.baselines.random_cuts import draw
from coordinator.planner.pairs.pairwise import solve
from coordinator.planner.problem import Costs

Kind = Literal["ours", "others", "published"]
_CODE = {
    "ours": ("coordinator.planner.pairs.pairwise", "benchmarks.paper_costs"),
    "others": ("coordinator.planner.baselines", "benchmarks.paper_costs"),
    "published": ("coordinator.planner.baselines", "benchmarks.paper_costs"),
}
_LOOKED_INTO = ("coordinator.planner.", "benchmarks.paper_")


@dataclass(frozen=True)
class Task:
    """What is run on one graph: our planner, the baselines, or the set-up of the published figures."""

    kind: Kind
    table: Which
    model: str
    memory: int
    nodes: int
    seed: int
    graph: int


def run(task: Task) -> dict[str, Any]:
    """One task's result, as a JSON object. Periods are seconds, null for a failure.

    ours: `period`, `bound`, `method`, `slices`, `proved` (with no plan: whether there is none), `seconds` of the
    processor. others and published: for each method `period` and `seconds`; `drawn` is the period of the random
    plan when memory is not looked at.
    """
    where = places(task.seed, task.graph, task.nodes)
    if task.kind == "ours":
        return _ours(costs_of(task.model, task.table, task.memory, where))
    costs = costs_of(task.model, task.table, task.memory, where)
    seed = _seed(task)
    if task.kind == "others":
        return {name: _timed(functools.partial(method, seed=seed), costs) for name, method in _SEEDED.items()}
    only = costs_of(task.model, task.table, task.memory, where, published_cuts(task.model, task.memory))
    found = {name: _timed(functools.partial(_SEEDED[name], seed=seed), only) for name in ("greedy", "seifer")}
    return {**found, "drawn": _drawn(costs, seed)}


_SEEDED: dict[str, Callable[..., Split]] = dict(BASELINES)


def _seed(task: Task) -> int:
    return int(hashlib.sha256(repr(astuple(task)[1:]).encode()).hexdigest()[:8], 16)


def _ours(costs: Costs) -> dict[str, Any]:
    begun = time.process_time()
    try:
        found = solve(costs)
    except NoPlanError as error:
        seconds = time.process_time() - begun
        return {
            "period": None,
            "bound": None,
            "method": "",
            "slices": 0,
            "proved": error.proved,
            "seconds": seconds,
        }
    seconds = time.process_time() - begun
    return {
        "period": found.period,
        "bound": found.lower_bound,
        "method": found.method,
        "slices": len(found.segments),
        "proved": True,
        "seconds": seconds,
    }


def _timed(method: Callable[[Costs], Split], costs: Costs) -> dict[str, float | None]:
    begun = time.process_time()
    try:
        period: float | None = method(costs).period
    except NoPlanError:
        period = None
    return {"period": period, "seconds": time.process_time() - begun}


def _drawn(costs: Costs, seed: int) -> float | None:
    try:
        arcs, nodes = draw(costs, seed=seed)
    except NoPlanError:
        return None
    return max(
        (hop_seconds(costs, a, b, j) for (_, j), a, b in zip(arcs[:-1], nodes[:-1], nodes[1:], strict=True)),
        default=0.0,
    )


@functools.cache
def code_digest(kind: Kind) -> str:
    """A digest of the code that decides what a task of this kind answers: the planning modules that it imports."""
    todo, seen = list(_CODE[kind]), dict[str, Path]()
    while todo:
        name = todo.pop()
        file = ROOT / (name.replace(".", "/") + ".py")
        file = file if file.is_file() else ROOT / name.replace(".", "/") / "__init__.py"
        if name in seen or not name.startswith(_LOOKED_INTO) or not file.is_file():
            continue
        seen[name] = file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                todo.append(node.module)
    data = ROOT / "benchmarks" / "data" / "paper_layers.json"
    files = [*(seen[name] for name in sorted(seen)), Path(__file__), data]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def run_all(tasks: Iterable[Task], cache: Path, jobs: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    """The results of all tasks, those of the cache first; each new one is added to the cache when it is there."""
    wanted = list(tasks)
    # Before anything runs, so that code which changes meanwhile is not taken for what ran.
    codes = {kind: code_digest(kind) for kind in {task.kind for task in wanted}}
    known = _read(cache)
    missing = []
    for task in wanted:
        if task in known:
            yield task, known[task]
        else:
            missing.append(task)
    if not missing:
        return
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as file, ProcessPoolExecutor(max_workers=jobs) as pool:
        if file.tell() and not cache.read_bytes().endswith(b"\n"):
            file.write("\n")
        for task, result in zip(missing, pool.map(run, missing, chunksize=4), strict=True):
            row = {"task": astuple(task), "code": codes[task.kind], "result": result}
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield task, result


def _read(cache: Path) -> dict[Task, dict[str, Any]]:
    found: dict[Task, dict[str, Any]] = {}
    if not cache.is_file():
        return found
    for line in cache.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            # A line that was not finished when the run was stopped.
            continue
        task = Task(*row["task"])
        if row["code"] == code_digest(task.kind):
            found[task] = row["result"]
    return found
