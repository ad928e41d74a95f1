"""Artifacts over MQTT: windowed, resumable chunks, each checked as it comes (protocol rule 24). PURE.

The receiver pulls: it asks on `artifacts/<sha256>/request` for some chunks from an offset, and whoever has
the artifact sends them to `artifacts/<sha256>/<receiver>`. It takes them in order only, asks for more when
half of its window has come, and asks again from where it is when nothing comes. A receiver that restarts
goes on from the bytes that it has kept. The whole is checked against its SHA-256 at the end.

A chunk's payload:

    offset  size  what
    0       4     magic `SMQA`
    4       1     version, 1
    5       1     length t of the transaction id, 1 to 64
    6       2     zero
    8       8     offset of the data in the artifact, unsigned, big-endian
    16      8     size of the artifact, unsigned, big-endian
    24      32    SHA-256 of the data
    56      t     transaction id, ASCII
    56+t    ...   data, to the end of the payload
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from slicemq.errors import ArtifactError
from slicemq.messages import Artifact, ChunkRequest

MAGIC = b"SMQA"
VERSION = 1
CHUNK_BYTES = 128 * 1024
WINDOW_CHUNKS = 8
# What one request may make the sender send: bounds how far a forged request can amplify.
MAX_REQUEST_BYTES = 4 * 1024 * 1024
_PREFIX = struct.Struct(">4sBBHQQ32s")


@dataclass(frozen=True)
class Chunk:
    """One piece of an artifact; `total` is the artifact's size in bytes."""

    transaction: str
    offset: int
    total: int
    data: bytes


def encode_chunk(chunk: Chunk) -> bytes:
    """The payload of a chunk."""
    name = chunk.transaction.encode("ascii")
    digest = hashlib.sha256(chunk.data).digest()
    head = _PREFIX.pack(MAGIC, VERSION, len(name), 0, chunk.offset, chunk.total, digest)
    return head + name + chunk.data


def decode_chunk(payload: bytes) -> Chunk:
    """Read a chunk; raises ArtifactError when its lengths or its hash do not hold."""
    if len(payload) < _PREFIX.size:
        raise ArtifactError(f"chunk of {len(payload)} bytes, expected at least {_PREFIX.size}")
    magic, version, length, zero, offset, total, digest = _PREFIX.unpack_from(payload)
    if magic != MAGIC or version != VERSION or zero != 0:
        raise ArtifactError(f"chunk starts with {magic!r} version {version}, expected {MAGIC!r} version {VERSION}")
    if not 1 <= length <= 64 or len(payload) < _PREFIX.size + length:
        raise ArtifactError(f"chunk's transaction id of {length} bytes, expected 1 to 64")
    try:
        transaction = payload[_PREFIX.size : _PREFIX.size + length].decode("ascii")
    except UnicodeDecodeError as error:
        raise ArtifactError("chunk's transaction id is not ASCII") from error
    data = payload[_PREFIX.size + length :]
    if offset + len(data) > total:
        raise ArtifactError(f"chunk at {offset} of {len(data)} bytes in an artifact of {total}")
    if hashlib.sha256(data).digest() != digest:
        raise ArtifactError(f"chunk at {offset} does not match its SHA-256")
    return Chunk(transaction, offset, total, data)


def serve(request: ChunkRequest, size: int, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """The payloads that answer `request` for an artifact of `size` bytes; `read(offset, count)` gives bytes."""
    most = min(request.chunks, max(1, MAX_REQUEST_BYTES // request.chunk))
    for number in range(most):
        offset = request.offset + number * request.chunk
        if offset >= size:
            return
        yield encode_chunk(
            Chunk(request.transaction, offset, size, read(offset, min(request.chunk, size - offset)))
        )


class Download:
    """The receiving side of one transfer: times and payloads in, requests and bytes to append out.

    `offset` is how many bytes are already kept from an earlier try. The owner calls `poll` at least every
    `retry` seconds, appends what `receive` returns, and at the end checks the file's SHA-256 itself.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        receiver: str,
        transaction: str,
        offset: int = 0,
        chunk: int = CHUNK_BYTES,
        window: int = WINDOW_CHUNKS,
        retry: float = 1.0,
        patience: float = 30.0,
    ) -> None:
        self.artifact = artifact
        self.offset = offset
        self.rejected = 0
        self._receiver = receiver
        self._transaction = transaction
        self._chunk = chunk
        self._window = window
        self._retry = retry
        self._patience = patience
        self._asked = offset
        self._wait = retry
        self._progress: float | None = None
        self._last_ask = 0.0

    @property
    def done(self) -> bool:
        """Whether all bytes have come."""
        return self.offset >= self.artifact.size

    def poll(self, now: float) -> ChunkRequest | None:
        """What to ask for now, if anything. Raises ArtifactError after `patience` seconds without progress."""
        if self.done:
            return None
        if self._progress is None:
            self._progress = now
            return self._ask(now, self.offset)
        if now - self._progress > self._patience:
            raise ArtifactError(
                f"artifact {self.artifact.sha256[:12]}: no chunk for {self._patience:g} s at {self.offset} of "
                f"{self.artifact.size} bytes" + (f", {self.rejected} bad chunks" if self.rejected else "")
            )
        if now - self._last_ask >= self._wait and now - self._progress >= self._wait:
            self._wait = min(self._wait * 2, 8 * self._retry)
            return self._ask(now, self.offset)
        return None

    def receive(self, now: float, payload: bytes) -> tuple[bytes, ChunkRequest | None]:
        """The bytes to append (empty for a repeat or a stranger), and what to ask for next, if anything.

        Raises ArtifactError for a chunk that does not hold together; the transfer can go on after it.
        """
        try:
            chunk = decode_chunk(payload)
            if chunk.total != self.artifact.size:
                raise ArtifactError(f"chunk of an artifact of {chunk.total} bytes, expected {self.artifact.size}")
            if len(chunk.data) > self._chunk:
                raise ArtifactError(f"chunk of {len(chunk.data)} bytes, at most {self._chunk} were asked for")
        except ArtifactError:
            self.rejected += 1
            raise
        if chunk.transaction != self._transaction or chunk.offset != self.offset or not chunk.data:
            return b"", None
        self.offset += len(chunk.data)
        self._progress = now
        self._wait = self._retry
        ahead = max(0, self._asked - self.offset)
        if not self.done and self._asked < self.artifact.size and ahead <= self._window * self._chunk // 2:
            return chunk.data, self._ask(now, max(self._asked, self.offset), self._window // 2)
        return chunk.data, None

    def _ask(self, now: float, offset: int, chunks: int | None = None) -> ChunkRequest:
        count = max(1, chunks or self._window)
        self._asked = offset + count * self._chunk
        self._last_ask = now
        return ChunkRequest(self._receiver, self._transaction, offset, self._chunk, count)
