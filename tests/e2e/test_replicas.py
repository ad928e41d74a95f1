"""Plans of several turns on real nodes: copies, a replicated stage, two lanes (rules 1 to 5, and 11)."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from converters.graph import Graph, read_graph
from converters.slicing import groups_at, legal_positions
from emulator.site import BrokerKind, Site
from slicemq.client import Pipeline
from slicemq.messages import Heartbeat, decode
from tests.e2e.scene import (
    PATIENT,
    Flow,
    Wire,
    answers,
    deploy,
    inputs,
    model,
    new_site,
    output_bytes,
    started,
)
from tests.waiting import eventually

NODES = ("n1", "n2", "n3", "n4")
pytestmark = pytest.mark.slow
BOTH = ["mosquitto", "amqtt"]
ROUNDS = 8
Slice = tuple[Sequence[int], dict[str, list[int]]]
"""The operators of a slice, and the turns of each of its nodes."""


def cut(graph: Graph, *shares: float) -> list[list[int]]:
    """The groups of the model when it is cut near these shares of its steps."""
    legal, steps = legal_positions(graph), len(graph.steps)
    return groups_at(graph, sorted({min(legal, key=lambda at: abs(at - share * steps)) for share in shares}))


def plan_file(site: Site, file: Path, turns: int, slices: Sequence[Slice]) -> Path:
    """A plan that somebody wrote: the figures of `plan make`, with these slices."""
    made, path = site.folder / "made.json", site.folder / "plan.json"
    if not made.exists():
        site.json("plan", "make", str(file), "--profile", "estimate", "-o", str(made))
    body = json.loads(made.read_text())
    body.pop("bundles")
    body["turns"], body["window"] = turns, 2 * turns + 2
    body["slices"] = [
        {
            **body["slices"][0],
            "id": f"s{number}",
            "operators": list(operators),
            "nodes": list(share),
            "turns": list(share.values()),
        }
        for number, (operators, share) in enumerate(slices)
    ]
    path.write_text(json.dumps(body))
    return path


def beats(wire: Wire) -> dict[str, Heartbeat]:
    """The newest heartbeat of each node."""
    topics = {node: wire.topics.node(node, "heartbeat") for node in NODES}
    return {node: decode(Heartbeat, wire.documents[topic], topic) for node, topic in topics.items()}


def frames(wire: Wire, revision: str) -> dict[tuple[str, str], int]:
    """(node, slice) -> frames done."""
    return {
        (node, one.slice): one.frames
        for node, beat in beats(wire).items()
        for one in beat.slices
        if one.revision == revision
    }


def settled(wire: Wire, revision: str, slices: Sequence[Slice]) -> dict[tuple[str, str], int]:
    """The same when every replica is heard, and no frame moves any more."""
    count = sum(len(share) for _, share in slices)
    found, since = frames(wire, revision), beats(wire)

    def later() -> bool:
        """Whether each node has been heard three times more, and the figures stand."""
        nonlocal found, since
        if frames(wire, revision) != found or len(found) < count:
            found, since = frames(wire, revision), beats(wire)
        return all(beat.counter >= since[node].counter + 3 for node, beat in beats(wire).items())

    eventually(later)
    return found


def shares_are_kept(site: Site, wire: Wire, file: Path, revision: str, turns: int, slices: Sequence[Slice]) -> None:
    """A client's frames come back in order, bit for bit, and each node has computed those of its turns."""
    before = settled(wire, revision, slices)
    with Pipeline("faces", site.options, cluster=site.cluster, resend_after=60.0) as client:
        given, wanted = inputs(file), answers(file)
        for number, result in enumerate(client.map(given[n % len(given)] for n in range(ROUNDS * turns))):
            assert (result.sequence, result.revision, result.attempts) == (number, revision, 1)
            assert output_bytes(result) == wanted[number % len(wanted)], number
    after = settled(wire, revision, slices)
    assert {key: value - before[key] for key, value in after.items()} == {
        (node, f"s{number}"): ROUNDS * len(own)
        for number, (_, share) in enumerate(slices)
        for node, own in share.items()
    }


@pytest.fixture(scope="module", params=BOTH)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    kind: BrokerKind = request.param
    with new_site(tmp_path_factory.mktemp("replicas"), kind) as running:
        yield started(running, NODES, coordinator=PATIENT)


def test_replicas_answer_as_one_device_and_a_lost_one_is_replaced(site: Site) -> None:
    file = model()
    graph = read_graph(file.read_bytes())
    first, second = cut(graph, 0.5)
    lane = cut(graph, 0.3, 0.7)
    plans: list[tuple[int, list[Slice]]] = [
        # Copies of the whole model on two nodes.
        (2, [(graph.steps, {"n1": [0], "n2": [1]})]),
        # A pipeline whose second stage takes turns on three nodes, one of them every second one.
        (4, [(first, {"n1": [0, 1, 2, 3]}), (second, {"n2": [0, 2], "n3": [1], "n4": [3]})]),
        # Two lanes with cuts of their own; two nodes serve a slice of each.
        (
            3,
            [
                (first, {"n1": [0, 2]}),
                (second, {"n2": [0], "n3": [2]}),
                *((group, {node: [1]}) for group, node in zip(lane, ("n3", "n4", "n1"), strict=True)),
            ],
        ),
    ]
    with Wire(site) as wire:
        for number, (turns, slices) in enumerate(plans):
            plan = str(plan_file(site, file, turns, slices))
            if number == 0:
                revision = deploy(site, file, "faces", "--plan", plan)["revision"]
            else:
                with Flow(site, file) as flow:
                    flow.passes()
                    revision = deploy(site, file, "faces", "--plan", plan)["revision"]
                    flow.passes()
                    assert flow.revisions[-1] == revision
            shares_are_kept(site, wire, file, revision, turns, slices)
        rows = site.json("status")["pipelines"][0]["slices"]
        assert [(row["slice"], row["node"], row["turns"]) for row in rows] == [
            (f"s{n}", node, own) for n, (_, share) in enumerate(plans[-1][1]) for node, own in share.items()
        ]
        table = site.command("status").stdout
        assert re.search(r"\bs1\b.*\bn2\b.*\b1 of 3\b", table), table
        with Flow(site, file) as flow:
            flow.passes()
            site.nodes["n3"].signal(signal.SIGKILL)
            later = flow.moves_on()
            assert int(later.partition("-")[0]) > int(revision.partition("-")[0])
            flow.passes()
            assert "n3" not in wire.nodes()
            # Without a written plan the coordinator makes one of turns by itself.
            made = deploy(site, file, "faces", "--profile", "estimate", "--shape", "copies")
            assert made["plan"]["family"] == "whole-model-copies"
            assert made["plan"]["turns"] > 1
            flow.passes()
            assert flow.revisions[-1] == made["revision"]
