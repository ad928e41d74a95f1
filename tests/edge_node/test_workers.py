"""Workers as real processes: another task for a loaded one, a spare one, a frame that ends them (rules 10-12)."""

from __future__ import annotations

import math
import os
import queue
import signal
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_node.events import WorkerDied, WorkerReady
from edge_node.record import Record, Recorder
from edge_node.workers import Workers
from emulator.brokers import Broker
from slicemq.frames import Frame, FrameHeader
from slicemq.messages import FrameName, SliceAssignment
from tests.edge_node.cluster import (
    REVISION,
    SPEC_IN,
    SPEC_OUT,
    Coordinator,
    NodeProcess,
    random_frames,
    running_node,
    slice_assignment,
)
from tests.fragile import POISON, fragile_runtime
from tests.waiting import eventually

JOIN = 40.0
NEXT = "2-0123abcd"
one_broker = pytest.mark.parametrize("broker", ["mosquitto"], indirect=True)


@pytest.fixture
def node(broker: Broker, cluster: str, coordinator: Coordinator, state: Path) -> Iterator[NodeProcess]:
    """A node that keeps a spare worker."""
    with running_node(broker.options, cluster, state) as running:
        eventually(lambda: coordinator.state == "ready" and coordinator.report and coordinator.beats, JOIN)
        yield running


def runs(coordinator: Coordinator, *revisions: str) -> bool:
    return coordinator.words() == [(revision, "ready") for revision in revisions]


def of_revision(revision: str) -> SliceAssignment:
    return slice_assignment(revision=revision)


def ending(coordinator: Coordinator, sequence: int) -> Frame:
    """How a frame ended."""
    return eventually(lambda: [one for one in coordinator.results if one.header.sequence == sequence], JOIN)[0]


def answer(coordinator: Coordinator, sequence: int, array: np.ndarray, revision: str) -> bytes:  # type: ignore[type-arg]
    """What the slice gives for a frame."""
    coordinator.send(sequence, array, revision, at=revision)
    frame = ending(coordinator, sequence)
    assert frame.header.error == ""
    assert frame.header.revision == revision
    return bytes(frame.arrays()[SPEC_OUT.index].tobytes())


def test_a_worker_takes_over_another_revision_without_loading_rule_11(
    node: NodeProcess, coordinator: Coordinator
) -> None:
    coordinator.assign(of_revision(REVISION))
    eventually(lambda: runs(coordinator, REVISION), JOIN)
    frame = random_frames(1)[0]
    first = answer(coordinator, 1, frame, REVISION)
    worker = node.children()[0]
    # Without its file it could not be loaded again, and a download would be asked for.
    asked = len(coordinator.asked)
    coordinator.assign(of_revision(NEXT))
    eventually(lambda: runs(coordinator, NEXT), JOIN)
    assert answer(coordinator, 2, frame, NEXT) == first
    assert node.children()[0] == worker
    assert len(coordinator.asked) == asked
    # The frames of the revision before are not subscribed any more.
    coordinator.send(3, frame, REVISION)
    answer(coordinator, 4, frame, NEXT)
    assert all(one.header.sequence != 3 for one in coordinator.results)
    eventually(lambda: coordinator.beats[-1].slices and coordinator.beats[-1].slices[0].revision == NEXT)
    assert coordinator.beats[-1].slices[0].dropped == 0


@one_broker
def test_the_next_slice_gets_the_spare_worker_and_another_one_is_started(
    node: NodeProcess, coordinator: Coordinator
) -> None:
    (spare,) = eventually(node.children, JOIN)
    coordinator.assign(of_revision(REVISION))
    eventually(lambda: runs(coordinator, REVISION), JOIN)
    answer(coordinator, 1, random_frames(1)[0], REVISION)
    assert node.children()[0] == spare
    eventually(lambda: len(node.children()) == 2, JOIN)
    another = node.children()[1]
    # Killed while it waits it takes nothing along, and the slice that starts next has a worker all the same.
    os.kill(another, signal.SIGKILL)
    coordinator.assign(of_revision(REVISION), slice_assignment(slice="s1", inputs=of_revision(REVISION).inputs))
    eventually(lambda: runs(coordinator, REVISION, REVISION), JOIN)
    assert coordinator.report is not None
    assert coordinator.report.crashes == ()


@one_broker
def test_the_worker_of_a_slice_that_is_stopped_becomes_the_spare_and_runs_another(
    node: NodeProcess, coordinator: Coordinator
) -> None:
    """While two revisions are held no spare is started, so there is none when the older one is stopped."""
    frame = random_frames(1)[0]
    names = [f"{number}-0123abcd" for number in range(1, 7)]
    for count in (1, 2):
        coordinator.assign(*map(of_revision, names[:count]))
        eventually(lambda count=count: runs(coordinator, *names[:count]), JOIN)  # type: ignore[misc]
    results = {answer(coordinator, 2, frame, names[1])}
    processes = sorted(node.children())
    assert len(processes) == 2
    for number in range(2, 6):
        coordinator.assign(of_revision(names[number - 1]))
        eventually(lambda number=number: runs(coordinator, names[number - 1]), JOIN)  # type: ignore[misc]
        now = names[number - 1 : number + 1]
        coordinator.assign(*map(of_revision, now))
        eventually(lambda now=now: runs(coordinator, *now), JOIN)  # type: ignore[misc]
        results.add(answer(coordinator, number + 1, frame, names[number]))
        assert sorted(node.children()) == processes
    assert len(results) == 1
    assert coordinator.report is not None
    assert coordinator.report.crashes == ()


@one_broker
def test_a_worker_that_does_not_turn_to_another_task_is_killed_and_the_slice_loaded(
    node: NodeProcess, coordinator: Coordinator
) -> None:
    coordinator.assign(of_revision(REVISION))
    eventually(lambda: runs(coordinator, REVISION), JOIN)
    os.kill(node.children()[0], signal.SIGSTOP)
    coordinator.assign(of_revision(NEXT))
    eventually(lambda: runs(coordinator, NEXT), JOIN)
    assert "does not turn to another task: killed" in node.log
    answer(coordinator, 1, random_frames(1)[0], NEXT)


@pytest.fixture
def fragile(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the nodes of this test a runtime that crashes on some inputs."""
    monkeypatch.setenv("PYTHONPATH", fragile_runtime(tmp_path_factory.mktemp("fragile")))


@one_broker
@pytest.mark.usefixtures("fragile")
def test_a_frame_that_ends_two_workers_is_poisoned_and_the_slice_goes_on_rule_10(
    broker: Broker, cluster: str, coordinator: Coordinator, state: Path
) -> None:
    poison = np.full(SPEC_IN.shape, POISON, np.float32)
    frame = random_frames(1)[0]
    name = FrameName("tester", f"{7:016x}", 5)
    with running_node(broker.options, cluster, state, "--runtime", "ai_edge_litert") as node:
        eventually(lambda: coordinator.state == "ready" and coordinator.report and coordinator.beats, JOIN)
        coordinator.assign(of_revision(REVISION))
        for deaths in (1, 2):
            eventually(lambda: runs(coordinator, REVISION), JOIN)
            answer(coordinator, 10 + deaths, frame, REVISION)
            coordinator.send(5, poison)

            def told(deaths: int = deaths) -> bool:
                crashes = coordinator.report.crashes if coordinator.report else ()
                return [(one.frame, one.count) for one in crashes] == [(name, deaths)]

            eventually(told, JOIN)
        eventually(lambda: runs(coordinator, REVISION), JOIN)
        coordinator.send(5, poison)
        assert ending(coordinator, 5).header.error == "poisoned"
        answer(coordinator, 20, frame, REVISION)
        assert coordinator.report is not None
        (crash,) = coordinator.report.crashes
        assert crash.how.startswith("signal SIGSEGV")
        assert node.process.poll() is None


@one_broker
def test_a_worker_that_dies_between_frames_blames_none_rule_10(node: NodeProcess, coordinator: Coordinator) -> None:
    coordinator.assign(of_revision(REVISION))
    eventually(lambda: runs(coordinator, REVISION), JOIN)
    answer(coordinator, 1, random_frames(1)[0], REVISION)
    before = coordinator.reports
    os.kill(node.children()[0], signal.SIGKILL)
    eventually(lambda: coordinator.reports > before and runs(coordinator, REVISION), JOIN)
    assert coordinator.report is not None
    assert coordinator.report.crashes == ()


def test_a_record_tells_what_was_written_last_rule_10() -> None:
    recorder = Recorder()
    try:
        record = Record(os.dup(recorder.descriptor))
        assert recorder.read() is None
        record.loading()
        assert recorder.read() == "loading"
        header = FrameHeader("cam-1", (1 << 64) - 1, 1 << 63, 0.0, REVISION)
        record.computing(header)
        assert recorder.read() == FrameName("cam-1", "f" * 16, 1 << 63)
        record.idle()
        assert recorder.read() is None
        record.computing(replace(header, client="c" * 64, sequence=0))
        assert recorder.read() == FrameName("c" * 64, "f" * 16, 0)
    finally:
        recorder.close()


def test_a_record_that_names_no_frame_counts_as_none() -> None:
    recorder = Recorder()
    try:
        os.pwrite(recorder.descriptor, b"\x02" + b"\xff" * 200, 0)
        assert recorder.read() is None
        os.ftruncate(recorder.descriptor, 4)
        assert recorder.read() is None
    finally:
        recorder.close()


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Workers, queue.SimpleQueue[object]]]:
    """Workers that name frame 3 as being computed, say what their first task asks for, and then do nothing."""
    package = tmp_path / "edge_node"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "worker.py").write_text(
        textwrap.dedent(f"""
            import json, os, sys, time

            task = json.loads(sys.stdin.readline())
            sys.path.insert(0, {str(Path(__file__).parents[2])!r})
            sys.modules.pop("edge_node")
            from edge_node.record import Record
            from slicemq.frames import FrameHeader

            Record(task["record"]).computing(FrameHeader("cam-1", 7, 3, 0.0, "1-0123abcd"))
            for event in task["say"]:
                print(json.dumps({{"event": event, "number": task["number"]}}), flush=True)
            time.sleep(600)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    told: queue.SimpleQueue[object] = queue.SimpleQueue()
    made = Workers(told.put)
    yield made, told
    made.reap(math.inf)
    made.stop(1, 0.0)
    made.stop(2, 0.0)
    made.reap(math.inf)


def test_a_worker_that_its_agent_kills_blames_no_frame_rule_10(
    workers: tuple[Workers, queue.SimpleQueue[object]],
) -> None:
    """A frame that takes long while the worker is to turn to another task has done nothing wrong."""
    node, told = workers
    node.start(1, {"say": ["ready"]})
    assert told.get(timeout=JOIN) == WorkerReady(1)
    node.retask(1, 2, {}, now=100.0)
    node.reap(200.0)
    died = told.get(timeout=JOIN)
    assert died == WorkerDied(2, "killed, it does not turn to another task", None)


def test_a_spare_worker_that_still_comes_up_is_not_killed_when_it_gets_a_task(
    workers: tuple[Workers, queue.SimpleQueue[object]],
) -> None:
    """On a slow board the imports alone may take longer than the patience with a worker that runs."""
    node, told = workers
    node.start(1, {"say": []})
    node.retask(1, 2, {}, now=100.0)
    node.reap(200.0)
    node.stop(2, 200.0)
    node.reap(300.0)
    assert told.get(timeout=JOIN) == WorkerDied(2, "killed, it does not end", None)
