"""What the coordinator keeps: intents, revisions, and their form in the store. PURE."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from coordinator.gate import Evidence, Policy
from coordinator.membership import SliceKey
from slicemq.messages import Artifact, Route, SliceAssignment, TensorSpec

if TYPE_CHECKING:
    from coordinator.rollout import Rollout

Phase = Literal["waiting", "preparing", "probing", "shadow", "canary", "active", "draining", "lost"]
KEPT_BYTES = 2_000_000_000
"""Of the models of earlier rollouts that can be gone back to; those of the latest two are kept in any case."""


@dataclass(frozen=True)
class Intent:
    """What an operator asked for: this model under this name.

    `plan` is a plan file's content when the operator gave one; then no other is made while its nodes live.
    `options` are the planner's options as plain JSON. `calibration` are the typical inputs that codecs are measured
    on (converters/samples.py; None: on noise). `golden` are inputs with the results that are expected of them
    (converters/golden.py; None: the coordinator makes one).
    """

    name: str
    model: Artifact
    plan: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    calibration: Artifact | None = None
    golden: Artifact | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The files that plans of it need."""
        return (self.model, *(file for file in (self.calibration, self.golden) if file is not None))


@dataclass(frozen=True)
class GoldenCheck:
    """Frames whose results are known: a file (converters/golden.py), how many it has, and how much may differ.

    `tolerance` is max|a-b| / max|a| over a tensor; a frame may allow more of its own.
    """

    artifact: Artifact
    frames: int
    tolerance: float


@dataclass(frozen=True)
class Blueprint:
    """A made plan with its slices cut and stored: all that a revision of it needs.

    `slices` gives each node's assignments, whose revision is put in later.
    `stage_seconds` is the predicted time of each slice, by slice id. A `stateful` one has a window of 1 (rule 6).
    `computing` is slice -> node -> predicted seconds of one call of the interpreter, by the profile and the node's
    speeds alone; empty where nothing was predicted. `golden` is what probe frames are compared with.
    """

    digest: str
    plan: dict[str, Any]
    slices: dict[str, tuple[SliceAssignment, ...]]
    route: Route
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    spec: str
    window: int
    stage_seconds: dict[str, float]
    stateful: bool = False
    computing: dict[str, dict[str, float]] = field(default_factory=dict)
    golden: GoldenCheck | None = None

    def with_error_of(self, made: Blueprint) -> Blueprint:
        """This one with the error of results that `made` states, a later one of the same digest."""
        error = made.plan.get("error")
        return self if self.plan.get("error") == error else replace(self, plan={**self.plan, "error": error})


@dataclass
class Revision:
    """A blueprint on its way through its life (the table of phases is at the head of lifecycle.py).

    `since` is when its phase began and `deadline` when the phase must end, both on the caller's clock;
    `unready` and `quiet` are since when a slice is not ready, and since when no frame moves (None: not so).
    `cut` says that the connection of one of its slices may be down. `prepared_for` is the node for whose loss its
    plan had been made ahead (empty: it was made when it was needed), `why` what the pipeline moves for by itself
    (empty: it does not). `factors` are the corrections that its plan was made with: slice -> node -> factor.
    """

    id: str
    intent: Intent
    blueprint: Blueprint
    phase: Phase = "preparing"
    since: float = 0.0
    deadline: float = math.inf
    unready: float | None = None
    quiet: float | None = None
    frames: int = -1
    cut: bool = False
    prepared_for: str = ""
    why: str = ""
    factors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    _kept: _Numbered | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def nodes(self) -> Set[str]:
        """The nodes that run a slice of it, in an order that is the same in every process."""
        return self.blueprint.slices.keys()

    @property
    def brokers(self) -> dict[str, str]:
        """The data brokers that carry bundles of it: node -> URL."""
        return self._numbered.brokers

    def brokers_of(self, node: str, slices: Iterable[str]) -> set[str]:
        """The nodes whose data brokers carry bundles of these slices on `node`."""
        named = set(slices)
        return {
            name for item in self.blueprint.slices.get(node, ()) if item.slice in named for name in item.brokers
        }

    def keys(self, node: str) -> list[SliceKey]:
        """The slices that `node` runs for it."""
        return self._numbered.keys[node]

    def assignments(self, node: str) -> list[SliceAssignment]:
        """What `node` is told to run for it."""
        return self._numbered.items.get(node, [])

    @property
    def _numbered(self) -> _Numbered:
        kept = self._kept
        if kept is None or kept.slices is not self.blueprint.slices:
            kept = self._kept = _Numbered(self.id, self.blueprint.slices)
        return kept


class _Numbered:
    """What follows from a revision's slices and its name, made once: it is asked for at every tick."""

    def __init__(self, revision: str, slices: dict[str, tuple[SliceAssignment, ...]]) -> None:
        self.slices = slices
        self.items = {node: [replace(item, revision=revision) for item in items] for node, items in slices.items()}
        self.keys = {
            node: [(item.pipeline, revision, item.slice) for item in items] for node, items in slices.items()
        }
        self.brokers: dict[str, str] = {}
        for items in slices.values():
            for item in items:
                self.brokers |= item.brokers


@dataclass
class Wish:
    """A request (`requester`: its client and transaction), or one accepted before, that waits for its plan.

    `why` is what a pipeline that is served moves for by itself; that stands in the store, so such a wish does not.
    `room`: it is planned into the memory of what serves, because both do not fit (why not; empty: beside it).
    `later`: there is no room for it while nothing serves; what served before comes first, if that fits.
    `policy` is how its revision takes over (None: as soon as its probe passed), `begun` the Unix time of the
    request, `deadline` when its plan must be there on the caller's clock, `reason` why it was made.
    """

    intent: Intent
    requester: tuple[str, str] | None
    why: str = ""
    room: str = ""
    later: bool = False
    policy: Policy | None = None
    begun: float = 0.0
    deadline: float = math.inf
    reason: str = ""


@dataclass(frozen=True)
class Room:
    """How far the making of room for a revision is (the table of steps is at the head of makeroom.py).

    `blueprint` and `intent` are of what served, `why` is why both do not fit, `deadline` the end of the step.
    """

    step: Literal["fetching", "emptying", "unloading"]
    blueprint: Blueprint
    intent: Intent
    why: str
    deadline: float


@dataclass
class PipelineRecord:
    """One pipeline: what runs, what is wished for, and what it waits for.

    `intent` is None until the first plan succeeded; `highest` is the highest revision number ever used for this
    name (rule 1); `face` is the blueprint whose specs clients see, once one was active, and `draft` the newest
    one before that; `job` is the planning under way; `foreseen` is for how many losses of a node a plan is
    ready, and for how many there shall be one. `stays` is why slices cannot leave nodes that are drained,
    `moves_at` when to look for a way again (infinity: when there are other nodes or more memory). `rollout` is
    the one under way, with its `evidence` while it is judged; `history` are those that ended, oldest first.
    `room`: what is emptied for the revision that waits.
    """

    name: str
    intent: Intent | None = None
    highest: int = 0
    revisions: dict[str, Revision] = field(default_factory=dict)
    face: Blueprint | None = None
    draft: Blueprint | None = None
    wish: Wish | None = None
    job: int | None = None
    job_wish: Wish | None = None
    retry_at: float = -math.inf
    failures: int = 0
    needs_nodes: bool = False
    status: str = ""
    resend: int = 0
    clients: dict[str, float] = field(default_factory=dict)
    removed_at: float | None = None
    foreseen: tuple[int, int] = (0, 0)
    stays: str = ""
    moves_at: float = -math.inf
    room: Room | None = None
    rollout: Rollout | None = None
    evidence: Evidence | None = None
    history: tuple[Rollout, ...] = ()

    def in_phase(self, *phases: Phase) -> list[Revision]:
        """The revisions in any of `phases`, oldest first."""
        return [revision for revision in self.revisions.values() if revision.phase in phases]

    @property
    def active(self) -> Revision | None:
        """The revision that clients send to."""
        found = self.in_phase("active")
        return found[-1] if found else None

    @property
    def asked(self) -> Wish | None:
        """The request that waits for its plan."""
        return next((w for w in (self.wish, self.job_wish) if w is not None and w.requester is not None), None)

    @property
    def coming(self) -> Revision | None:
        """The revision that prepares, or waits for room (rule 12: one at a time)."""
        found = self.in_phase("waiting", "preparing", "probing")
        return found[-1] if found else None

    def look_again(self) -> None:
        """There are other nodes, or more memory, than when a plan was not to be had."""
        self.needs_nodes = False
        if self.moves_at == math.inf:
            self.moves_at = -math.inf


def files_in_use(records: Iterable[PipelineRecord]) -> set[str]:
    """The hashes of the models, calibration sets, golden frames and slices that pipelines need.

    They run or prepare them, are asked for with them, or may go back to them.
    """
    found: set[str] = set()
    for record in records:
        wishes = [wish.intent for wish in (record.wish, record.job_wish) if wish is not None]
        for intent in (record.intent, *wishes, *(revision.intent for revision in record.revisions.values())):
            found |= {file.sha256 for file in intent.artifacts} if intent is not None else set()
        for revision in record.revisions.values():
            made = revision.blueprint
            found |= {item.artifact.sha256 for items in made.slices.values() for item in items}
            found |= {made.golden.artifact.sha256} if made.golden is not None else set()
        found |= _earlier(record)
    return found


def _earlier(record: PipelineRecord) -> set[str]:
    """The files of what rollouts promoted or replaced, newest first, as far as there is room for them."""
    under_way = [] if record.rollout is None else [record.rollout.intent, record.rollout.before_intent]
    ended = [one for one in reversed(record.history) if one.state == "promoted"]
    intents = [*under_way, *(intent for one in ended for intent in (one.intent, one.before_intent))]
    found: dict[str, int] = {}
    for number, intent in enumerate(dict.fromkeys(i.model for i in intents if i is not None)):
        files = {f.sha256: f.size for i in intents if i is not None and i.model == intent for f in i.artifacts}
        if number >= 2 and sum((found | files).values()) > KEPT_BYTES:
            break
        found |= files
    return set(found)
