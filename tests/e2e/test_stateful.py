"""A stateful model over three nodes: one device's answers, one client, resets that show (rules 5, 6 and 11)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_node.runtime import open_interpreter
from emulator.site import BrokerKind, Site
from slicemq.client import Pipeline
from slicemq.errors import StreamBusy, StreamReset
from tests.e2e.scene import PATIENT, Wire, deploy, model, new_site, output_bytes, refused, started, worker_of
from tests.edge_node import models
from tests.waiting import eventually

Array = npt.NDArray[Any]
NODES = ("n1", "n2", "n3", "n4")
FRAMES = 50
BOTH: list[Any] = ["mosquitto", pytest.param("amqtt", marks=pytest.mark.slow)]
PINS = [word for number in range(3) for word in ("--pin", f"s{number}=n{number + 1}")]
# A client that holds the stream until it is killed.
HOLDER = """
import sys, time
import numpy as np
from slicemq.client import Pipeline
with Pipeline("sums", sys.argv[1], cluster="e2e", client_id="holder") as pipeline:
    pipeline.infer(np.ones((1, 4), np.float32))
    print("holds", flush=True)
    time.sleep(600)
"""


def one_device(file: Path, frames: Sequence[Array]) -> list[bytes]:
    """What the whole model gives for `frames`, from its initial state."""
    interpreter = open_interpreter(file)
    answers = []
    for array in frames:
        interpreter.set_input(0, array)
        interpreter.invoke()
        answers.append(interpreter.output(0).tobytes())
    return answers


def rows(count: int = FRAMES) -> list[Array]:
    generator = np.random.default_rng(3)
    return [generator.normal(size=(1, 4)).astype(np.float32) for _ in range(count)]


def said(pipeline: Pipeline, frames: Sequence[Array]) -> list[bytes]:
    return [output_bytes(result)[0] for result in pipeline.map(frames)]


def reset_of(pipeline: Pipeline, frame: Array, answers: Callable[[int], bytes]) -> int:
    """Send `frame` until the stream is reset; the frames before it must be answered right (`answers` by number)."""
    number = 0
    while True:
        try:
            result = pipeline.infer(frame, 60.0)
        except StreamReset:
            return number
        assert output_bytes(result)[0] == answers(number)
        number += 1


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three running sums one behind the other: the answers tell whether any frame was missed or met twice."""
    path = tmp_path_factory.mktemp("model") / "sums.tflite"
    path.write_bytes(models.accumulator_model(1.5, stages=3))
    return path


@pytest.fixture(scope="module", params=BOTH)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, file: Path) -> Iterator[Site]:
    kind: BrokerKind = request.param
    with new_site(tmp_path_factory.mktemp("stateful"), kind) as running:
        started(running, NODES, coordinator=PATIENT)
        made = deploy(running, file, "sums", "--profile", "estimate", *PINS)
        assert [entry["nodes"] for entry in made["plan"]["slices"]] == [["n1"], ["n2"], ["n3"]]
        yield running


@pytest.fixture(scope="module")
def wire(site: Site) -> Iterator[Wire]:
    with Wire(site) as opened:
        yield opened


def client(site: Site, name: str | None = None) -> Pipeline:
    return Pipeline("sums", site.options, cluster=site.cluster, client_id=name)


def test_fifty_frames_equal_one_device(site: Site, wire: Wire, file: Path) -> None:
    eventually(lambda: wire.state("sums") == "running")
    document = wire.pipeline("sums")
    assert document is not None
    assert (document.stateful, document.window) == (True, 1)
    frames = rows()
    for _ in range(2):  # Each client's stream begins with the initial state.
        with client(site) as pipeline:
            assert pipeline.stateful
            assert said(pipeline, frames) == one_device(file, frames)
            assert pipeline.stats.resent == 0


def test_one_client_at_a_time(site: Site, file: Path) -> None:
    frames = rows()
    expected = one_device(file, frames)
    with client(site, "ann") as ann, client(site, "bob") as bob:
        assert said(ann, frames[:20]) == expected[:20]
        with pytest.raises(StreamBusy, match="client ann has the stream"):
            bob.infer(frames[0], 30.0)
        assert "client ann has the stream" in refused(site.command("bench", "sums"), 64)
        # Her stream has not noticed; once she is gone it is free.
        assert said(ann, frames[20:]) == expected[20:]
        ann.close()
        eventually(lambda: next(bob.map(frames[:1], raise_errors=False)).error is None)
        assert said(bob, frames[1:5]) == expected[1:5]


@pytest.mark.slow
def test_after_a_clients_death_another_one_takes_over(site: Site, file: Path) -> None:
    url = f"mqtt://{site.options.host}:{site.options.port}"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with client(site) as pipeline:
            frames = rows(4)
            with pytest.raises(StreamBusy, match="client holder has the stream"):
                pipeline.infer(frames[0], 30.0)
            holder.kill()
            eventually(lambda: next(pipeline.map(frames[:1], raise_errors=False)).error is None, 60.0)
            assert said(pipeline, frames[1:]) == one_device(file, frames)[1:]
    finally:
        holder.kill()
        holder.wait()


def test_the_verbs(site: Site, file: Path, tmp_path: Path) -> None:
    frames = rows(3)
    names = []
    for number, array in enumerate(frames):
        names.append(str(tmp_path / f"{number}.npy"))
        np.save(names[-1], array)
    out = tmp_path / "out.npz"
    for _ in range(2):
        site.json("infer", "sums", *names, "--output", str(out))
        with np.load(out) as written:
            assert [array.tobytes() for array in written.values()] == one_device(file, frames)
    body = site.json("bench", "sums", "--frames", "10")
    assert (body["answered"], body["window"]) == (10, 1)


def test_a_worker_that_dies_resets_the_stream_once(site: Site, file: Path) -> None:
    frame = rows(1)[0]
    expected = one_device(file, [frame] * 1000)
    with client(site) as pipeline:
        assert said(pipeline, [frame] * 5) == expected[:5]
        worker_of(site, "n2").kill()
        before = reset_of(pipeline, frame, lambda number: expected[5 + number])
        assert before < 900
        assert said(pipeline, [frame] * FRAMES) == expected[:FRAMES]


def test_a_nodes_death_resets_the_stream_once(site: Site, wire: Wire, file: Path) -> None:
    frame = rows(1)[0]
    expected = one_device(file, [frame] * 1000)
    with client(site) as pipeline:
        results = list(pipeline.map([frame] * 5))
        assert [output_bytes(result)[0] for result in results] == expected[:5]
        site.nodes[wire.nodes("sums")[1]].signal(signal.SIGKILL)
        reset_of(pipeline, frame, lambda number: expected[5 + number])
        after = list(pipeline.map([frame] * FRAMES))
        assert [output_bytes(result)[0] for result in after] == expected[:FRAMES]
        assert {result.revision for result in after} != {results[0].revision}


@pytest.mark.slow
def test_a_real_wake_word(tmp_path: Path) -> None:
    file = model("wake-hey-mycroft")
    generator = np.random.default_rng(5)
    frames = []
    for number in range(100):
        if number % 10 == 0:
            base = generator.integers(60, 127, (1, 3, 40))
        frames.append((base + generator.integers(-5, 1, (1, 3, 40))).astype(np.int8))
    expected = one_device(file, frames)
    assert len(set(expected)) > 3
    with new_site(tmp_path) as site, Wire(started(site, NODES, coordinator=PATIENT)) as wire:
        deploy(site, file, "wake", *PINS)
        with Pipeline("wake", site.options, cluster=site.cluster) as pipeline:
            assert said(pipeline, frames) == expected
            site.nodes[wire.nodes("wake")[0]].signal(signal.SIGKILL)
            failed = 0
            while True:
                result = next(pipeline.map(frames[:1], raise_errors=False))
                if result.error is None and failed:
                    break
                failed += result.error is not None
            assert failed == 1
            assert said(pipeline, frames[1:]) == expected[1:]
