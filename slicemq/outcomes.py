"""What the ledger gives: actions for the shell, outcomes for the application, counters for everybody."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy.typing as npt

from slicemq.messages import Route, TensorSpec


@dataclass(frozen=True)
class Send:
    """Send the frame to this route: one attempt, from one reading of the document (rule 4).

    `inputs` are by their index in the route's model. `first` is the first frame of its run on a stateful pipeline
    (slicemq/run.py), else 0. A `copy` is for a shadow (slicemq/shadow.py) and no attempt.
    """

    sequence: int
    attempt: int
    route: Route
    inputs: Any
    first: int = 0
    copy: bool = False


@dataclass(frozen=True)
class Release:
    """Give the lease of a stateful revision back: no run that began up to frame `sequence` goes on."""

    revision: str
    sequence: int


@dataclass(frozen=True)
class Outcome:
    """How a frame ended: `tensors` by whole-model index, or a `reason` word (and `message`) when it failed.

    `specs` are the model's outputs when it was answered; `latency` is seconds from submit; `revision` the one
    that answered (empty when none did).
    """

    sequence: int
    revision: str
    attempts: int
    latency: float
    tensors: dict[int, npt.NDArray[Any]] = field(default_factory=dict)
    specs: tuple[TensorSpec, ...] = ()
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Deliver:
    """Hand the outcome to the application; these actions come in the order of submission."""

    outcome: Outcome


Dispatch: TypeAlias = "Send | Release"
Action: TypeAlias = "Dispatch | Deliver"


@dataclass(frozen=True)
class Failover:
    """A route with frames on it was lost at `at`; `seconds` later came the first result of `revision`."""

    lost: str
    revision: str
    at: float
    seconds: float


@dataclass
class Counters:
    """What happened since the start; `dropped` counts refused results and documents by cause."""

    submitted: int = 0
    answered: int = 0
    failed: int = 0
    sent: int = 0
    resent: int = 0
    missed: int = 0
    doubles: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failovers: deque[Failover] = field(default_factory=lambda: deque(maxlen=100))
