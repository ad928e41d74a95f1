"""`slicemq deploy FILE --name NAME`: hand a model to the coordinator, and wait until it runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import typer

from coordinator.cli import plan_wishes, rollout_wishes
from coordinator.cli.common import Network, Output, verb
from coordinator.cli.model_files import INPUT_SHAPE
from coordinator.cli.plan_text import error_line

logger = logging.getLogger("slicemq.deploy")


@verb
def command(
    net: Network,
    out: Output,
    file: Path = typer.Argument(..., help="The model, a .tflite file."),
    name: str = typer.Option(..., "--name", help="What the pipeline shall be called."),
    plan: Path | None = typer.Option(None, "--plan", help="A plan file (slicemq plan make); default: plan now."),
    profile: str = typer.Option(
        "measure", "--profile", help="Operator costs: measure (on the coordinator's machine) or estimate."
    ),
    pin: list[str] = typer.Option([], "--pin", help="SLICE=NODE, such as s0=pi-1; may be given several times."),
    exclude: list[str] = typer.Option([], "--exclude", help="A node to leave out; may be given several times."),
    max_slices: int | None = typer.Option(None, "--max-slices", min=1, help="At most so many slices."),
    objective: str = plan_wishes.OBJECTIVE,
    min_rate: float | None = plan_wishes.MIN_RATE,
    max_latency: float | None = plan_wishes.MAX_LATENCY,
    max_nodes: int | None = plan_wishes.MAX_NODES,
    max_energy: float | None = plan_wishes.MAX_ENERGY,
    error_budget: float = plan_wishes.ERROR_BUDGET,
    codec: list[str] = plan_wishes.CODEC,
    calibration: Path | None = plan_wishes.CALIBRATION,
    shape: list[str] = plan_wishes.SHAPE,
    require: list[str] = plan_wishes.REQUIRE,
    headroom: float = plan_wishes.HEADROOM,
    data_brokers: str = plan_wishes.DATA_BROKERS,
    broker_rate: float | None = plan_wishes.BROKER_RATE,
    input_shape: list[str] = INPUT_SHAPE,
    canary: float | None = rollout_wishes.CANARY,
    shadow: float | None = rollout_wishes.SHADOW,
    frames: int | None = rollout_wishes.FRAMES,
    seconds: float | None = rollout_wishes.SECONDS,
    deadline: float | None = rollout_wishes.DEADLINE,
    max_failed: float | None = rollout_wishes.MAX_FAILED,
    max_slowdown: float | None = rollout_wishes.MAX_SLOWDOWN,
    max_difference: float | None = rollout_wishes.MAX_DIFFERENCE,
    promote: str = rollout_wishes.PROMOTE,
    golden: list[Path] = rollout_wishes.GOLDEN,
    rebalance: bool = typer.Option(
        True, "--rebalance/--no-rebalance", help="Let the pipeline move later to a plan that is better by 10 %."
    ),
    make_room: bool = typer.Option(
        True, "--make-room/--no-make-room", help="Pause what serves if the new revision does not fit beside it."
    ),
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait until it has all frames, or has failed."),
    timeout: float | None = typer.Option(
        None,
        "--timeout",
        min=1.0,
        help="Seconds to wait at most. Default: 600, or 30 beyond the deadline.",
    ),
) -> None:
    """Hand a model to the coordinator: it plans, cuts and delivers it, and switches the pipeline over to it.

    Ends with 42 when the rollout was rolled back, 43 when a newer one took its place, both with the reason.
    """
    from coordinator.cli.codec_tools import warn_of_noise
    from coordinator.cli.deployment import carry_out, prepare

    given = {
        "profile": profile,
        "pin": pin,
        "exclude": exclude,
        "max_slices": max_slices,
        "objective": objective,
        "min_rate": min_rate,
        "max_latency": max_latency,
        "max_nodes": max_nodes,
        "max_energy": max_energy,
        "error_budget": error_budget,
        "codec": codec,
        "calibration": calibration,
        "shape": shape,
        "require": require,
        "headroom": headroom,
        "data_brokers": data_brokers,
        "broker_rate": broker_rate,
        "input_shape": input_shape,
        "canary": canary,
        "shadow": shadow,
        "frames": frames,
        "seconds": seconds,
        "deadline": deadline,
        "max_failed": max_failed,
        "max_slowdown": max_slowdown,
        "max_difference": max_difference,
        "promote": promote,
        "golden": golden,
        "rebalance": rebalance,
        "make_room": make_room,
    }
    deployment = prepare(file, name, given, plan)
    with out.progress() as progress:
        result = carry_out(net, deployment, progress, wait=wait, timeout=timeout)
    made = result["plan"]
    error = made.get("error") if made is not None else None
    warn_of_noise(error)
    measured_on = error.get("samples") if error is not None else None
    if "calibration" in deployment.body and plan is None and error is not None and measured_on != "calibration":
        logger.warning(
            "the coordinator did not measure codecs on the calibration set: it may be of an older version"
        )
    out.result(result, lambda: _text(result, out))


def _text(result: dict[str, Any], out: Output) -> str:
    how = "already runs" if result["unchanged"] else "runs" if result["running"] else "is being prepared"
    lines = [f"{result['name']}: revision {result['revision']} {how} ({result['seconds']:.1f} s)"]
    plan = result["plan"]
    if plan is not None:
        rows = [
            [
                str(item["id"]),
                _nodes(item, plan.get("turns", 1)),
                str(len(item["operators"])),
                f"{item['compute_ms']:.1f}",
                f"{item['bytes_in'] / 1e6:.3f}",
                f"{item['bytes_out'] / 1e6:.3f}",
                f"{item['memory_mb']:.1f}",
            ]
            for item in plan["slices"]
        ]
        lines.append(out.table(["slice", "node", "operators", "compute ms", "MB in", "MB out", "memory MB"], rows))
        if plan.get("error") is not None:
            lines.append(error_line(plan["error"]))
        lines.append(f"planned period {plan['period_ms']:.1f} ms ({plan['method']}, gap {100 * plan['gap']:.1f} %)")
    return "\n".join(lines)


def _nodes(item: dict[str, Any], turns: int) -> str:
    """`pi-1`, or with several turns `pi-1 2/3, pi-2 1/3`: each node's share of the frames."""
    if turns == 1:
        return "+".join(item["nodes"])
    served = [len(own) for own in item.get("turns", [])] or [turns]
    return ", ".join(f"{node} {count}/{turns}" for node, count in zip(item["nodes"], served, strict=True))
