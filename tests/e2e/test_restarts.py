"""The coordinator and the broker die and come back while frames flow."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.site import BrokerKind, Site
from slicemq.messages import Artifact, Request, encode, to_plain
from tests.e2e.scene import PATIENT, Flow, Wire, deploy, model, new_site, refused, started
from tests.waiting import eventually

NODES = ("n1", "n2", "n3")


def without_coordinator(site: Site, flow: Flow) -> None:
    """SIGKILL the coordinator; frames flow on."""
    assert site.coordinator is not None
    site.coordinator.signal(signal.SIGKILL)
    site.coordinator.process.wait()
    flow.passes(20)


@pytest.mark.slow
def test_coordinator_restart(tmp_path: Path) -> None:
    file = model()
    with new_site(tmp_path) as site, Wire(started(site, NODES, coordinator=PATIENT)) as wire:
        deploy(site, file)
        with Flow(site, file) as flow:
            flow.passes()
            first = flow.revisions[:]
            without_coordinator(site, flow)
            ghosts = [f"{wire.topics.prefix}/{leaf}" for leaf in ("pipelines/ghost", "pipelines/ghost/plan")]
            for topic in ghosts:
                wire.say(topic, b"{}", retain=True)
            eventually(lambda: set(ghosts) <= wire.documents.keys())
            site.start_coordinator(*PATIENT)
            site.wait_ready(NODES)
            flow.passes()
            assert flow.revisions == first
            # What is of its kind and unknown to it is removed (rule 17).
            eventually(lambda: not set(ghosts) & wire.documents.keys())
            assert second_coordinator_refuses(site)
            flow.passes()


@pytest.mark.slow
def test_coordinator_restart_without_its_store(tmp_path: Path) -> None:
    file = model()
    with new_site(tmp_path) as site, Wire(started(site, NODES, coordinator=PATIENT)) as wire:
        deploy(site, file)
        with Flow(site, file) as flow:
            flow.passes()
            first = flow.revisions[:]
            # Without its store: what runs is taken over from the retained topics.
            without_coordinator(site, flow)
            shutil.rmtree(tmp_path / "coordinator")
            site.start_coordinator(*PATIENT)
            site.wait_ready(NODES)
            flow.passes()
            assert flow.revisions == first
            # It has no model to cut anew when a node dies: it says so, and goes on when it is given the model.
            site.nodes[wire.nodes()[0]].signal(signal.SIGKILL)
            eventually(lambda: "deploy it again" in wire.reason(), 30.0)
            assert wire.state() == "paused"
            again = deploy(site, file)
            flow.passes()
            assert flow.revisions == [*first, again["revision"]]


def second_coordinator_refuses(site: Site) -> bool:
    words = ["coordinator", "run", "--state-dir", str(site.folder / "second"), *site.network_options()]
    done = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *words], capture_output=True, text=True, timeout=60, check=False
    )
    return "another coordinator" in refused(done, 40)


@pytest.mark.slow
def test_node_death_after_coordinator_restart(tmp_path: Path) -> None:
    file = model()
    with new_site(tmp_path) as site, Wire(started(site, NODES)) as wire:
        deploy(site, file)
        with Flow(site, file) as flow:
            flow.passes()
            without_coordinator(site, flow)
            # It dies while nobody coordinates.
            site.nodes[wire.nodes()[-1]].signal(signal.SIGKILL)
            site.start_coordinator()
            flow.moves_on()
            flow.passes()


def test_coordinator_stops_while_it_waits_for_a_model(tmp_path: Path) -> None:
    with new_site(tmp_path) as site, Wire(started(site, [])) as wire:
        artifact = Artifact("ab" * 32, 1000)
        body = {"name": "never", "model": to_plain(artifact)}
        wire.listen(wire.topics.artifact_request(artifact.sha256))
        wire.say(wire.topics.request("cli-1", "deploy"), encode(Request("t", body)))
        eventually(lambda: any(topic.endswith("/request") for topic, _ in wire.heard))
        assert site.coordinator is not None
        site.coordinator.process.terminate()
        assert site.coordinator.process.wait(5.0) == 0
        assert "Traceback" not in site.coordinator.log.read_text()


@pytest.mark.parametrize("kind", ["mosquitto", pytest.param("amqtt", marks=pytest.mark.slow)])
def test_broker_restart(tmp_path: Path, kind: BrokerKind) -> None:
    """mosquitto comes back with what it had stored, amqtt with nothing: all owners publish again."""
    file = model()
    with new_site(tmp_path, kind) as site, Wire(started(site, NODES)) as wire:
        deploy(site, file)
        with Flow(site, file) as flow:
            flow.passes()
            site.broker.kill()
            wire.documents.clear()
            site.broker.start()
            flow.passes()
            eventually(lambda: wire.state() == "running", 30.0)
            site.wait_ready(NODES)
            # All of it works, not only the data: a death after the restart is handled.
            site.nodes[wire.nodes()[0]].signal(signal.SIGKILL)
            flow.moves_on()
            flow.passes()


@pytest.mark.slow
def test_a_broker_that_ends_in_order_costs_no_revision(tmp_path: Path) -> None:
    """Rule 16: mosquitto publishes the wills of all its sessions when it ends, and keeps them."""
    file = model()
    with new_site(tmp_path) as site, Wire(started(site, NODES, coordinator=PATIENT)) as wire:
        deploy(site, file)
        with Flow(site, file) as flow:
            flow.passes()
            first = flow.revisions[:]
            for _ in range(3):
                site.broker.terminate()
                site.broker.start()
                flow.passes()
                site.wait_ready(NODES)
            assert flow.revisions == first
        assert wire.state() == "running"
