"""A Keras, SavedModel or ONNX file becomes a .tflite. Runs in a child process only.

The task: `kind` ("keras", "saved-model", "onnx"), `source`, `target` (the file to write), `scratch` (an empty
folder), `quantize` ("none", "float16", "dynamic", "int8"), `io` (dtype of inputs and outputs for int8), `signature`
(a name or null) and `shapes` (input name to shape, for inputs whose sizes are open). The first answer has `inputs`,
each with `name`, `dtype` and `shape` (-1: open), and the `signature`. For int8 the child then takes `samples`:
the paths of .npz files whose arrays `0`, `1` ... are the inputs in that order. The last answer has `done`: who
converted.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from converters.children.conversation import Refused, Talk, brief, hold, library
from converters.children.onnx_models import saved_model_of
from converters.children.tensorflow_models import Loaded, keras_model, saved_model


def run(task: dict[str, Any], talk: Talk) -> None:
    """Load, tell the inputs, convert."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    tf = library("tensorflow", lambda: importlib.import_module("tensorflow"))
    made_by = f"TensorFlow {tf.__version__}"
    # TensorFlow writes the code that it traces into temporary files, and this process is killed at its end.
    tempfile.tempdir = task["scratch"]
    source, shapes, signature = task["source"], task["shapes"], task["signature"]
    if task["kind"] == "keras":
        loaded = keras_model(tf, source, shapes)
    elif task["kind"] == "saved-model":
        loaded = saved_model(tf, source, shapes, signature)
    else:
        folder, version = saved_model_of(source, task["scratch"], shapes)
        made_by = f"onnx2tf {version}, {made_by}"
        loaded = saved_model(tf, folder, {}, None)
    inputs = [
        {"name": s.name, "dtype": s.dtype.name, "shape": [-1 if d is None else d for d in s.shape]}
        for s in loaded.specs
    ]
    talk.say({"inputs": inputs, "signature": loaded.signature})
    samples = talk.hear()["samples"] if task["quantize"] == "int8" else []
    talk.last_question()
    folder = os.path.join(task["scratch"], "saved-model")
    _save(tf, task, loaded, folder)
    # The converter loads all of it again.
    del loaded
    tf.keras.backend.clear_session()
    gc.collect()
    content = _convert(tf, task, folder, [row["name"] for row in inputs], samples)
    Path(task["target"]).write_bytes(content)
    talk.say({"done": made_by})


def _save(tf: Any, task: dict[str, Any], loaded: Loaded, folder: str) -> None:
    """Write a SavedModel of the frozen function; it goes between, so that the signature keeps its names."""
    try:
        function = tf.function(loaded.call, input_signature=list(loaded.specs)).get_concrete_function()
        operators = _operators(function.graph)
        if task["quantize"] == "int8" and operators & {"While", "StatelessWhile"}:
            # TensorFlow 2.21 ends by a segmentation fault when it calibrates a loop.
            raise Refused(
                "model",
                "TensorFlow cannot bring loops (recurrent layers) to int8: build the layers with unroll=True, or "
                "use --quantize dynamic",
            )
        module = tf.Module()
        if any(name.startswith("Assign") for name in operators):
            # It keeps state between frames. Variables saved as part of a Keras model come out without values.
            module.owner = list(function.variables) if task["kind"] == "keras" else loaded.owner
            module.serve = tf.function(loaded.call, input_signature=list(loaded.specs))
        else:
            module.serve = _frozen(tf, function, loaded.specs)
        # A frozen activation such as swish has a gradient that cannot be saved, and a .tflite needs none.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, folder, signatures={"serving_default": module.serve}, options=options)
    except Refused:
        raise
    except Exception as error:
        raise Refused("model", f"TensorFlow cannot trace the model: {brief(error)}") from error


def _convert(tf: Any, task: dict[str, Any], folder: str, names: Sequence[str], samples: Sequence[str]) -> bytes:
    """The .tflite of the SavedModel that `_save` wrote."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    _quantise(tf, converter, task, names, samples)
    try:
        return bytes(converter.convert())
    except Exception as error:
        raise _not_converted(error) from error


def _operators(graph: Any) -> set[str]:
    """The names of TensorFlow's operators in a graph and in the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
    return {str(node.op) for node in nodes}


def _frozen(tf: Any, function: Any, specs: Sequence[Any]) -> Any:
    """The function with its variables as constants.

    Left as variables they would become resource variables, which tie all their operators together.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = sorted(function.structured_outputs)
    constant = convert_variables_to_constants_v2(function, lower_control_flow=False)

    def serve(*tensors: Any) -> Mapping[str, Any]:
        return dict(zip(names, constant(*tensors), strict=True))

    return tf.function(serve, input_signature=list(specs))


def _quantise(tf: Any, converter: Any, task: dict[str, Any], names: Sequence[str], samples: Sequence[str]) -> None:
    quantize = task["quantize"]
    if quantize == "none":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize != "int8":
        return
    import numpy as np

    def frames() -> Iterator[dict[str, Any]]:
        for path in samples:
            with np.load(path, allow_pickle=False) as arrays:
                yield {name: arrays[str(i)] for i, name in enumerate(names)}

    converter.representative_dataset = frames
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = getattr(tf, task["io"])


def _not_converted(error: Exception) -> Refused:
    """What the converter means when it refuses, in its own lists of operators."""
    text = str(error)
    flex = re.search(r"TF Select ops: ([^\n]+)", text)
    custom = re.search(r"Custom ops: ([^\n]+)", text)
    if flex or custom:
        names = ", ".join(found[1].strip() for found in (flex, custom) if found)
        return Refused(
            "operators",
            f"needs {names}, which TFLite has no operator for (Flex, TensorFlow's own, is on no node): "
            "rebuild that part of the model from other operations",
        )
    if "TensorList" in text and "static" in text:
        return Refused(
            "model",
            "a recurrent layer was traced with an open batch: convert the .keras or .h5 file instead, or fix the "
            "batch with model.export(FOLDER, input_signature=[tf.TensorSpec([1, ...])])",
        )
    return Refused("model", f"TensorFlow cannot convert the model: {brief(error)}")


if __name__ == "__main__":
    sys.exit(hold(run))
