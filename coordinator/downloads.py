"""Fetching artifacts over MQTT into the coordinator's store, one at a time, and serving those that it has."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from coordinator.artifacts import ArtifactStore
from slicemq.errors import ArtifactError
from slicemq.messages import Artifact, ChunkRequest, decode, encode
from slicemq.topics import Topics, is_sha256
from slicemq.transfer import Download, serve

logger = logging.getLogger("slicemq.coordinator.artifacts")
_POLL_SECONDS = 0.1
_TRIES = 3

Send = Callable[[str, bytes], bool]
"""Publish at QoS 0; False when the connection is down."""


class Exchange:
    """The coordinator's side of artifact transfers: `fetch` pulls, `on_request` answers those who pull.

    `on_chunk` and `on_request` are called with what comes from the network; `fetch` blocks its own thread.
    """

    def __init__(self, store: ArtifactStore, topics: Topics, receiver: str, send: Send) -> None:
        self._store = store
        self._topics = topics
        self._receiver = receiver
        self._send = send
        self._chunks: queue.Queue[tuple[str, bytes]] = queue.Queue(maxsize=256)
        self._wanted: str | None = None
        self._stopped = False
        self._requests: queue.Queue[tuple[str, ChunkRequest] | None] = queue.Queue(maxsize=1024)
        self._server = threading.Thread(target=self._serve, name="artifact-server", daemon=True)
        self._server.start()

    @property
    def filters(self) -> tuple[str, ...]:
        """What the control session must be subscribed to."""
        return (self._topics.artifact_request("+"), self._topics.artifact_chunks("+", self._receiver))

    def on_message(self, topic: str, payload: bytes) -> None:
        """A message below `artifacts/`; raises ProtocolError when it is not what the contract says."""
        parts = self._topics.parts(topic)
        if len(parts) != 3 or not is_sha256(parts[1]):
            raise ArtifactError(f"{topic}: expected artifacts/<SHA-256>/<request or receiver>")
        _, sha256, leaf = parts
        try:
            if leaf == "request":
                self._requests.put_nowait((sha256, decode(ChunkRequest, payload, topic)))
            elif sha256 == self._wanted:
                self._chunks.put_nowait((sha256, payload))
        except queue.Full:
            # Whoever asked asks again: transfers repair themselves.
            logger.debug("%s: dropped, too much is waiting", topic)

    def fetch(self, artifact: Artifact, patience: float = 30.0) -> Path:
        """The artifact's file, pulled from whoever has it when it is not here.

        Raises ArtifactError when nobody sends it for `patience` seconds, or when what comes does not match its
        hash three times; StoreError when it cannot be written, or has no room, which is checked before any byte
        is asked for.
        """
        if self._store.size(artifact.sha256) == artifact.size:
            return self._store.path(artifact.sha256)
        self._store.check_room(artifact)
        for attempt in range(_TRIES):
            try:
                self._pull(artifact, patience)
                return self._store.finish(artifact)
            except ArtifactError as error:
                if attempt == _TRIES - 1 or "no chunk" in str(error):
                    raise
                logger.warning("%s; trying again", error)
            finally:
                self._wanted = None
        raise AssertionError("unreachable")

    def _pull(self, artifact: Artifact, patience: float) -> None:
        self._wanted = artifact.sha256
        download = Download(
            artifact,
            receiver=self._receiver,
            transaction=secrets.token_hex(8),
            offset=self._store.partial_size(artifact),
            patience=patience,
        )
        topic = self._topics.artifact_request(artifact.sha256)
        while not download.done:
            if self._stopped:
                raise ArtifactError(f"artifact {artifact.sha256[:12]}: no chunk will come, the coordinator stops")
            if (request := download.poll(time.monotonic())) is not None:
                self._send(topic, encode(request))
            try:
                sha256, payload = self._chunks.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if sha256 != artifact.sha256:
                continue
            offset = download.offset
            try:
                data, request = download.receive(time.monotonic(), payload)
            except ArtifactError as error:
                logger.warning("artifact %s: %s", artifact.sha256[:12], error)
                continue
            if data:
                self._store.append(artifact, offset, data)
            if request is not None:
                self._send(topic, encode(request))

    def _serve(self) -> None:
        while (item := self._requests.get()) is not None:
            sha256, request = item
            size = self._store.size(sha256)
            if size is None:
                continue
            topic = self._topics.artifact_chunks(sha256, request.receiver)
            try:
                for payload in serve(request, size, lambda offset, count: self._store.read(sha256, offset, count)):  # noqa: B023
                    self._send(topic, payload)
            except Exception:
                logger.exception("serving artifact %s to %s", sha256[:12], request.receiver)

    def stop(self) -> None:
        """End the serving thread, and the fetch that is under way."""
        self._stopped = True
        self._requests.put(None)
