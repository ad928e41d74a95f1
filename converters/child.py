"""A child process that answers in lines of JSON: for work whose libraries must not be loaded into this process."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from converters.children.conversation import GREETING
from slicemq.errors import ModelError, SliceMQError, StoreError, UsageError

_log = logging.getLogger(__name__)

_MAX_ANSWER = 64 << 20
_NOISE_LINES = 5
_NOISE_BYTES = 1 << 20
# Any interpreter can run a module of ours, without having SliceMQ and without our packages on its path.
_LAUNCH = """
import runpy, sys, types
sys.path[:] = [folder for folder in sys.path if folder]
package = types.ModuleType("converters")
package.__path__ = [sys.argv.pop(1)]
sys.modules["converters"] = package
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


class Child:
    """A running module of `converters.children`; leaving the context ends it, whatever it does.

    It greets first (`converters.children.conversation`). Every answer is an object on a line of its own; one with
    `error` raises what `errors` has for its word, with its `text`. What the child prints besides is kept, and the
    last of it told when the child ends without an answer.
    """

    def __init__(self, python: str, module: str, errors: Mapping[str, type[SliceMQError]], what: str) -> None:
        self._errors = errors
        self._what = what
        self._python = python
        self._greeted = False
        try:
            self._noise = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise StoreError(f"temporary files cannot be written: {error.strerror or error}") from error
        try:
            self._process = subprocess.Popen(
                [python, "-c", _LAUNCH, str(Path(__file__).parent), module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._noise,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            )
        except OSError as error:
            self._noise.close()
            raise UsageError(f"--python {python}: cannot be run: {error.strerror or error}") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    _log.debug("%s: the child has closed its end already", self._what)
        self._process.wait()
        if _log.isEnabledFor(logging.DEBUG):
            for line in self._said():
                _log.debug("%s", line)
        self._noise.close()

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a line and await the answer, as long as it takes.

        Raises what the child answers, ModelError when it ends without an answer, UsageError when it does not greet.
        """
        assert self._process.stdin is not None
        if not self._greeted:
            self._hear_greeting()
        try:
            self._process.stdin.write(json.dumps(body).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # an answer that says why may have come before it ended
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Await the next answer. Raises what the child answers, ModelError when it ends without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline(_MAX_ANSWER)
        if not line:
            raise ModelError(f"{self._what}: the child process {self._ending()}")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._strange(line) from error
        if not isinstance(answer, dict):
            raise self._strange(line)
        if "error" in answer:
            raise self._errors.get(str(answer["error"]), ModelError)(str(answer.get("text", "no reason given")))
        return answer

    def _hear_greeting(self) -> None:
        """Await the child's first words, before it loads anything: any other program has other ones, or none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline(_MAX_ANSWER)
        if not line:
            raise UsageError(f"--python {self._python}: no Python interpreter of use here, it {self._ending()}")
        try:
            self._greeted = json.loads(line) == GREETING
        except (ValueError, RecursionError) as error:
            raise self._strange(line) from error
        if not self._greeted:
            raise self._strange(line)

    def _strange(self, line: bytes) -> SliceMQError:
        return UsageError(f"--python {self._python}: no Python interpreter, it answered {line[:60]!r}")

    def _ending(self) -> str:
        """How the child ended, and what it said last."""
        code = self._process.wait()
        if code < 0:
            reason = f"signal {-code} ({signal.strsignal(-code) or 'unknown'})"
            if -code == signal.SIGKILL:
                reason += ", which most often means that memory ran out"
            elif -code in (signal.SIGABRT, signal.SIGSEGV):
                reason += ", a crash inside its libraries"
        else:
            reason = f"exit code {code}"
        tail = [line for line in self._said() if line.strip()][-_NOISE_LINES:]
        said = "; its last lines:\n  " + "\n  ".join(tail) if tail else ""
        return f"ended by {reason}{said}"

    def _said(self) -> list[str]:
        self._noise.seek(0, os.SEEK_END)
        self._noise.seek(max(0, self._noise.tell() - _NOISE_BYTES))
        return self._noise.read().decode(errors="replace").splitlines()
