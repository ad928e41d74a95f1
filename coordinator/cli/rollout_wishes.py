"""The options of `deploy` and `model watch` that say how a version is tried before it has all frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import typer

from slicemq.errors import UsageError

CANARY = typer.Option(
    None, "--canary", help="Try it first on this share of the frames (0.1: a tenth), and judge it by its answers."
)
SHADOW = typer.Option(
    None, "--shadow", help="Try it first on copies of this share of the frames, whose answers nobody gets."
)
FRAMES = typer.Option(None, "--frames", min=1, help="Frames that it is judged by at least. Default: 100.")
SECONDS = typer.Option(None, "--seconds", help="Seconds that it is tried for at least. Default: 10.")
DEADLINE = typer.Option(
    None, "--deadline", help="Seconds after which a rollout that is not promoted is rolled back. Default: 600."
)
MAX_FAILED = typer.Option(
    None, "--max-failed", help="Roll back when a larger share of its frames fails. Default: 0.01."
)
MAX_SLOWDOWN = typer.Option(
    None,
    "--max-slowdown",
    help="Roll back when its latency (95th percentile) is more than so many times the old one's. Default: 2.",
)
MAX_DIFFERENCE = typer.Option(
    None,
    "--max-difference",
    help="With --shadow: roll back when answers differ by more of their largest value. Default: not judged.",
)
PROMOTE = typer.Option(
    "auto", "--promote", help="auto: as soon as it is judged good; manual: by `slicemq rollout promote` alone."
)
GOLDEN = typer.Option(
    [],
    "--golden",
    help="An .npz of inputs and the outputs that they must give; it is refused where it errs. May be repeated.",
)
DEFAULT_SECONDS = 10.0
DEFAULT_DEADLINE = 600.0
_MOST_SECONDS = 7 * 86400.0
_TRIAL_ONLY = ("frames", "seconds", "max_failed", "max_slowdown")


def wishes(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request's field `rollout` (docs/reference/protocol.md): what was given, checked. Raises UsageError.

    given: the options' values by the names of their parameters.
    """
    body = {
        "canary": _number(given, "canary", 0.0, 0.5, "a share above 0 and below 0.5", open_ends=True),
        "shadow": _number(given, "shadow", 0.0, 1.0, "a share above 0, at most 1", open_low=True),
        "frames": given["frames"],
        "seconds": _number(given, "seconds", 0.0, _MOST_SECONDS, "seconds, at most a week"),
        "deadline": _number(given, "deadline", 1.0, _MOST_SECONDS, "1 second to a week"),
        "max_failed": _number(given, "max_failed", 0.0, 1.0, "a share from 0 to 1"),
        "max_slowdown": _number(given, "max_slowdown", 1.0, 1e6, "a factor from 1, such as 1.5"),
        "max_difference": _number(given, "max_difference", 0.0, 1e6, "a share from 0, such as 0.01"),
    }
    promote = given["promote"]
    if promote not in ("auto", "manual"):
        raise UsageError(f"--promote: expected auto or manual, got {promote!r}")
    wished = {name: value for name, value in body.items() if value is not None}
    if promote == "manual":
        wished["promote"] = promote
    tried = "canary" in wished or "shadow" in wished
    for name in (*_TRIAL_ONLY, "promote"):
        if name in wished and not tried:
            raise UsageError(f"{_option(name)}: expected with --canary or --shadow, without them nothing is tried")
    if "max_difference" in wished and "shadow" not in wished:
        raise UsageError("--max-difference: expected with --shadow, which alone compares answers")
    deadline = wished.get("deadline", DEFAULT_DEADLINE)
    trials = ("canary" in wished) + ("shadow" in wished)
    least = trials * wished.get("seconds", DEFAULT_SECONDS)
    if least >= deadline:
        raise UsageError(f"--deadline: expected more than the {least:g} s that it is tried for, got {deadline:g}")
    return wished


def _number(
    given: Mapping[str, Any],
    name: str,
    low: float,
    high: float,
    expected: str,
    *,
    open_low: bool = False,
    open_ends: bool = False,
) -> float | None:
    value = given[name]
    if value is None:
        return None
    low_holds = value > low if open_low or open_ends else value >= low
    high_holds = value < high if open_ends else value <= high
    if not (math.isfinite(value) and low_holds and high_holds):
        raise UsageError(f"{_option(name)}: expected {expected}, got {value:g}")
    return float(value)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
