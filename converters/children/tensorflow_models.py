"""Keras models and SavedModels as TensorFlow functions with inputs of fixed batch. Runs in a child process only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from converters.children.conversation import Refused, brief


@dataclass(frozen=True)
class Loaded:
    """A model: `call` takes one tensor for each of `specs` (TensorSpec) and gives tensors by name.

    owner: keeps the variables alive. signature: the SavedModel's that it comes from, empty for Keras.
    """

    specs: Sequence[Any]
    call: Callable[..., Mapping[str, Any]]
    owner: Any
    signature: str = ""


def keras_model(tf: Any, source: str, shapes: Mapping[str, Sequence[int]]) -> Loaded:
    """A .keras or .h5 file. Raises Refused."""
    try:
        model = tf.keras.models.load_model(source, compile=False)
    except Exception as error:
        raise _not_loaded(error) from error
    try:
        structure, given = _inputs(tf, model)
    except (AttributeError, ValueError) as error:
        raise Refused(
            "model",
            "the Keras model has no inputs of known shape (a subclassed model, or one that was never built): "
            "export it with model.export(FOLDER) and convert the SavedModel",
        ) from error
    specs = _specs(tf, given, shapes)
    outputs = [_safe(name) for name in getattr(model, "output_names", [])]

    def call(*tensors: Any) -> Mapping[str, Any]:
        result = model(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)
        if isinstance(result, dict):
            return _named(result)
        made = tf.nest.flatten(result)
        names = outputs if len(outputs) == len(made) else [f"output_{i}" for i in range(len(made))]
        return dict(zip(_unique(names), made, strict=True))

    return Loaded(specs, call, model)


def _inputs(tf: Any, model: Any) -> tuple[Any, list[tuple[str, tuple[int | None, ...], Any]]]:
    """The inputs as the model takes them, and name, shape and dtype of each. Raises AttributeError without any."""
    try:
        structure = model.input
        open_batch = False
    except AttributeError:
        # A Sequential model that has its shape from data, whose batch it was called with means nothing.
        (structure,) = model.inputs
        open_batch = True
    rows = []
    for i, tensor in enumerate(tf.nest.flatten(structure)):
        shape = (None, *tensor.shape[1:]) if open_batch else tuple(tensor.shape)
        rows.append((_safe(getattr(tensor, "name", None) or f"input_{i}"), shape, tensor.dtype))
    return structure, rows


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
    return Refused("model", f"Keras cannot load it: {brief(error)}")


def saved_model(tf: Any, source: str, shapes: Mapping[str, Sequence[int]], signature: str | None) -> Loaded:
    """One signature of a SavedModel folder: `signature`, or serving_default, or the only one. Raises Refused."""
    try:
        loaded = tf.saved_model.load(source)
        functions = dict(loaded.signatures)
    except Exception as error:
        raise Refused("model", f"TensorFlow cannot load the SavedModel: {brief(error)}") from error
    names = tuple(sorted(functions))
    if not names:
        raise Refused(
            "model",
            "the SavedModel has no signature: export it with model.export(FOLDER), or with "
            "tf.saved_model.save(model, FOLDER, signatures=FUNCTION)",
        )
    name = signature or ("serving_default" if "serving_default" in names else names[0])
    if name not in names:
        raise Refused("usage", f"--signature {name}: the SavedModel has {', '.join(names)}")
    if signature is None and len(names) > 1 and name != "serving_default":
        raise Refused("usage", f"the SavedModel has the signatures {', '.join(names)}: choose one with --signature")
    function = functions[name]
    given = function.structured_input_signature[1]
    for key, spec in given.items():
        if not isinstance(spec, tf.TensorSpec):
            raise Refused("model", f"input {key!r} of signature {name} is no dense tensor ({type(spec).__name__})")
    rows = [(_safe(k), None if s.shape.rank is None else tuple(s.shape), s.dtype) for k, s in given.items()]
    specs = _specs(tf, rows, shapes)
    keys = list(given)

    def call(*tensors: Any) -> Mapping[str, Any]:
        result = function(**dict(zip(keys, tensors, strict=True)))
        return _named(result)

    return Loaded(specs, call, loaded, name)


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


def _named(tensors: Mapping[Any, Any]) -> dict[str, Any]:
    """The tensors by names that a signature may carry."""
    return dict(zip(_unique([_safe(str(name)) for name in tensors]), tensors.values(), strict=True))


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind each that is taken already."""
    taken = set(names)
    unique: list[str] = []
    for name in names:
        count, chosen = 0, name
        while chosen in unique or (count and chosen in taken):
            count += 1
            chosen = f"{name}_{count}"
        unique.append(chosen)
    return unique
