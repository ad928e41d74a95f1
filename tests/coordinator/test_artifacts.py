"""The coordinator's artifacts and their transfers: resumed, checked, and never deleted while in use."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.artifacts import ArtifactStore
from coordinator.downloads import Exchange
from slicemq.errors import ArtifactError, SliceMQError, StoreError
from slicemq.messages import Artifact, ChunkRequest, decode, encode
from slicemq.topics import Topics
from slicemq.transfer import serve

TOPICS = Topics("lab")
DATA = bytes(range(256)) * 2000
ARTIFACT = Artifact(hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def test_put_read_and_wrong_names(store: ArtifactStore) -> None:
    assert store.put(DATA) == ARTIFACT == store.put(memoryview(DATA))
    assert store.size(ARTIFACT.sha256) == len(DATA)
    assert store.read(ARTIFACT.sha256, 250, 10) == DATA[250:260]
    assert store.read(ARTIFACT.sha256, len(DATA), 10) == b""
    with pytest.raises(ArtifactError, match="not a SHA-256"):
        store.path("../state.json")
    with pytest.raises(StoreError):
        store.read("0" * 64, 0, 1)


def test_a_disk_that_has_become_read_only_raises_what_is_waited_for(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standbys are told of the store on the thread that coordinates: nothing else may come out there."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store.put(DATA)
    monkeypatch.setattr(os, "utime", refuse)
    assert store.put(DATA) == ARTIFACT
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match="Read-only"):
        store.put(b"another")


def test_a_download_leaves_room_for_the_state(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 24 needs it: a coordinator that cannot store decides nothing."""
    real = os.statvfs(".")
    free = len(DATA) + 100

    def small(path: object) -> os.statvfs_result:
        blocks = {"f_frsize": 1, "f_bavail": free, "f_blocks": 1600}
        names = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "flag", "namemax")
        return os.statvfs_result([blocks.get(f"f_{name}", getattr(real, f"f_{name}")) for name in names])

    monkeypatch.setattr(os, "statvfs", small)
    sent: list[str] = []

    def send(topic: str, payload: bytes) -> bool:
        sent.append(topic)
        return True

    exchange = Exchange(store, TOPICS, "coordinator-1", send)
    store.check_room(ARTIFACT)
    free -= 1
    with pytest.raises(StoreError, match=r"No space left on device: it takes 0\.5 MB, 0\.5 MB are free"):
        exchange.fetch(ARTIFACT)
    exchange.stop()
    assert sent == []
    assert store.partial_size(ARTIFACT) == 0
    store.append(ARTIFACT, 0, DATA[:1000])
    store.check_room(ARTIFACT)


def test_a_download_goes_on_where_it_was_and_a_wrong_one_is_dropped(store: ArtifactStore) -> None:
    store.append(ARTIFACT, 0, DATA[:1000])
    assert store.partial_size(ARTIFACT) == 1000
    store.append(ARTIFACT, 1000, DATA[1000:])
    assert store.finish(ARTIFACT).read_bytes() == DATA
    store.append(ARTIFACT, 0, DATA + b"too long")
    assert store.partial_size(ARTIFACT) == 0
    with pytest.raises(ArtifactError, match="dropped"):
        store.finish(ARTIFACT)
    with pytest.raises(StoreError):
        store.finish(ARTIFACT)


def test_prune_deletes_only_what_is_old_and_not_in_use(store: ArtifactStore, tmp_path: Path) -> None:
    used, old, new = store.put(b"used"), store.put(b"old"), store.put(b"new")
    running = Artifact("1" * 64, 10)
    store.append(running, 0, b"12345")
    for name in (used.sha256, old.sha256):
        os.utime(store.path(name), (0, 0))
    assert store.prune({used.sha256}) == [old.sha256]
    assert store.size(used.sha256)
    assert store.size(new.sha256)
    assert store.partial_size(running) == 5
    os.utime(store.path(running.sha256).with_suffix(".part"), (0, 0))
    assert store.prune({used.sha256, running.sha256}) == []
    for path in store.path(new.sha256).parent.iterdir():
        path.unlink()
    store.path(new.sha256).parent.rmdir()
    assert store.prune(set()) == []


class Sender:
    """Answers an exchange's requests in place, with what a test makes of each chunk."""

    def __init__(self, store: ArtifactStore, data: bytes = DATA) -> None:
        self.data = data
        self.requests: list[ChunkRequest] = []
        self.lose = 0
        self.silent = False
        self.exchange = Exchange(store, TOPICS, "coordinator-1", self.send)

    def send(self, topic: str, payload: bytes) -> bool:
        request = decode(ChunkRequest, payload, topic)
        self.requests.append(request)
        if self.silent:
            return True
        for number, chunk in enumerate(serve(request, len(self.data), lambda o, n: self.data[o : o + n])):
            if self.lose and number == 1:
                self.lose -= 1
                continue
            self.exchange.on_message(TOPICS.artifact_chunks(ARTIFACT.sha256, "coordinator-1"), chunk)
        return True


@pytest.fixture
def sender(store: ArtifactStore) -> Iterator[Sender]:
    made = Sender(store)
    yield made
    made.exchange.stop()


def test_fetch_resumes_and_survives_loss_and_noise(sender: Sender, store: ArtifactStore) -> None:
    store.append(ARTIFACT, 0, DATA[:300_000])
    sender.lose = 1
    sender.exchange.on_message(TOPICS.artifact_chunks(ARTIFACT.sha256, "coordinator-1"), b"noise")
    assert sender.exchange.fetch(ARTIFACT).read_bytes() == DATA
    assert sender.requests[0].offset == 300_000
    before = len(sender.requests)
    assert sender.exchange.fetch(ARTIFACT) == store.path(ARTIFACT.sha256)
    assert len(sender.requests) == before


def test_a_partial_download_larger_than_the_artifact_begins_anew(sender: Sender, store: ArtifactStore) -> None:
    store.append(ARTIFACT, 0, bytes(len(DATA) + 1))
    assert sender.exchange.fetch(ARTIFACT).read_bytes() == DATA


def test_a_damaged_partial_download_is_dropped_and_fetched_anew(sender: Sender, store: ArtifactStore) -> None:
    store.append(ARTIFACT, 0, bytes(len(DATA)))
    assert sender.exchange.fetch(ARTIFACT).read_bytes() == DATA
    assert sender.requests[0].offset == 0


def test_what_does_not_match_three_times_is_given_up(sender: Sender, store: ArtifactStore) -> None:
    sender.data = bytes(len(DATA))
    with pytest.raises(ArtifactError, match=ARTIFACT.sha256[:12]):
        sender.exchange.fetch(ARTIFACT)
    assert sum(request.offset == 0 for request in sender.requests) == 3
    assert store.partial_size(ARTIFACT) == 0
    assert store.size(ARTIFACT.sha256) is None


def test_nobody_sends(sender: Sender) -> None:
    sender.silent = True
    with pytest.raises(ArtifactError, match=r"no chunk for 0\.1 s at 0"):
        sender.exchange.fetch(ARTIFACT, patience=0.1)


def test_stop_ends_a_fetch_and_the_thread(sender: Sender) -> None:
    sender.silent = True
    ended: list[SliceMQError] = []

    def fetch() -> None:
        try:
            sender.exchange.fetch(ARTIFACT)
        except SliceMQError as error:
            ended.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    sender.exchange.stop()
    thread.join(5.0)
    assert not thread.is_alive()
    assert len(ended) == 1


def test_serves_what_it_has_and_refuses_strange_topics(store: ArtifactStore) -> None:
    store.put(DATA)
    sent: list[str] = []
    all_sent = threading.Event()

    def send(topic: str, payload: bytes) -> bool:
        sent.append(topic)
        if len(sent) == 3:
            all_sent.set()
        return True

    exchange = Exchange(store, TOPICS, "coordinator-1", send)
    try:
        ask = encode(ChunkRequest("pi-1", "t", 0, 1000, 3))
        exchange.on_message(TOPICS.artifact_request("0" * 64), ask)
        exchange.on_message(TOPICS.artifact_request(ARTIFACT.sha256), ask)
        assert all_sent.wait(5.0)
        assert set(sent) == {TOPICS.artifact_chunks(ARTIFACT.sha256, "pi-1")}
        for leaf in ("artifacts", "artifacts/x/request", f"artifacts/{ARTIFACT.sha256}", "artifacts/a/b/c"):
            with pytest.raises(ArtifactError, match="expected artifacts/<SHA-256>"):
                exchange.on_message(f"{TOPICS.prefix}/{leaf}", ask)
    finally:
        exchange.stop()
