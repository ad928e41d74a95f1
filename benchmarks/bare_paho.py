"""A plain paho client that sends back what it gets: `python -m benchmarks.bare_paho HOST PORT TOPIC_IN TOPIC_OUT`.

The least that a hop through a client in Python and paho costs; benchmarks.overhead holds a worker against it.
"""

from __future__ import annotations

import sys
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


def main() -> int:
    """Echo until standard input closes; prints `ready` when subscribed."""
    host, port, topic_in, topic_out = sys.argv[1:]
    client = paho.Client(CallbackAPIVersion.VERSION2)

    def on_connect(*_: Any) -> None:
        client.subscribe(topic_in, 0)

    def on_subscribe(*_: Any) -> None:
        print("ready", flush=True)

    def on_message(_client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        client.publish(topic_out, message.payload, 0)

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    client.connect(host, int(port))
    client.loop_start()
    sys.stdin.read()
    client.disconnect()
    client.loop_stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
