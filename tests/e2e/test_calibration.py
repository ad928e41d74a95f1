"""Codecs are measured on what the user says is typical: noise may say that far fewer bits are enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from converters.graph import read_graph
from converters.samples import unpack
from emulator.site import Site
from slicemq.client import Pipeline
from slicemq.errors import InputError
from tests.converters.tiny import Tiny
from tests.e2e.scene import Array

SIZE = 60_000
BUDGET = 0.05
# A main broker that is slow on purpose: what is sent decides, on any machine.
WORDS = (
    *("--shape", "pipeline", "--pin", "0-0=n1", "--pin", "1-1=n2", "--profile", "estimate"),
    *("--codec", "int8", "--codec", "int16", "--error-budget", str(BUDGET)),
    *("--broker-rate", "1", "--data-brokers", "never"),
)


def outliers() -> bytes:
    """tanh(-x): where one element of x is far larger than all others, int8 has few steps left for these."""
    tiny = Tiny()
    x = tiny.input((1, SIZE), name="x")
    return tiny.build([tiny.op("TANH", [tiny.op("NEG", [x], (1, SIZE))], (1, SIZE))])


def typical(count: int) -> Array:
    """So many frames [n, SIZE] with one large element in each."""
    frames = np.random.default_rng(4).standard_normal((count, SIZE)).astype(np.float32)
    frames[:, 7] = 500.0
    return frames


def deployed(site: Site, file: Path, *words: str) -> tuple[dict[str, Any], str]:
    """The plan of a deploy, and what it warns of."""
    done = site.command("deploy", str(file), "--name", "typical", *WORDS, *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)["plan"]
    return plan, done.stderr


def error_of(site: Site) -> float:
    """The largest difference of the pipeline's answers from the model's, on typical frames; these are at most 1."""
    with Pipeline("typical", site.options, cluster=site.cluster) as client:
        return max(
            float(np.abs(next(iter(client.infer(frame[None]).tensors.values())) + np.tanh(frame)).max())
            for frame in typical(3)
        )


def codec(plan: dict[str, Any]) -> str:
    """That of the tensor between the two slices."""
    (found,) = (row["codec"] for row in plan["bundles"] if row["from"] == "s0")
    return str(found)


def test_codecs_are_chosen_by_typical_inputs(site: Site, tmp_path: Path) -> None:
    file, folder = tmp_path / "outliers.tflite", tmp_path / "typical"
    file.write_bytes(outliers())
    folder.mkdir()
    np.save(folder / "frames.npy", typical(12))
    try:
        noisy, warned = deployed(site, file)
        assert codec(noisy) == "int8"
        assert noisy["error"]["samples"] == "noise"
        assert noisy["error"]["measured"] <= BUDGET < error_of(site), "real inputs err more than noise"
        assert "real inputs may err more" in warned
        assert "--calibration FOLDER" in warned
        plan, warned = deployed(site, file, "--calibration", str(folder))
        assert codec(plan) == "int16"
        assert plan["error"]["samples"] == "calibration"
        assert plan["error"]["measured"] <= BUDGET
        assert error_of(site) <= BUDGET
        assert "noise" not in warned
        kept = [path for path in (site.folder / "coordinator").rglob("artifacts/*") if is_set(path)]
        assert len(kept) == 1
        done = site.command(
            "deploy", str(file), "--name", "typical", *WORDS, "--calibration", str(tmp_path / "none")
        )
        assert done.returncode == 2
        assert "no such folder" in done.stderr
    finally:
        site.command("undeploy", "typical")


def is_set(path: Path) -> bool:
    """Whether an artifact is the calibration set: as many frames as are used, of 12."""
    data = path.read_bytes()
    if data[4:8] == b"TFL3":
        return False
    try:
        return len(unpack(data, read_graph(outliers()))) == 8
    except InputError:
        # A golden frame, which the coordinator makes.
        return False
