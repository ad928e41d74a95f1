"""A connection kept for frames: its subscriptions, whatever carries it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from slicemq.errors import BrokerError, BrokerRefusedError
from slicemq.keeper import ConnectionKeeper
from slicemq.options import BrokerOptions

# Longer than that of a control session: a ping waits behind the frames that are being sent. TCP itself notices a
# dead peer earlier (endpoint.py).
_KEEPALIVE = 60
_SUBSCRIBE_SECONDS = 10.0


class FrameKeeper(ConnectionKeeper):
    """What the two data links have in common: subscriptions, with QoS `qos`, that come and go."""

    def __init__(
        self,
        broker: BrokerOptions,
        client_id: str,
        *,
        on_frame: Callable[[str, bytes | memoryview], None],
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        max_pending: int,
        qos: int = 0,
    ) -> None:
        super().__init__(broker, client_id, on_up=on_up, on_down=on_down, keepalive=_KEEPALIVE)
        self._on_frame = on_frame
        self._max_pending = max_pending
        self._qos = qos
        self._waited_for: dict[str, int] = {}
        self._refusals: set[str] = set()

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe now and on every later connection; when up, wait for the SUBACK (not in a callback).

        Raises BrokerRefusedError when the broker refuses a topic (it is then forgotten), BrokerError when it does
        not answer; the topics stay remembered when the link goes down meanwhile.
        """
        deadline = time.monotonic() + _SUBSCRIBE_SECONDS
        with self._state:
            self._subscriptions.want(topics, self._qos)
            self._wakeup.set()
            if not self._up or self._on_network_thread():
                return
            for topic in topics:
                self._waited_for[topic] = self._waited_for.get(topic, 0) + 1
            try:
                while self._up and not self._subscriptions.confirmed(topics):
                    refused = sorted(self._refusals.intersection(topics))
                    if refused:
                        self._refusals.difference_update(refused)
                        raise BrokerRefusedError(
                            f"broker {self._broker.describe()} refused the subscription to {', '.join(refused)}"
                        )
                    left = deadline - time.monotonic()
                    if left <= 0:
                        names = ", ".join(topics)
                        raise BrokerError(
                            f"broker {self._broker.describe()} does not confirm subscription to {names}"
                        )
                    self._state.wait(left)
            finally:
                for topic in topics:
                    self._waited_for[topic] -= 1
                    if not self._waited_for[topic]:
                        del self._waited_for[topic]

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """End subscriptions; frames that are under way are dropped when they come."""
        with self._state:
            known = [topic for topic in topics if topic in self._subscriptions]
            self._subscriptions.forget(known)
            if known:
                self._call_soon(lambda connection: connection.unsubscribe(known))

    def _wanted(self, topic: str) -> bool:
        with self._state:
            return self._subscriptions.match(topic)

    # On the network thread.

    def _refused(self, filters: Sequence[str]) -> None:
        with self._state:
            waited_for = [one for one in filters if one in self._waited_for]
            self._subscriptions.forget(waited_for)
            self._refusals.update(waited_for)
            self._state.notify_all()
        others = [one for one in filters if one not in waited_for]
        if others:
            super()._refused(others)
