"""PURE: retained documents that this process alone writes, and when to publish them again (protocol rule 17).

The process watches its own topics. The broker gives every subscriber the publishes of a topic in one order, so what
arrives before the echo of our newest publish is replaced by it and needs nothing, if that echo comes: there is none
of what was published before the subscription was confirmed. What arrives after the echo and differs from the
document is foreign (a late will, what a restarted broker dug out of its file): it is healed by publishing again,
ever more slowly while somebody keeps writing there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Seconds: the least and the greatest time between two healings, the quiet time that resets it, and how long the
# echo of a publish may take before foreign content counts although the echo has not come.
_HEAL_FIRST = 0.05
_HEAL_LAST = 5.0
_QUIET = 30.0
_ECHO_LIMIT = 2.0
_RETRY = 0.5
_MOST_ECHOES = 64


@dataclass
class _Document:
    payload: bytes
    echoes: list[bytes] = field(default_factory=list)
    sent: float = 0.0
    healed: float | None = None
    pause: float = _HEAL_FIRST
    heal_at: float | None = None


class OwnedDocuments:
    """The documents of one process by topic; times are seconds of any one monotonic clock."""

    def __init__(self) -> None:
        self._documents: dict[str, _Document] = {}

    def __contains__(self, topic: object) -> bool:
        return topic in self._documents

    def set(self, topic: str, payload: bytes) -> None:
        """Take `payload` as the document of `topic`."""
        document = self._documents.get(topic)
        if document is None:
            self._documents[topic] = _Document(payload)
        else:
            document.payload = payload

    def is_own(self, topic: str, payload: bytes) -> bool:
        """Whether `payload` is the document of `topic`, or one of those before it whose echo has not come."""
        document = self._documents.get(topic)
        return document is not None and (payload == document.payload or payload in document.echoes)

    def drop(self, topic: str) -> bool:
        """Forget `topic`; whether it was known."""
        return self._documents.pop(topic, None) is not None

    def restart(self) -> list[tuple[str, bytes]]:
        """A new connection: all documents are to be published, in the order in which they came to be owned."""
        for document in self._documents.values():
            document.echoes.clear()
            document.heal_at = None
        return [(topic, document.payload) for topic, document in self._documents.items()]

    def sent(self, topic: str, now: float, *, done: bool = True) -> None:
        """The document of `topic` was handed to the connection, or (`done` false) could not be."""
        document = self._documents[topic]
        if done:
            document.echoes = [*document.echoes[-_MOST_ECHOES:], document.payload]
            document.sent = now
            document.heal_at = None
        else:
            document.heal_at = now + _RETRY

    def received(self, topic: str, payload: bytes, now: float) -> bool:
        """`payload` arrived on `topic`; whether it is foreign and will be healed."""
        document = self._documents.get(topic)
        if document is None:
            return False
        if payload in document.echoes:
            del document.echoes[: document.echoes.index(payload) + 1]
            if document.echoes:
                return False
        if payload == document.payload:
            document.heal_at = None
            return False
        if document.echoes and now - document.sent < _ECHO_LIMIT:
            # The echo says that ours came later. There is none when the subscription came later than both.
            if document.heal_at is None:
                document.heal_at = document.sent + _ECHO_LIMIT
            return False
        if document.heal_at is None:
            if document.healed is None or now - document.healed > _QUIET:
                document.pause = _HEAL_FIRST
            earliest = now if document.healed is None else document.healed + document.pause
            document.heal_at = max(now, earliest)
        return True

    def due(self, now: float) -> list[tuple[str, bytes]]:
        """Documents to be published again now; each is to be followed by `sent`."""
        found = []
        for topic, document in self._documents.items():
            if document.heal_at is not None and document.heal_at <= now:
                document.healed = now
                document.pause = min(2 * document.pause, _HEAL_LAST)
                found.append((topic, document.payload))
        return found

    def next_time(self) -> float | None:
        """When `due` has something, or None."""
        times = [one.heal_at for one in self._documents.values() if one.heal_at is not None]
        return min(times, default=None)
