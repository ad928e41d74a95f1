"""`slicemq rollout resume NAME`: let a paused rollout go on."""

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
    """Let a paused rollout go on from where it was held."""
    from coordinator.cli.rollouts import asked

    asked(net, out, name, "resume", timeout)
