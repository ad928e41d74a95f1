"""Clusters of boards: who starts when, who gets a relay, and a real small one with all that is done to it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from emulator.cluster import Cluster
from emulator.node import batches, environment, needs_relay, speeds_name
from emulator.ownership import tag_of
from emulator.scenario import Board, ClientPart, Event, NodeType, Scenario
from emulator.sweep import names
from slicemq.errors import SliceMQError
from tests.e2e.scene import STEADY, Flow, model
from tests.emulator.machine import measured, need_limits, need_network
from tests.waiting import eventually

_MBIT = 1e6


def boards(*kinds: NodeType) -> list[Board]:
    """The boards of a fleet."""
    return Scenario(name="x", nodes=kinds).boards()


def started(found: list[list[Board]]) -> list[list[str]]:
    """Names only."""
    return [[board.name for board in batch] for batch in found]


def test_one_board_of_each_type_measures_alone_and_first() -> None:
    fleet = boards(NodeType("a", 3, cpu=0.1), NodeType("b", 2, cpu=0.5))
    assert started(batches(fleet, 2, None)) == [["a1"], ["b1"], ["a2", "a3", "b2"]]


def test_no_more_start_at_once_than_processors_and_the_broker_s_link_carry() -> None:
    fleet = boards(NodeType("a", 7, cpu=0.5))
    assert started(batches(fleet, 1, None)) == [["a1"], ["a2", "a3"], ["a4", "a5"], ["a6", "a7"]]
    fleet = boards(NodeType("a", 4, cpu=0.1, rate=40 * _MBIT))
    assert started(batches(fleet, 2, 100 * _MBIT)) == [["a1"], ["a2", "a3"], ["a4"]]
    # A board whose link is as fast as the broker's starts alone; one without a limit takes a whole processor.
    assert started(batches(boards(NodeType("a", 3)), 2, 100 * _MBIT)) == [["a1"], ["a2"], ["a3"]]
    assert started(batches(boards(NodeType("a", 4)), 2, None)) == [["a1"], ["a2", "a3"], ["a4"]]
    assert batches([], 2, None) == []


def test_a_type_that_is_measured_needs_no_first_one() -> None:
    fleet = boards(NodeType("a", 3, cpu=0.1), NodeType("b", 2, cpu=0.5))
    assert started(batches(fleet, 2, None, {speeds_name(fleet[0].kind)})) == [["b1"], ["a1", "a2", "a3", "b2"]]


@pytest.mark.parametrize(
    ("kind", "events", "needed"),
    [
        (NodeType("a"), (), False),
        (NodeType("a", delay=0.01), (), True),
        (NodeType("a", jitter=0.01), (), True),
        (NodeType("a", cut_every=5.0), (), True),
        (NodeType("a"), (Event(1.0, "cut", "a1"),), True),
        (NodeType("a"), (Event(1.0, "delay", "a1", delay=0.1),), True),
        (NodeType("a"), (Event(1.0, "kill", "a1"), Event(1.0, "cut", "b1")), False),
    ],
)
def test_a_board_gets_a_relay_only_where_something_takes_one(
    kind: NodeType, events: tuple[Event, ...], needed: bool
) -> None:
    scenario = Scenario(name="x", nodes=(kind,), events=events)
    assert needs_relay(scenario, scenario.boards()[0]) is needed


def test_settings_of_the_user_s_nodes_do_not_reach_emulated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMQ_NODE_MEMORY_MB", "1")
    monkeypatch.setenv("SLICEMQ_DATA_LINK", "paho")
    found = environment()
    assert "SLICEMQ_NODE_MEMORY_MB" not in found
    assert found["SLICEMQ_DATA_LINK"] == "paho"


SMALL = Scenario(
    name="small",
    nodes=(
        NodeType("pi", 2, rate=200 * _MBIT, memory=400_000_000, threads=1, data_broker=True),
        NodeType("far", 1, up=20 * _MBIT, down=30 * _MBIT, delay=0.002, threads=1, joins=1.0),
    ),
    client=ClientPart(rate=1e9),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two boards that run `faces`, and one that has not joined."""
    need_network()
    need_limits()
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(SMALL, folder=folder, measurements=measured(folder / "measured")) as running:
        running.json("deploy", str(model()), "--name", "faces", *STEADY)
        yield running
        tag = tag_of(running.nodes["pi1"].prefix[1].rpartition("/")[2])
        assert tag is not None
        assert any(tag_of(name) == tag for name in names())
    assert not any(tag_of(name) == tag for name in names())


def test_frames_pass_and_are_counted(cluster: Cluster) -> None:
    (node,) = {row["node"] for item in cluster.json("status")["pipelines"] for row in item["slices"]}
    before = cluster.nodes[node].cpu_seconds(), cluster.broker_cpu_seconds(), cluster.link_bytes(node)
    with Flow(cast(Any, cluster), model()) as flow:
        flow.passes(20)
    after = cluster.nodes[node].cpu_seconds(), cluster.broker_cpu_seconds(), cluster.link_bytes(node)
    assert after[0] > before[0]
    assert after[1] > before[1]
    # 20 frames of 128 x 128 x 3 floats.
    assert after[2][1] - before[2][1] > 20 * 196_608
    assert after[2][0] > before[2][0]


def test_a_board_is_frozen_and_goes_on(cluster: Cluster) -> None:
    cluster.freeze_node("pi1")
    group = cluster.nodes["pi1"].group
    assert group is not None
    eventually(lambda: {state_of_process(pid) for pid in group.processes()} == {"T"})
    cluster.thaw_node("pi1")
    cluster.wait_ready(["pi1"])


def test_a_board_is_killed_and_started_again_with_what_it_had(cluster: Cluster) -> None:
    cluster.kill_node("pi2")
    node = cluster.nodes["pi2"]
    assert node.group is not None
    assert node.group.processes() == set()
    assert not node.alive
    with pytest.raises(SliceMQError, match="node pi2: it ended"):
        cluster.wait_ready(["pi2"])
    cluster.start_node("pi2")
    cluster.wait_ready(["pi2"])
    assert node.data_broker is not None
    assert node.data_broker.process is not None
    assert node.data_broker.process.pid in node.group.processes()
    with pytest.raises(SliceMQError, match="runs already"):
        cluster.start_node("pi2")
    cluster.stop_node("pi2")
    assert node.running is not None
    assert node.running.process.returncode == 0
    cluster.start_node("pi2")
    cluster.wait_ready(["pi2"])


def test_links_change_go_down_and_come_up(cluster: Cluster) -> None:
    cluster.set_link("pi1", up=50 * _MBIT)
    cluster.link_down("pi1")
    eventually(lambda: state_of(cluster, "pi1") != "ready", 30.0)
    cluster.link_up("pi1")
    cluster.wait_ready(["pi1"], 60.0)


def test_limits_are_felt_and_change(cluster: Cluster) -> None:
    felt = cluster.nodes["pi1"].limits_felt()
    assert felt["memory_kills"] == 0
    assert felt["memory_peak_mb"] is None or 0 < felt["memory_peak_mb"] < 400
    cluster.set_limits("pi1", cpu=0.9, memory=350_000_000)
    group = cluster.nodes["pi1"].group
    assert group is not None
    assert group.killed() == 0


def test_a_board_joins_later_through_its_relay(cluster: Cluster) -> None:
    node = cluster.nodes["far1"]
    assert not node.alive
    assert node.relay is not None
    cluster.start_node("far1")
    cluster.wait_ready(["far1"])
    assert node.relay.stats()["accepted"] >= 1


@pytest.mark.slow
def test_the_coordinator_dies_and_returns(cluster: Cluster) -> None:
    cluster.kill_coordinator()
    cluster.start_coordinator()
    cluster.wait_ready(["pi1", "pi2"])
    assert [one["name"] for one in cluster.json("status")["pipelines"]] == ["faces"]


def test_a_name_that_is_not_there_is_answered_with_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(SliceMQError, match="no node pi9: expected one of pi1, pi2, far1"):
        cluster.kill_node("pi9")


@pytest.mark.slow
def test_without_isolation_links_are_refused_and_processes_end(tmp_path: Path) -> None:
    plain = replace(SMALL, nodes=(NodeType("pi", 1, rate=200 * _MBIT, threads=1),))
    with Cluster(plain, folder=tmp_path, isolate=False, measurements=measured(tmp_path / "m")) as running:
        for broken in (lambda: running.link_down("pi1"), lambda: running.link_bytes("pi1")):
            with pytest.raises(SliceMQError, match="not without isolation"):
                broken()
        running.freeze_node("pi1")
        process = running.nodes["pi1"].running
        assert process is not None
    assert process.process.returncode == -signal.SIGKILL


def test_a_coordinator_that_ends_at_its_start_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "coordinator").write_text("in the place of the folder of its store")
    plain = replace(SMALL, nodes=(NodeType("pi", 1, threads=1),))
    cluster = Cluster(plain, folder=tmp_path, isolate=False)
    with pytest.raises(SliceMQError, match=r"the coordinator ended with exit code 3:\n.*coordinator"), cluster:
        pass
    assert not cluster.nodes["pi1"].alive


def state_of(cluster: Cluster, name: str) -> str:
    """What the coordinator says of a node."""
    return next(str(row["state"]) for row in cluster.json("status")["nodes"] if row["node"] == name)


def state_of_process(process: int) -> str:
    """The letter that the system gives it: T is stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
