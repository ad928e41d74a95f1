"""`slicemq model watch DIR`: what comes into a folder is rolled out."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Network, Output, daemon
from coordinator.cli.deploy_options import with_deploy_options
from slicemq.errors import ConfigError

if TYPE_CHECKING:
    from types import FrameType


@daemon
@with_deploy_options
def command(
    net: Network,
    out: Output,
    folder: Path = typer.Argument(
        ..., metavar="DIR", help="Holds PIPELINE.tflite, or PIPELINE/VERSION.tflite: the highest version counts."
    ),
    every: float = typer.Option(2.0, "--every", min=0.1, help="Seconds between two looks at the folder."),
    settle: float = typer.Option(
        3.0, "--settle", min=0.0, help="Seconds for which a file must stand still before it is taken."
    ),
    **given: Any,
) -> None:
    """Roll out each new or changed model in a folder under its pipeline's name, until it is stopped.

    Options of `deploy` hold for every rollout. What runs already is not deployed again; what failed waits for its
    file to change. With `--format json` each event is one line of JSON.
    """
    from coordinator.cli.deployment import check_options
    from coordinator.cli.watcher import Watcher
    from slicemq.systemd import notify

    check_options(given)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder")
    stop = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)

    def ready() -> None:
        notify("READY=1\nSTATUS=watching")
        where = net.options.describe()
        body = {"state": "ready", "folder": str(folder), "cluster": net.cluster, "broker": where}
        out.event(body, f"ready: watching {folder} for cluster {net.cluster} at {where}")

    Watcher(net, out, folder, given, settle=settle, on_ready=ready).run(stop, every)
    notify("STOPPING=1")
