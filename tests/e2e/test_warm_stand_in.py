"""A loss whose stand-ins are warm: what survives keeps its worker, what moves has its file and a worker waiting."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from slicemq.messages import Assignment, Capacity, decode
from tests.e2e.scene import PATIENT, STEADY, Flow, Wire, deploy, model, new_site, started
from tests.waiting import eventually

NODES = ("n1", "n2", "n3", "n4")


def held(wire: Wire, node: str) -> set[str]:
    topic = wire.topics.node(node, "capacity")
    return set(decode(Capacity, wire.documents[topic], topic).artifacts)


def assignment(wire: Wire, node: str) -> Assignment | None:
    topic = wire.topics.node(node, "assignment")
    payload = wire.documents.get(topic)
    return decode(Assignment, payload, topic) if payload else None


def is_shipped(wire: Wire, node: str) -> bool:
    """Whether a node has all that it is told to fetch ahead."""
    told = assignment(wire, node)
    return told is None or {one.sha256 for one in told.prefetch} <= held(wire, node)


@pytest.mark.slow
def test_after_a_loss_no_file_is_fetched_and_what_runs_on_is_not_loaded_again(tmp_path: Path) -> None:
    file = model()
    with new_site(tmp_path) as site, Wire(started(site, NODES, coordinator=PATIENT)) as wire:
        deploy(site, file, "faces", "--shape", "pipeline", *STEADY[len(STEADY) - 2 :])
        used = wire.nodes()
        assert len(used) >= 2
        eventually(lambda: wire.planning()["contingencies"] == {"ready": len(used), "wanted": len(used)}, 120.0)
        # Some plan needs a file somewhere.
        eventually(lambda: any((told := assignment(wire, name)) and told.prefetch for name in NODES), 10.0)
        eventually(lambda: all(is_shipped(wire, name) for name in NODES), 60.0)
        wire.listen(f"{wire.topics.prefix}/artifacts/+/request")
        with Flow(site, file) as flow:
            flow.passes(20)
            before = {name: assignment(wire, name) for name in NODES}
            lengths = {name: len(site.nodes[name].log.read_text()) for name in NODES}
            wire.heard.clear()
            dead = used[-1]
            site.nodes[dead].signal(signal.SIGKILL)
            second = flow.moves_on()
            flow.passes(20)
            assert wire.planning()["prepared_for"] == dead
        requests = [json.loads(payload) for topic, payload in wire.heard if topic.endswith("/request")]
        assert requests == [], "no file was fetched"
        for name in set(NODES) - {dead}:
            old, now = before[name], assignment(wire, name)
            assert now is not None
            files = {one.artifact.sha256 for one in old.slices} if old is not None else set()
            for one in now.slices:
                assert one.revision == second
                log = site.nodes[name].log.read_text()[lengths[name] :]
                said = re.findall(rf"{second} slice {one.slice}: (\w+)", log)
                loads = "fetching" in said
                assert loads == (one.artifact.sha256 not in files), (name, one.slice, said)
