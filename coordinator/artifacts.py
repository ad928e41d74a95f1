"""The coordinator's artifacts: files named by their SHA-256, and downloads into them that can be resumed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Collection
from pathlib import Path

from slicemq.errors import ArtifactError, StoreError
from slicemq.messages import Artifact
from slicemq.topics import is_sha256

_BLOCK = 1 << 20
_KEPT_FREE = 16_000_000
"""Bytes of the disk that no download takes; of a small disk a sixteenth."""


class ArtifactStore:
    """Files `<folder>/<sha256>`; `<sha256>.part` is a download that is not finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}") from error

    def path(self, sha256: str) -> Path:
        """Where the artifact is, or would be."""
        if not is_sha256(sha256):
            raise ArtifactError(f"{sha256[:80]!r} is not a SHA-256 in lower-case hex")
        return self._folder / sha256

    def size(self, sha256: str) -> int | None:
        """The artifact's size in bytes, or None when it is not here."""
        try:
            return self.path(sha256).stat().st_size
        except OSError:
            return None

    def put(self, data: bytes | memoryview) -> Artifact:
        """Store `data` under its hash. Raises StoreError (a full disk); nothing half-written stays."""
        artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data))
        path = self.path(artifact.sha256)
        if self.size(artifact.sha256) == artifact.size:
            # Where nothing can be written, nothing is pruned either.
            with contextlib.suppress(OSError):
                os.utime(path)
            return artifact
        # Two processes may cut the same slice at once.
        temporary = path.with_suffix(f".{os.getpid()}.new")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StoreError(f"{path}: {error.strerror}") from error
        return artifact

    def read(self, sha256: str, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`."""
        try:
            with open(self.path(sha256), "rb") as file:
                file.seek(offset)
                return file.read(count)
        except OSError as error:
            raise StoreError(f"{self.path(sha256)}: {error.strerror}") from error

    def partial_size(self, artifact: Artifact) -> int:
        """How many bytes of an unfinished download are kept."""
        try:
            kept = self.path(artifact.sha256).with_suffix(".part").stat().st_size
        except OSError:
            return 0
        return kept if kept <= artifact.size else 0

    def check_room(self, artifact: Artifact) -> None:
        """Raise StoreError unless what lacks of a download fits on the disk beside the coordinator's state.

        A download that filled the disk would keep the coordinator from storing, and so from deciding, anything.
        """
        path = self.path(artifact.sha256)
        try:
            disk = os.statvfs(self._folder)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        lacks = artifact.size - self.partial_size(artifact)
        kept_free = min(_KEPT_FREE, total // 16)
        # Some network file systems do not say what they have.
        if total > 0 and lacks + kept_free > free:
            raise StoreError(
                f"{path}: {os.strerror(errno.ENOSPC)}: it takes {lacks / 1e6:.1f} MB, {free / 1e6:.1f} MB are "
                f"free and {kept_free / 1e6:.1f} MB of them stay free for the coordinator's state"
            )

    def append(self, artifact: Artifact, offset: int, data: bytes) -> None:
        """Add bytes to an unfinished download. Raises StoreError; the bytes before them stay."""
        part = self.path(artifact.sha256).with_suffix(".part")
        try:
            with open(part, "r+b" if part.exists() else "wb") as file:
                file.seek(offset)
                file.write(data)
                file.truncate()
        except OSError as error:
            raise StoreError(f"{part}: {error.strerror}") from error

    def finish(self, artifact: Artifact) -> Path:
        """Check a complete download and name it. Raises ArtifactError, and drops it, if it does not match."""
        path = self.path(artifact.sha256)
        part = path.with_suffix(".part")
        digest = hashlib.sha256()
        try:
            with open(part, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                os.fsync(file.fileno())
            if digest.hexdigest() != artifact.sha256:
                part.unlink()
                raise ArtifactError(
                    f"artifact {artifact.sha256[:12]}: what came has SHA-256 {digest.hexdigest()[:12]}; dropped"
                )
            os.replace(part, path)
        except OSError as error:
            raise StoreError(f"{part}: {error.strerror}") from error
        return path

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact is here with its very bytes; a damaged one is deleted. Reads the whole file."""
        path = self.path(artifact.sha256)
        if self.size(artifact.sha256) is None:
            return False
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
            if digest.hexdigest() == artifact.sha256:
                return True
            path.unlink()
        except OSError:
            return False
        return False

    def drop(self, sha256: str) -> None:
        """Delete an artifact that nobody needs any more."""
        with contextlib.suppress(OSError):
            self.path(sha256).unlink()

    def prune(self, keep: Collection[str], older_than: float = 3600.0) -> list[str]:
        """Delete what is not in `keep` and was not used for `older_than` seconds; returns the names deleted."""
        deleted = []
        horizon = time.time() - older_than
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return []
        for path in paths:
            if path.name.split(".")[0] in keep:
                continue
            try:
                if path.stat().st_mtime < horizon:
                    path.unlink()
                    deleted.append(path.name)
            except OSError:
                continue
        return deleted
