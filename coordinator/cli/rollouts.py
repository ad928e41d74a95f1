"""What the verbs of `slicemq rollout` share: rollouts as rows and tables, and asking the coordinator about one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from coordinator.cli.common import Network, Output
from slicemq.errors import PipelineError, UsageError
from slicemq.operations import RolloutDocument, RolloutEntry
from slicemq.topics import check_id, is_revision

if TYPE_CHECKING:
    from coordinator.cli.view import View

UNDER_WAY = ("planning", "preparing", "canary", "shadow")
_BEFORE = "before_"
_COLUMNS = ["revision", "state", "share", "before", "model", "begun", "seconds", "reason"]


def under_way(entry: RolloutEntry | None) -> bool:
    """Whether this rollout has not come to its end."""
    return entry is not None and entry.state in UNDER_WAY


def asked(
    net: Network,
    out: Output,
    name: str,
    action: str,
    timeout: float,
    *,
    to: str | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Ask the coordinator to `pause`, `resume`, `promote` or `rollback` a pipeline's rollout, and print its answer.

    to: the revision of the history that a rollback shall return to; with `wait` until what that prepares has all
    frames. Raises the coordinator's refusal.
    """
    from coordinator.cli.ask import calling
    from coordinator.cli.following import Following

    body = {"name": check_id("pipeline", name), "action": action}
    if to is not None:
        if not is_revision(to):
            raise UsageError(f"--to: expected a revision such as 3-9f2c41d7, got {to!r}")
        body["to"] = to
    begun = time.monotonic()
    with out.progress() as progress, calling(net) as caller:
        following = Following(caller, name)
        answer = caller.ask("rollout", body, timeout).body
        revision, state = str(answer.get("revision")), str(answer.get("state"))
        if wait and state in UNDER_WAY:
            task = progress.add_task(f"revision {revision}", total=None, note="")
            following.until_running(revision, timeout - (time.monotonic() - begun), progress, task)
    runs = following.running
    shown = runs or revision
    unchanged = bool(answer.get("unchanged"))
    result = {"name": name, "action": action, "revision": shown, "state": state, "running": runs is not None}
    text = f"revision {runs} runs" if runs else f"revision {revision or '-'} {state}"
    if unchanged:
        text = f"revision {revision} already runs, with that model and those options"
    out.result(result | {"unchanged": unchanged}, f"{name}: {text}")
    return result


def entry_row(entry: RolloutEntry, now: float) -> dict[str, Any]:
    """One rollout as plain JSON; `seconds` is how long it took, or has taken at the Unix time `now`."""
    ended = now if under_way(entry) or not entry.ended else entry.ended
    return {
        "revision": entry.revision,
        "model": entry.model.sha256,
        "state": entry.state,
        "paused": entry.paused,
        "before": entry.before,
        "fraction": entry.fraction,
        "reason": entry.reason,
        "begun": entry.begun,
        "ended": entry.ended,
        "seconds": round(max(0.0, ended - entry.begun), 1),
        "evidence": entry.evidence,
    }


def document_row(document: RolloutDocument, now: float) -> dict[str, Any]:
    """What `rollout status` and `status` say of one pipeline's rollouts: the one under way, and the last one."""
    last = document.history[-1] if document.history else None
    return {
        "name": document.name,
        "current": entry_row(document.current, now) if document.current is not None else None,
        "last": entry_row(last, now) if last is not None else None,
    }


def found_document(view: View, name: str) -> RolloutDocument:
    """The document of a pipeline's rollouts; an empty one where it had none yet. Raises PipelineError."""
    check_id("pipeline", name)
    document = view.rollouts.get(name)
    if document is not None:
        return document
    pipeline = view.pipelines.get(name)
    if pipeline is None:
        there = ", ".join(sorted(view.pipelines)) or "none"
        raise PipelineError(f"no pipeline is called {name!r}; there are: {there}")
    return RolloutDocument(name, pipeline.stamp)


def entries_table(rows: list[dict[str, Any]], out: Output) -> str:
    """Rollouts as text, one a line."""
    cells = [
        [
            row["revision"] or "-",
            f"{row['state']}, paused" if row["paused"] else row["state"],
            f"{100 * row['fraction']:g}%" if row["fraction"] else "",
            row["before"] or "-",
            row["model"][:12],
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["begun"])),
            f"{row['seconds']:.1f}",
            row["reason"],
        ]
        for row in rows
    ]
    return out.table(_COLUMNS, cells)


def evidence_table(evidence: dict[str, float], out: Output) -> str:
    """The figures of a health gate as text, indented by two; empty without any.

    What served before (`before_X`) stands beside what is tried (`X`).
    """
    names = [key for key in evidence if not key.startswith(_BEFORE)]
    names += [
        key[len(_BEFORE) :] for key in evidence if key.startswith(_BEFORE) and key[len(_BEFORE) :] not in names
    ]
    if not names:
        return ""
    rows = [[name, _figure(evidence.get(name)), _figure(evidence.get(_BEFORE + name))] for name in names]
    table = out.table(["figure", "tried", "before"], rows)
    return "\n".join(f"  {line}" for line in table.splitlines())


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def coordinator_note(view: View) -> str:
    """A line for people when nobody coordinates: what is shown may be old; empty otherwise."""
    state = view.coordinator_state
    if state in ("starting", "ready"):
        return ""
    word = "none has ever been there" if state is None else f"it is {state}"
    return f"no coordinator ({word}): this is what it said last, nothing moves on until one is back"
