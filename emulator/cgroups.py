"""Limits on a process and all that it starts: a share of a processor, and memory (cgroup v1 or v2; needs root)."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from slicemq.errors import ConfigError

_ROOT = Path("/sys/fs/cgroup")
# Shorter periods do not burst as long ones do; the kernel's least quota is 1 ms.
_PERIOD_US = 20_000
_LEAST_QUOTA_US = 1_000


@dataclass(frozen=True)
class Group:
    """The folders of one cgroup: one for each v1 controller, or the single v2 one."""

    folders: tuple[Path, ...]

    def prefix(self) -> list[str]:
        """Words to put in front of a command so that it runs inside the group."""
        joins = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders)
        return ["sh", "-c", f'{joins} && exec "$@"', "sh"]

    def cpu_seconds(self) -> float:
        """Processor seconds used in the group so far."""
        for folder in self.folders:
            usage = folder / "cpuacct.usage"
            if usage.exists():
                return int(usage.read_text()) / 1e9
            stat = folder / "cpu.stat"
            if stat.exists() and "usage_usec" in stat.read_text():
                fields = dict(line.split() for line in stat.read_text().splitlines())
                return int(fields["usage_usec"]) / 1e6
        return float("nan")

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


def limit(name: str, *, share: float | None = None, memory: int | None = None) -> Group:
    """Make a group with `share` of one processor and at most `memory` bytes.

    Raises ConfigError when this is not permitted here (not root, or no such controller).
    """
    name = f"slicemq-{name}-{secrets.token_hex(3)}"
    quota = None if share is None else max(_LEAST_QUOTA_US, round(share * _PERIOD_US))
    try:
        if (_ROOT / "cgroup.controllers").exists():
            return _v2(name, quota, memory)
        return _v1(name, quota, memory)
    except OSError as error:
        raise ConfigError(
            f"cannot limit processes here ({error.filename}: {error.strerror}); it takes root and cgroups"
        ) from error


def _v2(name: str, quota: int | None, memory: int | None) -> Group:
    with contextlib.suppress(OSError):
        (_ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
    folder = _ROOT / name
    folder.mkdir()
    if quota is not None:
        (folder / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    if memory is not None:
        (folder / "memory.max").write_text(str(memory))
    return Group((folder,))


def _v1(name: str, quota: int | None, memory: int | None) -> Group:
    folders: list[Path] = []
    for controller in ("cpu", "cpuacct", "memory"):
        folder = _ROOT / controller / name
        if any(os.path.samefile(folder.parent, other.parent) for other in folders):
            continue
        folder.mkdir()
        folders.append(folder)
    group = Group(tuple(folders))
    if quota is not None:
        cpu = _ROOT / "cpu" / name
        (cpu / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (cpu / "cpu.cfs_quota_us").write_text(str(quota))
    if memory is not None:
        (_ROOT / "memory" / name / "memory.limit_in_bytes").write_text(str(memory))
    return group
