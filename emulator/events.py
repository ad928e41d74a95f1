"""Carries out on a running cluster what a timeline says, on a thread of its own: `Script`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, cast

from emulator.relay_handle import RelayProcess
from emulator.timeline import Action, Happened
from slicemq.errors import SliceMQError


class Breakable(Protocol):
    """What events do to a cluster (emulator.cluster.Cluster). Each method raises SliceMQError when it cannot."""

    @property
    def broker(self) -> Any:
        """Has `kill()` and `start()`."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """By name; `relay` of each is a RelayProcess, or None."""

    def start_node(self, name: str) -> Any:
        """Start a node (again)."""

    def kill_node(self, name: str) -> Any:
        """SIGKILL to all of it, as a power cut."""

    def stop_node(self, name: str) -> Any:
        """SIGTERM."""

    def freeze_node(self, name: str) -> Any:
        """SIGSTOP to all of it."""

    def thaw_node(self, name: str) -> Any:
        """SIGCONT."""

    def link_down(self, name: str) -> Any:
        """Pull the plug."""

    def link_up(self, name: str) -> Any:
        """Put it in."""

    def set_link(self, name: str, *, up: float | None = None, down: float | None = None) -> Any:
        """Change the link's rates, bit/s."""

    def set_limits(self, name: str, *, cpu: float | None = None, memory: int | None = None) -> Any:
        """Change the share of a core, or the bytes of memory."""

    def kill_coordinator(self) -> Any:
        """SIGKILL to the coordinator."""

    def start_coordinator(self) -> Any:
        """Start it again, on its store."""


Deploy = Callable[[Action], None]
"""Deploys or undeploys what the action's event says."""


class Script:
    """A context manager that carries out `todo` from `begin` on; leaving it stops what has not begun.

    Deployments take long and run beside the others; every other action is done in its turn.
    """

    def __init__(
        self,
        cluster: Breakable,
        todo: Sequence[Action],
        deploy: Deploy,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.happened: list[Happened] = []
        self._cluster, self._todo, self._deploy, self._tell = cluster, list(todo), deploy, tell
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="script", daemon=True)
        self._beside: list[threading.Thread] = []

    def begin(self, began: float) -> None:
        """Start; times count from `began` (monotonic seconds)."""
        self._began = began
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is done."""
        if self._thread.ident is not None:
            self._thread.join()
        for thread in self._beside:
            thread.join()

    def __enter__(self) -> Script:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self.wait()

    def _run(self) -> None:
        for action in self._todo:
            if self._stop.wait(max(0.0, self._began + action.at - time.monotonic())):
                return
            if action.do in ("deploy", "undeploy"):
                thread = threading.Thread(target=self._carry_out, args=(action,), daemon=True)
                self._beside.append(thread)
                thread.start()
            else:
                self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        began, error = time.monotonic(), ""
        try:
            if action.do in ("deploy", "undeploy"):
                self._deploy(action)
            else:
                perform(self._cluster, action)
        except SliceMQError as problem:
            error = str(problem)
        self.happened.append(Happened(action, began, time.monotonic(), error))
        self._tell(f"{began - self._began:.1f} s: {describe(action)}" + (f" failed: {error}" if error else ""))


def describe(action: Action) -> str:
    """`kill pi1`, `rate pi2 up 10 Mbit/s`, `deploy faces`."""
    event = action.event
    words = [action.do, event.node or event.pipeline]
    if action.do == "rate":
        words += [f"{name} {value / 1e6:g} Mbit/s" for name in ("up", "down") if (value := getattr(event, name))]
    if action.do == "delay":
        words += [f"{1e3 * (event.delay or 0.0):g} ms"]
    if action.do == "cut":
        words += [event.how or "reset", f"{event.lasts or 0.0:g} s"]
    if action.do == "cpu":
        words += [f"{event.cpu:g}"]
    if action.do == "memory":
        words += [f"{(event.memory or 0) / 1e6:g} MB"]
    return " ".join(word for word in words if word)


def perform(cluster: Breakable, action: Action) -> None:
    """Do it. Raises SliceMQError when the cluster cannot."""
    event, node = action.event, action.event.node
    match action.do:
        case "start" | "join":
            cluster.start_node(node)
        case "kill":
            cluster.kill_node(node)
        case "stop":
            cluster.stop_node(node)
        case "freeze":
            cluster.freeze_node(node)
        case "thaw":
            cluster.thaw_node(node)
        case "link-down":
            cluster.link_down(node)
        case "link-up":
            cluster.link_up(node)
        case "rate":
            cluster.set_link(node, up=event.up, down=event.down)
        case "delay":
            _relay(cluster, node).delay(event.delay or 0.0, event.jitter or 0.0)
        case "cut":
            relay = _relay(cluster, node)
            (relay.freeze if event.how == "freeze" else relay.reset)(event.lasts or 0.0)
        case "cpu":
            cluster.set_limits(node, cpu=event.cpu)
        case "memory":
            cluster.set_limits(node, memory=event.memory)
        case "broker-kill":
            cluster.broker.kill()
        case "broker-start":
            cluster.broker.start()
        case "coordinator-kill":
            cluster.kill_coordinator()
        case "coordinator-start":
            cluster.start_coordinator()
        case _:
            raise SliceMQError(f"event {action.do!r} is not known")


def _relay(cluster: Breakable, node: str) -> RelayProcess:
    relay = cluster.nodes[node].relay
    if relay is None:
        raise SliceMQError(f"node {node}: no relay is on its link")
    return cast(RelayProcess, relay)
