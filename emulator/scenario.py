"""What a scenario says: the fleet, its links, the broker, what is deployed, the load, the events, the repeats.

Values are in SI units: bits per second, bytes, seconds, shares of one core. `read_scenario` reads a TOML file
strictly; docs/reference/scenario-file.md lists the fields.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emulator import units
from emulator.energy import EnergyModel
from emulator.event_kinds import EVENTS
from emulator.places import rates
from emulator.scenario_checks import check
from emulator.tables import read_document, value

_FULL_SHARE = 64.0


@dataclass(frozen=True)
class BrokerPart:
    """`[broker]`: in a namespace of its own. `up` is what it sends, `down` what it receives; None: unlimited."""

    kind: str = value(units.one_of("mosquitto", "amqtt"), "mosquitto")
    rate: float | None = value(units.rate, None)
    up: float | None = value(units.rate, None)
    down: float | None = value(units.rate, None)
    cpu: float | None = value(units.number(0.01, _FULL_SHARE), None)


@dataclass(frozen=True)
class NodeType:
    """`[[nodes]]`: `count` boards of one kind, with ids `<prefix>1`, `<prefix>2` ...

    cpu: share of one core (None: unlimited); memory: bytes for agent and workers together; up, down: link rates
    from and to the board, bit/s (`rate` sets both); delay, jitter: seconds added to each direction of the link;
    cut_every, cut_lasts: its connections are cut so often, and for so long; joins: seconds after the load's begin
    (None: there from the start).
    """

    type: str = value(units.identifier, "board")
    count: int = value(units.whole(1, 1000), 1)
    prefix: str = value(units.identifier, "")
    cpu: float | None = value(units.number(0.01, _FULL_SHARE), None)
    memory: int | None = value(units.size, None)
    rate: float | None = value(units.rate, None)
    up: float | None = value(units.rate, None)
    down: float | None = value(units.rate, None)
    delay: float = value(units.seconds, 0.0)
    jitter: float = value(units.seconds, 0.0)
    cut_every: float | None = value(units.seconds, None)
    cut_lasts: float = value(units.seconds, 0.0)
    runtime: str = value(units.one_of("auto", "ai_edge_litert", "tflite_runtime"), "auto")
    threads: int | None = value(units.whole(1, 256), None)
    labels: Mapping[str, str] = value(units.labels, {})
    options: tuple[str, ...] = value(units.list_of(units.text), ())
    data_broker: bool = value(units.truth, False)
    joins: float | None = value(units.seconds, None)
    energy: EnergyModel = field(default_factory=EnergyModel, metadata={"read": EnergyModel})


@dataclass(frozen=True)
class ClientPart:
    """`[client]`: the link of coordinator and client, bit/s; None: unlimited."""

    rate: float | None = value(units.rate, None)
    up: float | None = value(units.rate, None)
    down: float | None = value(units.rate, None)


@dataclass(frozen=True)
class LinksPart:
    """`[links]`: link rates by SEIFER's formula from places in metres; `given`: by the types' own rates."""

    kind: str = value(units.one_of("given", "ring", "grid", "cluster", "random"), "given")
    radius: float = value(units.number(1.0, 1e6), 75.0)
    clusters: int = value(units.whole(1, 100), 3)


@dataclass(frozen=True)
class Deployment:
    """`[[deployments]]`: a pipeline's name, its model and the words for `slicemq deploy`.

    model: `package:PACKAGE/FILE` (inside a Python package), `cache:NAME` (a converted one below .cache/models) or
    a path, relative to the scenario file.
    """

    name: str = value(units.identifier)
    model: str = value(units.text)
    options: tuple[str, ...] = value(units.list_of(units.text), ())


@dataclass(frozen=True)
class Load:
    """`[load]`: what the clients ask. Either `seconds` or `frames` ends it (frames: of each client).

    pipeline: a deployment's name (empty: the first). rate: frames per second of each client; None: as fast as
    the window lets. limit: frames on their way at most (None: the pipeline's window). warm: frames sent before
    and not measured (None: twice the window and one). input: `random` (seeded) or a picture's path, relative to
    the scenario file. compare: hold every result against one device's, bit for bit.
    """

    pipeline: str = value(units.text, "")
    clients: int = value(units.whole(1, 100), 1)
    seconds: float | None = value(units.seconds, None)
    frames: int | None = value(units.whole(1, 10_000_000), None)
    rate: float | None = value(units.frames_per_second, None)
    limit: int | None = value(units.whole(1, 100_000), None)
    warm: int | None = value(units.whole(0, 100_000), None)
    input: str = value(units.text, "random")
    compare: bool = value(units.truth, False)


@dataclass(frozen=True)
class Event:
    """`[[events]]`: what happens, `at` seconds after the load began, to which node. EVENTS lists what is possible.

    lasts: seconds until it is undone (None: never, or as long as a restart takes). how: a `cut` either resets
    the node's connections (and new ones while it lasts) or freezes them. cpu, memory: the node's new limits.
    pipeline: a deployment's name; model: another one for it than its own.
    """

    at: float = value(units.seconds)
    what: str = value(units.one_of(*EVENTS, "join"))
    node: str = value(units.identifier, "")
    lasts: float | None = value(units.seconds, None)
    up: float | None = value(units.rate, None)
    down: float | None = value(units.rate, None)
    delay: float | None = value(units.seconds, None)
    jitter: float | None = value(units.seconds, None)
    how: str | None = value(units.one_of("reset", "freeze"), None)
    cpu: float | None = value(units.number(0.01, _FULL_SHARE), None)
    memory: int | None = value(units.size, None)
    pipeline: str = value(units.identifier, "")
    model: str = value(units.text, "")


@dataclass(frozen=True)
class Sweep:
    """`[run.sweep]`: what is tried one after another; with several lists, each combination.

    nodes: the first so many boards of the fleet. rate: of every board's link. cpu: every board's share.
    memory: every board's memory. model: of the first deployment.
    """

    model: tuple[str, ...] = value(units.list_of(units.text, least=1), ())
    rate: tuple[float, ...] = value(units.list_of(units.rate, least=1), ())
    cpu: tuple[float, ...] = value(units.list_of(units.number(0.01, _FULL_SHARE), least=1), ())
    memory: tuple[int, ...] = value(units.list_of(units.size, least=1), ())
    nodes: tuple[int, ...] = value(units.list_of(units.whole(1, 1000), least=1), ())


@dataclass(frozen=True)
class Run:
    """`[run]`: repeats of each variant, the seed of everything random, seconds to wait for a ready cluster."""

    repeats: int = value(units.whole(1, 1000), 1)
    seed: int = value(units.whole(0, 2**31 - 1), 0)
    ready: float = value(units.seconds, 300.0)
    sweep: Sweep = field(default_factory=Sweep, metadata={"read": Sweep})


@dataclass(frozen=True)
class Board:
    """One node of the fleet, with its own link rates (bit/s; None: unlimited)."""

    name: str
    kind: NodeType
    up: float | None
    down: float | None


@dataclass(frozen=True)
class Scenario:
    """A whole scenario. `file` is where it was read (empty: made in code)."""

    name: str = value(units.identifier)
    title: str = value(units.text, "")
    text: str = value(units.text, "")
    broker: BrokerPart = field(default_factory=BrokerPart, metadata={"read": BrokerPart})
    client: ClientPart = field(default_factory=ClientPart, metadata={"read": ClientPart})
    links: LinksPart = field(default_factory=LinksPart, metadata={"read": LinksPart})
    nodes: tuple[NodeType, ...] = value([NodeType], ())
    deployments: tuple[Deployment, ...] = value([Deployment], ())
    load: Load = field(default_factory=Load, metadata={"read": Load})
    events: tuple[Event, ...] = value([Event], ())
    run: Run = field(default_factory=Run, metadata={"read": Run})
    file: Path | None = None
    first: int | None = None
    """Only so many boards of the fleet; None: all (a sweep sets it)."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The sweep's values of this variant, by name; empty without a sweep."""

    def boards(self) -> list[Board]:
        """The nodes of this variant, in the order of the file."""
        names = [
            (f"{kind.prefix or kind.type}{number}", kind)
            for kind in self.nodes
            for number in range(1, kind.count + 1)
        ]
        names = names[: self.first]
        by_place = rates(self.links.kind, len(names), self.links.radius, self.links.clusters, self.run.seed)
        found = []
        for (name, kind), placed in zip(names, by_place, strict=True):
            both = kind.rate if kind.rate is not None else placed
            found.append(Board(name, kind, kind.up or both, kind.down or both))
        return found

    def timeline(self) -> list[Event]:
        """The events of this variant in order of time, with a `join` for each board that joins later."""
        boards = self.boards()
        names = {board.name for board in boards}
        events = [event for event in self.events if not event.node or event.node in names]
        events += [Event(board.kind.joins, "join", board.name) for board in boards if board.kind.joins is not None]
        return sorted(events, key=lambda event: event.at)

    def variants(self) -> Iterator[Scenario]:
        """One scenario for each combination of the sweep's values; itself alone when there is no sweep."""
        sweep = self.run.sweep
        lists = {name: list(getattr(sweep, name)) for name in ("model", "rate", "cpu", "memory", "nodes")}
        lists = {name: found for name, found in lists.items() if found}
        for chosen in itertools.product(*lists.values()):
            yield self._with(dict(zip(lists, chosen, strict=True)))

    def path(self, given: str) -> Path:
        """A path of the scenario file, which is relative to the file's folder."""
        return (self.file.parent if self.file else Path()) / given

    def _with(self, values: dict[str, Any]) -> Scenario:
        made = replace(self, values=values, first=values.get("nodes", self.first))
        if "rate" in values:
            made = replace(
                made, nodes=tuple(replace(kind, rate=values["rate"], up=None, down=None) for kind in made.nodes)
            )
        for name in ("cpu", "memory"):
            if name in values:
                made = replace(made, nodes=tuple(replace(kind, **{name: values[name]}) for kind in made.nodes))
        if "model" in values:
            first, *others = made.deployments
            made = replace(made, deployments=(replace(first, model=values["model"]), *others))
        return made


def read_scenario(file: Path) -> Scenario:
    """Read a scenario file. Raises ConfigError, which names file, table, field and what was expected."""
    read: Scenario = read_document(Scenario, file)
    scenario = replace(read, file=file)
    check(scenario, str(file))
    return scenario
