"""The simulated broker keeps MQTT's rules, and has the vices that it is said to have."""

from __future__ import annotations

import random
from typing import Any

from simulator.broker import Broker, Connection, Kind, Will
from simulator.clock import Clock, Process


class Site:
    """A broker, and what each client heard."""

    def __init__(self, kind: Kind = "mosquitto") -> None:
        self.clock = Clock()
        self.broker = Broker(self.clock, random.Random(1), kind)
        self.heard: dict[str, list[Any]] = {}
        self.closed: list[str] = []

    def connect(self, name: str, *filters: str, will: Will | None = None) -> Connection:
        heard = self.heard.setdefault(name, [])
        made = self.broker.connect(
            Process(self.clock, name),
            name,
            will,
            lambda topic, document, retained: heard.append((topic, document)),
            lambda: self.closed.append(name),
        )
        assert made is not None
        made.subscribe(filters, lambda: None)
        self.pass_time()
        return made

    def pass_time(self, seconds: float = 1.0) -> None:
        self.clock.run(self.clock.now + seconds)


def test_messages_of_one_connection_keep_their_order_and_come_once() -> None:
    site = Site()
    site.connect("reader", "a/+", "a/b")
    writer = site.connect("writer")
    for number in range(50):
        writer.publish("a/b", number)
    site.pass_time()
    assert site.heard["reader"] == [("a/b", number) for number in range(50)]


def test_retained_documents_go_to_who_comes_later_until_they_are_cleared() -> None:
    site = Site()
    writer = site.connect("writer")
    writer.publish("a", "old", 1, True)
    writer.publish("a", "kept", 1, True)
    writer.publish("b", "gone", 1, True)
    writer.publish("b", None, 1, True)
    site.pass_time()
    site.connect("reader", "#")
    assert site.heard["reader"] == [("a", "kept")]


def test_will_comes_when_a_connection_ends_without_a_goodbye() -> None:
    site = Site()
    site.connect("reader", "state")
    site.connect("one", will=Will("state", "one is lost")).abort()
    site.connect("two", will=Will("state", "two is lost")).goodbye()
    site.pass_time()
    assert site.heard["reader"] == [("state", "one is lost")]


def test_connection_is_replaced_by_mosquitto_and_left_alone_by_amqtt() -> None:
    for kind, ends in (("mosquitto", True), ("amqtt", False)):
        site = Site(kind)  # type: ignore[arg-type]
        site.connect("reader", "state")
        site.connect("one", will=Will("state", "lost"))
        site.connect("one")
        assert (site.closed == ["one"]) is ends
        assert (site.heard["reader"] == [("state", "lost")]) is ends
        site.pass_time(10.0)
        assert site.heard["reader"] == [("state", "lost")]


def test_partition_holds_messages_back_and_loses_none_while_the_connection_lasts() -> None:
    site = Site()
    reader, writer = site.connect("reader", "a"), site.connect("writer")
    reader.sever()
    writer.publish("a", 1)
    site.pass_time()
    writer.publish("a", 2)
    assert site.heard["reader"] == []
    reader.mend()
    site.pass_time()
    assert site.heard["reader"] == [("a", 1), ("a", 2)]


def test_what_is_on_its_way_is_lost_with_the_connection() -> None:
    site = Site()
    reader, writer = site.connect("reader", "a"), site.connect("writer")
    writer.publish("a", 1, 1)
    site.broker.lose(reader)
    site.pass_time()
    assert site.heard["reader"] == []
    assert site.closed == ["reader"]


def test_amqtt_sends_retained_documents_that_were_not_asked_for() -> None:
    site = Site("amqtt")
    site.connect("writer").publish("a", 1, 1, True)
    site.pass_time()
    site.connect("reader", "b")
    assert site.heard["reader"] == [("a", 1)]


def test_repeated_messages_come_in_their_order() -> None:
    """MQTT 3.1.1, 4.6: what is sent again is sent in the order of the first time."""
    site = Site()
    reader = site.connect("reader", "a")
    writer = site.connect("writer")
    for number in range(5):
        writer.publish("a", number, 1)
    site.pass_time()
    reader.repeat()
    site.pass_time()
    assert [document for _, document in site.heard["reader"]] == [0, 1, 2, 3, 4, 2, 3, 4]


def test_broker_comes_back_with_what_it_is_given() -> None:
    site = Site()
    writer = site.connect("writer", will=Will("state", "lost"))
    writer.publish("a", "newer", 1, True)
    site.pass_time()
    site.broker.stop()
    assert site.broker.connect(Process(site.clock, "x"), "x", None, lambda *_: None, lambda: None) is None
    site.broker.start({"a": "older"})
    site.pass_time()
    site.connect("reader", "#")
    assert site.heard["reader"] == [("a", "older")]
    assert site.closed == ["writer"]
