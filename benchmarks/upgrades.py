"""Hot upgrades under constant load, some of them broken on purpose: is a frame lost or mixed, is a bad one noticed?

    python -m benchmarks.upgrades [--upgrades 200] [--bad 20] [--seed 1] [--format table|json] [--write]

One pipeline of two slices on two nodes over mosquitto (each limited to a share of one core: needs root). A client
keeps its window full while two models with one interface and different answers follow each other. Every answer is
held bit for bit against both on one device, and against the model of the revision that it names; an answer that is
of no model, or of another one, is a mixture. Every upgrade brings a golden file of the model that it says it is.
Bad ones are of four kinds: their answers are wrong (a golden file notices), a worker gets less memory than its node
believed it had and fails while it loads one, they are slow (a canary's gate notices), or no node has the memory
(there is no plan).

A rate is of the answers from the start of `slicemq deploy` until the next one's, as a share of the steady
rate, which is measured every ten upgrades when only one revision is left. The exit code is 0 only when no frame
was lost, doubled, out of order or mixed, each upgrade ended as it should and for the right reason, a good one
keeps 80 % of the rate (median), and nothing grew (upgrade_growth.py).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.models import real_models, sha256
from benchmarks.upgrade_growth import Sizes, read_sizes
from benchmarks.upgrade_load import Answers, Constant, judge, longest_gap, rate_between
from benchmarks.upgrade_models import with_detour, with_other_weights
from benchmarks.upgrade_report import BAD, GOOD, Kind, Outcome, Upgrade, report
from edge_node.runtime import open_interpreter
from emulator.cgroups import limit
from emulator.site import Site
from slicemq.errors import SliceMQError
from slicemq.messages import PipelineDocument, PlanDocument, decode
from slicemq.operations import RolloutDocument
from slicemq.session import Session
from slicemq.topics import Topics

CLUSTER = "bench"
NAME = "faces"
NODES = ("n1", "n2")
# What nodes say they have for slices, and what each of their processes really gets, in MB.
_CLAIMED_MB = 800
_GIVEN_MB = 400
# Channels of a float32 picture of 128 x 128: 459 MB, which by the plan fits a node, and 1049 MB, which does not.
_CRASHING, _TOO_BIG = 7000, 16000
_SLOW = {"channels": 64, "side": 3, "times": 2}
_PLACED = [word for number, node in enumerate(NODES) for word in ("--pin", f"s{number}={node}")]
_DEADLINE = 120.0
_SETTLE_SECONDS = 90.0
# Answers of the revision before may be on their way for so long.
_FLIP_SECONDS = 10.0
_STEADY_EVERY = 10
_STEADY_SECONDS = 4.0
_SIZES_EVERY = 50
_FIRST_SIZES = 5


def schedule(upgrades: int, bad: int, seed: int) -> list[Kind]:
    """Which upgrades are broken, and how: each kind equally often, in a drawn order; the first one is good."""
    if not 0 <= bad < upgrades:
        raise SliceMQError(f"--bad: expected fewer than the {upgrades} upgrades, got {bad}")
    generator = random.Random(seed)
    kinds = [BAD[number % len(BAD)] for number in range(bad)] + [GOOD] * (upgrades - bad - 1)
    generator.shuffle(kinds)
    return [GOOD, *kinds]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 when something does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.upgrades",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--upgrades", type=int, default=200)
    parser.add_argument("--bad", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.2, help="share of a core for each node")
    parser.add_argument("--rate", type=float, help="frames per second at most (default: the window is kept full)")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two upgrades")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--write", action="store_true", help="put it into docs/explanation/performance.md")
    given = parser.parse_args(arguments)
    try:
        outcome = run(given, lambda text: print(text, file=sys.stderr, flush=True))
    except SliceMQError as error:
        sys.stderr.write(f"upgrades: {error}\n")
        return error.exit_code
    report(outcome, given)
    return 1 if outcome.faults() else 0


def run(given: argparse.Namespace, say: Callable[[str], None]) -> Outcome:
    """Make the models, start the cluster, and upgrade."""
    kinds = schedule(given.upgrades, given.bad, given.seed)
    with contextlib.ExitStack() as stack:
        groups = {node: limit(node, share=given.share) for node in NODES}
        for group in groups.values():
            stack.callback(group.remove)
        site = stack.enter_context(Site("mosquitto", cluster=CLUSTER))
        files = make_models(site.folder)
        answers = Answers({name: files[name] for name in ("first", "second", "wrong", "slow")}, given.seed)
        for name in ("first", "second"):
            write_golden(golden_of(files[name]), files[name], answers, name)
        site.start_coordinator()
        for node in NODES:
            words = ("--threads", "1", "--memory-mb", str(_CLAIMED_MB))
            given_bytes = f"--data={_GIVEN_MB * 1_000_000}"
            site.start_node(node, *words, prefix=[*groups[node].prefix(), "prlimit", given_bytes])
        site.wait_ready(NODES, timeout=180.0)
        watched = stack.enter_context(_Watched(site, {sha256(file): name for name, file in files.items()}))
        site.json("deploy", str(files["first"]), "--name", NAME, "--profile", "estimate", *_PLACED)
        with Constant(NAME, site.options, CLUSTER, answers, given.rate) as load:
            course = _Course(site, files, load, watched, given.pause, say)
            upgrades, sizes = course.go(kinds)
        if load.error is not None:
            raise SliceMQError(f"the client failed: {load.error}")
        judged = judge(load.submitted, load.answers, watched.models)
        return Outcome(upgrades, judged, sizes, len(watched.models))


def make_models(folder: Path) -> dict[str, Path]:
    """The original and what is made of it, by name."""
    original = real_models()["face-short-range"]
    if not original.path.is_file():
        raise SliceMQError(f"{original.name}: not here; {original.hint}")
    made = {
        "first": original.path.read_bytes(),
        "second": with_other_weights(original.path, 1.25),
        "wrong": with_other_weights(original.path, 0.5),
        "slow": with_detour(original.path, **_SLOW),
        "crashing": with_detour(original.path, _CRASHING),
        "big": with_detour(original.path, _TOO_BIG),
    }
    files = {name: folder / f"model-{name}.tflite" for name in made}
    for name, data in made.items():
        files[name].write_bytes(data)
    return files


def golden_of(file: Path) -> Path:
    """Where the golden file of a model is."""
    return file.with_suffix(".npz")


def write_golden(golden: Path, file: Path, answers: Answers, name: str) -> None:
    """The first frame with what one device answers, as `slicemq deploy --golden` takes it."""
    interpreter = open_interpreter(file)
    outputs = zip(interpreter.outputs, answers.expected(name, 0), strict=True)
    arrays = {interpreter.inputs[0].name: answers.frames[0]}
    arrays |= {f"expect.{info.name}": array for info, array in outputs}
    np.savez(golden, **arrays)


class _Watched:
    """The pipeline's documents: which revision is of which model, and which routes there are."""

    def __init__(self, site: Site, names: dict[str, str]) -> None:
        self._topics = Topics(site.cluster)
        self._names = names
        self.models: dict[str, str] = {}
        self.document: PipelineDocument | None = None
        self._session = Session(site.options, f"upgrades-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> _Watched:
        topics = self._topics
        self._session.subscribe(topics.plan(NAME), topics.pipeline(NAME), topics.rollout(NAME))
        self._session.start()
        self._session.wait_up(10.0)
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.stop()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        if payload and topic == self._topics.plan(NAME):
            document = decode(PlanDocument, payload, topic)
            self._learn(document.revision, document.model.sha256)
        elif payload and topic == self._topics.rollout(NAME):
            rollouts = decode(RolloutDocument, payload, topic)
            current = [rollouts.current] if rollouts.current is not None else []
            for entry in [*rollouts.history, *current]:
                self._learn(entry.revision, entry.model.sha256)
        elif payload:
            self.document = decode(PipelineDocument, payload, topic)

    def _learn(self, revision: str, model: str) -> None:
        if revision:
            self.models[revision] = self._names[model]


class _Course:
    """Upgrades one after the other, and what is measured around them."""

    def __init__(
        self,
        site: Site,
        files: dict[str, Path],
        load: Constant,
        watched: _Watched,
        pause: float,
        say: Callable[[str], None],
    ) -> None:
        self._site, self._files, self._load, self._watched = site, files, load, watched
        self._pause, self._say = pause, say
        self._serves = "first"
        self._steady = 0.0

    def go(self, kinds: Sequence[Kind]) -> tuple[list[Upgrade], list[Sizes]]:
        """Carry out all of them."""
        upgrades: list[Upgrade] = []
        sizes: list[Sizes] = []
        self._wait(2 * self._pause)
        for number, kind in enumerate(kinds, start=1):
            if number % _STEADY_EVERY == 1:
                self._measure_steady()
            upgrades.append(self._upgrade(number, kind))
            self._tell(upgrades[-1], len(kinds))
            if self._load.error is not None:
                break
            if number == _FIRST_SIZES or number % _SIZES_EVERY == 0 or number == len(kinds):
                self._settle()
                sizes.append(read_sizes(self._site, number))
                self._say(f"  {sizes[-1]}")
        return upgrades, sizes

    def _upgrade(self, number: int, kind: Kind) -> Upgrade:
        other = "second" if self._serves == "first" else "first"
        model = {
            "wrong output": "wrong",
            "crash on load": "crashing",
            "too slow": "slow",
            "too big": "big",
        }.get(kind.name, other)
        # A slow model is a copy of the first one in all but time, and so is one that nobody can load.
        pretends = other if model in ("first", "second", "wrong") else "first"
        words = [str(self._files[model]), "--name", NAME, "--profile", "estimate", *_PLACED, *kind.options]
        words += ["--golden", str(golden_of(self._files[pretends])), "--deadline", f"{_DEADLINE:g}"]
        begin = time.monotonic()
        code, reason = 0, ""
        try:
            self._site.json("deploy", *words, timeout=2 * _DEADLINE)
        except SliceMQError as error:
            code, reason = error.exit_code, str(error).partition("slicemq: ")[2] or str(error)
        end = time.monotonic()
        if code == 0:
            self._serves = model
        self._wait(self._pause)
        times = [answer.at for answer in self._load.answers]
        return Upgrade(
            number=number,
            kind=kind.name,
            model=model,
            code=code,
            reason=reason,
            seconds=end - begin,
            rate=rate_between(times, begin, time.monotonic()),
            steady=self._steady,
            gap=longest_gap(times, begin, end),
            wrong=self._wrong(kind, code, reason),
        )

    def _wrong(self, kind: Kind, code: int, reason: str) -> str:
        """What does not hold of one upgrade: its end, its reason, or what serves after it."""
        if code not in kind.codes:
            expected = " or ".join(map(str, kind.codes))
            return f"ended with {code}, expected {expected}: {reason or 'it succeeded'}"
        if not re.search(kind.why, reason):
            return f"the reason is {reason!r}, expected one like {kind.why!r}"
        deadline = time.monotonic() + _FLIP_SECONDS
        while self._serving() != self._serves and time.monotonic() < deadline and self._load.error is None:
            time.sleep(0.05)
        serves = self._serving()
        if serves != self._serves:
            return f"{self._load.revision} of model {serves or 'unknown'} serves, expected {self._serves}"
        return ""

    def _serving(self) -> str:
        """The model of the revision of the last answer."""
        return self._watched.models.get(self._load.revision, "")

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._load.error is None:
            time.sleep(0.05)

    def _settle(self) -> None:
        """Wait until only one revision is left."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            document = self._watched.document
            if document is not None and [route.state for route in document.routes] == ["active"]:
                break
            time.sleep(0.1)
        self._wait(self._pause)

    def _measure_steady(self) -> None:
        """The rate while nothing is upgraded, drained or unloaded."""
        self._settle()
        begin = time.monotonic()
        self._wait(_STEADY_SECONDS)
        self._steady = rate_between([answer.at for answer in self._load.answers], begin, time.monotonic())

    def _tell(self, one: Upgrade, of: int) -> None:
        how = (
            one.wrong or one.reason or f"{100 * one.share:.0f} % of {one.steady:.1f} frames/s, gap {one.gap:.2f} s"
        )
        mark = "WRONG " if one.wrong else ""
        self._say(f"{one.number}/{of} {one.kind}: {mark}{how} ({one.seconds:.1f} s)")


if __name__ == "__main__":
    raise SystemExit(main())
