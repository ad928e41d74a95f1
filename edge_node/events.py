"""What happens to the agent, and what it wants done: the values that its pure core takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slicemq.messages import (
    Artifact,
    Assignment,
    Crash,
    FrameName,
    SliceAssignment,
    SliceBeat,
    SliceReport,
    Stamp,
)

At = FrameName | Literal["loading"] | None
"""What a worker was at: a frame, loading its slice, or neither."""


@dataclass(frozen=True)
class AssignmentReceived:
    """A retained assignment, new or again."""

    assignment: Assignment


@dataclass(frozen=True)
class CoordinatorSeen:
    """Some document of a coordinator, for rule 21."""

    stamp: Stamp


@dataclass(frozen=True)
class Fetched:
    """The artifact lies in the cache and has just been checked against its hash."""

    sha256: str


@dataclass(frozen=True)
class FetchFailed:
    """The artifact cannot be had; `final`: another try would end the same way."""

    sha256: str
    reason: str
    final: bool


@dataclass(frozen=True)
class WorkerReady:
    """The worker has loaded, warmed up and subscribed (rule 11)."""

    worker: int


@dataclass(frozen=True)
class WorkerBeat:
    """The worker's figures."""

    worker: int
    beat: SliceBeat


@dataclass(frozen=True)
class WorkerEmpty:
    """The worker has no slice (any more), and its memory is free."""

    worker: int


@dataclass(frozen=True)
class WorkerFailed:
    """The worker says why the slice cannot run; it ends by itself."""

    worker: int
    reason: str


@dataclass(frozen=True)
class WorkerDied:
    """The worker's process is gone; `how` tells its end (`exit code 0`, `signal 9 ...`), `at` what it was at."""

    worker: int
    how: str
    at: At = None


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = (
    AssignmentReceived
    | CoordinatorSeen
    | Fetched
    | FetchFailed
    | WorkerReady
    | WorkerBeat
    | WorkerEmpty
    | WorkerFailed
    | WorkerDied
    | Tick
)


@dataclass(frozen=True)
class Fetch:
    """Bring the artifact into the cache (or check that it is there), keeping the artifacts `keep`."""

    artifact: Artifact
    keep: frozenset[str]


@dataclass(frozen=True)
class Prefetch:
    """Bring these artifacts into the cache while nothing else is fetched, in place of earlier ones told so.

    `rate`: at most so many bytes per second (0: no limit). Neither `keep` nor `assigned` give way to them; `keep`,
    which they are among, gives way to what is fetched in earnest, and `assigned` to nothing.
    """

    artifacts: tuple[Artifact, ...]
    rate: float
    keep: frozenset[str]
    assigned: frozenset[str]


@dataclass(frozen=True)
class CancelFetch:
    """Nobody wants the artifact any more; what has come of it may stay."""

    sha256: str


@dataclass(frozen=True)
class StartWorker:
    """Start a worker process for the slice; all its events carry the number `worker`.

    Frames in `poisoned` are answered with an error (rule 10).
    """

    worker: int
    slice: SliceAssignment
    poisoned: tuple[FrameName, ...] = ()


@dataclass(frozen=True)
class StartSpare:
    """Start a worker process that has no slice yet; its WorkerDied carries the number `worker`."""

    worker: int


@dataclass(frozen=True)
class RetaskWorker:
    """Give the slice to the worker process `worker`; from then on all its events carry the number `number`.

    It is a spare, or runs a slice of the same file and tensors that is not wanted any more.
    """

    worker: int
    number: int
    slice: SliceAssignment
    poisoned: tuple[FrameName, ...] = ()


@dataclass(frozen=True)
class EmptyWorker:
    """Have the worker process `worker` give up its slice and wait for another; from then on it is `number`.

    Its WorkerEmpty or, where it then still takes more than `most` bytes, its WorkerDied is awaited.
    """

    worker: int
    number: int
    most: int


@dataclass(frozen=True)
class StopWorker:
    """End a worker; its WorkerDied is awaited."""

    worker: int


@dataclass(frozen=True)
class PublishReport:
    """What the node holds has changed."""

    slices: tuple[SliceReport, ...]
    seen: Stamp | None
    crashes: tuple[Crash, ...] = ()


Action = (
    Fetch
    | Prefetch
    | CancelFetch
    | StartWorker
    | StartSpare
    | RetaskWorker
    | EmptyWorker
    | StopWorker
    | PublishReport
)
