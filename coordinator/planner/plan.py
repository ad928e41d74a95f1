"""The plan and its file, a JSON document that people may edit (docs/reference/plan-file.md)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import dacite

from converters.slicing import edges, result_parts
from coordinator.planner.segments import FRAME_BYTES, wire_bytes
from slicemq.errors import CutError, PlanError
from slicemq.topics import is_id, is_sha256

if TYPE_CHECKING:
    from converters.graph import Graph

FORMAT = 1
CLIENT = "client"
FAMILY = "contiguous-one-per-node"
"""The plans that a bound speaks of: contiguous runs of operators, at most one on each node."""
MAX_FILE_BYTES = 4 << 20
# What encode can be asked for; a node that lacks one says so in its capacity.
CODECS = ("raw", "f16", "lz4")


@dataclass(frozen=True)
class PlannedSlice:
    """One slice: its node, its operators (places in the file) and one frame's costs.

    `memory_mb` is memory beyond an idle worker, MB is 10^6 bytes; bytes are bytes on the wire.
    """

    id: str
    nodes: tuple[str, ...]
    operators: tuple[int, ...]
    memory_mb: float
    compute_ms: float
    bytes_in: int
    bytes_out: int
    down_ms: float = 0.0
    up_ms: float = 0.0

    @property
    def stage_ms(self) -> float:
        """What the slice adds to the period: receiving, computing and sending overlap."""
        return max(self.compute_ms, self.down_ms, self.up_ms)


@dataclass(frozen=True)
class PlannedBundle:
    """One message per frame: `source` and `targets` are slice ids or `client` (`from` and `to` in the file)."""

    id: str
    source: str
    targets: tuple[str, ...]
    tensors: tuple[int, ...]
    bytes: int
    codec: str = "raw"


@dataclass(frozen=True)
class Alternative:
    """Another family of plans, for comparison; without `period_ms` it has no plan, and `reason` says why."""

    family: str
    nodes: tuple[str, ...]
    period_ms: float | None
    latency_ms: float | None
    reason: str = ""


@dataclass(frozen=True)
class ProfileSource:
    """Where the operators' costs come from."""

    runtime: str
    measured: bool


@dataclass(frozen=True)
class Plan:
    """Which slices run where, at which cost, and how good that is known to be.

    No plan of `family` has a period below `lower_bound_ms`; `gap` is period / bound - 1. `window` is the
    fewest frames on their way that keep the slowest stage busy.
    """

    model: str
    objective: str
    period_ms: float
    latency_ms: float
    lower_bound_ms: float
    gap: float
    method: str
    family: str
    solve_seconds: float
    window: int
    profile: ProfileSource
    slices: tuple[PlannedSlice, ...]
    bundles: tuple[PlannedBundle, ...]
    alternatives: tuple[Alternative, ...] = ()
    format: int = FORMAT

    def digest(self) -> str:
        """SHA-256 (hex) of what a revision consists of: model, operators, nodes, bundles and codecs.

        Costs and bounds do not count, so that a plan made anew with the same result is the same revision.
        """
        content = {
            "model": self.model,
            "slices": [[item.id, list(item.nodes), sorted(item.operators)] for item in self.slices],
            "bundles": [[b.id, b.source, list(b.targets), list(b.tensors), b.codec] for b in self.bundles],
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def slowest(self) -> PlannedSlice:
        """The slice whose stage is the slowest."""
        return max(self.slices, key=lambda item: item.stage_ms)

    def to_plain(self) -> dict[str, Any]:
        """The plan file's content as dicts and lists."""
        body: dict[str, Any] = {"format": self.format, **asdict(self)}
        for bundle in body["bundles"]:
            bundle["from"], bundle["to"] = bundle.pop("source"), bundle.pop("targets")
        plain: dict[str, Any] = json.loads(json.dumps(body))
        return plain

    def to_json(self) -> str:
        """The plan file's text."""
        return json.dumps(self.to_plain(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_plain(cls, body: Any, *, graph: Graph | None = None, nodes: Collection[str] | None = None) -> Plan:
        """Read a plan file's content; with `graph` and `nodes` it is also checked against them.

        Raises PlanError that names the field and what was expected.
        """
        plan = _read(body, bundles_needed=graph is None)
        _check_shape(plan)
        if nodes is not None:
            _check_nodes(plan, nodes)
        if graph is not None:
            plan = _against_model(plan, graph, given="bundles" in body)
        return plan

    @classmethod
    def from_json(
        cls, text: str | bytes, *, graph: Graph | None = None, nodes: Collection[str] | None = None
    ) -> Plan:
        """The same from the file's text."""
        if len(text) > MAX_FILE_BYTES:
            raise PlanError(f"plan: {len(text)} bytes, expected at most {MAX_FILE_BYTES}")
        try:
            body = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"plan: not JSON: {error}") from error
        return cls.from_plain(body, graph=graph, nodes=nodes)


def bundles_of(graph: Graph, groups: list[list[int]]) -> tuple[PlannedBundle, ...]:
    """The messages of one frame when the slices have these operators: bundles, then the parts of the result."""

    def size(tensors: tuple[int, ...]) -> int:
        return FRAME_BYTES + sum(wire_bytes(graph.tensors[tensor]) for tensor in tensors)

    between = [
        PlannedBundle(
            edge.id,
            CLIENT if edge.source is None else f"s{edge.source}",
            tuple(f"s{target}" for target in edge.targets),
            edge.tensors,
            size(edge.tensors),
        )
        for edge in edges(graph, groups)
    ]
    results = [
        PlannedBundle(f"r{part}", f"s{number}", (CLIENT,), tensors, size(tensors))
        for part, (number, tensors) in enumerate(result_parts(graph, groups))
    ]
    return (*between, *results)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("expected a number, got a boolean")
    if isinstance(value, int) and abs(value) < 1 << 53:
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError("expected a whole number, got a boolean")
    return value


_DACITE = dacite.Config(cast=[tuple], type_hooks={float: _number, int: _whole}, check_types=True, strict=True)


def _read(body: Any, bundles_needed: bool) -> Plan:
    if not isinstance(body, dict):
        raise PlanError(f"plan: expected an object, got {type(body).__name__}")
    if body.get("format") != FORMAT or isinstance(body.get("format"), bool):
        raise PlanError(f"plan: field format: expected {FORMAT}, got {body.get('format')!r}")
    body = dict(body)
    if not bundles_needed:
        body.setdefault("bundles", [])
    if not isinstance(body.get("bundles"), list):
        raise PlanError("plan: field bundles: expected a list")
    body["bundles"] = [_bundle(row, number) for number, row in enumerate(body["bundles"])]
    for name, kind in (("slices", PlannedSlice), ("alternatives", Alternative)):
        rows = body.get(name, [])
        if not isinstance(rows, list):
            raise PlanError(f"plan: field {name}: expected a list")
        body[name] = [_row(kind, row, f"{name}[{number}]") for number, row in enumerate(rows)]
    plan: Plan = _row(Plan, body, "")
    return plan


def _bundle(row: Any, number: int) -> PlannedBundle:
    where = f"bundles[{number}]"
    if not isinstance(row, dict):
        raise PlanError(f"plan: field {where}: expected an object")
    row = dict(row)
    for name, own in (("from", "source"), ("to", "targets")):
        if name not in row or own in row:
            raise PlanError(f"plan: field {where}.{name}: missing")
        row[own] = row.pop(name)
    bundle: PlannedBundle = _row(PlannedBundle, row, where)
    return bundle


def _row(kind: Any, row: Any, where: str) -> Any:
    if not isinstance(row, dict):
        raise PlanError(f"plan: field {where}: expected an object")
    try:
        return dacite.from_dict(kind, row, _DACITE)
    except dacite.DaciteFieldError as error:
        field = ".".join(part for part in (where, error.field_path or "") if part)
        raise PlanError(f"plan: field {field}: {error}") from error
    except (dacite.DaciteError, ValueError, TypeError, RecursionError) as error:
        raise PlanError(f"plan: {f'field {where}: ' if where else ''}{error}") from error


def _check(holds: bool, field: str, expected: str) -> None:
    if not holds:
        raise PlanError(f"plan: field {field}: {expected}")


def _check_shape(plan: Plan) -> None:
    _check(is_sha256(plan.model), "model", "expected 64 lower-case hex digits")
    for name in ("period_ms", "latency_ms", "lower_bound_ms", "gap", "solve_seconds"):
        _check(getattr(plan, name) >= 0, name, "expected at least 0")
    _check(1 <= plan.window <= 1 << 20, "window", "expected a whole number from 1")
    _check(len(plan.slices) > 0, "slices", "expected at least one")
    seen: dict[int, str] = {}
    for number, item in enumerate(plan.slices):
        where = f"slices[{number}]"
        _check(item.id == f"s{number}", f"{where}.id", f"expected s{number}, got {item.id!r}")
        _check(len(item.nodes) == 1, f"{where}.nodes", f"expected one node, got {len(item.nodes)}")
        for node in item.nodes:
            _check(is_id(node), f"{where}.nodes", f"{node!r} is not a node's id")
        _check(len(item.operators) > 0, f"{where}.operators", "expected at least one")
        for name in ("memory_mb", "compute_ms", "down_ms", "up_ms", "bytes_in", "bytes_out"):
            _check(getattr(item, name) >= 0, f"{where}.{name}", "expected at least 0")
        for operator in item.operators:
            other = seen.setdefault(operator, item.id)
            _check(other == item.id, f"{where}.operators", f"operator {operator} is in slice {other} too")
        _check(len(set(item.operators)) == len(item.operators), f"{where}.operators", "an operator is there twice")
    ends = {CLIENT, *(item.id for item in plan.slices)}
    names = [bundle.id for bundle in plan.bundles]
    for number, bundle in enumerate(plan.bundles):
        where = f"bundles[{number}]"
        _check(is_id(bundle.id), f"{where}.id", f"{bundle.id!r} is not an id")
        _check(names.count(bundle.id) == 1, f"{where}.id", f"{bundle.id} is there twice")
        _check(bundle.source in ends, f"{where}.from", f"{bundle.source!r} is neither a slice nor client")
        _check(len(bundle.targets) > 0, f"{where}.to", "expected at least one")
        for target in bundle.targets:
            _check(target in ends, f"{where}.to", f"{target!r} is neither a slice nor client")
        _check(bundle.bytes >= 0, f"{where}.bytes", "expected at least 0")
        _check(bundle.codec in CODECS, f"{where}.codec", f"expected {', '.join(CODECS)}, got {bundle.codec!r}")


def _check_nodes(plan: Plan, nodes: Collection[str]) -> None:
    for number, item in enumerate(plan.slices):
        for node in item.nodes:
            known = ", ".join(sorted(nodes)[:20])
            _check(node in nodes, f"slices[{number}].nodes", f"there is no node {node}; there are {known}")


def _against_model(plan: Plan, graph: Graph, given: bool) -> Plan:
    _check(plan.model == graph.sha256, "model", f"the plan is for {plan.model}, the model is {graph.sha256}")
    steps = set(graph.steps)
    for number, item in enumerate(plan.slices):
        where = f"slices[{number}].operators"
        for operator in item.operators:
            _check(
                0 <= operator < len(graph.operators),
                where,
                f"operator {operator}: the model has 0 to {len(graph.operators) - 1}",
            )
            _check(
                operator in steps,
                where,
                f"operator {operator} ({graph.operators[operator].name}) is not placed by a plan: it is fed by "
                "constants only and goes with its consumers, or no output needs it",
            )
        steps -= set(item.operators)
    missing = ", ".join(map(str, sorted(steps)[:20]))
    _check(not steps, "slices", f"operators in no slice: {missing}")
    try:
        expected = bundles_of(graph, [list(item.operators) for item in plan.slices])
    except CutError as error:
        raise PlanError(f"plan: field slices: {error}") from error
    if not given:
        return replace(plan, bundles=expected)
    found: Mapping[str, PlannedBundle] = {bundle.id: bundle for bundle in plan.bundles}
    for bundle in expected:
        mine = found.get(bundle.id)
        hint = "leave `bundles` out to have them made from the slices"
        if mine is None:
            raise PlanError(f"plan: field bundles: {bundle.id} is missing ({hint})")
        same = (mine.source, set(mine.targets), set(mine.tensors)) == (
            bundle.source,
            set(bundle.targets),
            set(bundle.tensors),
        )
        _check(
            same,
            f"bundles {bundle.id}",
            f"with these slices it goes from {bundle.source} to {', '.join(bundle.targets)} with the tensors "
            f"{', '.join(map(str, bundle.tensors))} ({hint})",
        )
    extra = sorted(found.keys() - {bundle.id for bundle in expected})
    _check(not extra, "bundles", f"{', '.join(extra)}: these slices have no such bundle")
    return plan
