"""A coordinator's side of the contract, played by the tests, and nodes as real processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_node.capacity import CALIBRATION
from slicemq.datalink import open_link
from slicemq.frames import Frame, FrameHeader, decode_frame, encode_frame
from slicemq.messages import (
    Artifact,
    Assignment,
    Bundle,
    Capacity,
    ChunkRequest,
    CoordinatorState,
    Heartbeat,
    NodeState,
    Report,
    ResultPart,
    SliceAssignment,
    Stamp,
    TensorSpec,
    decode,
    encode,
)
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics
from slicemq.transfer import serve

MODEL = (CALIBRATION / "conv.tflite").read_bytes()
REVISION = "1-0123abcd"
SPEC_IN = TensorSpec(0, "input", "float32", (1, 28, 28, 24))
SPEC_OUT = TensorSpec(9, "output", "float32", (1, 28, 28, 24))


def artifact(data: bytes = MODEL) -> Artifact:
    return Artifact(hashlib.sha256(data).hexdigest(), len(data))


def slice_assignment(**changes: Any) -> SliceAssignment:
    """A whole pipeline of one slice: the conv calibration model, input from the client, result to it."""
    values: dict[str, Any] = {
        "pipeline": "faces",
        "revision": REVISION,
        "slice": "s0",
        "artifact": artifact(),
        "memory": 1_000_000,
        "takes": (0,),
        "gives": (9,),
        "inputs": (Bundle("b0", (SPEC_IN,)),),
        "outputs": (),
        "result": ResultPart(0, 1, (SPEC_OUT,)),
    }
    return SliceAssignment(**(values | changes))


class Coordinator:
    """Publishes assignments, serves artifacts, keeps what the node says, and sends frames as a client."""

    def __init__(self, broker: BrokerOptions, cluster: str, node: str = "n1") -> None:
        self.topics = Topics(cluster)
        self.node = node
        self.artifacts = {artifact().sha256: MODEL}
        self.asked: list[ChunkRequest] = []
        self.documents: dict[str, Any] = {}
        self.states: list[NodeState] = []
        self.beats: list[Heartbeat] = []
        self.results: list[Frame] = []
        self.corrupt = 0
        self._counter = 0
        self.session = Session(broker, f"coordinator-{cluster}", on_message=self._on_message)
        self.session.subscribe(f"{self.topics.prefix}/nodes/#", f"{self.topics.prefix}/artifacts/+/request")
        self.link = open_link(
            broker, f"client-{cluster}", on_frame=lambda _, payload: self.results.append(decode_frame(payload))
        )
        self.link.subscribe([self.topics.results("faces", "tester")])

    def __enter__(self) -> Coordinator:
        self.session.start()
        self.link.start()
        self.session.wait_up(10)
        self.link.wait_up(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self.link.stop()
        self.session.stop()

    def assign(self, *slices: SliceAssignment, term: int = 1, counter: int | None = None) -> Stamp:
        self._counter = self._counter + 1 if counter is None else counter
        stamp = Stamp(term, "aa", self._counter)
        document = Assignment(self.node, stamp, slices)
        assert self.session.publish(self.topics.node(self.node, "assignment"), encode(document), retain=True)
        return stamp

    def coordinate(self, stamp: Stamp) -> None:
        document = CoordinatorState("ready", stamp, 0.0, "test")
        assert self.session.publish(self.topics.coordinator, encode(document), retain=True)

    def send(
        self,
        sequence: int,
        array: np.ndarray[Any, Any],
        revision: str = REVISION,
        *,
        at: str = REVISION,
        **header: Any,
    ) -> None:
        """Send a frame that names `revision`, on the topic of the revision `at`."""
        head = FrameHeader("tester", 7, sequence, 0.0, revision, **header)
        topic = self.topics.data("faces", at, "b0")
        assert self.link.send(topic, encode_frame(head, [(SPEC_IN, array)]))

    def answered(self, sequence: int, array: np.ndarray[Any, Any]) -> bool:
        """Whether the frame has been answered; sends it (again) when not."""
        if any(frame.header.sequence == sequence for frame in self.results):
            return True
        self.send(sequence, array)
        return False

    @property
    def reports(self) -> int:
        """How many reports the node has made."""
        return self.report.counter if self.report else 0

    @property
    def state(self) -> str:
        return self.states[-1].state if self.states else ""

    @property
    def capacity(self) -> Capacity | None:
        return self.documents.get("capacity")

    @property
    def report(self) -> Report | None:
        return self.documents.get("report")

    def words(self) -> list[tuple[str, str]]:
        """(revision, state) of each slice in the node's report."""
        return [(one.revision, one.state) for one in self.report.slices] if self.report else []

    def reason(self) -> str:
        return self.report.slices[0].reason if self.report and self.report.slices else ""

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        parts = self.topics.parts(topic)
        if parts[0] == "artifacts":
            self._serve(parts[1], decode(ChunkRequest, payload, topic))
        elif parts[2] == "state":
            self.states.append(decode(NodeState, payload, topic))
        elif parts[2] == "heartbeat":
            self.beats.append(decode(Heartbeat, payload, topic))
        elif parts[2] in ("capacity", "report"):
            kind: Any = {"capacity": Capacity, "report": Report}[parts[2]]
            self.documents[parts[2]] = decode(kind, payload, topic)

    def _serve(self, sha256: str, request: ChunkRequest) -> None:
        data = self.artifacts.get(sha256)
        self.asked.append(request)
        if data is None:
            return
        for payload in serve(request, len(data), lambda offset, count: data[offset : offset + count]):
            if self.corrupt:
                self.corrupt -= 1
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            self.session.publish(self.topics.artifact_chunks(sha256, request.receiver), payload)


class NodeProcess:
    """`slicemq-node` as a child process; its log is kept."""

    def __init__(self, broker: BrokerOptions, cluster: str, folder: Path, *words: str, node: str = "n1") -> None:
        self.lines: list[str] = []
        command = [sys.executable, "-m", "edge_node.main", "--id", node, "--cluster", cluster]
        command += ["--broker", broker.describe(), "--state-dir", str(folder), *words]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLICEMQ_")}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]

    def resident_mb(self) -> float:
        return resident_mb(self.process.pid)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(15)
        self._reader.join(5)
        return code


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


@contextlib.contextmanager
def running_node(broker: BrokerOptions, cluster: str, folder: Path, *words: str) -> Iterator[NodeProcess]:
    node = NodeProcess(broker, cluster, folder, *words)
    try:
        yield node
    finally:
        with contextlib.suppress(ProcessLookupError):
            node.end()


def random_frames(count: int, seed: int = 1) -> Sequence[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(0, 1, SPEC_IN.shape).astype(np.float32) for _ in range(count)]
