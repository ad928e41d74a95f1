"""Actions that wait because nothing may be written: the disk is full, or who coordinates is not proven. PURE.

They are carried out later, in order. However long that takes, no more is kept than there are topics, requests and
plans: of several documents for a topic only the latest is worth writing, and one storing covers all before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable

from coordinator.actions import Action, Clear, Listen, Persist, Publish, Respond

_LEAST = 1000


class Held:
    """The actions to carry out, oldest first."""

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()
        self._merge_at = _LEAST

    def __len__(self) -> int:
        return len(self._actions)

    @property
    def first(self) -> Action:
        """The next one. Raises IndexError when there is none."""
        return self._actions[0]

    def add(self, actions: Iterable[Action]) -> None:
        """Put these behind the others."""
        self._actions.extend(actions)
        if len(self._actions) > self._merge_at:
            self._actions = deque(merged(self._actions))
            self._merge_at = max(_LEAST, 2 * len(self._actions))

    def done(self) -> None:
        """The next one was carried out."""
        self._actions.popleft()


def merged(actions: Iterable[Action]) -> list[Action]:
    """Without those that a later one replaces, and without all but the first Persist, which stores what is then."""
    kept: list[Action] = []
    seen: set[Hashable] = set()
    ordered = list(actions)
    first = next((place for place, action in enumerate(ordered) if isinstance(action, Persist)), None)
    for place in reversed(range(len(ordered))):
        action = ordered[place]
        key = _key(action)
        if isinstance(action, Persist):
            if place == first:
                kept.append(action)
        elif key is None or key not in seen:
            seen.add(key)
            kept.append(action)
    return kept[::-1]


def _key(action: Action) -> Hashable:
    """What a later action must have in common with this one to replace it; None: nothing replaces it."""
    match action:
        case Publish(topic, _) | Clear(topic):
            return ("topic", topic)
        case Respond(client, response):
            return ("answer", client, response.transaction)
        case Listen():
            return ("listen",)
    return None
