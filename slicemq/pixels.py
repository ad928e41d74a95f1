"""What becomes of a picture's pixels before a model gets them. numpy only: decoding pictures is the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slicemq.errors import InputError, UsageError
from slicemq.messages import TensorSpec
from slicemq.specs import describe

NORMALIZATIONS = ("-1..1", "0..1", "none", "imagenet")
# Pillow's word for so many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Means and standard deviations of ImageNet's RGB channels on the scale 0..1, as torchvision publishes them.
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])


def check_is_picture(spec: TensorSpec) -> None:
    """Raise InputError unless a picture fits the input: NHWC, one frame, of 1, 3 or 4 channels."""
    shape = spec.shape
    if (
        len(shape) != 4
        or shape[0] not in (1, -1)
        or shape[3] not in MODES
        or spec.dtype not in ("float32", "float16", "uint8", "int8")
    ):
        raise InputError(
            f"input {spec.name!r} is {describe(spec.dtype, shape)}; a picture fits float32, float16, uint8 or int8 "
            "[1, height, width, 1, 3 or 4], give an .npy file"
        )


def check_normalization(normalize: str | None, spec: TensorSpec) -> str:
    """The normalisation to use for this input; UsageError when it does not exist or does not fit the dtype."""
    if normalize is not None and normalize not in NORMALIZATIONS:
        raise UsageError(f"--normalize: expected {', '.join(NORMALIZATIONS)}, got {normalize!r}")
    if spec.dtype in ("uint8", "int8"):
        if normalize not in (None, "none"):
            raise UsageError(
                f"--normalize {normalize} is for float inputs, {spec.name!r} is {spec.dtype}: expected none"
            )
        return "none"
    if normalize == "imagenet" and spec.shape[-1:] != (3,):
        raise UsageError(f"--normalize imagenet is for 3 channels, {spec.name!r} has shape {list(spec.shape)}")
    return normalize or "-1..1"


def normalized(pixels: npt.NDArray[np.uint8], dtype: str, how: str) -> tuple[npt.NDArray[Any], str]:
    """`pixels` (any shape) as values of `dtype`, and in words what was done.

    Floats are scaled as `how` (one of NORMALIZATIONS) says, uint8 holds the pixels, int8 the pixels minus 128.
    """
    if dtype == "uint8":
        return pixels, "pixels 0..255"
    if dtype == "int8":
        return (pixels.astype(np.int16) - 128).astype(np.int8), "pixels minus 128"
    values = pixels.astype(np.float64)
    if how == "0..1":
        values, stated = values / 255, "pixels scaled to 0..1"
    elif how == "-1..1":
        values, stated = values / 127.5 - 1, "pixels scaled to -1..1"
    elif how == "imagenet":
        values, stated = (values / 255 - _IMAGENET_MEAN) / _IMAGENET_STD, "ImageNet mean and deviation"
    else:
        stated = "pixels 0..255"
    return values.astype(dtype), stated
