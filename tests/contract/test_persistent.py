"""The persistent session of an ingress (rule 25), on real brokers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from emulator.brokers import Broker
from slicemq.endpoint import Delivery
from slicemq.errors import BrokerError
from slicemq.options import BrokerOptions
from slicemq.persistent import PersistentLink, forget_session
from slicemq.session import Session
from tests.waiting import eventually, never


class Owner:
    """An ingress's side of the link: keeps what comes and acknowledges nothing by itself."""

    def __init__(self, broker: Broker, client: str, pattern: str) -> None:
        self.opened: list[tuple[int, bool]] = []
        self.got: list[tuple[int, Delivery]] = []
        self.confirmed: list[tuple[int, int]] = []
        self.lost: list[int] = []
        self.link = PersistentLink(
            broker.options,
            client,
            pattern,
            on_open=lambda life, present: self.opened.append((life, present)),
            on_delivery=lambda life, delivery: self.got.append((life, delivery)),
            on_confirmed=lambda life, tag: self.confirmed.append((life, tag)),
            on_lost=self.lost.append,
        )

    def __enter__(self) -> Owner:
        self.link.start()
        self.link.wait_up(10.0)
        return self

    def __exit__(self, *exc: object) -> None:
        self.link.stop()

    def payloads(self) -> list[bytes]:
        return [delivery.payload for _, delivery in self.got]


@pytest.fixture
def device(mosquitto: Broker, cluster: str) -> Iterator[Session]:
    session = Session(mosquitto.options, f"{cluster}-device")
    session.start()
    session.wait_up(10.0)
    yield session
    session.stop()


def test_rule_25_what_was_not_acknowledged_comes_again(mosquitto: Broker, cluster: str, device: Session) -> None:
    client = f"ingress.{cluster}.x"
    with Owner(mosquitto, client, f"{cluster}/+") as owner:
        assert owner.opened == [(1, False)]
        for number in range(3):
            device.publish(f"{cluster}/{number}", b"m%d" % number)
        eventually(lambda: len(owner.got) == 3)
        life, first = owner.got[0]
        assert (first.topic, first.again, first.retained) == (f"{cluster}/0", False, False)
        owner.link.acknowledge(life, first.packet_id)
        never(lambda: len(owner.got) > 3, 0.2)
    device.publish(f"{cluster}/3", b"m3")
    with Owner(mosquitto, client, f"{cluster}/+") as owner:
        eventually(lambda: len(owner.got) == 3)
        assert owner.opened == [(1, True)]
        assert owner.payloads() == [b"m1", b"m2", b"m3"]
        assert [delivery.again for _, delivery in owner.got[:2]] == [True, True]
    assert forget_session(mosquitto.options, client) is True
    assert forget_session(mosquitto.options, client) is False


def test_rule_25_asked_for_again_on_a_new_connection_and_acknowledged_there(
    mosquitto: Broker, cluster: str, device: Session
) -> None:
    client = f"ingress.{cluster}.y"
    with Owner(mosquitto, client, f"{cluster}/in") as owner:
        device.publish(f"{cluster}/in", b"one")
        device.publish(f"{cluster}/in", b"two")
        eventually(lambda: len(owner.got) == 2)
        (_, one), (_, two) = owner.got
        owner.link.acknowledge(1, one.packet_id)
        owner.link.reconnect(1)
        # The acknowledgement left before the goodbye.
        eventually(lambda: len(owner.got) == 3)
        life, again = owner.got[2]
        assert (life, again.payload, again.again, again.packet_id) == (2, b"two", True, two.packet_id)
        assert owner.lost == [1]
        # On the connection that is gone nothing can be acknowledged.
        owner.link.acknowledge(1, again.packet_id)
        owner.link.reconnect(2)
        eventually(lambda: len(owner.got) == 4)
        life, again = owner.got[3]
        owner.link.acknowledge(life, again.packet_id)
        owner.link.reconnect(life)
        eventually(lambda: len(owner.opened) == 4)
        never(lambda: len(owner.got) > 4, 0.3)
    forget_session(mosquitto.options, client)


def test_a_publish_is_reported_when_the_broker_has_confirmed_it(mosquitto: Broker, cluster: str) -> None:
    heard: list[bytes] = []
    arrived = threading.Event()

    def on_message(topic: str, payload: bytes, retained: bool) -> None:
        heard.append(payload)
        arrived.set()

    listener = Session(mosquitto.options, f"{cluster}-listener", on_message=on_message)
    listener.subscribe(f"{cluster}/out")
    listener.start()
    listener.wait_up(10.0)
    client = f"ingress.{cluster}.z"
    with Owner(mosquitto, client, f"{cluster}/in") as owner:
        owner.link.publish(1, 41, f"{cluster}/out", b"answer")
        owner.link.publish(7, 42, f"{cluster}/out", b"of another connection")
        eventually(lambda: owner.confirmed)
        assert owner.confirmed == [(1, 41)]
        assert arrived.wait(5.0)
        assert heard == [b"answer"]
    listener.stop()
    forget_session(mosquitto.options, client)


def test_without_a_broker_nothing_can_be_forgotten() -> None:
    with pytest.raises(BrokerError, match="nothing listens there"):
        forget_session(BrokerOptions(host="127.0.0.1", port=1), "ingress.a.b")
