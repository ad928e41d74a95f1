"""Frames per second of 1 node and of chains of 2 and 4, as ratios to one node, beside what the plan predicts.

Each node is limited to a share of one core; the broker is mosquitto. A row is measured `--repeats` times and
the median is shown. Needs root (cgroups), mosquitto, and the models (see --models).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from emulator.cgroups import Group, limit
from emulator.site import BrokerKind, Site
from slicemq.client import Pipeline
from slicemq.errors import SliceMQError

NODES = ("n1", "n2", "n3", "n4")
_WARM_FRAMES = 4


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--models", default="birdnet,resnet50")
    parser.add_argument("--nodes", default="1,2,4", help="lengths of the chains")
    parser.add_argument("--share", type=float, default=0.2, help="share of a core for each node")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--broker", choices=("mosquitto", "amqtt"), default="mosquitto")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    lengths = [int(word) for word in given.nodes.split(",")]
    rows = []
    try:
        for name in given.models.split(","):
            model = real_models()[name]
            if not model.path.is_file():
                raise SliceMQError(f"{name}: not here; {model.hint}")
            rows += _measure_model(name, model.path, lengths, given)
    except SliceMQError as error:
        sys.stderr.write(f"throughput: {error}\n")
        return error.exit_code
    if given.format == "json":
        print(json.dumps({"machine": describe_machine(), "share": given.share, "rows": rows}, indent=2))
    else:
        _table(rows, given.share)
    return 0


def _measure_model(name: str, path: Path, lengths: list[int], given: Any) -> list[dict[str, Any]]:
    kind: BrokerKind = given.broker
    rows: list[dict[str, Any]] = []
    with Site(kind, cluster="bench") as site, contextlib.ExitStack() as stack:
        site.start_coordinator()
        groups: dict[str, Group] = {}
        for node in NODES:
            groups[node] = limit(node, share=given.share)
            stack.callback(groups[node].remove)
            site.start_node(node, prefix=groups[node].prefix())
        stack.callback(lambda: [running.end() for running in site.nodes.values()])
        site.wait_ready(NODES, timeout=180.0)
        for length in lengths:
            words = [word for node in NODES[length:] for word in ("--exclude", node)]
            words += ["--shape", "one-node", "--shape", "pipeline"]
            done = site.json("deploy", str(path), "--name", name, *words)
            print(f"{name}: {length} nodes, revision {done['revision']}", file=sys.stderr, flush=True)
            runs = [drive(site, name, groups, given.seconds) for _ in range(given.repeats)]
            rate = statistics.median(run["rate"] for run in runs)
            base = rows[0]["rate"] if rows else rate
            plan = done["plan"]
            rows.append(
                {
                    "model": name,
                    "nodes": length,
                    "slices": len(plan["slices"]),
                    "rate": rate,
                    "rates": [run["rate"] for run in runs],
                    "ratio": rate / base,
                    "planned_rate": 1e3 / plan["period_ms"],
                    "planned_ratio": (rows[0]["planned_ms"] if rows else plan["period_ms"]) / plan["period_ms"],
                    "planned_ms": plan["period_ms"],
                    "window": plan["window"],
                    "latency_ms": statistics.median(run["latency_ms"] for run in runs),
                    "cpu_ms_per_frame": runs[0]["cpu_ms"],
                }
            )
            site.json("undeploy", name)
    return rows


def drive(site: Site, name: str, groups: dict[str, Group], seconds: float) -> dict[str, Any]:
    """Send frames as fast as results come for `seconds`: the rate, the median latency, CPU time for each node."""
    with Pipeline(name, site.options, cluster=site.cluster) as pipeline:
        rng = np.random.default_rng(1)
        shapes = [(spec.index, [max(1, size) for size in spec.shape], spec.dtype) for spec in pipeline.inputs]
        frame = {
            index: rng.uniform(-1, 1, shape).astype(dtype) if dtype.startswith("float") else np.zeros(shape, dtype)
            for index, shape, dtype in shapes
        }
        end = [float("inf")]

        def source() -> Any:
            while time.monotonic() < end[0]:
                yield frame

        arrivals: list[float] = []
        latencies: list[float] = []
        used: dict[str, float] = {}
        warm = _WARM_FRAMES * (pipeline.stats.share + 1)
        for result in pipeline.map(source()):
            now = time.monotonic()
            arrivals.append(now)
            latencies.append(result.latency)
            if end[0] == float("inf") and len(arrivals) == warm:
                end[0] = now + seconds
                arrivals, latencies = [now], []
                used = {node: group.cpu_seconds() for node, group in groups.items()}
        last = [arrival for arrival in arrivals if arrival <= end[0]]
        frames = len(last) - 1
        if frames < 1:
            raise SliceMQError(f"{name}: no frame in {seconds:g} s; give --seconds more")
        cpu = {
            node: round(1e3 * (group.cpu_seconds() - used[node]) / len(arrivals), 2)
            for node, group in groups.items()
        }
        return {
            "rate": frames / (last[-1] - last[0]),
            "latency_ms": 1e3 * statistics.median(latencies),
            "cpu_ms": cpu,
        }


def _table(rows: list[dict[str, Any]], share: float) -> None:
    print(f"{describe_machine()}; each node limited to {share:g} of a core; ratios to one node\n")
    print("| model | nodes | slices | frames/s | ratio | planned ratio | planned frames/s | latency ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['model']} | {row['nodes']} | {row['slices']} | {row['rate']:.2f} | {row['ratio']:.2f} "
            f"| {row['planned_ratio']:.2f} | {row['planned_rate']:.2f} | {row['latency_ms']:.0f} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
