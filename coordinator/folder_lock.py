"""A coordinator's folder is used by one process at a time: a second one would write over its store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path

from slicemq.errors import ConfigError

_NAME = "lock"
_UNWRITABLE = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and keep others out of it until the block, or the process, ends, in whatever way.

    On a disk that takes no lock file nothing is kept out; what can be done there is for the store to say.
    Raises ConfigError where the folder cannot be made, or another process of this machine has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / _NAME, "a")  # noqa: SIM115
    except OSError as error:
        if error.errno in _UNWRITABLE and folder.is_dir():
            yield
            return
        raise ConfigError(f"--state-dir {folder}: {error.strerror}") from error
    with file:
        try:
            # Not flock: child processes would inherit that, and keep the folder after this one was killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ConfigError(
                f"--state-dir {folder}: another coordinator of this machine uses it: expected a folder of its own "
                "for each, standbys among them"
            ) from error
        except OSError as error:
            raise ConfigError(f"--state-dir {folder}: {_NAME}: {error.strerror}") from error
        yield
