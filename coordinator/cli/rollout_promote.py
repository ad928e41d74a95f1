"""`slicemq rollout promote NAME`: give all frames to what is being rolled out."""

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
    """Give all frames to the revision that is tried, without waiting for its gate (for --promote manual)."""
    from coordinator.cli.rollouts import asked

    asked(net, out, name, "promote", timeout)
