"""Planning in a child process: when it dies, one job fails and the next one works; nothing is left behind."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from coordinator.actions import MakePlan, PlanAhead
from coordinator.artifacts import ArtifactStore
from coordinator.contingency import Unmade
from coordinator.downloads import Exchange
from coordinator.intents import Blueprint, Intent
from coordinator.planning import PlanningJob, Tools
from coordinator.workshop import Workshop
from slicemq.errors import ArtifactError, CoordinatorError, ModelError, SliceMQError
from slicemq.messages import Artifact
from slicemq.topics import Topics
from tests.coordinator.site import blueprint, capacity
from tests.waiting import eventually

Outcome = tuple[int, Blueprint | SliceMQError]
HERE = "tests.coordinator.test_workshop"


def speeds(folder: Path) -> dict[str, float]:
    """A calibration that needs no time."""
    return {"conv": 1.0}


def die(*_: Any) -> Any:
    """A runtime that crashes on the model."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait_forever(job: Any) -> Any:
    """A planning job without an end."""
    signal.pause()


def plan_at_once(job: PlanningJob) -> Blueprint:
    """A planning job without work."""
    return replace(blueprint(job.intent, ["n2"]), plan={"bundles": []})


def plan_when_told(job: PlanningJob) -> Blueprint:
    """A planning job that ends when the test says so."""
    (job.folder / "begun").touch()
    eventually((job.folder / "go").exists)
    return plan_at_once(job)


def hang(folder: Path) -> dict[str, float]:
    """A calibration that starts a process and waits for it."""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", "import signal; signal.pause()"], check=False)
    return {}


def name() -> str:
    return "none"


class Bench:
    """A workshop with an empty store around it; `outcomes` are what it tells."""

    def __init__(self, folder: Path, *, calibrate: str = "speeds") -> None:
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.ahead: queue.Queue[tuple[int, Blueprint | Unmade]] = queue.Queue()
        self.store = ArtifactStore(folder / "artifacts")
        self.exchange = Exchange(self.store, Topics("lab"), "coordinator-1", lambda topic, payload: True)
        self.workshop = Workshop(
            folder,
            Tools(f"{HERE}:die", f"{HERE}:{calibrate}", f"{HERE}:name"),
            self.exchange,
            lambda nbytes: True,
            lambda job, made: self.outcomes.put((job, made)),
            lambda job, error: self.outcomes.put((job, error)),
            lambda job, outcome: self.ahead.put((job, outcome)),
        )

    def make(self, job: int, model: bytes, *nodes: str) -> Blueprint | SliceMQError:
        wanted = Intent("faces", self.store.put(model))
        capacities = tuple(capacity(node, "e") for node in nodes)
        self.workshop.make(MakePlan(job, wanted, capacities, frozenset(), None))
        number, outcome = self.outcomes.get(timeout=30.0)
        assert number == job
        return outcome

    def child(self) -> int | None:
        return self.workshop._child.pid

    def stop(self) -> None:
        self.workshop.stop()
        self.exchange.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stop()


def test_a_child_that_died_while_idle_is_no_fault_of_the_next_job(bench: Bench) -> None:
    assert isinstance(bench.make(1, b"no model"), ModelError)
    child = bench.child()
    assert child is not None
    os.kill(child, signal.SIGKILL)
    eventually(lambda: bench.workshop._child.broken)
    outcome = bench.make(2, b"no model either")
    assert isinstance(outcome, ModelError)
    assert "died" not in str(outcome)


def test_a_job_whose_child_dies_fails_with_advice_and_the_next_one_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.planning.run", die)
        outcome = bench.make(1, b"a poisoned model")
    assert isinstance(outcome, ModelError)
    assert "died" in str(outcome)
    assert "--profile estimate" in str(outcome)
    outcome = bench.make(2, b"no model")
    assert isinstance(outcome, ModelError)
    assert "died" not in str(outcome)


@pytest.mark.parametrize("client", ["cli-1", None])
def test_a_calibration_set_that_nobody_sends_fails_a_request_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, client: str | None
) -> None:
    fetched: list[tuple[Artifact, float]] = []

    def fetch(artifact: Artifact, patience: float) -> None:
        fetched.append((artifact, patience))
        if artifact.size == 7:
            raise ArtifactError("no chunk")

    monkeypatch.setattr(bench.exchange, "fetch", fetch)
    monkeypatch.setattr("coordinator.planning.run", plan_at_once)
    wanted = Intent("faces", Artifact("a" * 64, 5), calibration=Artifact("c" * 64, 7))
    bench.workshop.make(MakePlan(1, wanted, (), frozenset(), client))
    _, outcome = bench.outcomes.get(timeout=30.0)
    assert [artifact for artifact, _ in fetched] == [wanted.model, wanted.calibration]
    if client is None:
        assert isinstance(outcome, Blueprint)
    else:
        assert isinstance(outcome, CoordinatorError)
        assert "the calibration set cccccccccccc is not in the coordinator's store" in str(outcome)


def test_stop_leaves_no_process_behind_not_even_what_the_child_started(tmp_path: Path) -> None:
    bench = Bench(tmp_path, calibrate="hang")
    try:
        bench.workshop.warm_up()
        child = eventually(bench.child)
        assert child is not None
        (grandchild,) = eventually(lambda: psutil.Process(child).children(), timeout=30.0)
    finally:
        bench.stop()
    for pid in (child, grandchild.pid):
        eventually(partial(gone, pid), timeout=2.0)


def test_a_plan_ahead_gives_way_to_a_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.planning.run", wait_forever)
        bench.workshop.make_ahead(ahead(7, bench))
        child = eventually(lambda: bench.workshop._ahead.pid)
    assert child is not None
    assert isinstance(bench.make(1, b"no model"), ModelError)
    assert bench.ahead.get(timeout=30.0) == (7, Unmade.GIVEN_UP)
    eventually(partial(gone, child))


def test_a_loss_does_not_wait_for_a_request_that_is_planned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.planning.run", wait_forever)
        wanted = Intent("faces", bench.store.put(b"a model"))
        bench.workshop.make(MakePlan(1, wanted, (), frozenset(), "cli"))
        eventually(bench.child)
    assert isinstance(bench.make(2, b"no model"), ModelError)
    assert bench.child() is not None, "the request is still planned"


def test_a_plan_ahead_waits_for_no_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a request is under way none is begun."""
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.planning.run", wait_forever)
        wanted = Intent("faces", bench.store.put(b"a model"))
        bench.workshop.make(MakePlan(1, wanted, (), frozenset(), None))
        eventually(bench.child)
        bench.workshop.make_ahead(ahead(7, bench))
        assert bench.ahead.get(timeout=30.0) == (7, Unmade.GIVEN_UP)
    assert bench.workshop._ahead.pid is None
    assert bench.outcomes.empty()


@pytest.mark.parametrize("end", ["no model", "dies"])
def test_a_plan_ahead_that_cannot_be_made_says_so_and_the_next_one_works(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    for job in (7, 8):
        with monkeypatch.context() as patch:
            if end == "dies":
                patch.setattr("coordinator.planning.run", die)
            bench.workshop.make_ahead(ahead(job, bench))
            assert bench.ahead.get(timeout=30.0) == (job, Unmade.FAILED if end == "dies" else Unmade.NONE)
    assert isinstance(bench.make(1, b"no model"), ModelError)


def test_the_rest_after_a_plan_does_not_end_the_next_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the next one takes; the process ends when there is nothing more to make."""
    workshop = bench.workshop
    with monkeypatch.context() as patch:
        patch.setattr("coordinator.planning.run", plan_at_once)
        workshop.make_ahead(ahead(7, bench))
        assert isinstance(bench.ahead.get(timeout=30.0)[1], Blueprint)
        patch.setattr("coordinator.planning.run", plan_when_told)
        workshop.make_ahead(ahead(8, bench))
        eventually((tmp_path / "begun").exists, timeout=30.0)
        assert workshop._rest is not None
        workshop._rest.function()
        (tmp_path / "go").touch()
        job, outcome = bench.ahead.get(timeout=30.0)
    assert job == 8
    assert isinstance(outcome, Blueprint)
    child = workshop._ahead.pid
    assert child is not None
    workshop._rest.function()
    eventually(partial(gone, child))


def test_a_plan_ahead_whose_process_cannot_be_started_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.process.BaseProcess.start", no_process)
        bench.workshop.make_ahead(ahead(7, bench))
        assert bench.ahead.get(timeout=30.0) == (7, Unmade.FAILED)
    bench.workshop.make_ahead(ahead(8, bench))
    assert bench.ahead.get(timeout=30.0) == (8, Unmade.NONE)


def test_stop_ends_a_plan_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    try:
        monkeypatch.setattr("coordinator.planning.run", wait_forever)
        bench.workshop.make_ahead(ahead(7, bench))
        child = eventually(lambda: bench.workshop._ahead.pid)
    finally:
        bench.stop()
    assert child is not None
    eventually(partial(gone, child))


def no_process(self: Any) -> None:
    """A machine that has all the processes that it may have."""
    raise BlockingIOError(11, "Resource temporarily unavailable")


def ahead(job: int, bench: Bench) -> PlanAhead:
    """A plan ahead of what is no model."""
    wanted = Intent("faces", bench.store.put(b"no model"))
    return PlanAhead("n1", MakePlan(job, wanted, (capacity("n2", "e"),), frozenset(), None))


def gone(pid: int) -> bool:
    """Whether a process runs no more (its parent may not have asked for its exit code yet)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
