"""One Keras architecture with seeded random weights -> one .tflite; run by make_models inside .venv-keras."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SEED = 20260101
SIZE = 224


def representative(pictures: list[Path]) -> Iterator[list[Any]]:
    """Crops of real pictures, float32 [1, 224, 224, 3] between -1 and 1."""
    from PIL import Image

    rng = np.random.default_rng(SEED)
    for path in pictures:
        image = Image.open(path).convert("RGB")
        for _ in range(8):
            side = int(rng.integers(SIZE, min(image.size) + 1)) if min(image.size) > SIZE else min(image.size)
            left = int(rng.integers(0, image.width - side + 1))
            top = int(rng.integers(0, image.height - side + 1))
            crop = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE))
            yield [np.asarray(crop, np.float32)[None] / 127.5 - 1.0]


def main(architecture: str, kind: str, target: Path, pictures: list[Path]) -> None:
    """Convert; the file appears under its name only when it is whole."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.keras.utils.set_random_seed(SEED)
    # Logits, not a softmax: with random weights it would answer zeros and ones only, and hide what differs.
    options = {"weights": None, "classifier_activation": None, "input_shape": (SIZE, SIZE, 3)}
    model = getattr(tf.keras.applications, architecture)(**options)
    batch = np.concatenate([array for (array,) in representative(pictures)])
    _settle(model, tf, batch)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: representative(pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    content = converter.convert()
    temporary = target.with_suffix(".part")
    temporary.write_bytes(content)
    temporary.replace(target)


def _settle(model: Any, tf: Any, batch: Any) -> None:
    """Give each batch norm the statistics of real pictures, as training would, so activations stay in range."""
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0  # the statistics of one batch replace the initial ones
    model(batch, training=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
