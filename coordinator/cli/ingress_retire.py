"""`slicemq ingress retire ID`: delete the session that an ingress has in the broker."""

from __future__ import annotations

import typer

FORWARDS = True


def command(context: typer.Context) -> None:
    """End an ingress for good, with the messages that wait for it (see `slicemq ingress retire --help`)."""
    from ingress.main import retire_main

    raise typer.Exit(retire_main(context.args, prog="slicemq ingress retire"))
