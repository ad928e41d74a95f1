"""An exported PyTorch program (.pt2) becomes a .tflite, by litert-torch. Runs in a child process only.

The task: `source` and `target` (the file to write). The only answer has `done`: who converted.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from typing import Any

from converters.children.conversation import Refused, Talk, brief, hold, library


def run(task: dict[str, Any], talk: Talk) -> None:
    """Load and convert, with the example inputs that the program was exported with."""
    talk.last_question()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    torch = library("torch", lambda: importlib.import_module("torch"))
    converter = library("litert_torch", lambda: importlib.import_module("litert_torch"))
    try:
        program = torch.export.load(task["source"])
        arguments, named = program.example_inputs
    except Exception as error:
        raise Refused("model", f"PyTorch cannot load it: {brief(error)}") from error
    try:
        converter.convert(program.module(), arguments, named or None).export(task["target"])
    except MemoryError:
        raise
    except Exception as error:
        raise Refused("model", f"litert-torch cannot convert it: {brief(error)}") from error
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("litert-torch", "torch")]
    talk.say({"done": ", ".join(versions)})


if __name__ == "__main__":
    sys.exit(hold(run))
