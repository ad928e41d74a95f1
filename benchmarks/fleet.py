"""Equal nodes on an emulated cluster, each with a share of a core and a link, for the benchmarks of chains."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from emulator.cluster import Cluster
from emulator.scenario import BrokerPart, ClientPart, NodeType, Run, Scenario
from slicemq.errors import SliceMQError

PREFIX = "n"
_READY_SECONDS = 600.0
_AGAIN_SECONDS = 60.0


def names(count: int) -> list[str]:
    """The nodes' ids."""
    return [f"{PREFIX}{number}" for number in range(1, count + 1)]


@contextlib.contextmanager
def equal_nodes(
    count: int,
    *,
    share: float | None,
    rate: float | None,
    memory: int | None = None,
    options: Sequence[str] = (),
    broker: str = "mosquitto",
    isolate: bool = True,
    folder: Path | None = None,
) -> Iterator[Cluster]:
    """`count` ready nodes, `share` of a core, links of `rate` bit/s each way and `memory` bytes (None: unlimited).

    The client's link has the same rate, the broker's none. options: words for `slicemq node run`.
    Raises SliceMQError when the machine cannot (not root, no mosquitto).
    """
    kind = NodeType(
        type=PREFIX,
        count=count,
        prefix=PREFIX,
        cpu=share,
        memory=memory,
        rate=rate,
        threads=1,
        options=tuple(options),
    )
    scenario = Scenario(
        name="bench",
        nodes=(kind,),
        broker=BrokerPart(kind=broker),
        client=ClientPart(rate=rate),
        run=Run(ready=_READY_SECONDS),
    )
    began = time.monotonic()
    # A benchmark that is told to end (by `timeout`, say) leaves nothing behind either.
    signal.signal(signal.SIGTERM, _ended)
    with Cluster(scenario, folder=folder, isolate=isolate) as cluster:
        say(f"{count} nodes ready after {time.monotonic() - began:.0f} s")
        yield cluster


def _ended(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def undisturbed(cluster: Cluster) -> Iterator[None]:
    """The coordinator stands still meanwhile: what it plans ahead would compute beside the measurement.

    Frames flow without it. At the end it runs again, and is ready.
    """
    group = cluster.coordinator_group
    if group is None:
        raise SliceMQError("the coordinator has no group that could be held still")
    group.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        group.signal(signal.SIGCONT)
    cluster.wait_ready([], timeout=_AGAIN_SECONDS)


def need_root() -> None:
    """Raises SliceMQError when this process may not make namespaces and groups."""
    if os.geteuid() != 0:
        raise SliceMQError("it takes root to limit nodes and their links")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
