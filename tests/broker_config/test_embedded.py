"""The embedded broker and the verb that runs it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from emulator.brokers import Amqtt, Broker
from slicemq.options import BrokerOptions
from slicemq.session import Session
from slicemq.topics import Topics
from tests.waiting import eventually

SLICEMQ = [sys.executable, "-c", "from coordinator.cli import main; main()"]


@contextmanager
def verb(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*SLICEMQ, "broker", "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SLICEMQ, "broker", "run", *words], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_line_service_and_end(number: signal.Signals) -> None:
    with verb("--port", "0", "--ws-port", "0", "--format", "json") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["ready"]
        assert ready["ws_port"] is None
        session = Session(BrokerOptions.from_url(ready["urls"][0]), "a")
        session.start()
        session.wait_up(10)
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 2
        session.stop()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_ready_line_for_people() -> None:
    with verb("--port", "0", "--ws-port", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("broker ready at mqtt://127.0.0.1:")


@pytest.mark.parametrize("option", ["--port", "--ws-port"])
def test_a_taken_port_is_named(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = [] if option == "--port" else ["--port", "0"]
        result = run(option, str(port), *other)
    assert result.returncode == 30
    assert f"port {port}: another program listens there already" in result.stderr


def test_a_port_that_is_no_port() -> None:
    result = run("--port", "70000")
    assert (result.returncode, "70000" in result.stderr) == (2, True)


def test_missing_amqtt_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['amqtt'] = sys.modules['amqtt.broker'] = None\n"
        "sys.argv[1:] = ['broker', 'run']\n"
        "from coordinator.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, "slicemq[broker]" in result.stderr) == (4, True)


def test_a_connection_gets_only_what_it_subscribed_to(amqtt: Broker, cluster: str) -> None:
    """amqtt by itself sends retained documents that others subscribed to, and loses connections while it does."""
    topics = Topics(cluster)
    owner = Session(amqtt.options, f"{cluster}-owner")
    owner.own(topics.node("n", "state"), b"x")
    owner.start()
    owner.wait_up(10)
    raw: list[str] = []

    class Curious(Session):
        def _received(self, topic: str, payload: bytes, retained: bool) -> None:
            raw.append(topic)
            super()._received(topic, payload, retained)

    reader = Curious(amqtt.options, f"{cluster}-reader")
    reader.start()
    reader.wait_up(10)
    assert reader.snapshot(f"{topics.prefix}/pipelines/#") == {}
    assert raw == [topics.link_probe(f"{cluster}-reader")]
    for session in (owner, reader):
        session.stop()


def test_a_client_that_falls_silent_is_dropped_and_its_will_published() -> None:
    topics = Topics("silent")
    seen: list[bytes] = []
    with Amqtt() as broker:
        reader = Session(broker.options, "reader", on_message=lambda _, payload, __: seen.append(payload))
        reader.subscribe(topics.node("n", "state"))
        reader.start()
        reader.wait_up(10)
        code = (
            "import sys\n"
            "from slicemq.options import BrokerOptions\n"
            "from slicemq.session import Session, Will\n"
            "options = BrokerOptions(host='127.0.0.1', port=int(sys.argv[1]))\n"
            "session = Session(options, 'n', will=Will(sys.argv[2], b'lost'), keepalive=1)\n"
            "session.start()\n"
            "session.wait_up(10)\n"
            "print('up', flush=True)\n"
            "sys.stdin.read()\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(broker.port), topics.node("n", "state")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            child.send_signal(signal.SIGSTOP)
            eventually(lambda: seen == [b"lost"], timeout=6)
        finally:
            child.kill()
            child.communicate()
            reader.stop()
