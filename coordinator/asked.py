"""What an operator asks of a rollout: pause, resume, promote, rollback. PURE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coordinator import rollout as rollouts
from coordinator.intents import Intent, PipelineRecord, Revision
from coordinator.settings import Settings

RolloutAction = Literal["pause", "resume", "promote", "rollback"]
ROLLOUT_ACTIONS: tuple[RolloutAction, ...] = ("pause", "resume", "promote", "rollback")


@dataclass(frozen=True)
class Asked:
    """What follows: `refused` says why nothing does; `deploy` is what to deploy again.

    Else the answer's `revision` and `state`; `cancel`: the deploy that waits for its plan ends with that. `unprobe`
    are revisions whose probing ends.
    """

    refused: str = ""
    revision: str = ""
    state: str = ""
    deploy: Intent | None = None
    cancel: bool = False
    unprobe: tuple[Revision, ...] = ()


def ask_rollout(
    record: PipelineRecord, action: RolloutAction, to: str, settings: Settings, unix: float, now: float
) -> Asked:
    """Do `action` to the rollout under way; `rollback` also undoes one that ended."""
    rollout = record.rollout
    if action == "rollback":
        return _rollback(record, to, unix, now)
    if rollout is None:
        planned = record.asked is not None
        what = "is still being planned" if planned else "is under way"
        return Asked(f"{'the' if planned else 'no'} rollout of {record.name!r} {what}: nothing to {action}")
    revision = record.revisions.get(rollout.revision)
    over = False
    if action == "pause":
        rollouts.pause(record)
    elif action == "resume":
        over = rollouts.resume(record, settings, unix, now)
    else:
        over = rollouts.promote(record, settings, unix, now)
    latest = record.rollout or record.history[-1]
    return Asked(
        revision=latest.revision,
        state=latest.state,
        unprobe=(revision,) if over and revision is not None else (),
    )


def _rollback(record: PipelineRecord, to: str, unix: float, now: float) -> Asked:
    active = record.active
    under_way = record.rollout is not None
    if record.face is None:
        return Asked(f"{record.name!r} has nothing to go back to: end it with undeploy")
    if not under_way and not to and record.asked is not None:
        return Asked(revision=active.id if active is not None else "", state="rolled-back", cancel=True)
    deploy = None if under_way and not to else rollouts.target(record, to)
    # While one is under way, what serves is what it goes back to.
    here = active is not None and (to == active.id or (under_way and not to))
    if deploy is None and not here and not (under_way and not to):
        if not to:
            return Asked(f"nothing that ran before in {record.name!r} is known: there is nothing to go back to")
        known = ", ".join(rollouts.revisions_known(record)) or "none"
        return Asked(f"revision {to} of {record.name!r} is not known; it can go back to: {known}")
    if not under_way and here:
        return Asked(f"revision {to} of {record.name!r} serves already")
    probing = rollouts.end(record, "rolled-back", "asked for by an operator", unix, now)
    if here or deploy is None:
        serves = active.id if active is not None else ""
        return Asked(revision=serves, state="rolled-back", unprobe=tuple(probing))
    return Asked(deploy=deploy, unprobe=tuple(probing))
