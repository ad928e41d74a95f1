"""The C library's memory allocator, told that frames come again and again.

This is for what codecs unpack, and for paho, which makes each packet anew; the data link of our own keeps its
buffers itself (`slicemq.buffers`). By default glibc gives the memory of a large frame back to the kernel when the
frame is done and asks for it again for the next one, and the kernel clears every page of it anew: at frames of
3.2 MB that took more processor time than all copying. The memory kept instead is bounded by a few frames.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Copies of a frame's tensors that a worker holds at once, with some of the next frames' in paho.
_COPIES = 8
_LEAST_KEPT, _MOST_KEPT = 1 << 20, 64 << 20
# What glibc begins with for both.
_GLIBC_THRESHOLD = 128 << 10
# What glibc takes at most, on 64 and on 32 bits.
_MMAP_THRESHOLDS = (32 << 20, 512 << 10)


def kept_bytes(frame_bytes: int) -> int:
    """How many free bytes the process keeps for frames whose inputs and outputs take `frame_bytes` together."""
    return min(_MOST_KEPT, max(_LEAST_KEPT, _COPIES * frame_bytes))


def give_back() -> None:
    """Give the kernel back what this process has freed, and keep memory for no frames any more."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _GLIBC_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, _GLIBC_THRESHOLD)
        library.malloc_trim(0)


def keep_for_frames(frame_bytes: int) -> bool:
    """Keep memory for frames of that size in this process; False where the C library cannot be told so."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mapped = any(mallopt(_M_MMAP_THRESHOLD, most) for most in _MMAP_THRESHOLDS)
        return bool(mapped and mallopt(_M_TRIM_THRESHOLD, kept_bytes(frame_bytes)))
    return False
