"""A node limited to a tenth of a core loads a large model while the coordinator watches: is it taken for dead?

    python -m benchmarks.load_at_tenth [--model resnet50] [--share 0.1] [--format json]

The node's agent and workers share a tenth of one core (cpu cgroup; needs root), the model is one slice on that
node. All that the coordinator and the node say is recorded from before the deployment until results have come. A
false loss is a state other than `init` and `ready`, an abandoned revision, or a second revision. The longest gap
between heartbeats stands beside the coordinator's deadline. The exit code is 1 on a false loss.
"""

from __future__ import annotations

import argparse
import itertools
import json
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.models import real_models
from coordinator.membership import HEARTBEAT_DEADLINE
from emulator.cgroups import limit
from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.errors import SliceMQError
from slicemq.messages import Heartbeat, NodeState, PipelineDocument, Report, decode
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics

NODE = "tenth"
NAME = "large"
CLUSTER = "bench"
_FRAMES = 5
_DEPLOY_SECONDS = 600


@dataclass
class Finding:
    """What was seen. Gaps and times in seconds; `gap_while_loading` is the longest from fetching to ready."""

    model: str
    share: float
    longest_gap: float = 0.0
    gap_while_loading: float = 0.0
    median_gap: float = 0.0
    deadline: float = HEARTBEAT_DEADLINE
    loading: float = 0.0
    deploy: float = 0.0
    node_states: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def false_losses(self) -> list[str]:
        """What must not have happened, in words; empty when all is well."""
        words = [f"node state {word!r}" for word in self.node_states if word not in ("init", "ready")]
        if len(self.revisions) > 1:
            words.append(f"more than one revision: {', '.join(self.revisions)}")
        if self.longest_gap > self.deadline:
            words.append(f"no heartbeat for {self.longest_gap:.2f} s, the deadline is {self.deadline:g} s")
        return words + self.failures


class Watch:
    """Records with their times what a node and the coordinator publish."""

    def __init__(self, broker: BrokerOptions) -> None:
        topics = Topics(CLUSTER)
        self._topics = topics
        self._lock = threading.Lock()
        self.beats: list[float] = []
        self.states: list[str] = []
        self.slices: list[tuple[float, str, str]] = []
        self.revisions: list[str] = []
        self._session = Session(broker, f"watch-{secrets.token_hex(4)}", on_message=self._on_message)
        self._session.subscribe(
            *(topics.node(NODE, leaf) for leaf in ("heartbeat", "state", "report")), topics.pipeline(NAME)
        )

    def __enter__(self) -> Watch:
        self._session.start()
        self._session.wait_up(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._session.stop()

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        now = time.monotonic()
        if not payload:
            return
        with self._lock:
            if topic == self._topics.node(NODE, "heartbeat"):
                decode(Heartbeat, payload, topic)
                self.beats.append(now)
            elif topic == self._topics.node(NODE, "state"):
                self.states.append(decode(NodeState, payload, topic).state)
            elif topic == self._topics.node(NODE, "report"):
                for one in decode(Report, payload, topic).slices:
                    self.slices.append((now, one.revision, one.state))
            else:
                for route in decode(PipelineDocument, payload, topic).routes:
                    if route.revision not in self.revisions:
                        self.revisions.append(route.revision)


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 on a false loss."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load_at_tenth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--share", type=float, default=0.1, help="share of one core for the node")
    parser.add_argument("--folder", type=Path, default=None, help="keep logs and state here")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    given = parser.parse_args(arguments)
    try:
        model = real_models()[given.model]
        if not model.path.is_file():
            raise SliceMQError(f"{given.model}: not here; {model.hint}")
        with tempfile.TemporaryDirectory() as folder:
            finding = _run(given.model, model.path, given.share, given.folder or Path(folder))
    except SliceMQError as error:
        sys.stderr.write(f"load_at_tenth: {error}\n")
        return error.exit_code
    if given.format == "json":
        print(json.dumps({"machine": describe_machine(), **asdict(finding), "false_losses": finding.false_losses}))
    else:
        _tell(finding)
    return 1 if finding.false_losses else 0


def _run(name: str, path: Path, share: float, folder: Path) -> Finding:
    group = limit(NODE, share=share)
    try:
        with Site("mosquitto", cluster=CLUSTER, folder=folder) as site:
            coordinator = site.start_coordinator()
            site.start_node(NODE, "--threads", "1", prefix=group.prefix())
            site.wait_ready([NODE], timeout=240.0)
            with Watch(site.options) as watch:
                begun = time.monotonic()
                site.json("deploy", str(path), "--name", NAME, "--timeout", str(_DEPLOY_SECONDS))
                deployed = time.monotonic()
                _frames(site.options)
            return judge(name, share, watch, begun, deployed, coordinator.log.read_text())
    finally:
        group.remove()


def _frames(broker: BrokerOptions) -> None:
    with Pipeline(NAME, broker, cluster=CLUSTER) as pipeline:
        frame = {
            spec.index: np.zeros([max(1, size) for size in spec.shape], np.dtype(spec.dtype))
            for spec in pipeline.inputs
        }
        for _ in pipeline.map(frame for _ in range(_FRAMES)):
            pass


def judge(name: str, share: float, watch: Any, begun: float, deployed: float, log: str) -> Finding:
    """Turn what `watch` recorded, and the coordinator's log, into a finding."""
    finding = Finding(name, share, deploy=deployed - begun)
    gaps = between(watch.beats)
    if not gaps:
        raise SliceMQError(f"node {NODE}: fewer than two heartbeats were heard")
    finding.longest_gap = max(gaps)
    finding.median_gap = statistics.median(gaps)
    at = {state: when for when, _, state in reversed(watch.slices)}
    if "loading" in at and "ready" in at:
        finding.loading = at["ready"] - at["loading"]
        inside = [beat for beat in watch.beats if beat <= at["ready"]]
        before = [beat for beat in inside if beat <= at["loading"]][-1:]
        finding.gap_while_loading = max(between(before + [b for b in inside if b > at["loading"]]), default=0.0)
    finding.node_states = list(dict.fromkeys(watch.states))
    finding.revisions = list(dict.fromkeys([one for _, one, _ in watch.slices] + watch.revisions))
    finding.failures = [f"report: slice {state}" for _, _, state in watch.slices if state == "failed"]
    finding.failures += [line for line in log.splitlines() if " lost" in line or "abandoned" in line]
    return finding


def between(times: Sequence[float]) -> list[float]:
    """The gaps between successive times."""
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def _tell(finding: Finding) -> None:
    print(f"{describe_machine()}\n")
    print(f"{finding.model} on a node limited to {finding.share:g} of a core")
    print(f"from loading to ready: {finding.loading:.1f} s; deployment: {finding.deploy:.1f} s")
    print(
        f"between heartbeats: median {finding.median_gap:.2f} s, longest {finding.longest_gap:.2f} s "
        f"({finding.gap_while_loading:.2f} s while loading); the coordinator waits {finding.deadline:g} s"
    )
    print(f"states of the node: {', '.join(finding.node_states)}; revisions: {', '.join(finding.revisions)}")
    for word in finding.false_losses:
        print(f"FALSE LOSS: {word}")
    if not finding.false_losses:
        print("no false loss")


if __name__ == "__main__":
    raise SystemExit(main())
