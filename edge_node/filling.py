"""Frames into the interpreter: allocated for their shapes, each tensor copied or unpacked to its memory once."""

from __future__ import annotations

import time

from edge_node.intake import Work
from edge_node.runtime import Interpreter
from slicemq.errors import FrameError, ModelError
from slicemq.frames import WireTensor
from slicemq.messages import SliceAssignment


class Filler:
    """Fills one slice's interpreter."""

    def __init__(self, assignment: SliceAssignment, interpreter: Interpreter) -> None:
        self._takes = assignment.takes
        self._stateful = assignment.stateful
        self._interpreter = interpreter
        self._varies = any(-1 in spec.shape for bundle in assignment.inputs for spec in bundle.tensors)
        # The shapes that tensors are allocated for; None after a failure, when nothing is allocated.
        self._shapes: list[tuple[int, ...]] | None = None
        self.look()

    def look(self) -> None:
        """The interpreter has been started again: see what it is allocated for."""
        self._shapes = [info.shape for info in self._interpreter.inputs]

    def fill(self, work: Work, renewed: bool) -> float:
        """Bring a frame into the interpreter and let go of the memory that it came in; seconds, with decoding.

        `renewed`: the slice is in the model's initial state. Raises FrameError for a packed tensor whose bytes are
        wrong (inputs are then written to in part), ModelError and InputError for what the slice cannot take.
        """
        started = time.perf_counter()
        tensors = work.tensors or {}
        taken = [tensors[index] for index in self._takes]
        if self._varies:
            self._fit_shapes([tensor.shape for tensor in taken], renewed)
        for position, tensor in enumerate(taken):
            if isinstance(tensor, WireTensor):
                self._unpack(position, tensor)
            else:
                self._interpreter.set_input(position, tensor)
        tensors.clear()
        return work.decoding + time.perf_counter() - started

    def _unpack(self, position: int, tensor: WireTensor) -> None:
        """Unpack a tensor to the interpreter's own memory; no view of that is left."""
        view = self._interpreter.input_view(position)
        try:
            if view is not None and tensor.fits(view):
                tensor.decode_into(view)
            else:
                # `set_input` says what is wrong with it.
                self._interpreter.set_input(position, tensor.array())
        except FrameError as error:
            raise FrameError(f"tensor {tensor.index} ({tensor.name}): {error}") from None

    def _fit_shapes(self, shapes: list[tuple[int, ...]], renewed: bool) -> None:
        """Allocate again when a frame's shapes differ, which they may where the specification leaves sizes open."""
        if shapes != self._shapes:
            if self._stateful and not renewed:
                # To allocate sets variable tensors to zero.
                raise ModelError(
                    f"shapes {shapes} after {self._shapes}: a stateful stream keeps its frames' shapes"
                )
            self._shapes = None
            self._interpreter.resize(shapes)
            self._shapes = shapes
