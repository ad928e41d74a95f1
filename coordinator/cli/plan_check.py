"""`slicemq plan check PLAN`: whether a plan is what it says, by the costs file that was written with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from coordinator.cli.common import Output, verb
from coordinator.cli.plan_files import read_bytes
from slicemq.errors import PlanCheckError, PlanError, UncheckedPlanError

if TYPE_CHECKING:
    from coordinator.plan_check.report import Report


@verb
def command(
    out: Output,
    plan: Path = typer.Argument(..., help="The plan file."),
    costs: Path | None = typer.Option(
        None, "--costs", help="The costs file; default: the one that the plan names, beside the plan file."
    ),
) -> None:
    """Check a plan against its costs file: what it may use, its figures, and its bounds, in exact arithmetic."""
    from coordinator.plan_check.check import check_plan
    from coordinator.plan_check.ledger import MAX_BYTES as MAX_COSTS
    from coordinator.plan_check.planfile import MAX_BYTES, PlanFile

    text = read_bytes(plan, MAX_BYTES)
    try:
        named = PlanFile(text).costs
        if costs is None and named is not None:
            costs = _beside(plan, named[0])
        body = None if costs is None else read_bytes(costs, MAX_COSTS)
        report = check_plan(text, body)
    except PlanError as error:
        raise type(error)(f"{plan}: {error}") from error
    out.result(
        {"plan": str(plan), "costs": None if costs is None else str(costs), **report.to_plain()},
        lambda: _shown(out, report),
    )
    if report.failed:
        names = ", ".join(check.name for check in report.failed)
        raise PlanCheckError(f"{plan}: not as the plan says: {names}")
    if costs is None:
        why = "it names no costs file" if named is None else f"its costs file {named[0][:200]!r} is not beside it"
        raise UncheckedPlanError(f"{plan}: {why}, so that nothing could be checked; see --costs")


def _beside(plan: Path, name: str) -> Path | None:
    """The named file, when it is there."""
    found = plan.parent / name if name and Path(name).name == name else None
    return found if found is not None and found.is_file() else None


def _shown(out: Output, report: Report) -> str:
    rows = [[check.name, check.word, check.text] for check in report.checks]
    return out.table(["what", "result", "why"], rows)
