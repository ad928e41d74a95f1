"""Which faults a run of `benchmarks.chaos` carries out, when and on what: drawn from a seed. PURE."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

BROKER, COORDINATOR = "broker", "coordinator"
# Longer than the default heartbeat deadline, so that it counts as a death.
_SILENT = (2.0, 6.0)
_SOON = (0.2, 8.0)


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what it is done to, and for how long it lasts, in seconds.

    on: `node`, `nodes` (two of them), `broker`, `coordinator` or `client`. isolated: it takes namespaces or groups
    (root); stored: it takes a broker that stores what is retained; disks: it takes a small disk for that folder.
    """

    name: str
    on: str
    lasts: tuple[float, float]
    isolated: bool = False
    stored: bool = False
    disks: bool = False


KINDS = (
    Kind("agent-kill", "node", _SOON),
    Kind("worker-kill", "node", (0.0, 0.0)),
    Kind("node-kill", "node", _SOON),
    Kind("two-nodes-kill", "nodes", _SOON),
    Kind("node-freeze", "node", _SILENT),
    Kind("worker-freeze", "node", _SILENT),
    Kind("node-memory", "node", _SOON, isolated=True),
    Kind("worker-memory", "node", _SOON, isolated=True),
    Kind("link-down", "node", (0.5, 8.0), isolated=True),
    Kind("node-reset", "node", (0.0, 0.0), isolated=True),
    Kind("node-disk-full", "node", (1.0, 8.0), isolated=True, disks=True),
    Kind("broker-kill", BROKER, (0.0, 4.0)),
    Kind("broker-restart", BROKER, (0.0, 4.0)),
    Kind("broker-emptied", BROKER, (0.0, 4.0), stored=True),
    Kind("broker-freeze", BROKER, (0.5, 4.0)),
    Kind("coordinator-kill", COORDINATOR, _SOON),
    Kind("coordinator-freeze", COORDINATOR, (1.0, 6.0)),
    Kind("coordinator-disk-full", COORDINATOR, (1.0, 8.0), isolated=True, disks=True),
    Kind("client-reset", "client", (0.0, 0.0), isolated=True),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Planned:
    """One fault: `gap` seconds after the one before, on `targets`, undone after `lasts` seconds.

    draw: a random number for what is chosen only when it is carried out (which worker, which process).
    """

    number: int
    kind: str
    gap: float
    lasts: float
    targets: tuple[str, ...]
    draw: int

    @property
    def words(self) -> str:
        """`node-kill n2 for 3.1 s`."""
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"{self.kind} {'+'.join(self.targets)}{lasts}"


def possible(*, isolated: bool, stored: bool) -> list[Kind]:
    """The kinds that can be carried out here."""
    return [kind for kind in KINDS if (isolated or not kind.isolated) and (stored or not kind.stored)]


def aimed(fault: Planned, serving: Sequence[str]) -> Planned:
    """Two of three faults of a single node go to one that serves just now, if any does; disks stay in place."""
    kind = BY_NAME[fault.kind]
    if kind.on != "node" or kind.disks or not serving or fault.draw % 3 == 0:
        return fault
    return replace(fault, targets=(sorted(serving)[fault.draw // 3 % len(serving)],))


def faults(
    seed: int,
    kinds: Sequence[Kind],
    nodes: Sequence[str],
    clients: Sequence[str],
    disks: Sequence[str],
    gap: float,
) -> Iterator[Planned]:
    """Faults without end, each kind once before any comes again; `gap`: the mean time between two, in seconds.

    disks: the nodes that have a small disk.
    """
    rng = random.Random(seed)
    number = 0
    while True:
        for kind in rng.sample(list(kinds), len(kinds)):
            yield Planned(
                number,
                kind.name,
                rng.uniform(0.1, 1.9) * gap,
                rng.uniform(*kind.lasts),
                _targets(rng, kind, disks if kind.disks else nodes, clients),
                rng.getrandbits(31),
            )
            number += 1


def _targets(rng: random.Random, kind: Kind, nodes: Sequence[str], clients: Sequence[str]) -> tuple[str, ...]:
    if kind.on == "nodes":
        return tuple(sorted(rng.sample(list(nodes), 2)))
    if kind.on == "client":
        return (rng.choice(list(clients)),)
    return (rng.choice(list(nodes)),) if kind.on == "node" else (kind.on,)
