"""The main job: a real model over several nodes, frames in order and bit for bit, while nodes die and hang."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from emulator.site import BrokerKind
from tests.e2e.scene import LARGER, Flow, Wire, deploy, model, new_site, room_for, started
from tests.waiting import eventually

NODES = ("n1", "n2", "n3", "n4")


@pytest.mark.parametrize("kind", ["mosquitto", pytest.param("amqtt", marks=pytest.mark.slow)])
def test_death_and_silence_of_a_node(tmp_path: Path, kind: BrokerKind) -> None:
    file = model(LARGER)
    with new_site(tmp_path, kind) as site, Wire(started(site, NODES, *room_for(13))) as wire:
        made = deploy(site, file)
        assert made["running"]
        assert len(made["plan"]["slices"]) >= 2
        with Flow(site, file) as flow:
            flow.passes(60)
            # Process death is seen by the last will or by silence.
            dead = wire.nodes()[-1]
            site.nodes[dead].signal(signal.SIGKILL)
            second = flow.moves_on()
            flow.passes(20)
            # Silent death: the connections stay open and nothing answers.
            stopped = wire.nodes()[0]
            assert stopped != dead
            site.nodes[stopped].signal(signal.SIGSTOP)
            third = flow.moves_on()
            assert int(third.partition("-")[0]) > int(second.partition("-")[0])
            flow.passes(20)
            assert not {stopped, dead} & set(wire.nodes())
            # It wakes up with its old slice loaded, and is told that nobody needs it any more.
            site.nodes[stopped].signal(signal.SIGCONT)
            eventually(lambda: wire.held(stopped) == {}, 30.0)
            flow.passes(20)
            assert flow.revisions[-1] == third
            # It is a member again: the pipeline survives the loss of another one by it.
            site.nodes[wire.nodes()[0]].signal(signal.SIGKILL)
            flow.moves_on()
            assert stopped in wire.nodes()
            flow.passes(20)
        document = wire.pipeline()
        assert document is not None
        assert document.state == "running"
