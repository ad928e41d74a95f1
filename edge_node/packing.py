"""What a slice sends for a frame: its output bundles, its part of the result, or an error frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edge_node.runtime import Interpreter
from slicemq import codecs
from slicemq.buffers import BufferPool
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import SliceAssignment, TensorSpec
from slicemq.topics import Topics
from slicemq.turns import topic_turns, turn_of

Parts = Sequence[bytes | memoryview]


@dataclass(slots=True)
class Message:
    """A message to be sent: its `parts`, or None while `tensors` are still to be compressed.

    The parts may be views of the interpreter's own memory, or of lent buffers: let go of the message before the
    interpreter's next run.
    """

    topic: str
    header: FrameHeader
    parts: Parts | None
    tensors: Sequence[tuple[TensorSpec, npt.NDArray[Any]]] = ()
    codec: str = "raw"

    def encoded(self) -> Parts:
        """The parts, compressed now if they are not yet. Raises FrameError."""
        return encode_frame(self.header, self.tensors, self.codec) if self.parts is None else self.parts


@dataclass(frozen=True)
class _Way:
    """One output bundle, or the part of the result (no topics: they are the clients')."""

    topics: dict[int | None, str] | None
    tensors: tuple[tuple[TensorSpec, int], ...]
    codec: str
    slow: bool


class Packer:
    """Makes the messages of one slice. `slow`: some are compressed by a codec that takes long."""

    def __init__(self, assignment: SliceAssignment, topics: Topics) -> None:
        self._assignment = assignment
        self._topics = topics
        places = {index: place for place, index in enumerate(assignment.gives)}
        turns = topic_turns(range(assignment.of), assignment.of)
        self._ways = [
            _Way(
                {turn: topics.data(assignment.pipeline, assignment.revision, one.id, turn) for turn in turns},
                tuple((spec, places[spec.index]) for spec in one.tensors),
                one.codec,
                codecs.is_slow(one.codec),
            )
            for one in assignment.outputs
        ]
        if (part := assignment.result) is not None:
            tensors = tuple((spec, places[spec.index]) for spec in part.tensors)
            self._ways.append(_Way(None, tensors, part.codec, codecs.is_slow(part.codec)))
        self.slow = any(way.slow for way in self._ways)
        self._pool = BufferPool()

    def messages(self, header: FrameHeader, interpreter: Interpreter, *, keep: bool = False) -> Iterator[Message]:
        """The messages of the frame just invoked, one after the other, each put together when it is asked for.

        Those of `raw` stand in the interpreter's own memory, those of other quick codecs in buffers that are used
        again: let go of each, and of this iterator, before its next run. With `keep` they are copies. Those of slow
        codecs are copied tensors. Raises FrameError for a tensor that cannot travel, ModelError.
        """
        turn = turn_of(header.sequence, self._assignment.of)
        for way in self._ways:
            if way.topics is None:
                topic, named = self._results(header), self._result_header(header)
            else:
                topic, named = way.topics[turn], header
            tensors = [(spec, interpreter.output(place, copy=way.slow)) for spec, place in way.tensors]
            if way.slow:
                yield Message(topic, named, None, tensors, way.codec)
            else:
                parts: Parts = encode_frame(named, tensors, way.codec, self._pool)
                yield Message(topic, named, [b"".join(parts)] if keep else parts)

    def failure(self, header: FrameHeader, why: str, reason: str = "slice-error") -> Message:
        """An error frame to the client, with this reason word."""
        named = self._result_header(header, reason, f"slice {self._assignment.slice}: {why}")
        return Message(self._results(header), named, encode_frame(named, []))

    def trim(self) -> None:
        """Give buffers back to the system that no frame has needed for some seconds."""
        self._pool.trim()

    def _results(self, header: FrameHeader) -> str:
        return self._topics.results(self._assignment.pipeline, header.client)

    def _result_header(self, header: FrameHeader, error: str = "", message: str = "") -> FrameHeader:
        part = self._assignment.result
        place, parts = (part.part, part.parts) if part is not None else (0, 1)
        return FrameHeader(
            header.client,
            header.stream,
            header.sequence,
            header.sent,
            header.revision,
            place,
            parts,
            error,
            message,
        )
