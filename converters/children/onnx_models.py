"""An ONNX file becomes a SavedModel, by onnx2tf. Runs in a child process only."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from converters.children.conversation import Refused, brief, library

# onnx2tf compares its result with onnxruntime's on these pictures, and would fetch them from the internet.
_PICTURES = "calibration_image_sample_data_20x128x128x3_float32.npy"


def saved_model_of(source: str, scratch: str, shapes: Mapping[str, Sequence[int]]) -> tuple[str, str]:
    """Convert into a folder below `scratch`; returns it and onnx2tf's version.

    An open batch becomes 1. Inputs of pictures (NCHW) become NHWC, as TFLite wants them. Raises Refused.
    """
    onnx2tf = library("onnx2tf", lambda: importlib.import_module("onnx2tf"))
    folder = os.path.join(scratch, "onnx")
    os.chdir(scratch)
    _store_pictures()
    options: dict[str, Any] = {"batch_size": 1}
    if shapes:
        options = {"overwrite_input_shape": [f"{n}:{','.join(map(str, shape))}" for n, shape in shapes.items()]}
    try:
        onnx2tf.convert(
            input_onnx_file_path=source,
            output_folder_path=folder,
            output_signaturedefs=True,
            copy_onnx_input_output_names_to_tflite=True,
            non_verbose=True,
            **options,
        )
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise Refused("model", f"onnx2tf cannot convert it: {brief(error)}") from error
    if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
        raise Refused("model", "onnx2tf cannot convert it, and does not say why (see --log-level debug)")
    return folder, str(onnx2tf.__version__)


def _store_pictures() -> None:
    import numpy as np

    np.save(_PICTURES, np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32))
