"""PURE: MQTT 3.1.1 packets as they come to a client of frames: bytes in, events out (mqtt_encode.py sends).

Section numbers are those of the OASIS standard MQTT Version 3.1.1. The decoder says where the next bytes are to be
put (`space`), so the payload of a large PUBLISH goes from the socket to its final place without a copy; only what
came together with the packet's header is copied. Whatever a broker sends, the decoder holds one scratch buffer and
at most one payload of at most `max_payload` bytes, and raises nothing but PacketError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

# Section 2.2.3: the largest remaining length; a payload is that less the longest topic and packet identifier.
MAX_REMAINING = 268_435_455
MAX_PAYLOAD = MAX_REMAINING - 65_540
# A longer topic is none of ours; the packet is skipped.
MAX_TOPIC = 4096
# Payloads up to this size are copied out of the scratch buffer; larger ones get a place of their own.
SMALL = 8192
_SCRATCH = 16384
_KNOWN_TOPICS = 256

# Section 2.2.1, table 2.1.
_CONNACK, _PUBLISH, _PUBACK, _SUBACK, _UNSUBACK, _PINGRESP = 2, 3, 4, 9, 11, 13
# fmt: off
_NAMES = (
    "reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
    "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "reserved",
)
# fmt: on
# Packet type -> least and greatest remaining length (sections 3.2 to 3.13); a SUBACK has a code for each filter.
_LENGTHS = {_CONNACK: (2, 2), _PUBACK: (2, 2), _SUBACK: (3, 1024), _UNSUBACK: (2, 2), _PINGRESP: (0, 0)}
_SUBACK_CODES = frozenset((0, 1, 2, 0x80))

# Why most payloads are skipped (see Skipped).
NOT_WANTED = "it was not asked for"


class PacketError(ValueError):
    """The broker broke the rules of MQTT: the connection must be closed (section 4.8)."""


class Connack(NamedTuple):
    """The broker's answer to CONNECT: 0 is yes, 1 to 5 say why not (section 3.2.2.3)."""

    code: int


class Message(NamedTuple):
    """A PUBLISH that was wanted, its payload read-only. With a `packet_id` (QoS 1) it must be acknowledged."""

    topic: str
    payload: memoryview
    retain: bool
    packet_id: int


class Skipped(NamedTuple):
    """A PUBLISH whose payload is not kept, and why. `packet_id` as in Message; `topic` is empty when unreadable."""

    topic: str
    nbytes: int
    reason: str
    packet_id: int


class Suback(NamedTuple):
    """The answer to a SUBSCRIBE: the granted QoS, or 0x80, for each filter in its order."""

    packet_id: int
    codes: tuple[int, ...]


class Unsuback(NamedTuple):
    """The answer to an UNSUBSCRIBE."""

    packet_id: int


class Puback(NamedTuple):
    """The broker has a QoS 1 message."""

    packet_id: int


class Pingresp(NamedTuple):
    """The answer to a PINGREQ."""


Event = Connack | Message | Skipped | Suback | Unsuback | Puback | Pingresp


class Decoder:
    """The packets of one connection, from its first byte on.

    `take(n)` gives a writable place for a payload of n bytes; when it raises MemoryError the packet is skipped.
    `wanted(topic)` is asked before memory is taken. Payloads start at a multiple of what `take` aligns to.
    """

    def __init__(
        self,
        *,
        take: Callable[[int], memoryview],
        wanted: Callable[[str], bool] = lambda topic: True,
        max_payload: int = MAX_PAYLOAD,
    ) -> None:
        self._take = take
        self._wanted = wanted
        self._max_payload = max_payload
        self._buffer = bytearray(_SCRATCH)
        self._scratch = memoryview(self._buffer)
        # Bytes start..end of the scratch buffer are not read yet.
        self._start = self._end = 0
        self._payload: memoryview | None = None
        self._got = 0
        self._header: tuple[str, bool, int] = ("", False, 0)
        self._skip = 0
        self._connected = False
        self._topics: dict[bytes, str | None] = {}

    @property
    def missing(self) -> int:
        """Bytes of the present PUBLISH that have not come; 0 between large packets."""
        return self._skip if self._payload is None else len(self._payload) - self._got

    @property
    def unfinished(self) -> bool:
        """Whether a part of a packet has come, and the rest has not."""
        return self._end > self._start or self.missing > 0

    def space(self) -> memoryview:
        """Where the next bytes belong, never empty; tell `received` how many were put there."""
        if self._payload is not None:
            return self._payload[self._got :]
        return self._scratch[self._end :]

    def received(self, nbytes: int) -> list[Event]:
        """`nbytes` were put into `space()`; what is complete by them. Raises PacketError."""
        payload = self._payload
        if payload is not None:
            self._got += nbytes
            if self._got < len(payload):
                return []
            self._payload = None
            return [Message(self._header[0], payload.toreadonly(), *self._header[1:])]
        self._end += nbytes
        events: list[Event] = []
        while self._packet(events):
            pass
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            rest = self._end - self._start
            self._scratch[:rest] = self._scratch[self._start : self._end]
            self._start, self._end = 0, rest
        return events

    def _packet(self, events: list[Event]) -> bool:
        """Read one packet, or the beginning of a large one; False when more bytes are needed."""
        if self._skip:
            here = min(self._skip, self._end - self._start)
            self._start += here
            self._skip -= here
            return not self._skip
        buffer, start, end = self._buffer, self._start, self._end
        if end - start < 2:
            return False
        first, length, place = buffer[start], buffer[start + 1], start + 2
        if length > 127:
            length &= 127
            for shift in (7, 14, 21):
                if place == end:
                    return False
                byte = buffer[place]
                place += 1
                length |= (byte & 127) << shift
                if byte < 128:
                    break
            else:
                raise PacketError("a remaining length of more than four bytes (section 2.2.3)")
        kind = first >> 4
        if not self._connected and kind != _CONNACK:
            raise PacketError(f"{_NAMES[kind]} before CONNACK (section 3.2)")
        if kind == _PUBLISH:
            return self._publish(events, first, place, length)
        if kind not in _LENGTHS:
            raise PacketError(f"packet type {_NAMES[kind]} was not expected")
        if first & 15:
            raise PacketError(f"{_NAMES[kind]} with flags {first & 15}, expected 0 (section 2.2.2)")
        least, most = _LENGTHS[kind]
        if not least <= length <= most:
            raise PacketError(f"{_NAMES[kind]} of {length} bytes, expected {least} to {most}")
        if end - place < length:
            return False
        self._start = place + length
        events.append(self._short(kind, bytes(buffer[place : place + length])))
        return True

    def _short(self, kind: int, body: bytes) -> Event:
        if kind == _PINGRESP:
            return Pingresp()
        if kind == _CONNACK:
            if self._connected:
                raise PacketError("a second CONNACK (section 3.2)")
            if body[0] > 1 or (body[0] and body[1]):
                raise PacketError(f"CONNACK with flags {body[0]} (section 3.2.2.1)")
            self._connected = True
            return Connack(body[1])
        packet_id = body[0] << 8 | body[1]
        if not packet_id:
            raise PacketError(f"{_NAMES[kind]} with packet identifier 0 (section 2.3.1)")
        if kind == _PUBACK:
            return Puback(packet_id)
        if kind == _UNSUBACK:
            return Unsuback(packet_id)
        if not _SUBACK_CODES.issuperset(body[2:]):
            raise PacketError("SUBACK with a return code that MQTT does not know (section 3.9.3)")
        return Suback(packet_id, tuple(body[2:]))

    def _publish(self, events: list[Event], first: int, place: int, length: int) -> bool:
        qos = first >> 1 & 3
        if qos > 1:
            raise PacketError(f"PUBLISH with QoS {qos}, at most 1 was asked for (section 3.8.4)")
        if first & 8 and not qos:
            raise PacketError("PUBLISH with DUP and QoS 0 (section 3.3.1.1)")
        buffer, end = self._buffer, self._end
        if end - place < 2:
            return False
        named = buffer[place] << 8 | buffer[place + 1]
        before = 2 + named + 2 * qos
        if before > length:
            raise PacketError(f"PUBLISH of {length} bytes with a topic of {named} (section 3.3.2)")
        nbytes = length - before
        if named > MAX_TOPIC:
            # The packet identifier stands behind the topic; without it the message cannot be acknowledged.
            if qos:
                raise PacketError(f"PUBLISH with a topic of {named} bytes, at most {MAX_TOPIC} are read")
            self._start, self._skip = place, length
            events.append(Skipped("", nbytes, "its topic is too long", 0))
            return True
        if end - place < before:
            return False
        packet_id = 0
        if qos:
            packet_id = buffer[place + before - 2] << 8 | buffer[place + before - 1]
            if not packet_id:
                raise PacketError("PUBLISH with packet identifier 0 (section 2.3.1)")
        topic = self._topic(bytes(buffer[place + 2 : place + 2 + named]))
        begin = place + before
        if topic is None or not self._wanted(topic):
            reason = "its topic is not one" if topic is None else NOT_WANTED
            self._start, self._skip = begin, nbytes
            events.append(Skipped(topic or "", nbytes, reason, packet_id))
            return True
        if nbytes <= SMALL:
            if end - begin < nbytes:
                return False
            self._start = begin + nbytes
            payload = memoryview(bytes(self._scratch[begin : self._start]))
            events.append(Message(topic, payload, bool(first & 1), packet_id))
            return True
        if nbytes > self._max_payload:
            self._start, self._skip = begin, nbytes
            reason = f"at most {self._max_payload} bytes are accepted"
            events.append(Skipped(topic, nbytes, reason, packet_id))
            return True
        try:
            payload = self._take(nbytes)
        except MemoryError:
            self._start, self._skip = begin, nbytes
            events.append(Skipped(topic, nbytes, "there is no memory for it", packet_id))
            return True
        here = min(nbytes, end - begin)
        payload[:here] = self._scratch[begin : begin + here]
        self._start = begin + here
        if here == nbytes:
            events.append(Message(topic, payload.toreadonly(), bool(first & 1), packet_id))
            return True
        self._payload, self._got, self._header = payload, here, (topic, bool(first & 1), packet_id)
        return False

    def _topic(self, name: bytes) -> str | None:
        """The topic's text; None when it is not one (sections 1.5.3, 3.3.2.1 and 4.7.3)."""
        try:
            return self._topics[name]
        except KeyError:
            pass
        try:
            topic: str | None = name.decode()
        except UnicodeDecodeError:
            topic = None
        if not topic or any(one in topic for one in "\0+#"):
            topic = None
        if len(self._topics) < _KNOWN_TOPICS:
            self._topics[name] = topic
        return topic
