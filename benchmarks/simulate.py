"""Simulated clusters by the thousand: what broke, and what each kind of fault did.

    python -m benchmarks.simulate [--runs 100000] [--seed 1] [--jobs 2] [--only chaos,failover] [--fresh]
        [--format json] [--write]

The runs are shared among the scenarios of `slicemq simulate` (one without faults has none), from the seed on.
Finished parts are kept in .cache/simulate.jsonl while the code is the same, so it can be stopped and resumed. The
exit code is 1 if any run broke a promise; the command that repeats it is printed. `--write` puts the tables into
docs/explanation/guarantees.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks.kept import ROOMS, Kept, code_digest
from benchmarks.pages import ROOT, write_region
from simulator.crowd import play_block
from simulator.faults import Fault
from simulator.scenarios import SCENARIOS
from simulator.tally import Tally

# Of so many runs each scenario has that many; the rest goes to the last one.
_SHARES = {
    "failover": 0.1,
    "coordinator": 0.1,
    "broker": 0.1,
    "messages": 0.1,
    "deploys": 0.15,
    "rollouts": 0.15,
    "chaos": 0.3,
}
_BLOCK = 500
PAGE = ROOT / "docs" / "explanation" / "guarantees.md"


def main() -> int:
    """Run, print the table; returns the exit code."""
    arguments = _arguments()
    names = arguments.only.split(",") if arguments.only else list(_SHARES)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        print(f"--only {unknown[0]}: expected some of {', '.join(SCENARIOS)}", file=sys.stderr)
        return 2
    begun = time.monotonic()
    tallies = _run(names, arguments)
    total = Tally()
    for tally in tallies.values():
        total.merge(tally)
    if arguments.format == "json":
        by_name = {name: tally.to_plain() for name, tally in tallies.items()}
        print(json.dumps({"seed": arguments.seed, "total": total.to_plain(), "scenarios": by_name}, indent=2))
    else:
        print(report(tallies, total, arguments.seed))
        print(f"\n{time.monotonic() - begun:.0f} s this time")
    if arguments.write:
        write_region("simulate", report(tallies, total, arguments.seed), PAGE)
    for one in total.first:
        print(f"{one['invariant']}: {one['how']}\n  {one['again']}", file=sys.stderr)
    return 1 if total.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="scenarios, separated by commas")
    parser.add_argument("--fresh", action="store_true", help="take nothing of earlier runs")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/explanation/guarantees.md")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser.parse_args()


def _run(names: list[str], arguments: argparse.Namespace) -> dict[str, Tally]:
    code = hashlib.sha256(f"{code_digest()} {code_digest(rooms=(*ROOMS, 'simulator'))}".encode()).hexdigest()[:12]
    kept = Kept("simulate", fresh=arguments.fresh, digest=code)
    total = sum(_SHARES.get(name, 0.1) for name in names)
    blocks = []
    for name in names:
        runs = round(arguments.runs * _SHARES.get(name, 0.1) / total)
        blocks += [(name, arguments.seed + start, min(_BLOCK, runs - start)) for start in range(0, runs, _BLOCK)]
    keys = [{"scenario": name, "first": first, "runs": runs} for name, first, runs in blocks]
    missing = [(key, block) for key, block in zip(keys, blocks, strict=True) if kept.get(key) is None]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        done = pool.map(play_block, *zip(*(block for _, block in missing), strict=True)) if missing else ()
        for number, ((key, _), tally) in enumerate(zip(missing, done, strict=False), 1):
            kept.add(key, tally.to_plain())
            print(f"{number} of {len(missing)} parts, {sum(tally.broken.values())} broken", file=sys.stderr)
    tallies = {name: Tally() for name in names}
    for key in keys:
        tallies[str(key["scenario"])].merge(Tally.from_plain(kept.get(key)))  # type: ignore[arg-type]
    return tallies


def report(tallies: dict[str, Tally], total: Tally, seed: int) -> str:
    """The tables, with what they count in front."""
    errors = ", ".join(f"{count} {reason}" for reason, count in sorted(total.failed.items())) or "none"
    least = ", ".join(f"{count} {what}" for what, count in total.least.items())
    return (
        f"{total.runs} runs with seeds from {seed} on, each with at least {least}: {total.answered} of "
        f"{total.frames} frames were answered, the others ended by a named error ({errors}); "
        f"{sum(total.broken.values())} runs broke a promise.\n\n{table(tallies, total)}\n\n{fault_table(total)}"
    )


def table(tallies: dict[str, Tally], total: Tally) -> str:
    """A row for each scenario, as a Markdown table."""
    lines = [
        "| scenario | runs | frames | ended by a named error | revisions | faults and changes | "
        "at rest, median s | 99 % | all | runs that broke a promise |",
        "|" + " --- |" * 10,
    ]
    for name, one in (*tallies.items(), ("all", total)):
        rest = " | ".join(str(one.settled_within(share)) for share in (0.5, 0.99, 1.0))
        lines.append(
            f"| {name} | {one.runs} | {one.frames} | {sum(one.failed.values())} | {one.revisions} | "
            f"{one.faults.total()} | {rest} | {sum(one.broken.values())} |"
        )
    return "\n".join(lines)


def fault_table(total: Tally) -> str:
    """How often each kind of fault was done, as a Markdown table."""
    lines = ["| fault | times |", "| --- | --- |"]
    lines += [f"| `{kind.value}` | {total.faults[kind.value]} |" for kind in Fault]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
