"""Plan files and the costs files beside them, read and written by the verbs of `slicemq plan`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from slicemq.errors import PlanError, StoreError, UncheckedPlanError

if TYPE_CHECKING:
    from coordinator.planner.plan import Plan


def read_plan(path: Path) -> Plan:
    """A plan file. Raises PlanError that names the file and the field, StoreError when it cannot be read."""
    from coordinator.planner.plan import MAX_FILE_BYTES, Plan

    try:
        return Plan.from_json(read_bytes(path, MAX_FILE_BYTES))
    except PlanError as error:
        raise type(error)(f"{path}: {error}") from error


def read_costs(path: Path, plan: Plan, given: Path | None) -> bytes:
    """The costs file of the plan file `path`: the one that is given, or the one that the plan names, beside it.

    Raises UncheckedPlanError when there is none, PlanError when it is not the one that the plan was made of.
    """
    from coordinator.planner.books.write import MAX_BYTES

    if given is not None:
        return read_bytes(given, MAX_BYTES)
    if plan.costs is None:
        raise UncheckedPlanError(
            f"{path}: it names no costs file; make it with `slicemq plan make ... --costs FILE`, or give --costs"
        )
    beside = path.parent / plan.costs.file
    if Path(plan.costs.file).name != plan.costs.file or not beside.is_file():
        raise UncheckedPlanError(f"{path}: its costs file {plan.costs.file[:200]!r} is not beside it; give --costs")
    content = read_bytes(beside, MAX_BYTES)
    if hashlib.sha256(content).hexdigest() != plan.costs.sha256:
        raise PlanError(f"{beside}: not the costs file that {path} was made of: its SHA-256 differs")
    return content


def read_bytes(path: Path, most: int) -> bytes:
    """A file of at most `most` bytes. Raises StoreError, PlanError for a larger one."""
    try:
        if path.stat().st_size > most:
            raise PlanError(f"{path}: {path.stat().st_size} bytes, expected at most {most}")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
