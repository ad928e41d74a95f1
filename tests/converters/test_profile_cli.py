"""`slicemq model profile`, as a user types it, and the cache that it shares with the other verbs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.planner.model import Overheads
from tests.converters.tiny import chain, diamond
from tests.runtimes import EACH_RUNTIME


class User:
    """A command line with a cache folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.model = folder / "diamond.tflite"
        # Large enough to be told from what a call costs anyhow.
        self.model.write_bytes(diamond(20_000))

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coordinator.cli", *map(str, words)]
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache)}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

    def ok(self, *words: object) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    @property
    def kept(self) -> list[Path]:
        return sorted((self.cache / "slicemq" / "profiles").glob("*"))


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_profile(user: User, runtime: str) -> None:
    words = ("model", "profile", user.model, "--runtime", runtime, "--seconds", "0.05")
    text = user.ok(*words, "--top", 2)
    assert f"on {runtime}" in text
    assert "fit: " in text
    assert text.count("\n") > 8
    body = json.loads(user.ok(*words, "--format", "json"))
    assert [row["name"] for row in body["operators"]] == ["TANH", "RELU", "LOGISTIC", "ADD", "ADD"]
    assert [row["class"] for row in body["operators"]][:2] == ["function", "elementwise"]
    assert sum(row["share"] for row in body["operators"]) == pytest.approx(1.0)
    assert sum(row["operators"] for row in body["classes"]) == 5
    assert body["fit"]["windows"] > 5
    assert json.loads(user.ok(*words, "--format", "json")) == body
    assert len(user.kept) == 1


def test_fresh_measures_anew_and_the_other_verbs_take_what_is_kept(user: User, tmp_path: Path) -> None:
    words = ("model", "profile", user.model, "--seconds", "0.05", "--format", "json")
    first = json.loads(user.ok(*words))
    assert json.loads(user.ok(*words, "--fresh"))["operators"] != first["operators"]
    (kept,) = user.kept
    body = json.loads(kept.read_text())
    body["profile"]["seconds"] = {"0": 8.0, "1": 1.0, "2": 1.0, "3": 1.0, "4": 1.0}
    kept.write_text(json.dumps(body))
    cut = json.loads(user.ok("model", "slice", user.model, "--stages", 2, "-o", tmp_path / "s", "--format", "json"))
    assert [row["operators"] for row in cut["slices"]] == [1, 4]
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[node]]\nid = "a"\nmemory_mb = 500\nup_mbps = 100\ndown_mbps = 100\nspeed = 1.0\n')
    plan = json.loads(user.ok("plan", "make", user.model, "--fleet", fleet, "--format", "json"))
    assert plan["slices"][0]["compute_ms"] == pytest.approx(12_000 * Overheads().computing, rel=0.01)
    assert len(user.kept) == 1


def test_wrong_words_and_files(user: User, tmp_path: Path) -> None:
    for words in (("--seconds", "0"), ("--seconds", "nan"), ("--top", "-1"), ("--runtime", "none")):
        done = user.run("model", "profile", user.model, *words)
        assert done.returncode == 2, done.stderr
        assert words[0] in done.stderr
    assert user.run("model", "profile", tmp_path / "none.tflite").returncode == 10
    other = tmp_path / "cut.tflite"
    other.write_bytes(chain(3)[:200])
    assert user.run("model", "profile", other).returncode == 10


def test_a_cache_that_cannot_be_written_only_costs_the_time_again(user: User, tmp_path: Path) -> None:
    user.cache.write_text("a file where the folder should be")
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[[node]]\nid = "a"\nmemory_mb = 500\nup_mbps = 100\ndown_mbps = 100\nspeed = 1.0\n')
    for words in (
        ("model", "profile", user.model, "--seconds", "0.05"),
        ("model", "slice", user.model, "--stages", 2, "-o", tmp_path / "s"),
        ("plan", "make", user.model, "--fleet", fleet),
    ):
        done = user.run(*words)
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert f"{user.cache}/slicemq/profiles" in done.stderr
        assert "not kept: Not a directory" in done.stderr
        assert "Traceback" not in done.stderr
