"""Give back the memory of a mapped model file once the runtime has packed its own copy of the weights.

XNNPACK reads each weight of the mapped file once, when it packs it; nothing reads it again, but its pages stay
resident. MADV_DONTNEED drops them from the process: what is still needed comes back from the page cache (or the
disk) at the next access. The mapping is of a file and read-only, so the bytes cannot change by it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

_MAPS = Path("/proc/self/maps")


def drop_file_pages(path: Path, maps: Path = _MAPS) -> int:
    """Drop this process's pages of its read-only mappings of `path`; returns how many bytes these mappings span.

    0 where nothing is mapped, or the system cannot be asked (no /proc, no madvise). Never raises.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None:
        return 0
    try:
        wanted, inode = os.path.realpath(path), str(os.stat(path).st_ino)
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, AttributeError, ValueError):
        return 0
    dropped = 0
    for line in lines:
        # start-end permissions offset device inode path
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or fields[4] != inode or fields[5] != wanted or "w" in fields[1]:
            continue
        start, _, end = fields[0].partition("-")
        first, size = int(start, 16), int(end, 16) - int(start, 16)
        if madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice) == 0:
            dropped += size
    return dropped
