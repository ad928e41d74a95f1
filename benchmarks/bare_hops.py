"""How long bytes take over a hop of an emulated cluster without SliceMQ: bare sockets, same broker and links."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.bare_mqtt import BareMqtt
from slicemq.errors import SliceMQError
from slicemq.options import BrokerOptions

_WARM = 4
_TIMES = 20


class Boards(Protocol):
    """An emulated cluster, whose boards say how a command is put on them."""

    @property
    def options(self) -> BrokerOptions:
        """How to reach the broker."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """By name; each has a `prefix`."""


@dataclass(frozen=True)
class Hop:
    """Bytes that go to (or from) a node; `seconds` is one way, half the median of there and back."""

    name: str
    node: str
    bytes: int
    seconds: float = float("nan")


def measure_hops(cluster: Boards, hops: Sequence[Hop]) -> list[Hop]:
    """Each hop with its time: an echo on its node sends back what this program sends to it.

    The links of node and client are equal, and a frame passes both on each of its two ways, so that half of the
    time is that of a hop from one such link to another. The echo runs within the node's limits.
    """
    found = []
    for hop in hops:
        with _echo(cluster, hop) as connection:
            payload = memoryview(bytes(hop.bytes))
            took = [_exchange(connection, payload) for _ in range(_WARM + _TIMES)][_WARM:]
        found.append(Hop(hop.name, hop.node, hop.bytes, statistics.median(took) / 2))
    return found


def _exchange(connection: BareMqtt, payload: memoryview) -> float:
    begun = time.perf_counter()
    connection.send(payload)
    if len(connection.receive()) != len(payload):
        raise SliceMQError("the bare echo sent back another number of bytes")
    return time.perf_counter() - begun


@contextlib.contextmanager
def _echo(cluster: Boards, hop: Hop) -> Iterator[BareMqtt]:
    broker = cluster.options
    there, back = f"bare/{hop.node}/in", f"bare/{hop.node}/out"
    program = [sys.executable, "-m", "benchmarks.bare_mqtt", broker.host, str(broker.port), there, back]
    with subprocess.Popen([*cluster.nodes[hop.node].prefix, *program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise SliceMQError(f"node {hop.node}: the bare echo did not start")
            with BareMqtt(broker, back, there) as connection:
                yield connection
        finally:
            process.kill()
