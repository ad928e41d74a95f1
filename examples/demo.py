"""`make demo`: a real face detector over four nodes on this machine, one of which dies, and then another hangs."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.models import pictures, real_models
from edge_node.capacity import measure_speeds, read_board
from edge_node.runtime import open_interpreter
from emulator.placement import Placement
from emulator.site import Site
from emulator.trial import Report, run_trial, single_device
from examples import faces
from slicemq.client import Result
from slicemq.errors import SliceMQError

NODES = ("pi-1", "pi-2", "pi-3", "pi-4")
NAME = "faces"
# The model takes about 15 MB as one slice: too much for one of these nodes, enough room on any two.
SLICE_MB = 13


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 when every frame was answered as a single device would."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument("--broker", choices=("amqtt", "mosquitto"), default="amqtt")
    parser.add_argument("--frames", type=int, default=500, help="at least 30")
    parser.add_argument("--faults", default="kill,stop", help="kill, stop, both or none, with a comma between")
    parser.add_argument("--picture", type=Path, default=Path("demo-out/faces.png"))
    parser.add_argument("--logs", type=Path, default=None, help="keep the processes' logs in this folder")
    given = parser.parse_args(arguments)
    faults = [word for word in given.faults.split(",") if word not in ("", "none")]
    if given.frames < 30 or not set(faults) <= {"kill", "stop"}:
        parser.error("expected at least 30 frames and faults out of kill and stop")
    try:
        return _run(given.broker, given.frames, faults, given.picture, given.logs)
    except SliceMQError as error:
        sys.stderr.write(f"demo: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _run(broker: Any, frames: int, faults: list[str], picture: Path, logs: Path | None) -> int:
    model = real_models()["face-full-range"].path
    images = [faces.load_picture(path) for path in pictures()]
    if not model.is_file() or not images:
        raise SliceMQError("the packages with the model and the pictures are not installed: run make setup")
    turned = [image.rotate(angle) for angle in (0, 4, -4, 8, -8) for image in images]
    inputs = [faces.to_input(image) for image in turned]
    begun = time.monotonic()
    with Site(broker, folder=logs) as site:
        _say(f"starting {broker}, a coordinator and {len(NODES)} nodes with {SLICE_MB} MB each for slices")
        site.start_coordinator()
        # What an idle worker takes depends on the runtime, so the limit is made from a measurement.
        idle = measure_speeds(read_board(threads=1), "auto", site.folder / "speeds.json").worker_memory
        for node in NODES:
            site.start_node(node, "--threads", "1", "--memory-mb", str(math.ceil(idle / 1e6) + SLICE_MB))
        site.wait_ready(NODES)
        print(site.command("node", "list").stdout)
        _say(f"slicemq deploy {model.name} --name {NAME}")
        done = site.command("deploy", str(model), "--name", NAME)
        if done.returncode != 0:
            raise SliceMQError(done.stderr.strip())
        print(done.stdout)
        _say(f"{frames} frames of {len(images)} real pictures, {len(inputs)} different ones, while nodes fail")
        plan = [(number + 1) * frames // (len(faults) + 1) for number in range(len(faults))]
        found: dict[int, list[faces.Face]] = {}

        def look(number: int, result: Result) -> None:
            if number < len(images):
                boxes, scores = result.tensors.values()
                found[number] = faces.to_faces(boxes, scores, images[number])

        reference = single_device(open_interpreter(model))
        with Placement(site.options, site.cluster, NAME) as placement:
            actions = {at: _fault(site, placement, word) for at, word in zip(plan, faults, strict=True)}
            report = run_trial(site.options, site.cluster, NAME, inputs, frames, reference, actions, look)
        _tell(report)
        print(site.command("status").stdout)
    with_faces = next((number for number, boxes in sorted(found.items()) if boxes), None)
    if with_faces is not None:
        faces.draw(images[with_faces], found[with_faces], picture)
        best = found[with_faces][0]
        print(f"face found in {pictures()[with_faces].name} with score {best.score:.2f}: see {picture}")
    print(f"all of it took {time.monotonic() - begun:.0f} s")
    if not report.sound or with_faces is None:
        print("DEMO FAILED")
        return 1
    return 0


def _fault(site: Site, placement: Placement, word: str) -> Callable[[str], str]:
    def act(revision: str) -> str:
        slices = placement.nodes()
        name, node = slices[len(slices) // 2]
        number = signal.SIGKILL if word == "kill" else signal.SIGSTOP
        site.nodes[node].signal(number)
        return f"{number.name} to {node} ({name} of {revision})"

    return act


def _tell(report: Report) -> None:
    print(
        f"{report.results} of {report.frames} frames answered, {report.disordered} out of order, "
        f"{report.different} different from the single device, {report.failed} failed"
    )
    print(
        f"{report.rate():.1f} frames/s between faults (median), {report.frames / report.seconds:.1f} over all; "
        f"{report.resent} sent again, {report.doubles} second answers dropped"
    )
    for fault in report.faults:
        cost = "no result of a newer revision" if fault.cost is None else f"{fault.cost:.2f} s"
        print(f"{fault.what}: first result of {fault.new_revision or '?'} after {cost}")
    print(f"revisions that answered: {', '.join(report.revisions)}\n")


def _say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
