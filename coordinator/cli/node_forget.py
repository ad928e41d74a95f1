"""`slicemq node forget NODE`: nothing is kept of a node that does not come back."""

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
    """Clear all documents of a node that is gone for good; refused while the node is alive."""
    from coordinator.cli.ask import calling
    from slicemq.topics import check_id

    check_id("node", node)
    with calling(net) as caller:
        caller.ask("forget", {"node": node}, timeout)
    out.result({"node": node, "state": "forgotten"}, f"{node}: forgotten")
