"""From a fault to the first result of the new revision, at the client.

    python -m benchmarks.recovery [--repeats 30] [--only KIND ...] [--write] [--check] [--format table|json]

The face detector in three slices on five unthrottled nodes behind mosquitto, with links of their own (as root); a
client sends frames all the time. Before each fault the cluster is left alone until the plans for losses, and their
files, are ready. For a cold stand-in the nodes without a slice lose their caches and the fault comes at once, on
links of --cold-rate. Of two nodes at once at least one serves. Times are wall time from the fault to the moment at
which the client hands out the first result of another revision (broker: the first result; coordinator: the longest
gap between results). The steps are the moments at which a listener beside the client gets the documents.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from benchmarks.frames_of import frames_of
from benchmarks.machine import describe_machine
from benchmarks.marks import all_held
from benchmarks.marks import table as marks_table
from benchmarks.models import real_models
from benchmarks.pages import as_json, write_region
from benchmarks.recovery_steps import KINDS, Kind, Row, Sample, steps, tables
from benchmarks.watch import Watch
from emulator.cluster import Cluster
from emulator.load import Frame
from emulator.scenario import NodeType, Scenario
from slicemq.client import Pipeline, Result
from slicemq.errors import SliceMQError
from slicemq.messages import Assignment

PIPELINE = "faces"
NODES = 5
_SLICES = 3
_NODE_MB = 120
_RECOVER_SECONDS = 60.0
_SETTLE_SECONDS = 120.0
_CALM_SECONDS = 3.0
_AWAY_SECONDS = 5.0


class Stream:
    """A context manager: frames through the pipeline at `rate`; when results came, and by which revision."""

    def __init__(self, cluster: Cluster, frames: Sequence[Frame], rate: float) -> None:
        self.arrivals: list[tuple[float, str]] = []
        self.failed: list[str] = []
        self._frames = frames
        self._rate = rate
        self._stop = threading.Event()
        self._pipeline = Pipeline(PIPELINE, cluster.options, cluster=cluster.cluster, on_result=self._on_result)
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> Stream:
        self._pipeline.open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5.0)
        self._pipeline.close()

    def first(self, at: float, fits: Callable[[str], bool]) -> tuple[float, str]:
        """The first result after `at` by a revision that fits: when, and which. Raises SliceMQError: none came."""
        deadline = time.monotonic() + _RECOVER_SECONDS
        begin = len(self.arrivals)
        while begin and self.arrivals[begin - 1][0] > at:
            begin -= 1
        while time.monotonic() < deadline:
            while begin < len(self.arrivals):
                came, revision = self.arrivals[begin]
                begin += 1
                if came > at and fits(revision):
                    return came, revision
            time.sleep(0.005)
        raise SliceMQError(f"no result of another revision within {_RECOVER_SECONDS:g} s")

    def longest_gap(self, begin: float, end: float) -> float:
        """The longest time without a result between two moments."""
        times = [begin, *(came for came, _ in self.arrivals if begin < came < end), end]
        return max(later - earlier for earlier, later in pairwise(times))

    def _on_result(self, result: Result) -> None:
        if result.error is not None:
            self.failed.append(str(result.error))
        self.arrivals.append((time.monotonic(), result.revision))

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(1.0 / self._rate):
            with contextlib.suppress(TimeoutError):
                self._pipeline.submit(self._frames[number % len(self._frames)], timeout=0.2)
                number += 1


class Bench:
    """A running cluster with its stream and its listener, and the faults that are measured on it."""

    def __init__(self, cluster: Cluster, stream: Stream, watch: Watch, rng: random.Random, cold: float) -> None:
        self._cluster = cluster
        self._stream = stream
        self._watch = watch
        self._rng = rng
        self._cold = cold

    def measure(self, kind: Kind) -> Sample:
        """One fault of a kind, from a settled cluster to a cluster that is whole again."""
        method: Callable[[], Sample] = getattr(self, "_" + kind.name.replace("-", "_"))
        self._settle(warm=True)
        self._watch.forget()
        return method()

    def _death_warm(self) -> Sample:
        name = self._rng.choice(self._holders())
        sample = self._measure(lambda: self._cluster.kill_node(name))
        self._cluster.start_node(name)
        return sample

    def _silent(self) -> Sample:
        name = self._rng.choice(self._holders())
        try:
            return self._measure(lambda: self._cluster.freeze_node(name))
        finally:
            self._cluster.thaw_node(name)

    def _death_cold(self) -> Sample:
        holders = self._holders()
        spare = [name for name in self._cluster.nodes if name not in holders]
        for name in spare:
            self._cluster.kill_node(name)
            shutil.rmtree(self._cluster.nodes[name].folder / "artifacts", ignore_errors=True)
        for name in self._cluster.nodes:
            self._cluster.set_link(name, up=self._cold, down=self._cold)
        for name in spare:
            self._cluster.start_node(name)
        self._cluster.wait_ready(spare)
        name = self._rng.choice(holders)
        sample = self._measure(lambda: self._cluster.kill_node(name))
        self._cluster.start_node(name)
        for other in self._cluster.nodes:
            self._cluster.set_link(other, up=1e9, down=1e9)
        return sample

    def _two_nodes(self) -> Sample:
        holders = self._holders()
        others = [name for name in self._cluster.nodes if name not in holders]
        # The plan that is left after a loss may have one node only.
        names = self._rng.sample(holders, min(2, len(holders)))
        names += self._rng.sample(others, 2 - len(names))

        def kill() -> None:
            for name in names:
                self._cluster.kill_node(name)

        sample = self._measure(kill)
        for name in names:
            self._cluster.start_node(name)
        return sample

    def _broker(self) -> Sample:
        at = time.monotonic()
        self._cluster.broker.restart()
        # What was on its way to the client when the broker ended does not count.
        came, _ = self._stream.first(time.monotonic(), lambda revision: True)
        return Sample(came - at)

    def _coordinator(self) -> Sample:
        time.sleep(_AWAY_SECONDS)
        at = time.monotonic()
        usual = self._stream.longest_gap(at - _AWAY_SECONDS, at)
        self._cluster.kill_coordinator()
        time.sleep(_AWAY_SECONDS)
        gap = self._stream.longest_gap(at, time.monotonic())
        self._cluster.start_coordinator()
        return Sample(gap, usual=usual)

    # ---- inside

    def _measure(self, fault: Callable[[], None]) -> Sample:
        old = self._active()
        had = self._cached()
        at = time.monotonic()
        fault()
        came, new = self._stream.first(at, lambda revision: revision != old)
        # What was seen just after it belongs to it too: documents and results take different connections.
        time.sleep(0.3)
        seen = self._watch.since(at)
        plan = self._watch.plan
        prepared = plan is not None and plan.revision == new and bool(plan.planning.get("prepared_for"))
        wanted = {
            (one.document.node, item.artifact.sha256): item.artifact.size
            for one in seen
            if isinstance(one.document, Assignment)
            for item in one.document.slices
            if item.revision == new
        }
        missing = sum(size for (node, name), size in wanted.items() if name not in had.get(node, ()))
        return Sample(came - at, {**steps(seen, at, old, new), "result": came - at}, prepared, missing)

    def _cached(self) -> Mapping[str, set[str]]:
        """The whole files in each node's cache."""
        return {
            name: {path.name for path in (node.folder / "artifacts").glob("*") if "." not in path.name}
            for name, node in self._cluster.nodes.items()
        }

    def _active(self) -> str:
        pipeline = self._watch.pipeline
        routes = [route.revision for route in pipeline.routes if route.state == "active"] if pipeline else []
        return routes[0] if len(routes) == 1 else ""

    def _holders(self) -> list[str]:
        return sorted(set(self._watch.holders))

    def _settle(self, *, warm: bool) -> None:
        """Wait until all serves, plans for losses are ready, and nothing has changed for some seconds."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        since, before = time.monotonic(), None
        while time.monotonic() - since < _CALM_SECONDS or self._unsettled(warm):
            now = (self._active(), {name: frozenset(files) for name, files in self._cached().items()})
            if now != before or self._unsettled(warm):
                since, before = time.monotonic(), now
            if time.monotonic() > deadline:
                raise SliceMQError(f"not settled after {_SETTLE_SECONDS:g} s: {self._unsettled(warm)}")
            time.sleep(0.1)

    def _unsettled(self, warm: bool) -> str:
        watch = self._watch
        away = [name for name in self._cluster.nodes if watch.states.get(name) != "ready"]
        if away or watch.coordinator != "ready" or not watch.running:
            return f"pipeline {watch.words}, coordinator {watch.coordinator}, not ready: {', '.join(away)}"
        arrivals = self._stream.arrivals
        if not arrivals or arrivals[-1][1] != self._active() or time.monotonic() - arrivals[-1][0] > 1.0:
            return "no results of the active revision"
        ahead = watch.plan.planning.get("contingencies", {}) if watch.plan is not None else {}
        if warm and ahead.get("ready", 0) < ahead.get("wanted", 1):
            return f"plans for losses: {ahead}"
        return ""


@contextlib.contextmanager
def bench(rate: float, seed: int, cold: float, say: Callable[[str], None]) -> Iterator[Bench]:
    """A cluster that runs the face detector."""
    kind = NodeType("n", NODES, "n", threads=1, options=("--memory-mb", str(_NODE_MB)))
    model = real_models()["face-short-range"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slicemq-recovery-")))
        cluster = stack.enter_context(Cluster(Scenario("recovery", nodes=(kind,)), folder=folder, say=say))
        words = ["--name", PIPELINE, "--shape", "pipeline", "--max-slices", str(_SLICES)]
        plan = cluster.json("deploy", str(model.path), *words)
        say(f"revision {plan['revision']}: {len(plan['plan']['slices'])} slices")
        stream = stack.enter_context(Stream(cluster, frames_of(model, 5), rate))
        watch = stack.enter_context(Watch(cluster.options, cluster.cluster, PIPELINE))
        yield Bench(cluster, stream, watch, random.Random(seed), cold)
        if stream.failed:
            raise SliceMQError(f"{len(stream.failed)} frames failed: {stream.failed[0]}")


def measured(given: argparse.Namespace, say: Callable[[str], None]) -> list[Row]:
    """A row for each kind that is asked for."""
    kinds = [kind for kind in KINDS if given.only is None or kind.name in given.only]
    rows = []
    with bench(given.rate, given.seed, given.cold_rate * 1e6, say) as ready:
        for kind in kinds:
            samples = []
            for number in range(1, given.repeats + 1):
                sample = ready.measure(kind)
                samples.append(sample)
                found = {name: round(value, 3) for name, value in sample.steps.items()}
                ahead = ", plan made ahead" if sample.prepared else ""
                say(f"{kind.name} {number}: {sample.seconds:.3f} s{ahead} {found}")
            rows.append(Row(kind, samples))
    return rows


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recovery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=30, help="faults of each kind")
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in KINDS])
    parser.add_argument("--rate", type=float, default=50.0, help="frames per second")
    parser.add_argument("--seed", type=int, default=1, help="which nodes are hit")
    parser.add_argument(
        "--cold-rate", type=float, default=10.0, help="Mbit/s of all links when the stand-in is cold"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the tables into docs/explanation/performance.md"
    )
    parser.add_argument("--check", action="store_true", help="exit code 1 unless every mark is held")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    rows = measured(given, lambda text: print(text, file=sys.stderr, flush=True))
    marks = [mark for row in rows for mark in row.marks()]
    text = f"{tables(rows)}\n\n{marks_table(marks)}\n\nLinks of the cold stand-in: {given.cold_rate:g} Mbit/s."
    if given.format == "json":
        print(as_json({"machine": describe_machine(), "rows": [row.to_plain() for row in rows]}))
    else:
        print(f"{describe_machine()}\n\n{text}")
    if given.write:
        write_region("recovery", f"{describe_machine()}\n\n{text}")
    return 0 if not given.check or all_held(marks) else 1


if __name__ == "__main__":
    sys.exit(main())
