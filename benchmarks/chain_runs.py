"""Runs of a model on fewer and more nodes of one emulated cluster, one configuration after the other."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fleet import names, say, undisturbed
from benchmarks.frames_of import Answer, distance, frames_of
from benchmarks.models import RealModel
from benchmarks.stages import Beats, Stage, stages
from converters.graph import read_graph
from converters.schema import open_model
from emulator.load import Asked, Frame
from emulator.measure import Measured, drive
from slicemq.client import Pipeline
from slicemq.errors import SliceMQError

CALIBRATION_FRAMES = 5
"""Frames that codecs are measured on."""
_DEPLOY_SECONDS = "900"
# VGG16 takes a tenth of a core 4 s for each.
_LEAST_FRAMES = 5
_ANSWER_SECONDS = 120.0
# How often a plan is made anew with what running it has taught.
_LESSONS = 1


@dataclass(frozen=True)
class Case:
    """A configuration: a model on `nodes` nodes; `budget` is the error that codecs may make (0: lossless).

    `lanes`: pipelines side by side, each with the frames of its turns and on nodes of its own; else one pipeline.
    """

    model: str
    nodes: int
    budget: float = 0.0
    lanes: bool = False

    @property
    def pipeline(self) -> str:
        """The id of its pipeline."""
        return f"{self.model}-{self.nodes}" + ("-codecs" if self.budget else "") + ("-lanes" if self.lanes else "")

    @property
    def words(self) -> str:
        """For people."""
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        side = ", pipelines side by side" if self.lanes else ""
        return f"{self.model}, {nodes}{side}" + (
            f", codecs within {self.budget:g}" if self.budget else ", lossless"
        )


@dataclass(frozen=True)
class Run:
    """One run of one configuration in one round.

    rate: frames per second; planned, bound: the plan's; no plan of its family is faster than `bound`. error: the
    largest difference from the whole model, as a share of the output's largest magnitude (0: equal bit for bit);
    stated: what the plan says of it. latencies in ms. costs: as `costs` gives them.
    """

    model: str
    nodes: int
    budget: float
    rate: float
    planned: float
    bound: float
    slices: int
    used_nodes: int
    family: str
    method: str
    codecs: tuple[str, ...]
    window: int
    frames: int
    latency_p50: float
    latency_p95: float
    error: float
    stated: float | None
    costs: dict[str, Any]
    stages: tuple[Stage, ...]
    lanes: bool = False

    @property
    def case(self) -> Case:
        """Its configuration."""
        return Case(self.model, self.nodes, self.budget, self.lanes)

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, body: Mapping[str, Any]) -> Run:
        """From what `to_plain` gave, also after JSON."""
        return cls(
            **{
                **body,
                "codecs": tuple(body["codecs"]),
                "stages": tuple(Stage.from_plain(one) for one in body["stages"]),
            }
        )


def write_calibration(cluster: Any, model: RealModel) -> None:
    """Write the folder of typical inputs that plans of the model's cases with a budget are measured on.

    More frames than those that answers are compared for, these among them.
    """
    folder = _calibration(cluster, model.name)
    folder.mkdir(exist_ok=True)
    graph = read_graph(open_model(model.path))
    for number, frame in enumerate(frames_of(model, CALIBRATION_FRAMES)):
        if len(frame) == 1:
            np.save(folder / f"{number}.npy", next(iter(frame.values())))
        else:
            np.savez(folder / f"{number}.npz", **{graph.public_name(tensor): a for tensor, a in frame.items()})


def make_plan(cluster: Any, case: Case, path: Path, total: int, *more: str) -> dict[str, Any]:
    """The plan of a configuration, one pipeline on the first nodes of `total`; also written to `plan_file`.

    With a budget after `write_calibration`.
    """
    file = plan_file(cluster, case)
    cluster.json("plan", "make", str(path), *_wishes(cluster, case, total), *more, "-o", str(file))
    plan: dict[str, Any] = json.loads(file.read_text())
    _tell_plan(case, plan)
    return plan


def learnt_plan(
    cluster: Any, case: Case, path: Path, total: int, frames: Sequence[Frame], learn: int, *more: str
) -> dict[str, Any]:
    """As `make_plan`, by the coordinator after the nodes have run `learn` frames under a first plan.

    It learns from heartbeats what slices take on their nodes and corrects its later plans (docs/explanation/
    planning-live.md).
    """
    words = ["--name", case.pipeline, "--timeout", _DEPLOY_SECONDS, *_wishes(cluster, case, total), *more]
    done: dict[str, Any] = {}
    for turn in range(_LESSONS + 1):
        done = cluster.json("deploy", str(path), *words, timeout=float(_DEPLOY_SECONDS) + 60)
        if turn < _LESSONS:
            drive(cluster, case.pipeline, Asked(frames=learn), frames=frames)
        cluster.json("undeploy", case.pipeline)
        _tell_plan(case, done["plan"])
    plan: dict[str, Any] = done["plan"]
    plan_file(cluster, case).write_text(json.dumps(plan))
    return plan


def _wishes(cluster: Any, case: Case, total: int) -> list[str]:
    codecs = []
    if case.budget:
        codecs = ["--codec", "auto", "--error-budget", f"{case.budget:g}"]
        codecs += ["--calibration", str(_calibration(cluster, case.model))]
    # Where copies are not allowed, no lane is one node with the whole model.
    shapes = ["--shape", "parallel"] if case.lanes else ["--shape", "one-node", "--shape", "pipeline"]
    return [*shapes, *codecs, *_excluded(case, total)]


def _calibration(cluster: Any, model: str) -> Path:
    return Path(cluster.folder) / f"calibration-{model}"


def _tell_plan(case: Case, plan: Mapping[str, Any]) -> None:
    say(
        f"{case.words}: {len(plan['slices'])} slices, planned {1e3 / plan['period_ms']:.3f} frames/s, "
        f"bound {1e3 / plan['lower_bound_ms']:.3f}"
    )


def plan_file(cluster: Any, case: Case) -> Path:
    """Where `make_plan` writes."""
    return Path(cluster.folder) / f"plan-{case.pipeline}.json"


def deploy(cluster: Any, case: Case, *, path: Path, total: int) -> None:
    """Deploy the plan that `make_plan` wrote, and wait until it runs."""
    words = ["--plan", str(plan_file(cluster, case)), "--timeout", _DEPLOY_SECONDS, *_excluded(case, total)]
    cluster.json("deploy", str(path), "--name", case.pipeline, *words, timeout=float(_DEPLOY_SECONDS) + 60)


def measure(
    cluster: Any,
    beats: Beats,
    case: Case,
    plan: Mapping[str, Any],
    *,
    seconds: float,
    share: float,
    frames: Sequence[Frame],
    answers: Sequence[Answer],
) -> Run:
    """One run of a deployed configuration; then its answers are compared with the whole model's."""
    beats.forget()
    asked = Asked(seconds=seconds, warm=int(plan["window"]) + 2, least=_LEAST_FRAMES)
    with undisturbed(cluster):
        driven = drive(cluster, case.pipeline, asked, frames=frames, counted=cluster)
    heard = beats.between(driven.began, driven.ended, case.pipeline)
    used = costs(driven)
    found = stages(plan, heard, used["node_cpu_ms"], driven.rate, share)
    error = worst_error(cluster, case.pipeline, frames, answers)
    return _run(case, plan, driven, used, found, error)


def costs(driven: Measured) -> dict[str, Any]:
    """What a frame cost: processor ms and bytes (sent, received) of each node, processor ms of broker and client.

    `idle` is the machine's idle share meanwhile.
    """
    frames = driven.figures.frames
    return {
        "node_cpu_ms": {name: 1e3 * use.cpu / frames for name, use in driven.nodes.items()},
        "node_bytes": {name: [use.sent / frames, use.received / frames] for name, use in driven.nodes.items()},
        "broker_cpu_ms": 1e3 * _number(driven.broker_cpu) / frames,
        "client_cpu_ms": 1e3 * _number(driven.client_cpu) / frames,
        "idle": _number(driven.idle),
    }


def worst_error(where: Any, pipeline: str, frames: Sequence[Frame], answers: Sequence[Answer]) -> float:
    """The largest distance of a pipeline's answers from the whole model's."""
    with Pipeline(pipeline, where.options, cluster=where.cluster) as client:
        return max(
            distance(client.infer(dict(frame), timeout=_ANSWER_SECONDS).tensors, answer)
            for frame, answer in zip(frames, answers, strict=True)
        )


def round_of(
    cluster: Any, cases: Sequence[Case], bring: Callable[[Case], None], run: Callable[[Case], Run]
) -> list[Run]:
    """Each configuration once, deployed by `bring` before and undeployed after its run."""
    found = []
    for case in cases:
        bring(case)
        one = run(case)
        found.append(one)
        say(
            f"  {case.words}: {one.rate:.3f} frames/s, {one.rate / one.bound:.3f} of the bound, "
            f"error {one.error:.2g}, machine {100 * one.costs['idle']:.0f} % idle"
        )
        cluster.json("undeploy", case.pipeline)
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _run(
    case: Case,
    plan: Mapping[str, Any],
    driven: Measured,
    used: dict[str, Any],
    found: Sequence[Stage],
    error: float,
) -> Run:
    stated = plan.get("error")
    return Run(
        model=case.model,
        nodes=case.nodes,
        budget=case.budget,
        rate=driven.rate,
        planned=1e3 / plan["period_ms"],
        bound=1e3 / plan["lower_bound_ms"],
        slices=len(plan["slices"]),
        used_nodes=len({node for item in plan["slices"] for node in item["nodes"]}),
        family=plan["family"],
        method=plan["method"],
        codecs=tuple(sorted({bundle["codec"] for bundle in plan["bundles"]})),
        window=driven.window,
        frames=driven.figures.frames,
        latency_p50=1e3 * driven.latency(50),
        latency_p95=1e3 * driven.latency(95),
        error=error,
        stated=None if stated is None else stated["measured"] or stated["estimated"],
        costs=used,
        stages=tuple(found),
        lanes=case.lanes,
    )


def _excluded(case: Case, total: int) -> list[str]:
    return [word for node in names(total)[case.nodes :] for word in ("--exclude", node)]


# ---- what several rounds say


@dataclass(frozen=True)
class Summary:
    """A configuration over its rounds: medians; ratios are those of each round, to its one-node run."""

    case: Case
    rounds: int
    rate: float
    ratio: float
    planned: float
    bound: float
    to_bound: float
    idle: float
    cpu_ms: float
    bytes: float
    error: float
    stated: float | None
    codecs: tuple[str, ...]
    slices: int
    window: int
    latency_p50: float
    latency_p95: float
    broker_cpu_ms: float
    client_cpu_ms: float


def summarise(rounds: Sequence[Sequence[Run]]) -> list[Summary]:
    """A row for each configuration, in the order of the first round. Raises SliceMQError without a one-node run."""
    rows = []
    for case in [run.case for run in rounds[0]]:
        runs = [_only(found, case) for found in rounds]
        ratios = [run.rate / base_of(found, case.model).rate for run, found in zip(runs, rounds, strict=True)]
        rows.append(
            Summary(
                case=case,
                rounds=len(runs),
                rate=statistics.median(run.rate for run in runs),
                ratio=statistics.median(ratios),
                planned=statistics.median(run.planned for run in runs),
                bound=statistics.median(run.bound for run in runs),
                to_bound=statistics.median(run.rate / run.bound for run in runs),
                idle=min(run.costs["idle"] for run in runs),
                cpu_ms=statistics.median(node_mean(run, "node_cpu_ms") for run in runs),
                bytes=statistics.median(node_mean(run, "node_bytes") for run in runs),
                error=max(run.error for run in runs),
                stated=runs[0].stated,
                codecs=runs[0].codecs,
                slices=runs[0].slices,
                window=runs[0].window,
                latency_p50=statistics.median(run.latency_p50 for run in runs),
                latency_p95=statistics.median(run.latency_p95 for run in runs),
                broker_cpu_ms=statistics.median(run.costs["broker_cpu_ms"] for run in runs),
                client_cpu_ms=statistics.median(run.costs["client_cpu_ms"] for run in runs),
            )
        )
    return rows


def node_mean(run: Run, what: str) -> float:
    """Of a frame, the mean over the nodes that have a slice; bytes: sent and received together."""
    nodes = {stage.node for stage in run.stages}
    values = [run.costs[what][node] for node in nodes]
    return statistics.fmean(sum(value) if isinstance(value, list | tuple) else value for value in values)


def base_of(found: Sequence[Run], model: str) -> Run:
    """A round's run of the model on one node."""
    return _only(found, Case(model, 1))


def _only(found: Sequence[Run], case: Case) -> Run:
    for run in found:
        if run.case == case:
            return run
    raise SliceMQError(f"a round without {case.words}")
