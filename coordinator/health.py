"""How a revision is, by what its nodes say: what is wrong with it, whether it is ready, whether it is empty. PURE.

Whatever is at fault is shunned for a while, so that the next plan does without it.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.intents import PipelineRecord, Revision
from coordinator.membership import Membership
from coordinator.settings import Settings


def trouble_of(revision: Revision, members: Membership) -> str | None:
    """Why a revision cannot go on: a node, a slice or a data broker of it is not there."""
    for name in revision.nodes:
        node = members.node(name)
        if not node.alive:
            return f"node {name} was lost" if node.state == "lost" else f"node {name} has stopped"
        report = node.current_report
        for entry in report.slices if report is not None else ():
            if entry.state == "failed" and (entry.pipeline, entry.revision, entry.slice) in revision.keys(name):
                blame(revision, members, name, [entry.slice])
                return f"slice {entry.slice} failed on {name}: {entry.reason or 'no reason given'}"
    for name, url in revision.brokers.items():
        capacity = members.node(name).current_capacity
        if capacity is not None and capacity.broker != url:
            if not capacity.broker:
                # One that comes and goes would else be in every second plan.
                members.shun_broker(name)
            return f"node {name}: its data broker {url} does not answer"
    return None


def hanging(revision: Revision, members: Membership) -> str | None:
    """Why a slice of a revision counts as hanging, its link as lost (rule 19); None: none does."""
    for name in revision.nodes:
        for key in revision.keys(name):
            why = members.stuck(name, key, revision.blueprint.stage_seconds.get(key[2], 0.0))
            if why is not None:
                if members.link_is_down(name, key):
                    blame(revision, members, name, [key[2]])
                else:
                    members.shun(name)
                return f"slice {key[2]} on {name}: {why}"
    return None


def unready_for(
    record: PipelineRecord, revision: Revision, members: Membership, settings: Settings, now: float
) -> str | None:
    """Why a revision that took frames is ready no more; None: it is, or has not been not ready for long.

    Notes since when; once it is ready again, what its slices held is gone, so clients send again.
    """
    missing = unready(revision, members)
    if not missing:
        if revision.unready is not None:
            revision.unready = None
            record.resend += 1
        return None
    if revision.unready is None:
        revision.unready = now
    if now - revision.unready <= settings.unready_grace:
        return None
    for name, slices in missing.items():
        if not _ended_by_frames(revision, members, name, slices):
            blame(revision, members, name, slices)
    return f"slices not ready for {now - revision.unready:.0f} s: {listed(missing)}"


def unready(revision: Revision, members: Membership) -> dict[str, list[str]]:
    """node -> its slices of this revision that do not report ready in its current life."""
    missing: dict[str, list[str]] = {}
    for name in revision.nodes:
        report = members.node(name).current_report
        ready = {
            (entry.pipeline, entry.revision, entry.slice)
            for entry in (report.slices if report is not None else ())
            if entry.state == "ready"
        }
        absent = [key[2] for key in revision.keys(name) if key not in ready]
        if absent:
            missing[name] = absent
    return missing


def has_drained(revision: Revision, members: Membership, settings: Settings, now: float) -> bool:
    """Whether no frame moves through a revision any more, or it had its time (rule 14)."""
    frames, busy = 0, False
    for name in revision.nodes:
        beat = members.node(name).beat
        keys = set(revision.keys(name))
        for entry in beat.slices if beat is not None else ():
            if (entry.pipeline, entry.revision, entry.slice) in keys:
                frames += entry.frames
                busy |= entry.queued > 0 or entry.waiting > 0
    if frames != revision.frames or busy or revision.quiet is None:
        revision.frames, revision.quiet = frames, now
    return now - revision.quiet >= settings.drain_quiet or now >= revision.deadline


def note_cut(record: PipelineRecord, revision: Revision, members: Membership) -> None:
    """Have clients send again when the last connection is back: what they sent before may have met nobody."""
    cut = any(members.is_cut_off(name, key) for name in revision.nodes for key in revision.keys(name))
    record.resend += revision.cut and not cut
    revision.cut = cut


def blame(revision: Revision, members: Membership, name: str, slices: Iterable[str]) -> None:
    """For a while plan without what may be at fault: the data brokers of these slices, else the node."""
    brokers = revision.brokers_of(name, slices)
    for broker in brokers:
        members.shun_broker(broker)
    if not brokers:
        members.shun(name)


def _ended_by_frames(revision: Revision, members: Membership, name: str, slices: list[str]) -> bool:
    """Whether frames have ended the workers of these slices: no fault of the node (rule 10)."""
    report = members.node(name).current_report
    crashed = {
        crash.slice
        for crash in (report.crashes if report is not None else ())
        if crash.frame is not None and crash.revision == revision.id and crash.pipeline == revision.intent.name
    }
    return crashed.issuperset(slices)


def listed(missing: dict[str, list[str]]) -> str:
    """`s0+s1 on pi-1, s2 on pi-2`."""
    return ", ".join(f"{'+'.join(slices)} on {name}" for name, slices in sorted(missing.items()))
