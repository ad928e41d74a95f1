"""What was measured once, as files: JSON with the key that it was measured for.

A file that does not hold exactly what is asked for (damaged, of another machine) counts as none. Two processes may
write the same file at once; the last one's stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

logger = logging.getLogger("slicemq.coordinator.kept")

_MAX_FILE_BYTES = 64_000_000
Found = TypeVar("Found")


def file_of(folder: Path, model: str, key: dict[str, Any]) -> Path:
    """Where what `key` names is kept, for the model of this SHA-256."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"{model}-{digest[:16]}.json"


def read(path: Path, key: dict[str, Any], name: str, build: Callable[[Any], Found]) -> Found | None:
    """What `build` makes of the field `name`; None for a file that is not there or not for `key`.

    A file that cannot be read, or of which `build` raises ValueError, KeyError or TypeError, is logged.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            return None
        body = json.loads(content)
        if body["key"] != key:
            return None
        return build(body[name])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("%s: not used: %s", path, error)
        return None


def keep(path: Path, body: dict[str, Any]) -> None:
    """Write the file; where that cannot be done it is logged, and only costs the next one the time again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".measured-")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(body, file)
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        logger.warning("%s: not kept: %s", path, error.strerror)
