"""Serving an artifact's chunks to the coordinator while it answers a request."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from slicemq.errors import ModelError
from slicemq.messages import Artifact, ChunkRequest, decode
from slicemq.transfer import serve

if TYPE_CHECKING:
    from rich.progress import Progress

    from coordinator.cli.ask import Caller

logger = logging.getLogger("slicemq.deploy")


def open_file(file: Path) -> BinaryIO:
    """The model's file, open for reading. Raises ModelError."""
    try:
        return open(file, "rb")
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error


class Upload:
    """Serves the chunks of one artifact to whoever asks for them, until it is stopped. Closes `source` then."""

    def __init__(self, caller: Caller, artifact: Artifact, source: BinaryIO, progress: Progress, what: str) -> None:
        """`source` has the artifact's bytes; `what` it is, for people: "the model"."""
        self._caller = caller
        self._artifact = artifact
        self._source = source
        self._what = what
        self._progress = progress
        self._task = progress.add_task(f"sending {what}", total=artifact.size, note="", visible=False)
        self._requests: queue.Queue[ChunkRequest | None] = queue.Queue(64)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)
        self._thread.start()
        caller.on(caller.net.topics.artifact_request(artifact.sha256), self._on_request)

    def stop(self) -> None:
        """Serve no more."""
        self._stopped.set()
        with contextlib.suppress(queue.Full):
            # A full queue wakes the thread as well.
            self._requests.put_nowait(None)
        self._thread.join()
        self._source.close()

    def _on_request(self, topic: str, payload: bytes) -> None:
        try:
            self._requests.put_nowait(decode(ChunkRequest, payload, topic))
        except queue.Full:
            logger.debug("too many requests for chunks; the receiver asks again")

    def _run(self) -> None:
        topics, size = self._caller.net.topics, self._artifact.size
        while (request := self._requests.get()) is not None and not self._stopped.is_set():
            topic = topics.artifact_chunks(self._artifact.sha256, request.receiver)
            try:
                for payload in serve(request, size, self._read):
                    if self._stopped.is_set():
                        return
                    self._caller.session.publish(topic, payload, qos=0)
            except OSError as error:
                logger.warning("%s cannot be read: %s", self._what, error.strerror)
                continue
            self._progress.update(self._task, completed=min(request.offset, size), visible=True)

    def _read(self, offset: int, count: int) -> bytes:
        self._source.seek(offset)
        return self._source.read(count)
