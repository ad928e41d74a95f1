"""How documents travel in a simulated cluster: as the objects that they are, or as JSON. PURE.

Objects are quick. A part of the runs use JSON, so that what does not survive it is found.
"""

from __future__ import annotations

from typing import Any, TypeVar

from slicemq.errors import ProtocolError
from slicemq.messages import decode, encode

T = TypeVar("T")


class Wire:
    """Packs and unpacks control documents. `json`: as bytes."""

    def __init__(self, json: bool) -> None:
        self.json = json

    def pack(self, document: Any) -> Any:
        """The payload of a document."""
        return encode(document) if self.json else document

    def unpack(self, kind: type[T], payload: Any, topic: str) -> T:
        """The document in a payload. Raises ProtocolError for another kind of document."""
        if self.json:
            return decode(kind, payload, topic)
        if not isinstance(payload, kind):
            raise ProtocolError(f"{topic}: expected a {kind.__name__}, got {type(payload).__name__}")
        return payload
