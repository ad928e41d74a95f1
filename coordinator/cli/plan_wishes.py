"""The options of `plan make` and `deploy` that say what a plan is wanted for."""

from __future__ import annotations

from typing import Any

import typer

from slicemq.errors import UsageError

OBJECTIVE = typer.Option(
    "throughput", "--objective", help="What is made best: throughput, latency, nodes (the fewest) or energy."
)
MIN_RATE = typer.Option(None, "--min-rate", min=0.0, help="Limit: at least so many frames per second.")
MAX_LATENCY = typer.Option(None, "--max-latency", min=0.0, help="Limit: at most so many milliseconds a frame.")
MAX_NODES = typer.Option(None, "--max-nodes", min=1, help="Limit: at most so many nodes.")
MAX_ENERGY = typer.Option(None, "--max-energy", min=0.0, help="Limit: at most so many joules a frame.")
ERROR_BUDGET = typer.Option(
    0.0,
    "--error-budget",
    min=0.0,
    max=1.0,
    help="How far results may be off, as a share of their largest (lossy codecs).",
)
CODEC = typer.Option(
    [], "--codec", help="A codec that slices may use (auto: all within the error budget); may be repeated."
)
SHAPE = typer.Option(
    [], "--shape", help="A shape that may win: one-node, copies, pipeline, replicas, parallel; may be repeated."
)
REQUIRE = typer.Option([], "--require", help="LABEL=VALUE: only nodes with this label; may be repeated.")
DATA_BROKERS = typer.Option(
    "auto",
    "--data-brokers",
    help="auto: bundles may go over their receivers' own brokers; never: all over the main one.",
)
BROKER_RATE = typer.Option(
    None,
    "--broker-rate",
    min=0.0,
    help="Mbit/s that the main broker delivers; default: the fleet file's, else no limit.",
)
CALIBRATION = typer.Option(
    None,
    "--calibration",
    help="A folder of typical inputs, as for `model convert`: codecs are measured on these, else on noise.",
)
HEADROOM = typer.Option(0.0, "--headroom", min=0.0, max=0.99, help="Share of each node's memory that stays free.")


def wishes(**given: Any) -> dict[str, Any]:
    """The options as they travel in a request (`planner.wishes`); what was not given is left out."""
    body = {
        "objective": given["objective"],
        "min_rate": given["min_rate"],
        "max_latency_ms": given["max_latency"],
        "max_nodes": given["max_nodes"],
        "max_energy_j": given["max_energy"],
        "error_budget": given["error_budget"] or None,
        "codecs": given["codec"],
        "shape": given["shape"],
        "require": pairs(given["require"], "--require", "LABEL=VALUE such as room=barn"),
        "headroom": given["headroom"] or None,
        "broker_mbps": given["broker_rate"],
        "data_brokers": None if given["data_brokers"] == "auto" else given["data_brokers"],
    }
    return {name: value for name, value in body.items() if value not in (None, [], {})}


def pairs(given: list[str], option: str, expected: str) -> dict[str, str]:
    """`KEY=VALUE` words as a table. Raises UsageError for one that is not such, or contradicts an earlier one."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{option} {text}: expected {expected}")
        if found.setdefault(key, value) != value:
            raise UsageError(f"{option} {text}: {key} is {found[key]} already")
    return found
