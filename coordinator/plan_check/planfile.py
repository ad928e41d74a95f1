"""A plan file as it is written, every field checked (PURE)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from coordinator.plan_check.reading import Row, listed, loads, real, text, whole
from slicemq.errors import PlanError

FORMAT = 1
MAX_BYTES = 64 << 20
MAX_TURNS = 4096
MAX_SLICES = 2000
CLIENT = "client"


@dataclass(frozen=True)
class Slice:
    """A slice: its nodes with the turns of each, its operators by place in the file, figures of one frame."""

    id: str
    nodes: tuple[str, ...]
    turns: tuple[tuple[int, ...], ...]
    operators: tuple[int, ...]
    memory_mb: Fraction
    bytes_in: int
    bytes_out: int
    compute_ms: Fraction
    down_ms: Fraction
    up_ms: Fraction


@dataclass(frozen=True)
class Bundle:
    """A message of a frame: ids of slices or `client`, tensors by their index, the node of its data broker."""

    id: str
    source: str
    targets: tuple[str, ...]
    tensors: tuple[int, ...]
    bytes: int
    codec: str
    broker: str = ""


@dataclass(frozen=True)
class Other:
    """An alternative that the plan was compared with; no period: there is none."""

    family: str
    nodes: tuple[str, ...]
    period_ms: Fraction | None
    latency_ms: Fraction | None


@dataclass(frozen=True)
class Proof:
    """A bound of the certificate; `value` is in seconds, joules or nodes.

    With `data_brokers` it speaks of plans over data brokers too.
    """

    value: Fraction
    proof: str
    duals: Row | None
    data_brokers: bool = False


@dataclass(frozen=True)
class Lane:
    """The slices that serve the same turns: a complete pipeline."""

    slices: tuple[Slice, ...]
    turns: frozenset[int]


class PlanFile:
    """A plan file. Raises PlanError for what is not one."""

    def __init__(self, source: str | bytes) -> None:
        body = Row(loads(source, "plan", MAX_BYTES), "plan")
        body.whole("format", FORMAT, FORMAT)
        self.model = body.text("model")
        self.objective = body.text("objective")
        self.period_ms, self.latency_ms, self.bound_ms, self.gap = (
            body.real(name) for name in ("period_ms", "latency_ms", "lower_bound_ms", "gap")
        )
        self.method, self.family = body.text("method"), body.text("family")
        self.window = body.whole("window", 1)
        self.turns = body.whole("turns", 1, MAX_TURNS) if body.has("turns") else 1
        self.energy = body.real("energy_j") if body.has("energy_j") else None
        self.slices = [self._slice(row) for row in body.rows("slices", MAX_SLICES)]
        self.bundles = [_bundle(row) for row in body.rows("bundles", 10 * MAX_SLICES)]
        self.others = [_other(row) for row in body.rows("alternatives", 100)] if body.has("alternatives") else []
        self.certificate = [_proof(row) for row in body.rows("certificate", 100)] if body.has("certificate") else []
        self.error = body.row("error").real("estimated") if body.has("error") else None
        self.costs: tuple[str, str] | None = None
        if body.has("costs"):
            named = body.row("costs")
            self.costs = named.text("file"), named.text("sha256")
        if not self.slices or [item.id for item in self.slices] != [f"s{n}" for n in range(len(self.slices))]:
            raise PlanError(f"{body.at('slices')}: expected at least one, with the ids s0, s1 ...")

    def lanes(self) -> list[Lane]:
        """The slices by the turns that they serve, in the plan's order."""
        found: dict[frozenset[int], list[Slice]] = {}
        for item in self.slices:
            found.setdefault(frozenset(turn for own in item.turns for turn in own), []).append(item)
        return [Lane(tuple(items), turns) for turns, items in found.items()]

    def _slice(self, row: Row) -> Slice:
        nodes = tuple(row.texts("nodes"))
        given = row.items("turns") if row.has("turns") else []
        turns = tuple(
            tuple(whole(t, row.at("turns"), 0, self.turns - 1) for t in listed(own, row.at("turns")))
            for own in given
        )
        if not turns and len(nodes) == 1:
            turns = (tuple(range(self.turns)),)
        if not nodes or len(turns) != len(nodes):
            raise PlanError(f"{row.at('turns')}: expected turns for each of {len(nodes)} nodes")
        compute, down, up = (row.real(name) for name in ("compute_ms", "down_ms", "up_ms"))
        return Slice(
            row.text("id"),
            nodes,
            turns,
            tuple(row.wholes("operators")),
            row.real("memory_mb"),
            row.whole("bytes_in"),
            row.whole("bytes_out"),
            compute,
            down,
            up,
        )


def _bundle(row: Row) -> Bundle:
    return Bundle(
        row.text("id"),
        row.text("from"),
        tuple(row.texts("to")),
        tuple(row.wholes("tensors")),
        row.whole("bytes"),
        row.text("codec"),
        row.text("broker") if row.has("broker") else "",
    )


def _other(row: Row) -> Other:
    period, latency = (row.real(name) if row.has(name) else None for name in ("period_ms", "latency_ms"))
    return Other(row.text("family"), tuple(row.texts("nodes")), period, latency)


def _proof(row: Row) -> Proof:
    value = real(row["value"], row.at("value"))
    duals = row.row("duals") if row.has("duals") else None
    any_brokers = row.flag("data_brokers") if row.has("data_brokers") else False
    return Proof(value, text(row["proof"], row.at("proof")), duals, any_brokers)
