"""Many MQTT sessions on one thread, for light nodes: a thread for each would make the system share its time between
thousands of threads, of which the broker and the coordinator are two."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from slicemq.endpoint import Will, tune_socket
from slicemq.options import BrokerOptions

KEEPALIVE = 5
_MISC_SECONDS = 1.0


class LightSession:
    """A session over TCP, with a will and subscriptions; it does not come back. All calls on one thread."""

    def __init__(
        self, broker: BrokerOptions, client_id: str, will: Will, on_message: Callable[[str, bytes], None]
    ) -> None:
        self._broker = broker
        self.up = False
        self._on_message = on_message
        self._hello: list[Callable[[], Any]] = []
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, reconnect_on_failure=False)
        client.will_set(will.topic, will.payload, qos=1, retain=True)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        client.on_socket_open = lambda client, userdata, sock: tune_socket(sock)
        client.on_connect = self._connected
        client.on_message = self._received
        self.client = client

    def connect(self) -> None:
        """Connect; raises OSError when the broker does not answer."""
        self.client.connect(self._broker.host, self._broker.port, KEEPALIVE)

    def subscribe(self, *filters: str) -> None:
        """Subscribe with QoS 1, as soon as it is up."""
        self._when_up(lambda: self.client.subscribe([(one, 1) for one in filters]))

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, as soon as it is up."""
        self._when_up(lambda: self.client.publish(topic, payload, qos, retain))

    def fileno(self) -> int:
        """The socket's number, -1 when it is closed."""
        sock = self.client.socket()
        return -1 if sock is None else int(sock.fileno())

    def close(self) -> None:
        """Close the socket without a goodbye: the broker publishes the will."""
        sock = self.client.socket()
        if sock is not None:
            sock.close()

    def _when_up(self, call: Callable[[], Any]) -> None:
        if self.up:
            call()
        else:
            self._hello.append(call)

    def _received(self, client: Any, userdata: Any, message: paho.MQTTMessage) -> None:
        self._on_message(message.topic, bytes(message.payload))

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.up = not reason.is_failure
        calls, self._hello = self._hello, []
        for call in calls if self.up else ():
            call()


class Sessions:
    """What moves them: `run_until` reads and writes for all."""

    def __init__(self, sessions: Sequence[LightSession]) -> None:
        """Connects all. Raises OSError."""
        self._poll = select.epoll()
        self._of: dict[int, LightSession] = {}
        self._misc = time.monotonic()
        for one in sessions:
            one.connect()
            self._of[one.fileno()] = one
            self._poll.register(one.fileno(), select.EPOLLIN)

    def close(self, session: LightSession) -> None:
        """Close one without a goodbye."""
        number = session.fileno()
        if self._of.pop(number, None) is not None:
            self._poll.unregister(number)
            session.close()

    def run_until(self, deadline: float) -> None:
        """Read and write what there is, until the monotonic time `deadline`."""
        while True:
            for number, _ in self._poll.poll(max(0.0, deadline - time.monotonic())):
                if number in self._of:
                    client = self._of[number].client
                    client.loop_read()
                    # What its callbacks publish waits for this.
                    if client.want_write():
                        client.loop_write()
            now = time.monotonic()
            if now - self._misc >= _MISC_SECONDS:
                self._misc = now
                for number, one in list(self._of.items()):
                    one.client.loop_misc()
                    if one.client.want_write():
                        one.client.loop_write()
                    if one.fileno() != number:
                        # The broker ended it: it is as dead as it looks.
                        del self._of[number]
            if now >= deadline:
                return
