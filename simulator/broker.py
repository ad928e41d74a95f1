"""A simulated MQTT broker, and its vices. PURE.

What it keeps of MQTT 3.1.1: messages of one connection arrive in the order in which they were sent; a retained one
is kept by its topic and given to whoever subscribes; a will is published, retained, when its connection ends
without a goodbye. Sessions are clean, so what is on its way to a connection that ends is lost, of QoS 1 too. Those
of QoS 1 may come again: then the latest ones do, in their order (section 4.6 of the standard).

| vice                              | mosquitto                          | amqtt                          |
| --------------------------------- | ---------------------------------- | ------------------------------ |
| a silent connection               | ends after 1.5 x keepalive         | never does                     |
| a second connection with its id   | ends the first, its will comes     | lets it be; its will is late   |
| retained documents not asked for  | no                                 | with every subscription        |
| SUBSCRIBE in a burst              | kept                               | may be lost                    |
| after SIGKILL                     | nothing, what it had, or old state | nothing                        |
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from simulator.clock import Clock, Process
from slicemq import subscriptions

Kind = Literal["mosquitto", "amqtt"]
matches = functools.lru_cache(1 << 16)(subscriptions.matches)
HOP = 0.001
"""Seconds that a message takes between a client and the broker, at least; up to three times as many are drawn."""
UNACKNOWLEDGED = 2.0
"""A message of QoS 1 that was sent longer ago has been acknowledged, and does not come again."""
KEEPALIVE = 5.0


class Draw(Protocol):
    """Where numbers come from that look random."""

    def random(self) -> float:
        """A number in [0, 1)."""


class Message(NamedTuple):
    """`document` is None where a retained one is cleared."""

    topic: str
    document: Any
    qos: int
    retain: bool


@dataclass(frozen=True)
class Will:
    """What the broker publishes, retained, when the connection ends without a goodbye."""

    topic: str
    document: Any


class Connection:
    """One TCP connection of a process; `on_message(topic, document, retained)` and `on_closed()` run in it.

    `cut` is a partition: what is sent, either way, waits until it is over or the connection ends.
    """

    def __init__(
        self,
        broker: Broker,
        process: Process,
        client_id: str,
        will: Will | None,
        on_message: Callable[[str, Any, bool], None],
        on_closed: Callable[[], None],
    ) -> None:
        self.broker = broker
        self.process = process
        self.client_id = client_id
        self.will = will
        self.open = True
        # Whether the broker still has it: it may not know that the client is gone.
        self.known = True
        self.cut = False
        self.slow = 0.0
        self.filters: dict[str, None] = {}
        self._on_message = on_message
        self._on_closed = on_closed
        self._up_at = self._down_at = 0.0
        self._held_up: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._held_down: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._sent: deque[tuple[float, Message]] = deque(maxlen=3)
        self._given: deque[tuple[float, str, Any, bool]] = deque(maxlen=3)

    # -- the client's side ---------------------------------------------------------------------------------

    def publish(self, topic: str, document: Any, qos: int = 0, retain: bool = False) -> bool:
        """Send a message; False when the connection has ended."""
        if not self.open:
            return False
        message = Message(topic, document, qos, retain)
        if qos:
            self._sent.append((self.broker.clock.now, message))
        self._up(self.broker.take, self, message)
        return True

    def subscribe(self, filters: Iterable[str], confirmed: Callable[[], None]) -> None:
        """Ask for subscriptions; `confirmed` when the SUBACK has come."""
        if self.open:
            self._up(self.broker.subscribe, self, tuple(filters), confirmed)

    def snapshot(self, topic: str, answer: Callable[[Any], None]) -> None:
        """Read the retained document of a topic: subscribe, and await a marker of our own behind what comes."""
        if self.open:
            self._up(self.broker.look_up, self, topic, answer)

    def goodbye(self) -> None:
        """Disconnect cleanly, after all that was sent."""
        if self.open:
            self._up(self.broker.leave, self)
            self.open = False

    def abort(self, *, noticed: bool = True) -> None:
        """The client's end is gone (its process died, or gave up); `noticed` by the broker at once."""
        if self.open:
            self.open = False
            if noticed and not self.cut:
                self.broker.lose(self)

    def silent(self) -> None:
        """Nothing has come for too long: the client takes the connection for dead."""
        if self.open:
            self.open = False
            self._on_closed()

    # -- the network ---------------------------------------------------------------------------------------

    def sever(self) -> None:
        """A partition begins."""
        self.cut = True

    def mend(self) -> None:
        """The partition is over: TCP sends again what was held, in its order."""
        self.cut = False
        held_up, self._held_up = self._held_up, []
        held_down, self._held_down = self._held_down, []
        for call, values in held_up:
            self._up(call, *values)
        for call, values in held_down:
            self._down(call, *values)
        if not self.open and self.known:
            self.broker.lose(self)
        elif self.open and not self.known:
            self.process.call(self._closed)

    def give(self, topic: str, document: Any, retained: bool, qos: int) -> None:
        """The broker sends a message to the client."""
        if qos:
            self._given.append((self.broker.clock.now, topic, document, retained))
        self._down(self._arrive, topic, document, retained)

    def repeat(self) -> None:
        """The latest messages of QoS 1, of which the other side may not have heard yet, come again, both ways."""
        least = self.broker.clock.now - UNACKNOWLEDGED
        for when, message in list(self._sent) if self.open else ():
            if when >= least:
                self._up(self.broker.take, self, message)
        for when, topic, document, retained in list(self._given) if self.known else ():
            if when >= least:
                self._down(self._arrive, topic, document, retained)

    def drop(self) -> None:
        """The broker ends the connection, or is gone."""
        self.known = False
        if self.open and not self.cut:
            self.broker.clock.after(HOP, self.process.call, self._closed)

    def tell(self, call: Callable[..., None], *values: Any) -> None:
        """Something that is no message comes from the broker, in its order."""
        self._down(self._hear, call, values)

    def _up(self, call: Callable[..., None], *values: Any) -> None:
        if self.cut:
            self._held_up.append((call, values))
            return
        clock = self.broker.clock
        self._up_at = max(self._up_at, clock.now + self.slow + HOP * (1 + 2 * self.broker.draw.random()))
        clock.at(self._up_at, self._taken, call, values)

    def _taken(self, call: Callable[..., None], values: tuple[Any, ...]) -> None:
        if self.known and self.broker.up:
            call(*values)

    def _down(self, call: Callable[..., None], *values: Any) -> None:
        if self.cut:
            self._held_down.append((call, values))
            return
        clock = self.broker.clock
        self._down_at = max(self._down_at, clock.now + self.slow + HOP * (1 + 2 * self.broker.draw.random()))
        clock.at(self._down_at, self.process.call, call, *values)

    def _arrive(self, topic: str, document: Any, retained: bool) -> None:
        if self.open and self.known:
            self._on_message(topic, document, retained)

    def _hear(self, call: Callable[..., None], values: tuple[Any, ...]) -> None:
        if self.open and self.known:
            call(*values)

    def _closed(self) -> None:
        if self.open:
            self.open = False
            self._on_closed()


class Broker:
    """`retained` are the retained documents by topic. `delivered` is told every message that reaches it."""

    def __init__(self, clock: Clock, draw: Draw, kind: Kind) -> None:
        self.clock = clock
        self.draw = draw
        self.kind: Kind = kind
        self.up = True
        self.ends = False
        self.retained: dict[str, Any] = {}
        self.connections: dict[Connection, None] = {}
        self.loses_subscriptions_until = -1.0
        self.delivered: Callable[[Connection | None, Message], None] = lambda connection, message: None
        # Filters -> who subscribed; those with wildcards apart. Then topics -> whom they go to, while that lasts.
        self._exact: dict[str, dict[Connection, None]] = {}
        self._wild: dict[str, dict[Connection, None]] = {}
        self._heard_by: dict[str, tuple[Connection, ...]] = {}

    def connect(
        self,
        process: Process,
        client_id: str,
        will: Will | None,
        on_message: Callable[[str, Any, bool], None],
        on_closed: Callable[[], None],
    ) -> Connection | None:
        """A connection, or None while the broker is down or ends."""
        if not self.up or self.ends:
            return None
        for old in [one for one in self.connections if one.client_id == client_id]:
            if self.kind == "mosquitto":
                self.lose(old)
            else:
                # Its socket ends some time later, and only then its will comes.
                self.clock.after(1.0 + 6.0 * self.draw.random(), self.lose, old)
        made = Connection(self, process, client_id, will, on_message, on_closed)
        self.connections[made] = None
        return made

    # -- what comes over connections -----------------------------------------------------------------------

    def take(self, connection: Connection | None, message: Message) -> None:
        """A message comes in."""
        topic, document, qos, retain = message
        if retain:
            if document is None:
                self.retained.pop(topic, None)
            else:
                self.retained[topic] = document
        self.delivered(connection, message)
        for one in self._subscribers(topic):
            one.give(topic, document, False, qos)

    def _subscribers(self, topic: str) -> tuple[Connection, ...]:
        """Who is subscribed to a topic, each once."""
        known = self._heard_by.get(topic)
        if known is None:
            found = dict.fromkeys(self._exact.get(topic, ()))
            for text, connections in self._wild.items():
                if matches(text, topic):
                    found |= connections
            known = self._heard_by[topic] = tuple(found)
        return known

    def subscribe(self, connection: Connection, filters: tuple[str, ...], confirmed: Callable[[], None]) -> None:
        """A SUBSCRIBE comes in: a SUBACK and the retained documents go out."""
        if self.clock.now < self.loses_subscriptions_until and self.draw.random() < 0.5:
            return
        for text in filters:
            connection.filters[text] = None
            if "+" not in text and "#" not in text:
                self._exact.setdefault(text, {})[connection] = None
                continue
            self._wild.setdefault(text, {})[connection] = None
        self._heard_by.clear()
        connection.tell(confirmed)
        wild = [text for text in filters if text in self._wild]
        for topic, document in self.retained.items():
            if self.kind == "amqtt" or topic in filters or any(matches(text, topic) for text in wild):
                connection.give(topic, document, True, 1)

    def look_up(self, connection: Connection, topic: str, answer: Callable[[Any], None]) -> None:
        """A snapshot of one topic."""
        connection.tell(answer, self.retained.get(topic))

    def leave(self, connection: Connection) -> None:
        """A DISCONNECT comes in: no will."""
        connection.will = None
        self.lose(connection)

    def lose(self, connection: Connection) -> None:
        """A connection has ended for the broker: its will is published."""
        if connection not in self.connections:
            return
        del self.connections[connection]
        self._forget(connection)
        connection.drop()
        if connection.will is not None and self.up:
            self.take(None, Message(connection.will.topic, connection.will.document, 1, True))

    def expire(self, connection: Connection) -> None:
        """Nothing has come over a connection for 1.5 x keepalive."""
        if self.kind == "mosquitto":
            self.lose(connection)

    def _forget(self, connection: Connection) -> None:
        self._heard_by.clear()
        for text in connection.filters:
            (self._wild if text in self._wild else self._exact)[text].pop(connection, None)

    # -- its own life --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """SIGKILL: every connection ends, no will is published."""
        self.up = False
        connections, self.connections = self.connections, {}
        for connection in connections:
            self._forget(connection)
            connection.drop()

    def end(self, seconds: float) -> None:
        """SIGTERM: connections end one after the other within `seconds`, and each will is published and kept."""
        self.ends = True
        for connection in list(self.connections):
            self.clock.after(seconds * self.draw.random(), self.lose, connection)

    def start(self, retained: dict[str, Any]) -> None:
        """It comes back with these retained documents."""
        self.up, self.ends = True, False
        self.retained = dict(retained)
