"""Brings artifacts into the cache: the thread around `Download` and `Cache`."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_node.ahead import Ahead
from edge_node.cache import Cache
from edge_node.events import Fetched, FetchFailed, Prefetch
from slicemq.errors import ArtifactError, StoreError
from slicemq.messages import Artifact, ChunkRequest
from slicemq.transfer import Download

logger = logging.getLogger("slicemq.node.fetch")

_POLL_SECONDS = 0.25
# Files that came ahead are told of together, so often.
_TELL_SECONDS = 5.0
# So often an artifact may come with a wrong hash before it counts as not to be had.
_MOST_MISMATCHES = 3
# Chunks that wait to be written: a request's worth is 8, the rest are repeats.
_MOST_WAITING = 256


@dataclass(frozen=True)
class _Chunk:
    sha256: str
    payload: bytes


@dataclass(frozen=True)
class _Want:
    artifact: Artifact
    keep: frozenset[str]


@dataclass(frozen=True)
class _Cancel:
    sha256: str


class Fetcher:
    """Downloads what it is told to. `ask` publishes a request; `tell` takes Fetched and FetchFailed."""

    def __init__(
        self,
        cache: Cache,
        node: str,
        ask: Callable[[str, ChunkRequest], None],
        tell: Callable[[Fetched | FetchFailed], None],
    ) -> None:
        self._cache = cache
        self._node = node
        self._ask = ask
        self._tell = tell
        self._inbox: queue.Queue[_Chunk | _Want | _Cancel | Prefetch | None] = queue.Queue()
        self._ahead = Ahead(node)
        self._kept = Prefetch((), 0.0, frozenset(), frozenset())
        self._came: str | None = None
        self._tell_at = 0.0
        self._downloads: dict[str, Download] = {}
        self._mismatches: dict[str, int] = {}
        self._thread = threading.Thread(target=self._loop, name="fetch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; partial files stay for the next time."""
        self._inbox.put(None)
        self._thread.join(5.0)

    def fetch(self, artifact: Artifact, keep: frozenset[str]) -> None:
        """Check that the artifact is in the cache, else download it; the cache does not remove `keep`."""
        self._inbox.put(_Want(artifact, keep))

    def prefetch(self, action: Prefetch) -> None:
        """From now on fetch these in idle time."""
        self._inbox.put(action)

    def cancel(self, sha256: str) -> None:
        """Give a download up."""
        self._inbox.put(_Cancel(sha256))

    def on_chunk(self, sha256: str, payload: bytes) -> None:
        """A chunk from the network, on the network thread."""
        if self._inbox.qsize() < _MOST_WAITING:
            self._inbox.put(_Chunk(sha256, payload))

    def _loop(self) -> None:
        while True:
            try:
                item = self._inbox.get(timeout=self._wait())
            except queue.Empty:
                item = _Cancel("")
            if item is None:
                return
            if isinstance(item, Prefetch):
                self._kept = item
                self._ahead.want(tuple(one for one in item.artifacts if not self._cache.has(one)), item.rate)
            elif isinstance(item, _Want):
                self._ahead.give_up()
                self._guarded(item.artifact.sha256, self._begin, item)
            elif isinstance(item, _Chunk) and item.sha256 == self._ahead.sha256:
                self._look_ahead(item)
            elif isinstance(item, _Chunk):
                self._guarded(item.sha256, self._chunk, item)
            elif item.sha256:
                self._downloads.pop(item.sha256, None)
            for sha256 in list(self._downloads):
                self._guarded(sha256, self._poll, sha256)
            if not self._downloads:
                self._look_ahead(None)

    def _wait(self) -> float | None:
        """Seconds until something is to be done that no message brings; None: there is nothing."""
        ahead = self._ahead.wait(time.monotonic())
        times = [_POLL_SECONDS] * bool(self._downloads or self._came) + ([] if ahead is None else [ahead])
        return min(times, default=None)

    def _look_ahead(self, chunk: _Chunk | None) -> None:
        """Go on with what is fetched in idle time. What goes wrong there is nobody's business."""
        now = time.monotonic()
        try:
            for artifact in self._ahead.next(now)[:1]:
                self._begin_ahead(artifact)
            artifact_now = self._ahead.artifact
            if chunk is not None and artifact_now is not None:
                self._take_ahead(artifact_now, chunk, now)
            request = self._ahead.poll(now)
            if request is not None and artifact_now is not None:
                self._ask(artifact_now.sha256, request)
            if self._ahead.done and artifact_now is not None:
                self._cache.finish(artifact_now)
                logger.info("fetched %s ahead", artifact_now.sha256[:12])
                self._ahead.has(artifact_now.sha256)
                self._came = artifact_now.sha256
        except (ArtifactError, StoreError) as error:
            logger.debug("not fetched ahead: %s", error)
            self._ahead.failed(self._ahead.sha256 or "", now)
        if self._came is not None and (self._ahead.sha256 is None or now >= self._tell_at):
            self._tell_at = now + _TELL_SECONDS
            came, self._came = self._came, None
            self._tell(Fetched(came))

    def _take_ahead(self, artifact: Artifact, chunk: _Chunk, now: float) -> None:
        try:
            offset, data = self._ahead.receive(now, chunk.payload)
        except ArtifactError as error:
            logger.debug("artifact %s: chunk dropped: %s", chunk.sha256[:12], error)
            return
        if data:
            self._cache.append(artifact, offset, data)

    def _begin_ahead(self, artifact: Artifact) -> None:
        if self._cache.has(artifact):
            self._ahead.has(artifact.sha256)
            return
        offset = self._cache.offset(artifact)
        self._ahead.begin(artifact, secrets.token_hex(8), offset)
        self._cache.make_room(artifact, self._kept.keep | self._kept.assigned)

    def _guarded(self, sha256: str, step: Callable[..., None], value: object) -> None:
        """Run a step; its errors end the download as FetchFailed."""
        try:
            step(value)
        except StoreError as error:
            self._end(FetchFailed(sha256, str(error), final=True))
        except ArtifactError as error:
            self._end(FetchFailed(sha256, str(error), self._mismatches.get(sha256, 0) >= _MOST_MISMATCHES))

    def _begin(self, want: _Want) -> None:
        artifact = want.artifact
        if self._cache.verified(artifact) is not None:
            self._end(Fetched(artifact.sha256))
            return
        # What is under way keeps its place, even when its slice was dropped a moment ago.
        reserved = sum(one.artifact.size - one.offset for one in self._downloads.values())
        self._cache.make_room(artifact, want.keep | self._downloads.keys(), reserved, last=self._kept.keep)
        offset = self._cache.offset(artifact)
        logger.info("fetching %s, %d bytes%s", artifact.sha256[:12], artifact.size, " (resumed)" if offset else "")
        self._downloads[artifact.sha256] = Download(
            artifact, receiver=self._node, transaction=secrets.token_hex(8), offset=offset
        )
        if offset == artifact.size:
            self._finish(artifact)

    def _chunk(self, chunk: _Chunk) -> None:
        download = self._downloads.get(chunk.sha256)
        if download is None:
            return
        offset = download.offset
        try:
            data, request = download.receive(time.monotonic(), chunk.payload)
        except ArtifactError as error:
            logger.warning("artifact %s: chunk dropped: %s", chunk.sha256[:12], error)
            return
        if data:
            self._cache.append(download.artifact, offset, data)
        if request is not None:
            self._ask(chunk.sha256, request)
        if download.done:
            self._finish(download.artifact)

    def _finish(self, artifact: Artifact) -> None:
        try:
            self._cache.finish(artifact)
        except ArtifactError:
            self._mismatches[artifact.sha256] = self._mismatches.get(artifact.sha256, 0) + 1
            raise
        self._mismatches.pop(artifact.sha256, None)
        logger.info("fetched %s", artifact.sha256[:12])
        self._end(Fetched(artifact.sha256))

    def _poll(self, sha256: str) -> None:
        request = self._downloads[sha256].poll(time.monotonic())
        if request is not None:
            self._ask(sha256, request)

    def _end(self, event: Fetched | FetchFailed) -> None:
        self._downloads.pop(event.sha256, None)
        if isinstance(event, FetchFailed):
            logger.warning("artifact %s: %s", event.sha256[:12], event.reason)
        self._tell(event)
