"""Removing what a run of the emulator leaves behind, itself or when it was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from emulator import cgroups
from emulator.ownership import dead, tag_of

NAMESPACES = Path("/run/netns")
_GONE_SECONDS = 5.0


def sweep() -> list[str]:
    """Remove the processes, namespaces, groups and folders that dead runs left; the names of what was found."""
    found = sorted({name for name in names() if dead(name)})
    for tag in {tag_of(name) for name in found}:
        if tag is not None:
            remove(tag)
    return found


def names() -> Iterator[str]:
    """The names of all namespaces, groups and folders of emulator runs, dead or alive."""
    for folder in (NAMESPACES, *cgroups.hierarchies(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            yield from sorted(entry.name for entry in folder.iterdir() if tag_of(entry.name))


def remove(tag: str) -> None:
    """End every process of a run and remove its namespaces, groups and folders."""
    deadline = time.monotonic() + _GONE_SECONDS
    while (pids := _processes(tag)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for group in cgroups.groups(tag):
        group.remove()
    for entry in _entries(NAMESPACES, tag):
        subprocess.run(["ip", "netns", "del", entry.name], capture_output=True, check=False)
    for entry in _entries(Path(tempfile.gettempdir()), tag):
        shutil.rmtree(entry, ignore_errors=True)


def _processes(tag: str) -> set[int]:
    """The processes in the run's groups and namespaces."""
    found = {pid for group in cgroups.groups(tag) for pid in group.processes()}
    inodes = set()
    for entry in _entries(NAMESPACES, tag):
        with contextlib.suppress(OSError):
            inodes.add(entry.stat().st_ino)
    for proc in Path("/proc").iterdir() if inodes else ():
        with contextlib.suppress(OSError):
            if proc.name.isdigit() and (proc / "ns/net").stat().st_ino in inodes:
                found.add(int(proc.name))
    return found - {os.getpid()}


def _entries(folder: Path, tag: str) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if tag_of(entry.name) == tag)
    except OSError:
        return []
