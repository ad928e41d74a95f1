"""`slicemq deploy FILE --name NAME`: hand a model to the coordinator, and wait until it runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from coordinator.cli import plan_wishes
from coordinator.cli.common import Network, Output, verb
from coordinator.cli.model_files import INPUT_SHAPE, parse_shapes
from coordinator.cli.plan_text import error_line
from slicemq.errors import (
    CoordinatorError,
    InsufficientCapacityError,
    ModelError,
    PlanError,
    RequestRefusedError,
    UsageError,
)
from slicemq.messages import Artifact, PipelineDocument, PlanDocument, decode, to_plain
from slicemq.topics import check_id

if TYPE_CHECKING:
    from rich.progress import Progress

    from converters.graph import Graph
    from coordinator.cli.ask import Caller

logger = logging.getLogger("slicemq.deploy")
# A slice that fails on one node may run on another; after so many failures an operator wants to know.
_ENOUGH_FAILURES = 3


@verb
def command(
    net: Network,
    out: Output,
    file: Path = typer.Argument(..., help="The model, a .tflite file."),
    name: str = typer.Option(..., "--name", help="What the pipeline shall be called."),
    plan: Path | None = typer.Option(None, "--plan", help="A plan file (slicemq plan make); default: plan now."),
    profile: str = typer.Option(
        "measure", "--profile", help="Operator costs: measure (on the coordinator's machine) or estimate."
    ),
    pin: list[str] = typer.Option([], "--pin", help="SLICE=NODE, such as s0=pi-1; may be given several times."),
    exclude: list[str] = typer.Option([], "--exclude", help="A node to leave out; may be given several times."),
    max_slices: int | None = typer.Option(None, "--max-slices", min=1, help="At most so many slices."),
    objective: str = plan_wishes.OBJECTIVE,
    min_rate: float | None = plan_wishes.MIN_RATE,
    max_latency: float | None = plan_wishes.MAX_LATENCY,
    max_nodes: int | None = plan_wishes.MAX_NODES,
    max_energy: float | None = plan_wishes.MAX_ENERGY,
    error_budget: float = plan_wishes.ERROR_BUDGET,
    codec: list[str] = plan_wishes.CODEC,
    calibration: Path | None = plan_wishes.CALIBRATION,
    shape: list[str] = plan_wishes.SHAPE,
    require: list[str] = plan_wishes.REQUIRE,
    headroom: float = plan_wishes.HEADROOM,
    data_brokers: str = plan_wishes.DATA_BROKERS,
    broker_rate: float | None = plan_wishes.BROKER_RATE,
    input_shape: list[str] = INPUT_SHAPE,
    wait: bool = typer.Option(True, "--wait/--no-wait", help="Wait until the pipeline runs."),
    timeout: float = typer.Option(600.0, "--timeout", min=1.0, help="Seconds to wait at most."),
) -> None:
    """Hand a model to the coordinator: it plans, cuts and delivers it, and switches the pipeline over to it."""
    from coordinator.cli.ask import calling
    from coordinator.cli.codec_tools import unused, warn_of_noise
    from coordinator.cli.upload import Upload, open_file

    check_id("pipeline", name)
    if profile not in ("measure", "estimate"):
        raise UsageError(f"--profile: expected measure or estimate, got {profile!r}")
    pins = _pins(pin)
    graph = _check_model(file)
    artifact = Artifact(graph.sha256, graph.size)
    wished = plan_wishes.wishes(
        objective=objective,
        min_rate=min_rate,
        max_latency=max_latency,
        max_nodes=max_nodes,
        max_energy=max_energy,
        error_budget=error_budget,
        codec=codec,
        shape=shape,
        require=require,
        headroom=headroom,
        data_brokers=data_brokers,
        broker_rate=broker_rate,
    )
    shapes = parse_shapes(input_shape)
    typical = b"" if unused(codec, calibration) else _samples(file, graph, shapes, calibration)
    samples = Artifact(hashlib.sha256(typical).hexdigest(), len(typical)) if typical else None
    options: dict[str, Any] = {
        **wished,
        "profile": profile,
        "pins": pins,
        "exclude": exclude,
        "max_slices": max_slices,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
    }
    body = {"name": name, "model": to_plain(artifact), "plan": _read_plan(plan), "options": options}
    if samples is not None:
        body["calibration"] = to_plain(samples)
    begun = time.monotonic()
    with out.progress() as progress, calling(net) as caller:
        caller.check_coordinator()
        with contextlib.ExitStack() as uploads:
            uploads.callback(Upload(caller, artifact, open_file(file), progress, "the model").stop)
            if samples is not None:
                source = io.BytesIO(typical)
                uploads.callback(Upload(caller, samples, source, progress, "the calibration set").stop)
            watch = _Watch(caller, name)
            task = progress.add_task("planning", total=None, note="")
            with _naming(plan):
                answer = caller.ask("deploy", body, timeout).body
            revision = str(answer.get("revision"))
            progress.update(task, description=f"revision {revision}")
            if wait:
                watch.until_running(revision, timeout - (time.monotonic() - begun), progress, task)
        made = watch.plan(revision)
    seconds = time.monotonic() - begun
    result = {
        "name": name,
        "revision": watch.running or revision,
        "model": artifact.sha256,
        "unchanged": bool(answer.get("unchanged")),
        "running": watch.running is not None,
        "seconds": round(seconds, 3),
        "plan": made,
    }
    error = made.get("error") if made is not None else None
    warn_of_noise(error)
    if samples is not None and plan is None and error is not None and error.get("samples") != "calibration":
        logger.warning(
            "the coordinator did not measure codecs on the calibration set: it may be of an older version"
        )
    out.result(result, lambda: _text(result, out))


@contextlib.contextmanager
def _naming(plan: Path | None) -> Iterator[None]:
    """Let what the coordinator has to say about a plan file name the file."""
    try:
        yield
    except RequestRefusedError as error:
        if plan is None or error.exit_code not in (PlanError.exit_code, InsufficientCapacityError.exit_code):
            raise
        named = RequestRefusedError(f"{plan}: {error}")
        named.exit_code = error.exit_code
        raise named from error


def _check_model(file: Path) -> Graph:
    from converters.graph import read_graph
    from converters.schema import open_model

    data = open_model(file)
    try:
        return read_graph(data)
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error


def _samples(file: Path, graph: Graph, shapes: dict[str, tuple[int, ...]], calibration: Path | None) -> bytes:
    """The file of the folder's frames; empty without a folder."""
    if calibration is None:
        return b""
    from converters.shapes import named_shapes, with_input_shapes
    from coordinator.cli.codec_tools import sample_file

    try:
        graph = with_input_shapes(graph, named_shapes(graph, shapes))
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error
    return sample_file(graph, calibration)


def _read_plan(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        body = json.loads(file.read_bytes())
        json.dumps(body, allow_nan=False)
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{file}: not JSON: {error}") from error
    if not isinstance(body, dict):
        raise PlanError(f"{file}: expected a plan file, got {type(body).__name__}")
    return body


def _pins(given: list[str]) -> dict[str, str]:
    pins = {}
    for text in given:
        key, equals, node = text.partition("=")
        if not equals or not key or not node:
            raise UsageError(f"--pin {text}: expected SLICE=NODE, such as s0=pi-1")
        pins[key] = check_id("node", node)
    return pins


class _Watch:
    """Follows the pipeline's documents."""

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self._name = name
        self._changed = threading.Condition()
        self._document: PipelineDocument | None = None
        self._plan: PlanDocument | None = None
        self.running: str | None = None
        topics = caller.net.topics
        caller.on(topics.pipeline(name), self._on_document)
        caller.on(topics.plan(name), self._on_plan)

    def until_running(self, revision: str, timeout: float, progress: Progress, task: Any) -> None:
        """Wait until `revision` or a later one is active. Raises CoordinatorError with the pipeline's reason."""
        deadline = time.monotonic() + timeout
        number = int(revision.partition("-")[0])
        shown = ""
        began = False
        trouble = ""
        abandoned: set[str] = set()
        while True:
            with self._changed:
                self._changed.wait(0.5)
                document = self._document
            self._caller.check_coordinator()
            if document is not None:
                for route in document.routes:
                    if route.state == "active" and int(route.revision.partition("-")[0]) >= number:
                        self.running = route.revision
                        return
                # At first the document may be that of an earlier pipeline of this name.
                began = began or document.state != "removed"
                if began and document.state == "removed":
                    raise CoordinatorError(f"pipeline {self._name} was undeployed meanwhile")
                if document.reason != shown:
                    shown = document.reason
                    progress.update(task, note=shown)
                    logger.info("%s: %s", self._name, shown)
                    if "was abandoned" in shown:
                        trouble = f", after {shown}"
                    if "was abandoned: slice" in shown:
                        abandoned.add(shown.split()[0])
                    if len(abandoned) >= _ENOUGH_FAILURES:
                        raise CoordinatorError(
                            f"pipeline {self._name} does not run: {shown}. The coordinator tries on, more and more "
                            f"seldom; 'slicemq undeploy {self._name}' ends that"
                        )
            if time.monotonic() > deadline:
                why = (shown or "no reason given") + ("" if "was abandoned" in shown else trouble)
                raise CoordinatorError(f"pipeline {self._name} does not run after {timeout:.0f} s: {why}")

    def plan(self, revision: str) -> dict[str, Any] | None:
        """The plan of the revision, once its document has come."""
        wanted = self.running or revision
        with self._changed:
            self._changed.wait_for(lambda: self._plan is not None and self._plan.revision == wanted, timeout=5.0)
            return self._plan.plan if self._plan is not None else None

    def _on_document(self, topic: str, payload: bytes) -> None:
        if payload:
            with self._changed:
                self._document = decode(PipelineDocument, payload, topic)
                self._changed.notify_all()

    def _on_plan(self, topic: str, payload: bytes) -> None:
        if payload:
            with self._changed:
                self._plan = decode(PlanDocument, payload, topic)
                self._changed.notify_all()


def _text(result: dict[str, Any], out: Output) -> str:
    how = "already runs" if result["unchanged"] else "runs" if result["running"] else "is being prepared"
    lines = [f"{result['name']}: revision {result['revision']} {how} ({result['seconds']:.1f} s)"]
    plan = result["plan"]
    if plan is not None:
        rows = [
            [
                str(item["id"]),
                _nodes(item, plan.get("turns", 1)),
                str(len(item["operators"])),
                f"{item['compute_ms']:.1f}",
                f"{item['bytes_in'] / 1e6:.3f}",
                f"{item['bytes_out'] / 1e6:.3f}",
                f"{item['memory_mb']:.1f}",
            ]
            for item in plan["slices"]
        ]
        lines.append(out.table(["slice", "node", "operators", "compute ms", "MB in", "MB out", "memory MB"], rows))
        if plan.get("error") is not None:
            lines.append(error_line(plan["error"]))
        lines.append(f"planned period {plan['period_ms']:.1f} ms ({plan['method']}, gap {100 * plan['gap']:.1f} %)")
    return "\n".join(lines)


def _nodes(item: dict[str, Any], turns: int) -> str:
    """`pi-1`, or with several turns `pi-1 2/3, pi-2 1/3`: each node's share of the frames."""
    if turns == 1:
        return "+".join(item["nodes"])
    served = [len(own) for own in item.get("turns", [])] or [turns]
    return ", ".join(f"{node} {count}/{turns}" for node, count in zip(item["nodes"], served, strict=True))
