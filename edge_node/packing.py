"""What a slice sends for a frame: its output bundles, its part of the result, or an error frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edge_node.runtime import Interpreter
from slicemq import codecs
from slicemq.frames import FrameHeader, encode_frame
from slicemq.messages import SliceAssignment, TensorSpec
from slicemq.topics import Topics
from slicemq.turns import turn_of

_SMALL_BYTES = 65_536


@dataclass(frozen=True)
class Message:
    """A message to be sent: `packed`, or still tensors that are to be compressed."""

    topic: str
    header: FrameHeader
    tensors: list[tuple[TensorSpec, npt.NDArray[Any]]]
    codec: str
    packed: bytes = b""


@dataclass(frozen=True)
class Done:
    """How a frame ended here: with these messages (none: it was dropped), or with an error frame (`failed`)."""

    header: FrameHeader
    messages: list[Message]
    failed: bool = False

    @property
    def small(self) -> bool:
        """Whether sending it takes less than handing it to another thread."""
        return all(message.packed for message in self.messages) and (
            sum(len(message.packed) for message in self.messages) <= _SMALL_BYTES
        )


class Packer:
    """Makes the messages of one slice."""

    def __init__(self, assignment: SliceAssignment, topics: Topics) -> None:
        self._assignment = assignment
        self._topics = topics

    def pack(self, header: FrameHeader, interpreter: Interpreter) -> list[Message]:
        """The messages of the frame just invoked, put together right from the interpreter's memory.

        Raises FrameError for a tensor that cannot travel.
        """
        assignment = self._assignment
        positions = {index: position for position, index in enumerate(assignment.gives)}
        turn = turn_of(header.sequence, assignment.of)
        plain = [
            (
                self._topics.data(assignment.pipeline, assignment.revision, bundle.id, turn),
                header,
                bundle.tensors,
                bundle.codec,
            )
            for bundle in assignment.outputs
        ]
        if assignment.result is not None:
            part = assignment.result
            plain.append((self._results(header), self._result_header(header), part.tensors, part.codec))
        messages = []
        for topic, named, specs, codec in plain:
            # The interpreter's own memory must be free of views before its next run.
            copy = codecs.is_slow(codec)
            tensors = [(spec, interpreter.output(positions[spec.index], copy=copy)) for spec in specs]
            if copy:
                messages.append(Message(topic, named, tensors, codec))
            else:
                messages.append(Message(topic, named, [], codec, b"".join(encode_frame(named, tensors, codec))))
        return messages

    def failure(self, header: FrameHeader, why: str, reason: str = "slice-error") -> Message:
        """An error frame to the client, with this reason word."""
        named = self._result_header(header, reason, f"slice {self._assignment.slice}: {why}")
        return Message(self._results(header), named, [], "raw", b"".join(encode_frame(named, [])))

    def _results(self, header: FrameHeader) -> str:
        return self._topics.results(self._assignment.pipeline, header.client)

    def _result_header(self, header: FrameHeader, error: str = "", message: str = "") -> FrameHeader:
        part = self._assignment.result
        return FrameHeader(
            client=header.client,
            stream=header.stream,
            sequence=header.sequence,
            sent=header.sent,
            revision=header.revision,
            part=part.part if part is not None else 0,
            parts=part.parts if part is not None else 1,
            error=error,
            message=message,
        )
