"""A whole emulated cluster: broker, coordinator and boards as processes, with limits and links of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from emulator import sweep
from emulator.brokers import Broker
from emulator.cgroups import Group
from emulator.network import Network, check_possible
from emulator.node import EmulatedNode, batches
from emulator.ownership import new_tag
from emulator.processes import undisturbed
from emulator.roll import Roll
from emulator.scenario import Board, Scenario
from emulator.site import Running, Site
from emulator.stand import Stand
from slicemq.errors import SliceMQError
from slicemq.options import BrokerOptions

logger = logging.getLogger(__name__)

_AHEAD_SECONDS = 60.0
_LOOK_SECONDS = 1.0
# It looks a second after a change, and answers questions meanwhile.
_RESTING_SHARE = 0.1
_RESTING_LOOKS = 4
Say = Callable[[str], None]


class Cluster:
    """A scenario's fleet, running. Use it as a context manager: it leaves nothing behind.

    Entering it starts the broker, the coordinator and every board that does not join later, and returns when they
    are ready. `folder` keeps logs and state (None: a temporary one). `isolate`: False runs plain processes on
    loopback, without link rates, and with limits only where the system permits them. `measurements`: a folder in
    which what boards measured of themselves is kept for the next cluster, by type. `say` is told what goes on.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        folder: Path | None = None,
        isolate: bool = True,
        measurements: Path | None = None,
        say: Say = lambda text: None,
    ) -> None:
        self.scenario = scenario
        self.cluster = scenario.name
        self.isolated = isolate
        self._tag = new_tag()
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.gettempdir()) / f"{self._tag}-cluster"
        self._measurements = measurements or self.folder / "measurements"
        self._say = say
        self._stack = contextlib.ExitStack()
        self._network: Network | None = None
        self.nodes: dict[str, EmulatedNode] = {}
        self._later: set[str] = set()
        self.broker: Broker
        self.broker_group: Group | None = None
        self.coordinator_group: Group | None = None
        self._site: Site
        self._roll: Roll

    # ---- its life

    def __enter__(self) -> Cluster:
        if self.isolated:
            check_possible()
        else:
            logger.warning("without isolation: link rates do not count, limits only where the system permits them")
        sweep.sweep()
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process and remove namespaces, groups and a temporary folder. A second Ctrl-C waits for it."""
        with undisturbed():
            try:
                self._stack.close()
            finally:
                # What was just being made when an interruption came is not on the stack yet.
                sweep.remove(self._tag)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._own_folder:
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        boards = self.scenario.boards()
        stand = Stand(self.scenario, self._tag, self._stack, isolate=self.isolated)
        self._network = stand.network
        self.broker, self.broker_group = stand.open_broker()
        self.coordinator_group = stand.group("_coordinator")
        self._site = Site(cluster=self.cluster, folder=self.folder, broker=self.broker)
        self._stack.callback(self._end_coordinator)
        self.start_coordinator()
        self._roll = self._stack.enter_context(Roll(self.options, self.cluster))
        for board in boards:
            self.nodes[board.name] = stand.node(board, self.folder / board.name, self.broker)
        self._later = {board.name for board in boards if board.kind.joins is not None}
        self._start([board for board in boards if board.name not in self._later])

    def _start(self, boards: Sequence[Board]) -> None:
        broker = self.scenario.broker
        rate = min((r for r in (broker.rate, broker.up, broker.down) if r is not None), default=None)
        ready = 0
        measured = {path.name for path in self._measurements.glob("*")}
        for batch in batches(boards, os.cpu_count() or 1, rate, measured):
            names = [board.name for board in batch]
            self._say(f"{ready} of {len(boards)} boards ready, starting {', '.join(names)}")
            for name in names:
                self.start_node(name)
            self.wait_ready(names)
            for name in names:
                self.nodes[name].keep_measurements(self._measurements)
            ready += len(names)
        self._say(f"{ready} of {len(boards)} boards ready")

    # ---- how to reach it

    @property
    def options(self) -> BrokerOptions:
        """How the client reaches the broker."""
        return self.broker.options

    def command(self, *words: str, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run a verb of `slicemq` against this cluster and return what it printed and its exit code."""
        return self._site.command(*words, timeout=timeout)

    def json(self, *words: str, timeout: float = 600.0) -> Any:
        """What a verb says with `--format json`. Raises SliceMQError with its message when it fails."""
        return self._site.json(*words, timeout=timeout)

    def wait_ready(self, names: Sequence[str], timeout: float | None = None) -> None:
        """Wait until the coordinator and the nodes are ready. Raises SliceMQError: who is missing, who ended."""

        def check() -> None:
            self._check_coordinator()
            self._check_alive(names)

        self._roll.wait_ready(names, timeout or self.scenario.run.ready, check=check)

    def wait_nodes(self, names: Sequence[str], timeout: float | None = None) -> None:
        """As wait_ready, for nodes alone: also while there is no coordinator."""
        self._roll.wait_ready(
            names, timeout or self.scenario.run.ready, check=lambda: self._check_alive(names), coordinator=False
        )

    def settle(self, pipelines: int, timeout: float = _AHEAD_SECONDS) -> None:
        """Wait until the coordinator has prepared for losses what it can, or `timeout` is over.

        It plans and delivers for that after each deployment, beside what is measured. pipelines: how many run. A
        loss that no plan can make good never is ready, so it counts as well that the coordinator rests for seconds.
        """
        deadline = time.monotonic() + timeout
        resting, used = 0, self.coordinator_cpu_seconds()
        while time.monotonic() < deadline and resting < _RESTING_LOOKS:
            time.sleep(_LOOK_SECONDS)
            before, used = used, self.coordinator_cpu_seconds()
            resting = resting + 1 if used - before < _RESTING_SHARE * _LOOK_SECONDS else 0
            ahead = [one["contingencies"] for one in self.json("status")["pipelines"]]
            if len(ahead) >= pipelines and all(one["ready"] >= one["wanted"] for one in ahead):
                return

    def _check_coordinator(self) -> None:
        running = self._site.coordinator
        if running is not None and not running.alive:
            code = running.process.returncode
            raise SliceMQError(f"the coordinator ended with exit code {code}:\n{running.tail}")

    def _check_alive(self, names: Sequence[str]) -> None:
        for name in names:
            node = self.nodes[name]
            if not node.alive:
                by_limit = node.group is not None and node.group.killed() > 0
                why = "its memory limit ended it" if by_limit else "it ended"
                raise SliceMQError(f"node {name}: {why}:\n{node.log}")

    # ---- what is done to it

    def start_node(self, name: str) -> EmulatedNode:
        """Start a board that does not run."""
        self._node(name).start(self._site.run, self.cluster, self._measurements)
        return self.nodes[name]

    def kill_node(self, name: str) -> None:
        """SIGKILL to all that runs on a board, at once."""
        self._node(name).kill()

    def stop_node(self, name: str) -> None:
        """End a board's agent in order (SIGTERM), and wait for it."""
        running = self._node(name).running
        if running is not None:
            running.end()

    def freeze_node(self, name: str) -> None:
        """SIGSTOP to all that runs on a board: connections stay, nothing answers."""
        self._node(name).signal(signal.SIGSTOP)

    def thaw_node(self, name: str) -> None:
        """SIGCONT to all that runs on a board."""
        self._node(name).signal(signal.SIGCONT)

    def set_limits(self, name: str, *, cpu: float | None = None, memory: int | None = None) -> None:
        """Change a board's share of a core, or its memory in bytes."""
        group = self._node(name).group
        if group is None:
            raise SliceMQError(f"node {name}: the system permits no limits here")
        group.set_limits(share=cpu, memory=memory)

    def set_link(self, name: str, *, up: float | None = None, down: float | None = None) -> None:
        """Change what a board's link carries from it (`up`) and to it (`down`), bit/s. Takes isolation."""
        self._links("a link's rate").set_rate(self._node(name).board.name, up=up, down=down)

    def link_down(self, name: str) -> None:
        """Pull a board's plug. Takes isolation."""
        self._links("a link that goes down").disconnect(self._node(name).board.name)

    def link_up(self, name: str) -> None:
        """Put a board's plug in again. Takes isolation."""
        self._links("a link that goes up").connect(self._node(name).board.name)

    def start_coordinator(self) -> Running:
        """Start the coordinator (again), with its store."""
        prefix = self.coordinator_group.prefix() if self.coordinator_group is not None else []
        return self._site.start_coordinator(prefix=prefix)

    def kill_coordinator(self) -> None:
        """SIGKILL."""
        if self._site.coordinator is not None:
            self._site.coordinator.signal(signal.SIGKILL)
            self._site.coordinator.process.wait()

    @property
    def coordinator(self) -> Running | None:
        """The coordinator's process as it was started last."""
        return self._site.coordinator

    def stop_coordinator(self) -> None:
        """End it in order, and wait for it."""
        if self._site.coordinator is not None:
            self._site.coordinator.end()

    # ---- what it has used

    def broker_cpu_seconds(self) -> float:
        """Processor seconds of the broker so far; NaN where there is no group to count them."""
        return self.broker_group.cpu_seconds() if self.broker_group is not None else float("nan")

    def coordinator_cpu_seconds(self) -> float:
        """Processor seconds of the coordinator so far; NaN where there is no group to count them."""
        return self.coordinator_group.cpu_seconds() if self.coordinator_group is not None else float("nan")

    def link_bytes(self, name: str) -> tuple[int, int]:
        """Bytes that a board sent and received so far. Takes isolation."""
        return self._links("the bytes of a link").traffic()[self._node(name).board.name]

    def links_bytes(self) -> dict[str, tuple[int, int]]:
        """The same for all boards, read at one moment. Takes isolation."""
        traffic = self._links("the bytes of links").traffic()
        return {name: traffic[name] for name in self.nodes}

    def _node(self, name: str) -> EmulatedNode:
        if name not in self.nodes:
            raise SliceMQError(f"there is no node {name}: expected one of {', '.join(self.nodes)}")
        return self.nodes[name]

    def _links(self, what: str) -> Network:
        if self._network is None:
            raise SliceMQError(f"{what}: not without isolation, all is on one loopback interface")
        return self._network

    def _end_coordinator(self) -> None:
        self.kill_coordinator()
        if self.coordinator_group is not None:
            self.coordinator_group.kill()
