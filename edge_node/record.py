"""What a worker is at, kept outside of it, so that its agent knows it after a crash (protocol rule 10).

The agent makes an anonymous file of a few hundred bytes for each worker, and hands its descriptor down. The worker
maps it and writes there before it loads the slice or runs a frame: no system call, about a microsecond a frame.
No numpy here: the agent reads with the same module.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
from typing import Protocol

from edge_node.events import At
from slicemq.errors import ProtocolError
from slicemq.messages import FrameName, from_plain

SIZE = 256
_IDLE, _LOADING, _COMPUTING = 0, 1, 2
# After the byte that says what it is at: stream, sequence number, length of the client's id, the id.
_FRAME = struct.Struct("<QQB64s")
_FRAME_AT = 8


class Named(Protocol):
    """What names a frame, as its header does."""

    @property
    def client(self) -> str:
        """The client's id."""

    @property
    def stream(self) -> int:
        """The client's stream."""

    @property
    def sequence(self) -> int:
        """The frame's number."""


class Record:
    """The worker's side. One that is made without a descriptor writes for nobody."""

    def __init__(self, descriptor: int = -1) -> None:
        self._map: mmap.mmap | bytearray = bytearray(SIZE)
        if descriptor >= 0:
            # Where it cannot be mapped, a crash is told without what it came from.
            with contextlib.suppress(OSError, ValueError):
                self._map = mmap.mmap(descriptor, SIZE)
        self._client = ""
        self._encoded = b""

    def loading(self) -> None:
        """The slice's file is about to be loaded or run for the first time."""
        self._map[0] = _LOADING

    def computing(self, frame: Named) -> None:
        """`frame` is about to be brought into the interpreter and run."""
        if frame.client != self._client:
            self._client, self._encoded = frame.client, frame.client.encode()[:64]
        self._map[0] = _IDLE
        _FRAME.pack_into(self._map, _FRAME_AT, frame.stream, frame.sequence, len(self._encoded), self._encoded)
        self._map[0] = _COMPUTING

    def idle(self) -> None:
        """Neither: what ends the worker from here on is not the slice's or the frame's doing."""
        self._map[0] = _IDLE


class Recorder:
    """The agent's side: the file behind one worker's record."""

    def __init__(self) -> None:
        """Raises OSError when there is no room for the file."""
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("slicemq-record")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        os.ftruncate(self.descriptor, SIZE)

    def read(self) -> At:
        """What the worker was at when it wrote last. Bytes that name no frame count as none."""
        try:
            data = os.pread(self.descriptor, SIZE, 0)
        except OSError:
            return None
        if len(data) < SIZE or data[0] == _IDLE:
            return None
        if data[0] == _LOADING:
            return "loading"
        stream, sequence, length, client = _FRAME.unpack_from(data, _FRAME_AT)
        name = {
            "client": client[:length].decode(errors="replace"),
            "stream": f"{stream:016x}",
            "sequence": sequence,
        }
        try:
            return from_plain(FrameName, name, "worker's record")
        except ProtocolError:
            return None

    def close(self) -> None:
        """Give the file up."""
        os.close(self.descriptor)
