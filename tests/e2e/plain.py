"""What the tests of the ingress share: plain devices (mosquitto_pub, mosquitto_sub), an ingress as a process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from benchmarks.models import pictures
from emulator.site import Running, Site
from slicemq.messages import decode
from slicemq.operations import IngressState
from slicemq.topics import Topics
from tests.e2e.scene import Wire
from tests.waiting import eventually


def program(name: str) -> str:
    """A program of the package mosquitto-clients; the test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: sudo apt-get install mosquitto-clients")
    return found


def publish(site: Site, topic: str, file: Path, *, qos: int = 1) -> None:
    """What a device does: mosquitto_pub, which ends when the broker has confirmed the message."""
    words = [program("mosquitto_pub"), "-p", str(site.broker.port), "-q", str(qos), "-t", topic, "-f", str(file)]
    subprocess.run(words, check=True, timeout=30)


class Listener:
    """mosquitto_sub: every message on `pattern` as (topic, payload), as it comes."""

    def __init__(self, site: Site, pattern: str) -> None:
        self._file = site.folder / f"heard-{abs(hash(pattern))}.jsonl"
        self._log = self._file.open("wb")
        words = [
            "stdbuf",
            "-oL",
            program("mosquitto_sub"),
            "-p",
            str(site.broker.port),
            "-q",
            "1",
            "-t",
            pattern,
            "-d",
        ]
        form = '{"topic":"%t","hex":"%x"}'
        self._process = subprocess.Popen(
            [*words, "-F", form], stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )

    def __enter__(self) -> Listener:
        # Without a SUBACK what is published now may pass it by.
        eventually(lambda: "SUBACK" in self._file.read_text(), 10.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()

    @property
    def messages(self) -> list[tuple[str, bytes]]:
        """All so far, in the order of their coming."""
        whole = [line for line in self._file.read_text().splitlines(True) if line.endswith("\n")]
        rows = [json.loads(line) for line in whole if line.startswith('{"topic"')]
        return [(row["topic"], bytes.fromhex(row["hex"])) for row in rows]

    def wait(self, count: int, timeout: float = 30.0) -> list[tuple[str, bytes]]:
        """Wait until there are at least so many."""
        eventually(lambda: len(self.messages) >= count, timeout)
        return self.messages


def start_ingress(site: Site, source: str, target: str, *words: str, pipeline: str = "faces") -> Running:
    """Start the ingress (again) and wait until it says that it is ready."""
    full = ["ingress", "run", pipeline, "--from", source, "--to", target, *site.network_options(), *words]
    log = site.folder / "ingress.log"
    before = log.read_text().count("ready: ") if log.exists() else 0
    running = site.run("ingress", [sys.executable, "-m", "coordinator.cli", *full])
    eventually(lambda: log.read_text().count("ready: ") > before or not running.alive, 30.0)
    assert running.alive, running.tail
    return running


def ingress_state(wire: Wire, site: Site, name: str = "faces") -> IngressState | None:
    """The retained document of the ingress."""
    topic = Topics(site.cluster).ingress(name)
    payload = wire.documents.get(topic)
    return decode(IngressState, payload, topic) if payload else None


def picture_files(folder: Path, count: int) -> list[Path]:
    """Real pictures of a few hundred pixels as JPEG files, each different."""
    from PIL import Image

    found = []
    sources = pictures()
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as opened:
            small = opened.convert("RGB").resize((240, 180))
        small.putpixel((number % 240, number // 240), (255, 0, number % 256))
        file = folder / f"picture-{number}.jpg"
        small.save(file, quality=85)
        found.append(file)
    return found


def body(payload: bytes) -> dict[str, Any]:
    """An answer in JSON."""
    found: dict[str, Any] = json.loads(payload)
    return found
