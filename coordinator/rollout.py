"""The life of a rollout: one deploy from its plan to its end. PURE.

| state      | leaves it when                                                        | to                   |
| ---------- | --------------------------------------------------------------------- | -------------------- |
| planning   | its plan is made                                                      | preparing            |
|            | there is no plan                                                      | refused, rolled-back |
| preparing  | the probe passed, and its policy has a shadow (else a canary)         | shadow (canary)      |
|            | the probe passed, and neither is asked for or possible; or `promote`  | promoted             |
|            | a node was lost, and it was not prepared too often                    | planning             |
|            | a golden frame's results differ, a slice fails                        | rolled-back, refused |
| shadow     | the gate says pass, and its policy has a canary                       | canary               |
| canary,    | the gate says pass (policy `auto`), or `promote`                      | promoted             |
| shadow     | the gate says fail, a slice fails, the revision before it is lost     | rolled-back          |
|            | a node of its own was lost, and it was not prepared too often         | planning             |
| any        | a later deploy has its plan, or the pipeline is undeployed            | superseded           |
|            | the deadline passes; or `rollback`                                    | rolled-back, refused |

`promoted`, `rolled-back`, `superseded` and `refused` are ends; a rollout has one. `refused` is what `rolled-back`
is called when nothing served before. While it is paused it goes neither to another step nor to its deadline, but
the gate still fails it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from coordinator.gate import Evidence, Policy
from coordinator.intents import Intent, PipelineRecord, Revision, Wish
from coordinator.lifecycle import drop_candidate, flip, step_to
from coordinator.membership import Membership
from coordinator.settings import Settings
from slicemq.operations import RolloutEntry, RolloutStateWord

MOST_KEPT = 20
"""Rollouts in a pipeline's history."""
MOST_TRIES = 3
"""How often a rollout with a policy is prepared when it loses nodes."""
EndWord = Literal["promoted", "rolled-back", "superseded", "refused"]


@dataclass(frozen=True)
class Rollout:
    """One rollout. `begun` and `ended` are Unix times; `since` (of the state) and `deadline` on the caller's clock.

    `before` served when it began, `before_intent` is what that was (None: nothing did). `passed`: the probe passed
    while it was paused, or the gate while it waits for `promote`. `hurry`: `promote` was asked before it was ready.
    """

    intent: Intent
    begun: float
    policy: Policy | None = None
    state: RolloutStateWord = "planning"
    revision: str = ""
    before: str = ""
    before_intent: Intent | None = None
    since: float = 0.0
    deadline: float = math.inf
    ended: float = 0.0
    reason: str = ""
    fraction: float = 0.0
    paused: bool = False
    passed: bool = False
    hurry: bool = False
    tries: int = 0
    evidence: dict[str, float] = field(default_factory=dict)

    def entry(self) -> RolloutEntry:
        """It in the document of rollouts."""
        return RolloutEntry(
            self.revision,
            self.intent.model,
            self.state,
            self.begun,
            self.ended,
            self.before,
            self.reason,
            self.fraction,
            self.paused,
            self.evidence,
        )


def planned_for(wish: Wish) -> RolloutEntry:
    """The entry of a deploy that waits for its plan."""
    return RolloutEntry("", wish.intent.model, "planning", wish.begun, reason=wish.reason)


def continues(record: PipelineRecord, wish: Wish | None, intent: Intent) -> bool:
    """Whether a plan of `intent` is for the rollout under way, which is prepared again."""
    rollout = record.rollout
    again = rollout is not None and rollout.state == "planning" and rollout.intent == intent
    return again and (wish is None or wish.requester is None)


def prepare(record: PipelineRecord, wish: Wish | None, revision: Revision, now: float) -> None:
    """A revision begins to prepare: of the rollout under way, of a new one, or of none (after a loss)."""
    rollout = record.rollout
    if rollout is not None and continues(record, wish, revision.intent):
        record.rollout = replace(
            rollout, state="preparing", revision=revision.id, since=now, tries=rollout.tries + 1, reason=""
        )
    elif wish is not None and wish.requester is not None:
        served = record.active
        record.rollout = Rollout(
            intent=revision.intent,
            begun=wish.begun,
            policy=wish.policy,
            state="preparing",
            revision=revision.id,
            before=served.id if served is not None else "",
            before_intent=record.intent if record.face is not None else None,
            since=now,
            deadline=now + wish.policy.deadline if wish.policy is not None else math.inf,
            reason=wish.reason,
            tries=1,
        )


def end(record: PipelineRecord, word: EndWord, reason: str, unix: float, now: float) -> list[Revision]:
    """The rollout under way ends. Unless it is promoted, its revision and what is wished for it go with it.

    Returns the revision if it was being probed.
    """
    rollout = record.rollout
    if rollout is None:
        return []
    evidence = record.evidence.figures() if record.evidence is not None else rollout.evidence
    word = "refused" if word == "rolled-back" and record.face is None else word
    fraction = 1.0 if word == "promoted" else 0.0
    ended = replace(
        rollout,
        state=word,
        reason=reason,
        ended=unix,
        evidence=evidence,
        fraction=fraction,
        paused=False,
        deadline=math.inf,
    )
    record.history = (*record.history, ended)[-MOST_KEPT:]
    record.rollout = record.evidence = None
    if word == "promoted":
        return []
    if record.wish is not None and record.wish.requester is None and record.wish.intent == rollout.intent:
        record.wish = None
    if record.job_wish is not None and record.job_wish.requester is None:
        record.job = record.job_wish = None
    if word in _IN_WORDS and reason not in record.status:
        record.status = f"{rollout.revision or 'the rollout'} was {_IN_WORDS[word]}: {reason}"
    if word == "refused":
        record.intent = None
        if record.job_wish is None:
            record.job = None
    revision = record.revisions.get(rollout.revision)
    probing = [revision] if revision is not None and revision.phase == "probing" else []
    if revision is not None and revision.phase in ("waiting", "preparing", "probing", "canary", "shadow"):
        drop_candidate(record, revision, now)
    return probing


_IN_WORDS = {"rolled-back": "rolled back", "refused": "refused"}


def refused(record: PipelineRecord, wish: Wish, reason: str, unix: float) -> None:
    """There is no plan for a deploy: nothing changes but the history."""
    served = record.active
    ended = Rollout(
        wish.intent,
        wish.begun,
        wish.policy,
        state="refused",
        before=served.id if served is not None else "",
        ended=unix,
        reason=reason,
    )
    record.history = (*record.history, ended)[-MOST_KEPT:]


def probed(record: PipelineRecord, revision: Revision, settings: Settings, unix: float, now: float) -> bool:
    """A probe passed: the next step, or the flip. Whether probing is over; a paused rollout waits before it."""
    rollout = record.rollout
    if rollout is None or rollout.revision != revision.id:
        flip(record, revision, settings, now)
        return True
    if rollout.paused and not rollout.hurry:
        record.rollout = replace(rollout, passed=True, reason="paused before its first step")
        revision.deadline = math.inf
        return False
    steps = rollout.policy.steps if rollout.policy is not None else ()
    why = _without_steps(record, rollout, revision) if steps else ""
    if not steps or why:
        _promote(record, revision, settings, why or rollout.reason, unix, now)
    else:
        _enter_step(record, rollout, revision, steps[0], now)
    return True


def _without_steps(record: PipelineRecord, rollout: Rollout, revision: Revision) -> str:
    """Why a rollout goes without shadow and canary; empty: it does not."""
    if rollout.hurry:
        return "without shadow and canary: promoted by request"
    if record.active is None:
        return "without shadow and canary: nothing served beside it"
    if revision.blueprint.spec != record.active.blueprint.spec:
        return "without shadow and canary: its inputs or outputs differ from those before"
    if revision.blueprint.stateful or record.active.blueprint.stateful:
        return "without shadow and canary: a model that keeps state has one stream of frames"
    return ""


def _enter_step(
    record: PipelineRecord, rollout: Rollout, revision: Revision, step: Literal["shadow", "canary"], now: float
) -> None:
    assert rollout.policy is not None
    assert record.active is not None
    step_to(revision, step, now)
    fraction = rollout.policy.shadow if step == "shadow" else rollout.policy.canary
    record.rollout = replace(
        rollout, state=step, since=now, fraction=fraction, passed=False, reason="", evidence={}
    )
    record.evidence = Evidence(record.active.id, revision.id, step)
    record.status = ""


def _promote(
    record: PipelineRecord, revision: Revision, settings: Settings, reason: str, unix: float, now: float
) -> None:
    flip(record, revision, settings, now)
    end(record, "promoted", reason, unix, now)


@dataclass(frozen=True)
class Moved:
    """What `advance` did: `persist` says that a decision was made, `changed` that documents differ."""

    changed: bool = False
    persist: bool = False
    unprobe: tuple[Revision, ...] = ()


def advance(
    record: PipelineRecord,
    members: Membership,
    settings: Settings,
    gone: Mapping[str, str],
    unix: float,
    now: float,
) -> Moved:
    """Move the rollout under way as far as the facts allow.

    `gone` has the revisions that were abandoned or lost since the last call, and why.
    """
    strays = [
        revision
        for revision in record.in_phase("canary", "shadow")
        if record.rollout is None or record.rollout.revision != revision.id
    ]
    for stray in strays:
        drop_candidate(record, stray, now)
    rollout = record.rollout
    if rollout is None:
        return Moved(bool(strays), bool(strays))
    before = (rollout, record.history)
    unprobe = _advance(record, rollout, members, settings, gone, unix, now)
    after = record.rollout
    changed = (after, record.history) != before
    # Figures are not worth a write to the disk.
    decided = after is None or (
        changed and replace(after, evidence={}, reason="") != replace(rollout, evidence={}, reason="")
    )
    return Moved(changed or bool(strays), decided or bool(strays), tuple(unprobe))


def _advance(
    record: PipelineRecord,
    rollout: Rollout,
    members: Membership,
    settings: Settings,
    gone: Mapping[str, str],
    unix: float,
    now: float,
) -> list[Revision]:
    if rollout.revision in gone:
        return _after_loss(record, rollout, gone[rollout.revision], unix, now)
    forsaken = record.wish is None and record.job is None and record.active is not None
    if rollout.state == "planning" and forsaken:
        return end(record, "rolled-back", rollout.reason or "there is no plan for it", unix, now)
    waits = rollout.paused or (rollout.passed and rollout.state in ("shadow", "canary"))
    policy, revision = rollout.policy, record.revisions.get(rollout.revision)
    if revision is None and rollout.state != "planning":
        # It waited for room, and there came none.
        return _after_loss(record, rollout, record.status or "its revision is gone", unix, now)
    if rollout.state in ("shadow", "canary") and policy is not None:
        if revision is None or record.active is None:
            lost = f": {gone[rollout.before]}" if rollout.before in gone else ""
            return end(record, "rolled-back", f"the revision that served beside it was lost{lost}", unix, now)
        if _judge(record, rollout, policy, revision, members, settings, unix, now):
            return []
    if not waits and now > rollout.deadline and policy is not None:
        state = f"{rollout.state}, {rollout.reason}" if rollout.reason else rollout.state
        reason = f"it took longer than {policy.deadline:g} s ({state})"
        return end(record, "rolled-back", reason, unix, now)
    return []


def _after_loss(record: PipelineRecord, rollout: Rollout, why: str, unix: float, now: float) -> list[Revision]:
    wish = record.wish
    again = wish is not None and wish.requester is None and wish.intent == rollout.intent
    # The first deploy of a pipeline is tried as long as its intent stands.
    again |= record.face is None and record.intent == rollout.intent
    if again and (rollout.policy is None or rollout.tries < MOST_TRIES):
        record.rollout = replace(
            rollout, state="planning", revision="", reason=f"{rollout.revision} was abandoned: {why}", fraction=0.0
        )
        record.evidence = None
        return []
    tried = f" (prepared {rollout.tries} times)" if rollout.tries > 1 else ""
    return end(record, "rolled-back", f"{why}{tried}", unix, now)


def _judge(
    record: PipelineRecord,
    rollout: Rollout,
    policy: Policy,
    revision: Revision,
    members: Membership,
    settings: Settings,
    unix: float,
    now: float,
) -> bool:
    """Judge a canary or shadow; whether it left its state."""
    step: Literal["shadow", "canary"] = "shadow" if rollout.state == "shadow" else "canary"
    if record.evidence is None:
        assert record.active is not None
        record.evidence = Evidence(record.active.id, revision.id, step)
    evidence = record.evidence
    evidence.slices(_counts(revision, members))
    verdict = evidence.judge(policy, now - rollout.since)
    if verdict.word == "fail":
        end(record, "rolled-back", f"{step}: {verdict.reason}", unix, now)
        return True
    if verdict.word == "pass" and not rollout.paused:
        later = policy.steps[policy.steps.index(step) + 1 :] if step in policy.steps else ()
        if later:
            _enter_step(record, rollout, revision, later[0], now)
            return True
        if policy.promote == "auto":
            _promote(record, revision, settings, f"{step}: {verdict.reason}", unix, now)
            return True
        if not rollout.passed:
            rollout = replace(rollout, passed=True, reason="healthy: waits for `rollout promote`")
    if evidence.due(now, settings.figures_every):
        waits = (
            rollout.reason if rollout.passed else "" if verdict.word == "pass" else f"waits: has {verdict.reason}"
        )
        rollout = replace(rollout, evidence=evidence.figures(), reason=waits)
    record.rollout = rollout
    return False


def _counts(revision: Revision, members: Membership) -> list[tuple[float, float]]:
    counts = []
    for name in revision.nodes:
        beat = members.node(name).beat
        keys = set(revision.keys(name))
        for entry in beat.slices if beat is not None else ():
            if (entry.pipeline, entry.revision, entry.slice) in keys:
                counts.append((float(entry.frames), float(entry.errors)))
    return counts


def pause(record: PipelineRecord) -> None:
    """Hold the rollout in its step."""
    if record.rollout is not None:
        record.rollout = replace(record.rollout, paused=True)


def resume(record: PipelineRecord, settings: Settings, unix: float, now: float) -> bool:
    """Go on; its deadline begins anew. Whether a probe that had passed was waited for no longer."""
    rollout = record.rollout
    if rollout is None:
        return False
    within = rollout.policy.deadline if rollout.policy is not None else math.inf
    record.rollout = replace(rollout, paused=False, deadline=now + within, reason="")
    return _go_on(record, settings, unix, now)


def promote(record: PipelineRecord, settings: Settings, unix: float, now: float) -> bool:
    """Let the candidate serve all frames, as soon as it is ready. Whether its probe is over with that."""
    rollout = record.rollout
    if rollout is None:
        return False
    revision = record.revisions.get(rollout.revision)
    if revision is not None and rollout.state in ("shadow", "canary"):
        _promote(record, revision, settings, f"{rollout.state}: promoted by request", unix, now)
        return False
    record.rollout = replace(rollout, hurry=True, paused=False)
    return _go_on(record, settings, unix, now)


def _go_on(record: PipelineRecord, settings: Settings, unix: float, now: float) -> bool:
    rollout = record.rollout
    assert rollout is not None
    revision = record.revisions.get(rollout.revision)
    waited = rollout.passed and revision is not None and revision.phase == "probing"
    return waited and revision is not None and probed(record, revision, settings, unix, now)


def target(record: PipelineRecord, to: str) -> Intent | None:
    """What to deploy again: what served as the revision `to` (empty: before the last one); None: not known."""
    promoted = [one for one in reversed(record.history) if one.state == "promoted"]
    if not to:
        return promoted[0].before_intent if promoted else None
    for one in promoted:
        if one.revision == to:
            return one.intent
        if one.before == to and one.before_intent is not None:
            return one.before_intent
    return None


def revisions_known(record: PipelineRecord) -> list[str]:
    """The revisions that can be gone back to, newest first."""
    named = [
        name
        for one in reversed(record.history)
        if one.state == "promoted"
        for name in (one.revision, one.before if one.before_intent is not None else "")
        if name
    ]
    active = record.active
    return [name for name in dict.fromkeys(named) if active is None or name != active.id]
