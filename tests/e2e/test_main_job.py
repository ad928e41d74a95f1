"""The main job: a real model over several nodes, frames in order and bit for bit, while nodes die and hang."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from emulator.site import BrokerKind, Site
from tests.e2e.scene import LARGER, Flow, Wire, deploy, model, new_site, room_for, started
from tests.waiting import eventually

NODES = ("n1", "n2", "n3", "n4")


def nodes_of(site: Site, name: str = "faces") -> list[str]:
    """The nodes that run the pipeline's slices now, in the slices' order."""
    pipeline = next(row for row in site.json("status")["pipelines"] if row["name"] == name)
    return [row["node"] for row in pipeline["slices"]]


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_death_and_silence_of_a_node(tmp_path: Path, kind: BrokerKind) -> None:
    file = model(LARGER)
    with new_site(tmp_path, kind) as site, Wire(started(site, NODES, *room_for(16))) as wire:
        made = deploy(site, file)
        assert made["running"]
        assert len(made["plan"]["slices"]) >= 2
        with Flow(site, file) as flow:
            flow.passes(60)
            # Process death is seen by the last will or by silence.
            dead = nodes_of(site)[-1]
            site.nodes[dead].signal(signal.SIGKILL)
            second = flow.moves_on()
            flow.passes(20)
            # Silent death: the connections stay open and nothing answers.
            stopped = nodes_of(site)[0]
            assert stopped != dead
            site.nodes[stopped].signal(signal.SIGSTOP)
            third = flow.moves_on()
            assert int(third.partition("-")[0]) > int(second.partition("-")[0])
            flow.passes(20)
            assert stopped not in nodes_of(site)
            # It wakes up with its old slice loaded, and is told that nobody needs it any more.
            site.nodes[stopped].signal(signal.SIGCONT)
            site.wait_ready([stopped])
            eventually(lambda: not held_by(site, stopped), 30.0, every=0.3)
            flow.passes(20)
        document = wire.pipeline()
        assert document is not None
        assert document.state == "running"
        # The node that came back is a member again: the pipeline survives the loss of another one by it.
        left = [name for name in NODES if name not in (dead, stopped)]
        with Flow(site, file) as flow:
            flow.passes(10)
            site.nodes[left[0]].signal(signal.SIGKILL)
            eventually(lambda: stopped in nodes_of(site), 30.0, every=0.3)
            flow.passes(20)


def held_by(site: Site, node: str) -> list[str]:
    row = next(row for row in site.json("node", "list")["nodes"] if row["node"] == node)
    return [item["slice"] for item in row["slices"]]
