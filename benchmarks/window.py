"""How many frames on their way keep a pipeline's slowest stage busy, beside the window that the plan gives.

    python -m benchmarks.window [--models face-full-range,birdnet] [--nodes 2,4] [--share 0.2] [--format json]

Chains over mosquitto, each node limited to a share of one core (needs root). The plan is deployed with a larger
window than its own, and the client keeps 1, 2, 3 ... frames on their way; each figure is the median of `--repeats`
runs, taken in turn. `enough` is the fewest frames that reach 95 % of the best rate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from emulator.cgroups import limit
from emulator.load import Asked
from emulator.measure import drive
from emulator.site import Site
from slicemq.errors import SliceMQError

CLUSTER = "bench"
ENOUGH = 0.95
_BEYOND = 3
_DEPLOY_SECONDS = "300"
_LEAST_FRAMES = 3


@dataclass(frozen=True)
class Row:
    """One pipeline: frames per second with each number of frames on their way, and the plan's own window."""

    model: str
    nodes: int
    slices: int
    planned: int
    rates: dict[int, float]

    @property
    def enough(self) -> int:
        """The fewest frames that reach 95 % of the best rate."""
        return smallest_enough(self.rates)


def smallest_enough(rates: Mapping[int, float], share: float = ENOUGH) -> int:
    """The least window whose rate is at least `share` of the best."""
    best = max(rates.values())
    return min(window for window, rate in rates.items() if rate >= share * best)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.window",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="face-full-range,birdnet")
    parser.add_argument("--nodes", default="2,4", help="lengths of the chains")
    parser.add_argument("--share", type=float, default=0.2, help="share of a core for each node")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    lengths = [int(word) for word in given.nodes.split(",")]
    try:
        rows = [row for name in given.models.split(",") for row in _measure_model(name, lengths, given)]
    except SliceMQError as error:
        sys.stderr.write(f"window: {error}\n")
        return error.exit_code
    if given.format == "json":
        body = [{**asdict(row), "enough": row.enough} for row in rows]
        print(json.dumps({"machine": describe_machine(), "share": given.share, "rows": body}, indent=2))
    else:
        _table(rows, given.share)
    return 0


def _measure_model(name: str, lengths: list[int], given: Any) -> list[Row]:
    model = real_models()[name]
    if not model.path.is_file():
        raise SliceMQError(f"{name}: not here; {model.hint}")
    nodes = [f"n{number}" for number in range(max(lengths))]
    rows = []
    with contextlib.ExitStack() as stack:
        groups = {node: limit(node, share=given.share) for node in nodes}
        for group in groups.values():
            stack.callback(group.remove)
        site = stack.enter_context(Site("mosquitto", cluster=CLUSTER))
        site.start_coordinator()
        for node in nodes:
            site.start_node(node, "--threads", "1", prefix=groups[node].prefix())
        site.wait_ready(nodes, timeout=180.0)
        for length in lengths:
            rows.append(_measure(site, name, model.path, nodes[:length], nodes[length:], given))
    return rows


def _measure(site: Site, name: str, path: Path, nodes: list[str], others: list[str], given: Any) -> Row:
    file = site.folder / f"{name}-{len(nodes)}.json"
    words = [word for node in others for word in ("--exclude", node)]
    words += ["--shape", "one-node", "--shape", "pipeline"]
    words += [word for number, node in enumerate(nodes) for word in ("--pin", f"s{number}={node}")]
    site.json("plan", "make", str(path), *words, "-o", str(file))
    plan = json.loads(file.read_text())
    planned = int(plan["window"])
    most = planned + _BEYOND
    file.write_text(json.dumps({**plan, "window": most}))
    site.json("deploy", str(path), "--name", name, "--plan", str(file), "--timeout", _DEPLOY_SECONDS)
    print(f"{name} on {len(nodes)} nodes: planned window {planned}", file=sys.stderr, flush=True)
    runs: dict[int, list[float]] = {window: [] for window in range(1, most + 1)}
    for _ in range(given.repeats):
        for window in runs:
            runs[window].append(_rate(site, name, window, given.seconds))
            print(f"  {window} frames: {runs[window][-1]:.2f} frames/s", file=sys.stderr, flush=True)
    site.json("undeploy", name)
    rates = {window: statistics.median(found) for window, found in runs.items()}
    return Row(name, len(nodes), len(plan["slices"]), planned, rates)


def _rate(site: Site, name: str, window: int, seconds: float) -> float:
    asked = Asked(seconds=seconds, limit=window, warm=2 * window, least=_LEAST_FRAMES)
    return drive(site, name, asked).rate


def _table(rows: list[Row], share: float) -> None:
    print(f"{describe_machine()}; each node limited to {share:g} of a core; rates as shares of the best\n")
    print("| model | nodes | slices | planned window | enough | rate at 1, 2, 3 ... frames |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        best = max(row.rates.values())
        rates = ", ".join(f"{rate / best:.2f}" for rate in row.rates.values())
        print(f"| {row.model} | {row.nodes} | {row.slices} | {row.planned} | {row.enough} | {rates} |")


if __name__ == "__main__":
    raise SystemExit(main())
