"""Small models of TensorFlow, written by a process of its own: `python -m tests.converters.keras_zoo FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def write(folder: Path) -> None:
    """One file or folder for each name that the tests ask for."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    keras = tf.keras
    keras.utils.set_random_seed(7)
    layers = keras.layers

    def pictures() -> Any:
        start = keras.Input((16, 16, 3), name="picture")
        x = layers.Conv2D(8, 3, padding="same", name="first")(start)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.Add()([x, layers.Conv2D(8, 1)(y)])
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(24, 3, strides=2)(x))
        return keras.Model(start, layers.Dense(5, name="scores")(x))

    def recurrent() -> Any:
        start = keras.Input((6, 4), name="series")
        x = layers.LSTM(8, return_sequences=True)(start)
        return keras.Model(start, layers.Dense(3, name="next")(layers.LSTM(5)(x)))

    def two() -> Any:
        left, right = keras.Input((4,), name="b_left"), keras.Input((6,), name="a_right")
        x = layers.Dense(8, activation="relu")(layers.Concatenate()([left, right]))
        return keras.Model([left, right], [layers.Dense(2, name="up")(x), layers.Dense(3, name="down")(x)])

    class Twice(layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x * 2.0

    rng = np.random.default_rng(5)

    def answer(model: Any, name: str) -> None:
        """A frame and what Keras makes of it, by the names of inputs and outputs."""
        frame = {t.name: rng.uniform(-1, 1, (1, *t.shape[1:])).astype(np.float32) for t in model.inputs}
        made = model([frame[t.name] for t in model.inputs], training=False)
        outputs = dict(zip(model.output_names, made if isinstance(made, list) else [made], strict=True))
        np.savez(folder / f"{name}.npz", **frame, **{key: array.numpy() for key, array in outputs.items()})

    model = pictures()
    answer(model, "pictures")
    model.save(folder / "pictures.keras")
    model.save(folder / "pictures.h5")
    model.export(folder / "pictures", verbose=False)
    model.save_weights(folder / "only.weights.h5")
    model = recurrent()
    answer(model, "recurrent")
    model.save(folder / "recurrent.keras")
    model.export(folder / "recurrent-open", verbose=False)
    one = [tf.TensorSpec([1, 6, 4], tf.float32, name="series")]
    model.export(folder / "recurrent-one", verbose=False, input_signature=one)
    model = two()
    answer(model, "two")
    model.save(folder / "two.keras")
    start = keras.Input((8,))
    keras.Model(start, Twice()(start)).save(folder / "custom.keras")
    keras.Model(start, Twice()(start)).save(folder / "custom.h5")
    keras.Model(start, Twice()(start)).export(folder / "custom", verbose=False)
    keras.Model(start, layers.Lambda(lambda t: t * 2)(start)).save(folder / "lambda.keras")
    start = keras.Input((None, None, 3), name="free")
    keras.Model(start, layers.Conv2D(2, 3)(start)).save(folder / "open.keras")
    keras.Sequential([layers.Dense(3)]).save(folder / "unbuilt.keras")
    start = keras.Input((5, 4), batch_size=1, name="x")
    model = keras.Model(start, layers.GRU(4, stateful=True, name="kept")(start))
    model.save(folder / "stateful.keras")
    model.export(
        folder / "stateful", verbose=False, input_signature=[tf.TensorSpec([1, 5, 4], tf.float32, name="x")]
    )
    frames = rng.uniform(-1, 1, (3, 1, 5, 4)).astype(np.float32)
    np.savez(folder / "stateful.npz", frames=frames, answers=np.stack([model(frame).numpy() for frame in frames]))
    start = keras.Input((8,), name="x")
    named = {name: layers.Dense(size)(start) for name, size in (("a b", 2), ("a-b", 3), ("a_b_1", 4))}
    keras.Model(start, named).save(folder / "names.keras")
    _functions(tf, folder)


def _functions(tf: Any, folder: Path) -> None:
    class Module(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])  # type: ignore[untyped-decorator]
        def double(self, x: Any) -> Any:
            return {"y": x * 2.0}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])  # type: ignore[untyped-decorator]
        def beta(self, x: Any) -> Any:
            return {"y": tf.raw_ops.Betainc(a=x, b=x, x=x)}

        @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32)])  # type: ignore[untyped-decorator]
        def letters(self, x: Any) -> Any:
            return {"ä": x * 2.0, "ö": x + 2.0}

    module = Module()
    tf.saved_model.save(module, folder / "no-signature")
    tf.saved_model.save(module, folder / "letters", signatures={"serving_default": module.letters})
    tf.saved_model.save(module, folder / "signatures", signatures={"double": module.double, "beta": module.beta})


if __name__ == "__main__":
    write(Path(sys.argv[1]))
