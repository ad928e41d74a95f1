"""The relay as a process, between real sockets."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from emulator.delayline import LEAST_HOLD
from emulator.relay_handle import RelayProcess
from slicemq.errors import SliceMQError
from tests.waiting import eventually, never

HOST = "127.0.0.1"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(20)
        yield listener


def _relay(server: socket.socket, **options: float) -> RelayProcess:
    return RelayProcess(f"{HOST}:0", f"{HOST}:{server.getsockname()[1]}", **options)  # type: ignore[arg-type]


def _connect(relay: RelayProcess, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    near = socket.create_connection((HOST, relay.port), timeout=20)
    far, _ = server.accept()
    far.settimeout(20)
    return near, far


def _read(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (chunk := sock.recv(size - len(got))):
        got += chunk
    return bytes(got)


def test_bytes_come_through_in_order_both_ways_at_once(server: socket.socket) -> None:
    draw = random.Random(3)
    there, back = draw.randbytes(9_000_000), draw.randbytes(6_000_000)
    with _relay(server, up=0.002, down=0.001, jitter=0.003) as relay:
        near, far = _connect(relay, server)
        with near, far:
            senders = [threading.Thread(target=s.sendall, args=(data,)) for s, data in ((near, there), (far, back))]
            got: list[bytes] = []
            reader = threading.Thread(target=lambda: got.append(_read(near, len(back))))
            for thread in (*senders, reader):
                thread.start()
            assert _read(far, len(there)) == there
            for thread in (*senders, reader):
                thread.join(20)
            assert got == [back]
            assert relay.stats()["up_bytes"] == len(there)


def test_each_byte_takes_at_least_the_delay_of_its_direction(server: socket.socket) -> None:
    with _relay(server, up=0.04, down=0.02) as relay:
        near, far = _connect(relay, server)
        with near, far:
            for delay, sender, receiver in ((0.04, near, far), (0.02, far, near)):
                for _ in range(3):
                    begun = time.monotonic()
                    sender.sendall(b"x")
                    assert _read(receiver, 1) == b"x"
                    assert time.monotonic() - begun >= delay
            relay.delay(0.06, way="down")
            begun = time.monotonic()
            far.sendall(b"y")
            assert _read(near, 1) == b"y"
            assert time.monotonic() - begun >= 0.06


def test_an_end_of_one_direction_leaves_the_other(server: socket.socket) -> None:
    with _relay(server, up=0.005) as relay:
        near, far = _connect(relay, server)
        with near, far:
            near.sendall(b"question")
            near.shutdown(socket.SHUT_WR)
            assert _read(far, 100) == b"question"
            far.sendall(b"answer")
            far.close()
            assert _read(near, 100) == b"answer"
        eventually(lambda: relay.stats()["connections"] == 0)


def test_reset_ends_all_connections_and_refuses_new_ones_for_a_time(server: socket.socket) -> None:
    with _relay(server) as relay:
        near, far = _connect(relay, server)
        with near, far:
            relay.reset(seconds=3600)
            for end in (near, far):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
            # It may come as early as the connection itself.
            with (
                pytest.raises(ConnectionResetError),
                socket.create_connection((HOST, relay.port), timeout=20) as late,
            ):
                late.recv(1)
        relay.reset()
        near, far = _connect(relay, server)
        near.close()
        far.close()


def test_a_frozen_direction_keeps_its_bytes_and_the_other_one_goes_on(server: socket.socket) -> None:
    with _relay(server) as relay:
        near, far = _connect(relay, server)
        with near, far:
            relay.freeze(way="up")
            near.sendall(b"later")
            far.sendall(b"at once")
            assert _read(near, 7) == b"at once"
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(1)
            far.settimeout(20)
            relay.thaw()
            assert _read(far, 5) == b"later"
            begun = time.monotonic()
            relay.freeze(0.05)
            near.sendall(b"x")
            assert _read(far, 1) == b"x"
            assert time.monotonic() - begun >= 0.05


def test_what_a_slow_receiver_leaves_is_bounded(server: socket.socket) -> None:
    with _relay(server) as relay:
        near, far = _connect(relay, server)
        with near, far:
            near.setblocking(False)
            chunk = bytes(1_000_000)
            sent = [0]

            def stuck() -> bool:
                try:
                    sent[0] += near.send(chunk)
                except BlockingIOError:
                    held = relay.stats()["held"]
                    return bool(held >= LEAST_HOLD)
                return False

            eventually(stuck)
            never(lambda: relay.stats()["most_held"] >= LEAST_HOLD + (1 << 18), during=0.1)
            assert len(_read(far, sent[0])) == sent[0]


def test_nobody_behind_it_is_a_reset() -> None:
    with socket.create_server((HOST, 0)) as closed:
        port = closed.getsockname()[1]
    with RelayProcess(f"{HOST}:0", f"{HOST}:{port}") as relay:
        with socket.create_connection((HOST, relay.port), timeout=20) as near, pytest.raises(ConnectionResetError):
            near.recv(1)
        assert relay.stats()["connections"] == 0


def test_wrong_commands_are_answered_and_change_nothing(server: socket.socket) -> None:
    with _relay(server) as relay:
        for wrong, said in (
            ({"do": "dance"}, "do: expected delay, freeze"),
            ({"do": "delay"}, "delay_ms: expected a number"),
            ({"do": "delay", "delay_ms": -1}, "delay_ms: expected a number"),
            ({"do": "delay", "delay_ms": 1, "jitter_ms": "x"}, "jitter_ms: expected a number"),
            ({"do": "freeze", "seconds": 1, "direction": "left"}, "direction: expected up, down or both"),
        ):
            with pytest.raises(SliceMQError, match=said):
                relay._do(wrong)
        near, far = _connect(relay, server)
        near.close()
        far.close()


def test_it_ends_with_the_one_that_started_it(server: socket.socket) -> None:
    relay = _relay(server)
    near, far = _connect(relay, server)
    relay.close()
    assert relay._process.returncode == 0
    with near, far, pytest.raises(ConnectionResetError):
        near.recv(1)
    with pytest.raises(SliceMQError, match="it has ended"):
        relay.stats()


def test_a_relay_that_cannot_listen_says_so(server: socket.socket, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SliceMQError, match="it has ended"):
        RelayProcess(f"{HOST}:{server.getsockname()[1]}", f"{HOST}:1")
    assert "Address already in use" in capfd.readouterr().err
