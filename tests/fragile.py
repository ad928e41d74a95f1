"""Runtimes that do what real ones do at times: crash on an input that nobody tried, become slow."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest

POISON = 1e30
"""An input of such values ends the process."""


def fragile_runtime(folder: Path) -> str:
    """Make `ai_edge_litert` in `folder`: the real one, but inputs above 1e20 crash. The PYTHONPATH to use it."""
    return _runtime(
        folder,
        """
        if any((self.get_tensor(one["index"]) > 1e20).any() for one in self.get_input_details()):
            ctypes.string_at(0)
        super().invoke()
        """,
    )


def tired_runtime(folder: Path, mark: Path, times: int) -> str:
    """Make `ai_edge_litert` in `folder`: calls take `times` as long while the file `mark` is there, as on a board
    whose clock was lowered. The PYTHONPATH to use it."""
    return _runtime(
        folder,
        f"""
        super().invoke()
        for _ in range({times - 1} if os.path.exists({str(mark)!r}) else 0):
            super().invoke()
        """,
    )


def _runtime(folder: Path, invoke: str) -> str:
    found = importlib.util.find_spec("ai_edge_litert")
    if found is None or not found.submodule_search_locations:
        pytest.skip("ai_edge_litert is not installed")
    real = Path(next(iter(found.submodule_search_locations)))
    package = folder / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").write_text(f"__path__ = [*__path__, {str(real)!r}]\n")
    source = textwrap.dedent(f"""
        import ctypes, importlib.util, os

        spec = importlib.util.spec_from_file_location("ai_edge_litert.sound", {str(real / "interpreter.py")!r})
        sound = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sound)

        class Interpreter(sound.Interpreter):
            def invoke(self):
    """)
    (package / "interpreter.py").write_text(source.rstrip() + textwrap.indent(textwrap.dedent(invoke), 8 * " "))
    return str(folder)
