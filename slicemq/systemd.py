"""Telling systemd how a daemon is doing (sd_notify(3)), without a library."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1`, `STATUS=...` or `STOPPING=1`; False where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    # A leading @ stands for the zero byte of Linux's abstract addresses.
    target = "\0" + address[1:] if address.startswith("@") else address
    text = "\n".join(lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(target)
            channel.sendall(text.encode())
    except OSError:
        return False
    return True
