"""Latency of a chain of 8 equal nodes: unloaded, beside its stages and bare hops, and under full load.

    python -m benchmarks.cluster_latency [--model resnet50] [--nodes 8] [--repeats 3] [--fresh] [--write]

Unloaded: one frame after the other. Beside it the sum, along the slowest way through the slices, of each slice's
`invoke` (from the heartbeats of the same run) and of bare hops: for each bundle a program of bare sockets
(benchmarks.bare_mqtt) on the receiving node sends back as many bytes as the bundle has, through the same broker
and links; half of that time is one hop. Loaded: frames flow with 1 frame on its way up to twice the plan's window
W. The exit code is 1 when the unloaded latency is above 1.15 times the sum, the 95th percentile with W frames above
2.5 times the unloaded median, or the rate with W frames below 95 % of the best. Rounds are kept in
.cache/cluster_latency.jsonl. Needs root, mosquitto and the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import marks, pages
from benchmarks.bare_hops import Hop, measure_hops
from benchmarks.chain_runs import Case, deploy, make_plan, plan_file
from benchmarks.cluster_options import cluster_parser
from benchmarks.fleet import equal_nodes, need_root, say, undisturbed
from benchmarks.frames_of import frames_of
from benchmarks.kept import Kept
from benchmarks.machine import describe_machine
from benchmarks.marks import Mark
from benchmarks.models import RealModel, real_models
from benchmarks.stages import Beats
from emulator.load import Asked, Frame
from emulator.measure import drive
from slicemq.errors import SliceMQError

SUM_MARK = 1.15
LOADED_MARK = 2.5
WINDOW_MARK = 0.95
_CLIENT = "client"


@dataclass(frozen=True)
class Round:
    """Milliseconds, frames per second. invokes: by slice; hops: by bundle, the result's as `result`.

    rates, tails: frames per second and 95th percentile of the latency by the number of frames on their way.
    """

    unloaded: float
    invokes: dict[str, float]
    hops: dict[str, float]
    rates: dict[int, float]
    tails: dict[int, float]
    idle: float

    @classmethod
    def from_plain(cls, body: Mapping[str, Any]) -> Round:
        """From JSON, whose keys are text."""
        ints = {name: {int(key): value for key, value in body[name].items()} for name in ("rates", "tails")}
        return cls(**{**body, **ints})


@dataclass(frozen=True)
class Finding:
    """What all rounds say: medians; `bare` is the sum of stages and bare hops on the slowest way, in each round."""

    window: int
    unloaded: float
    bare: float
    to_bare: float
    stages: float
    tail: float
    to_unloaded: float
    rates: dict[int, float]
    to_peak: float
    idle: float

    def marks(self) -> list[Mark]:
        """What must hold."""
        return [
            Mark("unloaded latency over stages and bare hops", self.to_bare, most=SUM_MARK),
            Mark(f"95th percentile with {self.window} frames over unloaded", self.to_unloaded, most=LOADED_MARK),
            Mark(f"rate with {self.window} frames over the best", self.to_peak, least=WINDOW_MARK),
        ]


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not kept, print and judge."""
    given = _parser().parse_args(arguments)
    try:
        need_root()
        model = real_models()[given.model]
        if not model.path.is_file():
            raise SliceMQError(f"{given.model}: not here; {model.hint}")
        say(f"about {2 + given.repeats * (given.seconds * 9 + 40) / 60:.0f} minutes when nothing is kept")
        plan, rounds = _measure(model, given)
    except SliceMQError as error:
        sys.stderr.write(f"cluster_latency: {error}\n")
        return error.exit_code
    finding = judge(plan, rounds)
    judged = finding.marks()
    text = tell(plan, rounds, finding, judged, given)
    if given.format == "json":
        body = {
            "machine": describe_machine(),
            "share": given.share,
            "finding": asdict(finding),
            "rounds": [asdict(one) for one in rounds],
            "marks": [mark.to_plain() for mark in judged],
        }
        print(pages.as_json(body))
    else:
        print(text)
    if given.write:
        pages.write_region("cluster_latency", text)
    return 0 if marks.all_held(judged) else 1


def judge(plan: Mapping[str, Any], rounds: Sequence[Round]) -> Finding:
    """The medians over the rounds; ratios are those of each round."""
    window = int(plan["window"])
    sums = [slowest_way(plan, one.invokes, one.hops) for one in rounds]
    rates = {w: statistics.median(one.rates[w] for one in rounds) for w in rounds[0].rates}
    return Finding(
        window=window,
        unloaded=statistics.median(one.unloaded for one in rounds),
        bare=statistics.median(sums),
        to_bare=statistics.median(one.unloaded / total for one, total in zip(rounds, sums, strict=True)),
        stages=statistics.median(sum(one.invokes.values()) for one in rounds),
        tail=statistics.median(one.tails[window] for one in rounds),
        to_unloaded=statistics.median(one.tails[window] / one.unloaded for one in rounds),
        rates=rates,
        to_peak=statistics.median(one.rates[window] / max(one.rates.values()) for one in rounds),
        idle=min(one.idle for one in rounds),
    )


def slowest_way(plan: Mapping[str, Any], invokes: Mapping[str, float], hops: Mapping[str, float]) -> float:
    """The longest time from the client through the slices to the last result, in ms.

    A slice begins when the last of its bundles is there, and all that it sends leaves when it ends.
    """
    done = {_CLIENT: 0.0}
    bundles = list(plan["bundles"])
    for item in plan["slices"]:
        name = item["id"]
        arrivals = [done[b["from"]] + hops[b["id"]] for b in bundles if name in b["to"] and b["from"] in done]
        done[name] = max(arrivals, default=0.0) + invokes[name]
    return max(time for name, time in done.items() if name != _CLIENT) + hops["result"]


def windows(planned: int) -> list[int]:
    """The numbers of frames on their way that are tried: from 1 to twice the planned window, close around it."""
    near = range(planned - 2, planned + 3)
    return sorted({w for w in (1, planned // 2, *near, 3 * planned // 2, 2 * planned) if 1 <= w <= 2 * planned})


def tell(
    plan: Mapping[str, Any], rounds: Sequence[Round], finding: Finding, judged: Sequence[Mark], given: Any
) -> str:
    """What is printed, and written into the page."""
    last = rounds[-1]
    peak = max(finding.rates.values())
    lines = [
        f"{describe_machine()}; {given.model}, {given.nodes} nodes of {given.share:g} of a core, links of "
        f"{given.link} Mbit/s; medians of {len(rounds)} rounds; the machine was at least "
        f"{100 * finding.idle:.0f} % idle.",
        "",
        f"Unloaded {finding.unloaded:.0f} ms; stages and bare hops {finding.bare:.0f} ms, of which `invoke` "
        f"{finding.stages:.0f} ms. With {finding.window} frames on their way the 95th percentile is "
        f"{finding.tail:.0f} ms.",
        "",
        "| slice | node | invoke ms | bundles in | MB | bare hop ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for item in plan["slices"]:
        mine = [bundle for bundle in plan["bundles"] if item["id"] in bundle["to"]]
        lines.append(
            f"| {item['id']} | {', '.join(item['nodes'])} | {last.invokes[item['id']]:.1f} "
            f"| {', '.join(bundle['id'] for bundle in mine)} "
            f"| {', '.join(format(bundle['bytes'] / 1e6, '.2f') for bundle in mine)} "
            f"| {', '.join(format(last.hops[bundle['id']], '.1f') for bundle in mine)} |"
        )
    lines += ["", "| frames on their way | frames/s | of the best |", "| --- | --- | --- |"]
    lines += [f"| {w} | {rate:.2f} | {rate / peak:.2f} |" for w, rate in finding.rates.items()]
    lines += ["", marks.table(judged)]
    return "\n".join(lines)


def _measure(model: RealModel, given: Any) -> tuple[dict[str, Any], list[Round]]:
    kept = Kept("cluster_latency", fresh=given.fresh)
    case = Case(given.model, given.nodes)
    key = {"case": asdict(case), "link": given.link, "share": given.share, "seconds": given.seconds}
    plan = kept.get({**key, "plan": True})
    known = [kept.get({**key, "round": number}) for number in range(given.repeats)]
    done = [Round.from_plain(row) for row in known if row is not None]
    if plan is not None and len(done) == given.repeats:
        return plan, done
    frames = frames_of(model)
    rounds: list[Round] = []
    with (
        equal_nodes(given.nodes, share=given.share, rate=given.link * 1e6, isolate=not given.loopback) as cluster,
        Beats(cluster) as beats,
    ):
        if plan is None:
            plan = make_plan(cluster, case, model.path, given.nodes)
            kept.add({**key, "plan": True}, plan)
        # So that the client may have more on their way than the plan's window.
        plan_file(cluster, case).write_text(json.dumps({**plan, "window": 2 * int(plan["window"])}))
        deploy(cluster, case, path=model.path, total=given.nodes)
        for number, row in enumerate(known):
            if row is None:
                one = _round(cluster, beats, case, plan, frames, given.seconds)
                kept.add({**key, "round": number}, asdict(one))
                rounds.append(one)
            else:
                rounds.append(Round.from_plain(row))
    return plan, rounds


def _round(
    cluster: Any, beats: Beats, case: Case, plan: Mapping[str, Any], frames: Sequence[Frame], seconds: float
) -> Round:
    name, planned = case.pipeline, int(plan["window"])
    rates, tails = {}, {}
    with undisturbed(cluster):
        hops = {hop.name: hop.seconds * 1e3 for hop in measure_hops(cluster, hops_of(plan))}
        beats.forget()
        alone = drive(cluster, name, Asked(seconds=2 * seconds, limit=1), frames=frames, counted=cluster)
        heard = beats.between(alone.began, alone.ended, name)
        say(f"  unloaded {1e3 * alone.latency(50):.0f} ms")
        idle = []
        for window in windows(planned):
            run = drive(cluster, name, Asked(seconds=seconds, limit=window), frames=frames, counted=cluster)
            rates[window], tails[window] = run.rate, 1e3 * run.latency(95)
            idle.append(run.idle or 0.0)
            say(f"  {window} frames: {run.rate:.2f} frames/s, 95th percentile {tails[window]:.0f} ms")
    invokes = {}
    for item in plan["slices"]:
        mine = [beat.invoke_ms for (one, _), found in heard.items() if one == item["id"] for beat in found]
        if not mine:
            raise SliceMQError(f"slice {item['id']}: no heartbeat was heard in the unloaded run")
        invokes[item["id"]] = statistics.fmean(mine[len(mine) // 2 :])
    return Round(1e3 * alone.latency(50), invokes, hops, rates, tails, min(idle))


def hops_of(plan: Mapping[str, Any]) -> list[Hop]:
    """The bundles of a chain with the node that receives each, and the result, which the client receives."""
    nodes = {item["id"]: item["nodes"][0] for item in plan["slices"]}
    hops = [
        Hop(bundle["id"], nodes[bundle["to"][-1]], int(bundle["bytes"]))
        for bundle in plan["bundles"]
        if bundle["to"][-1] != _CLIENT
    ]
    last = plan["slices"][-1]
    sent = sum(int(bundle["bytes"]) for bundle in plan["bundles"] if bundle["from"] == last["id"])
    return [*hops, Hop("result", nodes[last["id"]], sent or int(last["bytes_out"]))]


def _parser() -> argparse.ArgumentParser:
    parser = cluster_parser("cluster_latency", __doc__, share=0.1)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--nodes", type=int, default=8, help="length of the chain")
    parser.add_argument("--link", type=int, default=1000, help="Mbit/s of each node's link, both ways")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="length of one run; the unloaded one: twice that"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
