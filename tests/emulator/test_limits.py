"""Groups: what they limit and what they count, on whichever version of control groups this machine has."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from emulator.cgroups import Group, limit
from tests.emulator.machine import need_limits
from tests.waiting import eventually

_MB = 1_000_000
_TAKE = "import sys; taken = b'x' * int(sys.argv[1]); print('took', flush=True); sys.stdin.read()"
_COMPUTE = "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass"


@pytest.fixture
def group() -> Iterator[Group]:
    """A group with a tenth of a processor and 60 MB."""
    need_limits()
    made = limit("test", share=0.1, memory=60 * _MB)
    yield made
    made.kill()
    made.remove()


def take(group: Group, count: int) -> subprocess.Popen[bytes]:
    """A process in the group that holds `count` bytes until its input ends."""
    words = [*group.prefix(), sys.executable, "-c", _TAKE, str(count)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_processor_time_is_counted_and_held_back(group: Group) -> None:
    subprocess.run([*group.prefix(), sys.executable, "-c", _COMPUTE], check=True)
    assert group.cpu_seconds() >= 0.1
    assert group.throttled_seconds() > 0


def test_memory_within_the_limit_is_counted(group: Group) -> None:
    with take(group, 30 * _MB) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"took\n"
        assert 30 * _MB <= (group.memory() or 0) <= 60 * _MB
        assert group.processes() == {process.pid}
        process.communicate()
    peak = group.memory_peak()
    assert peak is None or 30 * _MB <= peak <= 60 * _MB
    assert group.killed() == 0


def test_a_process_over_the_limit_is_ended_and_counted(group: Group) -> None:
    with take(group, 90 * _MB) as process:
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert group.killed() == 1


def test_limits_can_change(group: Group) -> None:
    group.set_limits(memory=200 * _MB)
    with take(group, 90 * _MB) as process:
        assert process.communicate()[0] == b"took\n"
    group.set_limits(share=0.5, memory=60 * _MB)
    assert group.killed() == 0


def test_all_processes_can_be_ended(group: Group) -> None:
    with take(group, _MB) as process:
        assert process.stdout is not None
        process.stdout.readline()
        group.kill()
        assert process.wait(10) == -signal.SIGKILL
        process.communicate()
    eventually(lambda: group.processes() == set())


def test_a_removed_group_knows_nothing() -> None:
    need_limits()
    made = limit("gone")
    made.remove()
    assert math.isnan(made.cpu_seconds())
    assert (made.memory(), made.killed(), made.processes()) == (None, 0, set())
    made.remove()
