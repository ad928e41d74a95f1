"""`slicemq rollout status [NAME]`: rollouts under way and what they are judged by."""

from __future__ import annotations

import time
from typing import Any

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    name: str | None = typer.Argument(None, help="The pipeline; default: all."),
) -> None:
    """Show the rollouts under way with the figures that decide them, or how the last one ended."""
    from coordinator.cli.rollouts import coordinator_note, document_row, found_document
    from coordinator.cli.view import read_view

    view = read_view(net)
    now = time.time()
    documents = [found_document(view, name)] if name is not None else [d for _, d in sorted(view.rollouts.items())]
    rows = [document_row(document, now) for document in documents]
    note = coordinator_note(view)
    body = {"cluster": net.cluster, "coordinator": view.coordinator_state, "rollouts": rows}
    out.result(body, lambda: "\n".join(filter(None, [note, _text(rows, out)])))


def _text(rows: list[dict[str, Any]], out: Output) -> str:
    from coordinator.cli.rollouts import entries_table, evidence_table

    if not rows:
        return "no rollouts"
    blocks = []
    for row in rows:
        current, last = row["current"], row["last"]
        if current is not None:
            lines = [f"{row['name']}: rollout under way", entries_table([current], out)]
            lines.append(evidence_table(current["evidence"], out))
        elif last is not None:
            lines = [f"{row['name']}: none under way; the last one:", entries_table([last], out)]
            lines.append(evidence_table(last["evidence"], out))
        else:
            lines = [f"{row['name']}: no rollout yet"]
        blocks.append("\n".join(filter(None, lines)))
    return "\n\n".join(blocks)
