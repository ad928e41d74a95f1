"""The line in which plain devices' messages wait, are worked on, answered and acknowledged. PURE.

Events come in, actions go out. Every message that is taken in gets one answer, in the order of arrival, and is
acknowledged after the broker has confirmed that answer, in the order of arrival on the connection that brought it
(protocol rule 25). A *life* is the number of a connection.

| event                                   | what happens                                                         |
| --------------------------------------- | -------------------------------------------------------------------- |
| a message came, there is room           | it waits                                                             |
| a message came, it is too large         | it ends as `too-large`, its bytes are let go                         |
| no room, policy drop-oldest             | those that wait longest end as `dropped` until there is room         |
| no room, policy drop-newest             | it ends as `dropped`                                                 |
| no room, policy block, QoS 1            | it and all after it are *left*: forgotten and not acknowledged; when |
|                                         | nothing is held any more, Reconnect makes the broker send them again |
| no room, policy block, QoS 0            | it ends as `dropped`: the broker has no second one                   |
| more is held than may ever be           | QoS 1: left, as above; QoS 0: dropped without an answer              |
| sent again (DUP), and it is still held  | it is not run again; it is acknowledged on this connection           |
| any other message with a QoS 1 number   | a message of its own                                                 |
| the worker is free                      | it takes the one that waits longest                                  |
| its outcome is worth another try        | it waits again, at its old place                                     |
| its outcome is known                    | Publish, when all before it are published                            |
| the broker confirmed the publish        | done: Acknowledge, when all before it on this connection are done    |
| the connection is lost                  | what was published and not confirmed is to be published again; what  |
|                                         | was not acknowledged may come again, and is known by number and      |
|                                         | bytes                                                                |
| connected, the broker forgot the        | nothing comes again: nothing is left to acknowledge                  |
| session                                 |                                                                      |
| connected, the first message that is    | nothing more of the earlier connections comes again                  |
| not sent again                          |                                                                      |
"""

from __future__ import annotations

import bisect
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

Policy = Literal["block", "drop-oldest", "drop-newest"]
POLICIES: tuple[Policy, ...] = ("block", "drop-oldest", "drop-newest")
COUNTERS = (
    *("arrived", "answered", "failed", "dropped", "too_large", "unanswered", "acknowledged"),
    *("retried", "rejoined", "left", "republished", "forgotten"),
)
# Answers on their way to the broker that it has not confirmed: enough to keep a link busy, and as many may come
# twice after a crash.
MOST_PUBLISHING = 8
# Messages held beside those that wait: worked on, answered, or ended and behind others.
MOST_OTHERS = 1000
MOST_TRIES = 5


@dataclass(frozen=True)
class Limits:
    """`messages` bounds what waits (besides what is put back), `nbytes` the bytes of all that is held.

    A message of more than `message_bytes` is refused.
    """

    messages: int
    nbytes: int
    message_bytes: int
    policy: Policy

    def __post_init__(self) -> None:
        if not (self.messages >= 1 and 1 <= self.message_bytes <= self.nbytes):
            raise ValueError("expected messages >= 1 and 1 <= message_bytes <= nbytes")


@dataclass(frozen=True)
class Answer:
    """What is to be published for a message."""

    topic: str
    payload: bytes


@dataclass(frozen=True)
class Failure:
    """Why a message ends without having been worked on: the answer is made of it when it is published."""

    word: str
    reason: str


@dataclass(frozen=True)
class Work:
    """A message for the worker; `at` is when it came, `digest` the SHA-256 of its payload in hex."""

    key: int
    topic: str
    payload: bytes
    digest: str
    at: float


@dataclass(frozen=True)
class Publish:
    """Publish the outcome of message `key` (from `topic`) on connection `life`."""

    life: int
    key: int
    topic: str
    digest: str
    outcome: Answer | Failure


@dataclass(frozen=True)
class Acknowledge:
    """Acknowledge the delivery `packet_id` of connection `life`."""

    life: int
    packet_id: int


@dataclass(frozen=True)
class Reconnect:
    """End connection `life`, so that the broker sends again what was left."""

    life: int


Action: TypeAlias = "Publish | Acknowledge | Reconnect"


@dataclass
class _Item:
    key: int
    topic: str
    digest: str
    packet_id: int
    at: float
    payload: bytes | None = None
    outcome: Answer | Failure | None = None
    state: Literal["waiting", "working", "ended", "publishing", "done"] = "waiting"
    tries: int = 0


class Line:
    """One stream's messages. Times are seconds of any clock; nothing here reads one."""

    def __init__(self, limits: Limits) -> None:
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._limits = limits
        self._items: dict[int, _Item] = {}
        self._waiting: list[int] = []
        self._unacknowledged: deque[_Item] = deque()
        self._orphans: dict[int, _Item] = {}
        self._publishing = 0
        self._nbytes = 0
        self._next = 0
        self._life = 0
        self._up = False
        self._leaving = False
        self._parting = False

    # ---- what the shell asks

    @property
    def waiting(self) -> int:
        """Messages that nobody works on yet."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Messages that are not published and confirmed."""
        return len(self._items)

    @property
    def nbytes(self) -> int:
        """Bytes of messages and answers that are held."""
        return self._nbytes

    @property
    def busy(self) -> bool:
        """Whether something besides what waits is unfinished."""
        return len(self._items) > len(self._waiting)

    def take(self) -> Work | None:
        """The worker is free: the next message, if one waits."""
        if not self._waiting:
            return None
        item = self._items[self._waiting.pop(0)]
        item.state = "working"
        assert item.payload is not None
        return Work(item.key, item.topic, item.payload, item.digest, item.at)

    # ---- events

    def connected(self, life: int, present: bool) -> list[Action]:
        """Connection `life` begins; `present`: the broker has kept the session."""
        self._life, self._up = life, True
        if not present:
            self._forget()
        return self._publish()

    def lost(self, life: int) -> list[Action]:
        """Connection `life` has ended."""
        if life != self._life or not self._up:
            return []
        self._up = self._leaving = self._parting = False
        for item in self._unacknowledged:
            if item.key >= 0:
                self._orphans[item.packet_id] = item
        self._unacknowledged.clear()
        for item in self._items.values():
            if item.state == "publishing":
                item.state = "ended"
                self.counters["republished"] += 1
        self._publishing = 0
        return []

    def arrived(
        self, life: int, now: float, topic: str, payload: bytes, digest: str, packet_id: int, again: bool
    ) -> list[Action]:
        """A message of connection `life`: `packet_id` is 0 with QoS 0, `again` the DUP flag."""
        if life != self._life or not self._up:
            return []
        self.counters["arrived"] += 1
        if self._leaving:
            return self._leave(packet_id)
        if packet_id and not again:
            self._forget()
        if again and any(
            (one.packet_id, one.topic, one.digest) == (packet_id, topic, digest) for one in self._unacknowledged
        ):
            # Not MQTT, but brokers do so: it is acknowledged in its turn.
            self.counters["rejoined"] += 1
            return []
        held = self._orphans.pop(packet_id, None) if packet_id else None
        if held is not None and (held.topic, held.digest) == (topic, digest):
            self.counters["rejoined"] += 1
            self._unacknowledged.append(held)
            return self._acknowledge()
        if max(len(self._items), len(self._unacknowledged)) >= self._limits.messages + MOST_OTHERS:
            return self._leave(packet_id)
        size, limits = len(payload), self._limits
        fault = None
        if size > limits.message_bytes:
            fault = Failure("too-large", f"{size} bytes, the limit is {limits.message_bytes}")
        elif not self._make_room(size):
            if limits.policy == "block" and packet_id:
                return self._leave(packet_id)
            fault = Failure("dropped", f"overload: {len(self._waiting)} messages wait (policy {limits.policy})")
        item = _Item(self._next, topic, digest, packet_id, now)
        self._next += 1
        self._items[item.key] = item
        if packet_id:
            self._unacknowledged.append(item)
        if fault is None:
            item.payload = payload
            self._nbytes += size
            self._waiting.append(item.key)
        else:
            self._finish(item, fault)
        return self._publish()

    def ignored(self, life: int, packet_id: int) -> list[Action]:
        """A message that is no input came (a retained one, or of another topic): acknowledged in its turn."""
        if life != self._life or not self._up or not packet_id:
            return []
        if self._leaving:
            return self._leave(packet_id)
        self._unacknowledged.append(_Item(-1, "", "", packet_id, 0.0, state="done"))
        return self._acknowledge()

    def ended(self, key: int, outcome: Answer | Failure) -> list[Action]:
        """The worker's outcome for message `key`."""
        item = self._items.get(key)
        if item is None or item.state != "working":
            return []
        self._finish(item, outcome)
        return self._publish()

    def retry(self, key: int, failure: Failure) -> list[Action]:
        """Message `key` is worth another try; after `MOST_TRIES` it ends with `failure`."""
        item = self._items.get(key)
        if item is None or item.state != "working":
            return []
        item.tries += 1
        if item.tries >= MOST_TRIES:
            return self.ended(key, failure)
        return self.put_back(key)

    def put_back(self, key: int) -> list[Action]:
        """Message `key` was not tried after all: it waits again, at its old place."""
        item = self._items.get(key)
        if item is not None and item.state == "working":
            item.state = "waiting"
            self.counters["retried"] += 1
            bisect.insort(self._waiting, key)
        return []

    def confirmed(self, life: int, key: int) -> list[Action]:
        """The broker has the answer of message `key`, published on connection `life`."""
        item = self._items.get(key)
        if life != self._life or item is None or item.state != "publishing":
            return []
        self._publishing -= 1
        self._done(item)
        return self._acknowledge() + self._publish()

    # ---- inside

    def _make_room(self, size: int) -> bool:
        limits = self._limits
        while len(self._waiting) >= limits.messages or self._nbytes + size > limits.nbytes:
            if limits.policy != "drop-oldest" or not self._waiting:
                return False
            self._finish(
                self._items[self._waiting.pop(0)],
                Failure("dropped", "overload: newer messages came (policy drop-oldest)"),
            )
        return True

    def _finish(self, item: _Item, outcome: Answer | Failure) -> None:
        if item.payload is not None:
            self._nbytes -= len(item.payload)
            item.payload = None
        item.outcome, item.state = outcome, "ended"
        if isinstance(outcome, Answer):
            self._nbytes += len(outcome.payload)
            self.counters["answered"] += 1
        else:
            known = {"dropped": "dropped", "too-large": "too_large"}
            self.counters[known.get(outcome.word, "failed")] += 1

    def _done(self, item: _Item) -> None:
        if isinstance(item.outcome, Answer):
            self._nbytes -= len(item.outcome.payload)
        item.state, item.outcome = "done", None
        del self._items[item.key]

    def _publish(self) -> list[Action]:
        actions: list[Action] = []
        for item in self._first_ended() if self._up else []:
            assert item.outcome is not None
            item.state = "publishing"
            self._publishing += 1
            actions.append(Publish(self._life, item.key, item.topic, item.digest, item.outcome))
        return actions + self._part()

    def _first_ended(self) -> list[_Item]:
        """Those that may be published now: all before them are, and the broker is not behind."""
        found: list[_Item] = []
        room = MOST_PUBLISHING - self._publishing
        for item in self._items.values():
            if item.state == "ended" and len(found) < room:
                found.append(item)
            elif item.state != "publishing":
                break
        return found

    def _acknowledge(self) -> list[Action]:
        actions: list[Action] = []
        while self._unacknowledged and self._unacknowledged[0].state == "done":
            actions.append(Acknowledge(self._life, self._unacknowledged.popleft().packet_id))
            self.counters["acknowledged"] += 1
        return actions + self._part()

    def _leave(self, packet_id: int) -> list[Action]:
        if not packet_id:
            self.counters["dropped"] += 1
            self.counters["unanswered"] += 1
            return []
        self.counters["left"] += 1
        self._leaving = True
        return self._part()

    def _part(self) -> list[Action]:
        if not self._leaving or self._parting or self._items or self._unacknowledged:
            return []
        self._parting = True
        return [Reconnect(self._life)]

    def _forget(self) -> None:
        self.counters["forgotten"] += len(self._orphans)
        self._orphans.clear()
