"""The ingress between a real broker and a pipeline under test control."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from emulator.brokers import Broker
from ingress.config import load_config, run_arguments
from ingress.service import IngressService, session_id
from slicemq.messages import TensorSpec, decode
from slicemq.operations import IngressState
from slicemq.persistent import forget_session
from slicemq.session import Session
from slicemq.topics import Topics
from tests.contract.echo_node import NAME, R1, R2, SUM, TWICE, EchoNode, Master, route
from tests.waiting import eventually, never


class Stream:
    """An ingress on a thread of its own, a device and a listener; topics below the cluster's id."""

    def __init__(self, broker: Broker, cluster: str, *words: str) -> None:
        self.broker = broker
        self.cluster = cluster
        self.heard: list[tuple[str, bytes]] = []
        self.states: list[IngressState] = []
        self.device = Session(broker.options, f"{cluster}-device", on_message=self._on_message)
        self.device.subscribe(f"{cluster}/out/+", Topics(cluster).ingress("s"))
        ends = ["--from", f"{cluster}/in/+", "--to", f"{cluster}/out/{{1}}", "--id", "s"]
        full = [NAME, *ends, "--broker", broker.url, "--cluster", cluster, *words]
        self.ready = threading.Event()
        self.stop = threading.Event()
        self.service = IngressService(load_config(run_arguments("p", full), {}), self.ready.set)
        self.thread = threading.Thread(target=self.service.run, args=(self.stop,), daemon=True)

    def __enter__(self) -> Stream:
        self.device.start()
        self.device.wait_up(10.0)
        self.thread.start()
        assert self.ready.wait(10.0)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.thread.join(20.0)
        assert not self.thread.is_alive()
        eventually(lambda: self.states[-1].state == "disconnected")
        self.device.stop()
        forget_session(self.broker.options, session_id(self.cluster, "s"))

    def send(self, name: str, *values: float, qos: int = 1, retain: bool = False) -> None:
        payload = np.array([values], np.float32).tobytes()
        assert self.device.publish(f"{self.cluster}/in/{name}", payload, qos=qos, retain=retain)

    def answers(self, count: int) -> list[tuple[str, Any]]:
        """The first so many answers: the last level of the topic, and what the payload says."""
        eventually(lambda: len(self.heard) >= count, 20.0)
        found = []
        for topic, payload in self.heard:
            answer = json.loads(payload)
            word = answer.get("error") or answer["outputs"]["twice"]["data"]
            found.append((topic.split("/")[-1], word))
        return found

    def counted(self, name: str) -> int:
        return self.service._counters()[name]

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        if topic.startswith(f"{self.cluster}/out/"):
            self.heard.append((topic, payload))
        elif payload:
            self.states.append(decode(IngressState, payload, topic))


@pytest.fixture
def master(mosquitto: Broker, cluster: str) -> Iterator[Master]:
    made = Master(mosquitto, cluster)
    yield made
    made.stop()


@pytest.fixture
def node(mosquitto: Broker, cluster: str) -> Iterator[EchoNode]:
    made = EchoNode(mosquitto, cluster, R1)
    yield made
    made.stop()


def test_answers_in_order_for_both_kinds_of_qos(
    mosquitto: Broker, cluster: str, master: Master, node: EchoNode
) -> None:
    master.publish(route(R1))
    with Stream(mosquitto, cluster) as stream:
        stream.send("a", 1, 2)
        stream.send("b", 3, qos=0)
        stream.send("c", 4)
        assert stream.answers(3) == [("a", [2, 4]), ("b", [6]), ("c", [8])]
        eventually(lambda: stream.counted("acknowledged") == 2)
        answer = json.loads(stream.heard[0][1])
        assert (answer["id"], answer["pipeline"], answer["topic"]) == ("s", NAME, f"{cluster}/in/a")
        assert (answer["revision"], answer["attempts"], answer["sequence"]) == (R1, 1, 0)
        eventually(lambda: stream.states[-1].state == "running")


def test_several_outputs_as_npz(mosquitto: Broker, cluster: str, master: Master, node: EchoNode) -> None:
    master.publish(route(R1))
    with Stream(mosquitto, cluster, "--out", "npy") as stream:
        stream.send("a", 1, 2)
        eventually(lambda: stream.heard)
        found = np.load(io.BytesIO(stream.heard[0][1]))
        assert (found["twice"].tolist(), float(found["sum"])) == ([[2.0, 4.0]], 3.0)


def test_json_has_a_limit(mosquitto: Broker, cluster: str, master: Master, node: EchoNode) -> None:
    master.publish(route(R1))
    with Stream(mosquitto, cluster, "--json-values", "3") as stream:
        stream.send("a", 1, 2, 3)
        stream.send("b", 1)
        assert stream.answers(2) == [("a", "too-large"), ("b", [2])]


def test_errors_of_messages_and_frames_are_answers(
    mosquitto: Broker, cluster: str, master: Master, node: EchoNode
) -> None:
    master.publish(route(R1))
    with Stream(mosquitto, cluster) as stream:
        stream.device.publish(f"{cluster}/in/odd", b"xxx")
        assert stream.answers(1) == [("odd", "bad-message")]
        node.error = "slice-error"
        stream.send("b", 1)
        assert stream.answers(2)[1] == ("b", "slice-error")
        node.error = ""
        stream.send("c", 1)
        assert stream.answers(3)[2] == ("c", [2])
        eventually(lambda: stream.counted("acknowledged") == 3)
        assert (stream.counted("failed"), stream.counted("answered")) == (2, 1)


def test_drop_oldest_keeps_the_newest(mosquitto: Broker, cluster: str, master: Master, node: EchoNode) -> None:
    master.publish(route(R1), window=1)
    node.holding = True
    with Stream(mosquitto, cluster, "--policy", "drop-oldest", "--queue", "2") as stream:
        stream.send("0", 0)
        stream.send("1", 1)
        # One is on its way, one in the feeder's hands.
        eventually(lambda: stream.counted("arrived") == 2 and stream.counted("waiting") == 0)
        for number in range(2, 6):
            stream.send(str(number), number)
        eventually(lambda: stream.counted("dropped") == 2)
        node.release()
        expected = [("0", [0]), ("1", [2]), ("2", "dropped"), ("3", "dropped"), ("4", [8]), ("5", [10])]
        assert stream.answers(6) == expected


def test_drop_newest_keeps_the_oldest(mosquitto: Broker, cluster: str, master: Master, node: EchoNode) -> None:
    master.publish(route(R1), window=1)
    node.holding = True
    with Stream(mosquitto, cluster, "--policy", "drop-newest", "--queue", "1") as stream:
        stream.send("0", 0)
        eventually(lambda: node.held)
        stream.send("1", 1)
        eventually(lambda: stream.counted("arrived") == 2 and stream.counted("waiting") == 0)
        for number in range(2, 4):
            stream.send(str(number), number)
        eventually(lambda: stream.counted("dropped") == 1)
        node.release()
        assert stream.answers(4) == [("0", [0]), ("1", [2]), ("2", [4]), ("3", "dropped")]


def test_a_pipeline_that_is_not_there_is_waited_for(
    mosquitto: Broker, cluster: str, master: Master, node: EchoNode
) -> None:
    with Stream(mosquitto, cluster) as stream:
        stream.send("a", 1)
        eventually(lambda: stream.states and stream.states[-1].state == "holding")
        assert "no pipeline 'double'" in stream.states[-1].reason
        master.publish(route(R1))
        assert stream.answers(1) == [("a", [2])]
        # Removed: what is on its way ends so, what comes later waits for the next one.
        node.holding = True
        stream.send("b", 2)
        eventually(lambda: node.held)
        master.publish(state="removed")
        assert stream.answers(2)[1] == ("b", "removed")
        stream.send("c", 3)
        eventually(lambda: stream.states[-1].state == "holding")
        node.holding = False
        master.publish(route(R1))
        assert stream.answers(3)[2] == ("c", [6])


def test_a_message_is_read_again_for_another_model(mosquitto: Broker, cluster: str, master: Master) -> None:
    """Rule 5: `spec-changed` is worth another try, since the payload is still here."""
    other = (TWICE, TensorSpec(SUM.index, "total", "float32", ()))
    first, second = EchoNode(mosquitto, cluster, R1), EchoNode(mosquitto, cluster, R2)
    first.holding = True
    master.publish(route(R1))
    with Stream(mosquitto, cluster) as stream:
        stream.send("a", 1)
        eventually(lambda: first.held)
        master.publish(route(R2), outputs=other)
        assert stream.answers(1) == [("a", [2])]
        assert json.loads(stream.heard[0][1])["outputs"].keys() == {"twice", "total"}
        assert stream.counted("retried") >= 1
    first.stop()
    second.stop()


def test_rule_25_a_message_that_comes_again_on_a_new_connection_is_not_run_again(
    mosquitto: Broker, cluster: str, master: Master, node: EchoNode
) -> None:
    master.publish(route(R1))
    node.holding = True
    with Stream(mosquitto, cluster) as stream:
        stream.send("a", 1)
        eventually(lambda: node.held)
        stream.service._link.reconnect(1)
        eventually(lambda: stream.counted("rejoined") == 1)
        assert stream.counted("acknowledged") == 0
        node.release()
        assert stream.answers(1) == [("a", [2])]
        eventually(lambda: stream.counted("acknowledged") == 1)
        assert node.got == [0]
        # It was acknowledged on the connection that is: it does not come again on the next.
        stream.service._link.reconnect(2)
        stream.send("b", 2)
        assert stream.answers(2)[1] == ("b", [4])
        never(lambda: len(stream.heard) > 2, 0.3)


def test_retained_messages_are_ignored(mosquitto: Broker, cluster: str, master: Master, node: EchoNode) -> None:
    master.publish(route(R1))
    device = Session(mosquitto.options, f"{cluster}-early")
    device.start()
    device.wait_up(10.0)
    topic = f"{cluster}/in/old"
    device.publish(topic, np.array([[1]], np.float32).tobytes(), retain=True)
    with Stream(mosquitto, cluster) as stream:
        eventually(lambda: stream.counted("ignored") == 1)
        stream.send("a", 1)
        assert stream.answers(1) == [("a", [2])]
    device.publish(topic, b"", retain=True)
    device.stop()
