"""`slicemq rollout history NAME`: the rollouts of a pipeline and how each ended."""

from __future__ import annotations

import time

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    name: str = typer.Argument(..., help="The pipeline."),
) -> None:
    """List the rollouts of a pipeline, the newest first, with how each ended and why."""
    from coordinator.cli.rollouts import coordinator_note, entries_table, entry_row, found_document
    from coordinator.cli.view import read_view

    view = read_view(net)
    document = found_document(view, name)
    now = time.time()
    entries = [*([document.current] if document.current is not None else []), *reversed(document.history)]
    rows = [entry_row(entry, now) for entry in entries]
    body = {"cluster": net.cluster, "coordinator": view.coordinator_state, "name": name, "rollouts": rows}
    table = entries_table(rows, out) if rows else f"{name}: no rollout yet"
    out.result(body, "\n".join(filter(None, [coordinator_note(view), table])))
