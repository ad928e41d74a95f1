"""`slicemq ingress run`: the same program as `slicemq-ingress`, which reads its own options."""

from __future__ import annotations

import typer

FORWARDS = True


def command(context: typer.Context) -> None:
    """Let devices that only speak plain MQTT use a pipeline (see `slicemq ingress run --help`)."""
    from ingress.main import main

    raise typer.Exit(main(context.args, prog="slicemq ingress run"))
