"""PURE: the MQTT 3.1.1 packets that a client of frames sends. Section numbers are those of the OASIS standard."""

from __future__ import annotations

from collections.abc import Sequence

from slicemq.mqtt_packets import MAX_REMAINING

PINGREQ = b"\xc0\0"
DISCONNECT = b"\xe0\0"


def encode_connect(
    client_id: str, *, keepalive: int, username: str | None = None, password: str | None = None, clean: bool = True
) -> bytes:
    """CONNECT (section 3.1), without a will. Raises ValueError for a text that MQTT cannot carry."""
    if password is not None and username is None:
        raise ValueError("a password without a user name (section 3.1.2.9)")
    flags = clean << 1 | (username is not None) << 7 | (password is not None) << 6
    texts = [client_id, *(one for one in (username, password) if one is not None)]
    body = b"\0\4MQTT\4" + bytes([flags]) + keepalive.to_bytes(2, "big") + b"".join(map(_text, texts))
    return b"\x10" + _length(len(body)) + body


def encode_subscribe(packet_id: int, filters: Sequence[tuple[str, int]]) -> bytes:
    """SUBSCRIBE to (filter, QoS) pairs (section 3.8)."""
    body = _number(packet_id) + b"".join(_text(one) + bytes([qos]) for one, qos in filters)
    return b"\x82" + _length(len(body)) + body


def encode_unsubscribe(packet_id: int, filters: Sequence[str]) -> bytes:
    """UNSUBSCRIBE (section 3.10)."""
    body = _number(packet_id) + b"".join(map(_text, filters))
    return b"\xa2" + _length(len(body)) + body


def encode_puback(packet_id: int) -> bytes:
    """PUBACK (section 3.4)."""
    return b"\x40\2" + _number(packet_id)


def encode_topic(topic: str) -> bytes:
    """A topic as it stands in a PUBLISH (section 3.3.2.1). Raises ValueError for what is not one."""
    if not topic or "+" in topic or "#" in topic:
        raise ValueError(f"{topic!r} is not a topic to publish on")
    return _text(topic)


def publish_header(topic: bytes, nbytes: int, *, packet_id: int = 0, retain: bool = False) -> bytes:
    """All of a PUBLISH but its payload of `nbytes` (section 3.3); QoS 1 when it has a `packet_id`.

    `topic` as `encode_topic` gives it.
    """
    if packet_id:
        return bytes([0x32 | retain]) + _length(len(topic) + 2 + nbytes) + topic + _number(packet_id)
    return bytes([0x30 | retain]) + _length(len(topic) + nbytes) + topic


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 65_535 or b"\0" in encoded:
        raise ValueError("a text that MQTT cannot carry: over 65535 bytes, or with a zero in it (section 1.5.3)")
    return len(encoded).to_bytes(2, "big") + encoded


def _number(packet_id: int) -> bytes:
    if not 0 < packet_id < 65_536:
        raise ValueError(f"packet identifier {packet_id} (section 2.3.1)")
    return packet_id.to_bytes(2, "big")


def _length(length: int) -> bytes:
    if length > MAX_REMAINING:
        raise ValueError(f"a packet of {length} bytes, at most {MAX_REMAINING} are possible (section 2.2.3)")
    found = bytearray()
    while length > 127:
        found.append(length & 127 | 128)
        length >>= 7
    found.append(length)
    return bytes(found)
