"""Real brokers as processes: amqtt (the embedded broker) and mosquitto (with the shipped configuration)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import broker_config
from emulator.ownership import new_tag
from emulator.processes import spawn
from slicemq.errors import ConfigError, MissingDependencyError, SliceMQError
from slicemq.options import BrokerOptions

MOSQUITTO_CONF = Path(broker_config.__file__).with_name("mosquitto.conf")
HOST = "127.0.0.1"
_START_SECONDS = 20.0


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def mosquitto_binary() -> str:
    """The path of mosquitto (`make test` installs it where it may). Raises ConfigError when there is none."""
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ConfigError("mosquitto is not installed: sudo apt-get install mosquitto")
    return found


def check_installed(kind: str) -> None:
    """Raises ConfigError or MissingDependencyError, which say how to get it, where `kind` is not installed."""
    if kind == "mosquitto":
        mosquitto_binary()
    elif importlib.util.find_spec("amqtt") is None:
        raise MissingDependencyError("the broker amqtt is not installed: pip install 'slicemq[broker]'")


Self = TypeVar("Self", bound="Broker")


class Broker:
    """A broker process on fixed ports: started, killed, stopped in its tracks, started again."""

    kind = ""

    def __init__(
        self,
        *,
        host: str = HOST,
        port: int | None = None,
        ws_port: int | None = None,
        prefix: Sequence[str] = (),
        tag: str | None = None,
    ) -> None:
        """`host` is the address to listen on; `prefix` are words in front of the command (a namespace, a group).

        `tag` names the run that its folder belongs to (emulator.ownership).
        """
        self.host = host
        self.port = port or free_port()
        self.ws_port = ws_port or free_port()
        self.prefix = list(prefix)
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"{tag or new_tag()}-broker-"))
        self.log = self.folder / "log"

    @property
    def options(self) -> BrokerOptions:
        """How to reach it over TCP."""
        return BrokerOptions(host=self.host, port=self.port)

    @property
    def ws_options(self) -> BrokerOptions:
        """How to reach it over WebSocket."""
        return BrokerOptions(host=self.host, port=self.ws_port, transport="websockets")

    @property
    def url(self) -> str:
        """What `--broker` takes."""
        return self.options.describe()

    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        with self.log.open("ab") as log:
            self.process = spawn([*self.prefix, *self.command()], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        for port in (self.port, self.ws_port):
            while not _accepts(self.host, port):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SliceMQError(f"the broker {self.kind} did not start:\n{self.log.read_text()}")
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """SIGTERM, and wait until it is gone; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=10)

    def restart(self) -> None:
        """SIGKILL and start again on the same ports."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its files."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self: Self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Amqtt(Broker):
    """The embedded broker, in a process of its own."""

    kind = "amqtt"

    def command(self) -> Sequence[str]:
        """The embedded broker's module."""
        return [sys.executable, "-m", "broker_config.embedded", self.host, str(self.port), str(self.ws_port)]


class Mosquitto(Broker):
    """mosquitto with the shipped configuration, its ports and folders exchanged, and more lines of the caller's."""

    kind = "mosquitto"

    def __init__(self, *, extra: Sequence[str] = (), replace: dict[str, str] | None = None, **where: Any) -> None:
        super().__init__(**where)
        self.extra = list(extra)
        self.replace = replace or {}

    def command(self) -> Sequence[str]:
        """mosquitto with the adapted configuration."""
        conf = self.folder / "mosquitto.conf"
        conf.write_text(self.configuration())
        return [mosquitto_binary(), "-c", str(conf)]

    def configuration(self) -> str:
        """The shipped file, adapted to a test: its own ports, a temporary folder."""
        text = MOSQUITTO_CONF.read_text()
        swaps = {
            "listener 1883": f"listener {self.port} {self.host}",
            "listener 9001": f"listener {self.ws_port} {self.host}",
            "persistence_location /var/lib/mosquitto/": f"persistence_location {self.folder}/",
        } | self.replace
        for old, new in swaps.items():
            lines = text.splitlines()
            if lines.count(old) != 1:
                raise RuntimeError(f"mosquitto.conf has {lines.count(old)} lines {old!r}, expected one")
            text = "\n".join(new if line == old else line for line in lines)
        # As root it would change to a user that cannot write into the test's folder.
        user = ["user root"] if os.geteuid() == 0 else []
        return "\n".join([text, *user, *self.extra, ""])


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
