"""Handing a model to the coordinator: the request with its files, and the wait for what becomes of it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.cli import plan_wishes, rollout_wishes
from coordinator.cli.common import Network
from coordinator.cli.model_files import parse_shapes
from slicemq.errors import (
    InsufficientCapacityError,
    ModelError,
    PlanError,
    RequestRefusedError,
    UsageError,
)
from slicemq.messages import Artifact, to_plain
from slicemq.topics import check_id

if TYPE_CHECKING:
    from rich.progress import Progress

    from converters.graph import Graph

logger = logging.getLogger("slicemq.deploy")
_TIMEOUT = 600.0
# What the wait adds to a rollout's own deadline: that ends it with a reason, which is better than giving up.
_BEYOND_DEADLINE = 30.0


@dataclass(frozen=True)
class Deployment:
    """A checked request: `body` as it travels, and what the coordinator will ask for besides the model."""

    file: Path
    name: str
    model: Artifact
    body: dict[str, Any]
    plan: Path | None = None
    extra: tuple[tuple[str, bytes], ...] = ()

    @property
    def manual(self) -> bool:
        """Whether it waits for `slicemq rollout promote`."""
        return bool(self.body.get("rollout", {}).get("promote") == "manual")

    def patience(self, timeout: float | None) -> float:
        """Seconds to wait at most: `timeout`, or longer than the rollout's deadline."""
        if timeout is not None:
            return timeout
        deadline: float = self.body.get("rollout", {}).get("deadline", 0.0)
        tried = {"canary", "shadow"} & self.body.get("rollout", {}).keys()
        deadline = deadline or (rollout_wishes.DEFAULT_DEADLINE if tried else 0.0)
        return max(_TIMEOUT, deadline + _BEYOND_DEADLINE)


def prepare(file: Path, name: str, given: Mapping[str, Any], plan: Path | None = None) -> Deployment:
    """Read and check all that goes with a model. `given`: the options of `slicemq deploy` by parameter.

    Raises UsageError, ModelError, InputError or PlanError that names the option or the file.
    """
    from coordinator.cli.codec_tools import unused
    from coordinator.cli.golden_file import golden_bytes

    check_id("pipeline", name)
    options, rollout = check_options(given)
    shapes = parse_shapes(given["input_shape"])
    graph = read_model(file)
    model = Artifact(graph.sha256, graph.size)
    body: dict[str, Any] = {"name": name, "model": to_plain(model), "plan": _read_plan(plan), "options": options}
    extra: list[tuple[str, bytes]] = []
    calibration = None if unused(given["codec"], given["calibration"]) else given["calibration"]
    if calibration is not None:
        from coordinator.cli.codec_tools import sample_file

        extra.append(("calibration", sample_file(_shaped(file, graph, shapes), calibration)))
    if given["golden"]:
        extra.append(("golden", golden_bytes(_shaped(file, graph, shapes), given["golden"])))
    for field, data in extra:
        body[field] = to_plain(Artifact(hashlib.sha256(data).hexdigest(), len(data)))
    if rollout:
        body["rollout"] = rollout
    return Deployment(file, name, model, body, plan, tuple(extra))


def check_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The request's `options` and `rollout`, from the options of `slicemq deploy`. Raises UsageError."""
    if given["profile"] not in ("measure", "estimate"):
        raise UsageError(f"--profile: expected measure or estimate, got {given['profile']!r}")
    options = {
        **plan_wishes.wishes(**{key: given[key] for key in _PLAN_WISHES}),
        "profile": given["profile"],
        "pins": _pins(given["pin"]),
        "exclude": list(given["exclude"]),
        "max_slices": given["max_slices"],
        "shapes": {name: list(shape) for name, shape in parse_shapes(given["input_shape"]).items()},
    }
    # What is not said is allowed: so the same wishes are the same intent to coordinators of any age.
    options |= {key: False for key in ("rebalance", "make_room") if not given[key]}
    return options, rollout_wishes.wishes(given)


def carry_out(
    net: Network, deployment: Deployment, progress: Progress, *, wait: bool, timeout: float | None
) -> dict[str, Any]:
    """Ask, send the files, and with `wait` follow it to its end; what `slicemq deploy` prints as JSON.

    Raises the coordinator's refusal, and RolledBackError or SupersededError when the rollout ended so.
    """
    from coordinator.cli.ask import calling
    from coordinator.cli.following import Following
    from coordinator.cli.upload import Upload, open_file

    name, patience = deployment.name, deployment.patience(timeout)
    begun = time.monotonic()
    with calling(net) as caller:
        caller.check_coordinator()
        with contextlib.ExitStack() as uploads:
            source = open_file(deployment.file)
            uploads.callback(Upload(caller, deployment.model, source, progress, "the model").stop)
            for field, data in deployment.extra:
                artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data))
                uploads.callback(Upload(caller, artifact, io.BytesIO(data), progress, _EXTRA[field]).stop)
            following = Following(caller, name)
            task = progress.add_task("planning", total=None, note="")
            with _naming(deployment.plan):
                answer = caller.ask("deploy", deployment.body, patience).body
            revision = str(answer.get("revision"))
            progress.update(task, description=f"revision {revision}")
            for node in unknown_nodes(answer):
                logger.warning("--exclude %s: the cluster has no node of that name", node)
            if wait:
                left = patience - (time.monotonic() - begun)
                hint = f"(waits for 'slicemq rollout promote {name}')" if deployment.manual else ""
                following.until_running(revision, left, progress, task, model=deployment.model.sha256, hint=hint)
        made = following.plan(revision)
    return {
        "name": name,
        "revision": following.running or revision,
        "model": deployment.model.sha256,
        "unchanged": bool(answer.get("unchanged")),
        "running": following.running is not None,
        "seconds": round(time.monotonic() - begun, 3),
        "plan": made,
    }


def unknown_nodes(answer: Mapping[str, Any]) -> list[str]:
    """The nodes in the answer to a deploy that it leaves out and that the cluster does not have."""
    found = answer.get("unknown_nodes")
    return [node[:80] for node in found if isinstance(node, str)] if isinstance(found, list) else []


_EXTRA = {"calibration": "the calibration set", "golden": "the golden file"}
_PLAN_WISHES = (
    "objective",
    "min_rate",
    "max_latency",
    "max_nodes",
    "max_energy",
    "error_budget",
    "codec",
    "shape",
    "require",
    "headroom",
    "data_brokers",
    "broker_rate",
)


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


def read_model(file: Path) -> Graph:
    """The graph of a model's file. Raises ModelError that names the file."""
    from converters.graph import read_graph
    from converters.schema import open_model

    data = open_model(file)
    try:
        return read_graph(data)
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error


def _shaped(file: Path, graph: Graph, shapes: dict[str, tuple[int, ...]]) -> Graph:
    """The graph with the sizes that were given for its open inputs. Raises ModelError that names the file."""
    from converters.shapes import named_shapes, with_input_shapes

    try:
        return with_input_shapes(graph, named_shapes(graph, shapes))
    except ModelError as error:
        raise type(error)(f"{file}: {error}") from error


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
