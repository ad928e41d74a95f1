"""A connection that is kept: it subscribes again, publishes its own documents again, comes back. PURE.

What slicemq/session.py and slicemq/keeper.py do, around the same core (slicemq/owned.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from simulator.broker import Broker, Connection, Will, matches
from simulator.clock import Process
from slicemq.owned import OwnedDocuments
from slicemq.subscriptions import ASK_AGAIN

_BACK_OFF_FIRST = 0.1
_BACK_OFF_LAST = 5.0
_GOOD_CONNECTION = 2.0
# How long a client waits for an answer of the broker before it takes the connection for dead.
SILENCE = 7.0


class Session:
    """`on_message(topic, document, retained)`, `on_up()` and `on_down()` run in `process`."""

    def __init__(
        self,
        broker: Broker,
        process: Process,
        client_id: str,
        filters: Iterable[str],
        *,
        will: Will | None = None,
        on_message: Callable[[str, Any, bool], None] = lambda topic, document, retained: None,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
        reachable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._broker = broker
        self.process = process
        self.client_id = client_id
        self._filters = dict.fromkeys(filters)
        # Whether a topic is subscribed to, for those that were heard of.
        self._wanted: dict[str, bool] = {}
        # Topics that are watched for what others write to them; nobody hears of them.
        self._watched: dict[str, None] = {}
        self._will = will
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._reachable = reachable
        self._owned = OwnedDocuments()
        self._heal_at: float | None = None
        self.connection: Connection | None = None
        self.up = False
        self._began = 0.0
        self._attempts = 0
        self._stopped = False

    def start(self) -> None:
        """Begin to connect."""
        connection = None
        if self._reachable():
            connection = self._broker.connect(
                self.process, self.client_id, self._will, self._received, self._closed
            )
        if connection is None:
            self._again()
            return
        self.connection = connection
        self._began = self.process.clock.now
        self._ask(connection)

    def subscribe(self, *filters: str) -> None:
        """Subscribe now and on every later connection."""
        self._filters.update(dict.fromkeys(filters))
        self._wanted.clear()
        if self.connection is not None:
            self._ask_for(self.connection, filters)

    def own(self, topic: str, document: Any) -> None:
        """Keep a retained document: published now, on every connection, and healed."""
        if topic not in self._watched and not any(matches(text, topic) for text in self._filters):
            self._watched[topic] = None
            if self.connection is not None:
                self._ask_for(self.connection, [topic])
        self._owned.set(topic, document)
        if self.up:
            self._publish_own(topic, document)

    def disown(self, topic: str) -> None:
        """Clear a retained document and forget it."""
        self._watched.pop(topic, None)
        self._owned.drop(topic)
        self.publish(topic, None, qos=1, retain=True)

    def publish(self, topic: str, document: Any, *, qos: int = 1, retain: bool = False) -> bool:
        """Send a message; it is never sent later, on another connection (rule 22)."""
        return self.up and self.connection is not None and self.connection.publish(topic, document, qos, retain)

    def stop(self, farewell: Iterable[tuple[str, Any]] = ()) -> None:
        """Say farewell, and goodbye."""
        self._stopped = True
        if self.connection is not None:
            for topic, document in farewell:
                self._owned.drop(topic)
                self.connection.publish(topic, document, 1, True)
            self.connection.goodbye()
        self.up = False

    def give_up(self) -> None:
        """The connection is taken for dead: nothing has come over it for too long."""
        connection = self.connection
        if connection is not None and connection.open:
            connection.abort()
            self._closed()

    # -- inside --------------------------------------------------------------------------------------------

    def _ask(self, connection: Connection) -> None:
        if connection is not self.connection or not connection.open:
            return
        missing = [text for text in (*self._filters, *self._watched) if text not in connection.filters]
        if missing or not self.up:
            self._ask_for(connection, missing)
            if not self.up and self.process.clock.now - self._began > SILENCE:
                self.give_up()

    def _ask_for(self, connection: Connection, filters: Iterable[str]) -> None:
        """Await the SUBACK, and ask again when it does not come."""
        connection.subscribe(filters, lambda: self._confirmed(connection))
        self.process.after(ASK_AGAIN, self._ask, connection)

    def _confirmed(self, connection: Connection) -> None:
        if connection is not self.connection or self.up:
            return
        if all(text in connection.filters for text in (*self._filters, *self._watched)):
            self.up = True
            for topic, document in self._owned.restart():
                self._publish_own(topic, document)
            self._on_up()

    def _received(self, topic: str, document: Any, retained: bool) -> None:
        if self.up and topic in self._owned:
            # An empty payload is foreign, too.
            self._owned.received(topic, document if document is not None else b"", self.process.clock.now)
            self._heal()
        if document is None:
            return
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = self._wanted[topic] = any(matches(text, topic) for text in self._filters)
        if wanted:
            self._on_message(topic, document, retained)

    def _heal(self) -> None:
        now, due = self.process.clock.now, self._owned.next_time()
        if due is not None and (self._heal_at is None or due < self._heal_at or self._heal_at <= now):
            self._heal_at = due
            self.process.after(max(0.0, due - now), self._healing)

    def _healing(self) -> None:
        self._heal_at = None
        if self.up:
            for topic, document in self._owned.due(self.process.clock.now):
                self._publish_own(topic, document)
            self._heal()

    def _publish_own(self, topic: str, document: Any) -> None:
        sent = self.connection is not None and self.connection.publish(topic, document, 1, True)
        self._owned.sent(topic, self.process.clock.now, done=sent)

    def _closed(self) -> None:
        was_up, self.up, self.connection = self.up, False, None
        self._attempts = (
            0 if was_up and self.process.clock.now - self._began >= _GOOD_CONNECTION else self._attempts
        )
        if was_up:
            self._on_down()
        self._again()

    def _again(self) -> None:
        if not self._stopped:
            self._attempts += 1
            longest = min(_BACK_OFF_FIRST * 2.0 ** min(self._attempts, 10), _BACK_OFF_LAST)
            self.process.after(longest * (0.5 + self._broker.draw.random() / 2), self.start)
