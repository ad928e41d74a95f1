"""`slicemq node pin PIPELINE SLICE=NODE`: a slice runs on this node."""

from __future__ import annotations

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    pipeline: str = typer.Argument(..., help="The pipeline."),
    place: str = typer.Argument(
        ..., metavar="SLICE=NODE", help="Such as s0=pi-1, or operators FIRST-LAST=NODE such as 10-20=pi-1."
    ),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait until it runs there."),
    timeout: float = typer.Option(600.0, "--timeout", min=1.0, help="Seconds to wait at most."),
) -> None:
    """Keep a slice of a running pipeline on a node; that is a new revision, and holds until `node unpin`."""
    from coordinator.cli.pins import pin
    from slicemq.errors import UsageError
    from slicemq.topics import check_id

    key, equals, node = place.partition("=")
    if not equals or not key or not node:
        raise UsageError(f"SLICE=NODE: expected such as s0=pi-1, got {place!r}")
    pin(net, out, pipeline, key, check_id("node", node), wait=wait, timeout=timeout)
