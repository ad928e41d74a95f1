"""A model that crashes the TFLite runtime, and signals: what a model verb's process of its own makes of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converters.folder import write_folder
from converters.graph import read_graph
from converters.slicing import edges, iter_slices
from tests.converters.tiny import Tiny
from tests.waiting import eventually

_PROGRAM = """
import os, signal, sys
# Ignored by whoever runs the tests in the background, it would be ignored here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.alarm(60)
from coordinator.cli.isolated import run
def body():
    print(os.getpid(), flush=True)
    {body}
run(body, "m.tflite")
print("on we go")
"""


# Longer than any of these programs needs: an end to a child that no signal ends (a fork inherits no alarm).
_PAUSE = "signal.alarm(60); signal.pause()"


@contextmanager
def _start(body: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            # Leaving a Popen waits for the program, and its pipes for the child.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# What a damaged model does to a runtime differs from run to run, so this runtime dies whatever it is given.
_CRASHING = """
import os, signal, sys
import edge_node.runtime
edge_node.runtime.open_interpreter = lambda *a, **k: os.kill(os.getpid(), signal.SIGSEGV)
from coordinator.cli import main
sys.argv[0] = "slicemq"
main()
"""


def test_a_model_that_crashes_the_runtime_ends_every_verb_with_an_error(tmp_path: Path) -> None:
    model, folder, fleet = tmp_path / "crash.tflite", tmp_path / "slices", tmp_path / "fleet.toml"
    tiny = Tiny()
    x = tiny.input((1, 4), name="x")
    model.write_bytes(tiny.build([tiny.op("RELU", [tiny.op("TANH", [x])])]))
    graph = read_graph(model.read_bytes())
    groups = [list(graph.steps)]
    write_folder(folder, graph, iter_slices(model.read_bytes(), graph, groups), edges(graph, groups))
    fleet.write_text('[[node]]\nid = "a"\nmemory_mb = 100\nspeed = 1\nup_mbps = 100\ndown_mbps = 100\n')
    for words in (
        ["model", "inspect", model],
        ["model", "slice", model, "--at", 1, "-o", tmp_path / "out"],
        ["model", "verify", model, folder],
        ["plan", "make", model, "--fleet", fleet],
    ):
        command = [sys.executable, "-c", _CRASHING, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 10, (words, done)
        assert f"{model}: the TFLite runtime crashed on this model (SIG" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(12)", 12, ""),
        ("raise KeyError('k')", 1, "KeyError: 'k'"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 1, "m.tflite: the TFLite runtime crashed on this model (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, "m.tflite: the process that ran the model was killed"),
        ("os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP, ""),
    ],
)
def test_the_child_goes_on_as_the_program(body: str, code: int, said: str) -> None:
    with _start(body) as process:
        text, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert said in error
    assert ("on we go" in text) == (code == 0)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("everybody", [False, True])
def test_a_signal_ends_both(ending: signal.Signals, everybody: bool) -> None:
    """A supervisor sends to the program alone, a terminal to all of its processes."""
    with _start(_PAUSE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        os.killpg(process.pid, ending) if everybody else os.kill(process.pid, ending)
        process.wait(30)
        assert process.returncode == (-ending if ending == signal.SIGTERM else -signal.SIGINT)
        assert _gone(child)


def test_the_child_does_not_outlive_the_program() -> None:
    with _start(_PAUSE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        eventually(lambda: _gone(child))
