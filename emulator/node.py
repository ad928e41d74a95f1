"""One board of an emulated cluster: its process, its limits, its relay, its data broker."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emulator.brokers import Broker
from emulator.cgroups import Group
from emulator.relay_handle import RelayProcess
from emulator.scenario import Board, NodeType, Scenario
from emulator.site import Running
from slicemq.errors import SliceMQError

_SPEEDS = "speeds.json"
# What benchmarks set on purpose; all else that a user set for nodes of his own is not for emulated ones.
_PASSED_ON = frozenset({"SLICEMQ_DATA_LINK"})
Start = Callable[[str, Sequence[str], Mapping[str, str]], Running]


@dataclass
class EmulatedNode:
    """A board. `group` is None where the system permits no limits, `running` until it is started.

    prefix: words that put a process on the board; relay: between the board and the broker (None: none is needed);
    data_broker: the second broker, on the board (None: none).
    """

    board: Board
    folder: Path
    prefix: list[str]
    gateway: str
    group: Group | None = None
    running: Running | None = None
    relay: RelayProcess | None = None
    data_broker: Broker | None = None
    arguments: list[str] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether its agent runs (frozen or not)."""
        return self.running is not None and self.running.alive

    @property
    def log(self) -> str:
        """The end of what it printed."""
        return self.running.tail if self.running is not None else ""

    def cpu_seconds(self) -> float:
        """Processor seconds of agent, workers and data broker; NaN where there is no group to count them."""
        return self.group.cpu_seconds() if self.group is not None else float("nan")

    def limits_felt(self) -> dict[str, float | int | None]:
        """What the limits did so far; None where it is not known.

        memory_peak_mb: the most memory, MB; memory_kills: processes that the memory limit ended;
        throttled_seconds: how long the share of a core held processes back, summed over processors.
        """
        if self.group is None:
            return {"memory_peak_mb": None, "memory_kills": None, "throttled_seconds": None}
        peak = self.group.memory_peak()
        return {
            "memory_peak_mb": None if peak is None else peak / 1e6,
            "memory_kills": self.group.killed(),
            "throttled_seconds": self.group.throttled_seconds(),
        }

    def start(self, run: Start, cluster: str, measurements: Path) -> None:
        """Start the agent (again): its cache and measurements are still there.

        A board that has not measured itself takes over what one of its type has.
        """
        if self.alive:
            raise SliceMQError(f"{self.board.name}: it runs already")
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = measurements / speeds_name(self.board.kind)
        if kept.exists() and not (self.folder / _SPEEDS).exists():
            shutil.copy(kept, self.folder / _SPEEDS)
        if self.data_broker is not None and not self._broker_runs():
            self.data_broker.start()
        self.running = run(self.board.name, [*self.prefix, *self._command(cluster)], environment())

    def keep_measurements(self, measurements: Path) -> None:
        """Keep what this board has measured for others of its type."""
        own = self.folder / _SPEEDS
        if own.exists():
            measurements.mkdir(parents=True, exist_ok=True)
            shutil.copy(own, measurements / speeds_name(self.board.kind))

    def signal(self, number: int) -> None:
        """Send a signal to all that runs on the board."""
        if self.group is not None:
            self.group.signal(number)
        elif self.running is not None:
            self.running.signal(number)

    def kill(self) -> None:
        """End all that runs on the board at once, as when it loses its power."""
        if self.running is not None:
            self.running.signal(signal.SIGKILL)
        if self.group is not None:
            self.group.kill()
        if self.data_broker is not None and self._broker_runs():
            self.data_broker.kill()
        if self.running is not None:
            self.running.process.wait()

    def close(self) -> None:
        """End it and remove its limits."""
        self.kill()
        if self.data_broker is not None:
            self.data_broker.close()
        if self.relay is not None:
            self.relay.close()
        if self.group is not None:
            self.group.remove()

    def _broker_runs(self) -> bool:
        process = self.data_broker.process if self.data_broker is not None else None
        return process is not None and process.poll() is None

    def _command(self, cluster: str) -> list[str]:
        kind = self.board.kind
        words = ["--id", self.board.name, "--cluster", cluster, "--broker", self.gateway]
        words += ["--config", os.devnull, "--state-dir", str(self.folder), "--runtime", kind.runtime]
        if kind.threads is not None:
            words += ["--threads", str(kind.threads)]
        if self.data_broker is not None:
            words += ["--data-broker", self.data_broker.url]
        for name, content in kind.labels.items():
            words += ["--label", f"{name}={content}"]
        return [sys.executable, "-m", "edge_node.main", *words, *kind.options, *self.arguments]


def speeds_name(kind: NodeType) -> str:
    """A file name that is the same for boards on which the same things are measured."""
    return f"speeds-{kind.runtime}-{kind.threads}-{kind.cpu}.json"


def needs_relay(scenario: Scenario, board: Board) -> bool:
    """Whether something of the scenario takes a relay in front of this board."""
    kind = board.kind
    scripted = any(event.node == board.name and event.what in ("delay", "cut") for event in scenario.events)
    return bool(scripted or kind.delay or kind.jitter or kind.cut_every)


def environment() -> dict[str, str]:
    """The environment of emulated programs: this process's, without settings meant for real nodes."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("SLICEMQ_") or name in _PASSED_ON
    }


def batches(
    boards: Sequence[Board], cores: float, rate: float | None, measured: Collection[str] = ()
) -> list[list[Board]]:
    """Which boards start together, so that they do not disturb each other's measurements. PURE.

    One of each type whose `speeds_name` is not among those `measured` comes first, on its own: it measures for its
    type. Then as many at once as `cores` processors and the broker's link of `rate` bit/s (None: unlimited) carry,
    at least one.
    """
    firsts: dict[str, Board] = {}
    for board in boards:
        if speeds_name(board.kind) not in measured:
            firsts.setdefault(speeds_name(board.kind), board)
    found = [[board] for board in firsts.values()]
    batch: list[Board] = []
    for board in boards:
        if board in firsts.values():
            continue
        bigger = [*batch, board]
        crowded = sum(one.kind.cpu or 1.0 for one in bigger) > cores
        full = rate is not None and sum(max(one.up or rate, one.down or rate) for one in bigger) > rate
        if batch and (crowded or full):
            found.append(batch)
            batch = [board]
        else:
            batch = bigger
    return [*found, batch] if batch else found
