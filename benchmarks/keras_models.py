"""One Keras architecture with seeded random weights -> one .keras file, and a calibration set for its quantisation.

    python -m benchmarks.keras_models ARCHITECTURE TARGET.keras CALIBRATION_FOLDER PICTURE...

make_models runs it in a child process, since it imports TensorFlow. Every weight is random from a fixed seed,
biases and the scales of normalisations too, so that no operator gets only zeros or ones. The batch norms then get
statistics of real pictures, as training would give them: values neither vanish nor explode on the way. The models
end in logits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import SCALES_PIXELS

SEED = 20260101
SIDES = {"InceptionV3": 299, "InceptionResNetV2": 299, "EfficientNetB1": 240}
TOKENS = 32
WORDS = 100
_CROPS = 8


def build(architecture: str, keras: Any) -> Any:
    """The model: `LSTM`, `Transformer`, or a class of keras.applications."""
    if architecture == "LSTM":
        return _lstm(keras)
    if architecture == "Transformer":
        return _transformer(keras)
    side = SIDES.get(architecture, 224)
    # Logits, not a softmax: with random weights it would answer zeros and ones only, and hide what differs.
    return getattr(keras.applications, architecture)(
        weights=None, classifier_activation=None, input_shape=(side, side, 3)
    )


def _lstm(keras: Any) -> Any:
    """Two LSTM layers over 24 steps of 16 features, between dense ones."""
    layers = keras.layers
    features = keras.Input(batch_shape=(1, 24, 16), name="features")
    x = layers.Dense(32, activation="swish")(features)
    x = layers.LSTM(48, return_sequences=True)(x)
    x = layers.LSTM(32)(x)
    x = layers.Dense(24, activation="tanh")(x)
    return keras.Model(features, layers.Dense(10)(x), name="lstm")


def _transformer(keras: Any) -> Any:
    """Three encoder blocks over 32 tokens: self-attention and a GELU network, each with residual and layer norm."""
    layers = keras.layers
    width = 64
    tokens = keras.Input(batch_shape=(1, TOKENS), dtype="int32", name="tokens")
    x = layers.Embedding(WORDS, width)(tokens)
    x = layers.Add()([x, layers.Embedding(TOKENS, width)(keras.ops.arange(TOKENS, dtype="int32")[None])])
    for _ in range(3):
        attended = layers.MultiHeadAttention(num_heads=4, key_dim=width // 4)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        hidden = layers.Dense(4 * width, activation="gelu")(x)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(width)(hidden)]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, layers.Dense(20)(x), name="transformer")


def samples(architecture: str, pictures: list[Path]) -> list[Any]:
    """What the model may be fed, each with a leading 1: crops of pictures, or random features or tokens."""
    rng = np.random.default_rng(SEED)
    if architecture == "LSTM":
        return [rng.standard_normal((1, 24, 16)).astype(np.float32) for _ in range(40)]
    if architecture == "Transformer":
        return [rng.integers(0, WORDS, (1, TOKENS)).astype(np.int32) for _ in range(40)]
    from PIL import Image

    crops = []
    wanted = SIDES.get(architecture, 224)
    for path in pictures:
        image = Image.open(path).convert("RGB")
        for _ in range(_CROPS):
            side = int(rng.integers(min(wanted, *image.size), min(image.size) + 1))
            left = int(rng.integers(0, image.width - side + 1))
            top = int(rng.integers(0, image.height - side + 1))
            crop = image.crop((left, top, left + side, top + side)).resize((wanted, wanted))
            pixels = np.asarray(crop, np.float32)[None]
            crops.append(pixels if architecture in SCALES_PIXELS else pixels / 127.5 - 1.0)
    return crops


def randomise(model: Any) -> None:
    """Give the weights that start as zeros or ones values of their own; the others are random already."""
    rng = np.random.default_rng(SEED)
    for weight in model.trainable_variables:
        if weight.name in ("bias", "beta"):
            weight.assign(weight.numpy() + rng.normal(0.0, 0.05, weight.shape))
        elif weight.name == "gamma":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))


def settle(model: Any, keras: Any, inputs: list[Any]) -> None:
    """Give each batch norm the statistics of real inputs, as training would, so activations stay in range."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0  # the statistics of one batch replace the initial ones
    if norms:
        model(np.concatenate(inputs), training=True)


def main(architecture: str, target: Path, calibration: Path, pictures: list[Path]) -> None:
    """Write the model and its calibration set (.npy files of one sample each, as the model's input is shaped)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    keras = tensorflow.keras
    keras.utils.set_random_seed(SEED)
    model = build(architecture, keras)
    inputs = samples(architecture, pictures)
    randomise(model)
    # Every fourth sample has all pictures in it and keeps the memory of deep models small.
    settle(model, keras, inputs[::4])
    calibration.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(inputs):
        np.save(calibration / f"{number:03}.npy", array)
    model.save(target)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), [Path(name) for name in sys.argv[4:]])
