"""Downloads into a real cache from a sender that misbehaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_node import fetcher as fetcher_module
from edge_node.cache import Cache
from edge_node.events import Fetched, FetchFailed
from edge_node.fetcher import Fetcher
from slicemq.messages import Artifact, ChunkRequest
from slicemq.transfer import CHUNK_BYTES, Download, serve
from tests.waiting import eventually, never

DATA = bytes(range(256)) * (CHUNK_BYTES // 256) * 20 + b"tail"
ARTIFACT = Artifact(hashlib.sha256(DATA).hexdigest(), len(DATA))


class Sender:
    """Answers requests; `change` may drop or spoil payloads."""

    def __init__(self) -> None:
        self.data = DATA
        self.asked: list[ChunkRequest] = []
        self.events: list[Fetched | FetchFailed] = []
        self.change: Callable[[int, bytes], bytes | None] = lambda _, payload: payload
        self.sent = 0
        self.fetcher: Fetcher | None = None

    def ask(self, sha256: str, request: ChunkRequest) -> None:
        assert self.fetcher is not None
        self.asked.append(request)
        for payload in serve(request, len(self.data), lambda o, n: self.data[o : o + n]):
            changed = self.change(self.sent, payload)
            self.sent += 1
            if changed is not None:
                self.fetcher.on_chunk(sha256, changed)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "artifacts", 10_000_000)


@pytest.fixture
def sender(cache: Cache) -> Iterator[Sender]:
    sender = Sender()
    sender.fetcher = Fetcher(cache, "n1", sender.ask, sender.events.append)
    sender.fetcher.start()
    yield sender
    sender.fetcher.stop()


def fetch(sender: Sender, artifact: Artifact = ARTIFACT, timeout: float = 10.0) -> Fetched | FetchFailed:
    assert sender.fetcher is not None
    before = len(sender.events)
    sender.fetcher.fetch(artifact, frozenset())
    eventually(lambda: len(sender.events) > before, timeout)
    return sender.events[-1]


def test_an_artifact_comes_in_and_is_not_asked_for_again(sender: Sender, cache: Cache) -> None:
    assert fetch(sender) == Fetched(ARTIFACT.sha256)
    assert cache.path(ARTIFACT.sha256).read_bytes() == DATA
    asked = len(sender.asked)
    assert fetch(sender) == Fetched(ARTIFACT.sha256)
    assert len(sender.asked) == asked


def test_a_file_that_has_rotted_is_fetched_anew(sender: Sender, cache: Cache) -> None:
    fetch(sender)
    cache.path(ARTIFACT.sha256).write_bytes(b"\0" * len(DATA))
    assert fetch(sender) == Fetched(ARTIFACT.sha256)
    assert cache.path(ARTIFACT.sha256).read_bytes() == DATA


def test_lost_and_spoilt_chunks_are_asked_for_again(sender: Sender, cache: Cache) -> None:
    def change(number: int, payload: bytes) -> bytes | None:
        if number in (3, 12):
            return None
        return payload[:-1] + b"\xff" if number == 7 else payload

    sender.change = change
    assert fetch(sender, timeout=20) == Fetched(ARTIFACT.sha256)
    assert cache.path(ARTIFACT.sha256).read_bytes() == DATA


def test_a_transfer_goes_on_from_what_was_kept(sender: Sender, cache: Cache) -> None:
    kept = 5 * CHUNK_BYTES + 17
    cache.append(ARTIFACT, 0, DATA[:kept])
    assert fetch(sender) == Fetched(ARTIFACT.sha256)
    assert sender.asked[0].offset == kept


def test_kept_bytes_that_were_wrong_are_not_kept_twice(sender: Sender, cache: Cache) -> None:
    cache.append(ARTIFACT, 0, b"\0" * CHUNK_BYTES)
    failed = fetch(sender)
    assert isinstance(failed, FetchFailed)
    assert not failed.final
    assert "do not match" in failed.reason
    assert fetch(sender) == Fetched(ARTIFACT.sha256)


def test_a_sender_whose_bytes_never_match_is_given_up(sender: Sender, cache: Cache) -> None:
    sender.data = DATA[:-1] + b"!"
    outcomes = [fetch(sender) for _ in range(3)]
    assert [isinstance(one, FetchFailed) and one.final for one in outcomes] == [False, False, True]
    assert cache.hashes() == ()


def test_no_room_is_final_and_says_so(sender: Sender) -> None:
    failed = fetch(sender, Artifact("f" * 64, 20_000_000))
    assert isinstance(failed, FetchFailed)
    assert failed.final
    assert "the cache holds 10.0 MB" in failed.reason
    assert sender.asked == []


def test_a_silent_sender_is_asked_again_and_given_up_for_now(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher_module, "Download", lambda *a, **k: Download(*a, **k, retry=0.1, patience=1.0))
    sender.change = lambda *_: None
    failed = fetch(sender)
    assert isinstance(failed, FetchFailed)
    assert not failed.final
    assert "no chunk for 1 s" in failed.reason
    assert len(sender.asked) >= 2


def test_a_cancelled_download_asks_no_more_and_keeps_its_bytes(sender: Sender, cache: Cache) -> None:
    sender.change = lambda number, payload: payload if number < 4 else None
    assert sender.fetcher is not None
    sender.fetcher.fetch(ARTIFACT, frozenset())
    eventually(lambda: cache.offset(ARTIFACT) == 4 * CHUNK_BYTES)
    sender.fetcher.cancel(ARTIFACT.sha256)
    eventually(lambda: not sender.fetcher._downloads)  # type: ignore[union-attr]
    asked = len(sender.asked)
    never(lambda: len(sender.asked) > asked, 1.5)
    assert cache.offset(ARTIFACT) == 4 * CHUNK_BYTES
    assert sender.events == []


def test_chunks_that_nobody_waits_for_are_ignored(sender: Sender, cache: Cache) -> None:
    assert sender.fetcher is not None
    sender.fetcher.on_chunk("e" * 64, b"nonsense")
    assert fetch(sender) == Fetched(ARTIFACT.sha256)
    assert cache.hashes() == (ARTIFACT.sha256,)
