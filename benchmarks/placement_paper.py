"""The placement experiment of arXiv 2210.12219: our planner, the paper's methods and others on the same graphs.

    python -m benchmarks.placement_paper [--graphs N] [--seed N] [--format json] [--tables theirs,true]
                                         [--models A,B] [--nodes 5,10] [--jobs N] [--fresh] [--write]

Four models, memories of 64 to 256 MB, 5 to 50 nodes at random places in a square of 150 m, links by distance,
only communication counts. Every method runs on the same graphs; ours states a bound that it certifies. Two tables
of costs: theirs, so that figures compare, and the true one (`benchmarks.paper_costs`). A trial without a plan is a
failure, counted apart and averaged into nothing.

Beside that it runs the greedy on the published set-up and compares with the published figures.

Finished runs are kept in .cache/placement-paper/: the command can be stopped and resumed. `--write` puts tables and
plot into docs/explanation/placement-papers.md. The exit code is 1 if ours is worse than any method on any graph,
if its certified gap is above 1 % (2 % with 50 nodes), or if the greedy differs by more than 5 % from what was
published.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.models import ROOT
from benchmarks.paper_costs import CONFIGURATIONS, NODES, TABLES
from benchmarks.paper_published import PUBLISHED
from benchmarks.placement_report import plot, published_rows, summaries, text, verdicts
from benchmarks.placement_runs import Kind, Task, run_all

CACHE = ROOT / ".cache" / "placement-paper"
PAGE = ROOT / "docs" / "explanation" / "placement-papers.md"
PICTURE = ROOT / "docs" / "images" / "placement-paper.png"
BEGIN, END = "<!-- placement-paper: begin -->", "<!-- placement-paper: end -->"
GRAPHS, SEED = 50, 2210
PUBLISHED_GRAPHS = 200
"""How many graphs the published set-up is run on: so many that the mean's own error is small beside 5 %."""


def main(argv: list[str] | None = None) -> int:
    """Run what is not in the cache yet, print the tables; returns the exit code."""
    arguments = _arguments(argv)
    cache = arguments.cache / f"{arguments.seed}.jsonl"
    if arguments.fresh:
        cache.unlink(missing_ok=True)
    tasks = _tasks(arguments)
    results: dict[Task, dict[str, Any]] = {}
    for task, result in run_all(tasks, cache, arguments.jobs):
        results[task] = result
        if len(results) % 100 == 0:
            sys.stderr.write(f"{len(results)} of {len(tasks)} runs\n")
    found, published = summaries(results), published_rows(results)
    wrong = verdicts(found, published)
    if arguments.format == "json":
        print(json.dumps({"configurations": found, "published": published, "wrong": wrong}, indent=2))
    else:
        print(text(found, published))
    for line in wrong:
        sys.stderr.write(line + "\n")
    if arguments.write:
        _write_page(text(found, published))
        plot(found, PICTURE)
    return 1 if wrong else 0


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    chosen = [
        (model, memory, nodes)
        for model, memory in CONFIGURATIONS
        for nodes in NODES
        if model in arguments.models and nodes in arguments.nodes
    ]
    published = [
        Task("published", "theirs", model, memory, nodes, arguments.seed, graph)
        for model, memory, nodes in chosen
        if nodes in PUBLISHED[model, memory]
        for graph in range(arguments.published_graphs)
    ]
    kinds: tuple[Kind, ...] = ("others", "ours")
    return published + [
        Task(kind, table, model, memory, nodes, arguments.seed, graph)
        for kind in kinds
        # So that a run that was stopped is whole for the first graphs.
        for graph in range(arguments.graphs)
        for table in arguments.tables
        for model, memory, nodes in chosen
    ]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The placement experiment of arXiv 2210.12219.")
    parser.add_argument("--graphs", type=int, default=GRAPHS, help="random graphs for each configuration")
    parser.add_argument("--seed", type=int, default=SEED, help="of the graphs and of the methods that draw")
    models = tuple(dict.fromkeys(model for model, _ in CONFIGURATIONS))
    parser.add_argument("--tables", default=",".join(TABLES), help="comma-separated tables of costs")
    parser.add_argument("--models", default=",".join(models), help="comma-separated")
    parser.add_argument("--nodes", default=",".join(map(str, NODES)), help="comma-separated numbers of nodes")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes at a time")
    parser.add_argument(
        "--published-graphs",
        type=int,
        default=PUBLISHED_GRAPHS,
        help="graphs for the published set-up; 0: leave it",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--fresh", action="store_true", help="run again what the cache has")
    parser.add_argument("--write", action="store_true", help="put the tables and the plot into the documentation")
    parser.add_argument("--cache", type=Path, default=CACHE, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    known = {"tables": TABLES, "models": models, "nodes": tuple(map(str, NODES))}
    for name, allowed in known.items():
        values = getattr(arguments, name).split(",")
        unknown = [value for value in values if value not in allowed]
        if unknown:
            parser.error(f"--{name}: {unknown[0]} is not one of {', '.join(allowed)}")
        setattr(arguments, name, values)
    arguments.nodes = [int(value) for value in arguments.nodes]
    for name, least in (("graphs", 1), ("jobs", 1), ("seed", 0), ("published_graphs", 0)):
        if getattr(arguments, name) < least:
            parser.error(f"--{name.replace('_', '-')}: {getattr(arguments, name)}, expected {least} or more")
    return arguments


def _write_page(tables: str) -> None:
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    picture = f"![Mean bottleneck by number of nodes, their table of costs](../images/{PICTURE.name})"
    PAGE.write_text(f"{head}{BEGIN}\n\n{picture}\n\n{tables}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
