"""One control connection: will, subscriptions, own retained documents, snapshots of retained documents.

What it owns it publishes on every connection and heals when somebody else writes there (protocol rule 17); nothing
that was not sent is sent later, on another connection (protocol rule 22).
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence

from slicemq.endpoint import AnyConnection, Will
from slicemq.errors import BrokerError, UsageError
from slicemq.keeper import ConnectionKeeper
from slicemq.options import BrokerOptions
from slicemq.owned import OwnedDocuments
from slicemq.subscriptions import ASK_AGAIN, matches
from slicemq.topics import PROTOCOL_MAJOR

logger = logging.getLogger(__name__)

__all__ = ["Session", "Will"]
_UNSUBSCRIBE_SECONDS = 1.0


def _ignore(*_: object) -> None:
    pass


class _Snapshot:
    """The state of one `Session.snapshot`: the documents so far, and whether the marker has come back."""

    def __init__(self, filters: Sequence[str], marker_topic: str) -> None:
        self.filters = filters
        self.marker_topic = marker_topic
        self.marker = secrets.token_hex(8).encode()
        self.refused: list[str] = []
        self.done = threading.Event()
        self.last_mid: int | None = None
        self.ended = threading.Event()
        self.restart()

    def restart(self) -> None:
        """Begin anew, on another connection."""
        self.documents: dict[str, bytes] = {}
        self.mids: set[int] = set()
        self.asked = float("-inf")
        self.marked = False


class Session(ConnectionKeeper):
    """A control connection under `client_id`, kept until `stop`.

    `on_message(topic, payload, retained)` is called for messages that match a subscription, `on_up()` when a
    connection is ready (every subscription confirmed, every owned document published again), `on_down(reason)` when
    it is lost. All three run on the network thread: they must not wait, and an exception in them is logged.
    Documents that are retained may come more than once.

    With `held_back` owned documents are published on a connection only after `release`: for a writer that first
    looks whether somebody took its place (protocol rule 22). `yields(topic, payload)` says of foreign content on an
    owned topic that it is to stay there; it runs on the network thread.
    """

    def __init__(
        self,
        broker: BrokerOptions,
        client_id: str,
        *,
        will: Will | None = None,
        on_message: Callable[[str, bytes, bool], None] = _ignore,
        on_up: Callable[[], None] = _ignore,
        on_down: Callable[[str], None] = _ignore,
        keepalive: int = 5,
        held_back: bool = False,
        yields: Callable[[str, bytes], bool] | None = None,
    ) -> None:
        super().__init__(broker, client_id, on_up=on_up, on_down=on_down, keepalive=keepalive, will=will)
        self._on_message = on_message
        self._documents = OwnedDocuments()
        self._owning = threading.Lock()
        # The connection on which owned documents go out: set when they have been announced on it.
        self._live: AnyConnection | None = None
        self._held_back = held_back
        self._yields = yields
        self._watched: set[str] = set()
        self._unreadable: set[str] = set()
        self._snapshot: _Snapshot | None = None
        self._one_snapshot = threading.Lock()
        self._ending: _Snapshot | None = None
        self._farewells: list[tuple[str, bytes]] = []

    def subscribe(self, *filters: str) -> None:
        """Subscribe (QoS 1) now and on every later connection. Does not wait; `on_up` does."""
        with self._state:
            self._subscriptions.want(filters, 1)
            self._watched.difference_update(filters)
        self._wakeup.set()

    def own(self, topic: str, payload: bytes) -> None:
        """Keep `payload` as the retained document of `topic`: published now, on every connection, and healed."""
        with self._state:
            # A second subscription that matches brings everything twice on amqtt.
            covered = self._subscriptions.match(topic) or topic in self._subscriptions
            if not covered and topic not in self._unreadable:
                self._subscriptions.want([topic], 1, heard=False)
                self._watched.add(topic)
        with self._owning:
            self._documents.set(topic, payload)
            if self._live is not None:
                self._publish_own(self._live, topic, payload)
        self._wakeup.set()

    def disown(self, topic: str) -> None:
        """Clear the retained document of `topic` and forget it."""
        self._release(topic)
        with self._owning:
            self._documents.drop(topic)
        self.publish(topic, b"", qos=1, retain=True)

    @property
    def present(self) -> object | None:
        """The connection that is up now, to be given to `release`; None while there is none."""
        return self._connection if self._up else None

    def release(self, connection: object) -> None:
        """Publish owned documents on this connection from now on; nothing happens on any other one."""

        def announce(now: AnyConnection) -> None:
            if now is connection and self._live is None:
                self._publish_all(now)

        self._call_soon(announce)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send a message; False when the session is down or too much waits already. It is never sent later."""
        connection = self._connection if self._up else None
        return connection is not None and connection.publish(topic, payload, qos, retain)

    def snapshot(self, *filters: str, timeout: float = 5.0) -> dict[str, bytes]:
        """All retained documents under `filters`, by topic; waits for the session to be up.

        Raises BrokerError when they are not complete within `timeout` seconds: a marker of our own, published after
        the subscriptions were confirmed, has to come back behind the documents. Not for use in a callback.
        """
        if self._on_network_thread():
            raise RuntimeError("snapshot() waits for the network thread and cannot be called on it")
        deadline = time.monotonic() + timeout
        self.wait_up(timeout)
        with self._one_snapshot:
            wanted = _Snapshot(filters, _marker_topic(filters, self._client_id))
            self._snapshot = wanted
            try:
                self._wakeup.set()
                finished = wanted.done.wait(max(0.0, deadline - time.monotonic()))
            finally:
                self._snapshot = None
            # amqtt may carry out an UNSUBSCRIBE after the next snapshot's SUBSCRIBE: let it come to its end.
            self._ending = wanted
            self._call_soon(lambda connection: self._end_snapshot(connection, wanted))
            wanted.ended.wait(_UNSUBSCRIBE_SECONDS)
        where = self._broker.describe()
        if wanted.refused:
            raise BrokerError(f"broker {where} refused the subscription to {', '.join(wanted.refused)}")
        if not finished:
            wanted_text = ", ".join(filters)
            raise BrokerError(
                f"broker {where}: retained documents under {wanted_text} not read within {timeout:g} s"
            )
        return wanted.documents

    def stop(self, *, farewell: Sequence[tuple[str, bytes]] = ()) -> None:
        """Publish the `farewell` documents (topic, payload; retained, acknowledged), disconnect cleanly, and end.

        Returns within a second, even when the broker is gone.
        """
        with self._owning:
            for topic, _ in farewell:
                self._documents.drop(topic)
        self._farewells = list(farewell)
        super().stop()

    # On the network thread.

    def _received(self, topic: str, payload: bytes, retained: bool) -> None:
        if self._live is not None and topic in self._documents and not self._stays(topic, payload):
            with self._owning:
                foreign = self._documents.received(topic, payload, time.monotonic())
            if foreign:
                logger.info("somebody else wrote to %s, which is ours: publishing ours again", topic)
        snapshot = self._snapshot
        if snapshot is not None:
            self._collect(snapshot, topic, payload, retained)
        with self._state:
            asked = self._subscriptions.match(topic)
        if asked:
            self._on_message(topic, payload, retained)

    def _stays(self, topic: str, payload: bytes) -> bool:
        if self._yields is None:
            return False
        with self._owning:
            own = self._documents.is_own(topic, payload)
        return not own and self._yields(topic, payload)

    def _announce(self, connection: AnyConnection) -> None:
        if not self._held_back:
            self._publish_all(connection)

    def _publish_all(self, connection: AnyConnection) -> None:
        with self._owning:
            for topic, payload in self._documents.restart():
                self._publish_own(connection, topic, payload)
            self._live = connection

    def _publish_own(self, connection: AnyConnection, topic: str, payload: bytes) -> None:
        self._documents.sent(topic, time.monotonic(), done=connection.publish(topic, payload, 1, True))

    def _tick(self, connection: AnyConnection, now: float) -> float | None:
        with self._owning:
            if self._live is not None:
                for topic, payload in self._documents.due(now):
                    self._publish_own(connection, topic, payload)
            times = [self._documents.next_time()]
        snapshot = self._snapshot
        if snapshot is not None and not snapshot.marked:
            if now - snapshot.asked >= ASK_AGAIN:
                self._ask_snapshot(connection, snapshot, now)
            times.append(snapshot.asked + ASK_AGAIN)
        return min((at for at in times if at is not None), default=None)

    def _ask_snapshot(self, connection: AnyConnection, snapshot: _Snapshot, now: float) -> None:
        # QoS 0 has no limit of waiting messages in mosquitto; a filter that is subscribed anyhow keeps its QoS 1.
        with self._state:
            pairs = [(one, 1 if one in self._subscriptions else 0) for one in snapshot.filters]
        mid = connection.subscribe([*pairs, (snapshot.marker_topic, 1)])
        snapshot.asked = now
        if mid is not None:
            snapshot.mids.add(mid)

    def _acknowledged(self, mid: int, codes: Sequence[int]) -> None:
        snapshot = self._snapshot
        if snapshot is None or mid not in snapshot.mids or snapshot.marked:
            return
        asked = [*snapshot.filters, snapshot.marker_topic]
        snapshot.refused = [one for one, code in zip(asked, codes, strict=False) if code >= 0x80]
        if snapshot.refused:
            snapshot.done.set()
        elif self._connection is not None:
            snapshot.marked = self._connection.publish(snapshot.marker_topic, snapshot.marker, 1, False)

    def _collect(self, snapshot: _Snapshot, topic: str, payload: bytes, retained: bool) -> None:
        if topic == snapshot.marker_topic:
            if payload == snapshot.marker:
                snapshot.done.set()
        elif retained and payload and any(matches(one, topic) for one in snapshot.filters):
            snapshot.documents[topic] = payload

    def _end_snapshot(self, connection: AnyConnection, snapshot: _Snapshot) -> None:
        with self._state:
            unasked = [one for one in snapshot.filters if one not in self._subscriptions]
        snapshot.last_mid = connection.unsubscribe([*unasked, snapshot.marker_topic])
        if snapshot.last_mid is None:
            snapshot.ended.set()

    def _ended_subscriptions(self, mid: int) -> None:
        ending = self._ending
        if ending is not None and mid == ending.last_mid:
            ending.ended.set()

    def _lost(self) -> None:
        with self._owning:
            self._live = None
        snapshot, ending = self._snapshot, self._ending
        if ending is not None:
            ending.ended.set()
        if snapshot is not None:
            snapshot.restart()

    def _refused(self, filters: Sequence[str]) -> None:
        watched = [one for one in filters if one in self._watched]
        for one in watched:
            logger.warning("the broker does not let us read %s: what others write there is not healed", one)
            self._unreadable.add(one)
            self._release(one)
        others = [one for one in filters if one not in watched]
        if others:
            super()._refused(others)

    def _release(self, topic: str) -> None:
        with self._state:
            if topic in self._watched:
                self._watched.discard(topic)
                self._subscriptions.forget([topic])
                self._call_soon(lambda connection: connection.unsubscribe([topic]))

    def _farewell(self, connection: AnyConnection) -> None:
        for topic, payload in self._farewells:
            connection.publish(topic, payload, 1, True)


def _marker_topic(filters: Sequence[str], client_id: str) -> str:
    """Where a client may publish to itself: `slicemq/v1/<cluster>/probe/<client_id>`."""
    levels = filters[0].split("/")[:3] if filters else []
    if len(levels) < 3 or levels[:2] != ["slicemq", f"v{PROTOCOL_MAJOR}"] or levels[2] in ("+", "#"):
        raise UsageError(f"snapshot of {filters!r}: expected filters below slicemq/v{PROTOCOL_MAJOR}/<cluster>/")
    return "/".join([*levels, "probe", client_id.replace("/", "-")])
