"""The agent's mind: assignment + what happens -> what to fetch, start, stop and report. PURE.

A slice that the node holds is in one of these phases. It leaves the table (and the report) only when it is
no longer assigned and its worker is gone, because only then is its memory free (protocol rule 12).

    phase     reported as          leaves by
    fetching  fetching             Fetched -> waiting; FetchFailed -> failed, or fetching again after a pause
    waiting   loading, "waiting    room -> starting; it has room when its memory fits beside what is held, or
              for memory"          when nothing is being stopped that could free some
    starting  loading              WorkerReady -> running; WorkerFailed -> failed; WorkerDied -> fetching
    running   ready                WorkerDied -> fetching (which checks the file's hash again before the load);
                                   not wanted any more, and its worker taken over -> gone
    failed    failed, reason       a new revision
    stopping  loading, "stopping"  WorkerDied or WorkerEmpty -> gone; wanted again by then -> fetching

A slice that is wanted anew and has the file and tensors of a running one that is not wanted any more takes over
that one's worker, as loaded as it is (RetaskWorker), and is starting. Stateful slices do not: their state is
another one.

A spare is a worker without a slice: it has imported all that it needs, and the next slice to start gets it. It is
started when all slices have been at rest for a second, where the memory of all that is wanted and held leaves
room for one more worker, and ended when it does not. Where there is none, the worker of a slice that is stopped
becomes it (EmptyWorker): what it has imported need not be imported again. So while two revisions of a pipeline are
held, one of which drains as a rule, none is started for some time.

Two deaths of a slice's worker within a minute fail the slice (rule 10). Two by the same frame do not: that frame is
poisoned, and the slice's next worker answers it with an error. Every event of a worker carries the number that
StartWorker or RetaskWorker gave it, so that late words of an earlier one change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from edge_node.crashes import POISONED_AT, Crashes
from edge_node.events import (
    Action,
    AssignmentReceived,
    CancelFetch,
    CoordinatorSeen,
    EmptyWorker,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    Prefetch,
    PublishReport,
    RetaskWorker,
    StartSpare,
    StartWorker,
    StopWorker,
    Tick,
    WorkerBeat,
    WorkerDied,
    WorkerEmpty,
    WorkerFailed,
    WorkerReady,
)
from slicemq.messages import (
    Artifact,
    Assignment,
    FrameName,
    SliceAssignment,
    SliceBeat,
    SliceReport,
    SliceStateWord,
    Stamp,
)

_WorkerEvent = WorkerReady | WorkerBeat | WorkerEmpty | WorkerFailed | WorkerDied
Key = tuple[str, str, str]
Phase = Literal["fetching", "waiting", "starting", "running", "failed", "stopping"]

CRASH_SECONDS = 60.0
RETRY_SECONDS = 2.0
MOST_RETRY_SECONDS = 30.0
# At rest for so long, the node starts a spare worker: longer while an older revision's worker may soon be free.
REST_SECONDS = 1.0
CHANGE_SECONDS = 15.0
# A spare that died is replaced after so long, and later each time.
SPARE_AGAIN = 10.0
MOST_SPARE_AGAIN = 640.0
# An emptied worker may take so much of a fresh one's memory.
EMPTIED_SHARE = 1.1
_WORDS: dict[Phase, SliceStateWord] = {
    "fetching": "fetching",
    "waiting": "loading",
    "starting": "loading",
    "running": "ready",
    "failed": "failed",
    "stopping": "loading",
}
_WHY: dict[Phase, str] = {"waiting": "waiting for memory", "stopping": "stopping"}


@dataclass
class _Held:
    slice: SliceAssignment
    phase: Phase = "fetching"
    reason: str = ""
    worker: int | None = None
    deaths: list[tuple[float, FrameName | None]] = field(default_factory=list)
    beat: SliceBeat | None = None


class Agent:
    """`handle(event, now)` gives the actions that the event causes; `now` is monotonic seconds.

    `memory` is what the slices may take in all, `worker_memory` what each worker but the first takes besides
    (the first is taken off `memory` already). `spare`: keep a worker ready where there is room.
    """

    def __init__(self, memory: int, worker_memory: int, *, spare: bool = False) -> None:
        self._memory = memory
        self._worker_memory = worker_memory
        self._keeps_spare = spare
        self._spare: int | None = None
        self._emptied: int | None = None
        self._spare_due = 0.0
        self._spare_pause = SPARE_AGAIN
        self._busy_at = 0.0
        self._crashes = Crashes()
        self._wanted: dict[Key, SliceAssignment] = {}
        self._held: dict[Key, _Held] = {}
        self._workers: dict[int, Key] = {}
        self._fetching: set[str] = set()
        self._retries: dict[str, tuple[float, float]] = {}
        self._ahead: tuple[tuple[Artifact, ...], float, frozenset[str]] = ((), 0.0, frozenset())
        self._told_ahead = Prefetch((), 0.0, frozenset(), frozenset())
        self._assigned: Stamp | None = None
        self._seen: Stamp | None = None
        self._next_worker = 1
        self._reported: PublishReport | None = None

    @property
    def seen(self) -> Stamp | None:
        """The highest stamp of any coordinator's document (rule 21)."""
        return self._seen

    @property
    def assigned(self) -> frozenset[str]:
        """Hashes of the artifacts that are assigned or still in use: the cache keeps them."""
        return frozenset(s.artifact.sha256 for s in self._wanted.values()) | frozenset(
            held.slice.artifact.sha256 for held in self._held.values()
        )

    @property
    def spare_memory(self) -> int:
        """Bytes that a spare worker takes."""
        return self._worker_memory if self._spare is not None else 0

    def beats(self) -> tuple[SliceBeat, ...]:
        """The figures of all running slices."""
        return tuple(held.beat for held in self._held.values() if held.phase == "running" and held.beat)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take one event in."""
        if isinstance(event, WorkerBeat):
            # Figures, many times a second: nothing but the heartbeat says them.
            self._worker_event(event, now)
            return []
        again = False
        if isinstance(event, AssignmentReceived):
            again = self._assignment(event.assignment)
        elif isinstance(event, CoordinatorSeen):
            self._saw(event.stamp)
        elif isinstance(event, Fetched):
            self._fetched(event.sha256)
        elif isinstance(event, FetchFailed):
            self._fetch_failed(event, now)
        elif not isinstance(event, Tick):
            self._worker_event(event, now)
        return self._settle(now, again)

    def _assignment(self, assignment: Assignment) -> bool:
        """Take over a newer assignment; True when it is the one that we have, so that the report goes out again."""
        stamp = assignment.stamp
        outdated = self._assigned is not None and stamp < self._assigned
        outranked = self._seen is not None and stamp.term < self._seen.term
        self._saw(stamp)
        if outdated or outranked:
            return False
        if stamp == self._assigned:
            return True
        self._assigned = stamp
        self._wanted = {_key(one): one for one in assignment.slices}
        kept = frozenset(assignment.keep) | {one.sha256 for one in assignment.prefetch}
        self._ahead = (assignment.prefetch, assignment.prefetch_rate, kept)
        return False

    def _saw(self, stamp: Stamp) -> None:
        if self._seen is None or stamp > self._seen:
            self._seen = stamp

    def _fetched(self, sha256: str) -> None:
        self._fetching.discard(sha256)
        self._retries.pop(sha256, None)
        for held in self._with_artifact(sha256):
            held.phase, held.reason = "waiting", ""

    def _fetch_failed(self, event: FetchFailed, now: float) -> None:
        self._fetching.discard(event.sha256)
        delay = min(MOST_RETRY_SECONDS, 2 * self._retries.get(event.sha256, (0.0, RETRY_SECONDS / 2))[1])
        if event.final:
            self._retries.pop(event.sha256, None)
        else:
            self._retries[event.sha256] = (now + delay, delay)
        for held in self._with_artifact(event.sha256):
            held.phase = "failed" if event.final else "fetching"
            held.reason = event.reason

    def _with_artifact(self, sha256: str) -> Iterable[_Held]:
        return [h for h in self._held.values() if h.phase == "fetching" and h.slice.artifact.sha256 == sha256]

    def _worker_event(self, event: _WorkerEvent, now: float) -> None:
        if event.worker == self._spare:
            self._spare_spoke(event, now)
            return
        key = self._workers.get(event.worker)
        held = self._held.get(key) if key is not None else None
        if key is None or held is None:
            return
        if isinstance(event, WorkerReady):
            if held.phase == "starting":
                held.phase = "running"
        elif isinstance(event, WorkerBeat):
            held.beat = event.beat
        elif isinstance(event, WorkerEmpty):
            if event.worker == self._emptied:
                del self._workers[event.worker], self._held[key]
                self._spare, self._emptied = event.worker, None
        elif isinstance(event, WorkerFailed):
            if held.phase != "stopping":
                held.phase, held.reason = "failed", event.reason
        else:
            self._died(key, held, event, now)

    def _died(self, key: Key, held: _Held, event: WorkerDied, now: float) -> None:
        del self._workers[event.worker]
        if event.worker == self._emptied:
            self._emptied = None
        held.worker, held.beat = None, None
        if held.phase == "stopping":
            del self._held[key]
        elif held.phase in ("starting", "running"):
            doing = "loading" if held.phase == "starting" else "running"
            frame = event.at if isinstance(event.at, FrameName) else None
            times = self._crashes.note(now, held.slice, event.at, event.how)
            recent = [death for death in held.deaths if now - death[0] < CRASH_SECONDS] + [(now, frame)]
            if frame is not None and times >= POISONED_AT:
                recent = [death for death in recent if death[1] != frame]
            held.deaths = recent
            if len(recent) >= 2:
                held.phase = "failed"
                held.reason = f"its worker died twice within {CRASH_SECONDS:g} s: {event.how} while {doing}"
            else:
                held.phase = "fetching"
                held.reason = f"starting again: its worker died: {event.how} while {doing}"

    def _spare_spoke(self, event: _WorkerEvent, now: float) -> None:
        if isinstance(event, WorkerDied):
            self._spare = None
            self._spare_due = now + self._spare_pause
            self._spare_pause = min(2 * self._spare_pause, MOST_SPARE_AGAIN)

    def _settle(self, now: float, again: bool) -> list[Action]:
        actions: list[Action] = []
        self._retask(actions)
        self._drop(actions)
        for key, wanted in self._wanted.items():
            self._held.setdefault(key, _Held(wanted))
        self._fetch(actions, now)
        self._start(actions)
        ahead = Prefetch(*self._ahead, self.assigned if self._ahead[2] else frozenset())
        if ahead != self._told_ahead:
            self._told_ahead = ahead
            actions.append(ahead)
        self._mind_spare(actions, now)
        crashes = self._crashes.told(now, (key[0] for key in self._held))
        report = PublishReport(tuple(map(_report, self._held.values())), self._assigned, crashes)
        if again or report != self._reported:
            self._reported = report
            actions.append(report)
        return actions

    def _retask(self, actions: list[Action]) -> None:
        """Let slices that are not held yet take over the workers of running ones that are not wanted any more."""
        for key, wanted in self._wanted.items():
            if key in self._held:
                continue
            for old_key, old in self._held.items():
                gone = old.phase == "running" and self._wanted.get(old_key) != old.slice
                if gone and old.worker is not None and _same_work(old.slice, wanted):
                    number = self._assign_worker(key)
                    del self._workers[old.worker], self._held[old_key]
                    self._held[key] = _Held(wanted, "starting", worker=number)
                    poisoned = self._crashes.poisoned(wanted.pipeline)
                    actions.append(RetaskWorker(old.worker, number, wanted, poisoned))
                    break

    def _assign_worker(self, key: Key) -> int:
        number = self._next_worker
        self._next_worker += 1
        self._workers[number] = key
        return number

    def _drop(self, actions: list[Action]) -> None:
        """Stop what is not wanted (or wanted otherwise); forget it where no worker holds memory."""
        for key, held in list(self._held.items()):
            if held.phase == "stopping" or self._wanted.get(key) == held.slice:
                continue
            if held.worker is None:
                del self._held[key]
            else:
                actions.append(self._empty(key, held, held.worker) or StopWorker(held.worker))
                held.phase = "stopping"

    def _empty(self, key: Key, held: _Held, worker: int) -> EmptyWorker | None:
        """Have the worker of a slice that is not wanted become the spare, where there is none and room for it."""
        if not self._keeps_spare or self._spare is not None or self._emptied is not None:
            return None
        if held.phase != "running" or not self._has_room_for_spare(without=key):
            return None
        del self._workers[worker]
        held.worker = self._emptied = self._assign_worker(key)
        return EmptyWorker(worker, held.worker, int(EMPTIED_SHARE * self._worker_memory))

    def _fetch(self, actions: list[Action], now: float) -> None:
        needed = {h.slice.artifact.sha256: h.slice.artifact for h in self._held.values() if h.phase == "fetching"}
        for sha256 in sorted(self._fetching - needed.keys()):
            self._fetching.discard(sha256)
            actions.append(CancelFetch(sha256))
        for sha256 in [one for one in self._retries if one not in needed]:
            del self._retries[sha256]
        for sha256, artifact in needed.items():
            if sha256 not in self._fetching and now >= self._retries.get(sha256, (now, 0.0))[0]:
                self._fetching.add(sha256)
                actions.append(Fetch(artifact, self.assigned))

    def _start(self, actions: list[Action]) -> None:
        for key, held in self._held.items():
            if held.phase != "waiting" or not self._has_room(held.slice):
                continue
            number = self._assign_worker(key)
            held.phase, held.worker = "starting", number
            poisoned = self._crashes.poisoned(held.slice.pipeline)
            if self._spare is None:
                actions.append(StartWorker(number, held.slice, poisoned))
            else:
                actions.append(RetaskWorker(self._spare, number, held.slice, poisoned))
                self._spare, self._spare_pause = None, SPARE_AGAIN

    def _mind_spare(self, actions: list[Action], now: float) -> None:
        """Start a spare worker, or end it where its memory is wanted for slices."""
        room = self._has_room_for_spare()
        if any(held.phase not in ("running", "failed") for held in self._held.values()):
            self._busy_at = now
        if self._spare is not None and not room:
            actions.append(StopWorker(self._spare))
            self._spare, self._spare_due = None, now + REST_SECONDS
        revisions = {key[:2] for key in self._held}
        changing = len({pipeline for pipeline, _ in revisions}) < len(revisions)
        rest = CHANGE_SECONDS if changing else REST_SECONDS
        rested = now - self._busy_at >= rest and now >= self._spare_due
        if self._keeps_spare and self._spare is None and self._emptied is None and room and rested:
            self._spare = self._next_worker
            self._next_worker += 1
            actions.append(StartSpare(self._spare))

    def _has_room_for_spare(self, without: Key | None = None) -> bool:
        """Whether one more worker fits beside those there are, and beside all that is wanted when it runs.

        `without`: a slice whose worker does not count.
        """
        held_now = [held for key, held in self._held.items() if held.worker is not None and key != without]
        loaded = [held.slice.memory for held in held_now]
        wanted = [one.memory for one in self._wanted.values()]
        # A slice that has no worker yet takes the spare.
        taken = any((held := self._held.get(key)) is None or held.worker is None for key in self._wanted)
        return all(
            sum(memories) + count * self._worker_memory <= self._memory
            for memories, count in ((loaded, len(loaded)), (wanted, len(wanted) - taken))
        )

    def _has_room(self, wanted: SliceAssignment) -> bool:
        if all(held.phase != "stopping" for held in self._held.values()):
            return True
        loaded = [held.slice.memory for held in self._held.values() if held.worker is not None]
        return sum(loaded) + wanted.memory + len(loaded) * self._worker_memory <= self._memory


def _key(one: SliceAssignment) -> Key:
    return (one.pipeline, one.revision, one.slice)


def _same_work(old: SliceAssignment, new: SliceAssignment) -> bool:
    """Whether a worker that runs `old` can run `new` with what it has loaded."""
    if old.stateful or new.stateful or old.pipeline != new.pipeline:
        return False
    return (old.artifact, old.takes, old.gives) == (new.artifact, new.takes, new.gives)


def _report(held: _Held) -> SliceReport:
    one = held.slice
    reason = held.reason if held.phase != "running" else ""
    return SliceReport(one.pipeline, one.revision, one.slice, _WORDS[held.phase], _WHY.get(held.phase, reason))
