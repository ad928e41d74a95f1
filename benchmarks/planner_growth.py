"""How the planner's time and certified gap grow with nodes and units.

    python -m benchmarks.planner_growth [--only star] [--seeds 2] [--nodes 200] [--units 400]
                                        [--jobs 2] [--most 30] [--format json] [--write] [--fresh]

Problems are those of `benchmarks.planner_instances`; `star, one lost` plans anew after the node with most work has
left, with the bytes to ship in mind. Two problems are planned at a time (`--jobs`), each in one process; seconds
are its processor time, so that other work on the machine does not count, and the marks are judged by it. A search
behind a broker takes the planner's own time, `--most` seconds at most. The gap is period / proved bound - 1 of a
plan for which no tolerance is given. Each problem's row is kept in `.cache/planner-growth.jsonl`, so an interrupted
run goes on where it was; `--fresh` begins anew. `--write` puts the table into docs/explanation/planning.md and the
plot into docs/images. The exit code is 1 when a stated mark is missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.planner_instances import pairwise, star
from coordinator.planner.answer import NoPlanError
from coordinator.planner.goal import Goal
from coordinator.planner.methods.exact import seconds_for, solve
from coordinator.planner.problem import Costs

MOST_SECONDS = 30.0
PROGRAM_SECONDS = 24.0
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "planning.md"
IMAGE = ROOT / "docs" / "images" / "planner-growth.png"
KEPT = ROOT / ".cache" / "planner-growth.jsonl"
BEGIN, END = "<!-- growth -->", "<!-- /growth -->"
NOTHING = "no plan exists"
STRICT = Goal(within=0.0)
# Nodes, units, and how many seeds are planned at most.
SIZES = {
    "star": (
        *((5, 20, 2), (5, 100, 2), (5, 400, 1), (10, 40, 2), (10, 200, 1), (20, 20, 2), (20, 40, 2), (20, 80, 2)),
        *((20, 200, 1), (20, 400, 1), (50, 40, 2), (50, 80, 3), (50, 200, 1), (100, 100, 1), (100, 200, 1)),
        *((200, 200, 1), (200, 400, 1)),
    ),
    "star, one lost": ((20, 40, 2), (50, 80, 2)),
    "pairwise": ((5, 20, 1), (10, 40, 1), (20, 40, 3), (50, 60, 3)),
    "replicas": ((10, 20, 1), (20, 20, 1), (50, 40, 1)),
}


@dataclass(frozen=True)
class Row:
    """One problem's answer; `gap` is a share."""

    kind: str
    nodes: int
    units: int
    seed: int
    seconds: float
    period: float
    bound: float
    method: str
    proof: str

    @property
    def gap(self) -> float:
        """period / bound - 1."""
        return max(0.0, self.period / self.bound - 1) if self.bound > 0 else float("inf")


@dataclass(frozen=True)
class Mark:
    """Of the problems of `kind` with `nodes` and (None: any) `units`: at most so much gap and so many seconds."""

    kind: str
    nodes: tuple[int, int]
    units: int | None = None
    gap: float = float("inf")
    seconds: float = float("inf")

    def covers(self, row: Row) -> bool:
        """Whether the mark speaks of the row's problem."""
        fits = self.units is None or row.units == self.units
        return row.kind == self.kind and self.nodes[0] <= row.nodes <= self.nodes[1] and fits

    def text(self) -> str:
        """What is asked, in words."""
        size = f"{self.nodes[1]} nodes" + ("" if self.units is None else f", {self.units} units")
        asked = [] if self.gap == float("inf") else [f"gap at most {100 * self.gap:g} %"]
        asked += [] if self.seconds == float("inf") else [f"at most {self.seconds:g} s"]
        return f"{self.kind}, {'up to ' if self.nodes[0] < self.nodes[1] else ''}{size}: {', '.join(asked)}"


MARKS = (
    Mark("star", (1, 20), gap=1e-9),
    Mark("star", (50, 50), 80, gap=0.005, seconds=5.0),
    Mark("star, one lost", (50, 50), 80, gap=0.005, seconds=5.0),
    Mark("pairwise", (20, 20), gap=0.01),
    Mark("pairwise", (50, 50), gap=0.02, seconds=60.0),
    Mark("replicas", (50, 50), 40, seconds=60.0),
)


def _one_lost(costs: Costs) -> Costs:
    """The problem without the node whose stage is longest; what stays where it is need not be shipped."""
    before = solve(costs)
    kind_of = {node: kind for kind in costs.types for node in kind.ids}
    lost = max(
        zip(before.nodes, before.segments, strict=True), key=lambda stage: kind_of[stage[0]].compute[stage[1]]
    )[0]
    held = dict(zip(before.nodes, before.segments, strict=True))
    types = []
    for kind in costs.types:
        if lost in kind.ids:
            continue
        moves = np.array(costs.memory)
        if kind.ids[0] in held:
            moves[held[kind.ids[0]]] = 0.0
        types.append(replace(kind, moves=moves))
    return replace(costs, types=tuple(types), max_slices=min(costs.max_slices, len(types)))


def _replicas(costs: Costs) -> tuple[float, float, str, str]:
    from coordinator.planner.shapes.replicas import replicas, with_bound

    found = with_bound(costs, replicas(costs, solve(costs), seconds=PROGRAM_SECONDS))
    return found.period, found.lower_bound, found.method, found.bounds[-1].proof if found.bounds else ""


def _single(costs: Costs, most: float = MOST_SECONDS) -> tuple[float, float, str, str]:
    found = solve(costs, seconds=min(most, seconds_for(costs)))
    return found.period, found.lower_bound, found.method, found.bounds[-1].proof if found.bounds else ""


# The first seed of each kind.
FIRST = {"pairwise": 0}
Answer = Callable[[Costs], tuple[float, float, str, str]]


def _problem(kind: str, seed: int, nodes: int, units: int, most: float) -> tuple[Costs, Answer]:
    single = partial(_single, most=most)
    if kind == "pairwise":
        return pairwise(seed, nodes, units, goal=STRICT), single
    costs = star(seed, nodes, units, goal=STRICT)
    if kind == "star, one lost":
        return _one_lost(costs), single
    return costs, _replicas if kind == "replicas" else single


def measure(kind: str, seed: int, nodes: int, units: int, most: float = MOST_SECONDS) -> Row:
    """Plan one problem; `most` seconds of search at most for a star."""
    costs, answer = _problem(kind, seed, nodes, units, most)
    begun = time.process_time()
    try:
        period, bound, method, proof = answer(costs)
    except NoPlanError as error:
        method = NOTHING if error.proved else "none found"
        period, bound, proof = float("inf"), 0.0, ""
    seconds = round(time.process_time() - begun, 2)
    return Row(kind, nodes, units, seed, seconds, period, bound, method, proof)


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown: of several seeds the longest time and the largest gap."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.nodes, row.units), []).append(row)
    lines = ["| links | nodes | units | seconds | gap | method |", "| --- | --- | --- | --- | --- | --- |"]
    for (kind, nodes, units), found in groups.items():
        seconds = max(row.seconds for row in found)
        gap = max((row.gap for row in found if row.method != NOTHING), default=float("inf"))
        shown = f"{100 * gap:.2f} %" if gap < 1e6 else "no plan"
        methods = ", ".join(sorted({row.method for row in found}))
        lines.append(f"| {kind} | {nodes} | {units} | {seconds:.1f} | {shown} | {methods} |")
    return "\n".join(lines)


def missed(rows: Iterable[Row]) -> list[str]:
    """The marks that a row misses, in words."""
    found = []
    for row in rows:
        for mark in MARKS:
            if mark.covers(row) and row.method != NOTHING and (row.gap > mark.gap or row.seconds > mark.seconds):
                found.append(f"{mark.text()}; seed {row.seed}: {100 * row.gap:.3f} %, {row.seconds:.1f} s")
    return found


def plot(rows: list[Row], path: Path) -> None:
    """Seconds and gap over nodes, a line for each kind of problem."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind and row.gap < 1e6]
        sizes = [row.nodes * row.units for row in mine]
        left.loglog(sizes, [max(row.seconds, 0.01) for row in mine], "o", label=kind, alpha=0.7)
        right.semilogx(sizes, [100 * row.gap for row in mine], "o", label=kind, alpha=0.7)
    left.set_ylabel("processor seconds")
    right.set_ylabel("certified gap, %")
    for axes in (left, right):
        axes.set_xlabel("nodes x units")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _write(text: str) -> None:
    page = PAGE.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{PAGE.name}: expected the markers {BEGIN} and {END}")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def _kept() -> dict[tuple[str, int, int, int], Row]:
    if not KEPT.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in KEPT.read_text().splitlines()]
    return {(row.kind, row.nodes, row.units, row.seed): row for row in rows}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and say which marks are missed."""
    parser = argparse.ArgumentParser(description="How the planner's time and gap grow.")
    parser.add_argument("--only", action="append", choices=list(SIZES), help="this kind of problem")
    parser.add_argument("--seeds", type=int, default=3, help="the most seeds of a size")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--most", type=float, default=MOST_SECONDS, help="the most seconds of one search")
    parser.add_argument("--nodes", type=int, default=200, help="the most nodes")
    parser.add_argument("--units", type=int, default=400, help="the most units")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args(arguments)
    if options.fresh:
        KEPT.unlink(missing_ok=True)
    KEPT.parent.mkdir(exist_ok=True)
    known = _kept()
    asked = [
        (kind, nodes, units, FIRST.get(kind, 1) + number)
        for kind in options.only or SIZES
        for nodes, units, seeds in SIZES[kind]
        for number in range(min(seeds, options.seeds))
        if nodes <= options.nodes and units <= options.units
    ]
    # Without threads of their own, two processes take one core each.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        # The largest first, so that no process waits for them at the end.
        left = sorted((key for key in asked if key not in known), key=lambda key: -key[1] * key[2])
        running = [
            pool.submit(measure, kind, seed, nodes, units, options.most) for kind, nodes, units, seed in left
        ]
        for future in as_completed(running):
            row = future.result()
            known[row.kind, row.nodes, row.units, row.seed] = row
            with KEPT.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
            print(f"{row} gap {100 * row.gap:.3f} %", file=sys.stderr, flush=True)
    rows = [known[key] for key in asked]
    text = table(rows)
    shown = json.dumps([{**asdict(row), "gap": row.gap} for row in rows], indent=1)
    print(shown if options.format == "json" else text)
    if options.write:
        _write(text)
        plot(rows, IMAGE)
    problems = missed(rows)
    for line in problems:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
