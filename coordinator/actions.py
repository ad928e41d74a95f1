"""What the pure core asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from coordinator.intents import GoldenCheck, Intent, PipelineRecord, Revision
from coordinator.known import Known
from slicemq.messages import Capacity, Response, Route, TensorSpec


@dataclass(frozen=True)
class Publish:
    """Own a retained document: publish it now and on every connection."""

    topic: str
    document: Any


@dataclass(frozen=True)
class Clear:
    """Clear a retained topic (an empty retained payload) and forget it."""

    topic: str


@dataclass(frozen=True)
class Persist:
    """Store the records before anything later in the list is published (rule 24)."""


@dataclass(frozen=True)
class Listen:
    """Send a beat of the coordinator's own at once: what waits for the next one that comes back is urgent."""


@dataclass(frozen=True)
class Respond:
    """Answer a client's request."""

    client: str
    response: Response


@dataclass(frozen=True)
class MakePlan:
    """Plan `intent` on `nodes` (each capacity's `memory` is what is free), cut and store its slices.

    `known` is what was learnt of the nodes. Nodes in `avoid` are used only when the others do not suffice. `client`
    has the model if the store has not.
    The answer is `Cluster.on_planned` or `on_plan_failed` with the same job.
    """

    job: int
    intent: Intent
    nodes: tuple[Capacity, ...]
    avoid: frozenset[str]
    client: str | None
    known: Known = field(default_factory=Known)


@dataclass(frozen=True)
class PlanAhead:
    """Make a plan, in idle time, that the loss of the node `lost` would need; any `MakePlan` ends it at once.

    With an empty `lost`: one to compare what runs with.

    The answer is `Cluster.on_foreseen`, or `on_unforeseen` with why there is no plan, with the plan's job.
    """

    lost: str
    plan: MakePlan


# Turns that a revision's probe frames go through at the same time.
PROBES_AT_ONCE = 16


@dataclass(frozen=True)
class Probe:
    """Send a frame through each turn of a revision, again until `StopProbe`.

    `Cluster.on_probed` when for every turn all parts of one frame's result came. With `golden` these are its first
    `frames` frames, each through every turn; `Cluster.on_probe_failed` when a result is not the expected one.
    `coarse`: a difference up to this is only worth a line in the log.
    """

    pipeline: str
    revision: str
    route: Route
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    golden: GoldenCheck | None = None
    frames: int = 1
    coarse: float = 0.0


COARSE = 0.5
"""max|a-b| / max|a| that replaces a golden frame's tolerance where the same model served and nothing does."""


def probe_of(record: PipelineRecord, revision: Revision) -> Probe:
    """The probe of a revision: all golden frames for a rollout, one where the same model served before.

    After a loss the nodes that are left may compute with other kernels than those before. They serve although their
    results differ somewhat, because else nothing would; results that are wrong by far are never given.
    """
    made = revision.blueprint
    known = record.face is not None and revision.intent == record.intent
    frames = made.golden.frames if made.golden is not None and not known else 1
    coarse = COARSE if known and record.active is None else 0.0
    return Probe(record.name, revision.id, made.route, made.inputs, made.outputs, made.golden, frames, coarse)


@dataclass(frozen=True)
class StopProbe:
    """Stop probing a revision."""

    pipeline: str
    revision: str


Action = Publish | Clear | Persist | Listen | Respond | MakePlan | PlanAhead | Probe | StopProbe
