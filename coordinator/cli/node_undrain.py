"""`slicemq node undrain NODE`: a drained node takes slices again."""

from __future__ import annotations

import typer

from coordinator.cli.common import Network, Output, verb


@verb
def command(
    net: Network,
    out: Output,
    node: str = typer.Argument(..., help="The node."),
    timeout: float = typer.Option(30.0, "--timeout", min=1.0, help="Seconds to wait for the answer at most."),
) -> None:
    """Let a drained node take slices again; what runs elsewhere moves back only where that gains something."""
    from coordinator.cli.ask import calling
    from slicemq.topics import check_id

    check_id("node", node)
    with calling(net) as caller:
        caller.ask("undrain", {"node": node}, timeout)
    out.result({"node": node, "state": "undrained"}, f"{node}: takes slices again")
