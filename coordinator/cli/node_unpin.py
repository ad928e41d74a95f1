"""`slicemq node unpin PIPELINE SLICE`: a slice may run anywhere again."""

from __future__ import annotations

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    pipeline: str = typer.Argument(..., help="The pipeline."),
    place: str = typer.Argument(
        ..., metavar="SLICE", help="What was pinned: a slice such as s0, or operators FIRST-LAST."
    ),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait until the revision without the pin runs."),
    timeout: float = typer.Option(600.0, "--timeout", min=1.0, help="Seconds to wait at most."),
) -> None:
    """Let the planner place a pinned slice again; that is a new revision."""
    from coordinator.cli.pins import pin
    from slicemq.errors import UsageError

    if "=" in place or not place:
        raise UsageError(f"SLICE: expected such as s0, without a node, got {place!r}")
    pin(net, out, pipeline, place, "", wait=wait, timeout=timeout)
