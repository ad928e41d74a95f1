"""Frames per second of ResNet50 and VGG16 on 1, 4, 6 and 8 equal nodes, as ratios to one, lossless and with codecs.

    python -m benchmarks.scaling [--models resnet50,vgg16] [--links 1000,100] [--repeats 3] [--fresh] [--write]

Each node has a namespace, a link and a share of a core of its own; the broker is mosquitto. All configurations of a
model and a link run in one cluster, one after the other, in `--repeats` rounds: a ratio is that of two runs of one
round, and the median of the rounds is shown. Rounds are kept in .cache/scaling.jsonl, so that an interrupted run
goes on where it was. `of the bound` is the rate over the plan's certified bound: no plan of its family is faster
by its costs. `idle` is the least share of the machine that was idle in a run. The errors are those of answers to
real pictures. The exit code is 1 when a mark is missed. Needs root, mosquitto and the models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import marks, pages
from benchmarks.chain_runs import Case, Run, Summary, summarise
from benchmarks.cluster_options import add_chain_options, cluster_parser
from benchmarks.energy_columns import against_one, joules, words
from benchmarks.fleet import need_root, say
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark
from benchmarks.rounds import Setting, rounds
from benchmarks.stages import table
from slicemq.errors import SliceMQError

# Which configurations run over a link of so many Mbit/s: nodes without loss, nodes with codecs.
LINKS = {1000: ((1, 4, 6, 8), (8,)), 100: ((1, 8), (8,))}
# Ratios to one node at (Mbit/s, nodes, with codecs), for the models that have marks.
RATIO_MARKS = {(1000, 4, False): 3.5, (1000, 8, False): 6.0, (1000, 8, True): 6.5, (100, 8, True): 5.0}
LANES_MARK = 6.5
MARKED_MODELS = ("resnet50",)
BOUND_MARKS = {2: 0.92, 4: 0.92, 8: 0.92, 20: 0.85}
# A rate above its bound says that the plan's costs are too high: then the share says nothing.
BOUND_HOLDS = 1.10
IDLE_MARK = 1 / 3
# A frame takes one node of a tenth of a core 1 s (ResNet50) and 4 s (VGG16).
SECONDS = {"resnet50": 12.0, "vgg16": 15.0}
_OTHER_SECONDS = 12.0


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not kept, print the tables and judge."""
    given = _parser().parse_args(arguments)
    try:
        need_root()
        cases = [(model, int(link)) for model in given.models.split(",") for link in given.links.split(",")]
        say(f"about {estimate(cases, given):.0f} minutes when nothing is kept")
        found = {
            (model, link): rounds(setting(model, link, given), cases_of(model, link, given.budget, side=given.side))
            for model, link in cases
        }
    except SliceMQError as error:
        sys.stderr.write(f"scaling: {error}\n")
        return error.exit_code
    summaries = {one: summarise(measured) for one, measured in found.items()}
    judged = [mark for (model, link), rows in summaries.items() for mark in judge(model, link, rows)]
    text = tables(summaries, judged, given)
    if given.format == "json":
        body = {
            f"{model} at {link} Mbit/s": {
                "summary": [asdict(row) for row in summaries[model, link]],
                "rounds": [[run.to_plain() for run in one] for one in all_rounds],
            }
            for (model, link), all_rounds in found.items()
        }
        plain = [mark.to_plain() for mark in judged]
        print(pages.as_json({"machine": describe_machine(), "share": given.share, **body, "marks": plain}))
    else:
        print(text)
        if given.stages:
            print("\n" + stage_tables(found, given.share))
    if given.write:
        for model in given.models.split(","):
            mine = {key: rows for key, rows in summaries.items() if key[0] == model}
            held = [mark for (name, link), rows in mine.items() for mark in judge(name, link, rows)]
            pages.write_region(f"scaling_{model}" + ("_side" if given.side else ""), tables(mine, held, given))
    return 0 if marks.all_held(judged) else 1


def judge(model: str, link: int, rows: Sequence[Summary]) -> list[Mark]:
    """The marks of one model over one link."""
    found = []
    for row in rows:
        case = row.case
        wanted = RATIO_MARKS.get((link, case.nodes, case.budget > 0)) if model in MARKED_MODELS else None
        if case.lanes:
            wanted = LANES_MARK if model in MARKED_MODELS else None
        if wanted is not None:
            found.append(Mark(f"{case.words}, {link} Mbit/s: times one node", row.ratio, least=wanted))
        if case.nodes in BOUND_MARKS and model in MARKED_MODELS and not case.lanes:
            found.append(bound_mark(f"{case.words}, {link} Mbit/s", row))
        if not case.budget:
            found.append(Mark(f"{case.words}, {link} Mbit/s: error", row.error, most=0.0))
        else:
            found.append(Mark(f"{case.words}, {link} Mbit/s: error", row.error, most=case.budget))
    found.append(Mark(f"{model}, {link} Mbit/s: idle share", min(row.idle for row in rows), least=IDLE_MARK))
    return found


def bound_mark(name: str, row: Summary) -> Mark:
    """The rate as a share of the plan's certified bound, for a number of nodes in BOUND_MARKS."""
    return Mark(f"{name}: share of the bound", row.to_bound, BOUND_MARKS[row.case.nodes], BOUND_HOLDS)


def cases_of(model: str, link: int, budget: float, *, side: bool = False) -> list[Case]:
    """The configurations of a model over a link of so many Mbit/s; `side`: of pipelines side by side."""
    if side:
        return [Case(model, 1), Case(model, 8, lanes=True)]
    lossless, coded = LINKS.get(link, LINKS[1000])
    return [Case(model, nodes) for nodes in lossless] + [Case(model, nodes, budget) for nodes in coded]


def setting(model: str, link: int, given: Any) -> Setting:
    """How a model is measured over a link."""
    return Setting(
        benchmark="scaling",
        model=model,
        link=link,
        share=given.share,
        seconds=_seconds(model, given),
        repeats=given.repeats,
        fresh=given.fresh,
        isolate=not given.loopback,
        learn=given.learn,
    )


def estimate(cases: Sequence[tuple[str, int]], given: Any) -> float:
    """About how many minutes it takes: the runs, a deployment and the warm-up before each, and the planning."""
    total = 0.0
    for model, link in cases:
        runs = len(cases_of(model, link, given.budget, side=given.side))
        around, planning = (25, 60) if model == "vgg16" else (15, 10)
        total += 20 + runs * planning + given.repeats * runs * (1.1 * _seconds(model, given) + around)
    return total / 60


def tables(summaries: dict[tuple[str, int], list[Summary]], judged: Sequence[Mark], given: Any) -> str:
    """What is printed, and written into the page."""
    lines = [
        f"{describe_machine()}; each node limited to {given.share:g} of a core; medians of {given.repeats} rounds; "
        f"codecs within {given.budget:g} of the largest output."
    ]
    for (model, link), rows in summaries.items():
        lines += ["", f"{model}, links of {link} Mbit/s:", "", _table(rows, given.share)]
    lines += [
        "",
        words(),
        "",
        marks.table(judged),
    ]
    return "\n".join(lines)


def stage_tables(found: dict[tuple[str, int], list[list[Run]]], share: float) -> str:
    """Where the time goes in each stage, in the last round."""
    parts = []
    for (_, link), measured in found.items():
        for run in measured[-1]:
            head = (
                f"{run.case.words}, {link} Mbit/s: {run.rate:.3f} frames/s, {run.rate / run.bound:.3f} of the bound"
            )
            parts.append(f"{head}\n\n{table(run.stages, share)}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Summary], share: float) -> str:
    lines = [
        "| nodes | codecs | frames/s | times one node | planned | bound | of the bound | latency ms "
        "| CPU ms, a node | MB, a node | broker CPU ms | J, a node | energy | error | idle |",
        "| --- " * 15 + "|",
    ]
    one = next(row for row in rows if row.case.nodes == 1)
    for row in rows:
        lines.append(
            f"| {_nodes(row.case)} | {', '.join(row.codecs)} | {row.rate:.3f} | {row.ratio:.2f} "
            f"| {row.planned:.3f} | {row.bound:.3f} | {row.to_bound:.3f} | {row.latency_p50:.0f} "
            f"| {row.cpu_ms:.1f} | {row.bytes / 1e6:.2f} | {row.broker_cpu_ms:.1f} | {joules(row, share):.3f} "
            f"| {against_one(row, one, share)} | {_error(row)} | {100 * row.idle:.0f} % |"
        )
    return "\n".join(lines)


def _nodes(case: Case) -> str:
    return f"{case.nodes}" + (", side by side" if case.lanes else "")


def _error(row: Summary) -> str:
    if row.error == 0:
        return "none"
    return f"{row.error:.1e}" + ("" if row.stated is None else f" (stated {row.stated:.1e})")


def _seconds(model: str, given: Any) -> float:
    return float(given.seconds or SECONDS.get(model, _OTHER_SECONDS))


def _parser() -> argparse.ArgumentParser:
    parser = cluster_parser("scaling", __doc__, share=0.1)
    add_chain_options(parser, seconds=None, budget=0.02)
    parser.add_argument("--models", default="resnet50,vgg16")
    parser.add_argument("--links", default="1000,100", help="Mbit/s of each node's link, both ways")
    parser.add_argument("--side", action="store_true", help="pipelines side by side on 8 nodes, and one node, only")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
