"""A runtime whose process crashes on some frames, as real ones do on inputs that nobody tried."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest

POISON = 1e30
"""An input of such values ends the process."""


def fragile_runtime(folder: Path) -> str:
    """Make `ai_edge_litert` below `folder`: the real one, but inputs above 1e20 crash. The PYTHONPATH to use it."""
    found = importlib.util.find_spec("ai_edge_litert")
    if found is None or not found.submodule_search_locations:
        pytest.skip("ai_edge_litert is not installed")
    real = Path(next(iter(found.submodule_search_locations)))
    package = folder / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__ = [*__path__, {str(real)!r}]\n")
    (package / "interpreter.py").write_text(
        textwrap.dedent(f"""
            import ctypes, importlib.util

            spec = importlib.util.spec_from_file_location("ai_edge_litert.sound", {str(real / "interpreter.py")!r})
            sound = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sound)

            class Interpreter(sound.Interpreter):
                def invoke(self):
                    if any((self.get_tensor(one["index"]) > 1e20).any() for one in self.get_input_details()):
                        ctypes.string_at(0)
                    super().invoke()
        """)
    )
    return str(folder)
