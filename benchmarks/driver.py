"""Sends frames to a pipeline as fast as results come, and says what came back and what it cost."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from slicemq.client import Pipeline
from slicemq.errors import SliceMQError
from slicemq.messages import TensorSpec
from slicemq.options import BrokerOptions

Frame = Mapping[int, npt.NDArray[Any]]
# The fewest frames that a rate is made of, and how much longer than asked one waits for them.
LEAST_FRAMES = 8
_PATIENCE = 6.0
_GIVE_UP = 180.0


class Reachable(Protocol):
    """A cluster that a client can reach: a Site or a Cluster of the emulator."""

    @property
    def options(self) -> BrokerOptions:
        """How to reach the broker."""

    @property
    def cluster(self) -> str:
        """The cluster's id."""


class Measurable(Reachable, Protocol):
    """An emulated cluster that counts what its parts use."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """By name; each has a `group` with `cpu_seconds()`."""

    def broker_cpu_seconds(self) -> float:
        """Processor seconds of the broker so far."""

    def link_bytes(self, name: str) -> tuple[int, int]:
        """Bytes that a node has sent and received."""


@dataclass(frozen=True)
class Counters:
    """Totals at one moment: processor seconds (client: of this process; idle: of all cores), bytes of each node."""

    node_cpu: Mapping[str, float]
    broker_cpu: float
    client_cpu: float
    idle: float
    node_bytes: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Driven:
    """One run. `latencies` in seconds, ascending; `began` and `ended` on the monotonic clock."""

    frames: int
    began: float
    ended: float
    latencies: tuple[float, ...]
    window: int
    before: Counters | None = None
    after: Counters | None = None

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / (self.ended - self.began)

    def latency(self, percent: float) -> float:
        """The nearest-rank percentile, in seconds."""
        return self.latencies[max(0, math.ceil(percent / 100 * len(self.latencies)) - 1)]

    def costs(self) -> dict[str, Any]:
        """What a frame cost: processor ms and bytes of each node, of broker and client; the idle share here."""
        before, after = self.before, self.after
        if before is None or after is None:
            return {}
        frames, seconds = self.frames, self.ended - self.began
        return {
            "node_cpu_ms": {n: 1e3 * (after.node_cpu[n] - used) / frames for n, used in before.node_cpu.items()},
            "node_bytes": {
                name: [(now - then) / frames for now, then in zip(after.node_bytes[name], was, strict=True)]
                for name, was in before.node_bytes.items()
            },
            "broker_cpu_ms": 1e3 * (after.broker_cpu - before.broker_cpu) / frames,
            "client_cpu_ms": 1e3 * (after.client_cpu - before.client_cpu) / frames,
            "idle": (after.idle - before.idle) / seconds / (os.cpu_count() or 1),
        }


def drive(
    where: Reachable,
    name: str,
    seconds: float,
    *,
    frames: Sequence[Frame] = (),
    limit: int | None = None,
    least: int = LEAST_FRAMES,
    counters: Callable[[], Counters] | None = None,
) -> Driven:
    """Keep the window full for `seconds` and at least `least` frames, after a warm-up of two windows.

    frames: what is sent, in turn (none: one random frame); limit: fewer frames on their way than the window.
    Raises SliceMQError when so many do not come in six times the seconds, FrameFailedError when one fails.
    """
    with Pipeline(name, where.options, cluster=where.cluster, give_up_after=_GIVE_UP) as pipeline:
        given = frames or [random_frame(pipeline.inputs)]
        window = min(pipeline.stats.share, limit or pipeline.stats.share)
        running = [True]

        def source() -> Iterator[Frame]:
            number = 0
            while running[0]:
                yield given[number % len(given)]
                number += 1

        warm = 2 * window + 1
        began = ended = 0.0
        before = after = None
        latencies: list[float] = []
        opened = time.monotonic()
        for count, result in enumerate(pipeline.map(source(), limit=limit), 1):
            now = time.monotonic()
            if count < warm or not running[0]:
                continue
            if count == warm:
                began, before = now, counters() if counters is not None else None
                continue
            latencies.append(result.latency)
            if now - began >= seconds and len(latencies) >= least:
                running[0], ended = False, now
                after = counters() if counters is not None else None
            elif now - opened > _PATIENCE * seconds + 60:
                raise SliceMQError(f"{name}: {len(latencies)} frames in {now - began:.0f} s; give --seconds more")
        return Driven(len(latencies), began, ended, tuple(sorted(latencies)), window, before, after)


def random_frame(inputs: Sequence[TensorSpec], seed: int = 1) -> dict[int, npt.NDArray[Any]]:
    """Random numbers between -1 and 1 for float tensors, zeros for the others."""
    rng = np.random.default_rng(seed)
    made: dict[int, npt.NDArray[Any]] = {}
    for spec in inputs:
        shape = [max(1, size) for size in spec.shape]
        dtype = np.dtype(spec.dtype)
        made[spec.index] = rng.uniform(-1, 1, shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return made


def read_counters(cluster: Measurable) -> Counters:
    """The totals of an emulated cluster now."""
    return Counters(
        node_cpu={name: node.group.cpu_seconds() for name, node in cluster.nodes.items()},
        broker_cpu=cluster.broker_cpu_seconds(),
        client_cpu=time.process_time(),
        idle=idle_seconds(Path("/proc/stat").read_text()),
        node_bytes={name: cluster.link_bytes(name) for name in cluster.nodes},
    )


def idle_seconds(stat: str) -> float:
    """Seconds that all cores together have been idle or waiting for a disk, from the text of /proc/stat."""
    for line in stat.splitlines():
        words = line.split()
        if words and words[0] == "cpu":
            return (int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK")
    raise SliceMQError("/proc/stat: expected a line that begins with cpu")
