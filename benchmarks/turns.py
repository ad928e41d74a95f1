"""Frames per second of copies of a model, and of pipelines with a stage on several nodes, as ratios to one node.

Each node is limited to a share of one core; the plans are written by hand, so nothing depends on the planner. A row
is measured `--repeats` times and the median is shown. Needs root (cgroups), the broker, and the model (--model).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from converters.graph import Graph, read_graph
from converters.profile import estimate
from converters.shapes import resolve_shapes
from converters.slicing import groups_at, legal_positions
from edge_node.runtime import open_interpreter
from emulator.cgroups import Group, limit
from emulator.load import Asked
from emulator.measure import drive
from emulator.site import BrokerKind, Site
from slicemq.errors import SliceMQError

NODES = ("n1", "n2", "n3", "n4")
Rows = Sequence[tuple[Sequence[int], dict[str, list[int]]]]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns", description=__doc__)
    parser.add_argument("--model", default="birdnet")
    parser.add_argument("--share", type=float, default=0.2, help="share of a core for each node")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--broker", choices=("mosquitto", "amqtt"), default="mosquitto")
    given = parser.parse_args(arguments)
    model = real_models()[given.model]
    try:
        if not model.path.is_file():
            raise SliceMQError(f"{given.model}: not here; {model.hint}")
        rows = measure(model.path, given.broker, given.share, given.seconds, given.repeats)
    except SliceMQError as error:
        sys.stderr.write(f"turns: {error}\n")
        return error.exit_code
    print(
        f"{describe_machine()}; each node limited to {given.share:g} of a core; {given.model}; ratios to one node\n"
    )
    print("| plan | turns | nodes | frames/s | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for title, turns, nodes, rate in rows:
        print(f"| {title} | {turns} | {nodes} | {rate:.2f} | {rate / rows[0][3]:.2f} |")
    return 0


def plans(graph: Graph) -> dict[str, tuple[int, Rows]]:
    """The plans by title: how many turns, and each slice's operators with the turns of its nodes.

    The stage that takes two nodes or three has about so many times the multiplications of the other.
    """
    half, third = cut(graph, 1 / 3), cut(graph, 1 / 4)
    everything = list(graph.steps)
    return {
        "one node": (1, [(everything, {"n1": [0]})]),
        "copies on 2 nodes": (2, [(everything, {"n1": [0], "n2": [1]})]),
        "copies on 4 nodes": (4, [(everything, {node: [turn] for turn, node in enumerate(NODES)})]),
        "2 stages, the second on 2 nodes": (2, [(half[0], {"n1": [0, 1]}), (half[1], {"n2": [0], "n3": [1]})]),
        "2 stages, the second on 3 nodes": (
            3,
            [(third[0], {"n1": [0, 1, 2]}), (third[1], {"n2": [0], "n3": [1], "n4": [2]})],
        ),
        "2 pipelines of 2 nodes": (
            2,
            [
                *((group, {node: [0]}) for group, node in zip(cut(graph, 1 / 2), ("n1", "n2"), strict=True)),
                *((group, {node: [1]}) for group, node in zip(cut(graph, 1 / 2), ("n3", "n4"), strict=True)),
            ],
        ),
    }


def cut(graph: Graph, share: float) -> list[list[int]]:
    """Two groups, the first with about this share of the model's estimated cost."""
    seconds = estimate(graph).seconds
    before = {at: sum(seconds[step] for step in graph.steps[:at]) for at in legal_positions(graph)}
    wanted = share * sum(seconds[step] for step in graph.steps)
    return groups_at(graph, [min(before, key=lambda at: abs(before[at] - wanted))])


def measure(
    path: Path, broker: BrokerKind, share: float, seconds: float, repeats: int
) -> list[tuple[str, int, int, float]]:
    """(title, turns, nodes, frames per second) of each plan."""
    data = path.read_bytes()
    graph = resolve_shapes(data, read_graph(data), open_interpreter)
    found = []
    with Site(broker, cluster="bench") as site, contextlib.ExitStack() as stack:
        site.start_coordinator()
        groups: dict[str, Group] = {}
        for node in NODES:
            groups[node] = limit(node, share=share)
            stack.callback(groups[node].remove)
            site.start_node(node, prefix=groups[node].prefix())
        stack.callback(lambda: [running.end() for running in site.nodes.values()])
        site.wait_ready(NODES, timeout=180.0)
        made = site.folder / "plan.json"
        site.json("plan", "make", str(path), "--profile", "estimate", "-o", str(made))
        body = json.loads(made.read_text())
        for title, (turns, slices) in plans(graph).items():
            plan = site.folder / "turns.json"
            plan.write_text(json.dumps(written(body, turns, slices)))
            site.json("deploy", str(path), "--name", "turns", "--plan", str(plan))
            rates = [drive(site, "turns", Asked(seconds=seconds)).rate for _ in range(repeats)]
            nodes = {node for _, turns_of in slices for node in turns_of}
            found.append((title, turns, len(nodes), statistics.median(rates)))
            print(f"{title}: {', '.join(f'{rate:.2f}' for rate in rates)} frames/s", file=sys.stderr, flush=True)
    return found


def written(body: dict[str, Any], turns: int, slices: Rows) -> dict[str, Any]:
    """A plan file with these slices; its figures stay those of `body`."""
    rows = [
        {
            **body["slices"][0],
            "id": f"s{number}",
            "operators": list(operators),
            "nodes": list(turns_of),
            "turns": list(turns_of.values()),
        }
        for number, (operators, turns_of) in enumerate(slices)
    ]
    kept = {name: value for name, value in body.items() if name != "bundles"}
    return {**kept, "turns": turns, "window": 2 * turns + 4, "slices": rows}


if __name__ == "__main__":
    raise SystemExit(main())
