"""The connection that frames travel on, on both real brokers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emulator.brokers import Broker, Mosquitto, free_port
from slicemq.datalink import DataLink, open_link
from slicemq.errors import BrokerError, BrokerRefusedError, OversizeError
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions, LinkKind
from slicemq.probe import probe_message_size
from slicemq.topics import Topics
from tests.fake_broker import FakeBroker
from tests.waiting import eventually, never

Frames = list[tuple[str, bytes | memoryview]]
Opener = Callable[..., tuple[DataLink, Frames]]


@pytest.fixture(params=["own", "paho"])
def kind(request: pytest.FixtureRequest) -> LinkKind:
    """Both links keep the same promises."""
    kind: LinkKind = request.param
    return kind


@pytest.fixture
def links(kind: LinkKind) -> Iterator[Opener]:
    """Opens links that keep what they receive; ended with the test."""
    opened: list[DataLink] = []

    def link(broker: BrokerOptions, client_id: str, *topics: str, **options: Any) -> tuple[DataLink, Frames]:
        frames: Frames = []
        options.setdefault("kind", kind)
        made = open_link(broker, client_id, on_frame=lambda *frame: frames.append(frame), **options)
        made.subscribe(topics)
        made.start()
        opened.append(made)
        return made, frames

    yield link
    for one in opened:
        one.stop()


@pytest.mark.parametrize("transport", ["tcp", "websockets"])
def test_frames_arrive_whole_and_in_order(
    broker: Broker, cluster: str, links: Opener, transport: str, kind: LinkKind
) -> None:
    if (kind, transport) == ("own", "websockets"):
        pytest.skip("our own link does not speak WebSocket")
    if (broker.kind, transport) == ("mosquitto", "websockets"):
        sizes = [1, 1000, 3000]  # mosquitto 2.0.11 sends 4 kB at a time over WebSocket, with long pauses
    else:
        sizes = [0, 1, 127, 128, 70_000, 3_200_000, 5, 9_000_000]
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    options = broker.options if transport == "tcp" else broker.ws_options
    receiver, frames = links(options, f"{cluster}-r", topic, kind=kind)
    receiver.wait_up(10)
    sender, _ = links(options, f"{cluster}-s", kind=kind)
    sender.wait_up(10)
    payloads = [os.urandom(size) for size in sizes]
    for payload in payloads:
        assert sender.send(topic, [payload[:10], memoryview(payload)[10:]])
    eventually(lambda: len(frames) == len(payloads), timeout=30)
    assert [payload for _, payload in frames] == payloads
    eventually(lambda: sender.pending == 0)


def test_subscribe_is_done_when_it_returns(broker: Broker, cluster: str, links: Opener) -> None:
    topics = [Topics(cluster).data("p", "1-00000000", f"b{number}") for number in range(5)]
    receiver, frames = links(broker.options, f"{cluster}-r")
    sender, _ = links(broker.options, f"{cluster}-s")
    for one in (receiver, sender):
        one.wait_up(10)
    receiver.subscribe(topics)
    for topic in topics:
        assert sender.send(topic, [b"x"])
    eventually(lambda: [topic for topic, _ in frames] == topics)
    receiver.unsubscribe(topics[1:])
    for topic in reversed(topics):
        assert sender.send(topic, [b"y"])
    eventually(lambda: frames[5:] == [(topics[0], b"y")])
    receiver.subscribe(topics[1:2])
    assert sender.send(topics[1], [b"z"])
    eventually(lambda: frames[-1] == (topics[1], b"z"))


def test_a_link_that_is_down_sends_nothing_and_comes_back(own_broker: Broker, links: Opener) -> None:
    ups: list[int] = []
    downs: list[str] = []
    link, frames = links(
        own_broker.options, "a", "slicemq/v1/c/x", on_up=lambda: ups.append(1), on_down=downs.append
    )
    link.wait_up(10)
    own_broker.kill()
    eventually(lambda: downs)
    assert not link.up
    assert not link.send("slicemq/v1/c/x", [b"lost"])
    own_broker.start()
    eventually(lambda: len(ups) == 2)
    assert link.send("slicemq/v1/c/x", [b"sent"])
    eventually(lambda: frames == [("slicemq/v1/c/x", b"sent")])


def test_send_waits_while_too_much_waits_for_the_socket(own_broker: Broker, links: Opener) -> None:
    link, _ = links(own_broker.options, "a", max_pending=30_000_000)
    link.wait_up(10)
    own_broker.freeze()
    frame = [bytes(5_000_000)]
    started = time.monotonic()
    results = [link.send("slicemq/v1/c/x", frame, timeout=0.1) for _ in range(15)]
    assert results[0]
    assert not results[-1]
    assert time.monotonic() - started < 10
    assert link.pending <= 30_000_000
    released: list[bool] = []
    waiter = threading.Thread(target=lambda: released.append(link.send("slicemq/v1/c/x", frame, timeout=30)))
    waiter.start()
    never(lambda: released, during=0.1)
    own_broker.thaw()
    waiter.join(10)
    assert released == [True]
    eventually(lambda: link.pending == 0)


def test_a_frame_that_waits_is_dropped_when_the_link_goes_down(own_broker: Broker, links: Opener) -> None:
    link, _ = links(own_broker.options, "a", max_pending=1_000_000)
    link.wait_up(10)
    own_broker.freeze()
    while link.send("slicemq/v1/c/x", [bytes(5_000_000)], timeout=0.1):
        pass
    released: list[bool] = []
    last = [bytes(1_000_000)]
    waiter = threading.Thread(target=lambda: released.append(link.send("slicemq/v1/c/x", last, timeout=30)))
    waiter.start()
    own_broker.kill()
    waiter.join(10)
    assert released == [False]


def test_many_small_frames_are_not_limited_by_count(broker: Broker, cluster: str, links: Opener) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    link, frames = links(broker.options, f"{cluster}-a", topic)
    link.wait_up(10)
    for number in range(3000):
        assert link.send(topic, [b"%d" % number])
    eventually(lambda: len(frames) == 3000, timeout=20)
    assert [int(payload) for _, payload in frames] == list(range(3000))


def test_an_error_in_the_callback_does_not_end_the_link(
    mosquitto: Broker, cluster: str, caplog: pytest.LogCaptureFixture, kind: LinkKind
) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    seen: list[bytes] = []

    def on_frame(_: str, payload: bytes | memoryview) -> None:
        seen.append(bytes(payload))
        raise ValueError("a bug in the callback")

    link = open_link(mosquitto.options, f"{cluster}-a", on_frame=on_frame, kind=kind)
    link.subscribe([topic])
    link.start()
    link.wait_up(10)
    for payload in (b"1", b"2"):
        assert link.send(topic, [payload])
    eventually(lambda: seen == [b"1", b"2"])
    link.stop()
    assert "a bug in the callback" in caplog.text


def test_a_frame_can_be_sent_from_the_callback(broker: Broker, cluster: str, kind: LinkKind) -> None:
    topics = Topics(cluster)
    first, second = (topics.data("p", "1-00000000", bundle) for bundle in ("b0", "b1"))
    ends: list[bytes] = []

    def on_frame(topic: str, payload: bytes | memoryview) -> None:
        if topic == first:
            assert link.send(second, [payload, b"!"])
        else:
            ends.append(bytes(payload))

    link = open_link(broker.options, f"{cluster}-a", on_frame=on_frame, kind=kind)
    link.subscribe([first, second])
    link.start()
    link.wait_up(10)
    assert link.send(first, [b"frame"])
    eventually(lambda: ends == [b"frame!"])
    link.stop()


def test_a_frame_that_mqtt_cannot_carry(links: Opener, mosquitto: Broker) -> None:
    link, _ = links(mosquitto.options, "oversize")
    link.wait_up(10)
    with pytest.raises(OversizeError, match="slicemq/v1/c/x"):
        link.send("slicemq/v1/c/x", [bytes(MAX_PAYLOAD + 1)])


def test_a_refused_subscription_names_the_topic_and_is_forgotten(kind: LinkKind) -> None:
    with FakeBroker(suback=lambda count: 0x80) as fake:
        link = open_link(fake.options, "a", on_frame=lambda *_: None, kind=kind)
        link.start()
        link.wait_up(5)
        with pytest.raises(BrokerRefusedError, match="slicemq/v1/c/secret"):
            link.subscribe(["slicemq/v1/c/secret"])
        assert link.up
        fake.suback = lambda count: 0
        link.subscribe(["slicemq/v1/c/other"])
        assert fake.connects == 1
        link.stop()


def test_no_broker_is_a_clear_error(links: Opener) -> None:
    link, _ = links(BrokerOptions(host="127.0.0.1", port=free_port()), "a")
    with pytest.raises(BrokerError, match="nothing listens there"):
        link.wait_up(0.3)
    assert not link.send("slicemq/v1/c/x", [b"x"])


def test_probe_finds_the_message_size_limit(cluster: str) -> None:
    topic = Topics(cluster).link_probe("n")
    with Mosquitto(replace={"message_size_limit 67108864": "message_size_limit 200000"}) as small:
        assert probe_message_size(small.options, f"{cluster}-p", topic, 150_000)
        assert not probe_message_size(small.options, f"{cluster}-p", topic, 250_000, timeout=0.5)


def test_probe_of_a_broker_that_carries_it(broker: Broker, cluster: str) -> None:
    assert probe_message_size(broker.options, f"{cluster}-p", Topics(cluster).link_probe("n"), 16_000_000)
