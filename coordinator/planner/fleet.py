"""Fleets from a fleet file (docs/reference/fleet-file.md) or from the nodes' capacity documents.

Here rates are Mbit/s and memory is MB (10^6) in the file, bytes and seconds behind it.
"""

from __future__ import annotations

import difflib
import importlib
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from coordinator.planner.model import Fleet, NodeSpec
from slicemq.codecs import available
from slicemq.errors import ConfigError
from slicemq.messages import Capacity, operators_are_sound
from slicemq.topics import is_id

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
MAX_NODES = 1000
LEAST, MOST = 1e-6, 1e12
"""Sizes, speeds and rates: what lies beyond is a slip of the pen."""
MAX_LINKS = 100_000
_TOP = ("broker", "node", "link")
_BROKER = ("rate_mbps",)
_NODE = (
    "id",
    "count",
    "memory_mb",
    "speed",
    "up_mbps",
    "down_mbps",
    "rtt_ms",
    "runtime",
    "labels",
    "operators",
    "busy_watts",
    "joules_per_mb",
    "busy",
    "broker",
)
_LINK = ("a", "b", "mbps", "one_way")
_BYTES_PER_MBIT = 1e6 / 8


def fleet_from_file(path: str | Path) -> Fleet:
    """Read a fleet file. Raises ConfigError that names the file and the field."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    return fleet_from_text(text, str(path))


def fleet_from_text(text: str, where: str = "fleet") -> Fleet:
    """Read a fleet file's content; `where` names it in errors. Raises ConfigError that names the field."""
    try:
        body = _toml.loads(text)
    except (_toml.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: not TOML: {error}") from error
    _check_keys(body, _TOP, where, "")
    broker = body.get("broker", {})
    if not isinstance(broker, dict):
        raise ConfigError(f"{where}: broker: expected a table [broker]")
    _check_keys(broker, _BROKER, where, "broker.")
    rate = _positive(broker, "rate_mbps", where, "broker.") if "rate_mbps" in broker else None
    rows = body.get("node")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{where}: node: expected at least one table [[node]]")
    nodes: list[NodeSpec] = []
    for number, row in enumerate(rows):
        nodes += _nodes(row, where, f"node[{number}].")
        if len(nodes) > MAX_NODES:
            raise ConfigError(f"{where}: more than {MAX_NODES} nodes")
    seen: set[str] = set()
    for node in nodes:
        if node.id in seen:
            raise ConfigError(f"{where}: node id {node.id}: given twice")
        seen.add(node.id)
    links = _links(body.get("link", []), seen, where)
    return Fleet(tuple(nodes), None if rate is None else rate * _BYTES_PER_MBIT, links)


def fleet_from_capacities(
    capacities: Iterable[Capacity],
    reference_speeds: Mapping[str, float],
    broker_rate: float | None = None,
) -> Fleet:
    """The nodes as they measured themselves.

    `reference_speeds` are the runs per second of each operator class's calibration model on the machine of the
    profile; a node's speed in a class is the ratio. A class that the reference lacks is left out, and runs
    at the geometric mean of the others.
    """
    nodes = []
    for capacity in capacities:
        speeds = {
            name: speed / reference_speeds[name]
            for name, speed in capacity.speeds.items()
            if reference_speeds.get(name, 0.0) > 0.0
        }
        nodes.append(
            NodeSpec(
                id=capacity.node,
                memory=capacity.memory,
                speeds=speeds,
                up=capacity.link.up,
                down=capacity.link.down,
                rtt=capacity.link.rtt,
                runtime=capacity.runtime.name,
                codecs=tuple(capacity.codecs),
                labels=dict(capacity.labels),
                operators=dict(capacity.operators),
                broker=bool(capacity.broker),
            )
        )
    return Fleet(tuple(sorted(nodes, key=lambda node: node.id)), broker_rate)


def _nodes(row: Mapping[str, Any], where: str, prefix: str) -> list[NodeSpec]:
    _check_keys(row, _NODE, where, prefix)
    name = _text(row, "id", where, prefix)
    count = row.get("count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_NODES:
        raise ConfigError(f"{where}: {prefix}count: expected a whole number from 1 to {MAX_NODES}, got {count!r}")
    ids = [name] if "count" not in row or count == 1 else [f"{name}-{k}" for k in range(1, count + 1)]
    for node in ids:
        if not is_id(node):
            raise ConfigError(
                f"{where}: {prefix}id: {node!r} is not an id: expected lower-case letters, digits and hyphens"
            )
    rtt = row.get("rtt_ms", 0.0)
    if not _is_number(rtt) or rtt < 0:
        raise ConfigError(f"{where}: {prefix}rtt_ms: expected milliseconds, at least 0, got {rtt!r}")
    labels = row.get("labels", {})
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ConfigError(f"{where}: {prefix}labels: expected a table of strings, got {labels!r}")
    operators = row.get("operators", {})
    whole = isinstance(operators, dict) and all(type(version) is int for version in operators.values())
    if not whole or not operators_are_sound(operators):
        raise ConfigError(
            f"{where}: {prefix}operators: expected a table, operator -> its highest version, got {operators!r}"
        )
    runtime = row.get("runtime", "")
    if not isinstance(runtime, str):
        raise ConfigError(f"{where}: {prefix}runtime: expected a text, got {runtime!r}")
    spec = {
        "memory": round(_positive(row, "memory_mb", where, prefix) * 1e6),
        "speeds": {"all": _positive(row, "speed", where, prefix)},
        "up": _positive(row, "up_mbps", where, prefix) * _BYTES_PER_MBIT,
        "down": _positive(row, "down_mbps", where, prefix) * _BYTES_PER_MBIT,
        "rtt": rtt / 1e3,
        "runtime": runtime,
        "codecs": available(),
        "labels": dict(labels),
        "operators": dict(operators),
        "watts": _at_least_0(row, "busy_watts", NodeSpec.watts, where, prefix),
        "joules_per_byte": _at_least_0(row, "joules_per_mb", NodeSpec.joules_per_byte * 1e6, where, prefix) / 1e6,
        "busy": _busy(row, where, prefix),
        "broker": _flag(row, "broker", where, prefix),
    }
    return [NodeSpec(id=node, **spec) for node in ids]


def _links(rows: object, nodes: Collection[str], where: str) -> dict[tuple[str, str], float]:
    """(sender, receiver) -> bytes per second."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{where}: link: expected tables [[link]]")
    if len(rows) > MAX_LINKS:
        raise ConfigError(f"{where}: more than {MAX_LINKS} links")
    found: dict[tuple[str, str], float] = {}
    for number, row in enumerate(rows):
        prefix = f"link[{number}]."
        _check_keys(row, _LINK, where, prefix)
        ends = [_end(row, name, nodes, where, prefix) for name in ("a", "b")]
        if ends[0] == ends[1]:
            raise ConfigError(f"{where}: {prefix}b: expected another node than {prefix}a, got {ends[1]!r}")
        one_way = _flag(row, "one_way", where, prefix)
        rate = _positive(row, "mbps", where, prefix) * _BYTES_PER_MBIT
        for sender, receiver in [ends] if one_way else [ends, ends[::-1]]:
            if (sender, receiver) in found:
                raise ConfigError(f"{where}: {prefix}a: the link from {sender} to {receiver} is given twice")
            found[sender, receiver] = rate
    return found


def _end(row: Mapping[str, Any], name: str, nodes: Collection[str], where: str, prefix: str) -> str:
    node = _text(row, name, where, prefix)
    if node not in nodes:
        near = difflib.get_close_matches(node, nodes, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{where}: {prefix}{name}: {node!r} is not the id of a node of this file{hint}")
    return node


def _at_least_0(row: Mapping[str, Any], key: str, default: float, where: str, prefix: str) -> float:
    value = row.get(key, default)
    if not _is_number(value) or value < 0:
        raise ConfigError(f"{where}: {prefix}{key}: expected a number, at least 0, got {value!r}")
    return float(value)


def _flag(row: Mapping[str, Any], key: str, where: str, prefix: str) -> bool:
    value = row.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {prefix}{key}: expected true or false, got {value!r}")
    return value


def _busy(row: Mapping[str, Any], where: str, prefix: str) -> float:
    value = row.get("busy", 0.0)
    if not _is_number(value) or not 0 <= value < 1:
        raise ConfigError(f"{where}: {prefix}busy: expected a share, at least 0 and less than 1, got {value!r}")
    return float(value)


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigError(f"{where}: {prefix}{key}: unknown field; {hint}")


def _text(row: Mapping[str, Any], key: str, where: str, prefix: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{where}: {prefix}{key}: expected a text, got {value!r}")
    return value


def _positive(row: Mapping[str, Any], key: str, where: str, prefix: str) -> float:
    value = row.get(key)
    if value is None:
        raise ConfigError(f"{where}: {prefix}{key}: missing")
    if _is_number(value) and value > 0:
        if value < LEAST:
            raise ConfigError(f"{where}: {prefix}{key}: expected at least {LEAST:g}, got {value!r}")
    elif isinstance(value, float) and value >= MOST:
        raise ConfigError(f"{where}: {prefix}{key}: expected less than {MOST:g}, got {value!r}")
    else:
        raise ConfigError(f"{where}: {prefix}{key}: expected a number above 0, got {value!r}")
    return float(value)


def _is_number(value: object) -> bool:
    # The upper end keeps bytes and rates far from what a float counts exactly.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value < MOST
