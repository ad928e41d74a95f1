"""A Keras model or a SavedModel becomes a .tflite: runs in a process of its own, `converters.sources` starts it.

Imports nothing of SliceMQ, so that any interpreter that has TensorFlow can run this file. It talks in lines of
JSON:

1. in: the task: `kind` ("keras" or "saved-model"), `source`, `target` (file to write), `scratch` (an empty folder),
   `quantize` ("none", "float16", "dynamic", "int8"), `io` (dtype of inputs and outputs for int8), `signature` (a
   name or null) and `shapes` (input name to shape, for inputs whose sizes are open);
2. out: `inputs`, each with `name`, `dtype` and `shape` (-1: open), the `signature` and all `signatures`;
3. in, for int8 only: `samples`, the paths of .npz files whose arrays `0`, `1` ... are the inputs in that order;
4. out: `done` with TensorFlow's version.

Instead of 2 or 4 comes `error` (one of the keys of `converters.sources.ERRORS`) with `text`. The end of the input
ends the process. Whatever TensorFlow prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

_MOST_TEXT = 600


class Refused(Exception):  # noqa: N818
    """What was asked for is not possible; `kind` is a key of `converters.sources.ERRORS`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Loaded:
    """A model with inputs of fixed batch: `call` takes one tensor for each input and gives tensors by name.

    owner: keeps the variables alive. signature: where it comes from, empty for Keras.
    """

    specs: Sequence[Any]
    call: Callable[..., Mapping[str, Any]]
    owner: Any
    signature: str = ""
    signatures: tuple[str, ...] = ()


def main() -> int:
    """Hold the conversation; returns the exit code."""
    # Native code prints to file descriptor 1, which must carry nothing but the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    questions = sys.stdin
    try:
        task = json.loads(questions.readline())
        try:
            _run(task, questions, answers)
        except MemoryError:
            raise Refused("model", "not enough memory for the conversion") from None
    except Refused as error:
        traceback.print_exc()
        _say(answers, {"error": error.kind, "text": str(error)})
        return 1
    return 0


def _run(task: dict[str, Any], questions: TextIO, answers: TextIO) -> None:
    tf = _tensorflow()
    load = {"keras": _keras_model, "saved-model": _saved_model}[task["kind"]]
    loaded = load(tf, task)
    inputs = [
        {"name": s.name, "dtype": s.dtype.name, "shape": [-1 if d is None else d for d in s.shape]}
        for s in loaded.specs
    ]
    body = {"inputs": inputs, "signature": loaded.signature, "signatures": list(loaded.signatures)}
    _say(answers, body)
    samples = json.loads(questions.readline())["samples"] if task["quantize"] == "int8" else []
    # Whoever asked has ended when the questions end: nobody waits for an answer then.
    threading.Thread(target=_end_with, args=(questions,), daemon=True).start()
    content = _convert(tf, task, loaded, samples)
    Path(task["target"]).write_bytes(content)
    _say(answers, {"done": {"tensorflow": tf.__version__}})


def _end_with(questions: TextIO) -> None:
    questions.read()
    os._exit(1)


def _say(answers: TextIO, body: dict[str, Any]) -> None:
    answers.write(json.dumps(body) + "\n")
    answers.flush()


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        import tensorflow
    except ModuleNotFoundError as error:
        if error.name == "tensorflow":
            raise Refused("missing", "it is not installed") from error
        raise Refused("missing", f"it cannot be imported: {error}") from error
    except Exception as error:
        raise Refused("missing", f"it cannot be imported: {_brief(error)}") from error
    return tensorflow


def _brief(error: BaseException) -> str:
    """The text of an error of TensorFlow, without its long explanations."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 4] + " ..."


# ---- loading ----


def _keras_model(tf: Any, task: dict[str, Any]) -> Loaded:
    try:
        model = tf.keras.models.load_model(task["source"], compile=False)
    except Exception as error:
        raise _not_loaded(error) from error
    try:
        structure = model.input
        flat = tf.nest.flatten(structure)
    except (AttributeError, ValueError) as error:
        raise Refused(
            "model",
            "the Keras model has no inputs of known shape (a subclassed model, or one that was never built): "
            "export it with model.export(FOLDER) and convert the SavedModel",
        ) from error
    given = [(_safe(getattr(t, "name", None) or f"input_{i}"), t) for i, t in enumerate(flat)]
    specs = _specs(tf, [(name, tuple(t.shape), t.dtype) for name, t in given], task["shapes"])
    outputs = [_safe(name) for name in getattr(model, "output_names", [])]

    def call(*tensors: Any) -> Mapping[str, Any]:
        result = model(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)
        if isinstance(result, dict):
            return {_safe(str(name)): tensor for name, tensor in result.items()}
        made = tf.nest.flatten(result)
        names = outputs if len(outputs) == len(made) else [f"output_{i}" for i in range(len(made))]
        return dict(zip(_unique(names), made, strict=True))

    return Loaded(specs, call, model)


def _not_loaded(error: Exception) -> Refused:
    """What Keras means when it does not load a file."""
    text = str(error)
    custom = re.search(
        r"Could not locate (?:class|function) '([^']+)'|Unknown (?:layer|object|class)[^']*: '?([\w>.]+)", text
    )
    if custom:
        name = custom[1] or custom[2]
        return Refused(
            "model",
            f"holds {name}, which Keras does not know (a custom object): in the program that has its code, write "
            "model.export(FOLDER) and convert the SavedModel",
        )
    if "ambda" in text and ("unsafe" in text or "safe_mode" in text):
        return Refused(
            "model",
            "holds a Lambda layer, whose code would run on loading: in the program that made it, write "
            "model.export(FOLDER) and convert the SavedModel",
        )
    if "No model config found" in text or "No model found in config" in text:
        return Refused("model", "holds weights only, no architecture: save it with model.save(FILE)")
    return Refused("model", f"Keras cannot load it: {_brief(error)}")


def _saved_model(tf: Any, task: dict[str, Any]) -> Loaded:
    try:
        loaded = tf.saved_model.load(task["source"])
        functions = dict(loaded.signatures)
    except Exception as error:
        raise Refused("model", f"TensorFlow cannot load the SavedModel: {_brief(error)}") from error
    names = tuple(sorted(functions))
    if not names:
        raise Refused(
            "model",
            "the SavedModel has no signature: export it with model.export(FOLDER), or with "
            "tf.saved_model.save(model, FOLDER, signatures=FUNCTION)",
        )
    name = task["signature"] or ("serving_default" if "serving_default" in names else names[0])
    if name not in names:
        raise Refused("usage", f"--signature {name}: the SavedModel has {', '.join(names)}")
    if task["signature"] is None and len(names) > 1 and name != "serving_default":
        raise Refused("usage", f"the SavedModel has the signatures {', '.join(names)}: choose one with --signature")
    function = functions[name]
    given = function.structured_input_signature[1]
    for key, spec in given.items():
        if not isinstance(spec, tf.TensorSpec):
            raise Refused("model", f"input {key!r} of signature {name} is no dense tensor ({type(spec).__name__})")
    rows = [(_safe(k), None if s.shape.rank is None else tuple(s.shape), s.dtype) for k, s in given.items()]
    specs = _specs(tf, rows, task["shapes"])
    keys = list(given)

    def call(*tensors: Any) -> Mapping[str, Any]:
        result = function(**dict(zip(keys, tensors, strict=True)))
        return {_safe(key): tensor for key, tensor in result.items()}

    return Loaded(specs, call, loaded, name, names)


def _specs(tf: Any, rows: Sequence[tuple[str, Any, Any]], shapes: Mapping[str, Sequence[int]]) -> list[Any]:
    """One TensorSpec for each input: an open batch is 1, other open sizes are as `shapes` says, or stay open."""
    names = _unique([row[0] for row in rows])
    for name in shapes:
        if name not in names:
            raise Refused("usage", f"--shape {name}: the model's inputs are {', '.join(names)}")
    specs = []
    for name, (_, shape, dtype) in zip(names, rows, strict=True):
        wanted = shapes.get(name)
        if wanted is not None:
            fits = shape is None or (
                len(shape) == len(wanted) and all(d in (None, w) for d, w in zip(shape, wanted, strict=True))
            )
            if not fits:
                has = "x".join("?" if d is None else str(d) for d in shape)
                raise Refused("usage", f"--shape {name}={'x'.join(map(str, wanted))}: the input is {has}")
            shape = tuple(wanted)
        if shape is None:
            raise Refused("usage", f"input {name} has no known rank: give its shape with --shape {name}=1x...")
        if shape and shape[0] is None:
            shape = (1, *shape[1:])
        specs.append(tf.TensorSpec(shape, dtype, name=name))
    return specs


def _safe(name: str) -> str:
    """A name that a signature may carry."""
    safe = re.sub(r"\W", "_", name.split(":")[0], flags=re.ASCII)
    return safe if safe[:1].isalpha() else f"t{safe}"


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(f"{name}_{count}" if count else name)
    return unique


# ---- converting ----


def _convert(tf: Any, task: dict[str, Any], loaded: Loaded, samples: Sequence[str]) -> bytes:
    """The .tflite. A SavedModel with the frozen function goes between, so that the signature keeps its names."""
    folder = os.path.join(task["scratch"], "saved-model")
    try:
        function = tf.function(loaded.call, input_signature=list(loaded.specs)).get_concrete_function()
        module = tf.Module()
        module.owner = loaded.owner
        if _assigns(function.graph):
            module.serve = tf.function(loaded.call, input_signature=list(loaded.specs))
        else:
            module.serve = _frozen(tf, function, loaded.specs)
            module.owner = None
        tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
    except Exception as error:
        raise Refused("model", f"TensorFlow cannot trace the model: {_brief(error)}") from error
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
    _quantise(tf, converter, task, [spec.name for spec in loaded.specs], samples)
    try:
        return bytes(converter.convert())
    except Exception as error:
        raise _not_converted(error) from error


def _assigns(graph: Any) -> bool:
    """Whether the model writes variables while it runs (it then keeps state between frames)."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for f in definition.library.function for node in f.node_def)]
    return any(node.op.startswith("Assign") for node in nodes)


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
    return Refused("model", f"TensorFlow cannot convert the model: {_brief(error)}")


if __name__ == "__main__":
    sys.exit(main())
