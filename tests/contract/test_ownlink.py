"""Our own link against brokers that break the rules, and under many threads and large frames."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from emulator.brokers import Broker, Mosquitto
from slicemq import framekeeper, ownconnection
from slicemq.datalink import open_link
from slicemq.endpoint import Events, Wakeup
from slicemq.errors import BrokerError, BrokerRefusedError, ConfigError
from slicemq.mqtt_packets import MAX_PAYLOAD
from slicemq.options import KIND_VARIABLE, BrokerOptions, LinkKind
from slicemq.ownconnection import OwnConnection
from slicemq.ownlink import OwnLink
from slicemq.paholink import PahoLink
from slicemq.streams import PlainStream
from slicemq.topics import Topics
from tests.contract.test_mqtt_packets import publish
from tests.fake_broker import FakeBroker
from tests.waiting import eventually, never

TOPIC = "slicemq/v1/c/x"


class Ends:
    """A link and what it said."""

    def __init__(self, broker: BrokerOptions, client_id: str, *topics: str, **options: Any) -> None:
        self.frames: list[tuple[str, memoryview]] = []
        self.ups = 0
        self.downs: list[str] = []
        self.link = OwnLink(
            broker,
            client_id,
            **{
                "on_frame": lambda topic, payload: self.frames.append((topic, payload)),
                "on_up": self.count_up,
                "on_down": self.downs.append,
                "max_pending": 64 << 20,
                **options,
            },
        )
        self.link.subscribe(topics)
        self.link.start()

    def count_up(self) -> None:
        self.ups += 1


@pytest.fixture
def own() -> Iterator[Callable[..., Ends]]:
    """Opens own links and waits until they are up; ended with the test."""
    opened: list[Ends] = []

    def make(broker: BrokerOptions, client_id: str, *topics: str, **options: Any) -> Ends:
        opened.append(Ends(broker, client_id, *topics, **options))
        opened[-1].link.wait_up(10)
        return opened[-1]

    yield make
    for one in opened:
        one.link.stop()


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x30\xff\xff\xff\xff\x7f", "remaining length"),
        (b"\x20\2\0\0", "second CONNACK"),
        (b"\x36\5\0\1a\0\1", "QoS 3"),
        (b"\x82\5\0\1\0\0\0", "SUBSCRIBE was not expected"),
        (bytes(20_000), "reserved was not expected"),
    ],
)
def test_a_broker_that_breaks_the_rules_is_left_with_a_reason(
    fake: FakeBroker, own: Callable[..., Ends], data: bytes, words: str
) -> None:
    ends = own(fake.options, "a", TOPIC)
    fake.push(data)
    assert words in eventually(lambda: ends.downs)[0]
    eventually(lambda: ends.ups == 2)


def test_frames_not_asked_for_are_ignored_and_take_no_memory(fake: FakeBroker, own: Callable[..., Ends]) -> None:
    ends = own(fake.options, "a", TOPIC)
    fake.push(publish(b"slicemq/v1/c/other", bytes(3_000_000), flags=1) + publish(TOPIC.encode(), b"mine"))
    eventually(lambda: ends.frames)
    assert [(topic, bytes(payload)) for topic, payload in ends.frames] == [(TOPIC, b"mine")]
    assert ends.link._pool.free == (0, 0)
    assert ends.downs == []


def test_a_frame_above_the_limit_is_skipped_and_the_link_lives(
    fake: FakeBroker, own: Callable[..., Ends], caplog: pytest.LogCaptureFixture
) -> None:
    ends = own(fake.options, "a", TOPIC, max_frame=100_000)
    fake.push(publish(TOPIC.encode(), bytes(100_001)) + publish(TOPIC.encode(), bytes(100_000)))
    eventually(lambda: ends.frames)
    assert [len(payload) for _, payload in ends.frames] == [100_000]
    assert "100001 bytes skipped: at most 100000 bytes" in caplog.text


def test_endless_small_messages_fill_no_memory_and_can_be_stopped(fake: FakeBroker) -> None:
    count = 0

    def on_frame(_: str, payload: object) -> None:
        nonlocal count
        count += 1

    ends = Ends(fake.options, "a", TOPIC, on_frame=on_frame)
    ends.link.wait_up(10)
    over = threading.Event()

    def flood() -> None:
        while not over.is_set() and fake.push(publish(TOPIC.encode(), b"") * 1000):
            pass

    flooding = threading.Thread(target=flood)
    flooding.start()
    eventually(lambda: count > 5000)
    started = time.monotonic()
    ends.link.stop()
    assert time.monotonic() - started < 5
    assert not ends.link._thread.is_alive()
    over.set()
    flooding.join(10)


def test_a_broker_that_asks_and_takes_no_answers_is_left(
    fake: FakeBroker, own: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages with QoS 1, which the link did not ask for, each wait for a PUBACK that the broker does not read."""
    ends = own(fake.options, "a", TOPIC)
    monkeypatch.setattr(PlainStream, "write", lambda stream, buffers: 0)
    fake.push(publish(TOPIC.encode(), b"", packet_id=1) * 25_000)
    assert "does not take the answers" in eventually(lambda: ends.downs)[0]


def test_the_rest_of_a_frame_that_never_comes_ends_the_connection(
    fake: FakeBroker, own: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownconnection, "_SLOW_SECONDS", 0.3)
    ends = own(fake.options, "a", TOPIC)
    fake.push(publish(TOPIC.encode(), bytes(50_000_000))[:30_000])
    (reason,) = eventually(lambda: ends.downs, timeout=20)
    assert "the rest of a packet does not come" in reason
    eventually(lambda: ends.ups == 2)


def test_a_frame_that_drips_ends_the_connection_too(
    fake: FakeBroker, own: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownconnection, "_SLOW_SECONDS", 0.3)
    ends = own(fake.options, "a", TOPIC)
    data = publish(TOPIC.encode(), bytes(1_000_000))
    fake.push(data[:100])
    place = iter(range(100, len(data)))
    eventually(lambda: fake.push(data[(at := next(place)) : at + 1]) and ends.downs, timeout=20)
    assert "the rest of a packet does not come" in ends.downs[0]


def test_a_slow_frame_that_goes_on_arrives(
    fake: FakeBroker, own: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownconnection, "_SLOW_SECONDS", 0.5)
    ends = own(fake.options, "a", TOPIC)
    data = publish(TOPIC.encode(), bytes(200_000))
    places = iter(range(0, len(data) + 4000, 4000))
    eventually(
        lambda: not (fake.push(data[(at := next(places)) : at + 4000]) and at + 4000 < len(data)), every=0.03
    )
    eventually(lambda: ends.frames)
    assert ends.downs == []


def test_a_broker_that_answers_no_ping_is_left(
    own: Callable[..., Ends], monkeypatch: pytest.MonkeyPatch, fake: FakeBroker
) -> None:
    monkeypatch.setattr(framekeeper, "_KEEPALIVE", 1)
    fake.pings = 1
    ends = own(fake.options, "a", TOPIC)
    (reason,) = eventually(lambda: ends.downs, timeout=20)
    assert "no sign of life within 1 s" in reason
    assert fake.pings < 0


@pytest.mark.parametrize(
    ("code", "words", "final"),
    [
        (1, "does not speak this version of MQTT", False),
        (2, "does not accept the client id 'a'", True),
        (3, "not available now", False),
        (4, "wrong user name or password", True),
        (5, "not authorised", True),
        (77, "code 77", False),
    ],
)
def test_refusals_have_the_same_words_on_both_links(code: int, words: str, final: bool) -> None:
    # paho tries MQTT 3.1 after code 1, and keeps no code that it does not know.
    kinds: list[LinkKind] = ["own", "paho"] if 1 < code < 6 else ["own"]
    with FakeBroker(connack=code) as refusing:
        errors = []
        for kind in kinds:
            link = open_link(refusing.options, "a", on_frame=lambda *_: None, kind=kind)
            link.start()
            with pytest.raises(BrokerRefusedError if final else BrokerError, match=words) as caught:
                link.wait_up(0.5)
            errors.append(str(caught.value))
            link.stop()
    assert len(set(errors)) == 1


def test_what_is_no_mqtt_broker_is_a_clear_error(fake: FakeBroker) -> None:
    fake.connack = None
    fake.close_after = 0
    link = open_link(fake.options, "a", on_frame=lambda *_: None, kind="own")
    link.start()
    with pytest.raises(BrokerError, match="is this an MQTT port"):
        link.wait_up(1)
    link.stop()


def test_many_threads_send_whole_frames(broker: Broker, cluster: str, own: Callable[..., Ends]) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    receiver, sender = own(broker.options, f"{cluster}-r", topic), own(broker.options, f"{cluster}-s")
    sizes = [3, 900, 9_000, 300_000]

    def work(mark: int) -> None:
        for turn in range(12):
            body = bytes([mark]) * sizes[turn % len(sizes)]
            assert sender.link.send(topic, [bytes([mark, turn]), body[:7], memoryview(body)[7:]])

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    eventually(lambda: len(receiver.frames) == 8 * 12, timeout=30)
    turns: dict[int, list[int]] = {mark: [] for mark in range(8)}
    for _, payload in receiver.frames:
        mark, turn = payload[0], payload[1]
        assert bytes(payload[2:]) == bytes([mark]) * sizes[turn % len(sizes)]
        turns[mark].append(turn)
    assert all(each == list(range(12)) for each in turns.values())


def test_the_largest_frames_arrive_in_aligned_memory(
    mosquitto: Broker, cluster: str, own: Callable[..., Ends]
) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    receiver, sender = own(mosquitto.options, f"{cluster}-r", topic), own(mosquitto.options, f"{cluster}-s")
    payload = np.random.default_rng(1).integers(0, 255, 64_000_000, np.uint8)
    for size in (len(payload), 20_000, 8193):
        assert sender.link.send(topic, [payload[:size].data])
        eventually(lambda: receiver.frames, timeout=30)
        (_, came) = receiver.frames.pop()
        array = np.frombuffer(came, np.uint8)
        assert np.array_equal(array, payload[:size])
        assert array.__array_interface__["data"][0] % 64 == 0


def test_frames_may_be_of_any_kind_of_buffer(mosquitto: Broker, cluster: str, own: Callable[..., Ends]) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    ends = own(mosquitto.options, f"{cluster}-a", topic)
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    parts: list[Any] = [
        b"",
        bytearray(b"ab"),
        square.data,
        square.T.data,
        np.zeros((0, 4)).data,
        np.ones(1, np.int8).data,
    ]
    parts += [bytes([number % 256]) for number in range(1500)]
    assert ends.link.send(topic, parts)
    eventually(lambda: ends.frames)
    assert bytes(ends.frames[0][1]) == b"".join(bytes(part) for part in parts)


def test_parts_may_be_used_again_when_send_returns(own_broker: Broker, own: Callable[..., Ends]) -> None:
    receiver, sender = own(own_broker.options, "r", TOPIC), own(own_broker.options, "s")
    own_broker.freeze()
    buffer = bytearray(8_000_000)
    marks = range(1, 6)
    for mark in marks:
        buffer[:] = bytes([mark]) * len(buffer)
        assert sender.link.send(TOPIC, [memoryview(buffer)])
    buffer[:] = bytes(len(buffer))
    assert sender.link.pending > 0
    own_broker.thaw()
    eventually(lambda: len(receiver.frames) == len(marks), timeout=30)
    for number, (_, payload) in zip(marks, receiver.frames, strict=True):
        assert (np.frombuffer(payload, np.uint8) == number).all()
    eventually(lambda: sender.link.pending == 0)


def test_stop_is_quick_with_a_broker_that_reads_nothing(fake: FakeBroker, own: Callable[..., Ends]) -> None:
    fake.deaf = True
    ends = own(fake.options, "a")
    while ends.link.pending == 0:
        assert ends.link.send(TOPIC, [bytes(5_000_000)], timeout=0.1)
    ends.link.stop()
    assert not ends.link._thread.is_alive()
    assert not ends.link.send(TOPIC, [b"x"])


def test_a_frame_half_sent_on_a_dead_connection_is_dropped(own_broker: Broker, own: Callable[..., Ends]) -> None:
    receiver, sender = own(own_broker.options, "r", TOPIC), own(own_broker.options, "s")
    own_broker.freeze()
    while sender.link.pending == 0:
        assert sender.link.send(TOPIC, [bytes(5_000_000)])
    own_broker.restart()
    eventually(lambda: sender.ups == 2 and receiver.ups == 2, timeout=20)
    assert sender.link.pending == 0
    receiver.frames.clear()
    assert sender.link.send(TOPIC, [b"next"])
    eventually(lambda: [bytes(payload) for _, payload in receiver.frames] == [b"next"])


def test_send_on_the_network_thread_never_waits(own_broker: Broker) -> None:
    results: list[tuple[bool, float]] = []

    def on_frame(topic: str, payload: object) -> None:
        own_broker.freeze()
        for _ in range(40):
            started = time.monotonic()
            results.append((ends.link.send("slicemq/v1/c/y", [bytes(2_000_000)]), time.monotonic() - started))
        own_broker.thaw()

    ends = Ends(own_broker.options, "a", TOPIC, on_frame=on_frame, max_pending=20_000_000)
    ends.link.wait_up(10)
    assert ends.link.send(TOPIC, [b"go"])
    eventually(lambda: len(results) == 40, timeout=20)
    assert not results[-1][0]
    assert max(seconds for _, seconds in results) < 10
    eventually(lambda: ends.link.pending == 0)
    ends.link.stop()


def test_a_payload_that_is_kept_is_not_overwritten(
    mosquitto: Broker, cluster: str, own: Callable[..., Ends]
) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    ends = own(mosquitto.options, f"{cluster}-a", topic)
    kept: list[tuple[int, Any]] = []
    for mark in range(30):
        assert ends.link.send(topic, [bytes([mark]) * 200_000])
        eventually(lambda: ends.frames)
        array: Any = np.frombuffer(ends.frames.pop()[1], np.float32)[100:200]
        if mark % 3 == 0:
            kept.append((mark, array))
        del array
    for expected, one in kept:
        assert set(one.tobytes()) == {expected}
    count, nbytes = ends.link._pool.free
    assert 1 <= count <= 4
    assert nbytes < 2_000_000


def test_qos_1_is_acknowledged(broker: Broker, cluster: str, own: Callable[..., Ends]) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    receiver = own(broker.options, f"{cluster}-r", topic, qos=1)
    sender = own(broker.options, f"{cluster}-s", qos=1)
    for number in range(50):
        assert sender.link.send(topic, [bytes([number]) * (1 + number * 1000)])
    eventually(lambda: len(receiver.frames) == 50, timeout=20)
    eventually(lambda: sender.link.unacknowledged == 0)
    assert sorted(payload[0] for _, payload in receiver.frames) == list(range(50))


def test_a_process_with_many_files_open_waits_for_its_broker() -> None:
    """`select` takes no descriptor above 1023; where more are allowed, one of them is the link's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip(f"at most {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with contextlib.ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while (one := files.enter_context(open(os.devnull, "rb"))).fileno() < 1030:
            pass
        ends = Ends(BrokerOptions(host="127.0.0.1", port=1), "a", TOPIC)
        files.callback(ends.link.stop)
        with pytest.raises(BrokerError, match="nothing listens there"):
            ends.link.wait_up(0.3)
        assert one.fileno() < ends.link._wakeup.fileno()
        assert ends.link._thread.is_alive()


def test_a_connection_that_was_never_open_sends_nothing() -> None:
    wakeup = Wakeup()
    events = Events(message=lambda *_: None, suback=lambda *_: None, unsuback=lambda *_: None)
    link = Ends(BrokerOptions(host="127.0.0.1", port=1), "a").link
    connection = OwnConnection(
        BrokerOptions(), "a", events, wakeup, keepalive=1, pool=link._pool, wanted=bool, max_frame=MAX_PAYLOAD
    )
    assert not connection.publish("a", b"", 0, False)
    assert connection.subscribe([("a", 0)]) is None
    connection.close()
    wakeup.close()
    link.stop()


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (BrokerOptions(), "zmq", "kind of data link: 'zmq', expected auto, own, paho"),
        (BrokerOptions(mqtt5=True), "own", "does not speak MQTT 5"),
        (BrokerOptions(transport="websockets"), "own", "does not speak WebSocket"),
    ],
)
def test_a_kind_that_cannot_be(options: BrokerOptions, kind: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_link(options, "a", on_frame=lambda *_: None, kind=kind)


def test_the_kind_is_chosen_by_what_the_broker_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(**options: Any) -> type:
        return type(open_link(BrokerOptions(**options), "a", on_frame=lambda *_: None))

    monkeypatch.delenv(KIND_VARIABLE, raising=False)
    assert kind() is kind(tls=True) is OwnLink
    assert kind(transport="websockets") is kind(mqtt5=True) is PahoLink
    monkeypatch.setenv(KIND_VARIABLE, "paho")
    assert kind() is PahoLink
    monkeypatch.setenv(KIND_VARIABLE, "nonsense")
    with pytest.raises(ConfigError, match=f"environment variable {KIND_VARIABLE}: 'nonsense'"):
        kind()


def test_a_broker_that_drops_large_frames_keeps_the_link(cluster: str, own: Callable[..., Ends]) -> None:
    topic = Topics(cluster).data("p", "1-00000000", "b0")
    with Mosquitto(replace={"message_size_limit 67108864": "message_size_limit 200000"}) as small:
        ends = own(small.options, "a", topic)
        assert ends.link.send(topic, [bytes(300_000)])
        assert ends.link.send(topic, [b"small"])
        eventually(lambda: [bytes(payload) for _, payload in ends.frames] == [b"small"])
        never(lambda: ends.downs, during=0.1)
