"""The slice cache on a real folder."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from edge_node.cache import Cache
from slicemq.errors import ArtifactError, StoreError
from slicemq.messages import Artifact


def blob(text: str, size: int = 100) -> tuple[Artifact, bytes]:
    data = (text.encode() * size)[:size]
    return Artifact(hashlib.sha256(data).hexdigest(), size), data


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "deep" / "artifacts", 350, now=Clock())


def put(cache: Cache, text: str) -> Artifact:
    artifact, data = blob(text)
    cache.make_room(artifact, [])
    cache.append(artifact, 0, data)
    cache.finish(artifact)
    assert cache.verified(artifact)
    return artifact


def test_a_file_comes_in_pieces_and_is_whole_only_after_its_hash_was_checked(cache: Cache) -> None:
    artifact, data = blob("x")
    assert cache.offset(artifact) == 0
    cache.append(artifact, 0, data[:60])
    assert cache.offset(artifact) == 60
    assert cache.hashes() == ()
    assert cache.verified(artifact) is None
    cache.append(artifact, 60, data[60:])
    path = cache.finish(artifact)
    assert path.read_bytes() == data
    assert cache.hashes() == (artifact.sha256,)
    assert cache.verified(artifact) == path
    assert [p.name for p in path.parent.iterdir()] == [artifact.sha256], "no partial file is left"


def test_a_partial_file_survives_a_restart(cache: Cache, tmp_path: Path) -> None:
    artifact, data = blob("x")
    cache.append(artifact, 0, data[:60])
    again = Cache(tmp_path / "deep" / "artifacts", 350)
    assert again.offset(artifact) == 60


def test_more_bytes_than_the_artifact_has_are_thrown_away(cache: Cache) -> None:
    artifact, data = blob("x")
    cache.append(artifact, 0, data + b"more")
    assert cache.offset(artifact) == 0


@pytest.mark.parametrize("wrong", ["flipped", "short"])
def test_wrong_bytes_do_not_become_a_file(cache: Cache, wrong: str) -> None:
    artifact, data = blob("x")
    cache.append(artifact, 0, data[:-1] if wrong == "short" else b"y" + data[1:])
    with pytest.raises(ArtifactError, match=artifact.sha256[:12]):
        cache.finish(artifact)
    assert cache.offset(artifact) == 0
    assert cache.hashes() == ()


def test_a_file_that_rots_on_the_disk_is_found_and_removed_before_a_load(cache: Cache) -> None:
    artifact = put(cache, "x")
    path = cache.path(artifact.sha256)
    path.write_bytes(b"z" + path.read_bytes()[1:])
    assert cache.verified(artifact) is None
    assert not path.exists()


def test_the_least_recently_used_goes_first_but_nothing_that_is_kept(cache: Cache) -> None:
    first, second, third = put(cache, "a"), put(cache, "b"), put(cache, "c")
    assert cache.verified(first), "used again: now the youngest"
    fourth, _ = blob("d")
    cache.make_room(fourth, [second.sha256])
    assert set(cache.hashes()) == {first.sha256, second.sha256}
    assert third.sha256 not in cache.hashes()


def test_when_everything_is_in_use_there_is_no_room(cache: Cache) -> None:
    kept = [put(cache, text).sha256 for text in "abc"]
    with pytest.raises(StoreError, match="in use"):
        cache.make_room(blob("d")[0], kept)
    assert len(cache.hashes()) == 3
    with pytest.raises(StoreError, match="the cache holds"):
        cache.make_room(blob("e", 400)[0], [])


def test_what_is_still_coming_in_has_its_place_reserved(cache: Cache) -> None:
    put(cache, "a")
    cache.make_room(blob("d")[0], [], reserved=200)
    assert cache.hashes() == ()
    with pytest.raises(StoreError):
        cache.make_room(blob("d")[0], [], reserved=300)


def test_left_over_partial_files_count_and_go(cache: Cache) -> None:
    for text in "abc":
        artifact, data = blob(text)
        cache.append(artifact, 0, data)
    cache.make_room(blob("d")[0], [])
    assert sum(cache.offset(blob(text)[0]) > 0 for text in "abc") == 2


def test_a_full_disk_is_said_and_the_partial_file_is_removed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, data = blob("x")
    cache.append(artifact, 0, data[:50])

    class Full:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None: ...
        def seek(self, _: int) -> None: ...
        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open", Full)
    with pytest.raises(StoreError, match="the disk is full"):
        cache.append(artifact, 50, data[50:])
    monkeypatch.undo()
    assert cache.offset(artifact) == 0


def test_strange_names_are_neither_read_nor_removed(cache: Cache, tmp_path: Path) -> None:
    stranger = tmp_path / "deep" / "artifacts" / "notes.txt"
    stranger.write_text("x" * 1000)
    put(cache, "a")
    assert stranger.exists()
    with pytest.raises(StoreError, match="not a SHA-256"):
        cache.path("../../etc/passwd")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Cache(tmp_path / "file" / "artifacts", 100)
