"""Pages of a mapped model file: read once, they count as this process's memory until they are given back."""

from __future__ import annotations

import mmap

from converters.schema import Bytes


def give_back(data: Bytes) -> None:
    """Let go of the pages of a mapped file; those that are read again come from the system's cache.

    Does nothing for bytes in memory, and where the system has no such call.
    """
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)
