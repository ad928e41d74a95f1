"""What a user wants of a plan, as it travels in a request or is given on a command line (PURE).

All fields may be absent. `pins` (slice or range -> node), `exclude` (nodes), `require` (label -> value), `headroom`
(share of memory), `max_slices`; `objective`, `min_rate` (frames per second), `max_latency_ms`, `max_nodes`,
`max_energy_j` (for one frame), `within` (share of the best), `error_budget` (share of the outputs' largest
magnitude); `codecs` (names; `auto`: all within the error budget) and `shape` (names); `data_brokers` (auto, never)
and `broker_mbps` (what the main broker delivers, Mbit/s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

from coordinator.planner.goal import ENOUGH, OBJECTIVES, Goal, Objective
from coordinator.planner.model import PlanOptions
from slicemq.codecs import CODECS, is_lossless
from slicemq.errors import PlanError

SHAPES = ("one-node", "copies", "pipeline", "replicas", "parallel")
AUTO = "auto"
_MOST = 1e12


def options_from_plain(body: Mapping[str, Any]) -> PlanOptions:
    """The planner's options. Raises PlanError that names the field and what was expected."""
    shapes = _names(body, "shape", SHAPES)
    codecs = _names(body, "codecs", (*CODECS, AUTO))
    goal = _goal(body)
    lossy = [codec for codec in codecs if codec != AUTO and not is_lossless(codec)]
    if lossy and goal.error_budget <= 0:
        raise PlanError(
            f"field codecs: {', '.join(lossy)} changes the results: say by how much with an error budget above 0 "
            "(error_budget, --error-budget), such as 0.01"
        )
    if AUTO in codecs:
        codecs = tuple(codec for codec in CODECS if is_lossless(codec) or goal.error_budget > 0)
    return PlanOptions(
        pins=_texts(body, "pins", "slice -> node"),
        exclude=frozenset(_list(body, "exclude", "nodes")),
        require=_texts(body, "require", "label -> value"),
        max_slices=_count(body, "max_slices"),
        headroom=_number(body, "headroom", 0.0, most=1.0),
        goal=goal,
        codecs=tuple(dict.fromkeys(("raw", *codecs))),
        shapes=shapes or None,
        data_brokers=_data_brokers(body),
        broker_rate=_number(body, "broker_mbps", 0.0) * 1e6 / 8 or None,
    )


def _data_brokers(body: Mapping[str, Any]) -> Literal["auto", "never"]:
    value = body.get("data_brokers")
    if value not in (None, "auto", "never"):
        raise PlanError(f"field data_brokers: expected auto or never, got {value!r:.80}")
    return "never" if value == "never" else "auto"


def _goal(body: Mapping[str, Any]) -> Goal:
    objective = body.get("objective")
    if objective is None:
        objective = "throughput"
    if objective not in OBJECTIVES:
        raise PlanError(f"field objective: expected {', '.join(OBJECTIVES)}, got {objective!r:.80}")
    rate = _number(body, "min_rate", 0.0)
    latency = _number(body, "max_latency_ms", math.inf)
    goal = Goal(
        objective=cast("Objective", objective),
        max_period=1.0 / rate if rate > 0 else math.inf,
        max_latency=latency / 1e3,
        max_nodes=_count(body, "max_nodes"),
        max_energy=_number(body, "max_energy_j", math.inf),
        error_budget=_number(body, "error_budget", 0.0),
        within=_number(body, "within", ENOUGH, most=1.0),
    )
    if goal.objective == "nodes" and math.isinf(goal.max_period) and math.isinf(goal.max_latency):
        raise PlanError("field objective: the fewest nodes need a limit: give min_rate or max_latency_ms")
    return goal


def _number(body: Mapping[str, Any], field: str, default: float, most: float = _MOST) -> float:
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise PlanError(f"field {field}: expected a number from 0 to {most:g}, got {value!r:.80}")
    return float(value)


def _count(body: Mapping[str, Any], field: str) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"field {field}: expected a whole number, got {value!r:.80}")
    if value < 1:
        raise PlanError(f"field {field}: expected at least 1, got {value}")
    return value


def _texts(body: Mapping[str, Any], field: str, what: str) -> dict[str, str]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) and isinstance(k, str) for k, v in value.items()):
        raise PlanError(f"field {field}: expected an object, {what}")
    return dict(value)


def _list(body: Mapping[str, Any], field: str, what: str) -> list[str]:
    value = body.get(field)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise PlanError(f"field {field}: expected a list of {what}")
    return list(value)


def _names(body: Mapping[str, Any], field: str, known: tuple[str, ...]) -> tuple[str, ...]:
    found = _list(body, field, "names")
    for name in found:
        if name not in known:
            raise PlanError(f"field {field}: expected {', '.join(known)}, got {name[:80]!r}")
    return tuple(dict.fromkeys(found))
