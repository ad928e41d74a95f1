"""Frames of the face detector through a pipeline whose parts are broken at random: nothing may be lost.

    python -m benchmarks.chaos --broker mosquitto|amqtt --frames N --faults N --seed N [--nodes 4]
                               [--clients 2] [--rate N] [--only KIND ...] [--format table|json]

Real processes: a broker, a coordinator, nodes with links and groups of their own (as root), clients. They run until
at least N frames are answered and at least N faults are carried out; which faults, on what, for how long and when
follows from the seed. Every outcome is held against what one device makes of the same input, in this process: each
frame answered once, in order, with the very same bits. The exit code is 0 only then, and 1 otherwise; what the
processes logged is kept then, and its folder printed.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos_check import ClientProcess
from benchmarks.chaos_client import digest_of, save_frames
from benchmarks.chaos_faults import MEMORY, ImpossibleError, World, small_disk
from benchmarks.chaos_plan import BY_NAME, COORDINATOR, Kind, Planned, aimed, faults, possible
from benchmarks.frames_of import answers_of, frames_of
from benchmarks.machine import describe_machine
from benchmarks.models import RealModel, real_models
from benchmarks.pages import as_json, write_region
from benchmarks.watch import Watch
from emulator.cluster import Cluster
from emulator.load import Frame
from emulator.network import check_possible
from emulator.scenario import BrokerPart, NodeType, Run, Scenario
from slicemq.errors import ConfigError, SliceMQError

PIPELINE = "faces"
_TURN = 12
_AT_ONCE = 2
_SETTLE_SECONDS = 90.0
_FLOWING_SECONDS = 1.5
_NODE_MB = 120
_DISK = "16m"
_LONGEST = 5
Say = Callable[[str], None]


@dataclass
class Done:
    """A fault that was carried out; times in seconds since the load began, `undone` None while it lasts."""

    fault: Planned
    at: float
    what: str
    undone: float | None = None


@dataclass
class Outcome:
    """What a run found; `problems` is empty only if all held."""

    seed: int
    broker: str
    model: str
    nodes: int
    clients: int
    isolated: bool
    seconds: float = 0.0
    frames: int = 0
    submitted: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    different: int = 0
    failed: int = 0
    resent: int = 0
    missed: int = 0
    second_answers: int = 0
    revisions: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    impossible: list[str] = field(default_factory=list)
    gaps: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    logs: str = ""


class Director:
    """Carries out faults from a schedule, undoes them in time, and waits now and then until all has settled."""

    def __init__(
        self,
        world: World,
        schedule: Iterator[Planned],
        serving: Callable[[], Sequence[str]],
        settled: Callable[[], str],
        say: Say,
    ) -> None:
        self._world = world
        self._schedule = schedule
        self._serving = serving
        self._settled = settled
        self._say = say
        self._open: list[tuple[float, int, Done, Callable[[], None]]] = []
        self._began = time.monotonic()
        self.done: list[Done] = []
        self.skipped: Counter[str] = Counter()

    def run(self, enough: Callable[[int], bool], check: Callable[[], None]) -> None:
        """Until `enough(faults carried out)`; `check` may raise meanwhile. All is undone and settled then."""
        for planned in self._schedule:
            if enough(len(self.done)):
                break
            self._wait(time.monotonic() + planned.gap, check)
            fault = aimed(planned, self._serving())
            while len(self._open) >= _AT_ONCE or self._taken(fault):
                self._wait(self._open[0][0], check)
            self._do(fault)
            if len(self.done) % _TURN == 0:
                self.settle(check)
        self.settle(check)

    def settle(self, check: Callable[[], None]) -> None:
        """Wait until every fault is undone and the pipeline serves again. Raises SliceMQError when it does not."""
        while self._open:
            self._wait(self._open[0][0], check)
        deadline = time.monotonic() + _SETTLE_SECONDS
        while why := self._settled():
            if time.monotonic() > deadline:
                raise SliceMQError(f"not settled {_SETTLE_SECONDS:g} s after the last fault: {why}")
            check()
            time.sleep(0.1)

    def close(self) -> None:
        """Undo what is still done, whatever comes of it."""
        while self._open:
            with contextlib.suppress(SliceMQError, OSError):
                heapq.heappop(self._open)[3]()

    def open_at(self, at: float) -> list[str]:
        """The faults that were not undone yet, or just were, so many seconds after the load began."""
        return [
            f"{done.at:.1f} s: {done.fault.words}"
            for done in self.done
            if done.at - 1.0 <= at and (done.undone is None or at <= done.undone + 2.0)
        ]

    def _do(self, fault: Planned) -> None:
        at = time.monotonic() - self._began
        if ended := self._world.ended():
            raise SliceMQError(f"ended by itself: {' '.join(ended)}")
        try:
            what, undo = self._world.do(fault)
        except ImpossibleError as why:
            self.skipped[fault.kind] += 1
            self._say(f"{at:.1f} s: {fault.words}: skipped, {why}")
            return
        done = Done(fault, at, what)
        self.done.append(done)
        self._say(f"{at:.1f} s: fault {len(self.done)}: {fault.words} {what}".rstrip())
        heapq.heappush(self._open, (time.monotonic() + fault.lasts, fault.number, done, undo))

    def _taken(self, fault: Planned) -> bool:
        """Whether something is open on what the fault is done to."""
        taken = {target for _, _, done, _ in self._open for target in done.fault.targets}
        return bool(taken & set(fault.targets))

    def _wait(self, until: float, check: Callable[[], None]) -> None:
        while True:
            now = time.monotonic()
            while self._open and self._open[0][0] <= now:
                _, _, done, undo = heapq.heappop(self._open)
                undo()
                done.undone = time.monotonic() - self._began
            if now >= until:
                return
            check()
            next_undo = self._open[0][0] if self._open else until
            time.sleep(max(0.0, min(until, next_undo, now + 0.1) - now))


def different_frames(model: RealModel) -> list[Frame]:
    """Real pictures, as they are, mirrored and upside down: inputs whose answers all differ."""
    frames = frames_of(model, 5)
    turned = [
        {index: np.ascontiguousarray(np.flip(a, axis)) for index, a in f.items()} for axis in (1, 2) for f in frames
    ]
    return [*frames, *turned]


class Trial:
    """One run, from the start of the processes to the verdict."""

    def __init__(self, given: argparse.Namespace, folder: Path, kinds: Sequence[Kind], say: Say) -> None:
        self._given = given
        self._folder = folder
        self._kinds = kinds
        self._say = say
        self._clients: list[ClientProcess] = []
        self._world: World
        self._watch: Watch
        self.outcome = Outcome(
            given.seed, given.broker, given.model, given.nodes, given.clients, not given.loopback
        )

    def run(self) -> Outcome:
        """Start all, break it, judge."""
        given = self._given
        kind = NodeType("n", given.nodes, "n", memory=MEMORY, threads=1, options=("--memory-mb", str(_NODE_MB)))
        scenario = Scenario("chaos", broker=BrokerPart(given.broker), nodes=(kind,), run=Run(seed=given.seed))
        model = real_models()[given.model]
        frames = different_frames(model)
        expected = [digest_of(answer) for answer in answers_of(model, frames)]
        if len(set(expected)) != len(expected):
            raise SliceMQError("two inputs have the same answer: a frame that took another's place would not show")
        save_frames(self._folder / "inputs.npz", frames)
        with contextlib.ExitStack() as stack:
            ballast: dict[str, Path] = {}
            disks = [f"n{number}" for number in range(1, given.nodes, 2)]
            if not given.loopback:
                for owner in (COORDINATOR, *disks):
                    ballast[owner] = stack.enter_context(small_disk(self._folder / owner, _DISK))
            measurements = Path(tempfile.gettempdir()) / "slicemq-chaos-measured"
            cluster = stack.enter_context(
                Cluster(
                    scenario,
                    folder=self._folder,
                    isolate=not given.loopback,
                    measurements=measurements,
                    say=self._say,
                )
            )
            # Estimates are not corrected by what is measured on a busy machine: the pipeline keeps its slices.
            words = ["--name", PIPELINE, "--shape", "pipeline", "--max-slices", str(given.slices)]
            words += ["--profile", "estimate"]
            plan = cluster.json("deploy", str(model.path), *words)
            self._say(f"revision {plan['revision']}: {len(plan['plan']['slices'])} slices")
            cluster.settle(1)
            self._watch = stack.enter_context(Watch(cluster.options, cluster.cluster, PIPELINE))
            stack.callback(self._end_clients)
            self._start_clients(cluster, expected)
            self._world = World(cluster, {one.client: one.process.pid for one in self._clients}, ballast)
            self._break(disks)
        return self.outcome

    def _start_clients(self, cluster: Cluster, expected: Sequence[str]) -> None:
        given = self._given
        for number in range(1, given.clients + 1):
            self._clients.append(
                ClientProcess(
                    f"client-{number}",
                    broker=cluster.broker.url,
                    cluster=cluster.cluster,
                    name=PIPELINE,
                    inputs=self._folder / "inputs.npz",
                    rate=given.rate / given.clients,
                    patience=_SETTLE_SECONDS,
                    expected=expected,
                    folder=self._folder,
                )
            )
        deadline = time.monotonic() + _SETTLE_SECONDS
        while any(one.answered == 0 for one in self._clients):
            if time.monotonic() > deadline:
                raise SliceMQError("no answers before the first fault")
            time.sleep(0.05)

    def _break(self, disks: Sequence[str]) -> None:
        given, outcome = self._given, self.outcome
        names = [f"n{number}" for number in range(1, given.nodes + 1)]
        clients = [one.client for one in self._clients]
        # Spread over the run, where the frames take longer than the faults.
        gap = max(given.gap, given.frames / given.rate / given.faults)
        schedule = faults(given.seed, self._kinds, names, clients, disks, gap)
        director = Director(self._world, schedule, lambda: self._watch.holders, self._settled, self._say)
        began = time.monotonic()

        def enough(carried_out: int) -> bool:
            return carried_out >= int(given.faults) and self._answered() >= int(given.frames)

        try:
            director.run(enough, self._check)
            for client in self._clients:
                client.finish()
        except SliceMQError as error:
            outcome.problems.append(f"after {time.monotonic() - began:.1f} s: {error}")
        finally:
            director.close()
        outcome.seconds = time.monotonic() - began
        outcome.faults = dict(Counter(done.fault.kind for done in director.done))
        outcome.skipped = dict(director.skipped)
        self._judge(director, began)

    def _judge(self, director: Director, began: float) -> None:
        given, outcome = self._given, self.outcome
        tallies = [one.tally for one in self._clients]
        for name in ("lost", "doubled", "disordered", "different", "failed"):
            setattr(outcome, name, sum(getattr(tally, name) for tally in tallies))
        outcome.frames = sum(tally.answered for tally in tallies)
        outcome.submitted = sum(tally.submitted or 0 for tally in tallies)
        for name, counter in (("resent", "resent"), ("missed", "missed"), ("second_answers", "doubles")):
            setattr(outcome, name, sum(tally.stats.get(counter, 0) for tally in tallies))
        outcome.revisions = len({revision for tally in tallies for revision in tally.revisions})
        gaps = sorted(
            ((gap, at - began, one.client) for one in self._clients for gap, at in one.tally.gaps), reverse=True
        )
        outcome.gaps = [
            {"seconds": round(gap, 3), "at": round(at, 1), "client": client, "faults": director.open_at(at)}
            for gap, at, client in gaps[:_LONGEST]
        ]
        for one in self._clients:
            outcome.problems += [f"{one.client}: {note}" for note in one.tally.notes]
            if not one.tally.sound and not one.tally.notes:
                outcome.problems.append(
                    f"{one.client}: {one.tally.lost} frames lost, {one.tally.answered} answered"
                )
        if outcome.frames < given.frames:
            outcome.problems.append(f"{outcome.frames} frames answered, expected {given.frames}")
        if len(director.done) < given.faults:
            outcome.problems.append(f"{len(director.done)} faults carried out, expected {given.faults}")

    def _answered(self) -> int:
        return sum(one.answered for one in self._clients)

    def _settled(self) -> str:
        """What is not yet as it shall be; empty when nothing is."""
        watch = self._watch
        away = [name for name in self._world.cluster.nodes if watch.states.get(name) != "ready"]
        silent = [one.client for one in self._clients if one.silent_for() > _FLOWING_SECONDS]
        if self._world.ended():
            return f"ended by itself: {' '.join(self._world.ended())}"
        if watch.coordinator != "ready":
            return f"the coordinator is {watch.coordinator or 'not there'}"
        if away or not watch.running:
            return f"pipeline {watch.words}; not ready: {', '.join(away) or 'no node'}"
        return f"no answers for {', '.join(silent)}, pipeline {watch.words}" if silent else ""

    def _check(self) -> None:
        for one in self._clients:
            if one.troubled:
                raise SliceMQError(f"{one.client}: {one.tally.notes[0]}")
            if one.process.poll() is not None:
                raise SliceMQError(f"{one.client} ended with exit code {one.process.returncode}: {one.log}")

    def _end_clients(self) -> None:
        for one in self._clients:
            if one.process.poll() is None:
                one.kill()


def tell(outcome: Outcome) -> str:
    """The outcome for people."""
    lines = [
        f"{outcome.broker}, {outcome.model}, {outcome.nodes} nodes, {outcome.clients} clients, "
        f"seed {outcome.seed}, {outcome.seconds:.0f} s",
        "",
        "| frames answered | lost | doubled | out of order | different | failed | sent again | revisions |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| {outcome.frames} | {outcome.lost} | {outcome.doubled} | {outcome.disordered} | {outcome.different} "
        f"| {outcome.failed} | {outcome.resent} | {outcome.revisions} |",
        "",
        "| fault | times |",
        "| --- | --- |",
        *(f"| {name} | {count} |" for name, count in sorted(outcome.faults.items())),
        f"| all | {sum(outcome.faults.values())} |",
        "",
        "Longest gaps between answers:",
        *(
            f"- {gap['seconds']:.2f} s, {gap['client']}, from {gap['at']:.1f} s on ({'; '.join(gap['faults'])})"
            for gap in outcome.gaps
        ),
    ]
    if outcome.impossible:
        lines += ["", f"Not possible here: {', '.join(outcome.impossible)}."]
    if outcome.problems:
        lines += ["", "Problems:", *(f"- {problem}" for problem in outcome.problems), f"Logs: {outcome.logs}"]
    return "\n".join(lines)


def _say(text: str) -> None:
    # With the time of day, by which it is found again in the logs.
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main() -> int:
    """Run it; 0 when all held."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=("mosquitto", "amqtt"), default="mosquitto")
    parser.add_argument("--frames", type=int, default=10_000, help="frames that must be answered")
    parser.add_argument("--faults", type=int, default=100, help="faults that must be carried out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--slices", type=int, default=3, help="at most so many slices")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second of all clients")
    parser.add_argument("--gap", type=float, default=4.0, help="seconds between two faults, at least, on average")
    parser.add_argument("--model", default="face-short-range", choices=sorted(real_models()))
    parser.add_argument("--only", nargs="+", choices=sorted(BY_NAME), help="only these kinds of faults")
    parser.add_argument("--loopback", action="store_true", help="without namespaces and groups, and their faults")
    parser.add_argument("--write", action="store_true", help="write the table into docs/explanation/performance.md")
    parser.add_argument("--keep", type=Path, help="keep the logs in this new folder, whatever comes out")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    given = parser.parse_args()
    if given.nodes < 3 or given.faults < 1 or given.frames < 1 or given.clients < 1:
        parser.error("expected at least 3 nodes, 1 fault, 1 frame and 1 client")
    if not given.loopback:
        try:
            check_possible()
        except ConfigError as error:
            print(f"{error}; going on without", file=sys.stderr)
            given.loopback = True
    kinds = possible(isolated=not given.loopback, stored=given.broker == "mosquitto")
    kinds = [kind for kind in kinds if given.only is None or kind.name in given.only]
    if not kinds:
        parser.error("none of these faults is possible here")
    # Sessions that listen lose their connections here all the time.
    logging.basicConfig(level=logging.ERROR)
    # Ended by SIGTERM, it still takes down what it has started and mounted.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = given.keep or Path(tempfile.mkdtemp(prefix=f"slicemq-chaos-{given.seed}-"))
    folder.mkdir(parents=True, exist_ok=True)
    trial = Trial(given, folder, kinds, _say)
    outcome = trial.outcome
    try:
        trial.run()
    except SliceMQError as error:
        outcome.problems.append(str(error))
    outcome.logs = str(folder)
    outcome.impossible = sorted(set(BY_NAME) - {k.name for k in kinds}) if given.only is None else []
    if given.format == "json":
        print(as_json({**outcome.__dict__, "machine": describe_machine(), "held": not outcome.problems}))
    else:
        print(tell(outcome))
    if given.write:
        write_region("chaos", f"{describe_machine()}\n\n{tell(outcome)}")
    if not outcome.problems and given.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
