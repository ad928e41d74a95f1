"""What a client does while revisions are compared, by a canary or by copies for a shadow. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from slicemq.evidence import Evidence
from slicemq.frames import FrameHeader
from slicemq.messages import PipelineDocument, Route, TensorSpec
from slicemq.pacing import spread
from slicemq.parts import Tensors, outputs_of
from slicemq.shadow import Shadow

# Beside the attempts' own numbers: which frames are copied must not follow from where they are sent.
_COPY_SALT = 63


class Comparison:
    """Follows the pipeline's document; keeps the figures of its active routes, and the copies for its shadow."""

    def __init__(self) -> None:
        self._document: PipelineDocument | None = None
        self._active: dict[str, float] = {}
        self._evidence = Evidence()
        self._shadow: Shadow | None = None

    def document(self, document: PipelineDocument) -> None:
        """A newer document."""
        self._document = document
        self._active = {route.revision: route.weight for route in document.routes if route.state == "active"}
        route = document.shadow if document.state == "running" and not document.stateful else None
        if route is None:
            self._shadow = None
        elif self._shadow is None or self._shadow.route.revision != route.revision:
            self._shadow = Shadow(route)
        else:
            self._shadow.route = route

    @property
    def under_way(self) -> bool:
        """Whether revisions are compared."""
        return self._shadow is not None or len(self._active) > 1

    def evidence(self, now: float) -> dict[str, Any] | None:
        """The body of the request `evidence`; None while no revisions are compared."""
        if self._document is None or not self.under_way:
            return None
        body: dict[str, Any] = {"pipeline": self._document.name, "figures": self._evidence.plain(self._active)}
        if self._shadow is not None:
            self._shadow.expire(now)
            body["shadow"] = self._shadow.plain()
        return body

    def has_heavier(self, revision: str) -> bool:
        """Whether `revision` is a canary: active beside one that serves more frames."""
        heaviest = max(self._active.values(), default=0.0)
        return self._active.get(revision, heaviest) < heaviest

    def copy(self, now: float, stream: int, sequence: int) -> Route | None:
        """The route that a copy of this frame goes to, or None."""
        shadow = self._shadow
        if shadow is None or spread(stream, sequence, _COPY_SALT) >= shadow.route.weight:
            return None
        shadow.expire(now)
        if not shadow.room:
            return None
        assert self._document is not None
        shadow.sent(now, sequence, outputs_of(shadow.route, self._document))
        return shadow.route

    def waits(self, sequence: int) -> bool:
        """Whether a copy of this frame is on its way."""
        return self._shadow is not None and self._shadow.waits(sequence)

    def specs(self, header: FrameHeader) -> dict[int, TensorSpec]:
        """What the tensors of a copy's answer must be; empty where there is no such copy."""
        if not self._is_copy(header):
            return {}
        assert self._shadow is not None
        assert self._document is not None
        return self._shadow.specs(header.sequence, self._document.outputs)

    def result(self, now: float, header: FrameHeader, tensors: Mapping[int, npt.NDArray[Any]]) -> bool:
        """Whether this is of a copy, which it is then taken in for."""
        if not self._is_copy(header):
            return False
        assert self._shadow is not None
        assert self._document is not None
        self._shadow.result(now, header, tensors, self._document.outputs)
        return True

    def answered(self, sequence: int, revision: str, seconds: float, tensors: Tensors) -> None:
        """A frame was answered, `seconds` after it was first sent to `revision`."""
        if self.under_way:
            self._evidence.answered(revision, seconds)
        if self._shadow is not None:
            self._shadow.answered(sequence, tensors)

    def failed(self, revision: str) -> None:
        """A frame ended there with an error, or was not answered by its deadline."""
        if self.under_way:
            self._evidence.failed(revision)

    def ended(self, sequence: int) -> None:
        """A frame ended without an answer."""
        if self._shadow is not None:
            self._shadow.ended(sequence)

    def _is_copy(self, header: FrameHeader) -> bool:
        shadow = self._shadow
        return shadow is not None and header.revision == shadow.route.revision and shadow.waits(header.sequence)
