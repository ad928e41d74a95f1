"""`slicemq broker run`: the embedded broker."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from coordinator.cli.common import Output, verb

if TYPE_CHECKING:
    from broker_config.embedded import Address


@verb
def command(
    out: Output,
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on; 0.0.0.0 lets other machines in."),
    port: int = typer.Option(1883, "--port", help="TCP port; 0 takes a free one and prints it."),
    ws_port: int = typer.Option(9001, "--ws-port", help="WebSocket port; 0 for none."),
) -> None:
    """Run an MQTT broker in this process: for trying things out and for small sites.

    It keeps everything in memory, asks nobody for a password and speaks no TLS. Prints one line when it listens and
    runs until Ctrl-C or SIGTERM. Sites with many boards are better served by mosquitto.
    """
    from broker_config.embedded import run

    def on_ready(address: Address) -> None:
        if out.json:
            ready = {
                "ready": True,
                "host": address.host,
                "port": address.port,
                "ws_port": address.ws_port,
                "urls": address.urls(),
            }
            sys.stdout.write(json.dumps(ready) + "\n")
        else:
            sys.stdout.write(f"broker ready at {' and '.join(address.urls())}\n")
        sys.stdout.flush()

    run(host, port, None if ws_port == 0 else ws_port, on_ready=on_ready)
