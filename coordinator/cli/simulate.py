"""`slicemq simulate SCENARIO --seed N`: a simulated cluster, with faults drawn from the seed."""

from __future__ import annotations

import typer

from coordinator.cli.common import Output, verb
from slicemq.errors import InvariantError, UsageError


@verb
def command(
    out: Output,
    scenario: str | None = typer.Argument(None, help="The name of a scenario (--list names them)."),
    seed: int = typer.Option(1, "--seed", min=0, help="The run, or the first of several."),
    runs: int = typer.Option(1, "--runs", min=1, help="How many seeds, one after the other."),
    jobs: int = typer.Option(1, "--jobs", min=1, max=64, help="Over how many processes the runs are spread."),
    trace: bool = typer.Option(False, "--trace", help="Print every event of the run, with its simulated time."),
    listing: bool = typer.Option(False, "--list", help="List the scenarios and the kinds of faults, and end."),
) -> None:
    """Run the pure cores of a cluster under a simulated broker and clock, and check what SliceMQ promises.

    The same seed gives the same run. Ends with an error as soon as a promise is broken, and names the seed.
    """
    from simulator.scenarios import SCENARIOS

    if listing:
        _list(out)
        return
    if scenario not in SCENARIOS:
        wanted = "a scenario" if scenario is None else f"scenario {scenario!r}"
        raise UsageError(f"{wanted}: expected one of {', '.join(SCENARIOS)}")
    if trace:
        if runs > 1 or out.json:
            raise UsageError("--trace: expected one run, and text")
        _trace(out, scenario, seed)
        return
    _many(out, scenario, seed, runs, jobs)


def _many(out: Output, scenario: str, seed: int, runs: int, jobs: int) -> None:
    from simulator.crowd import play_many
    from simulator.tally import Tally

    total = Tally()
    with out.progress() as progress:
        task = progress.add_task(f"{scenario}, {runs} runs", total=runs, note="")
        for tally in play_many(scenario, seed, runs, jobs):
            total.merge(tally)
            progress.advance(task, tally.runs)
    body = {"scenario": scenario, "seed": seed, **total.to_plain()}
    out.result(body, lambda: _text(total))
    if total.broken:
        first = total.first[0]
        raise InvariantError(
            f"{sum(total.broken.values())} of {runs} runs broke a promise; seed {first['seed']}: "
            f"{first['invariant']}: {first['how']}. Repeat it: {first['again']}"
        )


def _text(total: object) -> str:
    from simulator.tally import Tally

    assert isinstance(total, Tally)
    faults = ", ".join(f"{name} {count}" for name, count in sorted(total.faults.items()))
    failed = ", ".join(f"{count} ended as {name}" for name, count in sorted(total.failed.items()))
    return "\n".join(
        [
            f"{total.runs} runs: {total.frames} frames, {total.answered} answered"
            + (f", {failed}" if failed else "")
            + f"; {total.revisions} revisions; {sum(total.broken.values())} runs broke a promise",
            f"faults and changes: {faults or 'none'}",
            f"at rest after the last fault: half of the runs within {total.settled_within(0.5)} s, "
            f"99 % within {total.settled_within(0.99)} s, all within {total.settled_within(1.0)} s (simulated)",
        ]
    )


def _trace(out: Output, scenario: str, seed: int) -> None:
    from simulator.play import play
    from simulator.scenarios import SCENARIOS

    lines: list[str] = []
    result = play(SCENARIOS[scenario], seed, lambda now, text: lines.append(f"{now:9.3f}  {text}"))
    out.result({}, "\n".join(lines))
    if result.broken:
        raise InvariantError(f"{scenario}, seed {seed}: {result.broken}: {result.how}")


def _list(out: Output) -> None:
    from simulator.faults import MEANS
    from simulator.scenarios import SCENARIOS

    scenarios = [{"name": one.name, "title": one.title} for one in SCENARIOS.values()]
    faults = [{"name": fault.value, "means": means} for fault, means in MEANS.items()]

    def text() -> str:
        rows = [[one["name"], one["title"]] for one in scenarios]
        kinds = [[one["name"], one["means"]] for one in faults]
        return out.table(["scenario", "what it is"], rows) + "\n\n" + out.table(["fault", "what it does"], kinds)

    out.result({"scenarios": scenarios, "faults": faults}, text)
