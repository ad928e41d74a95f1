"""A connection whose session the broker keeps: for plain devices' messages, and nothing else (protocol rule 25).

Unlike every other connection it comes back to what it had: the broker keeps the subscription and what was not
acknowledged. Acknowledging is its owner's; so is publishing again what was not confirmed when a connection ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from slicemq.connection import Connection
from slicemq.endpoint import AnyConnection, Delivery, Events, Wakeup
from slicemq.errors import OversizeError
from slicemq.keeper import ConnectionKeeper
from slicemq.options import BrokerOptions

logger = logging.getLogger(__name__)
_KEEPALIVE = 10
_GOODBYE_SECONDS = 2.0


class PersistentLink(ConnectionKeeper):
    """One persistent session, subscribed to `filters` with QoS 1; `stop` leaves it in the broker.

    Each connection has a number, the *life*. `on_open(life, present)` is called before anything else of that
    connection; `present` says whether the broker had kept the session. `on_delivery(life, delivery)` is called
    for each message, `on_confirmed(life, tag)` when the PUBACK for a publish has come, `on_lost(life)` at the end.
    All run on the network thread and must not wait. `publish` and `acknowledge` may be called from any thread;
    they are carried out in the order of their calls, and only on the connection that they name.
    """

    def __init__(
        self,
        broker: BrokerOptions,
        client_id: str,
        *filters: str,
        on_open: Callable[[int, bool], None],
        on_delivery: Callable[[int, Delivery], None],
        on_confirmed: Callable[[int, int], None],
        on_lost: Callable[[int], None],
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        super().__init__(broker, client_id, on_up=on_up, on_down=on_down, keepalive=_KEEPALIVE)
        self._on_open = on_open
        self._on_delivery = on_delivery
        self._on_confirmed = on_confirmed
        self._on_lost_life = on_lost
        self._life = 0
        self._began = False
        self._made: Connection | None = None
        self._tags: dict[int, int] = {}
        self._subscriptions.want(filters, 1)

    def publish(self, life: int, tag: int, topic: str, payload: bytes) -> None:
        """Send with QoS 1 on connection `life`, if that is still there; `on_confirmed` gets `tag`."""

        def job(connection: AnyConnection) -> None:
            if life != self._life or self._made is not connection or self._made is None:
                return
            try:
                number = self._made.publish_numbered(topic, payload)
            except OversizeError as error:
                logger.error("%s", error)
                return
            if number is not None:
                self._tags[number] = tag

        self._call_soon(job)

    def acknowledge(self, life: int, packet_id: int) -> None:
        """Acknowledge a delivery of connection `life`, if that is still there."""

        def job(connection: AnyConnection) -> None:
            if life == self._life and self._made is connection and self._made is not None:
                self._made.acknowledge(packet_id)

        self._call_soon(job)

    def reconnect(self, life: int) -> None:
        """End connection `life`: on the next one the broker sends again all that was not acknowledged."""

        def job(connection: AnyConnection) -> None:
            if life == self._life:
                # With a goodbye: what was acknowledged before leaves first. The session stays all the same.
                connection.disconnect(time.monotonic() + _GOODBYE_SECONDS)

        self._call_soon(job)

    # On the network thread.

    def _make_connection(self, events: Events) -> AnyConnection:
        self._life += 1
        self._began = False
        self._tags.clear()
        mine = replace(events, delivered=self._delivered, confirmed=self._confirmed)
        self._made = Connection(
            self._broker, self._client_id, mine, self._wakeup, keepalive=self._keepalive, persistent=True
        )
        return self._made

    def _begin(self) -> None:
        if not self._began and self._made is not None:
            self._began = True
            self._on_open(self._life, self._made.session_present)

    def _announce(self, connection: AnyConnection) -> None:
        self._begin()

    def _delivered(self, delivery: Delivery) -> None:
        # What the session held may come before the SUBACK.
        self._begin()
        self._on_delivery(self._life, delivery)

    def _confirmed(self, number: int) -> None:
        tag = self._tags.pop(number, None)
        if tag is not None:
            self._on_confirmed(self._life, tag)

    def _farewell(self, connection: AnyConnection) -> None:
        while self._jobs:
            self._jobs.popleft()(connection)

    def _lost(self) -> None:
        self._tags.clear()
        if self._began:
            self._began = False
            self._on_lost_life(self._life)

    def _received(self, topic: str, payload: Any, retained: bool) -> None:
        raise AssertionError("a persistent connection delivers")


def forget_session(broker: BrokerOptions, client_id: str) -> bool:
    """Delete the session `client_id` in the broker, with all that waits in it; whether there was one.

    Whoever uses that client id now loses its connection. Raises BrokerError or BrokerRefusedError.
    """
    wakeup = Wakeup()
    nothing = Events(message=lambda *_: None, suback=lambda *_: None, unsuback=lambda *_: None)
    try:
        # Whether there is a session only a connection that keeps it is told.
        asking = Connection(broker, client_id, nothing, wakeup, keepalive=_KEEPALIVE, persistent=True)
        _open_and_leave(asking)
        _open_and_leave(Connection(broker, client_id, nothing, wakeup, keepalive=_KEEPALIVE))
        return asking.session_present
    finally:
        wakeup.close()


def _open_and_leave(connection: Connection) -> None:
    connection.open()
    connection.disconnect(time.monotonic() + _GOODBYE_SECONDS)
