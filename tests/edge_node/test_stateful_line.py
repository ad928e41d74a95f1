"""Two slices that keep state one behind the other, real brokers and the client (protocol rules 5, 6 and 8)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from edge_node.runtime import open_interpreter
from edge_node.stage import Stage
from emulator.brokers import Broker
from slicemq.client import Pipeline
from slicemq.datalink import open_link
from slicemq.errors import StreamBusy, StreamReset
from slicemq.frames import decode_frame
from slicemq.messages import Bundle, PipelineDocument, ResultPart, Route, Stamp, TensorSpec, encode
from slicemq.session import Session
from slicemq.specs import spec_digest
from slicemq.topics import Topics
from tests.edge_node import models
from tests.edge_node.cluster import slice_assignment
from tests.waiting import eventually

X, H, Y = (TensorSpec(index, name, "float32", (1, 4)) for index, name in enumerate("xhy"))
ONES = np.ones((1, 4), np.float32)
R1, R2 = "1-aaaaaaaa", "2-bbbbbbbb"
SECONDS = 20.0


class Worker:
    """One slice with a connection of its own; what it sends of the frames in `lost` gets lost, once each."""

    def __init__(self, line: Line, number: int, revision: str) -> None:
        inner = number == 0
        assignment = slice_assignment(
            pipeline="adder",
            revision=revision,
            slice=f"s{number}",
            takes=(number,),
            gives=(number + 1,),
            inputs=(Bundle(f"b{number}", ((X, H)[number],)),),
            outputs=(Bundle("b1", (H,)),) if inner else (),
            result=None if inner else ResultPart(0, 1, (Y,)),
            stateful=True,
            leases=inner,
        )
        self.lost: list[int] = []
        self.runs = 0
        self.link = open_link(
            line.broker.options,
            f"n-{secrets.token_hex(4)}",
            on_frame=lambda topic, payload: self.stage.on_frame(topic, payload),
        )
        self.stage = Stage(assignment, line.topics, open_interpreter(models.accumulator_model(0.0)), self.send)
        self.stage.start()
        self.link.start()
        self.link.wait_up(10)
        self.link.subscribe(self.stage.topics)

    def send(self, topic: str, parts: Sequence[bytes | memoryview]) -> bool:
        sequence = decode_frame(b"".join(parts)).header.sequence
        if sequence in self.lost:
            self.lost.remove(sequence)
            return True
        return self.link.send(topic, parts)

    def stop(self) -> None:
        self.link.stop()
        self.stage.stop()


class Line:
    """A pipeline of two slices that both add up what they get, beginning at 0, and the document that says so."""

    def __init__(self, broker: Broker, cluster: str) -> None:
        self.broker = broker
        self.topics = Topics(cluster)
        self.counter = 0
        self.workers: dict[str, list[Worker]] = {}
        self.clients: list[Pipeline] = []
        self.session = Session(broker.options, f"m-{secrets.token_hex(4)}", on_message=lambda *_: None)
        self.session.start()
        self.session.wait_up(10)

    def revision(self, name: str) -> list[Worker]:
        self.workers[name] = [Worker(self, number, name) for number in range(2)]
        return self.workers[name]

    def restart(self, revision: str, number: int) -> None:
        self.workers[revision][number].stop()
        self.workers[revision][number] = Worker(self, number, revision)

    def publish(self, *routes: tuple[str, str], resend: int = 0) -> None:
        self.counter += 1
        entry = (Bundle("b0", (X,)),)
        document = PipelineDocument(
            name="adder",
            stamp=Stamp(1, "m", self.counter),
            state="running",
            reason="",
            model="0" * 64,
            spec=spec_digest((X,), (Y,)),
            inputs=(X,),
            outputs=(Y,),
            routes=tuple(Route(name, state, 1.0, entry, 1) for name, state in routes),  # type: ignore[arg-type]
            resend=resend,
            stateful=True,
        )
        self.session.own(self.topics.pipeline("adder"), encode(document))

    def client(self, name: str, *, resend_after: float = 0.2) -> Pipeline:
        pipeline = Pipeline(
            "adder", self.broker.options, cluster=self.topics.cluster, client_id=name, resend_after=resend_after
        )
        self.clients.append(pipeline)
        return pipeline.open()

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        for workers in self.workers.values():
            for worker in workers:
                worker.stop()
        self.session.stop()


@pytest.fixture
def line(broker: Broker, cluster: str) -> Iterator[Line]:
    made = Line(broker, cluster)
    made.revision(R1)
    made.publish((R1, "active"))
    yield made
    made.stop()


def say(pipeline: Pipeline) -> float:
    return float(pipeline.infer(ONES, SECONDS).outputs["y"][0, 0])


def one_device(frames: int) -> list[float]:
    """What the two sums give for ones: the triangular numbers."""
    return [n * (n + 1) / 2 for n in range(1, frames + 1)]


def test_fifty_frames_equal_one_device_though_messages_are_lost(line: Line) -> None:
    first, last = line.workers[R1]
    first.lost += [3, 10, 11]
    last.lost += [5, 11, 20]
    ann = line.client("ann")
    assert ann.stateful
    results = list(ann.map(ONES for _ in range(50)))
    assert [float(result.outputs["y"][0, 0]) for result in results] == one_device(50)
    assert all(results[number].attempts > 1 for number in (3, 5, 10, 11, 20))
    assert first.lost == last.lost == []
    assert ann.stats.share == 1


def test_a_second_client_is_refused_until_the_first_is_closed(line: Line) -> None:
    ann, bob = line.client("ann"), line.client("bob")
    assert [say(ann), say(ann)] == one_device(2)
    with pytest.raises(StreamBusy, match="frame 0: stream-busy: slice s0: client ann has the stream"):
        say(bob)
    assert say(ann) == 6
    ann.close()
    eventually(lambda: bob.map([ONES], raise_errors=False).__next__().error is None)
    assert say(bob) == 3


def test_a_client_that_was_started_again_begins_anew_at_once(line: Line) -> None:
    ann = line.client("ann")
    assert [say(ann), say(ann)] == one_device(2)
    # As if it had died: nothing is given back.
    ann._courier.close()
    again = line.client("ann")
    assert [say(again), say(again)] == one_device(2)


@pytest.mark.parametrize("number", [0, 1])
def test_a_slice_that_was_started_again_resets_the_stream_once_and_visibly(line: Line, number: int) -> None:
    ann = line.client("ann")
    assert [say(ann) for _ in range(3)] == one_device(3)
    line.restart(R1, number)
    with pytest.raises(StreamReset, match=r"frame 3: stream-reset: slice s\d: the state after frame 2 is not here"):
        say(ann)
    assert [say(ann) for _ in range(3)] == one_device(3)


def test_a_new_revision_resets_the_stream_once_and_visibly(line: Line) -> None:
    ann = line.client("ann")
    assert [say(ann) for _ in range(3)] == one_device(3)
    line.revision(R2)
    line.publish((R1, "draining"), (R2, "active"))
    eventually(lambda: ann._desk.document().routes[-1].revision == R2)
    with pytest.raises(StreamReset):
        say(ann)
    results = list(ann.map(ONES for _ in range(4)))
    assert [float(result.outputs["y"][0, 0]) for result in results] == one_device(4)
    assert {result.revision for result in results} == {R2}


def test_a_frame_that_waits_when_its_revision_is_lost_ends_as_reset(line: Line) -> None:
    ann = line.client("ann", resend_after=60.0)
    assert say(ann) == 1
    line.workers[R1][1].lost.append(1)
    number = ann.submit(ONES)
    eventually(lambda: line.workers[R1][1].lost == [])
    line.revision(R2)
    line.publish((R1, "lost"), (R2, "active"))
    with pytest.raises(StreamReset) as failed:
        ann.result(SECONDS)
    assert failed.value.sequence == number
    assert [say(ann), say(ann)] == one_device(2)


def test_after_the_first_frame_is_lost_with_its_revision_nothing_is_reset(line: Line) -> None:
    ann = line.client("ann", resend_after=60.0)
    line.workers[R1][1].lost.append(0)
    ann.submit(ONES)
    eventually(lambda: line.workers[R1][1].lost == [])
    line.revision(R2)
    line.publish((R1, "lost"), (R2, "active"))
    assert float(ann.result(SECONDS).outputs["y"][0, 0]) == 1
    assert say(ann) == 3


def test_a_new_connection_of_the_client_repeats_and_resets_nothing(line: Line) -> None:
    ann = line.client("ann", resend_after=60.0)
    assert say(ann) == 1
    line.workers[R1][1].lost.append(1)
    ann.submit(ONES)
    eventually(lambda: line.workers[R1][1].lost == [])
    line.publish((R1, "active"), resend=1)
    assert float(ann.result(SECONDS).outputs["y"][0, 0]) == 3
    assert say(ann) == 6
