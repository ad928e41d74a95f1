"""sd_notify datagrams."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

import pytest

from slicemq import systemd


@pytest.mark.parametrize("kind", ["file", "abstract"])
def test_lines_arrive_as_one_datagram(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(tmp_path / "notify") if kind == "file" else f"@slicemq-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert systemd.notify("READY=1", "STATUS=all well")
        assert manager.recv(1000) == b"READY=1\nSTATUS=all well"


@pytest.mark.parametrize("address", [None, "", "relative", "/nowhere/notify"])
def test_without_a_manager_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.notify("READY=1")
