"""`slicemq rollout pause NAME`: hold a rollout where it is."""

from __future__ import annotations

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    name: str = typer.Argument(..., help="The pipeline."),
    timeout: float = typer.Option(30.0, "--timeout", min=1.0, help="Seconds to wait for the answer at most."),
) -> None:
    """Hold a rollout where it is: its share stays, and nothing is promoted until it is resumed."""
    from coordinator.cli.rollouts import asked

    asked(net, out, name, "pause", timeout)
