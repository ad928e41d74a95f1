"""The active coordinator's side of standbys: what they must hold, told and kept ready to be fetched (rule 22)."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from coordinator.artifacts import ArtifactStore
from coordinator.store import Store
from slicemq.errors import ProtocolError, StoreError
from slicemq.messages import Artifact, Stamp, decode, encode
from slicemq.operations import MOST_MIRRORED, Mirror, StandbyState
from slicemq.topics import Topics

logger = logging.getLogger("slicemq.coordinator.mirror")

DEBOUNCE = 0.3
"""Seconds that changes of the store are gathered for before standbys are told."""
SHOWN = 30.0
"""Seconds for which the state of a standby that has ended stays (rule 15)."""
_MOST_STANDBYS = 64
_FILE = "mirror.json"


class Mirroring:
    """Publishes `coordinator/mirror` while a standby is known; clears what ended standbys leave behind."""

    def __init__(
        self,
        folder: Path,
        artifacts: ArtifactStore,
        topics: Topics,
        own: Callable[[str, bytes], None],
        clear: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._store = Store(folder)
        self._artifacts = artifacts
        self._topics = topics
        self._own = own
        self._clear = clear
        self._live: set[str] = set()
        self._ended: dict[str, float] = {}
        self._due = math.inf
        self._mirror: Mirror | None = None

    @property
    def keep(self) -> set[str]:
        """The hash of the store's copy that standbys may be fetching."""
        return {self._mirror.store.sha256} if self._mirror is not None else set()

    def changed(self, now: float) -> None:
        """The store was written."""
        if self._live:
            self._due = min(self._due, now + DEBOUNCE)

    def on_standby(self, now: float, topic: str, payload: bytes) -> None:
        """A standby's document came. Raises ProtocolError for one that is not what the contract says."""
        instance = self._topics.parts(topic)[-1]
        if not payload:
            # Absence means nothing (rule 15).
            return
        document = decode(StandbyState, payload, topic)
        if document.instance != instance:
            raise ProtocolError(f"{topic}: field instance: expected {instance!r}, got {document.instance[:80]!r}")
        if document.state in ("disconnected", "lost"):
            self._live.discard(instance)
            if len(self._ended) < _MOST_STANDBYS:
                self._ended.setdefault(instance, now)
            return
        self._ended.pop(instance, None)
        if instance not in self._live and len(self._live) < _MOST_STANDBYS:
            logger.info("standby %s is %s", instance[:8], document.state)
            self._live.add(instance)
            self.changed(now)

    def tick(self, now: float, needed: Callable[[], Iterable[str]], stamp: Callable[[], Stamp]) -> None:
        """Do what is due. `needed` gives the hashes of all files that intents and revisions need."""
        for instance in [one for one, since in self._ended.items() if now - since > SHOWN]:
            del self._ended[instance]
            self._clear(self._topics.standby(instance))
        if now < self._due:
            return
        self._due = math.inf
        try:
            self._publish(needed(), stamp)
        except StoreError as error:
            logger.warning("standbys are not told of a change: %s", error)
            self._due = now + 5.0

    def _publish(self, needed: Iterable[str], stamp: Callable[[], Stamp]) -> None:
        content = self._store.content()
        if content is None:
            return
        store = self._artifacts.put(content)
        sizes = ((sha256, self._artifacts.size(sha256)) for sha256 in sorted(set(needed)))
        files = tuple(Artifact(sha256, size) for sha256, size in sizes if size)[:MOST_MIRRORED]
        before = self._mirror
        if before is not None and (before.store, before.files) == (store, files):
            return
        mirror = Mirror(stamp(), store, files)
        keep_mirror(self._folder, mirror)
        self._own(self._topics.mirror, encode(mirror))
        # Only what was told is known: what fails before is tried again.
        self._mirror = mirror
        if before is not None and before.store != store:
            # Who fetches the one before is told of the next.
            self._artifacts.drop(before.store.sha256)


def keep_mirror(folder: Path, mirror: Mirror) -> None:
    """Note that the store in the folder is the one of this mirror. Raises StoreError."""
    path = folder / _FILE
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(encode(mirror))
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def prune_mirrored(artifacts: ArtifactStore, mirror: Mirror) -> list[str]:
    """Delete what this mirror does not name and nobody used for an hour; the hashes that were deleted."""
    return artifacts.prune({mirror.store.sha256, *(file.sha256 for file in mirror.files)})


def kept_mirror(folder: Path, artifacts: ArtifactStore) -> Mirror | None:
    """The mirror that the folder holds as a whole: its very store and all of its files; None for none."""
    path = folder / _FILE
    try:
        mirror = decode(Mirror, path.read_bytes(), str(path))
        content = Store(folder).content()
    except (OSError, ProtocolError, StoreError):
        return None
    if content is None or hashlib.sha256(content).hexdigest() != mirror.store.sha256:
        return None
    return mirror if all(artifacts.holds(file) for file in mirror.files) else None
