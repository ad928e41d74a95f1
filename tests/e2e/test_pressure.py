"""What is too slow makes the others wait and lets nothing grow: a consumer, a node (rule 9)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.errors import SliceMQError
from slicemq.messages import Heartbeat, decode
from tests.e2e.scene import ONE_TURN, PATIENT, Flow, Wire, deploy, inputs, model, new_site, started, worker_of
from tests.waiting import eventually, never

pytestmark = pytest.mark.slow
PAIR = ("n1", "n2")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes, and a pipeline `faces` of a slice on each."""
    with new_site(tmp_path_factory.mktemp("pair")) as site:
        started(site, PAIR, coordinator=PATIENT)
        deploy(site, model(), "faces", *ONE_TURN, "--pin", "s0=n1", "--pin", "s1=n2", "--shape", "pipeline")
        yield site


def window(wire: Wire) -> int:
    found = wire.pipeline()
    assert found is not None
    return found.window


def overtakes(flow: Flow, count: int) -> bool:
    return flow.answered > count


def waiting(wire: Wire, node: str) -> int:
    """The frames that wait for the slices of a node, by its newest heartbeat."""
    topic = wire.topics.node(node, "heartbeat")
    payload = wire.documents.get(topic)
    return sum(one.queued for one in decode(Heartbeat, payload, topic).slices) if payload else 0


def test_who_takes_no_results_stops_itself_and_nobody_else(pair: Site) -> None:
    """Rule 9: a place in the window is held until the application takes the outcome."""
    file = model()
    with (
        Wire(pair) as wire,
        Pipeline("faces", pair.options, cluster=pair.cluster) as idle,
        Flow(pair, file) as flow,
    ):
        flow.passes(5)

        def submit() -> None:
            # The end of the test closes the client, which ends this thread.
            try:
                for _ in range(100_000):
                    idle.submit(inputs(file)[0])
            except SliceMQError:
                return

        thread = threading.Thread(target=submit, daemon=True)
        thread.start()
        eventually(lambda: idle.stats.held >= idle.stats.share > 0 and idle.stats.answered == idle.stats.held, 30.0)
        flow.passes(100)
        stats = idle.stats
        assert stats.submitted == stats.held <= window(wire)
        never(lambda: any(waiting(wire, node) > window(wire) for node in PAIR), 1.0)
        idle.close()
        thread.join(10.0)


def test_a_slow_node_makes_the_client_wait(pair: Site) -> None:
    """Rules 9 and 19: what waits in front of it is bounded by the window, and all of it is answered."""
    file = model()
    with Wire(pair) as wire, Flow(pair, file, limit=10_000) as flow:
        flow.passes(20)
        revision = flow.revisions[-1]
        worker = worker_of(pair, "n2")
        before = worker.memory_info().rss
        for _ in range(5):
            answered = flow.answered
            worker.send_signal(signal.SIGSTOP)
            try:
                # Shorter than what makes a slice count as hanging.
                never(partial(overtakes, flow, answered + window(wire)), 0.8)
            finally:
                worker.send_signal(signal.SIGCONT)
            flow.passes(20)
        assert flow.revisions == [revision]
        assert waiting(wire, "n2") <= window(wire)
        assert worker.memory_info().rss < before + 32_000_000


def test_a_small_window_is_what_the_plan_says(pair: Site) -> None:
    """The window of the document is the plan's, and no client uses more."""
    with Wire(pair) as wire, Pipeline("faces", pair.options, cluster=pair.cluster) as client:
        planned = eventually(lambda: wire.documents.get(wire.topics.plan("faces")) and wire.plan().plan["window"])
        assert window(wire) == planned
        assert client.stats.share <= planned
