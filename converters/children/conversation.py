"""A child's half of the conversation that `converters.child.Child` holds: lines of JSON in and out.

The first line out is GREETING, so that whoever started a program knows that it is this one. The first line in is
the task, an object. Every line out is an object; one with `error` (a key of `converters.sources.ERRORS`) and `text`
is the last. The end of the input ends the process.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TextIO

GREETING = {"greeting": "slicemq"}
_MOST_TEXT = 600
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Refused(Exception):  # noqa: N818
    """What was asked for is not possible; `kind` is a key of `converters.sources.ERRORS`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Talk:
    """The lines in and out. What native code and libraries print to standard output goes to standard error."""

    def __init__(self) -> None:
        self._answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, body: dict[str, Any]) -> None:
        """Send an object."""
        self._answers.write(json.dumps(body) + "\n")
        self._answers.flush()

    def hear(self) -> dict[str, Any]:
        """Await an object; whoever asks has ended when there is none, and nobody waits for an answer then."""
        line = sys.stdin.readline()
        if not line:
            os._exit(1)
        body: dict[str, Any] = json.loads(line)
        return body

    def last_question(self) -> None:
        """Say that no more objects are awaited; from now on the end of the input ends the process at once."""
        threading.Thread(target=self._end_with_input, daemon=True).start()

    def _end_with_input(self) -> None:
        sys.stdin.read()
        os._exit(1)


def hold(run: Callable[[dict[str, Any], Talk], None]) -> int:
    """Greet and run a task; returns the exit code."""
    talk = Talk()
    talk.say(GREETING)
    task = talk.hear()
    try:
        try:
            run(task, talk)
        except MemoryError:
            raise Refused("model", "there is not enough memory for the conversion") from None
    except (Refused, OSError) as error:
        full = _full(error, task)
        if full is None and not isinstance(error, Refused):
            raise
        kind = "store" if full is not None else getattr(error, "kind", "")
        talk.say({"error": kind, "text": full or str(error)})
        # What is printed goes to a temporary file, which a full folder does not take.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return 1
    return 0


def _full(error: BaseException, task: dict[str, Any]) -> str | None:
    """What is full when that is the reason of an error, in words; libraries hide it in errors of their own."""
    reason: BaseException | None = error
    while reason is not None:
        for number in _FULL:
            if (isinstance(reason, OSError) and reason.errno == number) or os.strerror(number) in str(reason):
                # The scratch folder itself goes with this process.
                folders = [os.path.dirname(str(task.get(key, ""))) or "." for key in ("scratch", "target")]
                return f"{min(folders, key=_free)}: cannot be written: {os.strerror(number)}"
        reason = reason.__cause__ or reason.__context__
    return None


def _free(folder: str) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def brief(error: BaseException) -> str:
    """The text of a library's error in one line, without its long explanations."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 4] + " ..."


def library(name: str, load: Callable[[], Any]) -> Any:
    """The library that `load` imports. Raises Refused when it is missing, or does not work here."""
    try:
        return load()
    except ModuleNotFoundError as error:
        if error.name == name:
            raise Refused("missing", f"{name} is not installed") from error
        raise Refused("missing", f"{name} cannot be imported: {brief(error)}") from error
    except Exception as error:
        raise Refused("missing", f"{name} cannot be imported: {brief(error)}") from error
