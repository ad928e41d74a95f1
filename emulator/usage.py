"""What a running cluster has used so far: processor seconds, bytes on the links, work told in heartbeats."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from slicemq.errors import SliceMQError
from slicemq.messages import Heartbeat, SliceBeat, decode
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics

_CONNECT_SECONDS = 10.0


class Reachable(Protocol):
    """A cluster that a client can reach: emulator.site.Site, emulator.cluster.Cluster."""

    @property
    def options(self) -> BrokerOptions:
        """How to reach the broker."""

    @property
    def cluster(self) -> str:
        """The cluster's id."""


class Counted(Reachable, Protocol):
    """A cluster that counts what its parts use: emulator.cluster.Cluster."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """By name; `group` of each has `cpu_seconds()`, or is None."""

    def broker_cpu_seconds(self) -> float:
        """Processor seconds of the broker so far."""

    def links_bytes(self) -> Mapping[str, tuple[int, int]]:
        """Bytes that each node has sent and received so far."""


@dataclass(frozen=True)
class NodeUse:
    """One node. Bytes are as on its link, with all headers; `invoke` seconds and `frames` are from heartbeats."""

    cpu: float = float("nan")
    sent: float = float("nan")
    received: float = float("nan")
    invoke: float = 0.0
    invoke_cpu: float = 0.0
    frames: int = 0

    def __sub__(self, other: NodeUse) -> NodeUse:
        names = ("cpu", "sent", "received", "invoke", "invoke_cpu", "frames")
        return NodeUse(**{name: getattr(self, name) - getattr(other, name) for name in names})


@dataclass(frozen=True)
class Usage:
    """Totals at one moment. Seconds; client: of this process; idle: of all processors of the machine together."""

    at: float
    nodes: Mapping[str, NodeUse]
    broker_cpu: float
    client_cpu: float
    idle: float


class Works:
    """A context manager that adds up what the workers tell in heartbeats, by node."""

    def __init__(self, where: Reachable) -> None:
        self._topics = Topics(where.cluster)
        self._lock = threading.Lock()
        self._tally = Tally()
        self._session = Session(where.options, f"watch-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> Works:
        self._session.subscribe(self._topics.node("+", "heartbeat"))
        self._session.start()
        self._session.wait_up(_CONNECT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.stop()

    def read(self) -> dict[str, NodeUse]:
        """What each node has told so far: `invoke`, `invoke_cpu`, `frames`."""
        with self._lock:
            return dict(self._tally.nodes)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        with contextlib.suppress(SliceMQError):
            beat = decode(Heartbeat, payload, topic)
            with self._lock:
                self._tally.add(beat)


@dataclass
class Tally:
    """Adds heartbeats up: counters count since a slice was loaded, times are means over the last frames."""

    nodes: dict[str, NodeUse] = field(default_factory=dict)
    _seen: dict[tuple[str, str, str, str, str], int] = field(default_factory=dict)

    def add(self, beat: Heartbeat) -> None:
        """One heartbeat. A slice that is seen for the first time counts from there on."""
        total = self.nodes.get(beat.node, NodeUse(0.0, 0.0, 0.0))
        for one in beat.slices:
            fresh = self._fresh(beat, one)
            total = NodeUse(
                0.0,
                0.0,
                0.0,
                total.invoke + fresh * one.invoke_ms / 1e3,
                total.invoke_cpu + fresh * one.invoke_cpu_ms / 1e3,
                total.frames + fresh,
            )
        self.nodes[beat.node] = total

    def _fresh(self, beat: Heartbeat, one: SliceBeat) -> int:
        key = (beat.node, beat.epoch, one.pipeline, one.revision, one.slice)
        before = self._seen.get(key, one.frames)
        self._seen[key] = one.frames
        # A worker that was started again counts from 0.
        return one.frames - before if one.frames >= before else one.frames


def read_usage(where: Counted, works: Works | None = None) -> Usage:
    """The totals of a cluster now; NaN for what cannot be read (no limits, no namespaces)."""
    told = works.read() if works is not None else {}
    links = _or_nan(where.links_bytes, {})
    nodes = {}
    for name, node in where.nodes.items():
        group = getattr(node, "group", None)
        work = told.get(name, NodeUse())
        sent, received = links.get(name, (float("nan"), float("nan")))
        nodes[name] = NodeUse(
            cpu=float("nan") if group is None else _or_nan(group.cpu_seconds, float("nan")),
            sent=sent,
            received=received,
            invoke=work.invoke,
            invoke_cpu=work.invoke_cpu,
            frames=work.frames,
        )
    return Usage(
        at=time.monotonic(),
        nodes=nodes,
        broker_cpu=_or_nan(where.broker_cpu_seconds, float("nan")),
        client_cpu=time.process_time(),
        idle=idle_seconds(Path("/proc/stat").read_text()),
    )


def idle_seconds(stat: str) -> float:
    """Seconds that all processors together were idle, from the text of /proc/stat; NaN when it has none."""
    for line in stat.splitlines():
        words = line.split()
        if len(words) > 5 and words[0] == "cpu":
            return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")
    return float("nan")


def _or_nan(read: Callable[[], Any], missing: Any) -> Any:
    try:
        return read()
    except (OSError, ValueError, SliceMQError):
        return missing
