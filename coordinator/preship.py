"""Which files nodes shall have before they are needed, and which their caches keep (protocol rule 12). PURE.

A plan made ahead is quick only when its stand-ins have its slices. So each node is told, with its assignment, the
files of the slices that any plan which is ready would put there: those that more of the losses need first. The list
stands as long as the plans do, whatever the node has of it by now; so a node that fetches does not change it, and
it says as well what is to be kept. It is made anew only when all plans are through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordinator.intents import Blueprint, PipelineRecord
from slicemq.messages import MOST_FILES, Artifact, Capacity

DEFAULT_RATE = 1_000_000.0
"""Bytes per second of all nodes together: a twelfth of a site's 100 Mbit/s."""
SHARE = 0.5
"""The part of a node's cache that files fetched ahead may take."""
UNKNOWN_CACHE = 200_000_000
"""What a cache is taken for whose node does not tell its size."""


@dataclass(frozen=True)
class Shipment:
    """What a node's assignment says besides its slices."""

    prefetch: tuple[Artifact, ...] = ()
    rate: float = 0.0
    keep: tuple[str, ...] = ()


NOTHING = Shipment()
_Files = dict[str, tuple[str, ...]]


class Preship:
    """`plan` makes the shipments anew, `of` gives a node's. `rate`: bytes per second of all, 0: no limit."""

    def __init__(self, rate: float = DEFAULT_RATE) -> None:
        self.rate = rate
        self._shipments: dict[str, Shipment] = {}
        # Of each pipeline: the active revision, its files by node, and those of the one before.
        self._served: dict[str, tuple[str, _Files, _Files]] = {}

    @property
    def nodes(self) -> set[str]:
        """The nodes that are told something."""
        return set(self._shipments)

    def of(self, node: str) -> Shipment:
        """What the assignment of `node` says."""
        return self._shipments.get(node, NOTHING)

    def plan(
        self,
        plans: Iterable[Blueprint],
        records: Mapping[str, PipelineRecord],
        capacities: Mapping[str, Capacity],
    ) -> bool:
        """Make them anew for the plans that are ready and the nodes there are; whether one has changed."""
        wanted: dict[str, dict[Artifact, int]] = {}
        for blueprint in plans:
            for node, items in blueprint.slices.items():
                counts = wanted.setdefault(node, {})
                for artifact in {item.artifact for item in items}:
                    counts[artifact] = counts.get(artifact, 0) + 1
        self._look(records)
        chosen = {node: _chosen(wanted.get(node, {}), capacity) for node, capacity in capacities.items()}
        receivers = sum(bool(artifacts) for artifacts in chosen.values())
        shipments: dict[str, Shipment] = {}
        for node, artifacts in chosen.items():
            rate = round(self.rate / receivers, 1) if artifacts else 0.0
            shipment = Shipment(artifacts, rate, self._kept(node))
            if shipment != NOTHING:
                shipments[node] = shipment
        changed = shipments != self._shipments
        self._shipments = shipments
        return changed

    def _look(self, records: Mapping[str, PipelineRecord]) -> None:
        for name in self._served.keys() - records.keys():
            del self._served[name]
        for name, record in records.items():
            active = record.active
            if record.removed_at is not None:
                self._served.pop(name, None)
            elif active is not None:
                revision, files, before = self._served.get(name, ("", {}, {}))
                if revision != active.id:
                    self._served[name] = (active.id, _files(active.blueprint), files or before)

    def _kept(self, node: str) -> tuple[str, ...]:
        """The files of this node in the present and the previous revision of each pipeline."""
        found = dict.fromkeys(
            one
            for _, files, before in self._served.values()
            for one in (*files.get(node, ()), *before.get(node, ()))
        )
        return tuple(sorted(found))[:MOST_FILES]


def _files(blueprint: Blueprint) -> _Files:
    return {node: tuple(item.artifact.sha256 for item in items) for node, items in blueprint.slices.items()}


def _chosen(counts: Mapping[Artifact, int], capacity: Capacity) -> tuple[Artifact, ...]:
    """The files that serve the most losses, small ones first among equals, within the cache's share."""
    left = int(SHARE * (capacity.cache or UNKNOWN_CACHE))
    found: list[Artifact] = []
    for artifact in sorted(counts, key=lambda one: (-counts[one], one.size, one.sha256)):
        if artifact.size <= left and len(found) < MOST_FILES:
            left -= artifact.size
            found.append(artifact)
    return tuple(found)
