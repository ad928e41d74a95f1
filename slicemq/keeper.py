"""Keeps one MQTT connection: connects, subscribes again, comes back after every loss.

The common part of the control session (session.py) and of the connection that frames travel on (datalink.py). All
callbacks run on one thread, the network thread of this object.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from slicemq.connection import Connection
from slicemq.endpoint import AnyConnection, Events, Wakeup, Will
from slicemq.errors import BrokerError, BrokerRefusedError
from slicemq.options import BrokerOptions
from slicemq.subscriptions import Subscriptions

logger = logging.getLogger(__name__)

_BACK_OFF_FIRST = 0.1
_BACK_OFF_LAST = 5.0
# A connection that lasted this many seconds was a good one: the next attempt need not wait long.
_GOOD_CONNECTION = 2.0
_FAREWELL_SECONDS = 0.5
_LONGEST_WAIT = 1.0


class ConnectionKeeper:
    """One client id's connection to one broker, kept until `stop`."""

    def __init__(
        self,
        broker: BrokerOptions,
        client_id: str,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[str], None],
        keepalive: int,
        will: Will | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._on_up = on_up
        self._on_down = on_down
        self._keepalive = keepalive
        self._will = will
        self._state = threading.Condition()
        self._subscriptions = Subscriptions()
        self._jobs: deque[Callable[[AnyConnection], object]] = deque()
        self._connection: AnyConnection | None = None
        self._up = False
        self._was_up = False
        self._denied: list[str] = []
        self._error: BrokerError | None = None
        self._stopping = False
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)

    @property
    def up(self) -> bool:
        """Whether there is a connection on which every subscription is confirmed."""
        return self._up

    def start(self) -> None:
        """Begin to connect, in the background, and come back after every loss; returns at once."""
        self._thread.start()

    def wait_up(self, timeout: float) -> None:
        """Wait until it is up, at most `timeout` seconds.

        Raises BrokerRefusedError as soon as the broker has refused the client (it is tried again all the same), and
        BrokerError with the last reason when the time is over.
        """
        deadline = time.monotonic() + timeout
        with self._state:
            while not self._up:
                if isinstance(self._error, BrokerRefusedError):
                    raise BrokerRefusedError(str(self._error))
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping:
                    raise BrokerError(
                        str(self._error)
                        if self._error is not None
                        else f"cannot connect to {self._broker.describe()}: not done within {timeout:g} s"
                    )
                self._state.wait(left)

    def stop(self) -> None:
        """Disconnect cleanly (the broker drops the will) and end: within a second, whatever the broker does."""
        with self._state:
            self._stopping = True
            connected = self._connection is not None
            self._state.notify_all()
        self._wakeup.set()
        if self._thread.ident is None:
            self._wakeup.close()
        elif self._thread.is_alive() and threading.current_thread() is not self._thread:
            # Without a connection the thread may sit in the system's own connect: it ends by itself after that.
            self._thread.join(0.9 if connected else 0.2)

    # What the kinds of connection do differently; all on the network thread.

    def _make_connection(self, events: Events) -> AnyConnection:
        """A connection that is not open yet: paho's."""
        return Connection(
            self._broker, self._client_id, events, self._wakeup, keepalive=self._keepalive, will=self._will
        )

    def _received(self, topic: str, payload: Any, retained: bool) -> None:
        raise NotImplementedError

    def _announce(self, connection: AnyConnection) -> None:
        """All is subscribed; what is said here is said before anything else on this connection."""

    def _tick(self, connection: AnyConnection, now: float) -> float | None:
        """Do what is due; the time of the next thing to do, if any."""
        return None

    def _refused(self, filters: Sequence[str]) -> None:
        """The broker refused subscriptions: raise, or forget them."""
        raise BrokerRefusedError(
            f"broker {self._broker.describe()} refused the subscription to {', '.join(filters)}: "
            "its access control does not allow it"
        )

    def _acknowledged(self, mid: int, codes: Sequence[int]) -> None:
        """A SUBACK came."""

    def _ended_subscriptions(self, mid: int) -> None:
        """An UNSUBACK came."""

    def _written(self, nbytes: int) -> None:
        """A QoS 0 message of `nbytes` has gone to the socket."""

    def _lost(self) -> None:
        """The connection has ended."""

    def _farewell(self, connection: AnyConnection) -> None:
        """Say what is to be said before the goodbye."""

    # The thread.

    def _on_network_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _call_soon(self, job: Callable[[AnyConnection], object]) -> None:
        """Run `job` on the network thread with the present connection; a connection that ends takes it along."""
        with self._state:
            self._jobs.append(job)
        self._wakeup.set()

    def _run(self) -> None:
        attempts = 0
        while not self._stopping:
            started = time.monotonic()
            self._attempt()
            lasted = time.monotonic() - started
            attempts = 0 if lasted >= _GOOD_CONNECTION and self._was_up else attempts + 1
            # Jitter keeps a site's nodes apart when their broker comes back.
            longest = min(_BACK_OFF_FIRST * 2.0 ** min(attempts, 10), _BACK_OFF_LAST)
            until = time.monotonic() + random.uniform(longest / 2, longest)
            while not self._stopping and time.monotonic() < until:
                self._wakeup.wait(max(0.0, until - time.monotonic()))
        with self._state:
            self._state.notify_all()
        self._wakeup.close()

    def _attempt(self) -> None:
        self._was_up = False
        events = Events(
            message=self._received,
            suback=self._on_suback,
            unsuback=self._ended_subscriptions,
            written=self._written,
        )
        connection = self._make_connection(events)
        try:
            connection.open()
            with self._state:
                self._connection = connection
                self._subscriptions.restart()
            self._serve(connection)
            error = None
        except BrokerError as found:
            error = found
        except Exception as found:
            logger.exception("%s: an error of our own on connection %s", self._broker.describe(), self._client_id)
            error = BrokerError(f"connection to {self._broker.describe()} ended: {found}")
        finally:
            connection.close()
        self._ended(error)

    def _ended(self, error: BrokerError | None) -> None:
        with self._state:
            was_up, self._up, self._was_up = self._up, False, self._up
            self._connection = None
            self._jobs.clear()
            changed = str(error) != str(self._error)
            self._error = error
            self._state.notify_all()
        self._lost()
        if error is not None and not self._stopping:
            level = logging.WARNING if was_up or changed else logging.DEBUG
            logger.log(level, "%s: %s", self._client_id, error)
        if was_up:
            self._guarded(self._on_down, "stopped" if error is None else str(error))

    def _serve(self, connection: AnyConnection) -> None:
        """Look after an open connection until it ends (BrokerError) or `stop` is called (returns)."""
        while True:
            if self._stopping:
                deadline = time.monotonic() + _FAREWELL_SECONDS
                self._farewell(connection)
                while connection.unacknowledged and time.monotonic() < deadline:
                    if not connection.pump(deadline - time.monotonic()):
                        return
                connection.disconnect(time.monotonic() + 0.2)
                return
            while self._jobs:
                self._jobs.popleft()(connection)
            times = [self._subscribe(connection)]
            if not self._up and self._complete():
                self._announce(connection)
                with self._state:
                    self._up = True
                    self._error = None
                    self._state.notify_all()
                logger.info("%s: connected to %s", self._client_id, self._broker.describe())
                self._guarded(self._on_up)
                continue
            times.append(self._tick(connection, time.monotonic()))
            now = time.monotonic()
            wait = min([_LONGEST_WAIT, *(max(0.0, at - now) for at in times if at is not None)])
            alive = connection.pump(wait)
            self._check_refused()
            if not alive:
                raise BrokerError(connection.reason or f"connection to {self._broker.describe()} lost")

    def _subscribe(self, connection: AnyConnection) -> float | None:
        now = time.monotonic()
        with self._state:
            overdue = self._subscriptions.overdue(now)
            if overdue:
                names = ", ".join(overdue[:3])
                raise BrokerError(f"broker {self._broker.describe()} does not confirm the subscription to {names}")
            for batch in self._subscriptions.due(now):
                mid = connection.subscribe(batch)
                if mid is not None:
                    self._subscriptions.asked(mid, [one for one, _ in batch], now)
            return self._subscriptions.next_time()

    def _complete(self) -> bool:
        with self._state:
            return self._subscriptions.confirmed()

    def _on_suback(self, mid: int, codes: Sequence[int]) -> None:
        with self._state:
            self._denied.extend(self._subscriptions.acknowledged(mid, codes))
            self._state.notify_all()
        self._acknowledged(mid, codes)

    def _check_refused(self) -> None:
        if self._denied:
            denied, self._denied = self._denied, []
            self._refused(denied)

    def _guarded(self, function: Callable[..., None], *values: object) -> None:
        try:
            function(*values)
        except Exception:
            logger.exception("an error in a callback of connection %s was ignored", self._client_id)
