"""Plans against reality: predicted and measured frames per second of 12 plans on nodes of limited speed and memory.

    python -m benchmarks.plan_reality [--models a,b] [--fleets x,y] [--seconds 12] [--repeats 3] [--format json]

Three models on four fleets of real nodes, each limited to its share of a core (cgroup), behind mosquitto. Each
model is deployed as the cost model predicts it (`first`) and, with `--rounds first,learnt`, again after the nodes
have reported what the slices really took, as the coordinator plans it with what it has learnt. For each the
predicted rate stands beside the measured one, the median of `--repeats` runs. The exit code is 1 when the
predictions of `--judge` are off by more than 10 % in the median, or any by more than 25 %. Needs root, mosquitto
and the models.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from emulator.cgroups import Group, limit
from emulator.load import Asked
from emulator.measure import drive
from emulator.site import Site
from slicemq.errors import SliceMQError

MEDIAN_MARK = 0.10
WORST_MARK = 0.25


@dataclass(frozen=True)
class FleetCase:
    """Nodes by their shares of a core; `tight`: their memory holds a part of the model only."""

    shares: tuple[float, ...]
    tight: bool


# At most 1.3 of 2 cores, so that broker, client and coordinator have room.
FLEETS = {
    "pair": FleetCase((0.3, 0.3), False),
    "pair-tight": FleetCase((0.3, 0.2), True),
    "three-mixed": FleetCase((0.3, 0.2, 0.1), True),
    "four-mixed": FleetCase((0.3, 0.2, 0.2, 0.1), True),
}
# MB for slices and their workers in which the whole model does not fit.
TIGHT_MB = {"birdnet": 140, "resnet50": 165, "mobilenetv2": 78}


@dataclass(frozen=True)
class Row:
    """One plan: `round` is `first` or `learnt`; rates are frames per second."""

    model: str
    fleet: str
    round: str
    family: str
    nodes: int
    predicted: float
    measured: float
    runs: tuple[float, ...]

    @property
    def error(self) -> float:
        """Measured over predicted, less 1."""
        return self.measured / self.predicted - 1


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plan_reality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default=",".join(TIGHT_MB))
    parser.add_argument("--fleets", default=",".join(FLEETS))
    parser.add_argument("--seconds", type=float, default=12.0, help="length of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", default="first", help="first, learnt, or both with a comma")
    parser.add_argument("--judge", choices=("first", "learnt"), default="first")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    try:
        for name in given.models.split(","):
            model = real_models()[name]
            if not model.path.is_file():
                raise SliceMQError(f"{name}: not here; {model.hint}")
            for fleet in given.fleets.split(","):
                rows += _case(name, model.path, fleet, given)
    except SliceMQError as error:
        sys.stderr.write(f"plan_reality: {error}\n")
        return error.exit_code
    judged = {kind: judge([row for row in rows if row.round == kind]) for kind in given.rounds.split(",")}
    if given.format == "json":
        body = [{**asdict(row), "error": row.error} for row in rows]
        print(json.dumps({"machine": describe_machine(), "rows": body, "judged": judged}, indent=2))
    else:
        _table(rows, judged)
    return 0 if given.judge in judged and judged[given.judge]["holds"] else 1


def judge(rows: list[Row]) -> dict[str, Any]:
    """The median and the worst distance between prediction and measurement, and whether both marks hold."""
    errors = [abs(row.error) for row in rows]
    median, worst = statistics.median(errors), max(errors)
    return {
        "median": round(median, 4),
        "worst": round(worst, 4),
        "holds": median <= MEDIAN_MARK and worst <= WORST_MARK,
    }


def _case(name: str, path: Path, fleet: str, given: Any) -> list[Row]:
    case = FLEETS[fleet]
    rows: list[Row] = []
    with Site("mosquitto", cluster="reality") as site, contextlib.ExitStack() as stack:
        site.start_coordinator()
        groups: dict[str, Group] = {}
        for number, share in enumerate(case.shares, 1):
            node = f"n{number}"
            groups[node] = limit(node, share=share)
            stack.callback(groups[node].remove)
            words = ["--memory-mb", str(TIGHT_MB[name])] if case.tight else []
            site.start_node(node, *words, prefix=groups[node].prefix())
        stack.callback(lambda: [running.end() for running in site.nodes.values()])
        site.wait_ready(list(groups), timeout=180.0)
        for kind in given.rounds.split(","):
            plan = site.json("deploy", str(path), "--name", name)["plan"]
            runs = [drive(site, name, Asked(seconds=given.seconds)).rate for _ in range(given.repeats)]
            row = Row(
                model=name,
                fleet=fleet,
                round=kind,
                family=plan["family"],
                nodes=len({node for item in plan["slices"] for node in item["nodes"]}),
                predicted=1e3 / plan["period_ms"],
                measured=statistics.median(runs),
                runs=tuple(runs),
            )
            rows.append(row)
            print(
                f"{name}, {fleet}, {kind}: {row.predicted:.2f} predicted, {row.measured:.2f} measured "
                f"({100 * row.error:+.0f} %)",
                file=sys.stderr,
                flush=True,
            )
            site.json("undeploy", name)
    return rows


def _table(rows: list[Row], judged: dict[str, dict[str, Any]]) -> None:
    print(f"{describe_machine()}; frames per second, medians\n")
    print("| model | nodes (shares of a core) | plan | family | nodes used | predicted | measured | error |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        case = FLEETS[row.fleet]
        shares = ", ".join(f"{share:g}" for share in case.shares) + (", tight" if case.tight else "")
        print(
            f"| {row.model} | {shares} | {row.round} | {row.family} | {row.nodes} | {row.predicted:.2f} "
            f"| {row.measured:.2f} | {100 * row.error:+.0f} % |"
        )
    print()
    for kind, found in judged.items():
        print(
            f"{kind} plans: {100 * found['median']:.1f} % off in the median (mark 10), "
            f"{100 * found['worst']:.1f} % at worst (mark 25)"
        )


if __name__ == "__main__":
    raise SystemExit(main())
