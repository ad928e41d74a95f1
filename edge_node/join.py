"""Joining the bundles of a frame, and bounded waiting: count, bytes and age, the oldest goes first. PURE.

Protocol rules 2 (what names a frame) and 9 (bounds).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Bounds:
    """How much may wait: number of frames, bytes, seconds."""

    count: int
    nbytes: int
    age: float


@dataclass
class _Half(Generic[Item]):
    since: float
    nbytes: int = 0
    items: dict[str, tuple[Item, int]] = field(default_factory=dict)


class Joiner(Generic[Key, Item]):
    """Collects one item from each of `inputs` for every key; `dropped` counts keys given up half-joined."""

    def __init__(self, inputs: Sequence[str], bounds: Bounds) -> None:
        self._inputs = tuple(inputs)
        self._bounds = bounds
        self._halves: OrderedDict[Key, _Half[Item]] = OrderedDict()
        self._nbytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._halves)

    def add(self, key: Key, name: str, item: Item, nbytes: int, now: float) -> dict[str, Item] | None:
        """Add the item of input `name`; all items of the key when it is complete, else None.

        A repeat replaces the earlier item: the client has sent the frame again.
        """
        if len(self._inputs) == 1:
            return {name: item}
        half = self._halves.setdefault(key, _Half(now))
        before = half.items.get(name)
        grown = nbytes - (before[1] if before is not None else 0)
        half.items[name] = (item, nbytes)
        half.nbytes += grown
        self._nbytes += grown
        if len(half.items) == len(self._inputs):
            self._remove(key)
            return {one: half.items[one][0] for one in self._inputs}
        self._shrink(now)
        return None

    def _shrink(self, now: float) -> None:
        while self._halves:
            key, half = next(iter(self._halves.items()))
            if (
                len(self._halves) <= self._bounds.count
                and self._nbytes <= self._bounds.nbytes
                and now - half.since <= self._bounds.age
            ):
                return
            self._remove(key)
            self.dropped += 1

    def expire(self, now: float) -> None:
        """Give up what has waited for too long."""
        self._shrink(now)

    def _remove(self, key: Key) -> None:
        self._nbytes -= self._halves.pop(key).nbytes


class Backlog(Generic[Item]):
    """First in, first out, within bounds; `dropped` counts items that made room for newer ones or grew old."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._waiting: deque[tuple[float, int, Item]] = deque()
        self._nbytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, item: Item, nbytes: int, now: float) -> None:
        """Append; drops the oldest while there is too much. The newest itself always stays."""
        self._waiting.append((now, nbytes, item))
        self._nbytes += nbytes
        while len(self._waiting) > 1 and (
            len(self._waiting) > self._bounds.count or self._nbytes > self._bounds.nbytes
        ):
            self._drop()
        self.expire(now)

    def pop(self, now: float) -> tuple[float, Item] | None:
        """When the oldest item that is not too old came, and the item; None when nothing waits."""
        self.expire(now)
        if not self._waiting:
            return None
        since, nbytes, item = self._waiting.popleft()
        self._nbytes -= nbytes
        return since, item

    def expire(self, now: float) -> None:
        """Drop what has waited for too long."""
        while self._waiting and now - self._waiting[0][0] > self._bounds.age:
            self._drop()

    def since(self) -> float | None:
        """When the oldest waiting item came."""
        return self._waiting[0][0] if self._waiting else None

    def _drop(self) -> None:
        self._nbytes -= self._waiting.popleft()[1]
        self.dropped += 1
