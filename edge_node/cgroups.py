"""What control groups leave to this process: version 1, version 2 and mixed systems, limits of all ancestors.

A limit may stand at any level: a container's, a systemd slice's, the service's. The least one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Version 1 writes "no limit" as the largest multiple of the page size; anything that large is no limit.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Limits:
    """`cores` is the CPU quota in cores, `memory` the bytes that may still be taken; None: not limited.

    `burst`: seconds of processor time until the quota stops the process for the rest of its period.
    """

    cores: float | None
    memory: int | None
    burst: float | None = None


def read_limits(root: Path = Path("/")) -> Limits:
    """The limits of this process, read below `root` (`/`, or a tree made for a test)."""
    quotas: list[tuple[float, float]] = []
    memory: list[int] = []
    for folder, version in _folders(root, "cpu"):
        quota = _quota_v2(folder) if version == 2 else _quota_v1(folder)
        if quota is not None:
            quotas.append(quota)
    for folder, version in _folders(root, "memory"):
        room = _room(folder, version)
        if room is not None:
            memory.append(room)
    cores, burst = min(quotas, default=(None, None))
    return Limits(cores, min(memory, default=None), burst)


def _folders(root: Path, controller: str) -> Iterator[tuple[Path, int]]:
    """The folders that hold the controller's files for this process, its own group first, and their version."""
    groups = _groups(root)
    for kind, mounted, mountpoint, options in _mounts(root):
        version = 2 if kind == "cgroup2" else 1
        if version == 1 and controller not in options:
            continue
        group = groups.get("" if version == 2 else controller)
        if group is None:
            continue
        top = root / mountpoint.lstrip("/")
        folder = top / _below(group, mounted)
        # In a container the group's path may be the host's, which does not exist here: the mount is the group.
        if not folder.is_dir():
            folder = top
        yield folder, version
        while folder != top:
            folder = folder.parent
            yield folder, version


def _below(group: str, mounted: str) -> str:
    path, base = PurePosixPath(group), PurePosixPath(mounted)
    if ".." in path.parts:
        return ""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path).lstrip("/")


def _groups(root: Path) -> dict[str, str]:
    """Controller -> this process's group; the empty name is version 2."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """Kind, mounted folder of the hierarchy, mount point and controllers of each cgroup mount."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if separator and len(fields) >= 5 and len(kinds) >= 3 and kinds[0] in ("cgroup", "cgroup2"):
            yield kinds[0], _unescape(fields[3]), _unescape(fields[4]), kinds[2].split(",")


def _unescape(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _quota_v1(folder: Path) -> tuple[float, float] | None:
    """The quota in cores, and in seconds."""
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return (quota / period, quota / 1e6) if quota is not None and period and quota > 0 else None


def _quota_v2(folder: Path) -> tuple[float, float] | None:
    words = " ".join(_lines(folder / "cpu.max")).split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit() or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1]), int(words[0]) / 1e6


def _room(folder: Path, version: int) -> int | None:
    """Bytes below the group's limit, page cache that the kernel would give back counted as free."""
    limit_names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    limits = [limit for name in limit_names if (limit := _number(folder / name)) is not None]
    limit = min(limits, default=_UNLIMITED)
    if limit >= _UNLIMITED:
        return None
    used = _number(folder / ("memory.current" if version == 2 else "memory.usage_in_bytes")) or 0
    cache = "inactive_file" if version == 2 else "total_inactive_file"
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == cache and value.isdigit():
            used -= int(value)
    return max(0, limit - max(0, used))


def _number(file: Path) -> int | None:
    text = " ".join(_lines(file)).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
