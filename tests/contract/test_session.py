"""Control sessions on both real brokers, and on one that misbehaves."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from emulator.brokers import Broker, free_port
from slicemq.errors import BrokerError, BrokerRefusedError, UsageError
from slicemq.options import BrokerOptions
from slicemq.session import Session, Will
from slicemq.topics import Topics
from tests.fake_broker import FakeBroker
from tests.waiting import eventually, never


class Recorder:
    """Sessions for one test, with what they saw; ended with the test."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.messages: list[tuple[str, bytes, bool]] = []
        self.ups = 0
        self.downs: list[str] = []

    def open(self, broker: BrokerOptions, client_id: str, *filters: str, **options: Any) -> Session:
        session = Session(
            broker,
            client_id,
            on_message=lambda *message: self.messages.append(message),
            on_up=self._up,
            on_down=self.downs.append,
            **options,
        )
        session.subscribe(*filters)
        session.start()
        self.sessions.append(session)
        return session

    def _up(self) -> None:
        self.ups += 1

    def saw(self, topic: str, payload: bytes) -> bool:
        return any((topic, payload) == message[:2] for message in self.messages)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    found = Recorder()
    yield found
    for session in found.sessions:
        session.stop()


@pytest.fixture
def peers() -> Iterator[Callable[..., Session]]:
    """Opens further sessions that nobody listens to."""
    opened: list[Session] = []

    def peer(broker: BrokerOptions, client_id: str, *, own: dict[str, bytes] | None = None) -> Session:
        session = Session(broker, client_id)
        for topic, payload in (own or {}).items():
            session.own(topic, payload)
        session.start()
        session.wait_up(10)
        opened.append(session)
        return session

    yield peer
    for session in opened:
        session.stop()


def test_publish_subscribe_and_what_was_not_asked_for(
    broker: Broker, cluster: str, recorder: Recorder, peers: Callable[..., Session]
) -> None:
    topics = Topics(cluster)
    peer = peers(broker.options, f"{cluster}-peer", own={topics.pipeline("other"): b"not asked for"})
    session = recorder.open(broker.options, f"{cluster}-a", f"{topics.prefix}/nodes/+/state")
    session.wait_up(10)
    assert recorder.ups == 1
    peer.publish(topics.node("n1", "state"), b"one")
    peer.publish(topics.node("n1", "report"), b"not asked for")
    peer.publish(topics.node("n2", "state"), b"two", qos=0)
    eventually(lambda: recorder.saw(topics.node("n2", "state"), b"two"))
    assert [message[1] for message in recorder.messages] == [b"one", b"two"]


def test_websockets(broker: Broker, cluster: str, recorder: Recorder) -> None:
    topic = Topics(cluster).node("n", "state")
    session = recorder.open(broker.ws_options, f"{cluster}-ws", topic)
    session.wait_up(10)
    session.own(topic, b"x" * 3000)
    eventually(lambda: recorder.saw(topic, b"x" * 3000))
    assert session.snapshot(topic) == {topic: b"x" * 3000}


def test_snapshot_is_complete_at_once_and_retained_only(
    broker: Broker, cluster: str, recorder: Recorder, peers: Callable[..., Session]
) -> None:
    topics = Topics(cluster)
    documents = {topics.node(f"n{number}", "state"): b"%d" % number * 100 for number in range(60)}
    owner = peers(broker.options, f"{cluster}-owner", own=documents)
    owner.publish(topics.node("n1", "heartbeat"), b"not retained", qos=0)
    subscribed = recorder.open(broker.options, f"{cluster}-a", f"{topics.prefix}/nodes/+/state")
    eventually(lambda: len(recorder.messages) >= 60)
    reader = peers(broker.options, f"{cluster}-b")
    for session in (subscribed, reader):
        started = time.monotonic()
        assert session.snapshot(f"{topics.prefix}/nodes/#", timeout=10) == documents
        assert time.monotonic() - started < 2
    assert reader.snapshot(topics.node("n1", "state"), topics.node("n2", "state")).keys() == {
        topics.node("n1", "state"),
        topics.node("n2", "state"),
    }
    assert reader.snapshot(f"{topics.prefix}/pipelines/#") == {}
    assert all(not retained or topic in documents for topic, _, retained in recorder.messages)


def test_snapshot_outside_any_cluster_is_refused(
    mosquitto: Broker, cluster: str, peers: Callable[..., Session]
) -> None:
    session = peers(mosquitto.options, f"{cluster}-a")
    for wrong in ("#", "slicemq/v1/+/nodes/#", "other/v1/c/x"):
        with pytest.raises(UsageError, match="slicemq/v1/"):
            session.snapshot(wrong)


def test_snapshot_of_a_frozen_broker_is_an_error(own_broker: Broker, peers: Callable[..., Session]) -> None:
    session = peers(own_broker.options, "a")
    own_broker.freeze()
    with pytest.raises(BrokerError, match=r"not read within 0\.3 s"):
        session.snapshot("slicemq/v1/c/#", timeout=0.3)
    own_broker.thaw()


def test_disown_clears_the_topic(broker: Broker, cluster: str, peers: Callable[..., Session]) -> None:
    topics = Topics(cluster)
    session = peers(broker.options, f"{cluster}-a", own={topics.coordinator: b"x"})
    eventually(lambda: session.snapshot(f"{topics.prefix}/#") == {topics.coordinator: b"x"})
    session.disown(topics.coordinator)
    eventually(lambda: session.snapshot(f"{topics.prefix}/#") == {})


def test_rule_17_foreign_content_is_replaced(broker: Broker, cluster: str, peers: Callable[..., Session]) -> None:
    topics = Topics(cluster)
    state = topics.node("n", "state")
    owner = peers(broker.options, f"{cluster}-n", own={state: b"ready"})
    peer = peers(broker.options, f"{cluster}-peer")
    for foreign in (b"late will", b""):
        peer.publish(state, foreign, retain=True)
        eventually(lambda: peer.snapshot(state) == {state: b"ready"})
    for number in range(20):
        owner.own(state, b"%d" % number)
    eventually(lambda: peer.snapshot(state) == {state: b"19"})


CHILD = """
import sys
from slicemq.options import BrokerOptions
from slicemq.session import Session, Will
host, port, client_id, topic = sys.argv[1:]
session = Session(BrokerOptions(host=host, port=int(port)), client_id, will=Will(topic, b"lost"))
session.own(topic, b"ready")
session.start()
session.wait_up(10)
print("up", flush=True)
sys.stdin.read()
"""


def test_birth_and_will_of_a_killed_process(
    broker: Broker, cluster: str, recorder: Recorder, peers: Callable[..., Session]
) -> None:
    topic = Topics(cluster).node("n", "state")
    reader = recorder.open(broker.options, f"{cluster}-reader", topic)
    reader.wait_up(10)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, broker.options.host, str(broker.port), f"{cluster}-n", topic],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        eventually(lambda: recorder.saw(topic, b"ready"))
        assert not recorder.saw(topic, b"lost")
        os.kill(child.pid, signal.SIGKILL)
        eventually(lambda: recorder.saw(topic, b"lost"), timeout=3)
        assert reader.snapshot(topic) == {topic: b"lost"}
    finally:
        child.kill()
        child.communicate()


def test_farewell_and_no_will_after_a_clean_stop(
    broker: Broker, cluster: str, recorder: Recorder, peers: Callable[..., Session]
) -> None:
    topic = Topics(cluster).node("n", "state")
    reader = recorder.open(broker.options, f"{cluster}-reader", topic)
    reader.wait_up(10)
    session = Session(broker.options, f"{cluster}-n", will=Will(topic, b"lost"))
    session.own(topic, b"ready")
    session.start()
    session.wait_up(10)
    eventually(lambda: recorder.saw(topic, b"ready"))
    started = time.monotonic()
    session.stop(farewell=[(topic, b"disconnected")])
    assert time.monotonic() - started < 1
    eventually(lambda: recorder.saw(topic, b"disconnected"))
    never(lambda: recorder.saw(topic, b"lost"), during=0.3)
    assert reader.snapshot(topic) == {topic: b"disconnected"}
    assert not session.publish(topic, b"x")


def test_broker_restart_subscribes_and_publishes_again(own_broker: Broker, recorder: Recorder) -> None:
    topics = Topics("restart")
    mine, other = topics.node("n", "state"), topics.node("n", "assignment")
    session = recorder.open(own_broker.options, "n", other)
    session.own(mine, b"one")
    session.wait_up(10)
    own_broker.kill()
    eventually(lambda: recorder.downs)
    assert not session.up
    assert own_broker.options.describe() in recorder.downs[0]
    session.own(mine, b"two")
    # Rule 22: what could not be sent is not sent later.
    assert not session.publish(other, b"stale", retain=True)
    own_broker.start()
    eventually(lambda: recorder.ups == 2)
    eventually(lambda: session.snapshot(f"{topics.prefix}/#") == {mine: b"two"})
    session.publish(other, b"fresh")
    eventually(lambda: recorder.saw(other, b"fresh"))
    assert not recorder.saw(other, b"stale")


def test_no_broker_at_first(recorder: Recorder, mosquitto: Broker) -> None:
    missing = BrokerOptions(host="127.0.0.1", port=free_port())
    session = recorder.open(missing, "early")
    with pytest.raises(BrokerError, match=rf"{missing.describe()}.*nothing listens there"):
        session.wait_up(0.3)
    own = type(mosquitto)()
    own.port = missing.port
    with own:
        session.wait_up(10)


def test_a_frozen_broker_does_not_hold_up_stop(own_broker: Broker, peers: Callable[..., Session]) -> None:
    session = peers(own_broker.options, "a")
    own_broker.freeze()
    started = time.monotonic()
    session.stop(farewell=[("slicemq/v1/c/nodes/a/state", b"disconnected")])
    assert time.monotonic() - started < 1
    own_broker.thaw()


def test_a_silent_broker_is_noticed_and_named(own_broker: Broker, recorder: Recorder) -> None:
    session = recorder.open(own_broker.options, "a", keepalive=1)
    session.wait_up(10)
    own_broker.freeze()
    eventually(lambda: recorder.downs, timeout=5)
    assert "no sign of life" in recorder.downs[0]
    own_broker.thaw()
    eventually(lambda: recorder.ups == 2)


def test_unknown_host_is_named(recorder: Recorder) -> None:
    session = recorder.open(BrokerOptions(host="no-such-host.invalid"), "a")
    with pytest.raises(BrokerError, match=r"no-such-host\.invalid"):
        session.wait_up(1)


def test_errors_in_callbacks_are_logged_and_harmless(
    broker: Broker, cluster: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = Topics(cluster).node("n", "state")
    seen: list[bytes] = []

    def on_message(_: str, payload: bytes, retained: bool) -> None:
        seen.append(payload)
        raise ValueError("a bug in the callback")

    def on_up() -> None:
        raise ValueError("another bug")

    session = Session(broker.options, f"{cluster}-a", on_message=on_message, on_up=on_up)
    session.subscribe(topic)
    session.start()
    session.wait_up(10)
    with caplog.at_level(logging.ERROR):
        for payload in (b"1", b"2"):
            eventually(lambda payload=payload: session.publish(topic, payload))  # type: ignore[misc]
        eventually(lambda: seen == [b"1", b"2"])
    session.stop()
    assert "a bug in the callback" in caplog.text


def test_callbacks_may_use_the_session(broker: Broker, cluster: str) -> None:
    topics = Topics(cluster)
    answers: list[bytes] = []
    done = threading.Event()

    def on_message(topic: str, payload: bytes, retained: bool) -> None:
        if topic == topics.node("n", "assignment"):
            session.own(topics.node("n", "report"), b"ready")
            session.subscribe(topics.pipeline("p"))
        elif topic == topics.pipeline("p"):
            answers.append(payload)
            session.stop()
            done.set()

    session = Session(
        broker.options,
        f"{cluster}-n",
        on_message=on_message,
        on_up=lambda: session.own(topics.pipeline("p"), b"doc"),
    )
    session.subscribe(topics.node("n", "assignment"))
    session.start()
    session.wait_up(10)
    session.publish(topics.node("n", "assignment"), b"go")
    assert done.wait(10)
    assert answers == [b"doc"]


def test_a_burst_of_sessions_is_served(own_broker: Broker) -> None:
    """amqtt loses subscriptions when many clients come at once: all get theirs in the end, also after a restart."""
    topics = Topics("burst")
    heard: list[str] = []
    sessions = []
    for number in range(40):
        name = f"n{number}"
        session = Session(
            own_broker.options, name, on_message=lambda topic, payload, _: heard.append(payload.decode())
        )
        session.own(topics.node(name, "state"), b"ready")
        session.subscribe(topics.node(name, "assignment"))
        sessions.append(session)
    try:
        for session in sessions:
            session.start()
        eventually(lambda: all(session.up for session in sessions), timeout=30)
        own_broker.kill()
        eventually(lambda: not any(session.up for session in sessions))
        own_broker.start()
        eventually(lambda: all(session.up for session in sessions), timeout=30)
        eventually(lambda: len(sessions[0].snapshot(f"{topics.prefix}/#")) == 40)
        for number in range(40):
            sessions[0].publish(topics.node(f"n{number}", "assignment"), b"n%d" % number)
        eventually(lambda: set(heard) == {f"n{number}" for number in range(40)})
    finally:
        for session in sessions:
            session.stop()


# A broker that misbehaves.


def test_refused_credentials_fail_at_once() -> None:
    with FakeBroker(connack=4) as fake:
        options = BrokerOptions(host="127.0.0.1", port=fake.options.port, username="ann", password="geheim")
        session = Session(options, "a")
        session.start()
        started = time.monotonic()
        with pytest.raises(BrokerRefusedError, match=r"wrong user name or password \(user 'ann'\)") as caught:
            session.wait_up(30)
        assert time.monotonic() - started < 5
        assert "geheim" not in str(caught.value)
        eventually(lambda: fake.connects >= 3)
        session.stop()


def test_a_busy_broker_is_no_refusal() -> None:
    with FakeBroker(connack=3) as fake:
        session = Session(fake.options, "a")
        session.start()
        with pytest.raises(BrokerError, match="not available now") as caught:
            session.wait_up(0.5)
        assert not isinstance(caught.value, BrokerRefusedError)
        fake.connack = 0
        session.wait_up(10)
        session.stop()


def test_subscription_refused_names_the_topic() -> None:
    with FakeBroker(suback=lambda count: 0x80) as fake:
        session = Session(fake.options, "a")
        session.subscribe("slicemq/v1/c/secret")
        session.start()
        with pytest.raises(BrokerRefusedError, match="slicemq/v1/c/secret"):
            session.wait_up(5)
        session.stop()


def test_a_topic_that_may_be_written_but_not_read_is_owned_without_watching() -> None:
    with FakeBroker(suback=lambda count: 0x80) as fake:
        session = Session(fake.options, "a")
        session.own("slicemq/v1/c/nodes/a/state", b"ready")
        session.start()
        session.wait_up(5)
        session.stop()


def test_a_lost_suback_is_asked_for_again_before_up() -> None:
    with FakeBroker(suback=lambda count: None if count == 1 else 0) as fake:
        session = Session(fake.options, "a")
        session.subscribe("slicemq/v1/c/x")
        session.start()
        eventually(lambda: fake.subscribes == 1)
        assert not session.up
        session.wait_up(5)
        assert (fake.subscribes, fake.connects) == (2, 1)
        session.stop()


def test_a_connection_without_subacks_is_given_up() -> None:
    with FakeBroker(suback=lambda count: None if count <= 4 else 0) as fake:
        session = Session(fake.options, "a")
        session.subscribe("slicemq/v1/c/x")
        session.start()
        session.wait_up(15)
        assert fake.connects == 2
        session.stop()


def test_a_port_that_does_not_speak_mqtt(mosquitto: Broker) -> None:
    for options in (
        BrokerOptions(host="127.0.0.1", port=mosquitto.ws_port),
        BrokerOptions(host="127.0.0.1", port=mosquitto.port, tls=True),
        BrokerOptions(host="127.0.0.1", port=mosquitto.port, transport="websockets"),
    ):
        session = Session(options, "a")
        session.start()
        with pytest.raises(BrokerError, match=r"MQTT port|does this port speak|speak WebSocket"):
            session.wait_up(1)
        session.stop()


def test_mqtt_5_when_asked_for(mosquitto: Broker, amqtt: Broker, cluster: str) -> None:
    topic = Topics(cluster).node("n", "state")
    session = Session(replace(mosquitto.options, mqtt5=True), f"{cluster}-a")
    session.own(topic, b"ready")
    session.start()
    session.wait_up(10)
    eventually(lambda: session.snapshot(topic) == {topic: b"ready"})
    session.stop()
    refused = Session(replace(amqtt.options, mqtt5=True), f"{cluster}-b")
    refused.start()
    with pytest.raises(BrokerError, match="MQTT"):
        refused.wait_up(1)
    refused.stop()


def test_the_contract_on_the_wire_needs_no_numpy() -> None:
    """An idle node is this and little more; it has 35 MB."""
    code = (
        "import sys, slicemq.session, slicemq.datalink, slicemq.probe\n"
        "assert not {'numpy', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
