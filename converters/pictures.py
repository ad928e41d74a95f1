"""Pictures as model inputs: turned upright, resized (bilinear) and normalised, each step stated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from slicemq.errors import InputError, MissingDependencyError, UsageError
from slicemq.messages import TensorSpec
from slicemq.specs import describe

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
NORMALIZATIONS = ("-1..1", "0..1", "none", "imagenet")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Means and standard deviations of ImageNet's RGB channels on the scale 0..1, as torchvision publishes them.
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])


def open_image(file: Path) -> Image:
    """Read the picture and turn it as its EXIF data say; raises InputError that names the file."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError(
            "pictures need the package pillow: pip install 'slicemq[coordinator]'"
        ) from error
    try:
        with Image.open(file) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: not a readable picture: {error}") from error


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


def image_to_input(picture: Image, spec: TensorSpec, normalize: str | None = None) -> tuple[npt.NDArray[Any], str]:
    """The picture as the tensor `spec` (NHWC, one frame), and one line that says what was done to it.

    Unknown height or width keep the picture's own. Float inputs are scaled as `normalize` says (default -1..1),
    uint8 inputs hold the pixels 0..255, int8 inputs the pixels minus 128. Raises InputError when the input is no
    picture, UsageError for a normalisation that does not fit.
    """
    shape = spec.shape
    if (
        len(shape) != 4
        or shape[0] not in (1, -1)
        or shape[3] not in _MODES
        or spec.dtype not in ("float32", "float16", "uint8", "int8")
    ):
        raise InputError(
            f"input {spec.name!r} is {describe(spec.dtype, shape)}; a picture fits float32, float16, uint8 or int8 "
            "[1, height, width, 1, 3 or 4], give an .npy file"
        )
    how = check_normalization(normalize, spec)
    from PIL import Image as Module

    mode = _MODES[shape[3]]
    was = f"{picture.width}x{picture.height} {picture.mode}"
    if picture.mode.startswith("I"):
        # 16 bits a pixel (grey PNG), of which `convert` would clip all above 255.
        picture = Module.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    height = picture.height if shape[1] == -1 else shape[1]
    width = picture.width if shape[2] == -1 else shape[2]
    resized = picture.convert(mode).resize((width, height), Module.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.uint8).reshape(1, height, width, shape[3])
    array, stated = _normalized(pixels, spec.dtype, how)
    return array, f"{was} resized to {width}x{height} {mode} (bilinear), {stated}"


def _normalized(pixels: npt.NDArray[np.uint8], dtype: str, how: str) -> tuple[npt.NDArray[Any], str]:
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
