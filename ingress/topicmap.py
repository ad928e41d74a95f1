"""From the topic of a message to the topic of its answer: MQTT 3.1.1 has no properties to say it with. PURE."""

from __future__ import annotations

import re

from slicemq.errors import UsageError
from slicemq.subscriptions import matches

_PLACE = re.compile(r"\{([0-9]{1,2})\}")
_MOST_BYTES = 65_535


class TopicMap:
    """`source` is a topic filter, `target` a topic in which `{1}`, `{2}` ... stand for what its wildcards met.

    `{n}` is the level that the n-th `+` met, or all levels that a `#` at the end met. Raises UsageError for what is
    no filter or no topic, for a place that no wildcard fills, and where answers would be messages again.
    """

    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = source, target
        _check("--from", source)
        _check("--to", target)
        levels = source.split("/")
        for number, level in enumerate(levels):
            last = number == len(levels) - 1
            if ("+" in level and level != "+") or ("#" in level and (level != "#" or not last)):
                raise UsageError(f"--from {source!r}: expected + as a whole level, and # as the whole last one")
        if levels[0] in ("#", "slicemq") or levels[0].startswith("$"):
            raise UsageError(f"--from {source!r}: expected devices' own topics, not those of SliceMQ or the broker")
        if any(sign in target for sign in "+#"):
            raise UsageError(f"--to {target!r}: expected a topic without + and #; {{1}} is what the first one met")
        self._wild = [number for number, level in enumerate(levels) if level in ("+", "#")]
        for place in _PLACE.findall(target):
            if not 1 <= int(place) <= len(self._wild):
                raise UsageError(
                    f"--to {target!r}: {{{place}}}, but --from {source!r} has {len(self._wild)} wildcards"
                )
        if "{" in _PLACE.sub("", target) or "}" in _PLACE.sub("", target):
            raise UsageError(f"--to {target!r}: expected braces around numbers only, as in {{1}}")
        self._tail = levels[-1] == "#"
        if matches(source, _PLACE.sub("x", target)):
            raise UsageError(f"--to {target!r} matches --from {source!r}: answers would be taken for messages")
        if _is_reserved(_PLACE.sub("x", target)):
            raise UsageError(f"--to {target!r}: expected devices' own topics, not those of SliceMQ or the broker")

    def takes(self, topic: str) -> bool:
        """Whether a message on `topic` is an input."""
        return matches(self.source, topic)

    def answer(self, topic: str) -> str:
        """The answer's topic; empty where devices chose levels of which none can be made."""
        levels = topic.split("/")
        found = ["/".join(levels[at:]) if self._tail and at == self._wild[-1] else levels[at] for at in self._wild]
        made = _PLACE.sub(lambda place: found[int(place[1]) - 1], self.target)
        good = made and len(made.encode()) <= _MOST_BYTES and not matches(self.source, made)
        return made if good and not _is_reserved(made) else ""


def _is_reserved(topic: str) -> bool:
    return topic.startswith("$") or topic.split("/", 1)[0] == "slicemq"


def _check(option: str, topic: str) -> None:
    if not topic or len(topic.encode(errors="replace")) > _MOST_BYTES:
        raise UsageError(f"{option}: expected a topic of 1 to {_MOST_BYTES} bytes")
    if not topic.isprintable():
        raise UsageError(f"{option} {topic!r}: expected printable characters")
