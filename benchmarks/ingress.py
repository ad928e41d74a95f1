"""Plain devices' messages through an ingress that is killed again and again: what is missing, what comes twice.

    python -m benchmarks.ingress [--messages 1000] [--kills 20] [--seed 1] [--model NAME] [--format table|json]

A site of real processes on mosquitto with the shipped configuration, two nodes and a face detector. A camera
publishes its pictures (JPEG, QoS 1, each on a topic of its own) with mosquitto_pub, one process a message, the next
one when the broker has confirmed the last. The ingress gets SIGKILL when a seeded number of messages was answered
and a seeded part of a second has passed, and is started again at once. Answers are compared with one device's.
Exit code 0 only when every message was answered, all answers were right, and all kills were made.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.models import pictures, real_models
from edge_node.runtime import open_interpreter
from emulator.brokers import Mosquitto
from emulator.site import Running, Site
from ingress.payloads import InputRules, read_payload
from slicemq.errors import ConfigError, SliceMQError
from slicemq.messages import TensorSpec
from slicemq.session import Session

_PICTURES = 20
_PATIENCE = 120.0


@dataclass(frozen=True)
class Findings:
    """What became of the messages; `repeats` counts answers beyond the first, `most_repeats` of one kill."""

    messages: int
    kills: int
    answered: int
    missing: int
    repeats: int
    most_repeats: int
    errors: int
    different: int
    disordered: int
    seconds: float

    @property
    def held(self) -> bool:
        """Whether nothing is missing or wrong."""
        return self.missing == self.errors == self.different == 0


@dataclass(frozen=True)
class Heard:
    """One answer: the message's number, how often the ingress had been killed, the digest of its values or ""."""

    number: int
    kills: int
    digest: str


def judge(heard: list[Heard], expected: Mapping[int, str], kills: int, seconds: float) -> Findings:
    """`expected` are the digests that one device gives, by the message's number."""
    times = Counter(one.number for one in heard)
    seen: set[int] = set()
    repeats: Counter[int] = Counter()
    first: list[int] = []
    for one in heard:
        if one.number in seen:
            repeats[one.kills] += 1
        else:
            first.append(one.number)
        seen.add(one.number)
    return Findings(
        messages=len(expected),
        kills=kills,
        answered=len(seen & expected.keys()),
        missing=len(expected.keys() - seen),
        repeats=sum(times.values()) - len(seen),
        most_repeats=max(repeats.values(), default=0),
        errors=sum(not one.digest for one in heard),
        different=sum(bool(one.digest) and one.digest != expected.get(one.number) for one in heard),
        disordered=sum(later < earlier for earlier, later in itertools.pairwise(first)),
        seconds=round(seconds, 1),
    )


def _digest(values: list[np.ndarray]) -> str:  # type: ignore[type-arg]
    return hashlib.sha256(b"".join(array.tobytes() for array in values)).hexdigest()


def _photos() -> list[bytes]:
    """Real pictures as a camera of 240x180 pixels makes them, each different."""
    found = []
    sources = pictures()
    if not sources:
        raise ConfigError("the pictures of scikit-image and scikit-learn are not installed: make setup")
    for number in range(_PICTURES):
        with Image.open(sources[number % len(sources)]) as opened:
            small = opened.convert("RGB").resize((240, 180))
        small.putpixel((number, number), (255, 0, number))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=85)
        found.append(stream.getvalue())
    return found


def _single_device(model: Path, photos: list[bytes]) -> list[str]:
    interpreter = open_interpreter(model)
    (found,) = interpreter.inputs
    spec = TensorSpec(0, found.name, str(found.dtype), tuple(found.shape))
    digests = []
    for photo in photos:
        interpreter.set_input(0, read_payload(photo, [spec], InputRules())[0][0])
        interpreter.invoke()
        digests.append(_digest([interpreter.output(i) for i in range(len(interpreter.outputs))]))
    return digests


class Run:
    """One run: a camera, an ingress, somebody who kills it, somebody who listens."""

    def __init__(self, site: Site, photos: list[bytes], digests: list[str], arguments: argparse.Namespace) -> None:
        self._site = site
        self._files = []
        for number, photo in enumerate(photos):
            file = site.folder / f"photo-{number}.jpg"
            file.write_bytes(photo)
            self._files.append(file)
        self._messages: int = arguments.messages
        self._random = random.Random(arguments.seed)
        self._points = sorted(self._random.sample(range(1, arguments.messages), arguments.kills))
        self._expected = {number: digests[number % len(digests)] for number in range(arguments.messages)}
        self._heard: list[Heard] = []
        self._inbox: queue.Queue[tuple[str, bytes, int] | None] = queue.Queue()
        self._kills = 0
        self._ingress: Running | None = None
        self.failed: BaseException | None = None

    def run(self) -> Findings:
        """Publish, kill, listen; until all is answered, or nothing has come for two minutes."""
        session = Session(self._site.options, "bench-listener", on_message=self._on_message)
        session.subscribe("cams/+/+/boxes")
        session.start()
        session.wait_up(10.0)
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        camera = threading.Thread(target=self._publish, daemon=True)
        begun = time.monotonic()
        try:
            self._start()
            # Messages are kept for the ingress from its first subscription on.
            self._await_ready()
            camera.start()
            for point in self._points:
                if not self._await(point):
                    break
                time.sleep(self._random.uniform(0.0, 0.3))
                assert self._ingress is not None
                self._ingress.signal(signal.SIGKILL)
                self._ingress.process.wait()
                self._kills += 1
                self._start()
            self._await(self._messages)
            seconds = time.monotonic() - begun
            camera.join()
            assert self._ingress is not None
            # Cleanly, so that what it still had to acknowledge or publish again is heard too.
            self._ingress.end()
        finally:
            session.stop()
            self._inbox.put(None)
            reader.join()
        return judge(self._heard, self._expected, self._kills, seconds)

    def _start(self) -> None:
        words = ["ingress", "run", "faces", "--from", "cams/+/image/+", "--to", "cams/{1}/{2}/boxes"]
        full = [sys.executable, "-m", "coordinator.cli", *words, *self._site.network_options()]
        self._ingress = self._site.run("ingress", full)

    def _publish(self) -> None:
        try:
            for number in range(self._messages):
                file = self._files[number % len(self._files)]
                words = ["-p", str(self._site.broker.port), "-q", "1", "-t", f"cams/door/image/{number}", "-f"]
                subprocess.run(["mosquitto_pub", *words, str(file)], check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            self.failed = error

    def _on_message(self, topic: str, payload: bytes, _retained: bool) -> None:
        self._inbox.put((topic, bytes(payload), self._kills))

    def _read(self) -> None:
        while (item := self._inbox.get()) is not None:
            topic, payload, kills = item
            outputs = json.loads(payload).get("outputs")
            digest = (
                ""
                if outputs is None
                else _digest([np.array(row["data"], row["dtype"]) for row in outputs.values()])
            )
            self._heard.append(Heard(int(topic.split("/")[2]), kills, digest))

    def _await_ready(self) -> None:
        assert self._ingress is not None
        deadline = time.monotonic() + _PATIENCE
        while "ready: " not in self._ingress.log.read_text():
            if not self._ingress.alive or time.monotonic() > deadline:
                raise SliceMQError(f"the ingress is not ready: {self._ingress.tail}")
            time.sleep(0.02)

    def _await(self, count: int) -> bool:
        """Wait until so many different messages were answered; false when nothing comes any more."""
        last, since = -1, time.monotonic()
        while (found := len({one.number for one in self._heard})) < count:
            if found != last:
                last, since = found, time.monotonic()
            if self.failed is not None:
                raise SliceMQError(f"the camera failed: {self.failed}")
            if time.monotonic() - since > _PATIENCE:
                return False
            time.sleep(0.02)
        return True


def table(findings: Findings) -> str:
    """The findings as a table."""
    rows = [
        ("messages (QoS 1)", findings.messages),
        ("SIGKILLs to the ingress", findings.kills),
        ("answered at least once", findings.answered),
        ("missing", findings.missing),
        ("answers that came again", findings.repeats),
        ("of them after one kill, at most", findings.most_repeats),
        ("first answers out of order", findings.disordered),
        ("errors", findings.errors),
        ("different from the single device", findings.different),
        ("seconds", findings.seconds),
    ]
    return "\n".join(["| what | count |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> int:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="face-short-range")
    parser.add_argument("--folder", type=Path, help="keeps logs here")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    if not 0 <= arguments.kills < arguments.messages:
        parser.error("expected fewer kills than messages")
    if shutil.which("mosquitto_pub") is None:
        parser.error("mosquitto_pub is not installed: sudo apt-get install mosquitto-clients")
    model = real_models()[arguments.model].path
    photos = _photos()
    digests = _single_device(model, photos)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="slicemq-ingress-"))
    try:
        with Site(cluster="bench", folder=folder, broker=Mosquitto()) as site:
            site.start_coordinator()
            for name in ("pi-1", "pi-2"):
                site.start_node(name, "--threads", "1")
            site.wait_ready(["pi-1", "pi-2"])
            site.json("deploy", str(model), "--name", "faces", "--shape", "pipeline")
            findings = Run(site, photos, digests, arguments).run()
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    body: dict[str, Any] = {"seed": arguments.seed, "model": arguments.model, **asdict(findings)}
    print(json.dumps({**body, "held": findings.held}) if arguments.format == "json" else table(findings))
    return 0 if findings.held and findings.kills == arguments.kills else 1


if __name__ == "__main__":
    sys.exit(main())
