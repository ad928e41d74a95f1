"""The connection that frames travel on: a seam, with a link of our own and paho behind it.

Frames are QoS 0 (protocol rule 7): what is lost with a connection the client sends again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import BrokerOptions, LinkKind, link_kind
from slicemq.ownlink import OwnLink
from slicemq.paholink import PahoLink


def _ignore(*_: object) -> None:
    pass


class DataLink(Protocol):
    """What the worker and the client need of the connection that frames travel on."""

    @property
    def up(self) -> bool:
        """Whether frames can be sent and every subscription is confirmed."""

    @property
    def pending(self) -> int:
        """Bytes of frames that wait for the socket."""

    def start(self) -> None:
        """Begin to connect in the background, and come back after every loss."""

    def wait_up(self, timeout: float) -> None:
        """Wait until it is up; raises BrokerRefusedError or BrokerError with the reason."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe now and on every later connection; waits for the SUBACK when up."""

    def unsubscribe(self, topics: Sequence[str]) -> None:
        """End subscriptions; frames that are under way may still come."""

    def send(self, topic: str, parts: Sequence[bytes | memoryview], *, timeout: float = 30.0) -> bool:
        """Send one frame; waits while too many bytes wait for the socket. False: the frame was dropped."""

    def stop(self) -> None:
        """Disconnect and end."""


def open_link(
    broker: BrokerOptions,
    client_id: str,
    *,
    on_frame: Callable[[str, bytes | memoryview], None],
    on_up: Callable[[], None] = _ignore,
    on_down: Callable[[str], None] = _ignore,
    max_pending: int = 64 << 20,
    max_frame: int = MAX_PAYLOAD,
    kind: LinkKind = "auto",
) -> DataLink:
    """A data link to `broker`, not yet started.

    `on_frame(topic, payload)` is called on the link's own thread for each frame; while it runs nothing is received,
    and an exception in it is logged. The payload is read-only; its memory is used again when the last view of it is
    dropped (slices and numpy arrays over it count), so what is to be kept for long is better copied. `max_pending`
    bounds the bytes that wait for the socket. Frames above `max_frame` bytes are skipped, by our own link before it
    takes memory for them.

    `kind`: `own` is the link of our own (MQTT 3.1.1 over TCP or TLS), `paho` speaks WebSocket and MQTT 5 too, and
    `auto` takes the first that can; the environment variable SLICEMQ_DATA_LINK wins. Raises ConfigError for another
    kind, and for `own` where it cannot be.
    """
    chosen = link_kind(broker, kind)
    make = OwnLink if chosen == "own" else PahoLink
    return make(
        broker,
        client_id,
        on_frame=on_frame,
        on_up=on_up,
        on_down=on_down,
        max_pending=max_pending,
        max_frame=max_frame,
    )
