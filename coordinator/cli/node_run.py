"""`slicemq node run`: the same program as `slicemq-node`, which reads its own options."""

from __future__ import annotations

import typer

FORWARDS = True


def command(context: typer.Context) -> None:
    """Run an edge node (see `slicemq node run --help`)."""
    from edge_node.main import main

    raise typer.Exit(main(context.args, prog="slicemq node run"))
