"""The slice cache on disk: `<state_dir>/artifacts/<sha256>`, with `<sha256>.part` while a file comes in.

A file under its own name is whole: it was checked against its name and synced before it was renamed. It is
checked again before each load, because disks of small boards rot.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from slicemq.errors import ArtifactError, StoreError
from slicemq.messages import Artifact
from slicemq.topics import is_sha256

_BLOCK = 1 << 18


class Cache:
    """Content-addressed files in `folder`, at most `limit` bytes, partial ones counted. For one thread."""

    def __init__(self, folder: Path, limit: int, *, now: Callable[[], float] = time.time) -> None:
        """Raises StoreError when the folder cannot be made or written."""
        self._folder = folder
        self._limit = limit
        self._now = now
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made: {error.strerror or error}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StoreError(f"{folder}: cannot be written")

    def path(self, sha256: str) -> Path:
        """Where the whole artifact lies or would lie."""
        if not is_sha256(sha256):
            raise StoreError(f"{sha256[:80]!r} is not a SHA-256")
        return self._folder / sha256

    def hashes(self) -> tuple[str, ...]:
        """The whole artifacts in the cache, in order of their names."""
        return tuple(sorted(path.name for path in self._files() if is_sha256(path.name)))

    def offset(self, artifact: Artifact) -> int:
        """How many bytes of the artifact an earlier try has left; more than it can have are thrown away."""
        part = self._part(artifact.sha256)
        size = _size(part)
        if size > artifact.size:
            _remove(part)
            return 0
        return size

    def has(self, artifact: Artifact) -> bool:
        """Whether the whole file is there; what it holds is not looked at."""
        return _size(self.path(artifact.sha256)) == artifact.size

    def verified(self, artifact: Artifact) -> Path | None:
        """The file when it is there and matches its hash, and mark it used; a damaged one is removed."""
        path = self.path(artifact.sha256)
        if not path.exists():
            return None
        if _size(path) != artifact.size or _hash(path) != artifact.sha256:
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path, (self._now(), self._now()))
        return path

    def make_room(
        self, artifact: Artifact, keep: Iterable[str], reserved: int = 0, last: Iterable[str] = ()
    ) -> None:
        """Remove what was used longest ago, except `keep`, until the artifact fits. Raises StoreError.

        `reserved` bytes are promised to files that are still coming in; the files `last` go after all others.
        """
        if artifact.size > self._limit:
            raise StoreError(f"artifact of {_mb(artifact.size)} MB, the cache holds {_mb(self._limit)} MB")
        kept = {*keep, artifact.sha256}
        others = [path for path in self._files() if path.name.split(".")[0] != artifact.sha256]
        used = reserved + sum(_size(path) for path in others)
        late = set(last)
        for path in sorted(others, key=lambda path: (path.name.split(".")[0] in late, _last_used(path))):
            if used + artifact.size <= self._limit:
                return
            if path.name.split(".")[0] not in kept:
                used -= _size(path)
                _remove(path)
        if used + artifact.size > self._limit:
            raise StoreError(
                f"artifact of {_mb(artifact.size)} MB: {_mb(used)} of the cache's {_mb(self._limit)} MB are in use"
            )

    def append(self, artifact: Artifact, offset: int, data: bytes) -> None:
        """Write `data` at `offset` of the partial file; raises StoreError (a full disk: the part is removed)."""
        part = self._part(artifact.sha256)
        try:
            with open(part, "r+b" if part.exists() else "w+b") as file:
                file.seek(offset)
                file.write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _remove(part)
                raise StoreError(f"{self._folder}: the disk is full") from error
            raise StoreError(f"{part}: cannot be written: {error.strerror or error}") from error

    def finish(self, artifact: Artifact) -> Path:
        """Check the partial file's hash and give it its name; raises ArtifactError (it is removed), StoreError."""
        part, path = self._part(artifact.sha256), self.path(artifact.sha256)
        try:
            if _size(part) != artifact.size or _hash(part) != artifact.sha256:
                _remove(part)
                raise ArtifactError(f"artifact {artifact.sha256[:12]}: the bytes that came do not match its hash")
            with open(part, "r+b") as file:
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
        return path

    def discard(self, artifact: Artifact) -> None:
        """Remove the partial file."""
        _remove(self._part(artifact.sha256))

    def _part(self, sha256: str) -> Path:
        return self.path(sha256).with_name(f"{sha256}.part")

    def _files(self) -> list[Path]:
        try:
            return [path for path in self._folder.iterdir() if is_sha256(path.name.removesuffix(".part"))]
        except OSError as error:
            raise StoreError(f"{self._folder}: cannot be read: {error.strerror or error}") from error


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"
