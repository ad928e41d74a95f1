"""Nothing stays behind: after an exception, Ctrl-C and SIGTERM at once, after SIGKILL with the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.cgroups import groups, limit
from emulator.network import Network
from emulator.ownership import MARK, dead, new_tag, tag_of
from emulator.sweep import names, remove, sweep
from tests.emulator.machine import need_limits, need_network
from tests.waiting import eventually

# A run with all that a run makes: a network, a group, a process in both, one that ignores SIGTERM among them.
_RUN = """
import signal, sys, tempfile, time
from emulator.cgroups import limit
from emulator.network import Network
from emulator.ownership import new_tag
from emulator.processes import spawn
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
tag = new_tag()
with Network(tag) as network:
    network.add(["a"])
    group = limit("a", share=0.5, tag=tag)
    tempfile.mkdtemp(prefix=tag + "-")
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    inside = [*network.ports["a"].prefix(), *group.prefix(), sys.executable, "-c", stubborn]
    child = spawn(inside)
    polite = spawn([*network.ports["a"].prefix(), *group.prefix(), "sleep", "600"])
    print(tag, child.pid, polite.pid, flush=True)
    try:
        time.sleep(600)
    finally:
        from emulator.sweep import remove
        remove(tag)
"""


def started() -> tuple[subprocess.Popen[str], str, int, int]:
    """A run as a process, its tag, and its processes: one that ignores SIGTERM, one that does not."""
    run = subprocess.Popen([sys.executable, "-c", _RUN], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    lines = sorted(run.stdout.readline().strip() for _ in range(2))
    tag, stubborn, polite = lines[0].split()
    assert lines[1] == "up"
    return run, tag, int(stubborn), int(polite)


def left(tag: str) -> list[str]:
    """What carries the tag."""
    return [name for name in names() if tag_of(name) == tag]


def alive(process: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_cleans_up_itself(number: int) -> None:
    need_network()
    need_limits()
    run, tag, stubborn, polite = started()
    with run:
        assert left(tag)
        run.send_signal(number)
        run.wait(20)
    assert left(tag) == []
    assert not alive(stubborn)
    assert not alive(polite)


def test_after_sigkill_the_next_run_cleans_up_and_leaves_live_runs_alone() -> None:
    need_network()
    need_limits()
    first, tag, stubborn, polite = started()
    second, other, *others = started()
    with first, second:
        first.kill()
        first.wait()
        before = left(other)
        assert left(tag)
        # Linux ends it; whoever does not listen is left for the sweep.
        eventually(lambda: not alive(polite))
        assert alive(stubborn)
        assert set(sweep()) >= {f"{tag}-a"}
        assert left(tag) == []
        assert not alive(stubborn)
        assert left(other) == before
        assert all(map(alive, others))
        second.send_signal(signal.SIGINT)
        second.wait(20)
    assert left(other) == []


def test_an_exception_in_a_run_leaves_nothing() -> None:
    need_network()
    tag = new_tag()

    def fail() -> None:
        with Network(tag) as network:
            network.add(["a"])
            assert left(tag)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert left(tag) == []


def test_what_is_alive_or_anothers_is_never_dead() -> None:
    mine = new_tag()
    assert tag_of(f"{mine}-pi1") == tag_of(mine) == mine
    assert not dead(f"{mine}-pi1")
    pid, start, space, run = mine.removeprefix(f"{MARK}-").split("-")
    # The same process number, started at another time.
    assert dead(f"{MARK}-{pid}-{int(start) + 1}-{space}-{run}-pi1")
    # A process of another container.
    assert not dead(f"{MARK}-999999999-{start}-{int(space) + 1}-{run}-pi1")
    assert dead(f"{MARK}-999999999-{start}-{space}-{run}-pi1")
    for name in ("docker0", "slicemq", f"{MARK}-1-2", f"x{mine}"):
        assert tag_of(name) is None
        assert not dead(name)


def test_removing_a_run_ends_its_processes() -> None:
    need_limits()
    tag = new_tag()
    group = limit("x", share=0.5, tag=tag)
    with subprocess.Popen([*group.prefix(), "sleep", "600"]) as process:
        eventually(lambda: process.pid in group.processes())
        remove(tag)
        assert process.wait(10) == -signal.SIGKILL
    assert list(groups(tag)) == []
    assert os.path.exists("/sys/fs/cgroup")
