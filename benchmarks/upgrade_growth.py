"""What must not grow with the number of revisions: retained topics, memory, and files (`benchmarks.upgrades`)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import children, read_memory
from emulator.site import Site
from slicemq.errors import SliceMQError
from slicemq.session import Session
from slicemq.topics import Topics

MEMORY_SHARE = 1.10
"""Resident memory of one kind may end at so many times what it was at first, and MEMORY_MB more."""
MEMORY_MB = 10.0
PLANNER_MB = 150.0
"""The coordinator's children that plan: one more or less may be there, and each keeps the last models in memory."""


@dataclass(frozen=True)
class Sizes:
    """What a cluster takes after so many revisions; MB of 10^6 bytes; memory is RSS of processes and children.

    `planner_mb` is of the children in which the coordinator plans.
    """

    revisions: int
    topics: int
    retained_kb: float
    broker_mb: float
    coordinator_mb: float
    planner_mb: float
    nodes_mb: float
    store_mb: float
    caches_mb: float


def read_sizes(site: Site, revisions: int) -> Sizes:
    """Read all of it now. Raises SliceMQError for a process that is gone."""
    retained = _retained(site)
    assert site.coordinator is not None
    broker = site.broker.process
    if broker is None:
        raise SliceMQError("the broker does not run")
    return Sizes(
        revisions=revisions,
        topics=len(retained),
        retained_kb=round(sum(map(len, retained.values())) / 1e3, 1),
        broker_mb=_resident([broker.pid]),
        coordinator_mb=round(read_memory(site.coordinator.process.pid).rss / 1e6, 1),
        planner_mb=_resident(children(site.coordinator.process.pid)),
        nodes_mb=_resident(node.process.pid for node in site.nodes.values()),
        store_mb=_files(site.folder / "coordinator"),
        caches_mb=round(sum(_files(site.folder / name) for name in site.nodes), 1),
    )


def growth(rows: Sequence[Sizes]) -> list[str]:
    """What grew from the first row to the last, in words; empty: nothing did."""
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    grown = []
    if last.topics > first.topics:
        grown.append(f"retained topics grew from {first.topics} to {last.topics}")
    for what in ("broker", "coordinator", "planner", "nodes"):
        before, after = getattr(first, f"{what}_mb"), getattr(last, f"{what}_mb")
        more = PLANNER_MB if what == "planner" else MEMORY_MB
        if after > MEMORY_SHARE * before + more:
            grown.append(f"{what}: {before:.1f} MB after {first.revisions} revisions, {after:.1f} MB in the end")
    return grown


def _retained(site: Site) -> dict[str, bytes]:
    session = Session(site.options, f"sizes-{secrets.token_hex(4)}")
    try:
        session.start()
        session.wait_up(10.0)
        return session.snapshot(f"{Topics(site.cluster).prefix}/#", timeout=20.0)
    finally:
        session.stop()


def _resident(pids: Iterable[int]) -> float:
    total, waiting = 0, list(pids)
    while waiting:
        pid = waiting.pop()
        total += read_memory(pid).rss
        waiting += children(pid)
    return round(total / 1e6, 1)


def _files(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return round(total / 1e6, 1)
