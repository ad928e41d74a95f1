"""The TFLite runtimes as test parameters; one that has no wheel for this Python is skipped."""

from __future__ import annotations

import importlib.util

import pytest

from edge_node.runtime import RUNTIMES

EACH_RUNTIME = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(name) is None, reason=f"{name} has no wheel for this version of Python"
        ),
    )
    for name in RUNTIMES
]
