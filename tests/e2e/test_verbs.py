"""The verbs as a user types them, on a real model: results, one JSON document on stdout, and clear refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emulator.site import Site
from tests.e2e.scene import answers, command, failing, inputs, json_of, refused
from tests.waiting import eventually

FLEET = """
[broker]
rate_mbps = 1000
[[node]]
id = "pi"
count = 3
memory_mb = 400
speed = 0.2
up_mbps = 1000
down_mbps = 1000
"""


def test_infer(site: Site, faces: Path, tmp_path: Path) -> None:
    array = inputs(faces)[0]
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", input=array)
    Image.new("RGB", (320, 200), (10, 200, 90)).save(tmp_path / "c.png")
    out = tmp_path / "out.npz"
    body = site.json(
        "infer", "faces", *(str(tmp_path / name) for name in ("a.npy", "b.npz", "c.png")), "-o", str(out)
    )
    assert [frame["error"] for frame in body["frames"]] == [None] * 3
    with np.load(out) as written:
        for number in (0, 1):
            got = tuple(written[key].tobytes() for key in written.files if key.startswith(f"{number}/"))
            assert got == answers(faces)[0]
    text = site.command("infer", "faces", str(tmp_path / "c.png")).stdout
    assert "c.png" in text
    assert "revision" in text


def test_infer_with_wrong_inputs(site: Site, faces: Path, tmp_path: Path) -> None:
    array = inputs(faces)[0]
    file = tmp_path / "wrong.npy"
    np.save(file, array[:, :10])
    text = failing(site, 60, "infer", "faces", str(file))
    assert str(file) in text
    assert "expected float32 [1, 128, 128, 3], got float32 [1, 10, 128, 3]" in text
    np.save(file, array.astype(np.float64))
    assert "got float64" in failing(site, 60, "infer", "faces", str(file))
    np.savez(tmp_path / "wrong.npz", elsewhere=array)
    assert "'elsewhere'" in failing(site, 60, "infer", "faces", str(tmp_path / "wrong.npz"))
    file.write_bytes(b"\x93NUMPY\x01\x00garbage")
    assert str(file) in failing(site, 60, "infer", "faces", str(file))
    (tmp_path / "wrong.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
    assert "wrong.png" in failing(site, 60, "infer", "faces", str(tmp_path / "wrong.png"))
    assert "no such file" in failing(site, 60, "infer", "faces", str(tmp_path / "absent.npy"))
    assert "cannot be written" in failing(
        site, 72, "infer", "faces", good(tmp_path, array), "-o", str(tmp_path / "no" / "where.npz")
    )


def good(folder: Path, array: np.ndarray) -> str:  # type: ignore[type-arg]
    np.save(folder / "good.npy", array)
    return str(folder / "good.npy")


def test_bench_status_and_list(site: Site) -> None:
    body = json_of(site.command("bench", "faces", "--frames", "20", "--warmup", "2", "--format", "json"))
    assert body["frames"] == 20
    assert body["failed"] == 0
    status = json_of(site.command("status", "--format", "json"))
    assert [row["name"] for row in status["pipelines"] if row["state"] == "running"] == ["faces"]
    nodes = json_of(site.command("node", "list", "--format", "json"))
    assert {row["node"] for row in nodes["nodes"]} == set(site.nodes)
    for verb in (["status"], ["node", "list"]):
        assert all(node in site.command(*verb).stdout for node in site.nodes)


def test_plan_make(site: Site, faces: Path, tmp_path: Path) -> None:
    fleet, plan = tmp_path / "fleet.toml", tmp_path / "plan.json"
    fleet.write_text(FLEET)
    given = json_of(command("plan", "make", str(faces), "--fleet", str(fleet), "-o", str(plan), "--format", "json"))
    assert json.loads(plan.read_text()) == given
    live = json_of(site.command("plan", "make", str(faces), "-o", str(plan), "--format", "json"))
    assert {node for entry in live["slices"] for node in entry["nodes"]} <= set(site.nodes)
    # A plan that was made can be deployed as it is.
    made = site.json("deploy", str(faces), "--name", "planned", "--plan", str(plan))
    assert [entry["nodes"] for entry in made["plan"]["slices"]] == [entry["nodes"] for entry in live["slices"]]
    site.json("undeploy", "planned")
    plan.write_text("{}")
    said = failing(site, 20, "deploy", str(faces), "--name", "planned", "--plan", str(plan))
    assert f"slicemq: {plan}: " in said
    fleet.write_text(FLEET.replace("memory_mb = 400", "memory_mb = 'lots'"))
    assert "memory_mb" in refused(command("plan", "make", str(faces), "--fleet", str(fleet)), 3)


def test_model_verbs(faces: Path, tmp_path: Path) -> None:
    body = json_of(command("model", "inspect", str(faces), "--format", "json"))
    assert body["sha256"]
    folder = tmp_path / "slices"
    cut = json_of(command("model", "slice", str(faces), "--stages", "3", "-o", str(folder), "--format", "json"))
    assert len(cut["slices"]) == 3
    assert json.loads((folder / "slices.json").read_text())
    assert json_of(command("model", "verify", str(faces), str(folder), "--format", "json"))
    # A slice whose bytes were changed is not run.
    damaged = folder / cut["slices"][1]["file"]
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    assert damaged.name in refused_with_any(command("model", "verify", str(faces), str(folder)), (10, 13, 53))


def refused_with_any(done: subprocess.CompletedProcess[str], codes: tuple[int, ...]) -> str:
    assert done.returncode in codes, done
    return refused(done, done.returncode)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["deploy"], 2),
        (["deploy", "x.tflite"], 2),
        (["deploy", "x.tflite", "--name", "Bad_Name"], 2),
        (["deploy", "x.tflite", "--name", "x", "--profile", "guess"], 2),
        (["deploy", "x.tflite", "--name", "x", "--pin", "s0"], 2),
        (["deploy", "x.tflite", "--name", "x", "--timeout", "soon"], 2),
        (["undeploy"], 2),
        (["undeploy", "Bad Name"], 2),
        (["status", "--cluster", "UPPER"], 2),
        (["status", "--format", "xml"], 2),
        (["status", "--log-level", "loud"], 2),
        (["status", "--broker", "http://there"], 3),
        (["node", "list", "extra"], 2),
        (["node", "run", "--threads", "none"], 3),
        (["node", "run", "--nonsense"], 2),
        (["coordinator", "run", "--heartbeat-deadline", "0"], 2),
        (["broker", "run", "--port", "all"], 2),
        (["model", "inspect"], 2),
        (["model", "slice", "x.tflite", "-o", "y"], 2),
        (["model", "verify", "x.tflite"], 2),
        (["plan", "make"], 2),
        (["infer", "faces"], 2),
        (["infer", "faces", "x.npy", "--normalize", "odd"], 2),
        (["bench", "faces", "--frames", "0"], 2),
        (["nonsense"], 2),
    ],
)
def test_wrong_arguments(words: list[str], code: int) -> None:
    done = command(*words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
    assert done.stdout == ""


@pytest.mark.parametrize("module", ["coordinator.cli", "edge_node.main", "coordinator"])
def test_help_and_version(module: str) -> None:
    start = (
        ["-m", module]
        if module != "coordinator"
        else ["-c", "from coordinator.cli.coordinator_run import console; console()"]
    )
    for flag, word in (("--help", "usage"), ("--version", "slicemq")):
        done = subprocess.run(
            [sys.executable, *start, flag], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert word in done.stdout.lower()
        assert done.stderr == ""


def test_interrupt(site: Site, faces: Path, tmp_path: Path) -> None:
    """Ctrl-C ends a verb at once with 130, and without a traceback."""
    before = frames_done(site)
    running = site.run(
        "bench-stopped",
        [
            sys.executable,
            "-m",
            "coordinator.cli",
            "bench",
            "faces",
            "--frames",
            "10000000",
            "--log-level",
            "info",
            *site.network_options(),
        ],
    )
    eventually(lambda: frames_done(site) > before, 30.0, every=0.2)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 130
    assert "Traceback" not in running.log.read_text()


def frames_done(site: Site) -> int:
    """Frames that the first slice of `faces` has done."""
    (row,) = [row for row in site.json("status")["pipelines"] if row["name"] == "faces"]
    count: int = row["slices"][0]["frames"] or 0
    return count
