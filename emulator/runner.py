"""Runs a scenario from begin to end: every variant of its sweep, every repeat; gives the report."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from converters.pictures import image_to_input, open_image
from edge_node.runtime import open_interpreter
from emulator.brokers import check_installed
from emulator.cluster import Cluster
from emulator.events import Script
from emulator.load import Asked, Frame, Load, Outputs, Reference, random_frame
from emulator.machine import machine, versions
from emulator.measure import drive
from emulator.models import model_path
from emulator.ownership import new_tag
from emulator.report import plan_row, repeat_row, report, variant_row
from emulator.scenario import Deployment, Scenario
from emulator.summary import values_text
from emulator.timeline import Action, actions, consequences, regular_cuts
from slicemq.client import Pipeline
from slicemq.errors import ConfigError, SliceMQError, StoreError
from slicemq.messages import TensorSpec

Say = Callable[[str], None]
_DEPLOY_SECONDS = 600.0
_HORIZON_SECONDS = 600.0
_RANDOM_FRAMES = 4
_MARK = "coordinator.log"


def run_scenario(
    scenario: Scenario,
    *,
    folder: Path | None = None,
    measurements: Path | None = None,
    isolate: bool = True,
    compare: bool | None = None,
    say: Say = lambda text: None,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run all of `scenario`; the report (docs/reference/emulator-report.md).

    folder: keeps logs and states, one folder for each variant and repeat, in place of an earlier run's (None:
    deleted). measurements: what boards measure of themselves is kept there for the next run (None: for this one
    only). compare: hold every result against one device's, bit for bit (None: as the scenario says). `say` is told
    what goes on, `done` called after each repeat. A variant that cannot be measured is one of the report's
    `failures`, and the others are. Raises ConfigError or MissingDependencyError before anything is started where a
    model, a picture or the broker is not there.
    """
    variants = list(scenario.variants())
    for variant in variants:
        _check_files(variant)
    brokers = {scenario.broker.kind, *("mosquitto" for kind in scenario.nodes if kind.data_broker)}
    for kind in sorted(brokers):
        check_installed(kind)
    found = versions("mosquitto" if "mosquitto" in brokers else scenario.broker.kind)
    began, started = datetime.datetime.now(datetime.timezone.utc), time.monotonic()
    rows, failures = [], []
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{new_tag()}-runs-")))
        for number, variant in enumerate(variants, 1):
            note = _titled(say, values_text(variant.values))
            try:
                kept = measurements or folder / "measurements"
                with _stored():
                    rows.append(_Variant(variant, folder, kept, number, isolate, compare, note, done).run())
            except SliceMQError as error:
                note(str(error))
                code = error.exit_code
                failures.append({"values": dict(variant.values), "error": str(error), "exit_code": code})
    return report(
        scenario,
        rows,
        failures,
        machine=machine(),
        versions=found,
        began=began.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        isolated=isolate,
    )


def _check_files(scenario: Scenario) -> None:
    """Raises ConfigError where a file that the scenario names is not there."""
    models = [deployment.model for deployment in scenario.deployments]
    for model in [*models, *(event.model for event in scenario.events if event.model)]:
        model_path(scenario, model)
    given = scenario.load.input
    if given != "random" and not scenario.path(given).is_file():
        raise ConfigError(f"load input {given}: there is no file {scenario.path(given)}")


@contextlib.contextmanager
def _stored() -> Iterator[None]:
    """A full disk or a folder that cannot be written ends a variant, not the run."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename
        if where is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise StoreError(f"{where or 'a file'}: {error.strerror}") from error


class _Variant:
    """One variant of a scenario. Its repeats share a cluster unless events change it."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        measurements: Path,
        number: int,
        isolate: bool,
        compare: bool | None,
        say: Say,
        done: Callable[[], None],
    ) -> None:
        self.scenario = scenario
        self._folder, self._number, self._isolate, self._say = folder, number, isolate, say
        self._measurements, self._compare, self._done = measurements, compare, done
        self._processors = os.cpu_count() or 1

    def run(self) -> dict[str, Any]:
        """Every repeat; the report's row."""
        events = bool(self.scenario.timeline() or any(board.kind.cut_every for board in self.scenario.boards()))
        repeats: list[dict[str, Any]] = []
        plans: list[dict[str, Any]] = []
        left = self.scenario.run.repeats
        while left:
            now = 1 if events else left
            plans = self._on_a_cluster(now, repeats)
            left -= now
        return variant_row(self.scenario, plans, repeats)

    def _on_a_cluster(self, count: int, repeats: list[dict[str, Any]]) -> list[dict[str, Any]]:
        place = self._folder / f"{self.scenario.name}-{self._number}-{len(repeats) + 1}"
        if (place / _MARK).exists():
            # What an earlier run left: a coordinator would go on with its pipelines.
            shutil.rmtree(place)
        with Cluster(
            self.scenario, folder=place, isolate=self._isolate, measurements=self._measurements, say=self._say
        ) as cluster:
            plans = []
            for deployment in self.scenario.deployments:
                plans.append(self._deploy(cluster, deployment, deployment.model))
            cluster.settle(len(plans))
            for _ in range(count):
                repeats.append(self._measure(cluster))
                self._done()
                row = repeats[-1]
                self._say(
                    f"repeat {len(repeats)}: {row['rate']:.2f} frames/s, {row['answered']} of {row['submitted']} "
                    f"answered, p50 {row['latency_ms']['p50']:.0f} ms, p95 {row['latency_ms']['p95']:.0f} ms"
                )
            return plans

    def _deploy(self, cluster: Cluster, deployment: Deployment, model: str) -> dict[str, Any]:
        path = model_path(self.scenario, model)
        words = ["--name", deployment.name, "--timeout", f"{_DEPLOY_SECONDS:g}", *deployment.options]
        done = cluster.json("deploy", str(path), *words, timeout=_DEPLOY_SECONDS + 60)
        row = plan_row(deployment.name, model, done["revision"], done["plan"])
        nodes = sorted({node for item in row["slices"] for node in item["nodes"]})
        self._say(
            f"{deployment.name}: revision {row['revision']}, {len(row['slices'])} slices on {len(nodes)} nodes, "
            f"{row['planned_rate']:.2f} frames/s planned"
        )
        return row

    def _carry_out(self, cluster: Cluster) -> Callable[[Action], None]:
        known = {deployment.name: deployment for deployment in self.scenario.deployments}

        def carry_out(action: Action) -> None:
            event = action.event
            if action.do == "undeploy":
                cluster.json("undeploy", event.pipeline)
            else:
                deployment = known[event.pipeline]
                self._deploy(cluster, deployment, event.model or deployment.model)

        return carry_out

    def _measure(self, cluster: Cluster) -> dict[str, Any]:
        load = self.scenario.load
        name = load.pipeline or self.scenario.deployments[0].name
        deployment = next(one for one in self.scenario.deployments if one.name == name)
        frames = self._frames(cluster, name)
        reference = self._reference(deployment) if self._compares() else None
        asked = Asked(load.seconds, load.frames, load.clients, load.rate, load.limit, load.warm)
        events = self.scenario.timeline()
        events += regular_cuts(self.scenario.boards(), load.seconds or _HORIZON_SECONDS)
        with Script(cluster, actions(events), self._carry_out(cluster), self._say) as script:

            def begin(began: float, running: Load) -> None:
                script.begin(began)

            measured = drive(
                cluster, name, asked, frames=frames, reference=reference, counted=cluster, on_begin=begin
            )
        if measured.figures.sound and measured.figures.frames < 2:
            raise ConfigError(
                f"[load]: {measured.figures.frames} results after the warm-up, expected at least 2: "
                "ask for more frames or seconds, or for a smaller `warm`"
            )
        came = consequences(script.happened, measured.answers, measured.ended)
        row = repeat_row(measured, self.scenario.boards(), came, self._processors)
        for name, use in row["nodes"].items():
            use |= cluster.nodes[name].limits_felt()
        return row

    def _compares(self) -> bool:
        return self.scenario.load.compare if self._compare is None else self._compare

    def _frames(self, cluster: Cluster, name: str) -> list[Frame]:
        with Pipeline(name, cluster.options, cluster=cluster.cluster) as pipeline:
            specs = pipeline.inputs
        given = self.scenario.load.input
        if given == "random":
            seed = self.scenario.run.seed
            return [random_frame(specs, seed + number) for number in range(_RANDOM_FRAMES)]
        return [_picture(self.scenario.path(given), specs)]

    def _reference(self, deployment: Deployment) -> Reference:
        interpreter = open_interpreter(model_path(self.scenario, deployment.model), threads=1)

        def infer(frame: Frame) -> Outputs:
            for place, array in enumerate(frame.values()):
                interpreter.set_input(place, array)
            interpreter.invoke()
            return [np.array(interpreter.output(place)) for place in range(len(interpreter.outputs))]

        return infer


def _picture(file: Path, specs: tuple[TensorSpec, ...]) -> Frame:
    if len(specs) != 1:
        raise ConfigError(f"load input {file}: a picture is for a model with one input, this one has {len(specs)}")
    array, _ = image_to_input(open_image(file), specs[0], None)
    return {specs[0].index: array}


def _titled(say: Say, title: str) -> Say:
    return (lambda text: say(f"{title}: {text}")) if title else say
