"""Documents beside those of messages.py: rollouts with their history, what a standby mirrors, ingresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from slicemq.messages import Artifact, Stamp
from slicemq.topics import is_id

RolloutStateWord = Literal[
    "planning", "preparing", "canary", "shadow", "promoted", "rolled-back", "superseded", "refused"
]
"""`planning` to `shadow` are under way; the others are ends."""

MOST_MIRRORED = 20_000
StandbyStateWord = Literal["mirroring", "ready", "disconnected", "lost"]

IngressStateWord = Literal["starting", "running", "holding", "disconnected", "lost", "retired"]


@dataclass(frozen=True)
class RolloutEntry:
    """One rollout: what was asked for, how far it came, and why it ended. Unix times; `ended` is 0 under way.

    `before` is the revision that served when it began.
    `fraction` is its share of the frames now; `evidence` has the figures that its health gate judges by.
    """

    revision: str
    model: Artifact
    state: RolloutStateWord
    begun: float
    ended: float = 0.0
    before: str = ""
    reason: str = ""
    fraction: float = 0.0
    paused: bool = False
    evidence: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutDocument:
    """`pipelines/<name>/rollout`: the rollout under way, if any, and those that ended, oldest first."""

    name: str
    stamp: Stamp
    current: RolloutEntry | None = None
    history: tuple[RolloutEntry, ...] = ()


@dataclass(frozen=True)
class Mirror:
    """`coordinator/mirror`: the coordinator's store as a file, and the files that its intents and slices need."""

    stamp: Stamp
    store: Artifact
    files: tuple[Artifact, ...] = ()

    def __post_init__(self) -> None:
        if len(self.files) > MOST_MIRRORED:
            raise ValueError(f"files: expected at most {MOST_MIRRORED}")


@dataclass(frozen=True)
class StandbyState:
    """`coordinator/standbys/<instance>`: `ready` means that it holds all that `mirror` (the highest one) names."""

    instance: str
    state: StandbyStateWord
    mirror: Stamp | None = None
    since: float = 0.0
    software: str = ""


@dataclass(frozen=True)
class IngressState:
    """`ingress/<id>`: a stream of plain devices' messages into one pipeline (rule 25), and its counters.

    `source` and `target` are the topics as they were given. While `holding`, `reason` says what for. `counters`
    count since `since` (Unix time).
    """

    ingress: str
    state: IngressStateWord
    epoch: str
    pipeline: str
    source: str
    target: str
    policy: str
    since: float
    reason: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    software: str = ""

    def __post_init__(self) -> None:
        if not is_id(self.ingress):
            raise ValueError(f"ingress: {self.ingress!r} is not an id")
