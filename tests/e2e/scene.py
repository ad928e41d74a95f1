"""What the end-to-end tests share: sites, models, their expected answers, and frames that flow beside a test."""

from __future__ import annotations

import atexit
import itertools
import json
import math
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from benchmarks.models import real_models
from edge_node.capacity import measure_speeds, read_board
from edge_node.runtime import open_interpreter
from emulator.site import BrokerKind, Site
from slicemq.client import Pipeline, Result
from slicemq.messages import PipelineDocument, PlanDocument, Report, decode
from slicemq.session import Session
from slicemq.topics import Topics
from tests.waiting import eventually

Array = npt.NDArray[Any]
SMALL = "face-short-range"
LARGER = "face-full-range"
# For tests that speak of the slices of one pipeline: no copies and no replicas.
ONE_TURN = ("--shape", "one-node", "--shape", "pipeline")
# For tests in which the same request must give the same plan: estimates are not corrected by what was measured.
STEADY = (*ONE_TURN, "--profile", "estimate")
# Other work on the machine must not look like a death where a test counts revisions.
PATIENT = ("--heartbeat-deadline", "3")


def model(name: str = SMALL) -> Path:
    """The file of a real model; the test is skipped where its package is not installed."""
    found = real_models()[name]
    if not found.path.is_file():
        pytest.skip(f"{found.path} is not there: {found.hint}")
    return found.path


@cache
def inputs(file: Path, count: int = 7) -> tuple[Array, ...]:
    """A few different frames for a model with one float input."""
    (spec,) = open_interpreter(file).inputs
    generator = np.random.default_rng(5)
    return tuple(generator.uniform(-1, 1, spec.shape).astype(spec.dtype) for _ in range(count))


@cache
def answers(file: Path, count: int = 7) -> tuple[tuple[bytes, ...], ...]:
    """The bytes that one device gives for `inputs`, in the model's order."""
    interpreter = open_interpreter(file)
    rows = []
    for array in inputs(file, count):
        interpreter.set_input(0, array)
        interpreter.invoke()
        rows.append(tuple(interpreter.output(i).tobytes() for i in range(len(interpreter.outputs))))
    return tuple(rows)


def output_bytes(result: Result) -> tuple[bytes, ...]:
    """The bytes of a result's outputs, in the model's order."""
    return tuple(array.tobytes() for array in result.tensors.values())


def started(site: Site, nodes: Sequence[str], *arguments: str, coordinator: Sequence[str] = ()) -> Site:
    """Start the coordinator and `nodes` of an entered site, and wait until all are ready."""
    site.start_coordinator(*coordinator)
    for name in nodes:
        start_node(site, name, *arguments)
    site.wait_ready(nodes)
    return site


@cache
def _measured() -> tuple[Path, int]:
    """This machine's speeds as a node keeps them, and what an idle worker takes in bytes."""
    file = Path(tempfile.mkdtemp(prefix="slicemq-e2e-")) / "speeds.json"
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    return file, measure_speeds(read_board(threads=1), "auto", file).worker_memory


def measured_speeds() -> Path:
    """This machine's speeds as a node of one thread keeps them."""
    return _measured()[0]


def room_for(slices_mb: float) -> tuple[str, str]:
    """Options of a node that has so many MB for slices (10^6 bytes, rounded up to a whole one)."""
    return "--memory-mb", str(math.ceil(slices_mb + _measured()[1] / 1e6))


def start_node(site: Site, name: str, *arguments: str) -> None:
    """Start a node on one thread, which need not measure this machine again."""
    state = site.folder / name
    state.mkdir(exist_ok=True)
    if not (state / "speeds.json").exists():
        shutil.copy(_measured()[0], state / "speeds.json")
    site.start_node(name, "--threads", "1", *arguments)


def new_site(folder: Path, kind: BrokerKind = "mosquitto") -> Site:
    """A site whose cluster is called `e2e`; enter it. Logs and state stay in `folder`."""
    return Site(kind, cluster="e2e", folder=folder)


def worker_of(site: Site, node: str) -> psutil.Process:
    """The process of the one slice that a node runs; a spare one has no connection."""
    children = psutil.Process(site.nodes[node].process.pid).children(recursive=True)
    (worker,) = [one for one in children if "edge_node.worker" in one.cmdline() and one.net_connections()]
    return worker


def deploy(site: Site, file: Path, name: str = "faces", *words: str) -> dict[str, Any]:
    """What `deploy` says."""
    body: dict[str, Any] = site.json("deploy", str(file), "--name", name, *words)
    return body


class Wire:
    """A control session beside the cluster: what is retained there now, and a way to say wrong things."""

    def __init__(self, site: Site) -> None:
        self.topics = Topics(site.cluster)
        self.documents: dict[str, bytes] = {}
        self.heard: deque[tuple[str, bytes]] = deque(maxlen=2000)
        self.session = Session(site.options, f"wire-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> Wire:
        prefix = self.topics.prefix
        self.session.subscribe(f"{prefix}/pipelines/#", f"{prefix}/nodes/#", self.topics.coordinator)
        self.session.start()
        self.session.wait_up(10.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.stop()

    def listen(self, topic: str) -> None:
        """Hear one more topic."""
        self.session.subscribe(topic)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1."""
        assert self.session.publish(topic, payload, qos=1, retain=retain)

    def pipeline(self, name: str = "faces") -> PipelineDocument | None:
        """The pipeline's document as it is now."""
        topic = self.topics.pipeline(name)
        payload = self.documents.get(topic)
        return decode(PipelineDocument, payload, topic) if payload else None

    def state(self, name: str = "faces") -> str:
        """The pipeline's state; empty when there is none."""
        found = self.pipeline(name)
        return found.state if found is not None else ""

    def nodes(self, name: str = "faces") -> list[str]:
        """The nodes of the newest plan, in the order of its slices; none before there is one."""
        if self.topics.plan(name) not in self.documents:
            return []
        return [node for entry in self.plan(name).plan["slices"] for node in entry["nodes"]]

    def planning(self, name: str = "faces") -> dict[str, Any]:
        """What the coordinator says of plans to come."""
        return self.plan(name).planning

    def plan(self, name: str = "faces") -> PlanDocument:
        """The newest plan's document."""
        topic = self.topics.plan(name)
        return decode(PlanDocument, self.documents[topic], topic)

    def held(self, node: str) -> dict[tuple[str, str], str]:
        """The state of each slice that the node reports, by revision and slice."""
        topic = self.topics.node(node, "report")
        report = decode(Report, self.documents[topic], topic)
        return {(one.revision, one.slice): one.state for one in report.slices}

    def reason(self, name: str = "faces") -> str:
        """The pipeline's reason; empty when there is none."""
        found = self.pipeline(name)
        return found.reason if found is not None else ""

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        self.heard.append((topic, payload))
        if payload:
            self.documents[topic] = payload
        else:
            self.documents.pop(topic, None)


class Flow:
    """Frames that flow through a pipeline on a thread, each held against the single device's answer.

    `files` are the models that may answer (one whole model for each frame). `problems` collects what is wrong,
    `models_of` the models by number that each revision answered with.
    """

    def __init__(self, site: Site, *files: Path, name: str = "faces", limit: int = 4) -> None:
        self._pipeline = Pipeline(name, site.options, cluster=site.cluster)
        self._inputs = inputs(files[0])
        self._answers = [answers(file) for file in files]
        self._limit = limit
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self.answered = 0
        self.by_model = [0 for _ in files]
        self.models_of: dict[str, set[int]] = {}
        self.revisions: list[str] = []
        self.problems: list[str] = []
        self.ended: BaseException | None = None

    def __enter__(self) -> Flow:
        self._pipeline.open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if kind is None:
            self._thread.join(60.0)
        self._pipeline.close()
        self._thread.join(10.0)
        if kind is None:
            assert self.ended is None, self.ended
            assert self.problems == []

    @property
    def client(self) -> str:
        """The client's id."""
        return self._pipeline.client_id

    def dropped(self) -> dict[str, int]:
        """How many messages the client refused, by cause."""
        return self._pipeline.stats.dropped

    def passes(self, count: int = 20, timeout: float = 60.0) -> None:
        """Wait until `count` more frames were answered."""
        goal = self.answered + count
        eventually(lambda: self.answered >= goal or self.ended or self.problems, timeout)
        assert self.ended is None, self.ended
        assert self.problems == []

    def moves_on(self, timeout: float = 60.0) -> str:
        """Wait until frames come from a revision that has not answered before; its name."""
        before = len(self.revisions)
        eventually(lambda: len(self.revisions) > before or self.ended, timeout)
        assert self.ended is None, self.ended
        return self.revisions[-1]

    def _source(self) -> Iterator[Array]:
        for number in itertools.count():
            if self._stopping.is_set():
                return
            yield self._inputs[number % len(self._inputs)]

    def _run(self) -> None:
        try:
            for number, result in enumerate(
                self._pipeline.map(self._source(), limit=self._limit, raise_errors=False)
            ):
                self._check(number, result)
        except BaseException as error:  # noqa: BLE001 - the test's own thread raises it
            self.ended = error

    def _check(self, number: int, result: Result) -> None:
        if result.error is not None:
            self.problems.append(str(result.error))
            return
        if result.sequence != number:
            self.problems.append(f"result {result.sequence} in place of {number}")
        which = [rows[number % len(rows)] == output_bytes(result) for rows in self._answers]
        if True in which:
            self.by_model[which.index(True)] += 1
            self.models_of.setdefault(result.revision, set()).add(which.index(True))
        else:
            self.problems.append(f"frame {number} by {result.revision} differs from the single device")
        if result.revision not in self.revisions:
            self.revisions.append(result.revision)
        self.answered += 1


def failing(site: Site, code: int, *words: str, timeout: float = 120.0) -> str:
    """Run a verb that must end with `code`, one line of error and no traceback; the line."""
    return refused(site.command(*words, timeout=timeout), code)


def refused(done: Any, code: int) -> str:
    """Check that a program ended with `code` and one plain line of error; the line."""
    text: str = done.stderr.strip()
    assert "Traceback" not in text, text
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}: {text}"
    assert done.stdout == "", done.stdout
    lines = [line for line in text.splitlines() if line.startswith(("slicemq", "usage"))]
    assert len(lines) == 1, text
    return lines[0]


def json_of(done: Any) -> Any:
    """The one JSON document on standard output."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return json.loads(done.stdout)


def command(*words: str, timeout: float = 120.0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `slicemq` with nothing of this machine's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLICEMQ_")}
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=kept | environment,
    )
