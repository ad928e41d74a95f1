"""A relay process, started and told what to do: `RelayProcess`."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

from emulator.processes import end_with_parent
from slicemq.errors import SliceMQError

Way = Literal["up", "down", "both"]
_ANSWER_SECONDS = 10.0


class RelayProcess:
    """`python -m emulator.relay`, from `listen` to `to` (each HOST:PORT; port 0 of `listen`: any free one).

    `prefix` goes in front of the command (`ip netns exec NAME`); times are seconds, `rate` is bit/s. Use it as a
    context manager, or `close` it. Its methods may be called from several threads; they raise SliceMQError when
    the relay refuses or has ended.
    """

    def __init__(
        self,
        listen: str,
        to: str,
        *,
        up: float = 0.0,
        down: float = 0.0,
        jitter: float = 0.0,
        rate: float = 1e9,
        seed: int = 1,
        prefix: Sequence[str] = (),
    ) -> None:
        words = {"--listen": listen, "--to": to, "--up-ms": up * 1e3, "--down-ms": down * 1e3}
        words |= {"--jitter-ms": jitter * 1e3, "--rate-mbps": rate / 1e6, "--seed": seed}
        command = [*prefix, sys.executable, "-m", "emulator.relay"]
        for name, value in words.items():
            command += [name, str(value)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._turn = threading.Lock()
        threading.Thread(target=self._listen, name="relay-answers", daemon=True).start()
        try:
            self.port = int(self._next()["port"])
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def delay(self, seconds: float, jitter: float = 0.0, way: Way = "both") -> None:
        """Delay what comes from here on by `seconds`, and at most `jitter` more."""
        self._do({"do": "delay", "direction": way, "delay_ms": seconds * 1e3, "jitter_ms": jitter * 1e3})

    def freeze(self, seconds: float | None = None, way: Way = "both") -> None:
        """Connections stay open and nothing moves, for `seconds` or until `thaw`."""
        self._do({"do": "freeze", "direction": way, "seconds": seconds})

    def thaw(self, way: Way = "both") -> None:
        """Everything moves again."""
        self._do({"do": "thaw", "direction": way})

    def reset(self, seconds: float = 0.0) -> None:
        """Reset all connections, and those that are made within `seconds`."""
        self._do({"do": "reset", "seconds": seconds})

    def stats(self) -> dict[str, Any]:
        """connections, accepted, up_bytes, down_bytes, held, most_held (bytes), cpu_seconds."""
        return self._do({"do": "stats"})

    def close(self) -> None:
        """End it; its connections are reset."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> RelayProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        with self._turn:
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:
                raise SliceMQError("relay: it has ended") from error
            answer = self._next()
        if "error" in answer:
            raise SliceMQError(f"relay: {command['do']}: {answer['error']}")
        return answer

    def _next(self) -> dict[str, Any]:
        try:
            answer = self._said.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            raise SliceMQError(f"relay: no answer within {_ANSWER_SECONDS:g} s") from None
        if not answer:
            self._said.put({})
            raise SliceMQError("relay: it has ended")
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._said.put(json.loads(line))
        self._said.put({})
