"""Limits on a process and all that it starts: a share of a processor, and memory (cgroup v1 or v2; needs root)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emulator.ownership import new_tag, tag_of
from slicemq.errors import ConfigError

_ROOT = Path("/sys/fs/cgroup")
# Shorter periods do not burst as long ones do; the kernel's least quota is 1 ms.
_PERIOD_US = 20_000
_LEAST_QUOTA_US = 1_000
_CONTROLLERS = ("cpu", "cpuacct", "memory")


@dataclass(frozen=True)
class Group:
    """The folders of one cgroup: one for each v1 controller, or the single v2 one."""

    folders: tuple[Path, ...]

    def prefix(self) -> list[str]:
        """Words to put in front of a command so that it runs inside the group."""
        joins = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders)
        return ["sh", "-c", f'{joins} && exec "$@"', "sh"]

    def cpu_seconds(self) -> float:
        """Processor seconds used in the group so far; NaN where the system does not say."""
        usage = self._first("cpuacct.usage")
        if usage is not None:
            return int(usage) / 1e9
        microseconds = self._field("cpu.stat", "usage_usec")
        return float("nan") if microseconds is None else microseconds / 1e6

    def throttled_seconds(self) -> float:
        """Seconds during which the quota held the group's processes back, summed over processors; NaN: unknown."""
        nanoseconds = self._field("cpu.stat", "throttled_time")
        microseconds = self._field("cpu.stat", "throttled_usec")
        if nanoseconds is not None:
            return nanoseconds / 1e9
        return float("nan") if microseconds is None else microseconds / 1e6

    def memory(self) -> int | None:
        """Bytes that count for the limit now; None where the system does not say."""
        return self._number("memory.usage_in_bytes", "memory.current")

    def memory_peak(self) -> int | None:
        """The most bytes that ever counted for the limit; None where it is not known (v2 before Linux 5.19)."""
        return self._number("memory.max_usage_in_bytes", "memory.peak")

    def killed(self) -> int:
        """How many processes the memory limit has ended."""
        for name in ("memory.oom_control", "memory.events"):
            found = self._field(name, "oom_kill")
            if found is not None:
                return found
        return 0

    def processes(self) -> set[int]:
        """The ids of the group's processes."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
        return found

    def signal(self, number: int) -> None:
        """Send a signal to every process of the group."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """SIGKILL to all, until none is left (a few seconds at most)."""
        for _ in range(250):
            if not self.processes():
                return
            self.signal(signal.SIGKILL)
            time.sleep(0.02)

    def set_limits(self, *, share: float | None = None, memory: int | None = None) -> None:
        """Change the share of one processor, or the bytes; None leaves a limit as it is.

        Raises ConfigError where the system refuses, such as a memory limit below what cannot be taken back.
        """
        try:
            for folder in self.folders:
                _write(folder, _quota(share), memory)
        except OSError as error:
            raise ConfigError(f"cannot change the limit {error.filename}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the group, waiting briefly for its last processes to be gone."""
        for folder in self.folders:
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)

    def _first(self, name: str) -> str | None:
        for folder in self.folders:
            with contextlib.suppress(OSError):
                return (folder / name).read_text()
        return None

    def _number(self, *names: str) -> int | None:
        for name in names:
            found = self._first(name)
            if found is not None:
                return int(found)
        return None

    def _field(self, name: str, field: str) -> int | None:
        for line in (self._first(name) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == field:
                return int(value)
        return None


def hierarchies() -> list[Path]:
    """The folders below which groups are made: one, or with cgroup v1 one for each controller."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [_ROOT / controller for controller in _CONTROLLERS if (_ROOT / controller).is_dir()]


def groups(tag: str) -> Iterator[Group]:
    """All groups whose names carry the tag of a run."""
    for hierarchy in hierarchies():
        with contextlib.suppress(OSError):
            for folder in sorted(hierarchy.iterdir()):
                if tag_of(folder.name) == tag:
                    yield Group((folder,))


def limit(name: str, *, share: float | None = None, memory: int | None = None, tag: str | None = None) -> Group:
    """Make a group with `share` of one processor and at most `memory` bytes (no swap), None: without a limit.

    `tag` names the run that it belongs to (emulator.ownership); without one it belongs to this process. Raises
    ConfigError when this is not permitted here (not root, or no such controller).
    """
    name = f"{tag or new_tag()}-{name}"
    folders: list[Path] = []
    try:
        if (_ROOT / "cgroup.controllers").exists():
            with contextlib.suppress(OSError):
                (_ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
        for hierarchy in hierarchies():
            if not any(os.path.samefile(hierarchy, other.parent) for other in folders):
                (hierarchy / name).mkdir()
                folders.append(hierarchy / name)
        if not folders:
            raise ConfigError(f"cannot limit processes here: there are no cgroups at {_ROOT}")
        for folder in folders:
            _write(folder, _quota(share), memory)
    except OSError as error:
        Group(tuple(folders)).remove()
        raise ConfigError(
            f"cannot limit processes here ({error.filename}: {error.strerror}); it takes root and cgroups"
        ) from error
    return Group(tuple(folders))


def _quota(share: float | None) -> int | None:
    return None if share is None else max(_LEAST_QUOTA_US, round(share * _PERIOD_US))


def _write(folder: Path, quota: int | None, memory: int | None) -> None:
    """Set the limits that the folder's controller has. A v2 folder without a controller's file raises OSError."""
    unified = folder.parent == _ROOT
    if quota is not None and unified:
        (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    elif quota is not None and (folder / "cpu.cfs_quota_us").exists():
        (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota))
    if memory is None:
        return
    if unified:
        (folder / "memory.max").write_text(str(memory))
        with contextlib.suppress(OSError):
            (folder / "memory.swap.max").write_text("0")
    elif (folder / "memory.limit_in_bytes").exists():
        _write_v1_memory(folder, memory)


def _write_v1_memory(folder: Path, memory: int) -> None:
    # Memory with swap may never be below memory alone, so a limit that rises sets it first, one that falls last.
    names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    if memory > int((folder / names[0]).read_text()):
        names.reverse()
    for name in names:
        # Only where the kernel counts swap is there the second.
        if (folder / name).exists():
            (folder / name).write_text(str(memory))
