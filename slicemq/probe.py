"""Whether the broker carries messages of a size.

mosquitto acknowledges a message above its `message_size_limit` and drops it without a word, so the only way to
know is to send one and see it come back.
"""

from __future__ import annotations

import threading

from slicemq.datalink import open_link
from slicemq.options import BrokerOptions


def probe_message_size(
    broker: BrokerOptions, client_id: str, topic: str, nbytes: int, timeout: float = 10.0
) -> bool:
    """Whether a message of `nbytes` bytes comes back from `topic`, where nobody else listens.

    Uses a connection of its own under `client_id`, as frames do: a broker that answers by ending the connection
    (MQTT 5, or amqtt over WebSocket) must not end another one. False after `timeout` seconds or when the connection
    is lost. Raises BrokerError when there is no connection, OversizeError when MQTT itself cannot carry so much.
    """
    over = threading.Event()
    came: list[int] = []

    def on_frame(_: str, payload: bytes | memoryview) -> None:
        came.append(len(payload))
        over.set()

    link = open_link(broker, client_id, on_frame=on_frame, on_down=lambda _: over.set())
    link.subscribe([topic])
    link.start()
    try:
        link.wait_up(timeout)
        if link.send(topic, [bytes(nbytes)], timeout=timeout):
            over.wait(timeout)
        return came == [nbytes]
    finally:
        link.stop()
