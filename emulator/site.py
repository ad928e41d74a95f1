"""A whole site on this machine: broker, coordinator and nodes as processes, started and broken at will."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from emulator.brokers import Amqtt, Broker, Mosquitto
from emulator.ownership import new_tag
from emulator.processes import spawn
from slicemq.errors import SliceMQError
from slicemq.options import BrokerOptions

BrokerKind = Literal["amqtt", "mosquitto"]
_READY_SECONDS = 60.0


@dataclass
class Running:
    """A started process with all that it starts; `log` holds what it prints."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @property
    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-2000:]

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started, as when a board loses its power or hangs."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return

    def end(self, patience: float = 10.0) -> int:
        """Ask it to end (SIGTERM), insist when it does not; its exit code."""
        if self.alive:
            self.signal(signal.SIGCONT)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        self.signal(signal.SIGKILL)
        return self.process.wait()


class Site:
    """One cluster of real processes. Use it as a context manager: it leaves no process behind.

    `folder` keeps logs and state; without one a temporary folder is used and deleted. `prefix` is put in front of
    the command of a node (for cgroups, namespaces, nice). `broker`: another one than a new one of `kind`.
    """

    def __init__(
        self,
        kind: BrokerKind = "amqtt",
        *,
        cluster: str = "demo",
        folder: Path | None = None,
        broker: Broker | None = None,
    ) -> None:
        self.cluster = cluster
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"{new_tag()}-site-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.broker: Broker = broker or (Amqtt() if kind == "amqtt" else Mosquitto())
        self.coordinator: Running | None = None
        self.nodes: dict[str, Running] = {}

    @property
    def options(self) -> BrokerOptions:
        """How to reach the broker."""
        return self.broker.options

    def __enter__(self) -> Site:
        self.broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process, nodes first; delete a temporary folder."""
        for running in [*self.nodes.values(), *([self.coordinator] if self.coordinator else [])]:
            running.signal(signal.SIGCONT)
            if running.alive:
                running.process.terminate()
        for running in [*self.nodes.values(), *([self.coordinator] if self.coordinator else [])]:
            running.end(5.0)
        self.broker.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start_coordinator(self, *arguments: str, prefix: Sequence[str] = ()) -> Running:
        """Start the coordinator (again): its store stays in the site's folder."""
        state = self.folder / "coordinator"
        words = ["coordinator", "run", "--state-dir", str(state), *self.network_options(), *arguments]
        self.coordinator = self.run("coordinator", [*prefix, sys.executable, "-m", "coordinator.cli", *words])
        return self.coordinator

    def start_node(self, name: str, *arguments: str, prefix: Sequence[str] = ()) -> Running:
        """Start a node (again): its cache and measurements stay in the site's folder."""
        state = self.folder / name
        words = ["--id", name, "--state-dir", str(state), *self.network_options(), *arguments]
        self.nodes[name] = self.run(name, [*prefix, sys.executable, "-m", "edge_node.main", *words])
        return self.nodes[name]

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Running:
        """Start a process in a process group of its own; `environment` in place of this process's."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = spawn(command, stdout=file, stderr=file, start_new_session=True, env=environment)
        return Running(process, log)

    def network_options(self) -> list[str]:
        """The options that point a program at this cluster."""
        return ["--broker", self.broker.url, "--cluster", self.cluster]

    def command(self, *words: str, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run a verb of `slicemq` against this cluster and return what it printed and its exit code."""
        full = [sys.executable, "-m", "coordinator.cli", *words, *self.network_options()]
        return subprocess.run(full, capture_output=True, text=True, timeout=timeout, check=False)

    def json(self, *words: str, timeout: float = 600.0) -> Any:
        """What a verb says with `--format json`. Raises SliceMQError with its message and exit code."""
        done = self.command(*words, "--format", "json", timeout=timeout)
        if done.returncode != 0:
            error = SliceMQError(f"slicemq {' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()}")
            error.exit_code = max(1, done.returncode)
            raise error
        return json.loads(done.stdout)

    def wait_ready(self, nodes: Sequence[str], timeout: float = _READY_SECONDS) -> None:
        """Wait until the coordinator coordinates and all of `nodes` are ready."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.json("status")
            ready = {row["node"] for row in status["nodes"] if row["state"] == "ready"}
            active = (status["coordinator"] or {}).get("state") == "ready"
            if active and ready >= set(nodes):
                return
            for name, running in [*self.nodes.items(), ("coordinator", self.coordinator)]:
                if running is not None and not running.alive and name in [*nodes, "coordinator"]:
                    raise SliceMQError(f"{name} ended:\n{running.tail}")
            if time.monotonic() > deadline:
                raise SliceMQError(f"not ready after {timeout:g} s: nodes {sorted(set(nodes) - ready)}")
