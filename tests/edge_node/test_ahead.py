"""Files fetched ahead: which is next, how fast, and when not. Then with a real cache and thread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.ahead import FIRST_PAUSE, LONGEST_PAUSE, Ahead
from edge_node.cache import Cache
from edge_node.events import Fetched, FetchFailed, Prefetch
from edge_node.fetcher import Fetcher
from slicemq.errors import ArtifactError
from slicemq.messages import Artifact, ChunkRequest
from slicemq.transfer import CHUNK_BYTES, serve
from tests.waiting import eventually, never

NOBODY: frozenset[str] = frozenset()


def file(number: int, size: int = 300_000) -> tuple[Artifact, bytes]:
    data = bytes([number]) * size
    return Artifact(hashlib.sha256(data).hexdigest(), size), data


def served(request: ChunkRequest, data: bytes) -> bytes:
    payload, *_ = serve(request, len(data), lambda offset, count: data[offset : offset + count])
    return payload


def test_the_next_part_is_asked_for_when_the_rate_allows_it() -> None:
    artifact, data = file(1)
    ahead = Ahead("n1")
    ahead.want((artifact,), 100_000.0)
    assert ahead.next(0.0) == (artifact,)
    ahead.begin(artifact, "t", 0)
    assert ahead.next(0.0) == ()
    now = 10.0
    request = ahead.poll(now)
    came = 0
    while request is not None:
        assert request.chunks == 1
        offset, part = ahead.receive(now, served(request, data))
        assert offset == came
        came += len(part)
        if ahead.done:
            break
        assert ahead.poll(now + 0.9 * len(part) / 100_000) is None, "not before its time"
        now += len(part) / 100_000
        assert ahead.wait(now) == 0
        request = ahead.poll(now)
    assert came == len(data)
    assert 1.9 <= now - 10.0 <= 3.0
    ahead.has(artifact.sha256)
    assert ahead.wait(now) is None


def test_what_cannot_be_had_is_tried_again_later_each_time() -> None:
    (artifact, _), (other, _) = file(1), file(2)
    ahead = Ahead("n1")
    ahead.want((artifact, other), 0.0)
    now, pauses = 0.0, []
    for _ in range(9):
        assert ahead.next(now)[0] == artifact
        ahead.begin(artifact, "t", 0)
        ahead.poll(now)
        with pytest.raises(ArtifactError):
            ahead.poll(now + 31.0)
        ahead.failed(artifact.sha256, now)
        assert ahead.next(now) == (other,), "the others need not wait"
        pause = next(step for step in range(1, 4000) if artifact in ahead.next(now + step))
        pauses.append(pause)
        now += pause
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_what_is_not_wanted_any_more_is_given_up() -> None:
    (artifact, data), (other, _) = file(1), file(2)
    ahead = Ahead("n1")
    ahead.want((artifact,), 0.0)
    ahead.begin(artifact, "t", 0)
    request = ahead.poll(0.0)
    assert request is not None
    ahead.want((other,), 0.0)
    assert ahead.sha256 is None
    assert ahead.receive(0.1, served(request, data)) == (0, b"")
    assert ahead.next(0.1) == (other,)


class Store:
    """Answers requests at once; `absent` it does not have."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.told: list[Fetched | FetchFailed] = []
        self.fetcher: Fetcher | None = None

    def offer(self, *numbers: int) -> tuple[Artifact, ...]:
        made = [file(number) for number in numbers]
        self.files |= {artifact.sha256: data for artifact, data in made}
        return tuple(artifact for artifact, _ in made)

    def ask(self, sha256: str, request: ChunkRequest) -> None:
        assert self.fetcher is not None
        self.asked.append(sha256)
        if sha256 in self.files:
            data = self.files[sha256]
            for payload in serve(request, len(data), lambda offset, count: data[offset : offset + count]):
                self.fetcher.on_chunk(sha256, payload)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "artifacts", 1_000_000)


@pytest.fixture
def store(cache: Cache) -> Iterator[Store]:
    made = Store()
    made.fetcher = Fetcher(cache, "n1", made.ask, made.told.append)
    made.fetcher.start()
    yield made
    made.fetcher.stop()


def prefetch(store: Store, *artifacts: Artifact, rate: float = 0.0, assigned: frozenset[str] = NOBODY) -> None:
    assert store.fetcher is not None
    keep = frozenset(one.sha256 for one in artifacts)
    store.fetcher.prefetch(Prefetch(artifacts, rate, keep, assigned))


def test_files_come_in_order_and_are_told_of(store: Store, cache: Cache) -> None:
    wanted = store.offer(1, 2, 3)
    prefetch(store, *wanted)
    eventually(lambda: set(cache.hashes()) == {one.sha256 for one in wanted})
    assert list(dict.fromkeys(store.asked)) == [one.sha256 for one in wanted]
    eventually(lambda: store.told)
    assert all(isinstance(event, Fetched) for event in store.told)
    asked = len(store.asked)
    prefetch(store, *wanted)
    never(lambda: len(store.asked) > asked)


def test_a_file_that_comes_wrong_is_passed_over_quietly(
    store: Store, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    absent, _ = file(9)
    (there,) = store.offer(1)
    assert store.fetcher is not None
    store.files[absent.sha256] = b"\x08" * absent.size
    prefetch(store, absent, there)
    eventually(lambda: there.sha256 in cache.hashes())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert all(isinstance(event, Fetched) for event in store.told)


def test_what_is_assigned_or_kept_does_not_give_way_to_what_is_fetched_ahead(store: Store, cache: Cache) -> None:
    first, second, third, fourth = store.offer(1, 2, 3, 4)
    for one in (first, second):
        cache.append(one, 0, store.files[one.sha256])
        cache.finish(one)
    prefetch(store, second, third, fourth, assigned=frozenset({first.sha256}))
    eventually(lambda: third.sha256 in cache.hashes())
    never(lambda: fourth.sha256 in cache.hashes())
    assert {first.sha256, second.sha256} <= set(cache.hashes())


def test_a_real_fetch_comes_first_and_takes_the_room_of_what_came_ahead(store: Store, cache: Cache) -> None:
    first, second, third, urgent = store.offer(1, 2, 3, 4)
    prefetch(store, first, second, third, rate=1_000_000_000.0)
    eventually(lambda: len(cache.hashes()) == 3)
    assert store.fetcher is not None
    store.fetcher.fetch(urgent, frozenset({urgent.sha256}))
    eventually(lambda: Fetched(urgent.sha256) in store.told)
    assert urgent.sha256 in cache.hashes()


def test_a_slow_one_goes_on_where_a_real_fetch_interrupted_it(store: Store, cache: Cache) -> None:
    slow, urgent = store.offer(1, 2)
    prefetch(store, slow, rate=CHUNK_BYTES)
    eventually(lambda: cache.offset(slow) > 0)
    assert store.fetcher is not None
    store.fetcher.fetch(urgent, frozenset())
    eventually(lambda: Fetched(urgent.sha256) in store.told)
    assert slow.sha256 not in cache.hashes()
    assert cache.offset(slow) > 0
    eventually(lambda: slow.sha256 in cache.hashes(), 20.0)
