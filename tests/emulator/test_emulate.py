"""`slicemq emulate`: a scenario from end to end, what it refuses, and how it ends when it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emulator.brokers import check_installed
from emulator.ownership import tag_of
from emulator.sweep import names
from slicemq.errors import MissingDependencyError
from tests.e2e.scene import command, json_of, model
from tests.emulator.machine import measured, need_limits, need_network
from tests.waiting import eventually

_SCENARIO = """
name = "tiny"
[[nodes]]
type = "pi"
count = 2
rate = "200 Mbit/s"
threads = 1
[[deployments]]
name = "faces"
model = "{model}"
options = ["--shape", "pipeline", "--profile", "estimate"]
[load]
{load}
[run.sweep]
nodes = [1, 2]
"""


def written(folder: Path, load: str = "frames = 30") -> Path:
    """A scenario file with two variants."""
    file = folder / "tiny.toml"
    file.write_text(_SCENARIO.format(model=model(), load=load))
    return file


def check(body: Any, *, isolated: bool) -> None:
    """What the report of the second variant must say."""
    (variant,) = body["variants"]
    assert body["failures"] == []
    assert body["scenario"]["isolated"] is isolated
    assert (variant["values"], [board["name"] for board in variant["boards"]]) == ({"nodes": 2}, ["pi1", "pi2"])
    (deployment,) = variant["deployments"]
    assert {node for item in deployment["slices"] for node in item["nodes"]} <= {"pi1", "pi2"}
    (repeat,) = variant["repeats"]
    assert (repeat["submitted"], repeat["answered"], repeat["sound"]) == (30, 30, True)
    assert repeat["rate"] > 0


def test_a_scenario_runs_and_reports(tmp_path: Path) -> None:
    need_network()
    need_limits()
    out = tmp_path / "out"
    words = ("--only", "nodes=2", "--out", str(out), "--measurements", str(measured(tmp_path / "m")))
    body = json_of(command("emulate", str(written(tmp_path)), *words, "--format", "json"))
    check(body, isolated=True)
    assert json.loads((out / "report.json").read_text()) == body
    (variant,) = body["variants"]
    used = variant["repeats"][0]["nodes"]
    for name in {node for item in variant["deployments"][0]["slices"] for node in item["nodes"]}:
        assert used[name]["cpu_seconds"] > 0
        assert used[name]["sent_mb_per_frame"] > 0
        assert used[name]["received_mb_per_frame"] > 0
        assert used[name]["memory_kills"] == 0


@pytest.mark.slow
def test_without_isolation_it_runs_too_and_says_what_does_not_count(tmp_path: Path) -> None:
    words = ("--only", "nodes=2", "--no-isolation", "--measurements", str(measured(tmp_path / "m")))
    done = command("emulate", str(written(tmp_path)), *words, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "without isolation" in done.stderr
    check(json.loads(done.stdout), isolated=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing(tmp_path: Path, number: int) -> None:
    need_network()
    need_limits()
    words = [sys.executable, "-m", "coordinator.cli", "emulate", str(written(tmp_path, 'seconds = "10 min"'))]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as run:
        mine = f"slicemq-emu-{run.pid}-"
        # In the middle of starting: a board has its namespace and its group.
        eventually(lambda: any(name.startswith(mine) and name.endswith("-pi1") for name in names()), 60.0)
        run.send_signal(number)
        assert run.wait(60) == 128 + number
        assert run.stderr is not None
        assert "Traceback" not in run.stderr.read()
    assert not [name for name in names() if name.startswith(mine)]


def test_what_a_killed_run_left_is_removed_on_demand(tmp_path: Path) -> None:
    need_network()
    need_limits()
    words = [sys.executable, "-m", "coordinator.cli", "emulate", str(written(tmp_path, 'seconds = "10 min"'))]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as run:
        mine = f"slicemq-emu-{run.pid}-"
        eventually(lambda: any(name.startswith(mine) and name.endswith("-pi1") for name in names()), 60.0)
        run.kill()
        run.wait()
    assert [name for name in names() if name.startswith(mine)]
    found = json_of(command("emulate", "--clean", "--format", "json"))["removed"]
    assert {tag_of(name) for name in found} >= {tag_of(name) for name in found if name.startswith(mine)} != set()
    assert not [name for name in names() if name.startswith(mine)]


def test_the_scenarios_that_ship_are_listed() -> None:
    found = json_of(command("emulate", "--list", "--format", "json"))["scenarios"]
    assert {one["name"] for one in found} >= {"laptop", "defer-resnet50", "failure-storm"}
    assert all(one["title"] and one["boards"] for one in found)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "expected a scenario file"),
        (("nowhere.toml",), 3, "nowhere.toml"),
        (("no-such-scenario",), 2, "no scenario"),
        (("SCENARIO", "--only", "nodes=7"), 2, "expected nodes=1, nodes=2"),
        (("SCENARIO", "--only", "rate=7"), 2, "expected nodes=1, nodes=2"),
        (("SCENARIO", "--keep"), 2, "--keep: expected --out"),
        (("SCENARIO", "--no-isolation", "--out", "/proc/out"), 72, "/proc/out: "),
        (("SCENARIO", "--no-isolation", "--measurements", "SCENARIO"), 72, "tiny.toml: "),
        (("SCENARIO", "--repeats", "0"), 2, "repeats"),
    ],
)
def test_what_it_cannot_do_it_says_at_once(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    given = [str(written(tmp_path)) if word == "SCENARIO" else word for word in words]
    done = command("emulate", *given)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ('frames = 30\ninput = "nowhere.png"', "load input nowhere.png: there is no file"),
        (
            'seconds = 9\n[[events]]\nat = 1\nwhat = "deploy"\npipeline = "faces"\nmodel = "nowhere.tflite"',
            "model nowhere.tflite: there is no file",
        ),
    ],
)
def test_a_file_that_is_not_there_is_missed_before_anything_starts(tmp_path: Path, load: str, said: str) -> None:
    done = command("emulate", str(written(tmp_path, load)), "--no-isolation")
    assert done.returncode == 3, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


def test_without_mosquitto_it_says_what_to_do(tmp_path: Path) -> None:
    code = "import shutil, sys; shutil.which = lambda *a, **k: None\n"
    code += "from coordinator.cli import main\nsys.exit(main())"
    words = [sys.executable, "-c", code, "emulate", str(written(tmp_path)), "--no-isolation"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        3,
        "slicemq: mosquitto is not installed: sudo apt-get install mosquitto\n",
    )


def test_without_amqtt_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"slicemq\[broker\]"):
        check_installed("amqtt")


def test_without_root_it_says_what_to_do(tmp_path: Path) -> None:
    code = "import os, sys; os.geteuid = lambda: 1000\nfrom coordinator.cli import main\nsys.exit(main())"
    words = [sys.executable, "-c", code, "emulate", str(written(tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "takes root" in done.stderr
    assert "--no-isolation" in done.stderr
