"""PURE: which subscriptions one side wants, and which of them the broker has confirmed on this connection.

amqtt loses subscriptions when many clients come at once, so every one is asked for until its SUBACK comes, and a
connection on which none comes is given up (protocol rules 8, 11 and 23).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Seconds after which a subscription without SUBACK is asked for again, and the connection is given up.
ASK_AGAIN = 1.0
GIVE_UP = 4.0
# Filters in one SUBSCRIBE packet.
_BATCH = 50
_REFUSED = 0x80


def matches(pattern: str, topic: str) -> bool:
    """Whether `topic` matches the MQTT filter `pattern`."""
    if pattern == topic:
        return True
    wanted, given = pattern.split("/"), topic.split("/")
    if given[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(given) or level not in ("+", given[place]):
            return False
    return len(wanted) == len(given)


@dataclass
class _Wish:
    qos: int
    heard: bool
    asked: float | None = None
    first_asked: float | None = None
    confirmed: bool = False


class Subscriptions:
    """Wishes that outlive connections, and their state on the present one."""

    def __init__(self) -> None:
        self._wishes: dict[str, _Wish] = {}
        self._patterns: list[str] = []
        self._asked: dict[int, tuple[str, ...]] = {}

    def want(self, filters: Iterable[str], qos: int, *, heard: bool = True) -> None:
        """Remember `filters`; those that are new will be due. `match` passes over those that are not `heard`."""
        for one in filters:
            wish = self._wishes.get(one)
            if wish is None or wish.qos < qos or (heard and not wish.heard):
                self._wishes[one] = _Wish(qos, heard or (wish is not None and wish.heard))
        self._index()

    def forget(self, filters: Iterable[str]) -> None:
        """Forget `filters`."""
        for one in filters:
            self._wishes.pop(one, None)
        self._index()

    def _index(self) -> None:
        self._patterns = [one for one in self._wishes if self._wishes[one].heard and ("+" in one or "#" in one)]

    def restart(self) -> None:
        """A new connection: nothing is asked for or confirmed."""
        self._asked.clear()
        for one, wish in self._wishes.items():
            self._wishes[one] = _Wish(wish.qos, wish.heard)

    def __contains__(self, one: object) -> bool:
        return one in self._wishes

    def match(self, topic: str) -> bool:
        """Whether some remembered filter that is heard matches `topic`."""
        wish = self._wishes.get(topic)
        return (wish is not None and wish.heard) or any(matches(pattern, topic) for pattern in self._patterns)

    def due(self, now: float) -> list[list[tuple[str, int]]]:
        """Batches of (filter, QoS) to be asked for now."""
        found = [
            (one, wish.qos)
            for one, wish in self._wishes.items()
            if not wish.confirmed and (wish.asked is None or now - wish.asked >= ASK_AGAIN)
        ]
        return [found[start : start + _BATCH] for start in range(0, len(found), _BATCH)]

    def asked(self, mid: int, filters: Sequence[str], now: float) -> None:
        """`filters` went out in the SUBSCRIBE packet `mid`."""
        self._asked[mid] = tuple(filters)
        for one in filters:
            wish = self._wishes[one]
            wish.asked = now
            wish.first_asked = now if wish.first_asked is None else wish.first_asked

    def acknowledged(self, mid: int, codes: Sequence[int]) -> list[str]:
        """The SUBACK of packet `mid`; returns the filters that the broker refused."""
        filters = self._asked.pop(mid, ())
        refused = [one for one, code in zip(filters, codes, strict=False) if code >= _REFUSED]
        for one in filters[: len(codes)]:
            if one in self._wishes and one not in refused:
                self._wishes[one].confirmed = True
        return refused

    def confirmed(self, filters: Iterable[str] | None = None) -> bool:
        """Whether all remembered filters, or all of `filters`, are confirmed on this connection."""
        if filters is None:
            return all(wish.confirmed for wish in self._wishes.values())
        return all(one in self._wishes and self._wishes[one].confirmed for one in filters)

    def overdue(self, now: float) -> list[str]:
        """Filters whose SUBACK has not come although they were asked for again and again."""
        return [
            one
            for one, wish in self._wishes.items()
            if not wish.confirmed and wish.first_asked is not None and now - wish.first_asked >= GIVE_UP
        ]

    def next_time(self) -> float | None:
        """When `due` or `overdue` may have news, or None."""
        times = [
            wish.asked + ASK_AGAIN
            for wish in self._wishes.values()
            if not wish.confirmed and wish.asked is not None
        ]
        return min(times, default=None)
