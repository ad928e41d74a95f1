"""`slicemq rollout rollback NAME [--to REVISION]`: back to what ran before."""

from __future__ import annotations

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    name: str = typer.Argument(..., help="The pipeline."),
    to: str | None = typer.Option(
        None, "--to", help="A revision of `rollout history`; default: what ran before the last rollout."
    ),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait until what ran before has all frames again."),
    timeout: float = typer.Option(600.0, "--timeout", min=1.0, help="Seconds to wait at most."),
) -> None:
    """End the rollout under way, or return to an earlier revision's model and plan (under a new revision)."""
    from coordinator.cli.rollouts import asked

    asked(net, out, name, "rollback", timeout, to=to, wait=wait)
