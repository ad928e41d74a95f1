"""`slicemq coordinator run`, and the `slicemq-coordinator` console script."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coordinator.cli.common import Network, Output, daemon
from slicemq.version import __version__

if TYPE_CHECKING:
    from types import FrameType

LOADER = "coordinator.cli.tools:load_interpreter"
CALIBRATION = "coordinator.cli.tools:reference_speeds"
RUNTIME = "coordinator.cli.tools:runtime_name"


@daemon
def command(
    net: Network,
    out: Output,
    state_dir: Path | None = typer.Option(
        None,
        "--state-dir",
        envvar="SLICEMQ_STATE_DIR",
        help="Folder of the store. Default: $STATE_DIRECTORY, else ~/.local/state/slicemq/coordinator-<cluster>.",
    ),
    heartbeat_deadline: float = typer.Option(
        1.5,
        "--heartbeat-deadline",
        min=0.5,
        help="Seconds of silence after which a node, or the coordinator before a standby, counts as lost.",
    ),
    prefetch_rate: float = typer.Option(
        8.0,
        "--prefetch-rate",
        min=0.0,
        help="Mbit/s at which all nodes together fetch, in idle time, what losses would need; 0: no limit.",
    ),
    standby: bool = typer.Option(
        False,
        "--standby",
        envvar="SLICEMQ_STANDBY",
        help="Begin as a standby: mirror the coordinator that is active, and take over when it is lost.",
    ),
) -> None:
    """Run the coordinator: it plans, hands out slices, watches the nodes and replaces those that are lost."""
    from coordinator.folder_lock import locked
    from coordinator.planning import Tools
    from coordinator.service import ServiceOptions
    from coordinator.standby_service import run_roles
    from slicemq.systemd import notify

    folder = state_dir or _default_folder(net.cluster)
    options = ServiceOptions(
        net.options,
        net.cluster,
        folder,
        Tools(LOADER, CALIBRATION, RUNTIME),
        heartbeat_deadline,
        prefetch_rate * 125_000,
    )
    stop = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    said = False

    def told(role: str, instance: str) -> None:
        nonlocal said
        notify("READY=1", f"STATUS={role}")
        if said:
            return
        said = True
        where = net.options.describe()
        state = "ready" if role == "coordinating" else role
        body = {"state": state, "cluster": net.cluster, "broker": where, "instance": instance}
        words = "ready: coordinating" if role == "coordinating" else "standby: mirroring the coordinator of"
        out.result(body, f"{words} cluster {net.cluster} at {where}")

    with locked(folder):
        run_roles(options, stop, standby=standby, told=told)
    notify("STOPPING=1")


def _default_folder(cluster: str) -> Path:
    given = os.environ.get("STATE_DIRECTORY")
    if given:
        return Path(given.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "slicemq" / f"coordinator-{cluster}"


def console() -> None:
    """The `slicemq-coordinator` console script: the same verb as a program of its own."""
    if "--version" in sys.argv[1:]:
        sys.stdout.write(f"slicemq-coordinator {__version__}\n")
        return
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    app(prog_name="slicemq-coordinator")
