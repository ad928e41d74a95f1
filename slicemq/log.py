"""Logging for every program: text for people, one JSON object a line for collectors."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

LogFormat = Literal["text", "json"]
LEVELS = ("debug", "info", "warning", "error")


_WORDINGS = 1000


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        body = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return json.dumps(body)


class _FloodFilter(logging.Filter):
    """Passes at most `most` warnings of one wording in `seconds`, then says with the next one how many it left out.

    What strangers send is logged: without a bound, whoever floods a topic fills the disk with the log.
    """

    def __init__(self, most: int = 50, seconds: float = 10.0) -> None:
        super().__init__()
        self._most = most
        self._seconds = seconds
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg))
        since, count = self._seen.get(key, (record.created, 0))
        left_out = 0
        if not 0.0 <= record.created - since < self._seconds:
            since, count, left_out = record.created, 0, max(0, count - self._most)
        if count == 0 and len(self._seen) >= _WORDINGS:
            self._seen.clear()
        self._seen[key] = (since, count + 1)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more such lines, left out)", ()
        return count < self._most


def setup_logging(level: str = "info", log_format: str = "text") -> None:
    """Send all logs to standard error at `level` (one of LEVELS) as `text` or `json`.

    Floods of warnings are thinned out, but not at `debug`.
    """
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    if level != "debug":
        handler.addFilter(_FloodFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
