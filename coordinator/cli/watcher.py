"""The shell of `slicemq model watch`: lists the folder, reads files, deploys what coordinator/watch.py decides."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from coordinator.cli.common import Network, Output
from coordinator.cli.deployment import carry_out, prepare, read_model
from coordinator.cli.rollouts import under_way
from coordinator.watch import Deploy, Found, Read, Say, Served, Watch
from slicemq.errors import BrokerError, CoordinatorError, ModelError, ProtocolError, SliceMQError
from slicemq.messages import PipelineDocument, decode
from slicemq.operations import RolloutDocument
from slicemq.session import Session

logger = logging.getLogger("slicemq.watch")
_CONNECT_SECONDS = 10.0
# Nothing is wrong with a file when these end its rollout.
_NOT_OF_THE_FILE = (BrokerError.exit_code, CoordinatorError.exit_code)
_COPY_BYTES = 1 << 20


class Watcher:
    """Watches `folder`; `given` are the options of `slicemq deploy` for every rollout, by parameter."""

    def __init__(
        self,
        net: Network,
        out: Output,
        folder: Path,
        given: Mapping[str, Any],
        *,
        settle: float,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._net = net
        self._out = out
        self._folder = folder
        self._given = given
        self._on_ready = on_ready
        self._watch = Watch(settle)
        self._documents = _Documents(net)
        self._place = Path()
        self._ended: queue.SimpleQueue[tuple[Deploy, dict[str, Any] | SliceMQError]] = queue.SimpleQueue()
        self._last_trouble = ""

    def run(self, stop: threading.Event, every: float) -> None:
        """Watch until `stop`, a look each `every` seconds. Raises BrokerError when there is no broker at first."""
        with tempfile.TemporaryDirectory(prefix="slicemq-watch-", ignore_cleanup_errors=True) as place:
            self._place = Path(place)
            with self._documents:
                self._on_ready()
                while True:
                    self._take_ends()
                    self._look()
                    if stop.wait(every):
                        return

    def _look(self) -> None:
        try:
            listing = list(_listing(self._folder))
        except OSError as error:
            self._trouble(f"{self._folder}: cannot be listed: {error.strerror}")
            return
        for step in self._watch.look(time.monotonic(), listing, self._documents.served()):
            match step:
                case Read(found):
                    self._read(found)
                case Deploy():
                    logger.info("%s: %s is rolled out (%s)", step.pipeline, step.found.path, step.sha256[:12])
                    name = f"deploy-{step.pipeline}"
                    threading.Thread(target=self._deploy, args=(step,), name=name, daemon=True).start()
                case Say(text):
                    logger.warning("%s: skipped", text)
                    self._out.event({"event": "skipped", "reason": text}, f"skipped {text}")

    def _read(self, found: Found) -> None:
        try:
            with self._copied(found) as (copy, digest):
                read_model(copy)
                if _found(self._folder, found.path) != found:
                    digest = ""
            self._watch.on_read(found, digest)
        except ModelError as error:
            self._watch.on_read(found, "", _without(error, self._place))
        except OSError as error:
            self._trouble(f"{found.path}: cannot be read: {error.strerror}")
            self._watch.on_read(found, "")

    def _deploy(self, step: Deploy) -> None:
        """Carry out one rollout, on a thread of its own; how it ended goes to `_take_ends`."""
        from rich.progress import Progress

        end: dict[str, Any] | SliceMQError
        try:
            with self._copied(step.found) as (copy, digest), Progress(disable=True) as progress:
                if digest != step.sha256:
                    raise BrokerError("the file changed meanwhile")
                deployment = prepare(copy, step.pipeline, self._given)
                end = carry_out(self._net, deployment, progress, wait=True, timeout=None)
        except SliceMQError as error:
            end = error
        except OSError as error:
            end = BrokerError(f"cannot be read: {error.strerror}")
        except Exception as error:
            logger.exception("%s: the rollout of %s failed", step.pipeline, step.found.path)
            end = SliceMQError(f"{type(error).__name__}: {error}")
        self._ended.put((step, end))

    @contextlib.contextmanager
    def _copied(self, found: Found) -> Iterator[tuple[Path, str]]:
        """A copy of a file and its SHA-256: what is checked and sent stays as it is. Raises OSError."""
        folder = self._place / secrets.token_hex(8)
        try:
            folder.mkdir()
            copy = folder / Path(found.path).name
            yield copy, _copy(self._folder / found.path, copy)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _take_ends(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                step, end = self._ended.get_nowait()
                about = {"name": step.pipeline, "file": step.found.path, "model": step.sha256}
                if isinstance(end, SliceMQError):
                    reason = _without(end, self._place)
                    again = end.exit_code in _NOT_OF_THE_FILE
                    self._watch.on_failed(time.monotonic(), step.pipeline, step.sha256, again=again)
                    what = "tried again later" if again else "waits for the file to change"
                    logger.warning("%s: %s failed, %s: %s", step.pipeline, step.found.path, what, reason)
                    body = {
                        "event": "failed",
                        **about,
                        "reason": reason,
                        "exit_code": end.exit_code,
                        "again": again,
                    }
                    self._out.event(body, f"{step.pipeline}: {step.found.path} failed: {reason}")
                else:
                    row = {"event": "deployed", **about, "revision": end["revision"], "seconds": end["seconds"]}
                    self._out.event(row, f"{step.pipeline}: {step.found.path} runs as {end['revision']}")

    def _trouble(self, text: str) -> None:
        """Say what is wrong with this machine, once in a row."""
        if text != self._last_trouble:
            logger.warning("%s", text)
        self._last_trouble = text


class _Documents:
    """What the coordinator retains of all pipelines, followed."""

    def __init__(self, net: Network) -> None:
        self._topics = net.topics
        self._filters = (net.topics.pipeline("+"), net.topics.rollout("+"))
        self._lock = threading.Lock()
        self._pipelines: dict[str, PipelineDocument] = {}
        self._rollouts: dict[str, RolloutDocument] = {}
        self._session = Session(net.options, f"watch-{secrets.token_hex(4)}", on_message=self._on_message)

    def __enter__(self) -> _Documents:
        self._session.subscribe(*self._filters)
        self._session.start()
        try:
            self._session.wait_up(_CONNECT_SECONDS)
            for topic, payload in self._session.snapshot(*self._filters).items():
                self._on_message(topic, payload, True)
        except BaseException:
            self._session.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.stop()

    def served(self) -> dict[str, Served]:
        """What runs, is being rolled out, and was tried, by pipeline."""
        with self._lock:
            names = self._pipelines.keys() | self._rollouts.keys()
            return {name: _served(self._pipelines.get(name), self._rollouts.get(name)) for name in names}

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        parts = self._topics.parts(topic)
        try:
            with self._lock:
                if len(parts) == 2:
                    self._keep(self._pipelines, parts[1], PipelineDocument, payload, topic)
                else:
                    self._keep(self._rollouts, parts[1], RolloutDocument, payload, topic)
        except ProtocolError as error:
            logger.warning("%s", error)

    @staticmethod
    def _keep(table: dict[str, Any], name: str, kind: type[Any], payload: bytes, topic: str) -> None:
        if payload:
            table[name] = decode(kind, payload, topic)
        else:
            table.pop(name, None)


def _served(pipeline: PipelineDocument | None, rollouts: RolloutDocument | None) -> Served:
    models = {pipeline.model} if pipeline is not None and pipeline.state != "removed" else set()
    tried: dict[str, float] = {}
    if rollouts is not None:
        if rollouts.current is not None and under_way(rollouts.current):
            models.add(rollouts.current.model.sha256)
        for entry in rollouts.history:
            tried[entry.model.sha256] = max(entry.begun, tried.get(entry.model.sha256, 0.0))
    return Served(frozenset(models), tried)


def _listing(folder: Path) -> Iterator[Found]:
    """The files of a folder and of the folders in it. Raises OSError for the folder itself."""
    for entry in os.scandir(folder):
        try:
            inner = (
                [f"{entry.name}/{one.name}" for one in os.scandir(entry.path)] if entry.is_dir() else [entry.name]
            )
        except OSError as error:
            logger.debug("%s: cannot be listed: %s", entry.path, error.strerror)
            continue
        for path in inner:
            found = _found(folder, path)
            if found is not None:
                yield found


def _found(folder: Path, path: str) -> Found | None:
    """A plain file as it is now; None when there is none, or no more."""
    file = folder / path
    try:
        if not file.is_file():
            return None
        status = file.stat()
    except OSError:
        return None
    # The time of the last change of its entry cannot be set by those who copy or unpack it.
    return Found(path, status.st_size, max(status.st_mtime_ns, status.st_ctime_ns) / 1e9)


def _without(error: SliceMQError, place: Path) -> str:
    """An error's text without the path of a copy, which means nothing to anybody."""
    return re.sub(re.escape(str(place)) + r"/[0-9a-f]{16}/[^:]*: ", "", str(error))


def _copy(source: Path, copy: Path) -> str:
    """Copy a file; the SHA-256 of what was copied, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, copy.open("wb") as writer:
        while block := reader.read(_COPY_BYTES):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()
