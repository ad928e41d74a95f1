"""Artifacts over a network that loses, repeats, reorders and damages (rule 24)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemq.errors import ArtifactError
from slicemq.messages import Artifact, ChunkRequest
from slicemq.transfer import MAX_REQUEST_BYTES, Chunk, Download, decode_chunk, encode_chunk, serve

CHUNK = 100
Damage = Callable[[bytes], bytes]


def artifact_of(data: bytes) -> Artifact:
    return Artifact(hashlib.sha256(data).hexdigest(), len(data))


def download(data: bytes, offset: int = 0, **options: float) -> Download:
    return Download(
        artifact_of(data), receiver="n1", transaction="t1", offset=offset, chunk=CHUNK, window=8, **options
    )


class Network:
    """A sender that has `data`, behind a network that misbehaves by `rng`: messages take 10 to 10 + `jitter` ms."""

    def __init__(
        self, data: bytes, rng: random.Random, loss: float, repeat: float, damage: float, jitter: float = 40.0
    ) -> None:
        self.data = data
        self.rng = rng
        self.jitter = jitter / 1e3
        self.loss, self.repeat, self.damage = loss, repeat, damage
        self.flying: list[tuple[float, bytes]] = []
        self.sent = 0

    def ask(self, now: float, request: ChunkRequest) -> None:
        if self.rng.random() < self.loss:
            return
        for payload in serve(request, len(self.data), lambda at, count: self.data[at : at + count]):
            self.sent += 1
            if self.rng.random() < self.damage:
                spoilt = bytearray(payload)
                spoilt[self.rng.randrange(len(spoilt))] ^= 1 << self.rng.randrange(8)
                payload = bytes(spoilt)
            copies = 0 if self.rng.random() < self.loss else 2 if self.rng.random() < self.repeat else 1
            for _ in range(copies):
                self.flying.append((now + self.rng.uniform(0.01, 0.01 + self.jitter), payload))

    def due(self, now: float) -> list[bytes]:
        self.flying.sort(key=lambda item: item[0])
        due = [payload for when, payload in self.flying if when <= now]
        self.flying = [item for item in self.flying if item[0] > now]
        return due


def transfer(network: Network, receiver: Download, kept: bytearray, *, until: int | None = None) -> float:
    """Run to the end (or until `until` bytes are kept); returns the seconds that it took."""
    now = 0.0
    while not receiver.done and (until is None or len(kept) < until):
        if (request := receiver.poll(now)) is not None:
            network.ask(now, request)
        for payload in network.due(now):
            assert receiver.offset == len(kept)
            try:
                data, request = receiver.receive(now, payload)
            except ArtifactError:
                continue
            kept += data
            if request is not None:
                network.ask(now, request)
        now += 0.01
        assert now < 10_000
    return now


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 6000),
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    repeat=st.sampled_from([0.0, 0.3]),
    damage=st.sampled_from([0.0, 0.2]),
)
def test_whatever_the_network_does_the_bytes_come_whole(
    size: int, seed: int, loss: float, repeat: float, damage: float
) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(size)
    kept = bytearray()
    network = Network(data, rng, loss, repeat, damage)
    transfer(network, download(data, patience=1e9), kept)
    assert bytes(kept) == data


def test_on_a_sound_network_nothing_is_sent_twice() -> None:
    data = random.Random(1).randbytes(100_000)
    kept = bytearray()
    network = Network(data, random.Random(2), 0.0, 0.0, 0.0, jitter=0.0)
    seconds = transfer(network, download(data), kept)
    assert bytes(kept) == data
    assert network.sent == len(data) // CHUNK
    assert seconds < 5.0, "the window keeps the link busy: no wait for a retry"


@pytest.mark.parametrize("stop", [1, 250, 999, 1000])
def test_a_transfer_goes_on_where_it_stopped(stop: int) -> None:
    data = random.Random(3).randbytes(1000)
    kept = bytearray()
    transfer(Network(data, random.Random(4), 0.1, 0.1, 0.0), download(data), kept, until=stop)
    had = len(kept)
    again = download(data, offset=had)
    network = Network(data, random.Random(5), 0.0, 0.0, 0.0, jitter=0.0)
    transfer(network, again, kept)
    assert bytes(kept) == data
    assert network.sent == -(-(1000 - had) // CHUNK), "only what is missing is sent"


def test_a_damaged_chunk_is_counted_and_asked_for_again() -> None:
    data = bytes(range(256))
    receiver = download(data)
    request = receiver.poll(0.0)
    assert request is not None
    first, second, _ = list(serve(request, len(data), lambda at, count: data[at : at + count]))
    bad = first[:-1] + bytes([first[-1] ^ 1])
    with pytest.raises(ArtifactError, match="does not match its SHA-256"):
        receiver.receive(0.1, bad)
    assert (receiver.rejected, receiver.offset) == (1, 0)
    assert receiver.receive(0.1, second) == (b"", None), "only in order"
    again = receiver.poll(1.5)
    assert again is not None
    assert again.offset == 0
    assert receiver.receive(1.6, first)[0] == data[:100]
    assert receiver.receive(1.6, first) == (b"", None), "a repeat adds nothing"


def test_chunks_that_were_not_asked_for_add_nothing() -> None:
    data = bytes(500)
    receiver = download(data)
    receiver.poll(0.0)
    assert receiver.receive(0.1, encode_chunk(Chunk("t2", 0, 500, data[:100]))) == (b"", None)
    with pytest.raises(ArtifactError, match="expected 500"):
        receiver.receive(0.1, encode_chunk(Chunk("t1", 0, 501, data[:100])))
    with pytest.raises(ArtifactError, match="at most 100"):
        receiver.receive(0.1, encode_chunk(Chunk("t1", 0, 500, data[:101])))
    assert receiver.offset == 0
    assert receiver.receive(0.1, encode_chunk(Chunk("t1", 0, 500, b""))) == (b"", None)


def test_asking_backs_off_and_ends() -> None:
    receiver = download(bytes(500), retry=1.0, patience=30.0)
    asked = [tenth // 10 for tenth in range(300) if receiver.poll(tenth / 10) is not None]
    assert asked == [0, 1, 3, 7, 15, 23]
    with pytest.raises(ArtifactError, match="no chunk for 30 s at 0 of 500 bytes"):
        receiver.poll(30.1)


@pytest.mark.parametrize(("chunk", "chunks"), [(1, 64), (1 << 20, 64), (100, 1), (1 << 20, 1), (70_000, 64)])
def test_what_one_request_may_cost_is_bounded(chunk: int, chunks: int) -> None:
    """A forged request names any receiver: it must not draw a flood."""
    size = 1 << 30
    read: list[int] = []

    def some(offset: int, count: int) -> bytes:
        read.append(count)
        return bytes(count)

    total = sum(len(p) for p in serve(ChunkRequest("victim", "t", 0, chunk, chunks), size, some))
    assert sum(read) <= MAX_REQUEST_BYTES
    assert total <= MAX_REQUEST_BYTES + 64 * 200
    assert max(read) <= chunk


@pytest.mark.parametrize("offset", [1000, 1001, 2**63])
def test_a_request_beyond_the_end_gives_nothing(offset: int) -> None:
    assert list(serve(ChunkRequest("n1", "t", offset, 10, 64), 1000, lambda at, count: bytes(count))) == []


def test_the_last_chunk_is_what_is_left() -> None:
    payloads = list(serve(ChunkRequest("n1", "t", 950, 100, 8), 1000, lambda at, count: bytes(count)))
    assert [(c.offset, len(c.data), c.total) for c in map(decode_chunk, payloads)] == [(950, 50, 1000)]


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
    offset=st.integers(0, 2**60),
    data=st.binary(max_size=300),
    rest=st.integers(0, 2**60),
)
def test_chunk_round_trip(name: str, offset: int, data: bytes, rest: int) -> None:
    chunk = Chunk(name, offset, offset + len(data) + rest, data)
    assert decode_chunk(encode_chunk(chunk)) == chunk


GOOD = encode_chunk(Chunk("t1", 10, 100, b"data"))


@pytest.mark.parametrize(
    ("what", "payload"),
    [
        ("at least 56", b""),
        ("at least 56", GOOD[:55]),
        ("expected b'SMQA'", b"SMQF" + GOOD[4:]),
        ("version 2", GOOD[:4] + b"\2" + GOOD[5:]),
        ("version", GOOD[:6] + b"\1" + GOOD[7:]),
        ("transaction id of 0", GOOD[:5] + b"\0" + GOOD[6:]),
        ("transaction id of 65", GOOD[:5] + b"\x41" + GOOD[6:]),
        ("transaction id of 64", GOOD[:5] + b"\x40" + GOOD[6:]),
        ("not ASCII", GOOD[:56] + b"\xff" + GOOD[57:]),
        ("artifact of 13", GOOD[:16] + (13).to_bytes(8, "big") + GOOD[24:]),
        ("artifact of 100", GOOD[:8] + b"\xff" * 8 + GOOD[16:]),
        ("SHA-256", GOOD + b"x"),
        ("SHA-256", GOOD[:-1]),
    ],
)
def test_a_chunk_that_lies_is_refused(what: str, payload: bytes) -> None:
    with pytest.raises(ArtifactError, match=what):
        decode_chunk(payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_chunks_are_refused(payload: bytes, sound_head: bool) -> None:
    with pytest.raises(ArtifactError):
        decode_chunk(b"SMQA\1\2\0\0" + payload if sound_head else payload)
