"""The packets of our own link: every rule of MQTT 3.1.1 that a broker can break, and any splits of the bytes."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slicemq import mqtt_encode
from slicemq import mqtt_packets as packets
from slicemq.mqtt_packets import (
    MAX_TOPIC,
    SMALL,
    Connack,
    Decoder,
    Event,
    Message,
    PacketError,
    Pingresp,
    Puback,
    Skipped,
    Suback,
    Unsuback,
)

CONNACK = b"\x20\2\0\0"


def length(value: int) -> bytes:
    found = bytearray()
    while True:
        value, digit = value >> 7, value & 127
        found.append(digit | (128 if value else 0))
        if not value:
            return bytes(found)


def publish(topic: bytes, payload: bytes, *, packet_id: int | None = None, flags: int | None = None) -> bytes:
    flags = (0 if packet_id is None else 2) if flags is None else flags
    body = len(topic).to_bytes(2, "big") + topic
    body += b"" if packet_id is None else packet_id.to_bytes(2, "big")
    return bytes([0x30 | flags]) + length(len(body) + len(payload)) + body + payload


class Memory:
    """Gives places for payloads and counts those not yet complete."""

    def __init__(self, most: int = 1 << 40) -> None:
        self.taken: list[int] = []
        self.most = most

    def take(self, nbytes: int) -> memoryview:
        if nbytes > self.most:
            raise MemoryError
        self.taken.append(nbytes)
        return memoryview(bytearray(nbytes))


def decoder(memory: Memory | None = None, unwanted: str = "no", max_payload: int = packets.MAX_PAYLOAD) -> Decoder:
    return Decoder(take=(memory or Memory()).take, wanted=lambda topic: topic != unwanted, max_payload=max_payload)


def feed(one: Decoder, data: bytes, sizes: Sequence[int] = ()) -> list[Event]:
    """Give `data` to the decoder in reads of `sizes`, and then in reads as large as it has room for."""
    events: list[Event] = []
    left, turn = memoryview(data), 0
    while left:
        space = one.space()
        assert len(space) > 0
        size = min(len(space), len(left), max(1, sizes[turn]) if turn < len(sizes) else len(left))
        turn += 1
        space[:size] = left[:size]
        events += one.received(size)
        left = left[size:]
    return events


def plain(events: Sequence[Event]) -> list[object]:
    return [(one.topic, bytes(one.payload), *one[2:]) if isinstance(one, Message) else one for one in events]


topics = st.sampled_from([b"a", b"slicemq/v1/c/data/p/1-00000000/b0", "\N{SNOWMAN}".encode(), b"no", b"x" * 300])
payloads = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 3 * SMALL).map(lambda size: bytes(size)),
    st.sampled_from([SMALL - 1, SMALL, SMALL + 1, 16384, 70_000]).map(lambda size: b"\x30" * size),
)
numbers = st.integers(1, 65535)
packet = st.one_of(
    st.builds(publish, topics, payloads),
    st.builds(lambda topic, payload, number: publish(topic, payload, packet_id=number), topics, payloads, numbers),
    st.builds(lambda number: b"\x40\2" + struct.pack(">H", number), numbers),
    st.builds(lambda number: b"\xb0\2" + struct.pack(">H", number), numbers),
    st.builds(
        lambda number, codes: b"\x90" + bytes([2 + len(codes)]) + struct.pack(">H", number) + bytes(codes),
        numbers,
        st.lists(st.sampled_from([0, 1, 2, 128]), min_size=1, max_size=50),
    ),
    st.just(b"\xd0\0"),
)


@given(st.lists(packet, max_size=12), st.lists(st.integers(1, 20_000), max_size=60))
def test_any_split_gives_the_same_events(stream: list[bytes], sizes: list[int]) -> None:
    data = CONNACK + b"".join(stream)
    whole = plain(feed(decoder(), data))
    assert len(whole) == 1 + len(stream)
    assert plain(feed(decoder(), data, sizes)) == whole
    assert plain(feed(decoder(), data[:3000], [1] * 3000)) == plain(feed(decoder(), data[:3000]))


@given(st.binary(max_size=600), st.lists(st.integers(1, 50), max_size=60), st.booleans())
@example(b"\x30\xff\xff\xff\x7f\0\1a" + b"x" * 100, [], True)
@example(b"\x30\xff\xff\xff\xff\x7f", [1] * 6, True)
def test_any_bytes_raise_nothing_but_the_declared_error(data: bytes, sizes: list[int], greeted: bool) -> None:
    memory = Memory()
    one = decoder(memory)
    try:
        events = feed(one, (CONNACK if greeted else b"") + data, sizes)
    except PacketError:
        return
    assert len(events) <= 1 + len(data) // 2
    assert 0 <= one.missing <= packets.MAX_REMAINING
    # One place for each payload, taken when it begins; small ones need none.
    messages = [event for event in events if isinstance(event, Message)]
    assert len(memory.taken) <= len(messages) + 1
    assert all(SMALL < size <= packets.MAX_PAYLOAD for size in memory.taken)


@given(st.lists(packet, min_size=1, max_size=4), st.data())
def test_a_damaged_stream_raises_nothing_but_the_declared_error(stream: list[bytes], data: st.DataObject) -> None:
    damaged = bytearray(CONNACK + b"".join(stream))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(200, len(damaged) - 1)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PacketError):
        feed(decoder(), bytes(damaged))


BROKEN = {
    "a message before CONNACK": (publish(b"a", b""), "PUBLISH before CONNACK"),
    "two CONNACKs": (CONNACK * 2, "second CONNACK"),
    "CONNACK of three bytes": (b"\x20\3\0\0\0", "CONNACK of 3 bytes"),
    "CONNACK with reserved bits": (b"\x20\2\2\0", "CONNACK with flags 2"),
    "CONNACK that refuses with a session": (b"\x20\2\1\5", "CONNACK with flags 1"),
    "CONNACK with header flags": (b"\x21\2\0\0", "CONNACK with flags 1, expected 0"),
    "remaining length of five bytes": (CONNACK + b"\x30\xff\xff\xff\xff\1", "more than four bytes"),
    "QoS 2": (CONNACK + publish(b"a", b"", packet_id=1, flags=4), "QoS 2"),
    "QoS 3": (CONNACK + publish(b"a", b"", packet_id=1, flags=6), "QoS 3"),
    "DUP with QoS 0": (CONNACK + publish(b"a", b"", flags=8), "DUP"),
    "packet identifier 0 in PUBLISH": (CONNACK + publish(b"a", b"", packet_id=0), "identifier 0"),
    "topic longer than its packet": (CONNACK + b"\x30\4\0\x09ab", "with a topic of 9"),
    "no room for a topic's length": (CONNACK + b"\x30\1\0\0", "PUBLISH of 1 bytes"),
    "no room for an identifier": (CONNACK + b"\x32\4\0\1ab\0", "PUBLISH of 4 bytes"),
    "endless topic with QoS 1": (CONNACK + publish(b"a" * 5000, b"", packet_id=7), "topic of 5000"),
    "PUBACK of three bytes": (CONNACK + b"\x40\3\0\1\0", "PUBACK of 3 bytes"),
    "PUBACK with identifier 0": (CONNACK + b"\x40\2\0\0", "PUBACK with packet identifier 0"),
    "SUBACK without codes": (CONNACK + b"\x90\2\0\1", "SUBACK of 2 bytes"),
    "SUBACK with an unknown code": (CONNACK + b"\x90\3\0\1\3", "return code"),
    "SUBACK that is huge": (CONNACK + b"\x90\xff\xff\xff\x7f", "SUBACK of 268435455 bytes"),
    "UNSUBACK with a flag": (CONNACK + b"\xb1\2\0\1", "UNSUBACK with flags 1"),
    "PINGRESP with a body": (CONNACK + b"\xd0\1\0", "PINGRESP of 1 bytes"),
    "a client's packet": (CONNACK + b"\x82\x05\0\1\0\0\0", "SUBSCRIBE was not expected"),
    "PUBREC": (CONNACK + b"\x50\2\0\1", "PUBREC was not expected"),
    "type 0": (CONNACK + b"\0\0", "reserved was not expected"),
    "type 15": (CONNACK + b"\xf0\0", "reserved was not expected"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_rule_has_its_words(name: str) -> None:
    data, words = BROKEN[name]
    with pytest.raises(PacketError, match=words):
        feed(decoder(), data, [1] * len(data))


def test_what_is_not_wanted_takes_no_memory() -> None:
    memory = Memory(most=300_000)
    one = decoder(memory, max_payload=400_000)
    stream = [
        publish(b"no", bytes(200_000)),
        publish(b"large", bytes(500_000), packet_id=9),
        publish(b"full", bytes(350_000)),
        publish(b"t" * (MAX_TOPIC + 1), bytes(100_000)),
        publish(b"wild/+", bytes(10)),
        publish(b"zero\0", b""),
        publish(b"", b"x"),
        publish(b"\xff\xfe", b"x"),
        publish("\ud800".encode("utf-8", "surrogatepass"), b"x"),
        publish(b"yes", b"came"),
    ]
    events = feed(one, CONNACK + b"".join(stream))
    assert memory.taken == []
    skipped = [event for event in events if isinstance(event, Skipped)]
    assert [(event.topic, event.nbytes, event.packet_id) for event in skipped] == [
        ("no", 200_000, 0),
        ("large", 500_000, 9),
        ("full", 350_000, 0),
        ("", 100_000 + 4097 - 4097, 0),
        ("", 10, 0),
        ("", 0, 0),
        ("", 1, 0),
        ("", 1, 0),
        ("", 1, 0),
    ]
    assert "at most 400000 bytes" in skipped[1].reason
    assert "no memory" in skipped[2].reason
    assert plain(events[-1:]) == [("yes", b"came", False, 0)]
    assert not one.unfinished


def test_a_large_payload_is_put_into_its_place_and_missing_counts_down() -> None:
    memory = Memory()
    one = decoder(memory)
    payload = bytes(range(256)) * 400
    data = CONNACK + publish(b"a", payload)
    assert feed(one, data[:50_000]) == [Connack(0)]
    assert memory.taken == [len(payload)]
    assert one.missing == len(data) - 50_000
    assert len(one.space()) == one.missing
    assert plain(feed(one, data[50_000:])) == [("a", payload, False, 0)]
    assert one.missing == 0
    assert plain(feed(one, b"\x31\3\0\1b")) == [("b", b"", True, 0)]


def test_small_events() -> None:
    data = CONNACK + b"\x90\4\0\7\0\x80" + b"\xb0\2\1\0" + b"\x40\2\xff\xff" + b"\xd0\0"
    assert feed(decoder(), data) == [
        Connack(0),
        Suback(7, (0, 128)),
        Unsuback(256),
        Puback(65535),
        Pingresp(),
    ]


def test_what_is_sent_is_as_the_standard_writes_it() -> None:
    hello = mqtt_encode.encode_connect("id", keepalive=60, username="u", password="pw")
    assert hello == b"\x10\x15\0\4MQTT\4\xc2\0\x3c\0\2id\0\1u\0\2pw"
    assert mqtt_encode.encode_connect("", keepalive=0) == b"\x10\x0c\0\4MQTT\4\2\0\0\0\0"
    assert mqtt_encode.encode_subscribe(10, [("a/b", 1), ("c/d", 0)]) == b"\x82\x0e\0\x0a\0\3a/b\1\0\3c/d\0"
    assert mqtt_encode.encode_unsubscribe(10, ["a/b"]) == b"\xa2\7\0\x0a\0\3a/b"
    assert mqtt_encode.encode_puback(258) == b"\x40\2\1\2"
    name = mqtt_encode.encode_topic("a/b")
    assert mqtt_encode.publish_header(name, 3) == b"\x30\x08\0\3a/b"
    assert mqtt_encode.publish_header(name, 200, packet_id=5) == b"\x32\xcf\1\0\3a/b\0\5"
    for size in (0, 120, 122, 123, 16_378, 16_379, 2_097_146, 2_097_147, packets.MAX_PAYLOAD):
        assert mqtt_encode.publish_header(name, size) == b"\x30" + length(5 + size) + name


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "x" * 65_536, "\ud800"])
def test_a_topic_that_cannot_be_published_on(topic: str) -> None:
    with pytest.raises(ValueError, match=r"not a topic|MQTT cannot carry|surrogates"):
        mqtt_encode.encode_topic(topic)


def test_connect_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="without a user name"):
        mqtt_encode.encode_connect("a", keepalive=1, password="x")
    with pytest.raises(ValueError, match="MQTT cannot carry"):
        mqtt_encode.encode_connect("a\0", keepalive=1)
    with pytest.raises(ValueError, match="at most 268435455"):
        mqtt_encode.publish_header(b"\0\1a", packets.MAX_REMAINING)
    with pytest.raises(ValueError, match="identifier 0"):
        mqtt_encode.encode_puback(0)


@given(topics, st.integers(0, 20_000), st.integers(0, 65535))
def test_what_we_send_reads_back(topic: bytes, size: int, number: int) -> None:
    data = mqtt_encode.publish_header(mqtt_encode.encode_topic(topic.decode()), size, packet_id=number) + bytes(
        size
    )
    (message,) = feed(decoder(unwanted=""), CONNACK + data)[1:]
    assert isinstance(message, Message)
    assert (message.topic.encode(), len(message.payload), message.packet_id) == (topic, size, number)
