"""`slicemq undeploy NAME`: end a pipeline."""

from __future__ import annotations

import typer

from coordinator.cli.common import Network, Output, verb
from slicemq.topics import check_id


@verb
def command(
    net: Network,
    out: Output,
    name: str = typer.Argument(..., help="The pipeline."),
    timeout: float = typer.Option(30.0, "--timeout", min=1.0, help="Seconds to wait at most."),
) -> None:
    """End a pipeline: its nodes unload their slices, and its clients are told."""
    from coordinator.cli.ask import calling

    check_id("pipeline", name)
    with calling(net) as caller:
        caller.ask("undeploy", {"name": name}, timeout)
    out.result({"name": name, "state": "removed"}, f"{name}: removed")
