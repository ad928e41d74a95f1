"""`slicemq emulate SCENARIO.toml`: a whole cluster on this machine, with limits, links, a load and faults."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli.common import Output, verb
from slicemq.errors import FrameFailedError, SliceMQError, StoreError, UsageError

if TYPE_CHECKING:
    from emulator.scenario import Scenario

logger = logging.getLogger("slicemq.emulate")

# Other variables of the user's would change what the scenario says.
_OURS = frozenset({"SLICEMQ_DATA_LINK", "SLICEMQ_MODELS", "SLICEMQ_LOG_LEVEL", "SLICEMQ_LOG_FORMAT"})


@verb
def command(
    out: Output,
    scenario: str | None = typer.Argument(
        None, help="A scenario file (.toml), or the name of a scenario that comes with SliceMQ."
    ),
    folder: Path | None = typer.Option(
        None, "--out", help="Folder for report.json and the plots. Default: print only."
    ),
    repeats: int | None = typer.Option(None, "--repeats", min=1, help="In place of the scenario's repeats."),
    only: list[str] = typer.Option(
        [], "--only", help="Of a sweep, only NAME=VALUE, such as nodes=4; may be given several times."
    ),
    isolation: bool = typer.Option(
        True,
        "--isolation/--no-isolation",
        help="Without: plain processes on loopback, no link rates; needs no root.",
    ),
    keep: bool = typer.Option(False, "--keep", help="Keep the logs and state of all processes in --out."),
    measurements: Path | None = typer.Option(
        None, "--measurements", help="Folder where what boards measure of themselves is kept for the next run."
    ),
    listing: bool = typer.Option(False, "--list", help="List the scenarios that come with SliceMQ, and end."),
    clean: bool = typer.Option(False, "--clean", help="Remove what runs that were killed left behind, and end."),
) -> None:
    """Run a scenario: broker, coordinator and nodes as processes, each with its share of this machine and its link.

    Takes root, for network namespaces and limits. Nothing stays behind, also after Ctrl-C.
    """
    if clean:
        _clean(out)
        return
    if listing:
        _list(out)
        return
    if scenario is None:
        raise UsageError("expected a scenario file or the name of one that comes with SliceMQ (--list names them)")
    if keep and folder is None:
        raise UsageError("--keep: expected --out FOLDER with it")
    for name in [name for name in os.environ if name.startswith("SLICEMQ_") and name not in _OURS]:
        del os.environ[name]
    # As Ctrl-C does, the signal unwinds this thread, and what is on it cleans up.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    runs = folder / "runs" if keep and folder is not None else None
    _play(
        out,
        _narrowed(_read(scenario, repeats), only),
        folder,
        isolate=isolation,
        folder=runs,
        measurements=measurements,
    )


def _play(out: Output, scenario: Scenario, results: Path | None, **how: Any) -> None:
    """Run it as `how` says (see run_scenario), and give the report: printed, and in `results`."""
    from emulator.network import check_possible
    from emulator.runner import run_scenario
    from emulator.summary import as_text

    if how["isolate"]:
        check_possible()
    for folder in (results, how["measurements"]):
        _check_writable(folder)
    with out.progress() as progress:
        total = len(list(scenario.variants())) * scenario.run.repeats
        task = progress.add_task(scenario.name, total=total, note="starting")
        body = run_scenario(
            scenario,
            **how,
            say=lambda text: progress.update(task, note=text),
            done=lambda: progress.advance(task),
        )
    out.result(body, lambda: as_text(body))
    if results is not None:
        _write(results, body)
    for failure in body["failures"]:
        raise _failed(failure)
    if not all(repeat["sound"] for variant in body["variants"] for repeat in variant["repeats"]):
        raise FrameFailedError(f"{scenario.name}: not every frame was answered once, in order and rightly")


def _failed(failure: Mapping[str, Any]) -> SliceMQError:
    """The error that kept a variant from being measured, with its own exit code."""
    from emulator.summary import values_text

    values = values_text(failure["values"])
    error = SliceMQError(f"{values}: {failure['error']}" if values else str(failure["error"]))
    error.exit_code = failure["exit_code"]
    return error


def _read(given: str, repeats: int | None) -> Scenario:
    from dataclasses import replace

    from emulator.library import find_scenario
    from emulator.scenario import read_scenario

    found = read_scenario(find_scenario(given))
    return found if repeats is None else replace(found, run=replace(found.run, repeats=repeats))


def _narrowed(scenario: Scenario, only: Sequence[str]) -> Scenario:
    """The scenario with only the values that `only` names. Raises UsageError for one that its sweep has not."""
    from dataclasses import asdict, replace

    offered = {name: values for name, values in asdict(scenario.run.sweep).items() if values}
    chosen: dict[str, list[Any]] = {}
    for text in only:
        name, _, value = text.partition("=")
        found = [one for one in offered.get(name, ()) if _shown(one) == value]
        if not found:
            choices = [f"{key}={_shown(one)}" for key, values in offered.items() for one in values]
            raise UsageError(f"--only {text}: expected {', '.join(choices) or 'a scenario with a [run.sweep]'}")
        chosen[name] = [*chosen.get(name, []), *found]
    sweep = replace(scenario.run.sweep, **{name: tuple(values) for name, values in chosen.items()})
    return replace(scenario, run=replace(scenario.run, sweep=sweep))


def _shown(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _check_writable(folder: Path | None) -> None:
    """Raises StoreError at once where a long run could not store what it finds."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}") from error


def _write(folder: Path, body: dict[str, Any]) -> None:
    try:
        (folder / "report.json").write_text(json.dumps(body, indent=2, allow_nan=False) + "\n")
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning("no plots: they take matplotlib, pip install 'slicemq[plot]'")
            return
        from emulator.plots import draw

        draw(body, folder)
    except OSError as error:
        raise StoreError(f"{error.filename or folder}: {error.strerror}") from error


def _list(out: Output) -> None:
    from emulator.library import shipped

    found = [{"name": one.name, "title": one.title, "boards": len(one.boards())} for one in shipped()]
    rows = [[str(cell) for cell in one.values()] for one in found]
    out.result({"scenarios": found}, lambda: out.table(["name", "title", "boards"], rows))


def _clean(out: Output) -> None:
    from emulator.sweep import sweep

    found = sweep()
    out.result({"removed": found}, "\n".join(["removed:", *found]) if found else "nothing was left behind")


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
