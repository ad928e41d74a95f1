"""Frames per second of ResNet50 on 1, 2, 4, 8, 12, 16 and 20 equal nodes: does a longer chain always pay?

    python -m benchmarks.many_nodes [--nodes 1,2,4,8,12,16,20] [--share 0.05] [--repeats 3] [--fresh] [--write]

As `benchmarks.scaling`, with a share of a core so small that a third of the machine stays free beside 20 nodes,
broker and client. Rounds are kept in .cache/many_nodes.jsonl. With --write the table goes into
docs/explanation/performance.md and the plot into docs/images. The exit code is 1 when a step falls by more than
3 %, or a rate is too far below its plan's certified bound. Needs root, mosquitto and the model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import marks, pages
from benchmarks.chain_runs import Case, Summary, summarise
from benchmarks.cluster_options import add_chain_options, cluster_parser
from benchmarks.energy_columns import against_one, joules, words
from benchmarks.fleet import need_root, say
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark
from benchmarks.rounds import Setting, rounds
from benchmarks.scaling import BOUND_MARKS, IDLE_MARK, bound_mark, stage_tables
from slicemq.errors import SliceMQError, UsageError

STEP_MARK = 0.97
IMAGE = "many-nodes.png"


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not kept, print the table and judge."""
    given = _parser().parse_args(arguments)
    try:
        need_root()
        lengths = sorted({1, *(int(word) for word in given.nodes.split(","))})
        cases = [Case(given.model, nodes, given.budget) if nodes > 1 else Case(given.model, 1) for nodes in lengths]
        setting = Setting(
            benchmark="many_nodes",
            model=given.model,
            link=given.link,
            share=given.share,
            seconds=given.seconds,
            repeats=given.repeats,
            fresh=given.fresh,
            isolate=not given.loopback,
            learn=given.learn,
        )
        say(f"about {2 + given.repeats * len(cases) * (given.seconds + 20) / 60:.0f} minutes when nothing is kept")
        found = rounds(setting, cases)
    except SliceMQError as error:
        sys.stderr.write(f"many_nodes: {error}\n")
        return error.exit_code
    rows = summarise(found)
    judged = judge(rows)
    text = tables(rows, judged, given)
    if given.format == "json":
        body = {
            "machine": describe_machine(),
            "share": given.share,
            "link": given.link,
            "summary": [asdict(row) for row in rows],
            "rounds": [[run.to_plain() for run in one] for one in found],
            "marks": [mark.to_plain() for mark in judged],
        }
        print(pages.as_json(body))
    else:
        print(text)
        if given.stages:
            print("\n" + stage_tables({(given.model, given.link): found}, given.share))
    try:
        if given.plot is not None:
            draw(rows, given.plot, given.share)
        if given.write:
            draw(rows, pages.IMAGES / IMAGE, given.share)
            pages.write_region("many_nodes", text + f"\n\n![Rate over nodes](../images/{IMAGE})")
    except SliceMQError as error:
        sys.stderr.write(f"many_nodes: {error}\n")
        return error.exit_code
    return 0 if marks.all_held(judged) else 1


def judge(rows: Sequence[Summary]) -> list[Mark]:
    """Each step's rate over that of the step before, the rates over their bounds, and the idle share."""
    found = [
        Mark(f"{after.case.nodes} nodes over {before.case.nodes}", after.ratio / before.ratio, least=STEP_MARK)
        for before, after in pairwise(rows)
    ]
    for row in rows:
        if row.case.nodes in BOUND_MARKS:
            found.append(bound_mark(f"{row.case.nodes} nodes", row))
        found.append(Mark(f"{row.case.nodes} nodes: error", row.error, most=row.case.budget))
    found.append(Mark("idle share of the machine", min(row.idle for row in rows), least=IDLE_MARK))
    return found


def tables(rows: Sequence[Summary], judged: Sequence[Mark], given: Any) -> str:
    """What is printed, and written into the page."""
    lines = [
        f"{describe_machine()}; {given.model}, each node limited to {given.share:g} of a core, links of "
        f"{given.link} Mbit/s; medians of {given.repeats} rounds.",
        "",
        "| nodes | slices | frames/s | times one node | planned | bound | of the bound | CPU ms, a node "
        "| MB, a node | broker CPU ms | J, a node | energy | error | idle |",
        "| --- " * 14 + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row.case.nodes} | {row.slices} | {row.rate:.3f} | {row.ratio:.2f} | {row.planned:.3f} "
            f"| {row.bound:.3f} | {row.to_bound:.3f} | {row.cpu_ms:.1f} | {row.bytes / 1e6:.2f} "
            f"| {row.broker_cpu_ms:.1f} | {joules(row, given.share):.3f} "
            f"| {against_one(row, rows[0], given.share)} | {row.error:.1e} | {100 * row.idle:.0f} % |"
        )
    lines += [
        "",
        words(),
        "",
        marks.table(judged),
    ]
    return "\n".join(lines)


def draw(rows: Sequence[Summary], path: Path, share: float) -> None:
    """The rate over the number of nodes, measured, planned and bounded. Raises UsageError without matplotlib."""
    try:
        from matplotlib.figure import Figure  # without pyplot: no display, no state
    except ImportError:
        raise UsageError("matplotlib is not installed: pip install slicemq[plot]") from None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    nodes = [row.case.nodes for row in rows]
    base = rows[0].rate
    axes.plot(nodes, [row.ratio for row in rows], "o-", color="C0", label="measured")
    axes.plot(nodes, [row.bound / base for row in rows], "--", color="C1", label="certified bound")
    axes.plot(nodes, nodes, ":", color="0.6", label="as many times as nodes")
    axes.set_xlabel("nodes")
    axes.set_ylabel("frames per second, times one node")
    axes.set_title(f"{rows[0].case.model}, each node {share:g} of a core")
    axes.set_xticks(nodes)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = cluster_parser("many_nodes", __doc__, share=0.05)
    add_chain_options(parser, seconds=10.0, budget=0.0)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument(
        "--nodes", default="1,2,4,8,12,16,20", help="lengths of the chains; 1 is always one of them"
    )
    parser.add_argument("--link", type=int, default=1000, help="Mbit/s of each node's link, both ways")
    parser.add_argument("--plot", type=Path, default=None, help="draw the rates into this file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
