"""The retained documents that follow from what the coordinator knows, still without their stamps. PURE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from coordinator.intents import Blueprint, PipelineRecord, Revision
from coordinator.makeroom import files_for
from coordinator.poison import Poison
from coordinator.preship import NOTHING, Preship, Shipment
from coordinator.rollout import planned_for
from slicemq.messages import (
    MOST_FILES,
    Assignment,
    FrameName,
    PipelineDocument,
    PlanDocument,
    Route,
    RouteStateWord,
    Stamp,
)
from slicemq.operations import RolloutDocument
from slicemq.topics import Topics

UNSTAMPED = Stamp(0, "", 0)
_NO_NODES: Mapping[str, str] = {}


def pipeline_document(record: PipelineRecord, poisoned: tuple[FrameName, ...] = ()) -> PipelineDocument | None:
    """What clients read; None while the pipeline's inputs and outputs are not known yet."""
    face = record.face or record.draft
    if face is None:
        return None
    removed = record.removed_at is not None
    active = record.active
    routes: list[Route] = []
    shadow: Route | None = None
    share = record.rollout.fraction if record.rollout is not None else 0.0
    canary = share if record.in_phase("canary") else 0.0
    for revision in record.revisions.values() if not removed else ():
        match revision.phase:
            case "active":
                routes.append(_route(revision, face, "active", 1.0 - canary))
            case "canary":
                routes.append(_route(revision, face, "active", canary))
            case "draining" | "lost":
                routes.append(_route(revision, face, revision.phase, 0.0))
            case "shadow":
                shadow = _route(revision, face, "active", share)
    return PipelineDocument(
        name=record.name,
        stamp=UNSTAMPED,
        state="removed" if removed else "running" if active is not None else "paused",
        reason=record.status or record.stays,
        model=record.intent.model.sha256 if record.intent is not None else "",
        spec=face.spec,
        inputs=face.inputs,
        outputs=face.outputs,
        routes=tuple(routes),
        window=face.window,
        clients=max(1, len(record.clients)),
        resend=record.resend,
        stateful=face.stateful,
        poisoned=poisoned,
        shadow=shadow,
    )


def _route(revision: Revision, face: Blueprint, state: RouteStateWord, weight: float) -> Route:
    """The route of a revision; `face` is what the document's inputs and outputs are of."""
    made = revision.blueprint
    taken, given = tuple(s.index for s in made.inputs), tuple(s.index for s in made.outputs)
    # Clients map tensors by position, which means nothing where there are more or fewer of them.
    mapped = made.spec == face.spec and (
        taken != tuple(s.index for s in face.inputs) or given != tuple(s.index for s in face.outputs)
    )
    return replace(
        made.route,
        revision=revision.id,
        state=state,
        weight=weight,
        inputs=taken if mapped else (),
        outputs=given if mapped else (),
    )


def rollout_document(record: PipelineRecord) -> RolloutDocument | None:
    """The rollout under way and those that ended; None while there was none."""
    wish = record.asked
    current = record.rollout.entry() if record.rollout is not None else planned_for(wish) if wish else None
    if current is None and not record.history:
        return None
    return RolloutDocument(record.name, UNSTAMPED, current, tuple(one.entry() for one in record.history))


def plan_document(record: PipelineRecord, corrections: dict[str, dict[str, float]]) -> PlanDocument | None:
    """The plan of the active revision, or of the one that prepares, and what later plans would count in."""
    revision = record.active or record.coming
    if revision is None or record.removed_at is not None:
        return None
    ready, wanted = record.foreseen
    planning = {
        "contingencies": {"ready": ready, "wanted": wanted},
        "prepared_for": revision.prepared_for,
        "moved": revision.why,
        "corrections": corrections,
    }
    return PlanDocument(
        record.name, UNSTAMPED, revision.id, revision.intent.model, revision.blueprint.plan, planning
    )


def assignment(
    node: str, records: Collection[PipelineRecord], stays: str | None = None, shipment: Shipment = NOTHING
) -> Assignment:
    """All that `node` shall run and have; revisions that are lost or wait for room are left out.

    `stays`: why a drained node still has slices (None: it is not drained). The files of a revision that waits for
    room come first, as fast as they can; meanwhile the others are only kept.
    """
    slices = tuple(
        item
        for record in records
        if record.removed_at is None
        for revision in record.revisions.values()
        if revision.phase not in ("lost", "waiting")
        for item in revision.assignments(node)
    )
    urgent = files_for(node, records)[:MOST_FILES]
    keep = shipment.keep
    if urgent:
        keep = tuple(dict.fromkeys([*keep, *(one.sha256 for one in shipment.prefetch)]))[:MOST_FILES]
    return Assignment(
        node,
        UNSTAMPED,
        slices,
        urgent or shipment.prefetch,
        0.0 if urgent else shipment.rate,
        keep,
        draining=stays is not None,
        reason=stays or "",
    )


def all_documents(
    topics: Topics,
    records: dict[str, PipelineRecord],
    nodes: Iterable[str],
    corrections: Callable[[PipelineRecord], dict[str, dict[str, float]]] = lambda record: {},
    drained: Mapping[str, str] = _NO_NODES,
    poison: Poison | None = None,
    preship: Preship | None = None,
) -> dict[str, Any]:
    """Every document of the coordinator except its own state, by topic.

    `corrections` gives those of a pipeline's running slices: slice -> node -> factor. `drained` gives for each
    drained node why it still has slices. `poison` knows the pipelines' poisoned frames, `preship` what nodes fetch
    ahead.
    """
    poison, preship = poison or Poison(), preship or Preship()
    documents: dict[str, Any] = {}
    for record in records.values():
        for topic, document in (
            (topics.pipeline(record.name), pipeline_document(record, poison.of(record.name))),
            (topics.plan(record.name), plan_document(record, corrections(record))),
            (topics.rollout(record.name), rollout_document(record)),
        ):
            if document is not None:
                documents[topic] = document
    for node in nodes:
        documents[topics.node(node, "assignment")] = assignment(
            node, records.values(), drained.get(node), preship.of(node)
        )
    return documents
