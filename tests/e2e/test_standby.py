"""A standby takes over while frames flow, and whoever was replaced writes nothing any more (rules 20 to 24)."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.inbox import stamp_of
from emulator.relay_handle import RelayProcess
from emulator.site import BrokerKind, Running, Site
from slicemq.messages import CoordinatorState, decode
from slicemq.operations import StandbyState
from tests.e2e.scene import Flow, Wire, deploy, model, new_site, started
from tests.waiting import eventually, never

NODES = ("n1", "n2", "n3")


class Pair:
    """A site with a coordinator and standbys beside it."""

    def __init__(self, site: Site, wire: Wire) -> None:
        self.site, self.wire = site, wire
        wire.listen(wire.topics.mirror)
        wire.listen(wire.topics.standby("+"))

    def start_standby(self, name: str, *network: str) -> Running:
        """Start a coordinator as a standby (again); its store stays in the site's folder."""
        words = ["coordinator", "run", "--standby", "--state-dir", str(self.site.folder / name)]
        command = [sys.executable, "-m", "coordinator.cli", *words, *(network or self.site.network_options())]
        return self.site.run(name, command)

    def active(self) -> CoordinatorState:
        """Who coordinates, by the retained document."""
        return decode(CoordinatorState, self.wire.documents[self.wire.topics.coordinator], "coordinator")

    def standbys(self, state: str = "ready") -> list[str]:
        """The instances of the standbys in this state."""
        prefix = self.wire.topics.standby("")
        documents = [p for topic, p in list(self.wire.documents.items()) if topic.startswith(prefix)]
        return [
            one.instance for one in (decode(StandbyState, p, "standby") for p in documents) if one.state == state
        ]

    def taken_over(self, term: int) -> CoordinatorState:
        """Wait until one coordinates with a higher term."""
        eventually(lambda: self.active().state == "ready" and self.active().stamp.term > term, 30.0)
        return self.active()


def _holds_model(site: Site, standby: str) -> bool:
    """Whether a standby has the model, which a plan is made from, in its store."""
    digest = hashlib.sha256(model().read_bytes()).hexdigest()
    return any(digest in path.name for path in (site.folder / standby / "artifacts").rglob("*"))


def _writer(beside: Pair, topic: str) -> str:
    """Whose document is retained there."""
    found = stamp_of(beside.wire.documents[topic])
    return found[1] if found is not None else ""


@contextmanager
def pair(folder: Path, kind: BrokerKind = "mosquitto", standbys: int = 1) -> Iterator[tuple[Pair, list[Running]]]:
    """A deployed pipeline `faces`, its coordinator, and standbys that are ready."""
    with new_site(folder, kind) as site, Wire(started(site, NODES)) as wire:
        beside = Pair(site, wire)
        names = [f"standby-{number}" for number in range(standbys)]
        running = [beside.start_standby(name) for name in names]
        try:
            deploy(site, model())
            # One that was ready before the deploy has yet to fetch its files.
            eventually(lambda: all(_holds_model(site, name) for name in names), 30.0)
            eventually(lambda: len(beside.standbys()) == standbys, 30.0)
            yield beside, running
        finally:
            for one in running:
                one.end()


def lost_node_is_replaced(beside: Pair, flow: Flow) -> None:
    beside.site.nodes[beside.wire.nodes()[-1]].signal(signal.SIGKILL)
    flow.moves_on()
    flow.passes()


def test_a_standby_takes_over_and_the_one_before_it_comes_back_as_a_standby(tmp_path: Path) -> None:
    """Rules 21 to 23: a higher term, no interruption of data, and then it replaces a node that dies."""
    with pair(tmp_path) as (beside, _), Flow(beside.site, model()) as flow:
        flow.passes()
        first, before = flow.revisions[:], beside.active()
        assert beside.site.coordinator is not None
        beside.site.coordinator.signal(signal.SIGKILL)
        beside.site.coordinator.process.wait()
        after = beside.taken_over(before.stamp.term)
        assert after.stamp.instance != before.stamp.instance
        flow.passes()
        assert flow.revisions == first
        lost_node_is_replaced(beside, flow)
        beside.site.start_coordinator("--standby")
        eventually(lambda: len(beside.standbys()) == 1, 30.0)
        assert beside.active().stamp.instance == after.stamp.instance
        # What it holds now is the other one's store, with the revision that was made meanwhile.
        stores = [beside.site.folder / name / "state.json" for name in ("coordinator", "standby-0")]
        eventually(lambda: stores[0].read_bytes() == stores[1].read_bytes(), 30.0)


@pytest.mark.slow
def test_one_that_was_stopped_meanwhile_writes_nothing_and_stands_by(tmp_path: Path) -> None:
    """Rule 22: by its own clock it coordinated all the time."""
    with pair(tmp_path) as (beside, running), Flow(beside.site, model()) as flow:
        flow.passes()
        first, before = flow.revisions[:], beside.active()
        stopped = beside.site.coordinator
        assert stopped is not None
        stopped.signal(signal.SIGSTOP)
        after = beside.taken_over(before.stamp.term)
        beside.wire.heard.clear()
        stopped.signal(signal.SIGCONT)
        eventually(lambda: beside.standbys() == [before.stamp.instance], 30.0)
        flow.passes()
        assert flow.revisions == first
        late = []
        for topic, payload in list(beside.wire.heard):
            stamp = stamp_of(payload)
            will = topic == beside.wire.topics.coordinator and json.loads(payload)["state"] == "lost"
            if stamp is not None and stamp[1] != after.stamp.instance and not will:
                late.append(topic)
        # What it was just writing when it was stopped leaves with its next step, and is written over.
        assert len(late) <= 1
        assert beside.wire.topics.coordinator not in late
        for topic in late:
            eventually(lambda topic=topic: _writer(beside, topic) == after.stamp.instance)  # type: ignore[misc]
        # The same process takes over again, with a higher term.
        running[0].signal(signal.SIGKILL)
        again = beside.taken_over(after.stamp.term)
        assert again.stamp.instance == before.stamp.instance
        lost_node_is_replaced(beside, flow)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_one_that_was_cut_off_from_the_broker_stands_by_when_it_is_back(tmp_path: Path, kind: BrokerKind) -> None:
    """Rules 21 and 22: both live, and both believe for a while that they coordinate."""
    with pair(tmp_path, kind, standbys=0) as (beside, running), Flow(beside.site, model()) as flow:
        flow.passes()
        first, options = flow.revisions[:], beside.site.options
        with RelayProcess("127.0.0.1:0", f"{options.host}:{options.port}") as relay:
            network = ["--broker", f"mqtt://127.0.0.1:{relay.port}", "--cluster", beside.site.cluster]
            running.append(beside.start_standby("standby-cut", *network))
            eventually(lambda: _holds_model(beside.site, "standby-cut") and len(beside.standbys()) == 1, 30.0)
            term = beside.active().stamp.term
            assert beside.site.coordinator is not None
            beside.site.coordinator.signal(signal.SIGKILL)
            before = beside.taken_over(term)
            running.append(beside.start_standby("standby-0"))
            eventually(lambda: _holds_model(beside.site, "standby-0") and len(beside.standbys()) == 1, 30.0)
            relay.freeze()
            after = beside.taken_over(before.stamp.term)
            lost_node_is_replaced(beside, flow)
            relay.thaw()
            eventually(lambda: before.stamp.instance in beside.standbys(), 30.0)
            flow.passes()
            assert flow.revisions[: len(first)] == first
            assert beside.active().stamp.instance == after.stamp.instance

            def written_by() -> set[str]:
                stamps = [stamp_of(payload) for payload in list(beside.wire.documents.values())]
                return {stamp[1] for stamp in stamps if stamp is not None}

            eventually(lambda: written_by() == {after.stamp.instance}, 30.0)
            moved = len(flow.revisions)
            flow.passes()
            assert len(flow.revisions) == moved
            assert all(one.alive for one in running)


@pytest.mark.slow
def test_of_two_standbys_one_takes_over(tmp_path: Path) -> None:
    with pair(tmp_path, standbys=2) as (beside, _), Flow(beside.site, model()) as flow:
        flow.passes()
        first, before, ready = flow.revisions[:], beside.active(), sorted(beside.standbys())
        assert beside.site.coordinator is not None
        beside.site.coordinator.signal(signal.SIGKILL)
        after = beside.taken_over(before.stamp.term)
        assert after.stamp.instance == ready[0]
        eventually(lambda: beside.standbys() == [ready[1]], 30.0)
        never(lambda: beside.active().stamp.term > after.stamp.term, 5.0)
        flow.passes()
        assert flow.revisions == first


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_a_restarted_broker_changes_neither_coordinator_nor_revision(tmp_path: Path, kind: BrokerKind) -> None:
    """Rules 17, 20 and 22: amqtt comes back with nothing; the owners of documents publish them again."""
    with pair(tmp_path, kind) as (beside, _), Flow(beside.site, model()) as flow:
        flow.passes()
        first, before = flow.revisions[:], beside.active()
        beside.site.broker.kill()
        beside.wire.documents.clear()
        beside.site.broker.start()
        flow.passes(timeout=60.0)
        eventually(lambda: beside.wire.topics.coordinator in beside.wire.documents, 30.0)
        eventually(lambda: len(beside.standbys()) == 1 and beside.active().state == "ready", 30.0)
        beside.site.wait_ready(NODES)
        flow.passes()
        assert flow.revisions == first
        assert (beside.active().stamp.term, beside.active().stamp.instance) == (
            before.stamp.term,
            before.stamp.instance,
        )
        lost_node_is_replaced(beside, flow)
