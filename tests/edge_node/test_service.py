"""The node as real processes against real brokers: join, fetch, run, stop, die (rules 7, 11, 12, 15-19, 21)."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_node.runtime import open_interpreter
from emulator.brokers import Broker, Mosquitto
from slicemq.messages import Heartbeat, NodeState, Stamp, encode
from slicemq.options import BrokerOptions
from tests.edge_node import models
from tests.edge_node.cluster import (
    MODEL,
    REVISION,
    SPEC_OUT,
    Coordinator,
    NodeProcess,
    artifact,
    random_frames,
    resident_mb,
    running_node,
    slice_assignment,
)
from tests.runtimes import EACH_RUNTIME
from tests.waiting import eventually, never

READY = [(REVISION, "ready")]
# A board that measures itself while two cores run other tests, too.
JOIN = 40.0


@pytest.fixture
def node(broker: Broker, cluster: str, coordinator: Coordinator, state: Path) -> Iterator[NodeProcess]:
    with running_node(broker.options, cluster, state, "--spare-workers", "0") as running:
        eventually(lambda: coordinator.state == "ready" and coordinator.report and coordinator.beats, JOIN)
        yield running


# What does not depend on the broker is tried with one of them.
one_broker = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)


def expected(frames: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> list[bytes]:
    whole = open_interpreter(MODEL, threads=len(os.sched_getaffinity(0)))
    results = []
    for frame in frames:
        whole.set_input(0, frame)
        whole.invoke()
        results.append(whole.output(0).tobytes())
    return results


def said(node: NodeProcess, *texts: str) -> bool:
    return all(text in node.log for text in texts)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_slice_is_fetched_loaded_run_and_dropped(node: NodeProcess, coordinator: Coordinator) -> None:
    capacity = coordinator.capacity
    assert capacity is not None
    assert [state.state for state in coordinator.states[-2:]] == ["init", "ready"]
    assert capacity.memory > 0
    assert capacity.link.up > 0

    stamp = coordinator.assign(slice_assignment())
    eventually(lambda: coordinator.words() == READY, JOIN)
    assert coordinator.report is not None
    assert coordinator.report.seen == stamp
    eventually(lambda: coordinator.beats[-1].seen == stamp)
    eventually(lambda: coordinator.capacity and artifact().sha256 in coordinator.capacity.artifacts)

    frames = list(random_frames(20))
    for number, frame in enumerate(frames):
        coordinator.send(number, frame)
    eventually(lambda: len(coordinator.results) == 20)
    assert [frame.header.sequence for frame in coordinator.results] == list(range(20))
    assert [f.arrays()[SPEC_OUT.index].tobytes() for f in coordinator.results] == expected(frames)
    eventually(lambda: coordinator.beats[-1].slices and coordinator.beats[-1].slices[0].frames == 20)
    assert coordinator.beats[-1].slices[0].link == "up"

    (worker,) = node.children()
    coordinator.assign()
    eventually(lambda: coordinator.words() == [] and coordinator.report and not coordinator.report.slices)
    assert not alive(worker), "a slice leaves the report only when its worker is gone (rule 12)"

    assert node.end(signal.SIGTERM) == 0
    eventually(lambda: coordinator.state == "disconnected")
    assert "lost" not in [state.state for state in coordinator.states]


@one_broker
def test_documents_that_are_wrong_are_named_and_ignored(node: NodeProcess, coordinator: Coordinator) -> None:
    stamp = coordinator.assign(slice_assignment(), counter=10)
    eventually(lambda: coordinator.words() == READY, JOIN)
    topic = coordinator.topics.node("n1", "assignment")
    wrong = {
        b"no JSON": "not JSON",
        b'{"protocol":"2.0","node":"n1"}': "protocol version '2.0'",
        b'{"protocol":"1.0","node":"n1","stamp":{"term":1,"instance":"aa","counter":"x"},"slices":[]}': "counter",
        encode(slice_assignment()): "stamp",
    }
    for payload, message in wrong.items():
        coordinator.session.publish(topic, payload)
        eventually(functools.partial(said, node, f"ignored: {topic}", message))
    coordinator.assign(counter=9)
    coordinator.session.publish(topic, b"", retain=True)
    never(lambda: coordinator.words() != READY, 1.0)
    # Bad frames on its topic: dropped, and the next good one is answered.
    coordinator.link.send(coordinator.topics.data("faces", REVISION, "b0"), [b"SMQF" + b"\xff" * 40])
    coordinator.send(1, random_frames(1)[0], revision="2-0123abcd")
    coordinator.send(2, random_frames(1)[0])
    eventually(lambda: [f.header.sequence for f in coordinator.results] == [2])
    eventually(lambda: coordinator.beats[-1].slices and coordinator.beats[-1].slices[0].dropped == 2)
    assert coordinator.beats[-1].seen == stamp


@one_broker
def test_a_worker_that_is_killed_is_started_again_and_twice_is_too_often(
    node: NodeProcess, coordinator: Coordinator
) -> None:
    coordinator.assign(slice_assignment())
    eventually(lambda: coordinator.words() == READY, JOIN)
    before = coordinator.reports
    os.kill(node.children()[0], signal.SIGKILL)
    eventually(lambda: coordinator.words() == READY and coordinator.reports > before, JOIN)
    coordinator.send(1, random_frames(1)[0])
    eventually(lambda: coordinator.results)
    os.kill(node.children()[0], signal.SIGSEGV)
    eventually(lambda: coordinator.words() == [(REVISION, "failed")])
    assert "died twice within 60 s: signal SIGSEGV while running" in coordinator.reason()
    assert coordinator.state == "ready", "the node itself lives"


@one_broker
def test_a_worker_that_does_not_end_is_killed(node: NodeProcess, coordinator: Coordinator) -> None:
    coordinator.assign(slice_assignment())
    eventually(lambda: coordinator.words() == READY, JOIN)
    os.kill(node.children()[0], signal.SIGSTOP)
    coordinator.assign()
    eventually(lambda: coordinator.report and [one.reason for one in coordinator.report.slices] == ["stopping"])
    eventually(lambda: coordinator.report and not coordinator.report.slices)
    assert node.children() == []
    assert "does not end: killed" in node.log


@one_broker
def test_a_chunk_with_a_wrong_hash_is_asked_for_again(node: NodeProcess, coordinator: Coordinator) -> None:
    data = models.add_model()
    coordinator.artifacts[artifact(data).sha256] = data
    coordinator.corrupt = 1
    one = slice_assignment(artifact=artifact(data))
    coordinator.assign(one)
    # The model takes another shape than the assignment says: the bytes were right, the slice is refused.
    eventually(lambda: coordinator.words() == [(REVISION, "failed")], JOIN)
    assert "shapes [(1, 28, 28, 24)]" in coordinator.reason()
    eventually(lambda: "does not match its SHA-256" in node.log)
    assert len(coordinator.asked) >= 2


@one_broker
@pytest.mark.parametrize("kind", ["damaged", "custom"])
def test_a_slice_that_cannot_be_loaded_fails_with_its_reason(
    node: NodeProcess, coordinator: Coordinator, kind: str
) -> None:
    data = MODEL[:20_000] if kind == "damaged" else models.custom_model("Foo")
    coordinator.artifacts[artifact(data).sha256] = data
    coordinator.assign(slice_assignment(artifact=artifact(data)))
    eventually(lambda: coordinator.words() == [(REVISION, "failed")], JOIN)
    assert ("damaged TFLite model" if kind == "damaged" else "lacks operator Foo") in coordinator.reason()


def test_the_death_of_the_agent_is_told_by_its_will_and_takes_the_workers_along(
    node: NodeProcess, coordinator: Coordinator
) -> None:
    coordinator.assign(slice_assignment())
    eventually(lambda: coordinator.words() == READY, JOIN)
    (worker,) = node.children()
    assert node.end(signal.SIGKILL) == -signal.SIGKILL
    eventually(lambda: coordinator.state == "lost")
    assert coordinator.report is not None
    assert coordinator.states[-1].epoch == coordinator.report.epoch
    eventually(lambda: not alive(worker))


def test_heartbeats_go_on_and_a_late_will_is_healed(node: NodeProcess, coordinator: Coordinator) -> None:
    eventually(lambda: len(coordinator.beats) >= 5)
    counters = [beat.counter for beat in coordinator.beats]
    assert counters == list(range(counters[0], counters[0] + len(counters)))
    late = NodeState("n1", "lost", "0123456789abcdef")
    coordinator.session.publish(coordinator.topics.node("n1", "state"), encode(late), retain=True)
    eventually(lambda: len(coordinator.states) > 1 and coordinator.states[-2].state == "lost")
    assert coordinator.state == "ready"


def test_a_second_node_with_the_same_id_stops_and_the_first_does_not_notice(
    node: NodeProcess, coordinator: Coordinator, broker: Broker, cluster: str, state: Path
) -> None:
    states = len(coordinator.states)
    with running_node(broker.options, cluster, state) as second:
        assert second.process.wait(JOIN) == 71
        assert "another live node" in eventually(lambda: second.log)
        assert "'n1'" in second.log
    assert len(coordinator.states) == states
    assert coordinator.state == "ready"


@one_broker
def test_an_established_node_only_logs_a_foreign_heartbeat(node: NodeProcess, coordinator: Coordinator) -> None:
    topic = coordinator.topics.node("n1", "heartbeat")
    # While it is young it gives way to one that has counted further, so this one counts behind.
    eventually(lambda: coordinator.beats and coordinator.beats[-1].counter >= 3)
    for counter in (1, 2):
        coordinator.session.publish(topic, encode(Heartbeat("n1", "f" * 16, counter, 0.0, 0)))
    eventually(lambda: "another live node uses our id 'n1'" in node.log)
    assert node.process.poll() is None


def test_the_node_outlives_its_broker_and_says_everything_again(
    own_broker: Broker, cluster: str, state: Path
) -> None:
    with running_node(own_broker.options, cluster, state, "--spare-workers", "0") as node:
        with Coordinator(own_broker.options, cluster) as coordinator:
            eventually(lambda: coordinator.state == "ready", JOIN)
            coordinator.assign(slice_assignment())
            eventually(lambda: coordinator.words() == READY, JOIN)
            worker = node.children()
        own_broker.restart()
        with Coordinator(own_broker.options, cluster) as coordinator:
            eventually(lambda: coordinator.state == "ready" and coordinator.words() == READY, JOIN)
            eventually(lambda: coordinator.capacity)
            eventually(lambda: coordinator.beats and coordinator.beats[-1].slices[0].link == "up", JOIN)
            # The beat may be older than the link's loss, so the frame is sent again, as clients do.
            eventually(lambda: coordinator.answered(1, random_frames(1)[0]), every=0.5)
            assert node.children() == worker, "the slice was never stopped (rule 15)"


@one_broker
def test_a_term_that_is_over_is_not_obeyed(node: NodeProcess, coordinator: Coordinator) -> None:
    coordinator.coordinate(Stamp(5, "aa", 1))
    eventually(lambda: coordinator.beats[-1].seen == Stamp(5, "aa", 1))
    coordinator.assign(slice_assignment(), term=4)
    never(lambda: coordinator.words() != [], 1.0)
    coordinator.assign(slice_assignment(), term=5)
    eventually(lambda: coordinator.words() == READY, JOIN)


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_memory_of_an_idle_agent_and_of_a_worker(
    mosquitto: Broker, cluster: str, tmp_path: Path, runtime: str
) -> None:
    """Issue 2: an idle node at most 35 MB, a worker before its slice at most 60 MB, with either runtime."""
    with (
        Coordinator(mosquitto.options, cluster) as coordinator,
        running_node(mosquitto.options, cluster, tmp_path, "--runtime", runtime) as node,
    ):
        eventually(lambda: coordinator.state == "ready" and coordinator.capacity, JOIN)
        eventually(lambda: len(coordinator.beats) > 3)
        assert node.resident_mb() <= 35
        assert coordinator.capacity is not None
        assert coordinator.capacity.runtime.name == runtime
        assert coordinator.capacity.worker_memory <= 60_000_000
        coordinator.assign(slice_assignment())
        eventually(lambda: coordinator.words() == READY, JOIN)
        coordinator.send(1, random_frames(1)[0])
        eventually(lambda: coordinator.results)
        assert node.resident_mb() <= 35
        # With a slice of 41 kB loaded it holds little more than an idle one.
        assert resident_mb(node.children()[0]) <= 66


def test_without_a_broker_the_node_waits_and_joins_when_it_comes(
    own_broker: Broker, cluster: str, state: Path
) -> None:
    own_broker.kill()
    with running_node(own_broker.options, cluster, state) as node:
        eventually(lambda: "trying on" in node.log, JOIN)
        assert own_broker.url in node.log
        own_broker.start()
        with Coordinator(own_broker.options, cluster) as coordinator:
            eventually(lambda: coordinator.state == "ready", JOIN)
        assert node.end() == 0


def test_a_node_that_never_joined_stops_at_once(cluster: str, state: Path) -> None:
    with running_node(BrokerOptions("127.0.0.1", 9), cluster, state) as node:
        eventually(lambda: "trying on" in node.log, JOIN)
        assert node.end(signal.SIGINT) == 0


def test_refused_credentials_end_the_node_with_their_exit_code(cluster: str, state: Path) -> None:
    with (
        Mosquitto(replace={"allow_anonymous true": "allow_anonymous false"}) as strict,
        running_node(strict.options, cluster, state) as node,
    ):
        assert node.process.wait(JOIN) == 31
        eventually(lambda: strict.url in node.log)


@pytest.mark.parametrize(
    ("line", "reason"),
    [("", "task"), ("no JSON\n", "task"), ('{"node": "n1"}\n', "task: task: not a Task")],
)
def test_a_worker_without_a_sound_task_says_so(line: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_node.worker"],
        input=line,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert '"failed"' in done.stdout
    assert reason in done.stdout
