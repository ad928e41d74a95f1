"""A verb's body in a process of its own: a model that crashes the TFLite runtime ends in an error, not a signal.

The program forks before anything heavy is imported. The child goes on as the program, with the same terminal and
output; the parent waits, hands on signals, ends with the child's exit code, and says what happened if it dies.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from coordinator.parent import die_with
from slicemq.errors import ModelError

# What somebody may send to the program to end it; the terminal sends its own to parent and child at once.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run(body: Callable[[], None], model: str) -> None:
    """Fork; the child returns after `body()` and goes on, the parent ends with the child's exit code.

    Raises (in the parent) ModelError that names `model` when the child was killed by a fault or for want of memory.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    watched = {signal.SIGCHLD, *_ENDINGS}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        body()
        return
    status = _wait(child, watched)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        raise SystemExit(code)
    killer = signal.Signals(-code)
    if killer in _ENDINGS:
        signal.signal(killer, signal.SIG_DFL)
        os.kill(parent, killer)
    raise ModelError(f"{model}: {_explain(killer)}")


def _wait(child: int, watched: set[signal.Signals]) -> int:
    """The status with which `child` ended; signals that somebody sends to this process alone are passed on."""
    while True:
        info = signal.sigwaitinfo(watched)
        if info.si_signo != signal.SIGCHLD:
            if info.si_pid:
                os.kill(child, info.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def _explain(killer: signal.Signals) -> str:
    if killer == signal.SIGKILL:
        return "the process that ran the model was killed, most likely because memory ran out"
    return (
        f"the TFLite runtime crashed on this model ({killer.name}): the file is damaged, or the runtime has a bug"
    )
