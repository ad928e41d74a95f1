"""Carries out the faults of `benchmarks.chaos` on a running cluster: `World`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.chaos_plan import COORDINATOR, Planned
from emulator.cluster import Cluster
from emulator.node import EmulatedNode
from emulator.processes import spawn
from slicemq.errors import SliceMQError

MEMORY = 2_000_000_000
"""Bytes that every node may take, agent and workers together, except while a memory fault takes them away."""

_HOG = """
import os, sys, time
open("/proc/self/oom_score_adj", "w").write("-1000")
held = []
for _ in range(4000):
    held.append(bytearray(b"x") * 262144)
    time.sleep(0.001)
"""
_HOG_SECONDS = 8.0
_MARGIN = 4_000_000
Undo = Callable[[], None]


def _nothing() -> None:
    pass


class ImpossibleError(Exception):
    """A fault that cannot be carried out just now, such as ending a worker where none runs."""


class World:
    """A cluster, its clients' process ids by name, and the ballast files of its small disks by owner."""

    def __init__(self, cluster: Cluster, clients: Mapping[str, int], ballast: Mapping[str, Path]) -> None:
        self.cluster = cluster
        self._clients = clients
        self._ballast = ballast
        self._down: set[str] = set()

    def do(self, fault: Planned) -> tuple[str, Undo]:
        """Carry out a fault: on what exactly, and how to undo it. Raises ImpossibleError, SliceMQError."""
        method = getattr(self, "_" + fault.kind.replace("-", "_"))
        made: tuple[str, Undo] = method(fault)
        return made

    def ended(self) -> list[str]:
        """Nodes and coordinator that ended by themselves, with the end of what they printed."""
        nodes = self.cluster.nodes.items()
        found = [f"node {name}:\n{node.log}" for name, node in nodes if not node.alive and name not in self._down]
        coordinator = self.cluster.coordinator
        if coordinator is not None and not coordinator.alive and COORDINATOR not in self._down:
            found.append(f"coordinator:\n{coordinator.tail}")
        return found

    # ---- nodes

    def _agent_kill(self, fault: Planned) -> tuple[str, Undo]:
        node = self._node(fault)
        assert node.running is not None
        self._down.add(fault.targets[0])
        node.running.process.kill()
        node.running.process.wait()
        return "", lambda: self._revive(fault.targets[0])

    def _node_kill(self, fault: Planned) -> tuple[str, Undo]:
        self._down.add(fault.targets[0])
        self.cluster.kill_node(fault.targets[0])
        return "", lambda: self._revive(fault.targets[0])

    def _two_nodes_kill(self, fault: Planned) -> tuple[str, Undo]:
        self._down.update(fault.targets)
        for name in fault.targets:
            self.cluster.kill_node(name)

        def undo() -> None:
            for name in fault.targets:
                self._revive(name)

        return "", undo

    def _worker_kill(self, fault: Planned) -> tuple[str, Undo]:
        name, worker = self._worker(fault)
        os.kill(worker, signal.SIGKILL)
        return f"process {worker} of {name}", _nothing

    def _node_freeze(self, fault: Planned) -> tuple[str, Undo]:
        self.cluster.freeze_node(fault.targets[0])
        return "", lambda: self.cluster.thaw_node(fault.targets[0])

    def _worker_freeze(self, fault: Planned) -> tuple[str, Undo]:
        name, worker = self._worker(fault)
        os.kill(worker, signal.SIGSTOP)

        def undo() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

        return f"process {worker} of {name}", undo

    def _node_memory(self, fault: Planned) -> tuple[str, Undo]:
        node = self._node(fault)
        assert node.running is not None
        return self._out_of_memory(fault, fault.targets[0], node.running.process.pid)

    def _worker_memory(self, fault: Planned) -> tuple[str, Undo]:
        return self._out_of_memory(fault, *self._worker(fault))

    def _out_of_memory(self, fault: Planned, name: str, victim: int) -> tuple[str, Undo]:
        group = self.cluster.nodes[name].group
        assert group is not None
        with contextlib.suppress(OSError):
            Path(f"/proc/{victim}/oom_score_adj").write_text("1000")
        self._down.add(name)
        before, used = group.killed(), group.memory() or 0
        self.cluster.set_limits(name, memory=used + _MARGIN)
        hog = spawn([*group.prefix(), sys.executable, "-c", _HOG])
        try:
            deadline = time.monotonic() + _HOG_SECONDS
            while group.killed() == before and time.monotonic() < deadline:
                time.sleep(0.002)
        finally:
            hog.kill()
            hog.wait()
            self.cluster.set_limits(name, memory=MEMORY)
        if group.killed() == before:
            raise SliceMQError(f"{fault.words}: the memory limit ended no process within {_HOG_SECONDS:g} s")
        return f"process {victim} of {name}", lambda: self._revive(name)

    def _link_down(self, fault: Planned) -> tuple[str, Undo]:
        self.cluster.link_down(fault.targets[0])
        return "", lambda: self.cluster.link_up(fault.targets[0])

    def _node_reset(self, fault: Planned) -> tuple[str, Undo]:
        node = self._node(fault)
        assert node.group is not None
        pids = sorted(node.group.processes())
        if not pids:
            raise ImpossibleError("the node does not run")
        ports = list(_ports({pids[fault.draw % len(pids)]}, _inside(node)))
        if not ports:
            raise ImpossibleError("a process without a connection")
        _reset(ports, _inside(node))
        return f"{len(ports)} connections", _nothing

    def _node_disk_full(self, fault: Planned) -> tuple[str, Undo]:
        return self._fill(fault.targets[0])

    # ---- the rest

    def _coordinator_disk_full(self, fault: Planned) -> tuple[str, Undo]:
        return self._fill(COORDINATOR)

    def _broker_kill(self, fault: Planned) -> tuple[str, Undo]:
        self.cluster.broker.kill()
        return "", self.cluster.broker.start

    def _broker_restart(self, fault: Planned) -> tuple[str, Undo]:
        self.cluster.broker.terminate()
        return "", self.cluster.broker.start

    def _broker_emptied(self, fault: Planned) -> tuple[str, Undo]:
        broker = self.cluster.broker
        broker.kill()
        files = list(broker.folder.glob("*.db*"))
        for file in files:
            file.unlink()
        return f"without {', '.join(file.name for file in files) or 'any file'}", broker.start

    def _broker_freeze(self, fault: Planned) -> tuple[str, Undo]:
        self.cluster.broker.freeze()
        return "", self.cluster.broker.thaw

    def _coordinator_kill(self, fault: Planned) -> tuple[str, Undo]:
        self._down.add(COORDINATOR)
        self.cluster.kill_coordinator()

        def undo() -> None:
            self.cluster.start_coordinator()
            self._down.discard(COORDINATOR)

        return "", undo

    def _coordinator_freeze(self, fault: Planned) -> tuple[str, Undo]:
        coordinator = self.cluster.coordinator
        assert coordinator is not None
        coordinator.signal(signal.SIGSTOP)
        return "", lambda: coordinator.signal(signal.SIGCONT)

    def _client_reset(self, fault: Planned) -> tuple[str, Undo]:
        ports = list(_ports({self._clients[fault.targets[0]]}, []))
        # One of its two connections, or both.
        some = [ports, ports[:1], ports[1:]][fault.draw % 3]
        if not some:
            raise ImpossibleError("a client without a connection")
        _reset(some, [])
        return f"{len(some)} of {len(ports)} connections", _nothing

    # ---- inside

    def _node(self, fault: Planned) -> EmulatedNode:
        return self.cluster.nodes[fault.targets[0]]

    def _revive(self, name: str) -> None:
        # After a memory fault of which only a worker died, the agent still runs.
        if not self.cluster.nodes[name].alive:
            self.cluster.kill_node(name)
            self.cluster.start_node(name)
        self._down.discard(name)

    def _worker(self, fault: Planned) -> tuple[str, int]:
        """A node and a worker of its: the target's, else that of the next node that has one."""
        names = sorted(self.cluster.nodes)
        begin = names.index(fault.targets[0])
        for name in (*names[begin:], *names[:begin]):
            found = sorted(_children(self.cluster.nodes[name]))
            if found:
                return name, found[fault.draw % len(found)]
        raise ImpossibleError("no worker runs")

    def _fill(self, owner: str) -> tuple[str, Undo]:
        ballast = self._ballast[owner]
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        return "", lambda: ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of `size` at `folder`; gives the file that fills it. Raises SliceMQError where none can be mounted."""
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        raise SliceMQError(f"{' '.join(words)}: {mounted.stderr.strip()}")
    try:
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _inside(node: EmulatedNode) -> list[str]:
    """Words that put a command into the node's network, and not into its group."""
    return node.prefix[:2] if node.prefix[:1] == ["nsenter"] else []


def _children(node: EmulatedNode) -> set[int]:
    """The node's worker processes, those that wait for a slice too."""
    if node.running is None:
        return set()
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == node.running.process.pid and b"edge_node.worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
    return found


def _ports(pids: set[int], prefix: list[str]) -> Iterator[str]:
    """The local ports of the established TCP connections of these processes."""
    done = subprocess.run(
        [*prefix, "ss", "-tnpH", "state", "established"], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        if pids & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}:
            yield line.split()[2].rpartition(":")[2]


def _reset(ports: list[str], prefix: list[str]) -> None:
    for port in ports:
        subprocess.run([*prefix, "ss", "-K", "sport", "=", f":{port}"], capture_output=True, check=True)
