"""A standby's mind: what it holds, whether somebody coordinates, and when it takes over. PURE.

    what is seen                                              what follows
    a mirror higher than those before                         fetch it; `ready` once all of it is held (rule 22)
    the active one's last will, or its farewell, live         take over when it is one's turn
    its beats missing for a heartbeat deadline, counted       take over when it is one's turn
    only while the own marker comes back (rule 20)
    own connection lost                                       count anew, with time for the others to come back
    beats of one that starts to coordinate                    wait: it was quicker
    beats or documents of a lower term                        nothing (rule 21)

Whose turn it is: those that hold the highest mirror come before the others, and among equals the lower instance.
Each waits `TURN` seconds more than the one before it. One that does not hold the highest mirror waits `INCOMPLETE`
seconds besides, because somebody who holds it may come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.membership import BEAT_INTERVAL, HEARTBEAT_DEADLINE, RECONNECT_GRACE
from slicemq.messages import Artifact, Beat, CoordinatorState, Stamp
from slicemq.operations import Mirror, StandbyState, StandbyStateWord

TURN = 1.0
INCOMPLETE = 15.0
# More would be no standbys but somebody who invents them.
_MOST_STANDBYS = 64


@dataclass(frozen=True)
class FetchMirror:
    """Bring everything that the mirror names into the folder; what was asked for before is not wanted any more."""

    mirror: Mirror


@dataclass(frozen=True)
class Tell:
    """What the standby holds has changed: publish it."""

    state: StandbyStateWord
    mirror: Stamp | None


@dataclass(frozen=True)
class TakeOver:
    """Coordinate from now on; `missing` are files of the highest mirror that are not here."""

    why: str
    missing: tuple[Artifact, ...] = ()


Action = FetchMirror | Tell | TakeOver


class Standby:
    """Events and times (monotonic seconds) in, actions out. `held`: the mirror that the folder holds at first."""

    def __init__(self, instance: str, *, held: Stamp | None = None, deadline: float = HEARTBEAT_DEADLINE) -> None:
        self._instance = instance
        self._deadline = deadline
        self._held = held
        self._listened = False
        self._told: tuple[StandbyStateWord, Stamp | None] = ("mirroring", held)
        self._missing: tuple[Artifact, ...] = ()
        self._highest: Mirror | None = None
        self._leader: tuple[int, str] | None = None
        self._others: dict[str, StandbyState] = {}
        # The listening clock (membership.py): it runs only while the own marker comes back.
        self._clock = 0.0
        self._last_marker: float | None = None
        self._cut_off = False
        self._heard = 0.0
        self._starting = -math.inf
        self._gone = ""
        self._absent: float | None = None

    @property
    def state(self) -> StandbyStateWord:
        """`ready` when all of the highest mirror is here."""
        return "ready" if self._complete else "mirroring"

    @property
    def held(self) -> Stamp | None:
        """The mirror that is here as a whole."""
        return self._held

    @property
    def _complete(self) -> bool:
        newest, held = self._newest, self._held
        if held is None or not self._listened or (newest is not None and held < newest):
            return False
        # Who coordinates with a higher term has a store of its own, told or not.
        return self._leader is None or held.term >= self._leader[0]

    @property
    def _newest(self) -> Stamp | None:
        """The highest mirror that is known of, by its own document or because another standby holds it."""
        known = [one.mirror for one in self._others.values() if one.mirror is not None]
        return max([*known, *([self._highest.stamp] if self._highest is not None else [])], default=None)

    # -- what is heard -------------------------------------------------------------------------------------

    def on_mirror(self, mirror: Mirror) -> list[Action]:
        """What the active one says that a standby must hold."""
        if self._highest is not None and mirror.stamp <= self._highest.stamp:
            return []
        self._highest, self._missing = mirror, mirror.files
        wanted = [] if self._held == mirror.stamp else [FetchMirror(mirror)]
        return [*wanted, *self._news()]

    def on_fetched(self, mirror: Mirror, missing: Iterable[Artifact] = ()) -> list[Action]:
        """A mirror was fetched, but for `missing`."""
        missing = tuple(missing)
        if self._highest is not None and mirror.stamp != self._highest.stamp:
            return []
        self._missing = missing
        if missing:
            return []
        self._held = mirror.stamp
        return self._news()

    def on_beat(self, beat: Beat) -> list[Action]:
        """A beat of a coordinator: one that coordinates, or (term 0) one that starts."""
        if beat.instance == self._instance:
            return []
        if beat.term == 0:
            self._starting = self._clock
        else:
            self._alive((beat.term, beat.instance))
        return self._news()

    def on_coordinator(self, document: CoordinatorState, *, retained: bool) -> list[Action]:
        """The document of a coordinator. A retained one may be old: then only its beats count."""
        key = (document.stamp.term, document.stamp.instance)
        if self._leader is not None and self._leader[1] == key[1]:
            # A will is written before its owner has a term.
            key = max(key, self._leader)
        if self._leader is not None and key < self._leader:
            return []
        self._leader = key
        if retained or document.stamp.instance == self._instance:
            return self._news()
        if document.state in ("lost", "disconnected"):
            how = "was lost" if document.state == "lost" else "has stopped"
            self._gone = f"coordinator {key[1][:8]} {how}"
        else:
            self._alive(key)
        return self._news()

    def on_standby(self, document: StandbyState) -> list[Action]:
        """The state of another standby."""
        if document.instance == self._instance:
            return []
        if document.state in ("disconnected", "lost"):
            self._others.pop(document.instance, None)
        elif document.instance in self._others or len(self._others) < _MOST_STANDBYS:
            self._others[document.instance] = document
        return self._news()

    def on_down(self) -> None:
        """The connection to the broker is down: what is not heard says nothing (rule 20)."""
        self._last_marker = None
        self._cut_off = True
        self._gone = ""
        self._absent = None
        self._others.clear()

    def on_marker(self, now: float) -> list[Action]:
        """The own marker came back: time counts (rule 20), and what was retained has been read (rule 23)."""
        self._listened = True
        if self._last_marker is None:
            # Others may need the longest pause between two tries to come back.
            self._heard = self._clock + (RECONNECT_GRACE if self._cut_off else 0.0)
            self._cut_off = False
        else:
            self._clock += min(max(0.0, now - self._last_marker), 2 * BEAT_INTERVAL)
        self._last_marker = now
        return [*self._news(), *self._decide()]

    # -- what is decided -----------------------------------------------------------------------------------

    def _alive(self, key: tuple[int, str]) -> None:
        if self._leader is not None and key < self._leader:
            return
        self._leader = key
        self._heard = max(self._heard, self._clock)
        self._gone = ""

    def _decide(self) -> list[Action]:
        silent = self._clock - self._heard
        if not self._gone and silent <= self._deadline:
            self._absent = None
            return []
        if self._clock - self._starting <= self._deadline:
            # Should it die on its way, the turns begin anew.
            self._absent = None
            return []
        if self._absent is None:
            self._absent = self._clock
        wait = TURN * self._turn() + (0.0 if self._complete else INCOMPLETE)
        if self._clock - self._absent < wait:
            return []
        self._absent = None
        why = self._gone or f"no coordinator was heard for {silent:.1f} s"
        return [TakeOver(why, () if self._complete else self._missing)]

    def _turn(self) -> int:
        """How many standbys come before this one."""
        newest = self._newest
        mine = (not self._complete, self._instance)
        others = ((one.state != "ready" or one.mirror != newest, one.instance) for one in self._others.values())
        return sum(other < mine for other in others)

    def _news(self) -> list[Action]:
        if (self.state, self._held) == self._told:
            return []
        self._told = (self.state, self._held)
        return [Tell(*self._told)]
