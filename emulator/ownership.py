"""Whose a namespace, group or folder is: the tag in its name.

A tag is `<pid>-<start>-<pid namespace>-<run>`: the emulator's process, the clock tick at which it started (so that
a process number that is used again is not taken for it), the namespace in which the number means something, and a
random number for each cluster of the process. What carries the tag of a live process, or of another pid namespace,
is left alone.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

MARK = "slicemq-emu"
_TAG = re.compile(MARK + r"-(\d+)-(\d+)-(\d+)-([0-9a-f]{6})(?:-|$)")


def new_tag() -> str:
    """`slicemq-emu-<pid>-<start>-<pid namespace>-<run>` for a run of this process."""
    pid = os.getpid()
    return f"{MARK}-{pid}-{_started(pid)}-{_pid_namespace()}-{secrets.token_hex(3)}"


def tag_of(name: str) -> str | None:
    """The tag in a name; None when it carries none."""
    found = _TAG.match(name)
    return found[0].rstrip("-") if found else None


def dead(name: str) -> bool:
    """Whether the name carries the tag of a process of this pid namespace that is no more."""
    found = _TAG.match(name)
    if found is None or int(found[3]) != _pid_namespace():
        return False
    return _started(int(found[1])) != int(found[2])


def _started(pid: int) -> int:
    """The clock tick at which a process started; -1 when there is none (or only its unread exit code)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
