"""`slicemq infer` and `slicemq bench` as a user meets them, against a pipeline that doubles its input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from coordinator.cli.app import build
from coordinator.cli.bench import percentile
from emulator.brokers import HOST, Broker, free_port
from slicemq.client import Pipeline
from tests.contract.echo_node import NAME, R1, EchoNode, Master, route


class Site:
    """A running pipeline, and the command line."""

    def __init__(self, broker: Broker, cluster: str) -> None:
        self.where = ["--broker", broker.url, "--cluster", cluster]
        self.node = EchoNode(broker, cluster, R1)
        self.master = Master(broker, cluster)
        self.master.publish(route(R1))

    def run(self, *words: str) -> Any:
        return run(*words, *self.where)

    def close(self) -> None:
        self.node.stop()
        self.master.stop()


def run(*words: str) -> Any:
    return CliRunner().invoke(build(words), words)


@pytest.fixture
def site(mosquitto: Broker, cluster: str) -> Iterator[Site]:
    made = Site(mosquitto, cluster)
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    names = []
    for number in range(3):
        names.append(str(tmp_path / f"{number}.npy"))
        np.save(names[-1], np.full((1, 3), number, np.float32))
    return names


def test_infer_shows_outputs_and_writes_them(site: Site, files: list[str], tmp_path: Path) -> None:
    one = str(tmp_path / "one.npz")
    done = site.run("infer", NAME, files[2], "-o", one)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"revision {R1}" in done.stdout
    assert "twice  float32 [1, 3]  top 3: 0: 4, 1: 4, 2: 4" in done.stdout
    assert "sum  float32 []  6" in done.stdout
    with np.load(one) as loaded:
        np.testing.assert_array_equal(loaded["twice"], np.full((1, 3), 4, np.float32))


def test_infer_of_several_files_as_json(site: Site, files: list[str], tmp_path: Path) -> None:
    many = str(tmp_path / "many.npz")
    done = site.run("infer", NAME, *files, "-o", many, "--format", "json")
    body = json.loads(done.stdout)
    assert [(f["file"], f["sequence"], f["attempts"], f["error"]) for f in body["frames"]] == [
        (file, number, 1, None) for number, file in enumerate(files)
    ]
    assert [f["outputs"][1]["max"] for f in body["frames"]] == [0, 3, 6]
    assert body["output"] == many
    with np.load(many) as loaded:
        assert set(loaded.files) == {f"{n}/{key}" for n in range(3) for key in ("twice", "sum")}
        assert loaded["2/sum"] == 6


def test_bench_counts_and_measures(site: Site) -> None:
    done = site.run("bench", NAME, "--frames", "20", "--warmup", "3", "--format", "json")
    body = json.loads(done.stdout)
    assert (body["frames"], body["answered"], body["failed"], body["resent"]) == (20, 20, 0, 0)
    assert body["revisions"] == {R1: 20}
    assert body["frames_per_second"] > 0
    assert 0 < body["latency_ms"]["p50"] <= body["latency_ms"]["p90"] <= body["latency_ms"]["max"]
    assert (body["window"], body["failovers"], body["dropped"]) == (4, [], {})
    assert len(site.node.got) == 23


def test_bench_for_people_with_a_file_and_double_answers(site: Site, files: list[str]) -> None:
    site.node.copies = 2
    done = site.run("bench", NAME, "--frames", "5", "--input", files[1], "--limit", "1")
    assert done.exit_code == 0
    assert "5 of 5 frames answered" in done.stdout
    assert "window 4 (share 4)" in done.stdout
    assert f"revisions: {R1}: 5 frames" in done.stdout


def test_a_frame_that_fails_is_reported_and_ends_with_its_exit_code(site: Site, files: list[str]) -> None:
    site.node.error = "poisoned"
    done = site.run("infer", NAME, files[0])
    assert done.exit_code == 62
    assert "frame 0: poisoned: boom" in done.stdout
    assert done.stderr == "slicemq: frame 0: poisoned: boom\n"
    bench = site.run("bench", NAME, "--frames", "3", "--warmup", "0", "--format", "json")
    assert bench.exit_code == 62
    assert (json.loads(bench.stdout)["failed"], json.loads(bench.stdout)["latency_ms"]) == (3, {})


def test_a_frame_without_answer_ends_after_the_timeout(site: Site, files: list[str]) -> None:
    site.node.silent = True
    done = site.run("infer", NAME, files[0], "--timeout", "0.3")
    assert done.exit_code == 62
    assert "gave-up: no result within 0.3 s" in done.stderr


def test_wrong_input_pipeline_and_broker_have_their_exit_codes(
    site: Site, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = str(tmp_path / "wrong.npy")
    np.save(wrong, np.zeros((1, 3)))
    done = site.run("infer", NAME, wrong)
    assert done.exit_code == 60
    assert done.stderr == (
        f"slicemq: {wrong}: input 'image' (tensor 0): expected float32 [1, ?], got float64 [1, 3]\n"
    )
    assert site.run("infer", NAME, str(tmp_path / "none.npy")).exit_code == 60
    absent = site.run("infer", "nobody", files[0])
    assert absent.exit_code == 61
    assert "there are: double" in absent.stderr
    assert site.run("infer", NAME, files[0], "--normalize", "-2..2").exit_code == 2
    assert site.run("infer", NAME, files[0], "--normalize", "-1..1").exit_code == 0
    monkeypatch.setitem(Pipeline.__init__.__kwdefaults__ or {}, "connect_timeout", 0.5)
    nowhere = run("bench", NAME, "--broker", f"mqtt://{HOST}:{free_port()}")
    assert nowhere.exit_code == 30


def test_the_help_states_the_normalisation() -> None:
    text = " ".join(run("infer", "--help").stdout.split())
    for words in ("-1..1 (default for float inputs)", "pixels minus 128", "bilinear"):
        assert words in text


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 50) == 7
