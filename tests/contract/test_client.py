"""The client against real brokers and a pipeline that answers, fails, dies and lies (rules 2-5, 8, 9, 15)."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emulator.brokers import HOST, Broker, Mosquitto, free_port
from slicemq import buffers, courier, ownconnection
from slicemq.client import Pipeline, Result
from slicemq.errors import BrokerError, FrameFailedError, InputError, PipelineError, UsageError, VersionError
from slicemq.frames import WireTensor, encode_frame
from slicemq.messages import Lane, TensorSpec
from slicemq.session import Session
from tests.contract.echo_node import NAME, R1, R2, R3, EchoNode, Master, route
from tests.waiting import eventually, never

OTHER = (TensorSpec(7, "twice", "float64", (1, -1)),)
SECONDS = 20.0


def image(value: float, size: int = 3) -> npt.NDArray[np.float32]:
    return np.full((1, size), value, np.float32)


class Site:
    """One broker with a pipeline of one revision, and what belongs to the test."""

    def __init__(self, broker: Broker, cluster: str) -> None:
        self.broker = broker
        self.cluster = cluster
        self.master = Master(broker, cluster)
        self.nodes: list[EchoNode] = []
        self.clients: list[Pipeline] = []

    def node(self, revision: str, *, parts: int = 1, turn: int | None = None) -> EchoNode:
        self.nodes.append(EchoNode(self.broker, self.cluster, revision, parts=parts, turn=turn))
        return self.nodes[-1]

    def client(self, **settings: Any) -> Pipeline:
        pipeline = Pipeline(NAME, self.broker.options, cluster=self.cluster, **settings)
        self.clients.append(pipeline)
        return pipeline.open()

    def close(self) -> None:
        for one in (*self.clients,):
            one.close()
        for node in self.nodes:
            node.stop()
        self.master.stop()


@pytest.fixture
def site(broker: Broker, cluster: str) -> Iterator[Site]:
    made = Site(broker, cluster)
    yield made
    made.close()


@pytest.fixture
def quick(mosquitto: Broker, cluster: str) -> Iterator[Site]:
    """The same on mosquitto alone, for what does not depend on the broker."""
    made = Site(mosquitto, cluster)
    yield made
    made.close()


def window_is(pipeline: Pipeline, share: int) -> Callable[[], bool]:
    return lambda: pipeline.stats.share == share


# ---- the way it should go


def test_frames_are_answered_in_order_although_the_answers_come_backwards(site: Site) -> None:
    node = site.node(R1)
    site.master.publish(route(R1))
    node.holding = True
    pipeline = site.client()
    assert [pipeline.submit(image(n)) for n in range(4)] == [0, 1, 2, 3]
    eventually(lambda: len(node.held) == 4)
    node.release(backwards=True)
    results = [pipeline.result(SECONDS) for _ in range(4)]
    assert [r.sequence for r in results] == [0, 1, 2, 3]
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result.outputs["twice"], image(2 * number))
        assert result.outputs["sum"] == 3 * number
        assert list(result.outputs) == ["twice", "sum"]
        assert result.tensors[7] is result.outputs["twice"]
        assert (result.revision, result.attempts, result.error) == (R1, 1, None)
        assert 0 < result.latency < SECONDS


def test_an_idle_client_gives_the_memory_of_its_frames_back(quick: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "ATTACH_SECONDS", 0.05)
    monkeypatch.setattr(buffers, "KEEP_SECONDS", 0.3)
    quick.node(R1)
    quick.master.publish(route(R1))
    pipeline = quick.client()
    pipeline.submit(image(1, 1_000_000))
    assert pipeline.result(SECONDS).outputs["sum"] == 1_000_000
    # Lent, or back and kept for the next frame; then neither.
    eventually(lambda: pipeline._pool.free == (0, 0) and not pipeline._pool._lent)


def test_frames_go_in_turns_to_nodes_that_answer_at_different_times(site: Site) -> None:
    even, odd = (site.node(R1, parts=parts, turn=turn) for turn, parts in enumerate((1, 2)))
    (bundle,) = route(R1).entry
    lanes = tuple(Lane((turn,), (bundle,), parts) for turn, parts in enumerate((1, 2)))
    site.master.publish(replace(route(R1), entry=(), parts=0, turns=2, lanes=lanes), window=6)
    even.holding = True
    pipeline = site.client()
    for number in range(6):
        pipeline.submit(image(number))
    eventually(lambda: (even.got, odd.got) == ([0, 2, 4], [1, 3, 5]))
    even.release(backwards=True)
    found = [(r.sequence, float(r.outputs["sum"])) for r in pipeline.results()]
    assert found == [(n, 3.0 * n) for n in range(6)]
    # Another revision has turns of its own.
    site.node(R2)
    site.master.publish(route(R2))
    eventually(lambda: pipeline.infer(image(1), SECONDS).revision == R2)


def test_map_keeps_the_window_full_and_infer_works_from_several_threads(site: Site) -> None:
    node = site.node(R1, parts=2)
    site.master.publish(route(R1, parts=2), window=6)
    pipeline = site.client()
    answers = [float(r.outputs["sum"]) for r in pipeline.map(image(n, 1) for n in range(100))]
    assert answers == list(range(100))
    found: dict[int, float] = {}

    def ask(number: int) -> None:
        for turn in range(5):
            value = number * 10 + turn
            found[value] = float(pipeline.infer(image(value, 1), SECONDS).outputs["sum"])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(value == answer for value, answer in found.items())
    stats = pipeline.stats
    assert (stats.submitted, stats.answered, stats.resent, stats.held) == (120, 120, 0, 0)
    assert len(node.got) == 120


def test_map_keeps_no_more_frames_on_their_way_than_its_limit(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1), window=8)
    node.holding = True
    pipeline = quick.client()
    results = pipeline.map((image(n) for n in range(9)), limit=2)
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    eventually(lambda: len(node.held) == 2)
    never(lambda: len(node.got) > 2, 0.2)
    node.release()
    thread.join(SECONDS)
    assert [r.sequence for r in found] == list(range(9))


def test_map_goes_on_when_the_window_becomes_smaller_while_its_source_gives_a_frame(quick: Site) -> None:
    """Rule 9: its own frames hold the places, and only it takes their outcomes."""
    node = quick.node(R1)
    quick.master.publish(route(R1), window=4)
    node.holding = True
    pipeline = quick.client()

    def frames() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(6):
            if number == 2:
                # There was room when this one was asked for.
                quick.master.publish(route(R1), window=1)
                eventually(window_is(pipeline, 1))
                node.release()
            yield image(number)

    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.extend(pipeline.map(frames())), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert [r.sequence for r in found] == list(range(6))
    assert [float(r.outputs["sum"]) for r in found] == [3.0 * n for n in range(6)]


def test_a_frame_of_megabytes_with_a_codec_comes_back_whole(site: Site) -> None:
    site.node(R1)
    site.master.publish(route(R1, codec="lz4"))
    pipeline = site.client()
    big = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)
    np.testing.assert_array_equal(pipeline.infer(big, SECONDS).outputs["twice"], big * 2)


def test_the_application_may_change_its_array_after_submit(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1))
    node.silent = True
    pipeline = quick.client()
    mine = image(1)
    pipeline.submit(mine)
    mine[:] = 99
    eventually(lambda: node.got == [0])
    quick.node(R2)
    quick.master.publish(route(R1, "lost"), route(R2))
    assert pipeline.result(SECONDS).outputs["sum"] == 3


def test_the_copies_of_large_inputs_use_memory_again_and_are_the_frames_own(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1), window=2)
    pipeline = quick.client()
    mine = np.empty((1, 100_000), np.float32)
    for first in (1, 3, 5):
        node.holding = True
        for value in (first, first + 1):
            mine[:] = value
            pipeline.submit(mine)
        eventually(lambda: len(node.held) == 2)
        node.release()
        got = [pipeline.result(SECONDS).outputs["twice"] for _ in range(2)]
        assert [(array.min(), array.max()) for array in got] == [(2 * v, 2 * v) for v in (first, first + 1)]
        del got
    # Two frames at once, three times.
    eventually(lambda: pipeline._pool.free[0] == 2)


def test_on_result_gets_every_outcome_in_order_and_holds_its_place_until_it_returns(quick: Site) -> None:
    quick.node(R1)
    quick.master.publish(route(R1), window=2)
    seen: list[Result] = []
    gate = threading.Event()

    def on_result(result: Result) -> None:
        gate.wait(SECONDS)
        seen.append(result)
        if result.sequence == 1:
            raise ValueError("the application's own mistake")

    pipeline = quick.client(on_result=on_result)
    for number in range(2):
        pipeline.submit(image(number), timeout=SECONDS)
    eventually(lambda: pipeline.stats.answered == 2)
    with pytest.raises(TimeoutError, match="window of 2 frames"):
        pipeline.submit(image(2), timeout=0.1)
    gate.set()
    for number in range(2, 6):
        pipeline.submit(image(number), timeout=SECONDS)
    pipeline.wait(SECONDS)
    assert [(r.sequence, float(r.outputs["sum"])) for r in seen] == [(n, 3.0 * n) for n in range(6)]
    with pytest.raises(UsageError, match="on_result"):
        pipeline.result()
    assert pipeline.infer(image(5), SECONDS).outputs["sum"] == 15
    assert len(seen) == 6


def test_rule_9_the_window_is_shared_and_a_place_is_free_only_when_its_result_was_taken(quick: Site) -> None:
    quick.node(R1)
    quick.master.publish(route(R1), window=5, clients=2)
    pipeline = quick.client()
    for number in range(2):
        pipeline.submit(image(number))
    eventually(lambda: pipeline.stats.answered == 2)
    with pytest.raises(TimeoutError):
        pipeline.submit(image(2), timeout=0.1)
    pipeline.result(SECONDS)
    pipeline.submit(image(2), timeout=SECONDS)
    quick.master.publish(route(R1), window=5, clients=1)
    eventually(window_is(pipeline, 5))
    assert [r.sequence for r in pipeline.results()] == [1, 2]


def test_results_and_map_go_on_behind_a_failed_frame(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1))
    node.error = "poisoned"
    pipeline = quick.client()
    pipeline.submit(image(0))
    with pytest.raises(FrameFailedError, match="frame 0: poisoned: boom") as caught:
        list(pipeline.results())
    assert (caught.value.reason, caught.value.sequence) == ("poisoned", 0)
    outcomes = list(pipeline.map([image(1), image(2)], raise_errors=False))
    assert [(r.sequence, r.error is not None and r.error.reason, r.outputs) for r in outcomes] == [
        (1, "poisoned", {}),
        (2, "poisoned", {}),
    ]
    with pytest.raises(FrameFailedError):
        list(pipeline.map(image(n) for n in range(3)))
    pipeline.wait(SECONDS)
    node.error = ""
    assert pipeline.infer(image(4), SECONDS).outputs["sum"] == 12


def test_a_client_attaches_with_the_highest_stamp_seen_and_detaches(quick: Site) -> None:
    quick.master.publish(route(R1))
    quick.master.publish(route(R1))
    pipeline = quick.client(client_id="watcher")
    eventually(lambda: quick.master.verbs("watcher") == ["attach"])
    body = json.loads(quick.master.asked[0][1])["body"]
    assert body == {"pipeline": NAME, "seen": {"term": 1, "instance": "m", "counter": 2}}
    pipeline.close()
    eventually(lambda: quick.master.verbs("watcher") == ["attach", "detach"])


# ---- revisions come and go


def test_a_lost_route_sends_everything_unanswered_to_the_new_revision_at_once(site: Site) -> None:
    node = site.node(R1)
    site.master.publish(route(R1))
    pipeline = site.client()
    assert pipeline.infer(image(1), SECONDS).revision == R1
    node.silent = True
    for number in range(3):
        pipeline.submit(image(number))
    eventually(lambda: len(node.got) == 4)
    site.node(R2)
    site.master.publish(route(R1, "lost"), route(R2))
    results = [pipeline.result(1.5) for _ in range(3)]  # the resend deadline is 2 s at the least
    assert [(r.sequence, r.revision, r.attempts) for r in results] == [(n, R2, 2) for n in (1, 2, 3)]
    (failover,) = pipeline.stats.failovers
    assert (failover.lost, failover.revision) == (R1, R2)
    assert 0 < failover.seconds < 1.5
    assert pipeline.stats.resent == 3


def test_a_draining_route_is_given_resend_after(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1))
    node.silent = True
    pipeline = quick.client(resend_after=0.6)
    pipeline.submit(image(1))
    eventually(lambda: node.got == [0])
    new = quick.node(R2)
    quick.master.publish(route(R1, "draining"), route(R2))
    result = pipeline.result(SECONDS)
    assert (result.revision, result.attempts) == (R2, 2)
    assert result.latency >= 0.6
    assert new.got == [0]
    assert pipeline.stats.missed == 1


def test_rule_3_a_mixture_of_two_revisions_is_never_delivered(quick: Site) -> None:
    old = quick.node(R1, parts=2)
    quick.master.publish(route(R1, parts=2))
    old.holding = True
    pipeline = quick.client()
    pipeline.submit(image(1))
    eventually(lambda: len(old.held) == 1)
    new = quick.node(R2, parts=2)
    new.holding = True
    quick.master.publish(route(R1, "lost", parts=2), route(R2, parts=2))
    eventually(lambda: len(new.held) == 1)
    old.answer(old.held[0], 0)
    new.answer(new.held[0], 1)
    never(lambda: pipeline.stats.answered, 0.3)
    new.release()
    assert pipeline.result(SECONDS).revision == R2


def test_a_second_answer_is_dropped_and_counted(quick: Site) -> None:
    node = quick.node(R1)
    node.copies = 3
    quick.master.publish(route(R1))
    pipeline = quick.client()
    assert [float(r.outputs["sum"]) for r in pipeline.map(image(n) for n in range(4))] == [0, 3, 6, 9]
    eventually(lambda: pipeline.stats.doubles == 8)


def test_a_paused_pipeline_opens_and_holds_frames_until_it_runs(quick: Site) -> None:
    quick.node(R1)
    quick.master.publish(state="paused")
    pipeline = quick.client(resend_after=0.05)
    pipeline.submit(image(1))
    never(lambda: pipeline.stats.sent, 0.3)
    quick.master.publish(route(R1))
    assert pipeline.result(SECONDS).attempts == 1


def test_a_changed_specification_ends_frames_and_new_ones_are_checked_against_it(quick: Site) -> None:
    node = quick.node(R1)
    node.silent = True
    quick.master.publish(route(R1))
    pipeline = quick.client()
    pipeline.submit(image(1))
    quick.master.publish(route(R1, "lost"), route(R2), outputs=OTHER)
    with pytest.raises(FrameFailedError, match="spec-changed"):
        pipeline.result(SECONDS)
    assert pipeline.outputs == OTHER


def test_an_answer_stays_readable_when_the_specification_changes_before_it_is_taken(quick: Site) -> None:
    quick.node(R1)
    quick.master.publish(route(R1))
    pipeline = quick.client()
    pipeline.submit(image(1))
    eventually(lambda: pipeline.stats.answered == 1)
    quick.master.publish(route(R1, "draining"), route(R2), outputs=OTHER)
    eventually(lambda: pipeline.outputs == OTHER)
    assert pipeline.result(SECONDS).outputs["sum"] == 3


def test_a_removed_pipeline_ends_frames_and_refuses_new_ones(quick: Site) -> None:
    node = quick.node(R1)
    node.silent = True
    quick.master.publish(route(R1))
    pipeline = quick.client()
    pipeline.submit(image(1))
    quick.master.publish(state="removed")
    with pytest.raises(FrameFailedError, match="removed"):
        pipeline.result(SECONDS)
    with pytest.raises(PipelineError, match="was removed"):
        pipeline.submit(image(2))
    with pytest.raises(PipelineError, match="was removed"):
        quick.client()


def test_rule_15_a_cleared_document_means_nothing(quick: Site) -> None:
    quick.node(R1)
    quick.master.publish(route(R1))
    pipeline = quick.client()
    quick.master.session.disown(quick.master.topics.pipeline(NAME))
    assert [float(r.outputs["sum"]) for r in pipeline.map(image(n) for n in range(10))] == [
        3.0 * n for n in range(10)
    ]


def test_give_up_after_ends_a_frame_and_the_next_ones_go_on(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1))
    node.silent = True
    pipeline = quick.client(give_up_after=0.3)
    with pytest.raises(FrameFailedError, match=r"frame 0: gave-up: no result within 0\.3 s") as caught:
        pipeline.infer(image(1))
    assert caught.value.exit_code == 62
    node.silent = False
    assert pipeline.infer(image(2), SECONDS).outputs["sum"] == 6


def test_infer_that_ran_out_of_time_gives_its_place_back(quick: Site) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1), window=1)
    node.holding = True
    pipeline = quick.client()
    with pytest.raises(TimeoutError):
        pipeline.infer(image(1), 0.1)
    with pytest.raises(TimeoutError):
        pipeline.submit(image(2), timeout=0.1)
    eventually(lambda: len(node.held) == 1)
    node.release()
    pipeline.submit(image(3), timeout=SECONDS)
    assert pipeline.result(SECONDS).outputs["sum"] == 9


# ---- the broker dies


def test_nothing_is_lost_when_the_broker_dies_in_the_middle(own_broker: Broker, cluster: str) -> None:
    site = Site(own_broker, cluster)
    try:
        site.node(R1)
        site.master.publish(route(R1), window=8)
        pipeline = site.client()
        answers = []
        for result in pipeline.map(image(n, 1) for n in range(300)):
            answers.append(float(result.outputs["sum"]))
            if result.sequence in (50, 150):
                own_broker.restart()
        assert answers == list(range(300))
        assert pipeline.stats.answered == 300
    finally:
        site.close()


def test_rule_8_a_loss_that_happened_while_away_is_learnt_on_the_next_connection(cluster: str) -> None:
    with Mosquitto() as broker:
        site = Site(broker, cluster)
        try:
            site.node(R1).silent = True
            site.node(R2)
            site.master.publish(route(R1))
            pipeline = site.client(resend_after=0.5)
            pipeline.submit(image(1))
            broker.kill()
            assert pipeline.submit(image(2), timeout=SECONDS) == 1
            site.master.publish(route(R1, "lost"), route(R2))
            broker.start()
            assert [(r.sequence, r.revision) for r in pipeline.results()] == [(0, R2), (1, R2)]
        finally:
            site.close()


def test_a_loss_of_the_control_connection_alone_sends_nothing_twice(quick: Site) -> None:
    node = quick.node(R1)
    quick.node(R2)
    quick.master.publish(route(R1))
    node.holding = True
    pipeline = quick.client(client_id="flaky")
    pipeline.submit(image(1))
    eventually(lambda: len(node.held) == 1)
    attached = quick.master.verbs("flaky").count("attach")
    # A second client of the same MQTT id makes the broker cut the first one's control connection.
    intruder = Session(quick.broker.options, "flaky")
    intruder.start()
    intruder.wait_up(SECONDS)
    intruder.stop()
    eventually(lambda: quick.master.verbs("flaky").count("attach") > attached)
    never(lambda: len(node.got) > 1, 0.3)
    quick.master.publish(route(R1, "lost"), route(R2))
    assert pipeline.result(SECONDS).revision == R2


# ---- bad input of every kind


def test_a_frame_that_cannot_travel_ends_instead_of_being_sent_for_ever(
    quick: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick.node(R1)
    quick.master.publish(route(R1))
    pipeline = quick.client()
    monkeypatch.setattr(ownconnection, "MAX_PAYLOAD", 1000)
    with pytest.raises(FrameFailedError, match=r"frame 0: unsendable: .* MQTT carries 1000"):
        pipeline.infer(image(1, 300), SECONDS)
    assert pipeline.infer(image(1), SECONDS).outputs["sum"] == 3


def test_wrong_tensors_are_refused_before_anything_is_sent(quick: Site) -> None:
    quick.master.publish(route(R1))
    pipeline = quick.client()
    with pytest.raises(InputError, match=r"'image' \(tensor 0\): expected float32 \[1, \?\], got float64 \[1, 3\]"):
        pipeline.submit(np.zeros((1, 3)))
    with pytest.raises(InputError, match="no input 'picture'"):
        pipeline.submit({"picture": image(1)})
    assert pipeline.stats.submitted == 0


HOSTILE = {
    "sequence": lambda h: replace(h, sequence=h.sequence + 1000),
    "revision": lambda h: replace(h, revision=R3),
    "stream": lambda h: replace(h, stream=h.stream ^ 1),
}


@pytest.mark.parametrize("cause", HOSTILE)
def test_results_that_lie_are_counted_and_dropped(quick: Site, cause: str) -> None:
    node = quick.node(R1)
    node.spoil = HOSTILE[cause]
    quick.master.publish(route(R1))
    pipeline = quick.client(resend_after=0.3)
    pipeline.submit(image(1))
    eventually(lambda: pipeline.stats.dropped == {cause: 1})
    node.spoil = None
    assert pipeline.result(SECONDS).outputs["sum"] == 3


def test_tensors_that_are_no_outputs_are_not_unpacked(quick: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes may say that they are a gigabyte: that must not be taken from memory to be thrown away."""
    node = quick.node(R1)
    node.holding = True
    quick.master.publish(route(R1))
    pipeline = quick.client()
    pipeline.submit(image(1))
    eventually(lambda: node.held)
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(WireTensor, "array", lambda tensor: asked.append(tensor.shape))
    topic = quick.master.topics.results(NAME, pipeline.client_id)
    for spec in (TensorSpec(7, "twice", "float32", (64, 64)), TensorSpec(6, "none", "float32", (1, 64))):
        tensor = (spec, np.zeros(spec.shape, np.float32))
        node.link.send(topic, encode_frame(node.held[0].header, [tensor], "lz4"))
    eventually(lambda: pipeline.stats.dropped == {"tensors": 2})
    assert asked == []
    monkeypatch.undo()
    node.release()
    assert pipeline.result(SECONDS).outputs["sum"] == 3


def test_rubbish_on_the_topics_is_counted_and_named(quick: Site, caplog: pytest.LogCaptureFixture) -> None:
    node = quick.node(R1)
    quick.master.publish(route(R1))
    pipeline = quick.client()
    with caplog.at_level(logging.WARNING):
        node.link.send(quick.master.topics.results(NAME, pipeline.client_id), [b"SMQF", b"\xff" * 100])
        quick.master.raw(b"{not json")
        eventually(lambda: pipeline.stats.dropped == {"frame": 1, "document": 1})
    assert "pipelines/double: not JSON" in caplog.text
    assert "bad frame" in caplog.text
    assert pipeline.infer(image(1), SECONDS).outputs["sum"] == 3


def test_no_pipeline_names_those_that_there_are(site: Site) -> None:
    with pytest.raises(PipelineError, match=rf"no pipeline 'double' in cluster '{site.cluster}'; there are none"):
        site.client()
    site.master.publish(route(R1))
    with pytest.raises(PipelineError, match=r"no pipeline 'birds' .*; there are: double") as caught:
        Pipeline("birds", site.broker.options, cluster=site.cluster).open()
    assert caught.value.exit_code == 61


def test_a_document_of_another_protocol_version_is_refused_by_name(quick: Site) -> None:
    newer = b'{"protocol":"2.0","name":"double"}'
    quick.master.raw(newer)
    eventually(lambda: newer in quick.master.session.snapshot(quick.master.topics.pipeline(NAME)).values())
    with pytest.raises(VersionError, match=r"'2\.0', this software speaks '1\.4'"):
        quick.client()


def test_no_broker_is_a_broker_error() -> None:
    with pytest.raises(BrokerError, match=HOST):
        Pipeline(NAME, f"mqtt://{HOST}:{free_port()}", connect_timeout=0.5).open()


@pytest.mark.parametrize("settings", [{"resend_after": 0.0}, {"give_up_after": -1.0}, {"client_id": "No"}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="|".join(settings) + "|client id"):
        Pipeline(NAME, **settings)


def test_after_close_everything_waiting_ends_and_nothing_more_is_taken(quick: Site) -> None:
    node = quick.node(R1)
    node.silent = True
    quick.master.publish(route(R1))
    pipeline = quick.client()
    pipeline.submit(image(1))
    failures: list[FrameFailedError] = []

    def wait() -> None:
        try:
            pipeline.result()
        except FrameFailedError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    pipeline.close()
    thread.join(SECONDS)
    assert [(e.reason, e.sequence) for e in failures] == [("closed", 0)]
    for call in (lambda: pipeline.submit(image(2)), lambda: pipeline.infer(image(2)), lambda: pipeline.inputs):
        with pytest.raises(PipelineError, match="closed"):
            call()
    with pytest.raises(FrameFailedError, match="closed"):
        pipeline.result()
    pipeline.close()
    assert not [t for t in threading.enumerate() if pipeline.client_id in t.name]
